//! The provider for OpenAI-compatible servers against a server that misbehaves on cue.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::{Arc, Mutex},
    time::Duration,
};

use pacos::{
    manifest::{Endpoint, Field, Model, OpenAi, Provider as ManifestProvider},
    models::{Attempt, Failure, FailureKind, OpenAiProvider, Provider},
};
use pacos_plugin::{FinishReason, Format, Message, Request, TokenBias};
use scripted_server::{Action, Recorded, Reply, Server, failing_first};
use serde_json::json;

const KEY: &str = "sk-live-0123456789abcdefghijklmnop";

fn settings(base_url: &str) -> OpenAi {
    OpenAi {
        model: "m-1".into(),
        base_url: base_url.into(),
        api_key_env: Some("TEACHER_KEY".into()),
        endpoint: Endpoint::Chat,
        timeout: Duration::from_secs(20),
        max_attempts: 1,
        requests_per_minute: None,
        tokens_per_minute: None,
        unsupported: Vec::new(),
        extra_body: serde_json::Map::new(),
    }
}

fn provider(settings: &OpenAi, key: Option<&str>) -> OpenAiProvider {
    let model = Model {
        name: "teacher".into(),
        provider: ManifestProvider::OpenAi(settings.clone()),
        price: None,
        max_concurrency: 4,
        context_length: None,
        terms: None,
    };
    OpenAiProvider::new(&model, settings, key.map(str::to_owned)).unwrap()
}

fn hello() -> Request {
    Request::chat(vec![Message::user("Hello")])
}

/// One attempt at a server that does this, with a key.
async fn meet(action: Action) -> (Attempt, Server) {
    let server = Server::start(move |_: &Recorded| action.clone()).unwrap();
    let provider = provider(&settings(&server.base_url()), Some(KEY));
    let attempt = provider.attempt(&hello()).await;
    (attempt, server)
}

async fn failure_of(action: Action) -> (Failure, String) {
    let (attempt, server) = meet(action).await;
    (attempt.outcome.unwrap_err(), server.base_url())
}

fn passing(failure: &Failure) -> bool {
    matches!(failure.kind, FailureKind::Passing { .. })
}

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
async fn bodies_are_kept_as_they_came() {
    let odd = "\u{feff}{ \"choices\" : [ {\"text\":\"Hi.\", \"x\": 1e2} ],\n \"extra\":[]}  ";
    let (attempt, server) = meet(Action::status(200, odd)).await;
    assert_eq!(attempt.status, Some(200));
    assert_eq!(attempt.body, odd.as_bytes());
    let reply = attempt.outcome.unwrap();
    assert_eq!(reply.text, "Hi.");
    assert_eq!(reply.finish_reason, FinishReason::Other);
    assert_eq!(reply.usage, None);

    let provider = provider(&settings(&server.base_url()), None);
    assert_eq!(provider.read(&hello(), &attempt.body), Ok(reply));

    let error = r#"{"error": {"message":"no"},   "z":0}"#;
    let (attempt, _) = meet(Action::status(400, error)).await;
    assert_eq!(attempt.status, Some(400));
    assert_eq!(attempt.body, error.as_bytes());
}

#[tokio::test]
async fn a_connection_cut_inside_the_body_passes_and_keeps_what_came() {
    let reply = Reply::new("A long reply, as replies go.");
    let action = Action::CutAfter {
        bytes: 60,
        reply: reply.clone(),
    };
    let (attempt, server) = meet(action).await;
    let whole = reply.body(&server.requests()[0]).to_string();
    assert_eq!(attempt.status, Some(200));
    assert_eq!(attempt.body, &whole.as_bytes()[..60]);
    let failure = attempt.outcome.unwrap_err();
    assert_eq!(failure.code, "cut-body");
    assert!(passing(&failure));
    let start = format!(
        "{} closed the connection inside the reply, after 60 bytes (",
        server.base_url()
    );
    assert!(failure.message.starts_with(&start), "{failure}");
    let provider = provider(&settings(&server.base_url()), None);
    let again = provider.read(&hello(), &attempt.body).unwrap_err();
    assert_eq!(again.code, "cut-body");
}

