//! What goes over the wire.

use super::*;

#[tokio::test]
async fn a_chat_request_goes_over_the_wire_as_written() {
    let server = Server::start(|_: &Recorded| Action::reply("Hi.")).unwrap();
    let mut settings = settings(&server.base_url());
    settings.unsupported = vec![Field::MaxTokens];
    settings.extra_body = serde_json::from_str(r#"{"reasoning_effort":"low"}"#).unwrap();
    let mut request = Request::chat(vec![Message::system("Be brief."), Message::user("Hello")]);
    request.temperature = Some(0.7);
    request.max_tokens = Some(256);
    request.seed = Some(u64::MAX);
    request.logprobs = Some(5);
    request.format = Some(Format::JsonSchema(
        r#"{"title":"a task","type":"object"}"#.into(),
    ));
    let attempt = provider(&settings, Some(KEY)).attempt(&request).await;
    assert_eq!(attempt.outcome.unwrap().text, "Hi.");
    let [sent] = server.requests().try_into().unwrap();
    assert_eq!(sent.method, "POST");
    assert_eq!(sent.path, "/v1/chat/completions");
    let bearer = format!("Bearer {KEY}");
    assert_eq!(sent.header("authorization"), Some(bearer.as_str()));
    assert_eq!(sent.header("content-type"), Some("application/json"));
    assert_eq!(
        String::from_utf8(sent.raw).unwrap(),
        concat!(
            r#"{"model":"m-1","messages":[{"role":"system","content":"Be brief."},"#,
            r#"{"role":"user","content":"Hello"}],"temperature":0.7,"max_completion_tokens":256,"#,
            r#""seed":18446744073709551615,"logprobs":true,"top_logprobs":5,"#,
            r#""response_format":{"type":"json_schema","json_schema":{"name":"a_task","#,
            r#""strict":true,"schema":{"title":"a task","type":"object"}}},"#,
            r#""reasoning_effort":"low"}"#
        )
    );
}

/// The parameters that Stanford's script sent to text-davinci-003.
#[tokio::test]
async fn a_request_of_the_2023_recipe_goes_over_the_wire_as_written() {
    let server = Server::start(|_: &Recorded| Action::reply(" Name a fruit.\n")).unwrap();
    let mut settings = settings(&server.base_url());
    settings.endpoint = Endpoint::Completions;
    settings.api_key_env = None;
    let mut request = Request::completion("...\n###\n4. Instruction:");
    request.temperature = Some(1.0);
    request.top_p = Some(1.0);
    request.max_tokens = Some(3072);
    request.stop = vec!["\n20".into(), "20.".into(), "20.".into()];
    request.logit_bias = vec![TokenBias {
        token: 50256,
        bias: -100.0,
    }];
    let attempt = provider(&settings, None).attempt(&request).await;
    let reply = attempt.outcome.unwrap();
    assert_eq!(reply.text, " Name a fruit.\n");
    assert_eq!(reply.finish_reason, FinishReason::Stop);
    assert_eq!(reply.usage.unwrap().prompt_tokens, 6);
    let [sent] = server.requests().try_into().unwrap();
    assert_eq!(sent.path, "/v1/completions");
    assert_eq!(sent.header("authorization"), None);
    assert_eq!(
        String::from_utf8(sent.raw).unwrap(),
        concat!(
            r#"{"model":"m-1","prompt":"...\n###\n4. Instruction:","temperature":1.0,"#,
            r#""top_p":1.0,"max_tokens":3072,"stop":["\n20","20.","20."],"#,
            r#""logit_bias":{"50256":-100}}"#
        )
    );
}

#[tokio::test]
async fn fields_that_a_model_refuses_are_left_out() {
    let server = Server::start(|_: &Recorded| Action::reply("Hi.")).unwrap();
    let mut settings = settings(&server.base_url());
    settings.unsupported = vec![
        Field::Temperature,
        Field::TopP,
        Field::Stop,
        Field::LogitBias,
        Field::Seed,
        Field::Logprobs,
    ];
    let mut request = hello();
    request.temperature = Some(1.0);
    request.top_p = Some(0.9);
    request.stop = vec!["x".into()];
    request.logit_bias = vec![TokenBias {
        token: 1,
        bias: 0.5,
    }];
    request.seed = Some(1);
    request.logprobs = Some(1);
    let attempt = provider(&settings, None).attempt(&request).await;
    attempt.outcome.unwrap();
    assert_eq!(
        server.requests()[0].body,
        json!({"model": "m-1", "messages": [{"role": "user", "content": "Hello"}]})
    );
}

#[tokio::test]
async fn what_the_endpoint_cannot_carry_is_refused_unsent() {
    let server = Server::start(|_: &Recorded| Action::reply("Hi.")).unwrap();
    let chat = settings(&server.base_url());
    let completions = OpenAi {
        endpoint: Endpoint::Completions,
        ..chat.clone()
    };
    let no_schema = OpenAi {
        unsupported: vec![Field::JsonSchema],
        ..chat.clone()
    };
    let format = |format| Request {
        format: Some(format),
        ..hello()
    };
    let hot = Request {
        temperature: Some(f64::NAN),
        ..hello()
    };
    let cases = [
        (
            &chat,
            Request::completion("x"),
            "model `teacher` was asked with raw text to be continued, which /chat/completions \
             does not take; write `endpoint = \"completions\"` in [models.teacher]",
        ),
        (
            &completions,
            hello(),
            "model `teacher` was asked with a conversation, which /completions does not take; \
             write `endpoint = \"chat\"` in [models.teacher]",
        ),
        (
            &chat,
            format(Format::Grammar("start: x".into())),
            "model `teacher` cannot keep to a grammar",
        ),
        (
            &no_schema,
            format(Format::JsonSchema("{}".into())),
            "model `teacher` cannot keep to a JSON Schema: `models.teacher.unsupported` says so",
        ),
        (
            &chat,
            format(Format::JsonSchema("{".into())),
            "the JSON Schema for a reply of model `teacher` is not JSON",
        ),
        (
            &chat,
            hot,
            "`temperature` of a request to model `teacher` is NaN",
        ),
    ];
    for (settings, request, start) in cases {
        let attempt = provider(settings, None).attempt(&request).await;
        assert_eq!((attempt.status, attempt.body.len()), (None, 0));
        let failure = attempt.outcome.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Refused, "{failure}");
        assert!(failure.message.starts_with(start), "{failure}");
    }
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn an_attempt_is_one_request_and_the_next_one_may_succeed() {
    let answer = |_: &Recorded| Action::reply("Hi.");
    let script = failing_first(2, Action::error(500, "x", "oops"), answer);
    let server = Server::start(script).unwrap();
    let provider = provider(&settings(&server.base_url()), None);
    for expected in [false, false, true] {
        let attempt = provider.attempt(&hello()).await;
        assert_eq!(attempt.outcome.is_ok(), expected);
    }
    assert_eq!((server.count(), server.count_of_distinct()), (3, 1));
}

#[tokio::test]
async fn many_attempts_share_a_provider() {
    let delay = Duration::from_millis(20);
    let script = move |request: &Recorded| Action::reply(request.prompt()).after(delay);
    let server = Server::start(script).unwrap();
    let provider = provider(&settings(&server.base_url()), None);
    let requests: Vec<Request> = (0..64)
        .map(|n| Request::chat(vec![Message::user(n.to_string())]))
        .collect();
    let attempts = requests.iter().map(|request| provider.attempt(request));
    let attempts = futures::future::join_all(attempts).await;
    for (n, attempt) in attempts.into_iter().enumerate() {
        assert_eq!(attempt.outcome.unwrap().text, n.to_string());
    }
}
