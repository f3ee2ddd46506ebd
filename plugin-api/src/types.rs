//! The data types of the contract, and short ways to make them.

pub use crate::bindings::{
    evaluator::exports::pacos::plugin::evaluator::{Answer, Item, Judgement, Metric, Outcome},
    filter::exports::pacos::plugin::filter::{Candidate, Decision, Judged, Neighbour, Verdict},
    generator::exports::pacos::plugin::generator::{Proposal, Proposals, Reject, Unit},
    guest::pacos::plugin::{
        accepted::Example,
        http::{HttpHeader, HttpMethod, HttpRequest, HttpResponse},
        log::Level,
        models::{
            Alternative, FinishReason, Format, Likelihood, ModelDescription, Prompt, Reply,
            Request, TokenBias, TokenLogprob, Usage,
        },
        types::{
            Attribute, CandidateId, Description, Diagnostic, Error, Message, Origin, Payload,
            Place, Score, Severity, Task,
        },
    },
};

impl Error {
    /// A failure that the same call would meet again.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Error {
            code: code.into(),
            message: message.into(),
            retryable: false,
        }
    }

    /// Says that the same call can succeed later.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }
}

impl Diagnostic {
    /// What stops the run: `path` is the dotted path of the key in the plugin's own table.
    pub fn error(path: impl Into<String>, message: impl Into<String>) -> Self {
        Diagnostic {
            severity: Severity::Error,
            path: path.into(),
            message: message.into(),
            help: None,
        }
    }

    /// What the user should know, and may leave as it is.
    pub fn warning(path: impl Into<String>, message: impl Into<String>) -> Self {
        Diagnostic {
            severity: Severity::Warning,
            ..Diagnostic::error(path, message)
        }
    }

    /// What to write instead.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl Description {
    /// A stateless plugin that needs nothing of the host. The configuration's schema is filled
    /// in by [`export!`](crate::export).
    pub fn new(name: impl Into<String>, version: impl Into<String>) -> Self {
        Description {
            name: name.into(),
            version: version.into(),
            capabilities: Vec::new(),
            config_schema: String::new(),
            stateful: false,
            batch_limit: 0,
        }
    }

    /// Declares a capability, such as `models:teacher`; the recipe must grant it.
    #[must_use]
    pub fn capability(mut self, capability: impl Into<String>) -> Self {
        self.capabilities.push(capability.into());
        self
    }

    /// Declares that a verdict depends on earlier ones, so that the host rebuilds an instance
    /// with [`Filter::restore`](crate::Filter::restore).
    #[must_use]
    pub fn stateful(mut self) -> Self {
        self.stateful = true;
        self
    }

    /// The most records that one call may carry.
    #[must_use]
    pub fn batch_limit(mut self, records: u32) -> Self {
        self.batch_limit = records;
        self
    }
}

impl Task {
    /// A task in Alpaca's three fields; an empty `input` stands for none.
    pub fn new(
        instruction: impl Into<String>,
        input: impl Into<String>,
        output: impl Into<String>,
    ) -> Self {
        Task {
            instruction: instruction.into(),
            input: input.into(),
            output: output.into(),
        }
    }
}

impl Message {
    /// What the operator of the model says beforehand.
    pub fn system(content: impl Into<String>) -> Self {
        Message {
            role: "system".into(),
            content: content.into(),
        }
    }

    /// What the person says.
    pub fn user(content: impl Into<String>) -> Self {
        Message {
            role: "user".into(),
            content: content.into(),
        }
    }

    /// What the model says.
    pub fn assistant(content: impl Into<String>) -> Self {
        Message {
            role: "assistant".into(),
            content: content.into(),
        }
    }
}

impl Request {
    /// Continue this text; everything else is left to the model's defaults.
    pub fn completion(prompt: impl Into<String>) -> Self {
        Request::new(Prompt::Completion(prompt.into()))
    }

    /// Answer this conversation; everything else is left to the model's defaults.
    pub fn chat(messages: Vec<Message>) -> Self {
        Request::new(Prompt::Chat(messages))
    }

    fn new(prompt: Prompt) -> Self {
        Request {
            prompt,
            temperature: None,
            top_p: None,
            max_tokens: None,
            stop: Vec::new(),
            logit_bias: Vec::new(),
            seed: None,
            logprobs: None,
            format: None,
        }
    }
}

impl HttpRequest {
    /// Reads what is at `url`.
    pub fn get(url: impl Into<String>) -> Self {
        HttpRequest::new(HttpMethod::Get, url, Vec::new())
    }

    /// Has `body` processed by what is at `url`; [`header`](HttpRequest::header) says what it is.
    pub fn post(url: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        HttpRequest::new(HttpMethod::Post, url, body.into())
    }

    fn new(method: HttpMethod, url: impl Into<String>, body: Vec<u8>) -> Self {
        HttpRequest {
            method,
            url: url.into(),
            headers: Vec::new(),
            body,
        }
    }

    /// Adds a line to the header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push(HttpHeader {
            name: name.into(),
            value: value.into(),
        });
        self
    }
}

impl HttpResponse {
    /// The first header of this name; case does not matter.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| header.value.as_str())
    }

    /// The body as text; what is no UTF-8 in it is replaced.
    #[must_use]
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }
}

impl Verdict {
    /// Goes on as it is.
    pub fn keep() -> Self {
        Verdict::new(Decision::Keep, "kept", "")
    }

    /// Goes no further; `code` is for programs (kebab-case), `message` for a person.
    pub fn drop(code: impl Into<String>, message: impl Into<String>) -> Self {
        Verdict::new(Decision::Drop, code, message)
    }

    /// Goes on in the form of `payload`.
    pub fn edit(payload: Payload, code: impl Into<String>, message: impl Into<String>) -> Self {
        Verdict::new(Decision::Edit(payload), code, message)
    }

    fn new(decision: Decision, code: impl Into<String>, message: impl Into<String>) -> Self {
        Verdict {
            decision,
            code: code.into(),
            message: message.into(),
            scores: Vec::new(),
            nearest: None,
        }
    }

    /// Adds a named figure that explains the verdict.
    #[must_use]
    pub fn score(mut self, name: impl Into<String>, value: f64) -> Self {
        self.scores.push(Score {
            name: name.into(),
            value,
        });
        self
    }

    /// Says what the candidate came nearest to.
    #[must_use]
    pub fn nearest(mut self, origin: Origin, score: f64) -> Self {
        self.nearest = Some(Neighbour { origin, score });
        self
    }
}
