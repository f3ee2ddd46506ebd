//! `pacos serve` and `pacos chat`, as programs.

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pacos::manifest::{self, Endpoint, OpenAi};
use pacos::models::{OpenAiProvider, Provider};
use pacos_plugin::{Format, Message, Request};
use reqwest::StatusCode;
use serde_json::{Value, json};
use support::{fails, pacos, student, succeeds};

/// A server of the tiny student, on a port of its own choosing.
struct Serving {
    child: Child,
    base_url: String,
    http: reqwest::Client,
    _folder: tempfile::TempDir,
}

impl Serving {
    fn start(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        student::write(folder.path());
        let mut child = pacos()
            .args(["serve", "--port", "0", "--name", "tiny", "--threads", "1"])
            .args(options)
            .arg(folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let mut line = String::new();
        let out = child.stdout.take().expect("standard output is piped");
        BufReader::new(out)
            .read_line(&mut line)
            .expect("the server says where it is");
        let address = line.strip_prefix("tiny at ").expect("its name and address");
        let base_url = address.split(' ').next().expect("an address").to_owned();
        assert!(base_url.starts_with("http://127.0.0.1:"), "{line}");
        Serving {
            child,
            base_url,
            http: reqwest::Client::builder()
                .no_proxy()
                .build()
                .expect("a client"),
            _folder: folder,
        }
    }

    fn post(&self, path: &str, body: &Value) -> reqwest::RequestBuilder {
        let address = format!("{}{path}", self.base_url);
        let request = self.http.post(address);
        request
            .header("content-type", "application/json")
            .body(body.to_string())
    }

    async fn ask(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let response = self.post(path, body).send().await.expect("an answer");
        let status = response.status();
        let text = response.text().await.expect("a whole body");
        (status, serde_json::from_str(&text).expect("JSON"))
    }

    fn provider(&self, model: &str, endpoint: Endpoint) -> OpenAiProvider {
        let settings = OpenAi {
            model: model.into(),
            base_url: self.base_url.clone(),
            api_key_env: None,
            endpoint,
            timeout: Duration::from_secs(60),
            max_attempts: 1,
            requests_per_minute: None,
            tokens_per_minute: None,
            unsupported: Vec::new(),
            extra_body: serde_json::Map::new(),
        };
        let model = manifest::Model {
            name: "served".into(),
            provider: manifest::Provider::OpenAi(settings.clone()),
            price: None,
            max_concurrency: 4,
            context_length: None,
            terms: None,
        };
        OpenAiProvider::new(&model, &settings, None).expect("the settings are sound")
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn chat(seed: u64, more: Value) -> Value {
    let mut body = json!({"model": "tiny", "seed": seed, "max_tokens": 20,
        "messages": [{"role": "user", "content": format!("hello {seed}")}]});
    let all = body.as_object_mut().expect("an object");
    all.extend(more.as_object().expect("an object").clone());
    body
}

/// The objects of a streamed answer; the last event must be `[DONE]`.
fn events(body: &str) -> Vec<Value> {
    let mut events: Vec<&str> = body
        .split("\n\n")
        .filter(|event| !event.is_empty())
        .map(|event| event.strip_prefix("data: ").expect("a data event"))
        .collect();
    assert_eq!(events.pop(), Some("[DONE]"));
    let parsed = events.into_iter().map(serde_json::from_str);
    parsed.collect::<Result<_, _>>().expect("JSON")
}

#[tokio::test]
async fn our_own_provider_is_answered_at_both_endpoints() {
    let serving = Serving::start(&[]);
    let ask = serving.provider("tiny", Endpoint::Chat);
    ask.probe().await.expect("the model is listed");
    let request = Request {
        max_tokens: Some(24),
        seed: Some(3),
        logprobs: Some(2),
        ..Request::chat(vec![Message::user("Hello")])
    };
    let reply = ask.attempt(&request).await.outcome.expect("a reply");
    let usage = reply.usage.expect("tokens are counted");
    assert_eq!(reply.logprobs.len() as u64, usage.completion_tokens);
    assert!(
        reply
            .logprobs
            .iter()
            .all(|entry| entry.top.len() == 2 && entry.logprob < 0.0)
    );
    let again = ask.attempt(&request).await.outcome.expect("a reply");
    assert_eq!(again.text, reply.text);

    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}},
        "required": ["n"], "additionalProperties": false});
    let request = Request {
        max_tokens: Some(200),
        format: Some(Format::JsonSchema(schema.to_string())),
        ..Request::chat(vec![Message::user("Hello")])
    };
    let reply = ask.attempt(&request).await.outcome.expect("a reply");
    let value: Value = serde_json::from_str(&reply.text).expect("constrained to JSON");
    assert!(value["n"].is_number(), "{value}");

    let complete = serving.provider("tiny", Endpoint::Completions);
    let request = Request {
        max_tokens: Some(5),
        ..Request::completion("once upon")
    };
    let reply = complete.attempt(&request).await.outcome.expect("a reply");
    assert!(reply.usage.expect("counted").completion_tokens <= 5);

    let failure = serving
        .provider("huge", Endpoint::Chat)
        .probe()
        .await
        .unwrap_err();
    assert!(failure.message.contains("tiny"), "{failure}");
}

