//! Tests of a plugin without a host: scripted models, captured log.

use std::{cell::RefCell, collections::VecDeque};

use crate::{
    Error, Example, FinishReason, Host, HttpRequest, HttpResponse, Level, Likelihood,
    ModelDescription, Prompt, Reply, Request,
};

/// A [`Host`] that answers from a script, in the order of the requests.
///
/// ```
/// use pacos_plugin::{testing::ScriptedHost, Host, Request};
///
/// let host = ScriptedHost::new().reply("Four.");
/// let reply = host.complete("teacher", &Request::completion("2 + 2 =")).unwrap();
/// assert_eq!(reply.text, "Four.");
/// assert_eq!(host.requests()[0].0, "teacher");
/// ```
#[derive(Default)]
pub struct ScriptedHost {
    replies: RefCell<VecDeque<Result<Reply, Error>>>,
    requests: RefCell<Vec<(String, Request)>>,
    responses: RefCell<VecDeque<Result<HttpResponse, Error>>>,
    fetched: RefCell<Vec<HttpRequest>>,
    log: RefCell<Vec<(Level, String)>>,
    accepted: Vec<Example>,
    model: Option<ModelDescription>,
}

impl ScriptedHost {
    /// A host with an empty script.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a reply that ended by itself.
    #[must_use]
    pub fn reply(self, text: impl Into<String>) -> Self {
        self.result(Ok(reply(text, FinishReason::Stop)))
    }

    /// Adds a reply cut at its token limit.
    #[must_use]
    pub fn cut_reply(self, text: impl Into<String>) -> Self {
        self.result(Ok(reply(text, FinishReason::Length)))
    }

    /// Adds a failure.
    #[must_use]
    pub fn failure(self, error: Error) -> Self {
        self.result(Err(error))
    }

    /// Adds any outcome of a request.
    #[must_use]
    pub fn result(self, result: Result<Reply, Error>) -> Self {
        self.replies.borrow_mut().push_back(result);
        self
    }

    /// Adds a response of a server, without headers.
    #[must_use]
    pub fn response(self, status: u16, body: impl Into<Vec<u8>>) -> Self {
        self.http_result(Ok(HttpResponse {
            status,
            headers: Vec::new(),
            body: body.into(),
        }))
    }

    /// Adds any outcome of a request to a server.
    #[must_use]
    pub fn http_result(self, result: Result<HttpResponse, Error>) -> Self {
        self.responses.borrow_mut().push_back(result);
        self
    }

    /// Sets what [`Host::accepted`] reads from.
    #[must_use]
    pub fn with_accepted(mut self, accepted: Vec<Example>) -> Self {
        self.accepted = accepted;
        self
    }

    /// Sets what [`Host::describe_model`] says for every role. Without it, a chat model with
    /// JSON Schema support is described.
    #[must_use]
    pub fn with_model(mut self, model: ModelDescription) -> Self {
        self.model = Some(model);
        self
    }

    /// What was asked so far, with the role it was asked of.
    pub fn requests(&self) -> Vec<(String, Request)> {
        self.requests.borrow().clone()
    }

    /// What servers were asked so far.
    pub fn fetched(&self) -> Vec<HttpRequest> {
        self.fetched.borrow().clone()
    }

    /// What was logged so far.
    pub fn log_lines(&self) -> Vec<(Level, String)> {
        self.log.borrow().clone()
    }
}

fn reply(text: impl Into<String>, finish_reason: FinishReason) -> Reply {
    Reply {
        text: text.into(),
        finish_reason,
        usage: None,
        logprobs: Vec::new(),
    }
}

fn next<T>(script: &mut VecDeque<Result<T, Error>>) -> Result<T, Error> {
    script.pop_front().unwrap_or_else(|| {
        Err(Error::new(
            "script-ended",
            "more requests than scripted replies",
        ))
    })
}

impl Host for ScriptedHost {
    fn describe_model(&self, _role: &str) -> Result<ModelDescription, Error> {
        Ok(self.model.clone().unwrap_or(ModelDescription {
            model: "scripted".into(),
            context_length: Some(8192),
            completion: true,
            chat: true,
            json_schema: true,
            grammar: false,
            logprobs: false,
            logit_bias: false,
            count_tokens: false,
            log_likelihood: false,
        }))
    }

    fn complete_many(
        &self,
        role: &str,
        requests: &[Request],
    ) -> Result<Vec<Result<Reply, Error>>, Error> {
        let asked = requests.iter().map(|r| (role.to_owned(), r.clone()));
        self.requests.borrow_mut().extend(asked);
        let mut script = self.replies.borrow_mut();
        Ok(requests.iter().map(|_| next(&mut script)).collect())
    }

    fn count_tokens(&self, _role: &str, text: &str) -> Result<u32, Error> {
        Ok(u32::try_from(text.split_whitespace().count()).unwrap_or(u32::MAX))
    }

    fn log_likelihood(
        &self,
        _role: &str,
        _prompt: &Prompt,
        _answer: &str,
    ) -> Result<Likelihood, Error> {
        Err(Error::new(
            "unsupported",
            "the scripted host has no log-likelihoods",
        ))
    }

    fn fetch_many(
        &self,
        requests: &[HttpRequest],
    ) -> Result<Vec<Result<HttpResponse, Error>>, Error> {
        self.fetched.borrow_mut().extend_from_slice(requests);
        let mut script = self.responses.borrow_mut();
        Ok(requests.iter().map(|_| next(&mut script)).collect())
    }

    fn accepted(&self, start: u64, count: u32) -> Vec<Example> {
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        let visible = self.accepted.iter().skip(start);
        visible.take(count as usize).cloned().collect()
    }

    fn log(&self, level: Level, message: &str) {
        self.log.borrow_mut().push((level, message.to_owned()));
    }

    fn progress(&self, _done: u64, _total: u64) {}
}
