//! A plugin's call without a model behind it: what it asks first is written down, and the call
//! ends there.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use pacos_plugin::{
    Error, Example, HttpRequest, HttpResponse, Item, Level, Likelihood, ModelDescription, Prompt,
    Reply, Request, Task, Unit,
};

use super::models::KnownModels;
use crate::{
    models::{BoxFuture, Stop},
    plugin::{CallError, HostCalls, Loaded, Refusal},
};

/// A request, and the role that it is put to.
pub(super) type Asked = (String, Request);

/// [`HostCalls`] that ask nobody. A call ends at its first round of requests: what a plugin would
/// ask after that depends on the replies.
pub(super) struct Rehearsal {
    title: String,
    may_ask: BTreeSet<String>,
    models: Arc<KnownModels>,
    asked: Mutex<Vec<Asked>>,
}

/// What unit 0 asks first; nothing if it is done without asking.
pub(super) async fn of_unit(
    generator: &Loaded,
    seeds: &[Task],
    unit: Unit,
    models: &Arc<KnownModels>,
) -> Result<Vec<Asked>, CallError> {
    let calls = Rehearsal::new(generator, models);
    let mut instance = generator.instance(seeds).await?;
    let end = instance.generate(unit, calls.clone(), 1).await;
    calls.asked_until(end)
}

/// What the judging of one item asks first.
pub(super) async fn of_item(
    evaluator: &Loaded,
    item: Item,
    models: &Arc<KnownModels>,
) -> Result<Vec<Asked>, CallError> {
    let calls = Rehearsal::new(evaluator, models);
    let mut instance = evaluator.instance(&[]).await?;
    let end = instance.judge_item(item, calls.clone(), 1).await;
    calls.asked_until(end)
}

impl Rehearsal {
    fn new(plugin: &Loaded, models: &Arc<KnownModels>) -> Arc<Self> {
        let granted = &plugin.recipe.grant;
        Arc::new(Rehearsal {
            title: plugin.title(),
            may_ask: roles_of(plugin)
                .filter(|role| granted.contains(&format!("models:{role}")))
                .map(str::to_owned)
                .collect(),
            models: models.clone(),
            asked: Mutex::default(),
        })
    }

    fn asked_until<T>(&self, end: Result<T, CallError>) -> Result<Vec<Asked>, CallError> {
        match end {
            Ok(_) | Err(CallError::Stopped(_)) => {
                let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(std::mem::take(&mut asked))
            }
            Err(error) => Err(error),
        }
    }

    fn model(&self, role: &str) -> Result<&super::models::KnownModel, Error> {
        if !self.may_ask.contains(role) {
            return Err(Error::new(
                "not-granted",
                format!("{} has no capability `models:{role}`", self.title),
            ));
        }
        self.models.of_role(role).ok_or_else(|| {
            let known: Vec<&str> = self.models.roles().collect();
            Error::new(
                "no-such-role",
                format!(
                    "the recipe has no role `{role}`; it has {}",
                    known.join(", ")
                ),
            )
        })
    }

    /// Writes down a round and ends the call.
    fn end(&self, role: &str, requests: Vec<Request>) -> Refusal {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let round = requests
            .into_iter()
            .map(|request| (role.to_owned(), request));
        asked.extend(round);
        Stop::Interrupted.into()
    }
}

/// The roles that a plugin wants to ask.
pub(super) fn roles_of(plugin: &Loaded) -> impl Iterator<Item = &str> {
    let capabilities = plugin.description.capabilities.iter();
    capabilities.filter_map(|capability| capability.strip_prefix("models:"))
}

/// The servers that a plugin is granted.
pub(super) fn servers_of(plugin: &Loaded) -> Vec<String> {
    let granted = plugin.recipe.grant.iter();
    let servers = granted.filter_map(|capability| capability.strip_prefix("http:"));
    servers.map(str::to_owned).collect()
}

impl HostCalls for Rehearsal {
    fn describe_model(&self, role: &str) -> Result<ModelDescription, Refusal> {
        Ok(self.model(role)?.description.clone())
    }

    fn complete_many<'a>(
        &'a self,
        role: &'a str,
        requests: Vec<Request>,
    ) -> BoxFuture<'a, Result<Vec<Result<Reply, Error>>, Refusal>> {
        Box::pin(async move {
            self.model(role)?;
            if requests.is_empty() {
                return Ok(Vec::new());
            }
            Err(self.end(role, requests))
        })
    }

    /// What comes after a response cannot be known.
    fn fetch_many(
        &self,
        _requests: Vec<HttpRequest>,
    ) -> BoxFuture<'_, Result<Vec<Result<HttpResponse, Error>>, Refusal>> {
        Box::pin(async { Err(Stop::Interrupted.into()) })
    }

    fn count_tokens(&self, role: &str, text: &str) -> Result<u32, Refusal> {
        let model = self.model(role)?;
        if !model.description.count_tokens {
            let message = format!("model `{}` does not count tokens", model.name);
            return Err(Error::new("unsupported", message).into());
        }
        Ok(u32::try_from(model.text_tokens(text)).unwrap_or(u32::MAX))
    }

    fn log_likelihood<'a>(
        &'a self,
        role: &'a str,
        prompt: &'a Prompt,
        answer: &'a str,
    ) -> BoxFuture<'a, Result<Likelihood, Refusal>> {
        Box::pin(async move {
            let model = self.model(role)?;
            if !model.description.log_likelihood {
                let message = format!("model `{}` does not report log-likelihoods", model.name);
                return Err(Error::new("unsupported", message).into());
            }
            // It reads both and writes nothing.
            let mut request = Request::completion(answer);
            match prompt {
                Prompt::Completion(text) => {
                    request.prompt = Prompt::Completion(format!("{text}{answer}"));
                }
                Prompt::Chat(messages) => {
                    let mut messages = messages.clone();
                    messages.push(pacos_plugin::Message::assistant(answer));
                    request.prompt = Prompt::Chat(messages);
                }
            }
            request.max_tokens = Some(0);
            Err(self.end(role, vec![request]))
        })
    }

    fn accepted(&self, _start: u64, _count: u32) -> Result<Vec<Example>, Refusal> {
        Ok(Vec::new())
    }

    fn log(&self, level: Level, message: &str) {
        match level {
            Level::Warn | Level::Error => tracing::warn!("{}: {message}", self.title),
            Level::Debug | Level::Info => tracing::debug!("{}: {message}", self.title),
        }
    }

    fn progress(&self, _done: u64, _total: u64) {}
}
