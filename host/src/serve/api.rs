//! OpenAI's requests and answers, as far as a local model has them.
//!
//! Reference: <https://platform.openai.com/docs/api-reference/chat> and `/completions`. `top_k`, `min_p` and
//! `repetition_penalty` are additions that vLLM and llama.cpp spell alike. What would change the answer and
//! cannot be done or is not known is refused; what only concerns OpenAI's own service (`user`, `store`, ...)
//! is passed over.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use serde::Deserialize;
use serde_json::{Value, json};

use super::fields::{Others, refuse_unknown, refuse_unknown_in_message};
use super::http::Refusal;
use super::{Served, now};
use crate::llama::ChatMessage;
use crate::llama::generate::{Completion, CompletionRequest, Constraint, FinishReason, Prompt};

/// Which of the two interfaces a request came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Chat,
    Text,
}

/// A request that can be run.
#[derive(Debug)]
pub(super) struct Asked {
    pub kind: Kind,
    pub model: Option<String>,
    pub stream: bool,
    pub include_usage: bool,
    pub request: CompletionRequest,
}

/// The body of either interface.
#[derive(Deserialize)]
struct Sent {
    model: Option<String>,
    messages: Option<Vec<SentMessage>>,
    prompt: Option<Value>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    seed: Option<i64>,
    stop: Option<OneOrMany>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    logit_bias: Option<BTreeMap<String, f32>>,
    logprobs: Option<Value>,
    top_logprobs: Option<usize>,
    response_format: Option<Value>,
    n: Option<u64>,
    best_of: Option<u64>,
    echo: Option<bool>,
    suffix: Option<String>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    tools: Option<Vec<Value>>,
    functions: Option<Vec<Value>>,
    #[serde(flatten)]
    others: Others,
}

#[derive(Deserialize)]
struct SentMessage {
    role: String,
    #[serde(default)]
    content: Value,
    #[serde(flatten)]
    others: Others,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

impl Asked {
    /// Reads a body.
    pub(super) fn read(body: &[u8], kind: Kind, vocab_size: usize) -> Result<Self, Refusal> {
        let mut json = serde_json::Deserializer::from_slice(body);
        let sent: Sent = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let place = error.path().to_string();
            let reason = error.into_inner();
            Refusal::bad(
                "invalid_json",
                if place == "." {
                    format!("the body cannot be read: {reason}")
                } else {
                    format!("`{place}` cannot be read: {reason}")
                },
            )
        })?;
        refuse_what_cannot_be_done(&sent)?;
        refuse_unknown(&sent.others)?;
        let mut request = CompletionRequest::new(prompt(&sent, kind)?);
        request.max_tokens = sent.max_completion_tokens.or(sent.max_tokens);
        if kind == Kind::Text && request.max_tokens.is_none() {
            // OpenAI's default for this interface.
            request.max_tokens = Some(16);
        }
        request.temperature = sent.temperature.unwrap_or(1.0);
        request.top_p = sent.top_p.unwrap_or(1.0);
        request.min_p = sent.min_p.unwrap_or(0.0);
        request.repetition_penalty = sent.repetition_penalty.unwrap_or(1.0);
        // 0 and below mean "all" in llama.cpp and vLLM.
        request.top_k = sent
            .top_k
            .and_then(|k| usize::try_from(k).ok())
            .filter(|k| *k > 0);
        request.seed = sent.seed.map_or_else(random_seed, i64::cast_unsigned);
        request.stop = match sent.stop {
            None => Vec::new(),
            Some(OneOrMany::One(text)) => vec![text],
            Some(OneOrMany::Many(texts)) => texts,
        };
        for (token, bias) in sent.logit_bias.into_iter().flatten() {
            let id = token.parse().map_err(|_| {
                Refusal::bad(
                    "invalid_value",
                    format!(
                        "logit_bias names the token {token:?}, expected a number below {vocab_size}"
                    ),
                )
            })?;
            request.logit_bias.insert(id, bias);
        }
        request.logprobs = logprobs(kind, sent.logprobs.as_ref(), sent.top_logprobs)?;
        request.constraint = constraint(sent.response_format.as_ref())?;
        Ok(Self {
            kind,
            model: sent.model,
            stream: sent.stream.unwrap_or(false),
            include_usage: sent
                .stream_options
                .and_then(|options| options.include_usage)
                .unwrap_or(false),
            request,
        })
    }
}

