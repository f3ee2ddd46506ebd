//! A host whose models answer from a script.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use pacos_plugin::{
    Error, Example, FinishReason, Level, Likelihood, ModelDescription, Prompt, Reply, Request,
};

use crate::{
    models::BoxFuture,
    plugin::{HostCalls, Loaded, Refusal},
};

/// What a model says, or why it says nothing.
pub type Answer = Result<Reply, Error>;

/// Where replies come from.
pub enum Replies {
    /// One after the other, whatever is asked of whom.
    InOrder(Mutex<VecDeque<Answer>>),
    /// Made from the role, the request and its number within the call.
    Made(fn(&str, &Request, usize) -> Answer),
}

impl Replies {
    /// Replies in this order; a request beyond the last one fails.
    pub fn in_order(answers: impl IntoIterator<Item = Answer>) -> Arc<Self> {
        Arc::new(Replies::InOrder(Mutex::new(answers.into_iter().collect())))
    }

    /// How many replies nobody has asked for yet.
    #[must_use]
    pub fn left(&self) -> usize {
        match self {
            Replies::InOrder(answers) => held(answers).len(),
            Replies::Made(_) => 0,
        }
    }

    fn next(&self, role: &str, request: &Request, number: usize) -> Answer {
        match self {
            Replies::InOrder(answers) => held(answers).pop_front().unwrap_or_else(|| {
                let message = format!("no reply is left for a request to `{role}`");
                Err(Error::new("script-ended", message))
            }),
            Replies::Made(make) => make(role, request, number),
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
pub struct ScriptedCalls {
    title: String,
    replies: Arc<Replies>,
    capabilities: BTreeSet<String>,
    accepted: Vec<Example>,
    asked: Mutex<Vec<(String, Request)>>,
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
            capabilities: plugin.description.capabilities.iter().cloned().collect(),
            accepted: Vec::new(),
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

    /// What was asked so far, with the role that it was asked of.
    pub fn asked(&self) -> Vec<(String, Request)> {
        held(&self.asked).clone()
    }

    /// Roles that were asked though the plugin does not declare them.
    pub fn denied(&self) -> Vec<String> {
        held(&self.denied).clone()
    }

    /// Which accepted examples were read: from where, and how many.
    pub fn reads(&self) -> Vec<(u64, u32)> {
        held(&self.reads).clone()
    }

    fn check_role(&self, role: &str) -> Result<(), Error> {
        let capability = format!("models:{role}");
        if self.capabilities.contains(&capability) {
            return Ok(());
        }
        held(&self.denied).push(role.to_owned());
        let message = format!(
            "the plugin has no capability `{capability}`: its author adds it in `describe`"
        );
        Err(Error::new("not-granted", message))
    }
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
                let answer = self.replies.next(role, &request, asked.len());
                asked.push((role.to_owned(), request));
                answer
            };
            Ok(requests.into_iter().map(answer).collect())
        })
    }

    fn count_tokens(&self, role: &str, text: &str) -> Result<u32, Refusal> {
        self.check_role(role)?;
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