#[tokio::test]
async fn a_streamed_answer_is_the_whole_one_in_parts() {
    let serving = Serving::start(&[]);
    let (status, whole) = serving.ask("/chat/completions", &chat(5, json!({}))).await;
    assert_eq!(status, StatusCode::OK, "{whole}");
    assert_eq!(whole["object"], "chat.completion");
    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let response = serving
        .post("/chat/completions", &chat(5, options))
        .send()
        .await
        .unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let events = events(&response.text().await.unwrap());
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, whole["choices"][0]["message"]["content"]);
    let [.., end, usage] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!(
        end["choices"][0]["finish_reason"],
        whole["choices"][0]["finish_reason"]
    );
    assert_eq!(
        usage["usage"]["completion_tokens"],
        whole["usage"]["completion_tokens"]
    );
    assert!(
        events.len() > 6,
        "one event a token, not one for all: {events:?}"
    );

    let prompt = json!({"prompt": "once", "stream": true, "seed": 1, "max_tokens": 6});
    let body = serving.post("/completions", &prompt).send().await.unwrap();
    let streamed = self::events(&body.text().await.unwrap());
    let text: String = streamed
        .iter()
        .filter_map(|event| event["choices"][0]["text"].as_str())
        .collect();
    let (_, whole) = serving
        .ask(
            "/completions",
            &json!({"prompt": "once", "seed": 1, "max_tokens": 6}),
        )
        .await;
    assert_eq!(text, whole["choices"][0]["text"]);
}

#[tokio::test]
async fn requests_at_once_are_answered_as_alone() {
    let serving = Serving::start(&[]);
    let bodies: Vec<Value> = (0..8).map(|seed| chat(seed, json!({}))).collect();
    let asked = bodies
        .iter()
        .map(|body| serving.ask("/chat/completions", body));
    let together = futures::future::join_all(asked).await;
    for (body, (status, together)) in bodies.iter().zip(together) {
        assert_eq!(status, StatusCode::OK, "{together}");
        let (_, alone) = serving.ask("/chat/completions", body).await;
        assert_eq!(alone["choices"], together["choices"]);
    }
}

#[tokio::test]
async fn log_probabilities_of_a_streamed_answer_are_those_of_the_whole_one() {
    let serving = Serving::start(&[]);
    for (path, asked) in [
        (
            "/chat/completions",
            chat(3, json!({"logprobs": true, "top_logprobs": 2})),
        ),
        (
            "/completions",
            json!({"prompt": "once", "seed": 3, "max_tokens": 9, "logprobs": 2}),
        ),
    ] {
        let (status, whole) = serving.ask(path, &asked).await;
        assert_eq!(status, StatusCode::OK, "{whole}");
        let expected = &whole["choices"][0]["logprobs"];
        assert!(expected.is_object(), "{whole}");
        let mut streamed = asked.clone();
        streamed["stream"] = true.into();
        let response = serving.post(path, &streamed).send().await.unwrap();
        let events = events(&response.text().await.unwrap());
        let told: Vec<&Value> = events
            .iter()
            .map(|event| &event["choices"][0]["logprobs"])
            .filter(|logprobs| !logprobs.is_null())
            .collect();
        assert_eq!(told, [expected]);
    }
}