fn refuse_what_cannot_be_done(sent: &Sent) -> Result<(), Refusal> {
    let some = |list: &Option<Vec<Value>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let wrong = [
        (
            sent.n.is_some_and(|n| n != 1),
            "n other than 1; send several requests, they decode together",
        ),
        (sent.best_of.is_some_and(|n| n != 1), "best_of other than 1"),
        (sent.echo == Some(true), "echo"),
        (
            sent.suffix.as_ref().is_some_and(|s| !s.is_empty()),
            "suffix",
        ),
        (
            sent.presence_penalty.is_some_and(|p| p != 0.0)
                || sent.frequency_penalty.is_some_and(|p| p != 0.0),
            "presence_penalty and frequency_penalty; repetition_penalty is there",
        ),
        (some(&sent.tools) || some(&sent.functions), "tools"),
    ];
    match wrong.iter().find(|(is_wrong, _)| *is_wrong) {
        None => Ok(()),
        Some((_, what)) => Err(Refusal::bad(
            "unsupported",
            format!("this server does not do {what}"),
        )),
    }
}

fn prompt(sent: &Sent, kind: Kind) -> Result<Prompt, Refusal> {
    match (kind, &sent.messages, &sent.prompt) {
        (Kind::Chat, Some(messages), _) if !messages.is_empty() => messages
            .iter()
            .map(|message| {
                refuse_unknown_in_message(&message.others)?;
                Ok(ChatMessage::new(&message.role, content(message)?))
            })
            .collect::<Result<_, _>>()
            .map(Prompt::Chat),
        (Kind::Chat, ..) => Err(Refusal::bad(
            "missing",
            "`messages` is missing or empty; expected at least one {\"role\", \"content\"}",
        )),
        (Kind::Text, _, Some(sent)) => one_text(sent).ok_or_else(|| Refusal::bad(
            "unsupported",
            "`prompt` is expected to be one text, or the tokens of one; send several requests, they decode together",
        )),
        (Kind::Text, _, None) => Err(Refusal::bad(
            "missing",
            "`prompt` is missing; expected a text",
        )),
    }
}

/// A text, a list of one, or a list of tokens.
fn one_text(prompt: &Value) -> Option<Prompt> {
    match prompt {
        Value::String(text) => Some(Prompt::Text(text.clone())),
        Value::Array(list) => match list.as_slice() {
            [Value::String(text)] => Some(Prompt::Text(text.clone())),
            tokens => tokens
                .iter()
                .map(|token| token.as_u64().and_then(|token| u32::try_from(token).ok()))
                .collect::<Option<_>>()
                .map(Prompt::Tokens),
        },
        _ => None,
    }
}

/// Text, or parts that are all text.
fn content(message: &SentMessage) -> Result<String, Refusal> {
    match &message.content {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => parts
            .iter()
            .map(|part| match (&part["type"], &part["text"]) {
                (Value::String(kind), Value::String(text)) if kind == "text" => Ok(text.as_str()),
                (kind, _) => Err(Refusal::bad(
                    "unsupported",
                    format!("a message holds a part of type {kind}; this model reads text alone"),
                )),
            })
            .collect(),
        other => Err(Refusal::bad(
            "invalid_value",
            format!("a message's content is {other}, expected a text"),
        )),
    }
}

/// Chat has `logprobs: true` with `top_logprobs`, completions a number.
fn logprobs(
    kind: Kind,
    wanted: Option<&Value>,
    top: Option<usize>,
) -> Result<Option<usize>, Refusal> {
    let count = match (kind, wanted) {
        (_, None | Some(Value::Null | Value::Bool(false))) => return Ok(None),
        (Kind::Chat, Some(Value::Bool(true))) => Some(top.unwrap_or(0)),
        (Kind::Text, Some(number)) => number.as_u64().and_then(|n| usize::try_from(n).ok()),
        (Kind::Chat, Some(_)) => None,
    };
    match count {
        Some(count) if count <= 20 => Ok(Some(count)),
        _ => Err(Refusal::bad(
            "invalid_value",
            match kind {
                Kind::Chat => "logprobs is expected to be true or false, top_logprobs at most 20",
                Kind::Text => "logprobs is expected to be a number, at most 20",
            },
        )),
    }
}

fn constraint(format: Option<&Value>) -> Result<Option<Constraint>, Refusal> {
    let Some(format) = format.filter(|format| !format.is_null()) else {
        return Ok(None);
    };
    match (format["type"].as_str(), &format["json_schema"]["schema"]) {
        (Some("text"), _) => Ok(None),
        (Some("json_object"), _) => Ok(Some(Constraint::JsonSchema(json!({"type": "object"})))),
        (Some("json_schema"), schema @ Value::Object(_)) => {
            Ok(Some(Constraint::JsonSchema(schema.clone())))
        }
        _ => Err(Refusal::bad(
            "invalid_value",
            "response_format is expected to be {\"type\": \"text\"}, {\"type\": \"json_object\"} or {\"type\": \"json_schema\", \"json_schema\": {\"schema\": {...}}}",
        )),
    }
}

fn random_seed() -> u64 {
    // The standard library's own random keys; nothing secret depends on them.
    RandomState::new().build_hasher().finish()
}