/// It was paid for.
#[tokio::test]
async fn a_reply_that_is_whole_counts_however_the_connection_ended() {
    let body = r#"{"choices":[{"text":"Hi."}]}"#;
    for head in ["content-length: 999\r\n", "transfer-encoding: odd\r\n", ""] {
        let raw = format!("HTTP/1.1 200 OK\r\n{head}\r\n{body}");
        let (attempt, _) = meet(Action::Raw(raw.into_bytes())).await;
        assert_eq!(attempt.body, body.as_bytes());
        assert_eq!(attempt.outcome.unwrap().text, "Hi.");
    }
}

#[tokio::test]
async fn what_is_not_a_reply_passes() {
    let raw = |text: &str| Action::Raw(text.as_bytes().to_vec());
    let cases = [
        (
            Action::NotJson,
            "not-json",
            "answered 200 with something that is not JSON: \"<html>",
        ),
        (
            Action::status(200, ""),
            "not-json",
            "answered 200 with an empty body",
        ),
        (
            Action::Json(json!({"id": "x", "choices": []})),
            "no-choices",
            "answered 200 with JSON that holds no reply: ",
        ),
        (
            Action::Drop,
            "no-answer",
            "closed the connection without an answer (",
        ),
        (
            raw("SSH-2.0-OpenSSH\r\n"),
            "no-answer",
            "closed the connection without an answer (",
        ),
        (
            raw("HTTP/1.1 200 OK\r\n\r\n{\"choices\":[{\"te"),
            "cut-body",
            "ends in the middle, after 16 bytes",
        ),
        (
            raw("HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n"),
            "cut-body",
            "closed the connection inside the reply, after 0 bytes",
        ),
    ];
    for (action, code, words) in cases {
        let (failure, base_url) = failure_of(action).await;
        assert_eq!(failure.code, code, "{failure}");
        assert!(passing(&failure));
        assert!(failure.message.contains(&base_url), "{failure}");
        assert!(failure.message.contains(words), "{failure}");
    }
}

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

/// Meets each action once: the code, the kind, and a part of the message.
async fn told_apart(kind: FailureKind, cases: &[(Action, &str, &str)]) {
    for (action, code, words) in cases {
        let (attempt, server) = meet(action.clone()).await;
        let failure = attempt.outcome.unwrap_err();
        assert_eq!(failure.code, *code, "{failure}");
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(failure.message.contains(words), "{failure}");
        let names = [&server.base_url(), "teacher"];
        let named = names.iter().any(|name| failure.message.contains(*name));
        assert!(named, "{failure}");
        assert_eq!(server.count(), 1, "an attempt is one request");
    }
}

