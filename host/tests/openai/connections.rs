//! Connections that fail, wait or lead elsewhere.

use super::*;

#[tokio::test]
async fn silence_and_half_replies_time_out() {
    let silence = Duration::from_secs(30);
    let stall = Action::StallAfter {
        bytes: 40,
        reply: Reply::new("A long reply."),
        silence,
    };
    for (action, came, words) in [
        (
            Action::Hang(silence),
            0,
            "did not finish within 300ms (nothing came); long replies need a longer \
             `models.teacher.timeout`",
        ),
        (
            stall,
            40,
            "did not finish within 300ms (40 bytes of the reply came)",
        ),
    ] {
        let server = Server::start(move |_: &Recorded| action.clone()).unwrap();
        let mut settings = settings(&server.base_url());
        settings.timeout = Duration::from_millis(300);
        let attempt = provider(&settings, None).attempt(&hello()).await;
        assert_eq!(attempt.body.len(), came);
        let failure = attempt.outcome.unwrap_err();
        assert_eq!(failure.code, "timed-out", "{failure}");
        assert!(passing(&failure));
        assert!(failure.message.contains(words), "{failure}");
    }
}

#[tokio::test]
async fn nobody_at_the_address_passes_and_says_to_start_the_server() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    let provider = provider(&settings(&base_url), Some(KEY));
    let attempt = provider.attempt(&hello()).await;
    assert_eq!(attempt.status, None);
    let failure = attempt.outcome.unwrap_err();
    assert_eq!(failure.code, "unreachable");
    assert!(passing(&failure));
    let start = format!("nobody answers at {base_url} (");
    assert!(failure.message.starts_with(&start), "{failure}");
    assert!(failure.message.contains("Connection refused"), "{failure}");
    let end = "); start the server, or correct `models.teacher.base_url`";
    assert!(failure.message.ends_with(end), "{failure}");
}

#[tokio::test]
async fn a_server_without_encryption_is_told_from_one_that_is_away() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 512]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let _ = stream.read(&mut [0; 512]);
    });
    let provider = provider(&settings(&format!("https://{address}/v1")), Some(KEY));
    let failure = provider.attempt(&hello()).await.outcome.unwrap_err();
    assert_eq!(failure.code, "tls", "{failure}");
    assert_eq!(failure.kind, FailureKind::Fatal);
    let advice = "write http:// in `models.teacher.base_url`";
    assert!(failure.message.contains(advice), "{failure}");
}

#[tokio::test]
async fn redirects_lead_to_no_other_server() {
    let elsewhere = Server::start(|_: &Recorded| Action::reply("Mine now.")).unwrap();
    let location = format!("{}/chat/completions", elsewhere.base_url());
    let away = Action::status(307, "").header("location", &location);
    let (failure, base_url) = failure_of(away).await;
    assert_eq!(failure.code, "redirected");
    assert_eq!(failure.kind, FailureKind::Fatal);
    let start = format!("{base_url} answered 307: look at {location}.");
    assert!(failure.message.starts_with(&start), "{failure}");
    assert_eq!(elsewhere.count(), 0);

    let script = |request: &Recorded| match request.path.as_str() {
        "/v1/chat/completions" => {
            Action::status(308, "").header("location", "/v2/chat/completions")
        }
        _ => Action::reply("Moved."),
    };
    let server = Server::start(script).unwrap();
    let provider = provider(&settings(&server.base_url()), Some(KEY));
    let attempt = provider.attempt(&hello()).await;
    assert_eq!(attempt.outcome.unwrap().text, "Moved.");
    let [first, second] = server.requests().try_into().unwrap();
    assert_eq!(first.raw, second.raw);
}

#[tokio::test]
async fn a_probe_spends_nothing_and_finds_what_a_run_would_meet() {
    let probe = async |action: Action| {
        let server = Server::start(move |_: &Recorded| action.clone()).unwrap();
        let provider = provider(&settings(&server.base_url()), Some(KEY));
        let found = provider.probe().await;
        let [asked] = server.requests().try_into().unwrap();
        assert_eq!(asked.method, "GET");
        assert_eq!(asked.path, "/v1/models");
        let bearer = format!("Bearer {KEY}");
        assert_eq!(asked.header("authorization"), Some(bearer.as_str()));
        found.err().map(|failure| failure.code)
    };
    let list = |names: &[&str]| Action::Models(names.iter().map(|n| n.to_string()).collect());
    let code = |code: &str| Some(code.to_owned());
    assert_eq!(probe(list(&["m-0", "m-1"])).await, None);
    assert_eq!(probe(list(&["m-0"])).await, code("unknown-model"));
    assert_eq!(probe(Action::status(404, "")).await, None);
    let unauthorized = Action::error(401, "x", "no");
    assert_eq!(probe(unauthorized).await, code("unauthorized"));
    let broken = Action::error(500, "x", "no");
    assert_eq!(probe(broken).await, code("server-error"));
    assert_eq!(probe(Action::NotJson).await, code("not-json"));
    assert_eq!(probe(Action::Drop).await, code("no-answer"));
}
