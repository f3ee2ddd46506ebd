//! What follows from a request that brought no reply, and what to tell the person.

use std::time::Duration;

use serde_json::Value;

use super::super::{Failure, FailureKind};
use crate::servers::{End, Exchange};

/// Longest part of a server's own words in a message, in characters.
const MOST_WORDS: usize = 600;

/// Who was asked, for messages. Holds no key.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// NAME of `[models.NAME]`.
    pub table: String,
    /// The server's name for the model.
    pub model: String,
    pub base_url: String,
    /// Path of the endpoint below `base_url`.
    pub path: &'static str,
    pub timeout: Duration,
    pub key: KeySource,
}

/// Where the key came from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum KeySource {
    /// The manifest names no variable.
    None,
    /// The caller gave a key without a name.
    Unnamed,
    /// The variable is not set, or empty.
    Unset(String),
    /// The variable is set.
    Set(String),
}

/// What a server says of an error, in whichever form.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Words {
    /// The sentence.
    pub message: String,
    /// `code`, `type` and `status`, in lower case, spaces between.
    pub codes: String,
    /// A status inside the body.
    pub status: Option<u16>,
}

impl Words {
    /// The error inside a body: OpenAI's object, a bare string, FastAPI's `detail`, vLLM's older
    /// flat form, Google's array.
    pub fn find(body: &Value) -> Option<Self> {
        let body = match body {
            Value::Array(items) => items.first()?,
            body => body,
        };
        let mut words = Words::default();
        let error = match &body["error"] {
            Value::Null if body["object"] == "error" => body,
            Value::Null => match (&body["detail"], &body["errors"][0], &body["message"]) {
                (Value::Null, Value::Null, Value::String(_)) => body,
                (Value::Null, Value::Null, _) => return None,
                (Value::Null, first, _) => first,
                (detail, _, _) => detail,
            },
            error => error,
        };
        words.read(error);
        if error.is_string() && body["error_type"].is_string() {
            words.add_code(&body["error_type"]);
        }
        Some(words)
    }

    fn read(&mut self, error: &Value) {
        match error {
            Value::String(text) => self.message = text.clone(),
            Value::Object(fields) => {
                let text = ["message", "msg", "error", "detail"]
                    .iter()
                    .find_map(|key| fields.get(*key)?.as_str());
                self.message = text.map_or_else(|| error.to_string(), str::to_owned);
                for key in ["code", "type", "status"] {
                    if let Some(code) = fields.get(key) {
                        self.add_code(code);
                    }
                }
            }
            other => self.message = other.to_string(),
        }
    }