#[tokio::test]
async fn some_statuses_stop_everything() {
    let cases = [
        (
            Action::error(401, "invalid_api_key", "bad key"),
            "unauthorized",
            "does not let model `teacher` in (401): \"bad key\"; the key came from TEACHER_KEY, \
             which is set: check that it is a key of this server",
        ),
        (
            Action::error(403, "x", "not your region"),
            "unauthorized",
            "(403): \"not your region\"",
        ),
        (
            Action::error(402, "x", "Insufficient Balance"),
            "insufficient-quota",
            "has no credit left (402)",
        ),
        (
            Action::error(429, "insufficient_quota", "You exceeded your quota"),
            "insufficient-quota",
            "has no credit left (429): \"You exceeded your quota\"; add credit there",
        ),
        (
            Action::error(404, "model_not_found", "The model `m-1` does not exist"),
            "unknown-model",
            "has no model \"m-1\" (404): \"The model `m-1` does not exist\"; write a name that it \
             lists as `models.teacher.model`",
        ),
        (
            Action::error(404, "", "model 'm-1' not found, try pulling it first"),
            "unknown-model",
            "try pulling it first",
        ),
        (
            Action::status(404, r#"{"detail":"Not Found"}"#),
            "unknown-path",
            "has nothing at /chat/completions (404): \"Not Found\"; check \
             `models.teacher.base_url`, which for most servers ends in /v1",
        ),
        (
            Action::status(404, "404 page not found"),
            "unknown-path",
            "\"404 page not found\"",
        ),
        (
            Action::status(405, ""),
            "unknown-path",
            "(405): it gives no reason;",
        ),
        (
            Action::error(
                400,
                "unsupported_parameter",
                "Unsupported parameter: 'max_tokens' is not supported with this model.",
            ),
            "unsupported-parameter",
            "add the field to `models.teacher.unsupported`",
        ),
    ];
    told_apart(FailureKind::Fatal, &cases).await;
}

#[tokio::test]
async fn some_statuses_refuse_one_request() {
    let window = "This model's maximum context length is 4097 tokens. Please reduce your prompt.";
    let cases = [
        (
            Action::error(400, "context_length_exceeded", window),
            "context-length",
            window,
        ),
        (
            Action::error(
                400,
                "exceed_context_size_error",
                "the request is larger than can be held",
            ),
            "context-length",
            "maximum context length of model `teacher` (400): \"the request is larger",
        ),
        (
            Action::status(413, "too big"),
            "bad-request",
            "refused the request (413): \"too big\"",
        ),
        (
            Action::status(422, r#"{"detail":[{"loc":["n"],"msg":"n must be 1"}]}"#),
            "bad-request",
            "n must be 1",
        ),
        (
            Action::error(400, "content_filter", "it breaks our policy"),
            "content-filter",
            "refused the prompt for what it says (400)",
        ),
    ];
    told_apart(FailureKind::Refused, &cases).await;
}

#[tokio::test]
async fn some_statuses_pass() {
    let cases = [
        (
            Action::error(429, "rate_limit_exceeded", "slow down"),
            "rate-limited",
            "asks for fewer requests (429): \"slow down\"",
        ),
        (
            Action::error(408, "x", "late"),
            "server-error",
            "could not answer (408): \"late\"",
        ),
        (Action::error(409, "x", "busy"), "server-error", "(409)"),
        (Action::error(425, "x", "early"), "server-error", "(425)"),
        (
            Action::error(500, "x", "oops"),
            "server-error",
            "(500): \"oops\"",
        ),
        (
            Action::status(502, "<html>Bad\n  gateway</html>"),
            "server-error",
            "(502): \"<html>Bad gateway</html>\"",
        ),
        (
            Action::status(529, ""),
            "server-error",
            "(529): it gives no reason",
        ),
    ];
    told_apart(FailureKind::Passing { after: None }, &cases).await;
}

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

#[tokio::test]
async fn the_server_says_when_to_come_back() {
    let limited = |name: &str, value: &str| Action::error(429, "x", "slow").header(name, value);
    let dated =
        |now: &str| limited("retry-after", "Wed, 21 Oct 2026 07:28:30 GMT").header("date", now);
    let cases = [
        (limited("Retry-After", "7"), Some(7000)),
        (limited("retry-after", "1.5"), Some(1500)),
        (
            limited("retry-after", "9").header("retry-after-ms", "250"),
            Some(250),
        ),
        (dated("Wed, 21 Oct 2026 07:28:00 GMT"), Some(30_000)),
        (dated("Wed, 21 Oct 2026 07:30:00 GMT"), Some(0)),
        (limited("retry-after", "-4"), Some(0)),
        (limited("retry-after", "soon"), None),
        (
            Action::error(503, "x", "full").header("Retry-After", "3"),
            Some(3000),
        ),
    ];
    for (action, milliseconds) in cases {
        let (failure, _) = failure_of(action.clone()).await;
        let after = milliseconds.map(Duration::from_millis);
        assert_eq!(failure.kind, FailureKind::Passing { after }, "{action:?}");
    }
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
