//! What a server does with a request.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Recorded;

/// Decides what happens to a request, from the request alone.
pub trait Script: Send + Sync + 'static {
    /// The action; equal requests at equal [`Recorded::occurrence`] must get equal actions.
    fn action(&self, request: &Recorded) -> Action;
}

impl<F: Fn(&Recorded) -> Action + Send + Sync + 'static> Script for F {
    fn action(&self, request: &Recorded) -> Action {
        self(request)
    }
}

/// `first` for the first `times` occurrences of each request, then what `script` says.
pub fn failing_first(times: u32, first: Action, script: impl Script) -> impl Script {
    move |request: &Recorded| {
        if request.occurrence <= times {
            first.clone()
        } else {
            script.action(request)
        }
    }
}

/// What the server does with one request.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Answers as the API does, in the form of the endpoint that was asked.
    Reply(Reply),
    /// Answers 200 with this JSON.
    Json(Value),
    /// Answers with this status.
    Status {
        /// HTTP status.
        code: u16,
        /// Headers beside `content-length`.
        headers: Vec<(String, String)>,
        /// The body, sent as it is.
        body: String,
    },
    /// Lists these models, as `GET /models` does.
    Models(Vec<String>),
    /// Answers 200 with a page of HTML, as a proxy does when the server behind it is away.
    NotJson,
    /// Sends the head of a reply with its whole `content-length`, this many bytes of the body,
    /// and closes the connection.
    CutAfter {
        /// Bytes of the body that are sent.
        bytes: usize,
        /// The reply that is cut.
        reply: Reply,
    },
    /// As [`Action::CutAfter`], but the connection stays open and silent for this long.
    StallAfter {
        /// Bytes of the body that are sent.
        bytes: usize,
        /// The reply that is never finished.
        reply: Reply,
        /// Silence before the connection is closed.
        silence: Duration,
    },
    /// Says nothing for this long, then closes the connection.
    Hang(Duration),
    /// Closes the connection at once.
    Drop,
    /// Writes these bytes, whatever they are, and closes the connection.
    Raw(Vec<u8>),
    /// Waits, then acts.
    After(Duration, Box<Action>),
}

impl Action {
    /// A whole reply that ended by itself.
    pub fn reply(text: impl Into<String>) -> Self {
        Action::Reply(Reply::new(text))
    }

    /// A status with a body and no headers of its own.
    pub fn status(code: u16, body: impl Into<String>) -> Self {
        Action::Status {
            code,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// A status with an error object in OpenAI's form; `code` is the error's own code.
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        let kind = if status >= 500 {
            "server_error"
        } else {
            "invalid_request_error"
        };
        let body = json!({"error": {
            "message": message, "type": kind, "param": null, "code": code,
        }});
        Action::status(status, body.to_string())
    }

    /// Adds a header, where the action is a status.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Action::Status { headers, .. } = &mut self {
            headers.push((name.into(), value.into()));
        }
        self
    }

    /// Waits before acting.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Action::After(delay, Box::new(self))
    }
}

/// A reply of the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// What it says.
    pub text: String,
    /// `finish_reason`; `null` where absent.
    pub finish_reason: Option<String>,
    /// Whether `usage` is reported: a token for each four bytes begun, and four for each message.
    pub usage: bool,
}

impl Reply {
    /// A reply that ended by itself, with usage.
    pub fn new(text: impl Into<String>) -> Self {
        Reply {
            text: text.into(),
            finish_reason: Some("stop".into()),
            usage: true,
        }
    }

    /// A reply that ended for this reason.
    #[must_use]
    pub fn finish_reason(mut self, reason: &str) -> Self {
        self.finish_reason = Some(reason.into());
        self
    }

    /// The body that carries it, in the form of the endpoint that `request` asked.
    pub fn body(&self, request: &Recorded) -> Value {
        let chat = request.is_chat();
        let id = format!("{:016x}", request.identity);
        let mut choice = json!({"index": 0});
        if chat {
            choice["message"] = json!({"role": "assistant", "content": self.text});
        } else {
            choice["text"] = json!(self.text);
        }
        choice["logprobs"] = Value::Null;
        choice["finish_reason"] = json!(self.finish_reason);
        let mut body = json!({
            "id": if chat { format!("chatcmpl-{id}") } else { format!("cmpl-{id}") },
            "object": if chat { "chat.completion" } else { "text_completion" },
            "created": 1_700_000_000,
            "model": request.body["model"],
            "choices": [choice],
        });
        if self.usage {
            let messages = request.body["messages"].as_array().map_or(0, Vec::len);
            let prompt = tokens(&request.prompt()) + 4 * messages;
            let completion = tokens(&self.text);
            body["usage"] = json!({
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            });
        }
        body
    }
}

/// What this server counts as tokens.
pub(crate) fn tokens(text: &str) -> usize {
    text.len().div_ceil(4)
}