    fn add_code(&mut self, code: &Value) {
        let number = match code {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        match (number, code) {
            (Some(number @ 400..=599), _) => self.status = Some(number as u16),
            (None, Value::String(text)) => {
                self.codes += &text.to_lowercase();
                self.codes.push(' ');
            }
            _ => {}
        }
    }

    fn has_code(&self, parts: &[&str]) -> bool {
        parts.iter().any(|part| self.codes.contains(part))
    }

    fn says(&self, parts: &[&str]) -> bool {
        let message = self.message.to_lowercase();
        parts.iter().any(|part| message.contains(part))
    }
}

/// A status that is no success.
pub(super) fn of_status(target: &Target, exchange: &Exchange) -> Failure {
    let status = exchange.status.unwrap_or_default();
    if let 300..=399 = status {
        let location = exchange.location.as_deref().unwrap_or("nowhere");
        return Failure::fatal(
            "redirected",
            format!(
                "{base_url} answered {status}: look at {location}. Pacos follows no redirect to \
                 another server, so that prompts and key stay where they belong; write the right \
                 address as `models.{table}.base_url`",
                base_url = target.base_url,
                table = target.table,
                location = shortened(location),
            ),
        );
    }
    let text = String::from_utf8_lossy(&exchange.body);
    let body: Option<Value> = super::response::parse(&exchange.body).ok();
    let words = body.as_ref().and_then(Words::find);
    let words = words.unwrap_or_else(|| Words {
        message: text.into_owned(),
        ..Words::default()
    });
    classify(target, status, &words, exchange.retry_after)
}

/// An error inside a reply with status 200.
pub(super) fn of_words(target: &Target, words: &Words) -> Failure {
    let status = words.status.unwrap_or({
        if words.has_code(&["insufficient_quota", "rate_limit", "resource_exhausted"]) {
            429
        } else if words.has_code(&["invalid_api_key", "authentication", "permission"]) {
            401
        } else if words.has_code(&["not_found", "notfound"]) {
            404
        } else if words.has_code(&["invalid_request", "bad_request", "badrequest"])
            || is_context_length(words)
            || is_content_filter(words)
        {
            400
        } else {
            500
        }
    });
    classify(target, status, words, None)
}

fn classify(target: &Target, status: u16, words: &Words, after: Option<Duration>) -> Failure {
    let Target {
        table,
        model,
        base_url,
        path,
        ..
    } = target;
    let said = quoted(&words.message);
    match status {
        _ if is_content_filter(words) && status < 500 => Failure::refused(
            "content-filter",
            format!("{base_url} refused the prompt for what it says ({status}): {said}"),
        ),
        401 | 403 => Failure::fatal(
            "unauthorized",
            format!(
                "{base_url} does not let model `{table}` in ({status}): {said}; {}",
                key_advice(target)
            ),
        ),
        402 => out_of_money(target, status, &said),
        429 if words.has_code(&["insufficient_quota", "billing", "insufficient_balance"]) => {
            out_of_money(target, status, &said)
        }
        429 => Failure {
            kind: FailureKind::Passing { after },
            ..Failure::passing(
                "rate-limited",
                format!(
                    "{base_url} asks for fewer requests ({status}): {said}; \
                     `models.{table}.requests_per_minute`, `tokens_per_minute` and \
                     `max_concurrency` hold them back"
                ),
            )
        },
        404 | 400 if is_unknown_model(words) => Failure::fatal(
            "unknown-model",
            format!(
                "{base_url} has no model {model:?} ({status}): {said}; write a name that it lists \
                 as `models.{table}.model`"
            ),
        ),
        404 | 405 => Failure::fatal(
            "unknown-path",
            format!(
                "{base_url} has nothing at {path} ({status}): {said}; check \
                 `models.{table}.base_url`, which for most servers ends in /v1, and \
                 `models.{table}.endpoint`"
            ),
        ),
        408 | 409 | 425 | 500.. => Failure {
            kind: FailureKind::Passing { after },
            ..Failure::passing(
                "server-error",
                format!("{base_url} could not answer ({status}): {said}"),
            )
        },
        _ if is_context_length(words) => Failure::refused(
            "context-length",
            format!(
                "prompt and reply exceed the maximum context length of model `{table}` \
                 ({status}): {said}; ask for fewer tokens, shorten the prompt, or state the true \
                 `models.{table}.context_length`"
            ),
        ),
        _ if words.has_code(&["unsupported_parameter", "unsupported_value"]) => Failure::fatal(
            "unsupported-parameter",
            format!(
                "model {model:?} at {base_url} does not take a field of the request ({status}): \
                 {said}; add the field to `models.{table}.unsupported`"
            ),
        ),
        _ => Failure::refused(
            "bad-request",
            format!(
                "{base_url} refused the request ({status}): {said}; if it names a field that the \
                 model does not take, add the field to `models.{table}.unsupported`"
            ),
        ),
    }
}

fn out_of_money(target: &Target, status: u16, said: &str) -> Failure {
    Failure::fatal(
        "insufficient-quota",
        format!(
            "the account at {} has no credit left ({status}): {said}; add credit there, then run \
             again: nothing that was answered is asked again",
            target.base_url,
        ),
    )
}

fn key_advice(target: &Target) -> String {
    let table = &target.table;
    match &target.key {
        KeySource::Set(variable) => format!(
            "the key came from {variable}, which is set: check that it is a key of this server, \
             still valid and allowed to use the model"
        ),
        KeySource::Unset(variable) => format!(
            "`models.{table}.api_key_env` names {variable}, which is not set: set it to a key of \
             this server"
        ),
        KeySource::None => format!(
            "no key was sent, as `models.{table}.api_key_env` is not written: name there the \
             environment variable that holds one"
        ),
        KeySource::Unnamed => "check the key that was given".to_owned(),
    }
}

/// How an exchange ended, where that is what kept the reply away.
pub(super) fn of_end(target: &Target, exchange: &Exchange) -> Option<Failure> {
    let Target {
        table, base_url, ..
    } = target;
    let came = exchange.body.len();
    let failure = match &exchange.end {
        End::Whole | End::TooLarge => return None,
        // Only a plugin's requests are held to public addresses.
        End::Private(private) => Failure::fatal("private-address", private.to_string()),
        End::Unreachable(reason) => Failure::passing(
            "unreachable",
            format!(
                "nobody answers at {base_url} ({reason}); start the server, or correct \
                 `models.{table}.base_url`"
            ),
        ),
        End::Tls(reason) => Failure::fatal(
            "tls",
            format!(
                "no encrypted connection to {base_url} ({reason}); write http:// in \
                 `models.{table}.base_url` if the server speaks plain HTTP, and make its \
                 certificate known to this machine if it does not"
            ),
        ),
        End::NoAnswer(reason) => no_answer(target, reason),
        End::Cut(reason) => Failure::passing(
            "cut-body",
            format!(
                "{base_url} closed the connection inside the reply, after {came} bytes ({reason})"
            ),
        ),
        End::TimedOut => Failure::passing(
            "timed-out",
            format!(
                "{base_url} did not finish within {:?}{}; long replies need a longer \
                 `models.{table}.timeout`",
                target.timeout,
                if exchange.status.is_some() {
                    format!(" ({came} bytes of the reply came)")
                } else {
                    " (nothing came)".to_owned()
                },
            ),
        ),
    };
    Some(failure)
}

/// The request went out, and not even a status came back.
pub(super) fn no_answer(target: &Target, reason: &str) -> Failure {
    Failure::passing(
        "no-answer",
        format!(
            "{} closed the connection without an answer ({reason})",
            target.base_url
        ),
    )
}

/// A body past the bound; the same request would bring it again.
pub(super) fn too_large(target: &Target, most_body: usize) -> Failure {
    Failure::refused(
        "body-too-large",
        format!(
            "the reply of {} is longer than {most_body} bytes, the most that is read; ask for \
             fewer tokens or fewer `logprobs`",
            target.base_url
        ),
    )
}

fn is_context_length(words: &Words) -> bool {
    words.has_code(&["context_length", "exceed_context_size"])
        || words.says(&[
            "context length",
            "context window",
            "context size",
            "maximum context",
            "reduce your prompt",
            "reduce the length",
            "prompt is too long",
        ])
}

fn is_content_filter(words: &Words) -> bool {
    words.has_code(&[
        "content_filter",
        "content_policy",
        "responsibleai",
        "moderation",
    ]) || words.says(&["content management policy", "requires moderation"])
}

fn is_unknown_model(words: &Words) -> bool {
    let absent = ["not found", "not exist", "not_found", "unknown", "invalid"];
    words.has_code(&["model_not_found", "invalid_model"])
        || (words.says(&["model"]) && words.says(&absent) && !words.says(&["parameter"]))
}

/// A server's words, on one line, cut where they ramble.
pub(super) fn quoted(text: &str) -> String {
    let line = shortened(text);
    if line.is_empty() {
        "it gives no reason".to_owned()
    } else {
        format!("\"{line}\"")
    }
}

fn shortened(text: &str) -> String {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
        if line.len() > 4 * MOST_WORDS {
            break;
        }
    }
    if let Some((end, _)) = line.char_indices().nth(MOST_WORDS) {
        line.truncate(end);
        line += " ...";
    }
    line
}