#[tokio::test]
async fn every_sampler_can_be_reached() {
    let serving = Serving::start(&[]);
    let text = |answer: &Value| {
        let text = answer["choices"][0]["message"]["content"].as_str();
        text.expect("a text").to_owned()
    };
    let ask = async |more: Value| {
        let (status, answer) = serving.ask("/chat/completions", &chat(2, more)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    };
    let greedy = ask(json!({"temperature": 0})).await;
    assert_ne!(text(&ask(json!({})).await), text(&greedy));
    // With a single token left there is nothing to draw.
    for alone in [
        json!({"top_k": 1}),
        json!({"min_p": 1}),
        json!({"top_p": 1e-6}),
    ] {
        assert_eq!(text(&ask(alone.clone()).await), text(&greedy), "{alone}");
    }
    // A stop text ends the answer before itself.
    let whole = text(&greedy);
    let stop = whole.chars().rfind(char::is_ascii).expect("some are ASCII");
    let stopped = ask(json!({"temperature": 0, "stop": [stop.to_string(), "never"]})).await;
    let (before, _) = whole.split_once(stop).expect("it is there");
    assert_eq!(text(&stopped), before);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    // The tokens of a greedy answer; penalized enough, none comes twice.
    let tokens = async |penalty: f32| {
        let more = json!({"temperature": 0, "logprobs": true, "repetition_penalty": penalty});
        let answer = ask(more).await;
        let entries = answer["choices"][0]["logprobs"]["content"].as_array();
        let tokens = entries.expect("log probabilities").iter();
        tokens
            .map(|entry| entry["bytes"].to_string())
            .collect::<Vec<_>>()
    };
    let distinct = |tokens: &[String]| tokens.iter().collect::<BTreeSet<_>>().len();
    let plain = tokens(1.0).await;
    assert!(distinct(&plain) < plain.len(), "{plain:?}");
    let penalized = tokens(1e6).await;
    assert_eq!(distinct(&penalized), penalized.len(), "{penalized:?}");
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_place() {
    let serving = Serving::start(&["--max-batch", "1"]);
    // The end token never comes.
    let mut long = json!({"max_tokens": 4000, "logit_bias": {"1": -1000}});
    let started = Instant::now();
    let (status, answer) = serving
        .ask("/chat/completions", &chat(0, long.clone()))
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let one = started.elapsed();
    long["stream"] = true.into();
    let mut begun = Vec::new();
    for seed in 0..60 {
        let request = serving.post("/chat/completions", &chat(seed, long.clone()));
        begun.push(tokio::spawn(request.send()));
    }
    let mut first = begun
        .remove(0)
        .await
        .unwrap()
        .expect("the first is under way");
    first
        .chunk()
        .await
        .expect("it is written")
        .expect("and has begun");
    drop(first);
    for waiting in begun {
        waiting.abort();
    }
    let started = Instant::now();
    let (status, answer) = serving.ask("/chat/completions", &chat(1, json!({}))).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let waited = started.elapsed();
    assert!(
        waited < one * 20,
        "{waited:?}; one takes {one:?}, all of them sixty times that"
    );
}

#[tokio::test]
async fn a_bad_request_is_told_what_is_wrong() {
    let serving = Serving::start(&["--context-length", "64"]);
    let cases = [
        (
            chat(0, json!({"temperature": -1})),
            400,
            "invalid_value",
            "the request cannot be run: temperature is -1, expected 0 or more",
        ),
        (
            chat(0, json!({"max_tokens": 500})),
            400,
            "context_length_exceeded",
            "this model's context holds 64; shorten the prompt or lower max_tokens",
        ),
        (
            chat(0, json!({"max_tokens": 500, "stream": true})),
            400,
            "context_length_exceeded",
            "this model's context holds 64",
        ),
        (
            chat(0, json!({"n": 2})),
            400,
            "unsupported",
            "this server does not do n other than 1",
        ),
        (
            chat(0, json!({"guided_regex": "a+"})),
            400,
            "unknown_parameter",
            "this server does not do what the field `guided_regex` asks for (here \"a+\")",
        ),
        (
            chat(0, json!({"model": "huge"})),
            404,
            "model_not_found",
            "this server has no model \"huge\"; it serves \"tiny\"",
        ),
        (
            json!({"messages": 7}),
            400,
            "invalid_json",
            "`messages` cannot be read: invalid type: integer `7`",
        ),
    ];
    for (body, status, code, message) in cases {
        let (found, answer) = serving.ask("/chat/completions", &body).await;
        assert_eq!(found.as_u16(), status, "{answer}");
        assert_eq!(answer["error"]["code"], code);
        let told = answer["error"]["message"].as_str().unwrap();
        assert!(told.contains(message), "{told}");
    }
    let (status, answer) = serving.ask("/embeddings", &json!({})).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{answer}");
    let got = serving
        .http
        .get(format!("{}/completions", serving.base_url))
        .send()
        .await
        .unwrap();
    assert_eq!(got.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(got.headers()["allow"], "POST");
    // What a page in a browser may send anywhere without asking.
    let plain = serving
        .http
        .post(format!("{}/completions", serving.base_url));
    let plain = plain
        .header("content-type", "text/plain")
        .body("{\"prompt\": \"a\"}");
    assert_eq!(
        plain.send().await.unwrap().status(),
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    );
}

#[cfg(unix)]
#[tokio::test]
async fn an_interrupt_ends_the_server_while_it_answers() {
    let mut serving = Serving::start(&[]);
    let long = json!({"max_tokens": 4000, "logit_bias": {"1": -1000}, "stream": true});
    let mut answer = serving
        .post("/chat/completions", &chat(1, long))
        .send()
        .await
        .unwrap();
    answer.chunk().await.unwrap().expect("the answer has begun");
    let id = serving.child.id().to_string();
    succeeds(Command::new("kill").args(["-INT", &id]));
    let asked = Instant::now();
    let status = loop {
        if let Some(status) = serving.child.try_wait().expect("the child is ours") {
            break status;
        }
        assert!(asked.elapsed() < Duration::from_secs(20), "it goes on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(status.success(), "{status}");
}

#[test]
fn a_model_that_is_not_there_is_an_error_in_words() {
    let told = fails(pacos().args(["serve", "no/such/model"]), 3);
    assert!(
        told.contains("there is no model at no/such/model"),
        "{told}"
    );
    let told = fails(pacos().args(["chat", "embedded:nothing"]), 2);
    assert!(
        told.contains("no embedded model is called \"nothing\""),
        "{told}"
    );
}

#[cfg(unix)]
#[test]
fn a_model_that_does_not_fit_on_the_disk_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = folder.path().join("model");
    student::write(&model);
    let before = std::fs::read(model.join("config.json")).expect("a configuration");
    for out in ["out", "out.gguf", "model"] {
        // No file longer than 20 of the units of 512 or 1,024 bytes: the operating system refuses as if the
        // disk were full. The weights take 36,000 bytes.
        let mut command = Command::new("sh");
        command
            .args(["-c", "trap '' XFSZ; ulimit -f 20; exec \"$@\"", "sh"])
            .arg(env!("CARGO_BIN_EXE_pacos"))
            .args(["convert", "--type", "f32", "--force"])
            .args([&model, &folder.path().join(out)]);
        let told = fails(&mut command, 5);
        assert!(told.contains("cannot write "), "{told}");
        assert!(
            told.contains("nothing of it was kept, and nothing was overwritten. Make room there"),
            "{told}"
        );
        let left: Vec<_> = std::fs::read_dir(folder.path())
            .expect("the folder can be listed")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        assert_eq!(left, ["model"]);
    }
    assert_eq!(
        std::fs::read(model.join("config.json")).expect("a configuration"),
        before
    );
    // Where there is room, the model is replaced by itself.
    succeeds(
        pacos()
            .args(["convert", "--type", "f32", "--force"])
            .args([&model, &model]),
    );
    succeeds(pacos().args(["model", "inspect"]).arg(&model));
}

#[test]
fn a_chat_with_one_token_to_choose_from_is_greedy() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    student::write(folder.path());
    let say = |options: &[&str]| said(folder.path(), "hello\n", options);
    let greedy = say(&["--temperature", "0"]);
    assert_ne!(say(&[]), greedy);
    assert_eq!(say(&["--top-k", "1"]), greedy);
    assert_eq!(say(&["--min-p", "1"]), greedy);
}

#[test]
fn a_chat_through_pipes_prints_the_answers_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    student::write(folder.path());
    let first = conversation(folder.path(), "hello\n\nand you?\n/quit\nnever read\n");
    let again = conversation(folder.path(), "hello\n\nand you?\n");
    assert_eq!(
        first, again,
        "the same seed, and the end of input is an end too"
    );
    let anew = conversation(folder.path(), "hello\n/new\nand you?\n");
    assert_ne!(first, anew, "the second answer depends on the first turn");
}

/// What `pacos chat` prints.
fn conversation(model: &Path, input: &str) -> String {
    said(model, input, &[])
}

/// The same with options.
fn said(model: &Path, input: &str, options: &[&str]) -> String {
    let mut child = pacos()
        .args([
            "chat",
            "--seed",
            "5",
            "--max-tokens",
            "12",
            "--threads",
            "1",
        ])
        .args(options)
        .arg(model)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut stdin = child.stdin.take().expect("standard input is piped");
    stdin
        .write_all(input.as_bytes())
        .expect("the command reads");
    drop(stdin);
    let mut said = Vec::new();
    let mut stdout = child.stdout.take().expect("standard output is piped");
    stdout.read_to_end(&mut said).expect("the command writes");
    assert!(child.wait().expect("the command ends").success());
    String::from_utf8(said).expect("answers are UTF-8")
}
