//! A host whose models and servers answer from a script.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use pacos_plugin::{
    Error, Example, FinishReason, HttpRequest, HttpResponse, Level, Likelihood, ModelDescription,
    Prompt, Reply, Request,
};

use super::recorded::Recorded;
use crate::{
    models::BoxFuture,
    plugin::{HostCalls, Loaded, Refusal, capability},
    servers::SoundRequest,
};

/// What a model says, or why it says nothing.
pub type Answer = Result<Reply, Error>;

/// What a server says, or why it says nothing.
pub type Response = Result<HttpResponse, Error>;

/// One line of a script.
#[derive(Debug, Clone, PartialEq)]
pub enum Scripted {
    /// A model's reply.
    Reply(Reply),
    /// A server's response.
    Response(HttpResponse),
    /// A failure, of whoever is asked.
    Failure(Error),
}

/// What the requests of a call were answered, in order; shared with a call that is the same one
/// again.
pub type Answered = Arc<Mutex<Vec<Scripted>>>;

/// What a plugin asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    /// A model, by role.
    Model(String, Request),
    /// A server.
    Server(HttpRequest),
}

/// Where replies come from.
pub enum Replies {
    /// One after the other, whatever is asked of whom.
    InOrder(Mutex<VecDeque<Scripted>>),
    /// What a run has on record.
    Recorded(Recorded),
    /// Made from what is asked, and its number within the call.
    Made {
        /// By models.
        model: fn(&str, &Request, usize) -> Answer,
        /// By servers.
        server: fn(&HttpRequest) -> Response,
    },
}

impl Replies {
    /// Replies in this order; a request beyond the last one fails.
    pub fn in_order(answers: impl IntoIterator<Item = Scripted>) -> Arc<Self> {
        Arc::new(Replies::InOrder(Mutex::new(answers.into_iter().collect())))
    }

    /// How many replies nobody has asked for yet.
    #[must_use]
    pub fn left(&self) -> usize {
        match self {
            Replies::InOrder(answers) => held(answers).len(),
            Replies::Recorded(_) | Replies::Made { .. } => 0,
        }
    }

    /// Of request `number` of a call about a record of this seed.
    fn of_model(&self, role: &str, request: &Request, seed: u64, number: usize) -> Answer {
        let answers = match self {
            Replies::Recorded(recorded) => return recorded.reply(role, request, seed, number),
            Replies::Made { model, .. } => return model(role, request, number),
            Replies::InOrder(answers) => answers,
        };
        match held(answers).pop_front() {
            Some(Scripted::Reply(reply)) => Ok(reply),
            Some(Scripted::Failure(error)) => Err(error),
            Some(Scripted::Response(_)) => Err(Error::new(
                "script-mismatch",
                format!("a request to `{role}` meets a server's response in the script"),
            )),
            None => {
                let message = format!("no reply is left for a request to `{role}`");
                Err(Error::new("script-ended", message))
            }
        }
    }

    fn of_server(&self, sound: &SoundRequest, request: &HttpRequest) -> Response {
        let server = &sound.server;
        let answers = match self {
            Replies::Recorded(recorded) => return recorded.response(sound),
            Replies::Made { server, .. } => return server(request),
            Replies::InOrder(answers) => answers,
        };
        match held(answers).pop_front() {
            Some(Scripted::Response(response)) => Ok(response),
            Some(Scripted::Failure(error)) => Err(error),
            Some(Scripted::Reply(_)) => Err(Error::new(
                "script-mismatch",
                format!("a request to {server} meets a model's reply in the script"),
            )),
            None => {
                let message = format!("no response is left for a request to {server}");
                Err(Error::new("script-ended", message))
            }
        }
    }
}

