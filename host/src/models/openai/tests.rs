//! What is read from bodies, without a server.

use pacos_plugin::{FinishReason, Format, Message, Request, Usage};
use serde_json::{Value, json};

use super::{super::FailureKind, *};
use crate::manifest::{self, Endpoint};

fn settings(endpoint: Endpoint) -> OpenAi {
    OpenAi {
        model: "m-1".into(),
        base_url: "http://localhost:8000/v1/".into(),
        api_key_env: Some("TEACHER_KEY".into()),
        endpoint,
        timeout: Duration::from_secs(5),
        max_attempts: 1,
        requests_per_minute: None,
        tokens_per_minute: None,
        unsupported: Vec::new(),
        extra_body: serde_json::Map::new(),
    }
}

fn model(settings: &OpenAi) -> Model {
    Model {
        name: "teacher".into(),
        provider: manifest::Provider::OpenAi(settings.clone()),
        price: None,
        max_concurrency: 4,
        context_length: Some(4096),
        terms: None,
    }
}

fn provider_of(settings: &OpenAi) -> OpenAiProvider {
    OpenAiProvider::new(&model(settings), settings, None).unwrap()
}

fn provider() -> OpenAiProvider {
    provider_of(&settings(Endpoint::Chat))
}

fn ask() -> Request {
    Request::chat(vec![Message::user("Hello")])
}

fn read(body: &Value) -> Result<Reply, Failure> {
    provider().read(&ask(), body.to_string().as_bytes())
}

fn failure(body: &str) -> Failure {
    provider().read(&ask(), body.as_bytes()).unwrap_err()
}

fn choice(choice: Value) -> Value {
    json!({"choices": [choice]})
}

