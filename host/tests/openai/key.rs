//! Where the API key goes, and what is said of it.

use super::*;

#[tokio::test]
async fn what_a_401_advises_depends_on_where_the_key_is() {
    let server = Server::start(|_: &Recorded| Action::error(401, "x", "who are you?")).unwrap();
    let named = settings(&server.base_url());
    let unnamed = OpenAi {
        api_key_env: None,
        ..named.clone()
    };
    let message = async |settings: &OpenAi, key| {
        let attempt = provider(settings, key).attempt(&hello()).await;
        attempt.outcome.unwrap_err().message
    };
    let words = "`models.teacher.api_key_env` names TEACHER_KEY, which is not set: set it to a \
                 key of this server";
    assert!(message(&named, None).await.ends_with(words));
    assert!(message(&named, Some(" ")).await.ends_with(words));
    let words = "no key was sent, as `models.teacher.api_key_env` is not written: name there the \
                 environment variable that holds one";
    assert!(message(&unnamed, None).await.ends_with(words));
}

/// A writer that keeps what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_key_goes_to_the_server_and_nowhere_else() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let echo = format!("Incorrect API key provided: {KEY}.");
    let location = format!("http://x/?key={KEY}");
    let actions = [
        Action::error(401, "invalid_api_key", &echo),
        Action::status(500, echo.clone()),
        Action::status(200, echo.clone()),
        Action::Json(json!({"error": {"message": echo}})),
        Action::reply(echo.clone()),
        Action::status(302, "").header("location", &location),
        Action::Drop,
    ];
    for action in actions {
        let server = Server::start(move |_: &Recorded| action.clone()).unwrap();
        let provider = provider(&settings(&server.base_url()), Some(KEY));
        let attempt = provider.attempt(&hello()).await;
        let probed = provider.probe().await;
        let authorization = server.requests()[0].header("authorization").map(str::len);
        assert_eq!(authorization, Some("Bearer ".len() + KEY.len()));
        let seen = [
            format!("{attempt:?} {provider:?} {probed:?}"),
            provider.identity(),
            String::from_utf8_lossy(&attempt.body).into_owned(),
            match attempt.outcome {
                Ok(reply) => reply.text,
                Err(failure) => failure.to_string(),
            },
        ];
        for text in seen {
            assert!(!text.contains(KEY), "{text}");
        }
    }
    let log = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(!log.is_empty(), "the client logs what it does");
    assert!(!log.contains(KEY));
}

/// Servers without keys are given words for keys.
#[tokio::test]
async fn a_reply_may_say_what_is_only_a_word_for_a_key() {
    let script = |_: &Recorded| Action::reply("An ollama is no alpaca.");
    let server = Server::start(script).unwrap();
    let provider = provider(&settings(&server.base_url()), Some("ollama"));
    let reply = provider.attempt(&hello()).await.outcome.unwrap();
    assert_eq!(reply.text, "An ollama is no alpaca.");
}