/// A reply that ended by itself.
#[must_use]
pub fn reply(text: impl Into<String>) -> Reply {
    Reply {
        text: text.into(),
        finish_reason: FinishReason::Stop,
        usage: None,
        logprobs: Vec::new(),
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The host of one call into a plugin. Every capability that the plugin declares is granted, and
/// no other; every role has the same model, which takes completions, chats and JSON Schemas.
/// Nothing leaves this machine.
pub struct ScriptedCalls {
    title: String,
    replies: Arc<Replies>,
    capabilities: Vec<String>,
    accepted: Vec<Example>,
    /// Of the record that the call is about.
    seed: u64,
    answered: Answered,
    asked: Mutex<Vec<Asked>>,
    denied: Mutex<Vec<String>>,
    reads: Mutex<Vec<(u64, u32)>>,
}

impl ScriptedCalls {
    /// The host of a call into `plugin`.
    #[must_use]
    pub fn new(plugin: &Loaded, replies: &Arc<Replies>) -> Self {
        ScriptedCalls {
            title: plugin.title(),
            replies: replies.clone(),
            capabilities: plugin.description.capabilities.clone(),
            accepted: Vec::new(),
            seed: 0,
            answered: Arc::default(),
            asked: Mutex::default(),
            denied: Mutex::default(),
            reads: Mutex::default(),
        }
    }

    /// Sets what has been accepted so far.
    #[must_use]
    pub fn with_accepted(mut self, accepted: Vec<Example>) -> Self {
        self.accepted = accepted;
        self
    }

    /// Sets the seed of the record that the call is about.
    #[must_use]
    pub fn about(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Makes it the same call as an earlier one: what was answered there is answered here.
    #[must_use]
    pub fn again(mut self, answered: &Answered) -> Self {
        self.answered = answered.clone();
        self
    }

    /// The next answer: that of the same request in an earlier try, or `fresh`.
    fn answer(&self, number: usize, fresh: impl FnOnce() -> Scripted) -> Scripted {
        let mut answered = held(&self.answered);
        if let Some(earlier) = answered.get(number) {
            return earlier.clone();
        }
        let answer = fresh();
        answered.push(answer.clone());
        answer
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        held(&self.asked).clone()
    }

    /// Capabilities that were used though the plugin does not declare them.
    pub fn denied(&self) -> Vec<String> {
        held(&self.denied).clone()
    }

    /// Which accepted examples were read: from where, and how many.
    pub fn reads(&self) -> Vec<(u64, u32)> {
        held(&self.reads).clone()
    }

    fn check_role(&self, role: &str) -> Result<(), Error> {
        self.check(format!("models:{role}"))
    }

    fn check(&self, capability: String) -> Result<(), Error> {
        let mut declared = self.capabilities.iter();
        if declared.any(|declared| capability::covers(declared, &capability)) {
            return Ok(());
        }
        held(&self.denied).push(capability.clone());
        let message = format!(
            "the plugin has no capability `{capability}`: its author adds it in `describe`"
        );
        Err(Error::new("not-granted", message))
    }
}

fn asks_otherwise() -> Error {
    let message = "tried once more, the plugin asks somebody else than it asked before";
    Error::new("not-deterministic", message)
}

impl HostCalls for ScriptedCalls {
    fn describe_model(&self, role: &str) -> Result<ModelDescription, Refusal> {
        self.check_role(role)?;
        Ok(ModelDescription {
            model: "scripted".into(),
            context_length: Some(8192),
            completion: true,
            chat: true,
            json_schema: true,
            grammar: false,
            logprobs: false,
            logit_bias: false,
            count_tokens: true,
            log_likelihood: false,
        })
    }

    fn complete_many<'a>(
        &'a self,
        role: &'a str,
        requests: Vec<Request>,
    ) -> BoxFuture<'a, Result<Vec<Result<Reply, Error>>, Refusal>> {
        Box::pin(async move {
            self.check_role(role)?;
            let mut asked = held(&self.asked);
            let answer = |request: Request| {
                let number = asked.len();
                let answer = self.answer(number, || {
                    let fresh = self.replies.of_model(role, &request, self.seed, number);
                    fresh.map_or_else(Scripted::Failure, Scripted::Reply)
                });
                asked.push(Asked::Model(role.to_owned(), request));
                match answer {
                    Scripted::Reply(reply) => Ok(reply),
                    Scripted::Failure(error) => Err(error),
                    Scripted::Response(_) => Err(asks_otherwise()),
                }
            };
            Ok(requests.into_iter().map(answer).collect())
        })
    }

    fn fetch_many(
        &self,
        requests: Vec<HttpRequest>,
    ) -> BoxFuture<'_, Result<Vec<Response>, Refusal>> {
        let answer = |request: HttpRequest| {
            let sound = SoundRequest::read(&request)?;
            self.check(sound.server.capability())?;
            let mut asked = held(&self.asked);
            let answer = self.answer(asked.len(), || {
                let fresh = self.replies.of_server(&sound, &request);
                fresh.map_or_else(Scripted::Failure, Scripted::Response)
            });
            asked.push(Asked::Server(request));
            match answer {
                Scripted::Response(response) => Ok(response),
                Scripted::Failure(error) => Err(error),
                Scripted::Reply(_) => Err(asks_otherwise()),
            }
        };
        let responses = requests.into_iter().map(answer).collect();
        Box::pin(async { Ok(responses) })
    }

    fn count_tokens(&self, role: &str, text: &str) -> Result<u32, Refusal> {
        self.check_role(role)?;
        if let Replies::Recorded(recorded) = &*self.replies {
            return Err(recorded.unrecorded("how many tokens a text has").into());
        }
        Ok(u32::try_from(text.split_whitespace().count()).unwrap_or(u32::MAX))
    }

    fn log_likelihood<'a>(
        &'a self,
        role: &'a str,
        _prompt: &'a Prompt,
        _answer: &'a str,
    ) -> BoxFuture<'a, Result<Likelihood, Refusal>> {
        Box::pin(async move {
            self.check_role(role)?;
            if let Replies::Recorded(recorded) = &*self.replies {
                return Err(recorded
                    .unrecorded("how likely a model finds a text")
                    .into());
            }
            let message = "a scripted model has no log-likelihoods";
            Err(Error::new("unsupported", message).into())
        })
    }

    fn accepted(&self, start: u64, count: u32) -> Result<Vec<Example>, Refusal> {
        held(&self.reads).push((start, count));
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        let examples = self.accepted.iter().skip(start).take(count as usize);
        Ok(examples.cloned().collect())
    }

    fn log(&self, level: Level, message: &str) {
        let plugin = &self.title;
        match level {
            Level::Debug | Level::Info => tracing::info!(plugin, "{message}"),
            Level::Warn => tracing::warn!(plugin, "{message}"),
            Level::Error => tracing::error!(plugin, "{message}"),
        }
    }

    fn progress(&self, _done: u64, _total: u64) {}
}