/// The served model as `/v1/models` tells it.
pub(super) fn model(served: &Served) -> Value {
    json!({
        "id": &*served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "pacos",
        "max_model_len": served.engine.context_length(),
    })
}

fn finish_reason(completion: &Completion) -> &'static str {
    match completion.finish_reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

fn usage(completion: &Completion) -> Value {
    json!({
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "total_tokens": completion.prompt_tokens + completion.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": completion.shared_tokens},
    })
}

/// A whole answer.
pub(super) fn answer(served: &Served, asked: &Asked, completion: &Completion) -> Value {
    let chunks = Chunks::new(served, asked);
    let mut choice = json!({
        "index": 0,
        "finish_reason": finish_reason(completion),
        "logprobs": told_logprobs(served, asked.kind, completion),
    });
    let object = match asked.kind {
        Kind::Chat => {
            choice["message"] =
                json!({"role": "assistant", "content": completion.text, "refusal": null});
            "chat.completion"
        }
        Kind::Text => {
            choice["text"] = completion.text.as_str().into();
            "text_completion"
        }
    };
    json!({
        "id": chunks.id,
        "object": object,
        "created": chunks.created,
        "model": &*served.name,
        "choices": [choice],
        "usage": usage(completion),
    })
}

fn told_logprobs(served: &Served, kind: Kind, completion: &Completion) -> Value {
    let Some(entries) = &completion.logprobs else {
        return Value::Null;
    };
    let bytes = |token: u32| served.engine.tokenizer().token_bytes(token);
    let text = |token: u32| String::from_utf8_lossy(bytes(token)).into_owned();
    match kind {
        Kind::Chat => {
            let told = |token: u32, log_prob: f64| json!({"token": text(token), "logprob": log_prob, "bytes": bytes(token)});
            let content: Vec<Value> = entries
                .iter()
                .map(|entry| {
                    let mut value = told(entry.token, entry.log_prob);
                    let top = entry
                        .top
                        .iter()
                        .map(|(token, log_prob)| told(*token, *log_prob));
                    value["top_logprobs"] = top.collect();
                    value
                })
                .collect();
            json!({"content": content, "refusal": null})
        }
        Kind::Text => {
            let mut offset = 0;
            let offsets: Vec<usize> = entries
                .iter()
                .map(|entry| {
                    let at = offset;
                    offset += text(entry.token).chars().count();
                    at
                })
                .collect();
            let top = |entry: &crate::llama::generate::TokenLogProb| -> Value {
                let pairs = entry.top.iter().map(|(token, p)| (text(*token), json!(p)));
                Value::Object(pairs.collect())
            };
            json!({
                "tokens": entries.iter().map(|entry| text(entry.token)).collect::<Vec<_>>(),
                "token_logprobs": entries.iter().map(|entry| entry.log_prob).collect::<Vec<_>>(),
                "top_logprobs": entries.iter().map(top).collect::<Vec<_>>(),
                "text_offset": offsets,
            })
        }
    }
}

/// The objects of a streamed answer.
#[derive(Clone)]
pub(super) struct Chunks {
    id: String,
    created: u64,
    served: Served,
    kind: Kind,
    include_usage: bool,
}

impl Chunks {
    pub(super) fn new(served: &Served, asked: &Asked) -> Self {
        let prefix = match asked.kind {
            Kind::Chat => "chatcmpl",
            Kind::Text => "cmpl",
        };
        Self {
            id: format!("{prefix}-{:016x}", random_seed()),
            created: now(),
            served: served.clone(),
            kind: asked.kind,
            include_usage: asked.include_usage,
        }
    }