#[test]
fn the_text_is_found_wherever_servers_put_it() {
    let bodies = [
        choice(json!({"message": {"content": "Hi."}})),
        choice(
            json!({"message": {"role": "assistant", "content": "Hi.", "reasoning_content": "Greet?", "refusal": null, "tool_calls": []}}),
        ),
        choice(
            json!({"message": {"content": [{"type": "text", "text": "H"}, {"type": "image"}, "i."]}}),
        ),
        choice(json!({"message": {"content": null}, "text": "Hi."})),
        choice(json!({"text": "Hi."})),
        json!({"error": null, "choices": [{"index": 1, "text": "No."}, {"index": 0, "text": "Hi."}]}),
    ];
    for body in bodies {
        assert_eq!(read(&body).unwrap().text, "Hi.", "{body}");
    }
    let marked = format!("\u{feff} {}\r\n", choice(json!({"text": "Hi."})));
    let reply = provider().read(&ask(), marked.as_bytes()).unwrap();
    assert_eq!(reply.text, "Hi.");
    let broken = [br#"{"choices":[{"text":"Hi"#, &[0xc3][..], br#""}]}"#].concat();
    let reply = provider().read(&ask(), &broken).unwrap();
    assert_eq!(reply.text, "Hi\u{fffd}");
}

#[test]
fn a_reply_without_text_is_empty_and_not_a_failure() {
    let bodies = [
        choice(
            json!({"message": {"content": null, "reasoning_content": "Hmm."}, "finish_reason": "length"}),
        ),
        choice(json!({"message": {}, "finish_reason": "length"})),
        choice(json!({"text": null, "finish_reason": "length"})),
    ];
    for body in bodies {
        let reply = read(&body).unwrap();
        assert_eq!(
            (reply.text.as_str(), reply.finish_reason),
            ("", FinishReason::Length)
        );
    }
}

#[test]
fn a_refusal_is_a_filtered_reply() {
    let message = json!({"content": null, "refusal": "I will not."});
    let reply = read(&choice(
        json!({"message": message, "finish_reason": "stop"}),
    ))
    .unwrap();
    assert_eq!(reply.text, "I will not.");
    assert_eq!(reply.finish_reason, FinishReason::ContentFilter);
    let reason = json!({"message": {"content": "Half"}, "finish_reason": "content_filter"});
    assert_eq!(
        read(&choice(reason)).unwrap().finish_reason,
        FinishReason::ContentFilter
    );
}

#[test]
fn finish_reasons_have_many_spellings() {
    let reason = |value: Value| {
        let body = choice(json!({"text": "x", "finish_reason": value}));
        read(&body).unwrap().finish_reason
    };
    for value in [
        json!("stop"),
        json!("STOP"),
        json!("eos_token"),
        json!({"type": "stop"}),
    ] {
        assert_eq!(reason(value), FinishReason::Stop);
    }
    assert_eq!(reason(json!("max_tokens")), FinishReason::Length);
    for value in [json!(null), json!(""), json!("tool_calls"), json!(7)] {
        assert_eq!(reason(value), FinishReason::Other);
    }
}

#[test]
fn a_reply_as_long_as_allowed_was_cut_even_if_nobody_says_so() {
    let mut request = ask();
    request.max_tokens = Some(9);
    let body =
        json!({"choices": [{"text": "x"}], "usage": {"prompt_tokens": 1, "completion_tokens": 9}});
    let reply = provider()
        .read(&request, body.to_string().as_bytes())
        .unwrap();
    assert_eq!(reply.finish_reason, FinishReason::Length);
}

#[test]
fn usage_is_read_from_what_there_is() {
    let usage = |usage: Value| {
        let body = json!({"choices": [{"text": "x"}], "usage": usage});
        let usage = read(&body).unwrap().usage;
        usage.map(
            |Usage {
                 prompt_tokens,
                 completion_tokens,
             }| (prompt_tokens, completion_tokens),
        )
    };
    let full =
        json!({"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15, "cost": 0.1});
    assert_eq!(usage(full), Some((12, 3)));
    assert_eq!(
        usage(json!({"prompt_tokens": 12.0, "completion_tokens": "3"})),
        Some((12, 3))
    );
    assert_eq!(
        usage(json!({"input_tokens": 12, "output_tokens": 3})),
        Some((12, 3))
    );
    assert_eq!(
        usage(json!({"prompt_tokens": 12, "total_tokens": 15})),
        Some((12, 3))
    );
    for none in [
        json!(null),
        json!({}),
        json!({"prompt_tokens": 12}),
        json!({"prompt_tokens": -1, "completion_tokens": 3}),
        json!({"prompt_tokens": 12, "total_tokens": 5}),
    ] {
        assert_eq!(usage(none), None);
    }
}

#[test]
fn logprobs_come_in_two_forms() {
    let mut request = ask();
    request.logprobs = Some(2);
    let chat = json!({"content": [{
        "token": "Hi", "logprob": -0.5, "bytes": [72, 105],
        "top_logprobs": [{"token": "Hi", "logprob": -0.5}, {"token": "Yo", "logprob": -1}],
    }]});
    let completions = json!({
        "tokens": ["<s>", "Hi"], "token_logprobs": [null, -0.5], "text_offset": [0, 3],
        "top_logprobs": [null, {"Yo": -1, "Hi": -0.5}],
    });
    let mut found = Vec::new();
    for logprobs in [chat, completions] {
        let body = choice(json!({"text": "Hi", "logprobs": logprobs})).to_string();
        found.push(provider().read(&request, body.as_bytes()).unwrap().logprobs);
        let unasked = provider().read(&ask(), body.as_bytes()).unwrap();
        assert!(unasked.logprobs.is_empty());
    }
    assert_eq!(found[0], found[1]);
    let [token] = found[0].as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!((token.token.as_str(), token.logprob), ("Hi", -0.5));
    let top: Vec<_> = token
        .top
        .iter()
        .map(|t| (t.token.as_str(), t.logprob))
        .collect();
    assert_eq!(top, [("Hi", -0.5), ("Yo", -1.0)]);
}

#[test]
fn bodies_that_hold_no_reply_are_told_apart() {
    let page = failure("<html><h1>Sign in</h1></html>");
    assert_eq!(page.code, "not-json");
    assert_eq!(
        page.message,
        "http://localhost:8000/v1 answered 200 with something that is not JSON: \"<html><h1>Sign \
         in</h1></html>\"; is a proxy in between, or is `models.teacher.base_url` the address of \
         a page?"
    );
    assert_eq!(failure("").code, "not-json");
    assert_eq!(
        failure(" \n").message,
        "http://localhost:8000/v1 answered 200 with an empty body, where JSON was expected"
    );
    assert_eq!(failure(r#"{"choices":[{"te"#).code, "cut-body");
    for body in [
        r#"{"choices":[]}"#,
        "{}",
        "null",
        "[]",
        "7",
        r#"{"choices":[{"index":0}]}"#,
        r#"{"choices":[null]}"#,
        r#"{"choices":{}}"#,
    ] {
        assert_eq!(failure(body).code, "no-choices", "{body}");
    }
    for failure in [page, failure(""), failure("{"), failure("{}")] {
        assert_eq!(
            failure.kind,
            FailureKind::Passing { after: None },
            "{}",
            failure.code
        );
    }
}

#[test]
fn an_error_inside_a_200_is_what_it_says() {
    let cases = [
        (
            r#"{"error":{"message":"slow down","type":"x","code":429}}"#,
            "rate-limited",
        ),
        (
            r#"{"error":{"message":"slow down","code":"rate_limit_exceeded"}}"#,
            "rate-limited",
        ),
        (
            r#"{"error":{"message":"pay","type":"insufficient_quota"}}"#,
            "insufficient-quota",
        ),
        (
            r#"{"error":{"message":"no","code":"invalid_api_key"}}"#,
            "unauthorized",
        ),
        (
            r#"{"error":{"message":"gone","code":"model_not_found"}}"#,
            "unknown-model",
        ),
        (r#"{"error":"upstream died","choices":[]}"#, "server-error"),
        (
            r#"{"object":"error","message":"bad","type":"BadRequestError","code":400}"#,
            "bad-request",
        ),
        (
            r#"{"choices":[{"error":{"code":502,"message":"upstream"},"text":"Ha"}]}"#,
            "server-error",
        ),
        (
            r#"[{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"quota"}}]"#,
            "rate-limited",
        ),
        (
            r#"{"error":{"message":"This model's maximum context length is 10","type":"x"}}"#,
            "context-length",
        ),
    ];
    for (body, code) in cases {
        let failure = failure(body);
        assert_eq!(failure.code, code, "{body}: {failure}");
    }
}

#[test]
fn bodies_past_the_bound_are_refused_again_when_read_again() {
    let mut provider = provider();
    provider.most_body = 10;
    let failure = provider.read(&ask(), &[b' '; 11]).unwrap_err();
    assert_eq!(failure.code, "body-too-large");
    assert_eq!(failure.kind, FailureKind::Refused);
    assert_eq!(
        failure.message,
        "the reply of http://localhost:8000/v1 is longer than 10 bytes, the most that is read; \
         ask for fewer tokens or fewer `logprobs`"
    );
}

#[tokio::test]
async fn reading_stops_at_the_bound() {
    let script = |_: &scripted_server::Recorded| scripted_server::Action::reply("x".repeat(99));
    let server = scripted_server::Server::start(script).unwrap();
    let mut settings = settings(Endpoint::Chat);
    settings.base_url = server.base_url();
    let mut provider = provider_of(&settings);
    provider.most_body = 50;
    let attempt = provider.attempt(&ask()).await;
    assert_eq!((attempt.status, attempt.body.len()), (Some(200), 51));
    assert_eq!(attempt.outcome.unwrap_err().code, "body-too-large");
}

#[test]
fn a_model_list_convicts_only_who_is_missing_from_it() {
    let target = provider().target;
    let listed = |body: Value| response::listed(&target, body.to_string().as_bytes());
    for fine in [
        json!({"data": [{"id": "other"}, {"id": "m-1"}]}),
        json!({"data": [{"id": "models/m-1"}]}),
        json!({"data": [{"id": "m-1:latest"}]}),
        json!({"models": [{"name": "m-1"}]}),
        json!({"data": [{"id": "model.gguf", "owned_by": "llamacpp"}]}),
        json!({"data": [{"id": "other"}], "has_more": true}),
        json!({"data": []}),
        json!({"hello": "there"}),
    ] {
        assert_eq!(listed(fine.clone()), Ok(()), "{fine}");
    }
    let failure = listed(json!({"data": [{"id": "a"}, {"id": "b"}]})).unwrap_err();
    assert_eq!(
        (failure.code.as_str(), &failure.kind),
        ("unknown-model", &FailureKind::Fatal)
    );
    assert_eq!(
        failure.message,
        "http://localhost:8000/v1 does not list a model \"m-1\"; it lists a, b; write one of those \
         as `models.teacher.model`"
    );
}

#[test]
fn identity_holds_what_changes_replies_and_nothing_else() {
    let mut one = settings(Endpoint::Chat);
    one.extra_body = serde_json::from_str(r#"{"b":{"y":1,"x":2},"a":1}"#).unwrap();
    let mut other = settings(Endpoint::Chat);
    other.extra_body = serde_json::from_str(r#"{"a":1,"b":{"x":2,"y":1}}"#).unwrap();
    other.base_url = "http://localhost:8000/v1".into();
    other.timeout = Duration::from_secs(99);
    other.api_key_env = None;
    other.unsupported = vec![Field::MaxTokens];
    let with_key = OpenAiProvider::new(&model(&other), &other, Some("sk-secret".into())).unwrap();
    let identity = provider_of(&one).identity();
    assert_eq!(identity, with_key.identity());
    assert_eq!(
        identity,
        r#"{"base_url":"http://localhost:8000/v1","endpoint":"chat","extra_body":{"a":1,"b":{"x":2,"y":1}},"model":"m-1","omitted":[],"provider":"openai"}"#
    );
    let changed = [
        OpenAi {
            model: "m-2".into(),
            ..one.clone()
        },
        OpenAi {
            base_url: "http://localhost:8001/v1".into(),
            ..one.clone()
        },
        OpenAi {
            endpoint: Endpoint::Completions,
            ..one.clone()
        },
        OpenAi {
            extra_body: serde_json::Map::new(),
            ..one.clone()
        },
        OpenAi {
            unsupported: vec![Field::Temperature],
            ..one.clone()
        },
    ];
    for settings in changed {
        assert_ne!(provider_of(&settings).identity(), identity);
    }
}

#[test]
fn describe_says_what_the_endpoint_and_the_manifest_allow() {
    let chat = provider().describe();
    assert!(chat.chat && !chat.completion && chat.json_schema && chat.logprobs && chat.logit_bias);
    assert!(!chat.grammar && !chat.count_tokens && !chat.log_likelihood);
    assert_eq!(
        (chat.model.as_str(), chat.context_length),
        ("m-1", Some(4096))
    );

    let completions = provider_of(&settings(Endpoint::Completions)).describe();
    assert!(completions.completion && !completions.chat && !completions.json_schema);

    let mut narrow = settings(Endpoint::Chat);
    narrow.unsupported = vec![Field::JsonSchema, Field::Logprobs, Field::LogitBias];
    let narrow = provider_of(&narrow).describe();
    assert!(!narrow.json_schema && !narrow.logprobs && !narrow.logit_bias);
}

#[test]
fn the_bound_of_a_prompt_is_above_its_bytes() {
    let mut request = Request::chat(vec![Message::system("é"), Message::user("abc")]);
    assert_eq!(provider().prompt_token_bound(&request), 2 + 3 + 2 * 16 + 64);
    request.format = Some(Format::JsonSchema("{}".into()));
    assert_eq!(
        provider().prompt_token_bound(&request),
        2 + 3 + 2 * 16 + 64 + 2
    );
    let completion = Request::completion("12345");
    assert_eq!(provider().prompt_token_bound(&completion), 5 + 64);
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_sent() {
    let refused = |base_url: &str, key: Option<&str>| {
        let settings = OpenAi {
            base_url: base_url.into(),
            ..settings(Endpoint::Chat)
        };
        let error = OpenAiProvider::new(&model(&settings), &settings, key.map(str::to_owned));
        error.unwrap_err().to_string()
    };
    assert_eq!(
        refused("localhost:8000", None),
        "`models.teacher.base_url` = \"localhost:8000\" is not the address of a server (it begins \
         with \"localhost:\", not with \"http://\" or \"https://\"); write one such as \
         \"http://localhost:8000/v1\""
    );
    let secret = refused("https://me:s3cret@host/v1", None);
    assert!(
        secret.contains("holds no secrets") && !secret.contains("s3cret"),
        "{secret}"
    );
    let key = refused("http://localhost/v1", Some("sk-1234\n5678"));
    assert!(
        key.contains("TEACHER_KEY") && !key.contains("1234"),
        "{key}"
    );

    let mut settings = settings(Endpoint::Chat);
    settings.extra_body = serde_json::from_str(r#"{"n": 4}"#).unwrap();
    let error = OpenAiProvider::new(&model(&settings), &settings, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`models.teacher.extra_body.n` cannot be set: Pacos sets `n` itself, as replies and the \
         budget depend on it; remove it"
    );
}

/// What is sent as `json_schema` to the server at `base_url` for a reply to `schema`.
fn schema_sent(base_url: &str, model: &str, schema: &Value) -> Value {
    let settings = OpenAi {
        base_url: base_url.into(),
        model: model.into(),
        ..settings(Endpoint::Chat)
    };
    let mut request = ask();
    request.format = Some(Format::JsonSchema(schema.to_string()));
    let body = request::body(&provider_of(&settings).target, &settings, &request).unwrap();
    body["response_format"]["json_schema"].clone()
}

/// What self-instruct asks for.
fn tasks_schema() -> Value {
    json!({
        "type": "object",
        "properties": {"tasks": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "instruction": {"type": "string", "minLength": 1, "maxLength": 400},
                    // The name of a property is no keyword.
                    "maxLength": {"type": "string", "enum": ["minLength"], "default": "x"},
                },
                "required": ["instruction", "maxLength"],
            },
            "minItems": 4, "maxItems": 4, "uniqueItems": true,
        }},
        "required": ["tasks"],
        "additionalProperties": false,
    })
}

#[test]
fn openai_is_sent_what_its_strict_mode_takes() {
    let sent = |base_url: &str, model: &str| schema_sent(base_url, model, &tasks_schema());
    let expected = json!({
        "type": "object",
        "properties": {"tasks": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "instruction": {"type": "string"},
                    "maxLength": {"type": "string", "enum": ["minLength"]},
                },
                "required": ["instruction", "maxLength"],
                "additionalProperties": false,
            },
            "minItems": 4, "maxItems": 4,
        }},
        "required": ["tasks"],
        "additionalProperties": false,
    });
    for base_url in [
        "https://api.openai.com/v1",
        "https://eu.api.openai.com/v1",
        "https://mine.openai.azure.com/openai/v1",
    ] {
        let sent = sent(base_url, "m-1");
        assert_eq!(
            sent,
            json!({"name": "reply", "strict": true, "schema": expected}),
            "{base_url}"
        );
    }
    let mut fewer = expected;
    let tasks = fewer["properties"]["tasks"].as_object_mut().unwrap();
    tasks.retain(|name, _| name != "minItems" && name != "maxItems");
    let tuned = sent("https://api.openai.com/v1", "ft:gpt-4.1-mini:me::1");
    assert_eq!(tuned["schema"], fewer);
}

#[test]
fn servers_of_other_makers_are_sent_the_schema_as_it_is() {
    for base_url in [
        "http://localhost:8000/v1",
        "https://notopenai.com/v1",
        "https://openai.com.example/v1",
    ] {
        let sent = schema_sent(base_url, "m-1", &tasks_schema());
        assert_eq!(
            sent,
            json!({"name": "reply", "strict": true, "schema": tasks_schema()})
        );
    }
}

#[test]
fn a_schema_that_strict_mode_would_have_to_change_is_sent_as_a_hint() {
    let text = json!({"type": "string", "maxLength": 3});
    let schemas = [
        json!({"type": "object", "properties": {"a": text, "b": text}, "required": ["a"]}),
        json!({"type": "object", "properties": {"a": {"type": "object"}}, "required": ["a"]}),
        json!({"type": "object", "properties": {"a": text}, "required": ["a"], "additionalProperties": text}),
        json!({"type": "object", "properties": {"a": {"oneOf": [text]}}, "required": ["a"]}),
        json!({"type": "array", "items": text}),
    ];
    for schema in schemas {
        let sent = schema_sent("https://api.openai.com/v1", "m-1", &schema);
        assert_eq!(
            sent,
            json!({"name": "reply", "strict": false, "schema": schema})
        );
    }
}