    fn chunk(&self, choices: Value) -> Value {
        let object = match self.kind {
            Kind::Chat => "chat.completion.chunk",
            Kind::Text => "text_completion",
        };
        let mut chunk = json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": &*self.served.name,
            "choices": choices,
        });
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    /// What comes before the text: in a chat, whose words they are.
    pub(super) fn opening(&self) -> Option<Value> {
        let delta = json!({"role": "assistant", "content": ""});
        (self.kind == Kind::Chat).then(|| {
            self.chunk(
                json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": null}]),
            )
        })
    }

    /// A part of the text.
    pub(super) fn part(&self, text: &str) -> Value {
        self.chunk(match self.kind {
            Kind::Chat => json!([{"index": 0, "delta": {"content": text}, "logprobs": null, "finish_reason": null}]),
            Kind::Text => json!([{"index": 0, "text": text, "logprobs": null, "finish_reason": null}]),
        })
    }

    /// Why it ended; where asked for, the log probabilities of all of it, since a text comes in parts that
    /// are no tokens, and what it took.
    pub(super) fn end(&self, completion: &Completion) -> Vec<Value> {
        let reason = finish_reason(completion);
        let logprobs = told_logprobs(&self.served, self.kind, completion);
        let mut chunks = vec![self.chunk(match self.kind {
            Kind::Chat => {
                json!([{"index": 0, "delta": {}, "logprobs": logprobs, "finish_reason": reason}])
            }
            Kind::Text => {
                json!([{"index": 0, "text": "", "logprobs": logprobs, "finish_reason": reason}])
            }
        })];
        if self.include_usage {
            let mut last = self.chunk(json!([]));
            last["usage"] = usage(completion);
            chunks.push(last);
        }
        chunks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(kind: Kind, body: Value) -> String {
        Asked::read(body.to_string().as_bytes(), kind, 100)
            .unwrap_err()
            .message
    }

    #[test]
    fn what_cannot_be_done_is_refused_in_words() {
        let chat = |more: Value| {
            let mut body = json!({"messages": [{"role": "user", "content": "hello"}]});
            body.as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            refused(Kind::Chat, body)
        };
        assert_eq!(
            chat(json!({"n": 3})),
            "this server does not do n other than 1; send several requests, they decode together"
        );
        assert_eq!(
            chat(json!({"temperature": "hot"})),
            "`temperature` cannot be read: invalid type: string \"hot\", expected f32 at line 1 column 67"
        );
        assert_eq!(
            chat(json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})),
            "a message holds a part of type \"image_url\"; this model reads text alone"
        );
        assert_eq!(
            refused(Kind::Chat, json!({})),
            "`messages` is missing or empty; expected at least one {\"role\", \"content\"}"
        );
        assert_eq!(
            refused(Kind::Text, json!({"prompt": ["a", "b"]})),
            "`prompt` is expected to be one text, or the tokens of one; send several requests, they decode together"
        );
    }

    #[test]
    fn a_field_that_may_change_the_answer_is_refused_by_its_name() {
        let chat = |more: Value| {
            let mut body = json!({"messages": [{"role": "user", "content": "hello"}]});
            body.as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            Asked::read(body.to_string().as_bytes(), Kind::Chat, 100)
        };
        for more in [
            json!({"guided_regex": "a+"}),
            json!({"grammar": "root ::= \"a\""}),
            json!({"typical_p": 0.9}),
            json!({"modalities": ["text", "audio"]}),
            json!({"prediction": {"type": "content", "content": "x"}}),
            json!({"tool_choice": "required"}),
            json!({"temprature": 0.1}),
        ] {
            let name = more.as_object().unwrap().keys().next().unwrap().clone();
            let refusal = chat(more).unwrap_err();
            assert_eq!(refusal.code, "unknown_parameter");
            assert!(
                refusal.message.contains(&format!("`{name}`")),
                "{refusal:?}"
            );
        }
        assert_eq!(
            chat(json!({"repeat_penalty": 1.2})).unwrap_err().message,
            "this server does not do what the field `repeat_penalty` asks for (here 1.2), and does not pass it over, since it may change the answer; there is repetition_penalty"
        );
        assert_eq!(
            refused(
                Kind::Chat,
                json!({"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]})
            ),
            "a message holds the field `tool_calls`; this model reads role and content alone"
        );
        // What clients send along, and what asks for nothing else than what is done.
        chat(json!({
            "user": "somebody", "metadata": {"a": "b"}, "store": true, "service_tier": "flex",
            "parallel_tool_calls": true, "tool_choice": "auto", "modalities": ["text"],
            "typical_p": 1, "grammar": null, "guided_regex": "", "tools": [], "ignore_eos": false,
            "messages": [{"role": "assistant", "content": "hello", "name": "a", "refusal": null, "tool_calls": null}],
        }))
        .unwrap();
    }

    #[test]
    fn a_request_is_read_in_full() {
        let body = json!({
            "model": "m", "prompt": "once", "max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "top_k": 4,
            "min_p": 0.1, "repetition_penalty": 1.2, "seed": -1, "stop": "END", "logprobs": 2,
            "logit_bias": {"7": -100}, "user": "somebody", "stream_options": {"include_usage": true},
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "null"}}},
        });
        let asked = Asked::read(body.to_string().as_bytes(), Kind::Text, 100).unwrap();
        assert!(asked.include_usage && !asked.stream);
        assert_eq!(
            asked.request,
            CompletionRequest {
                max_tokens: Some(5),
                temperature: 0.5,
                top_p: 0.9,
                top_k: Some(4),
                min_p: 0.1,
                repetition_penalty: 1.2,
                stop: vec!["END".to_owned()],
                seed: u64::MAX,
                logit_bias: BTreeMap::from([(7, -100.0)]),
                logprobs: Some(2),
                constraint: Some(Constraint::JsonSchema(json!({"type": "null"}))),
                ..CompletionRequest::new(Prompt::Text("once".to_owned()))
            }
        );
    }
}
