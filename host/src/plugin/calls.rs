//! What the host does for a plugin while a call is under way.

use std::sync::Arc;

use pacos_plugin::{
    Error, Example, HttpRequest, HttpResponse, Level, Likelihood, ModelDescription, Prompt, Reply,
    Request,
};

use crate::models::BoxFuture;

/// The host, behind the imports of a component and the table lent to a library. One object a
/// unit of work: it knows who asks, and counts the requests.
pub trait HostCalls: Send + Sync {
    /// As [`pacos_plugin::Host::describe_model`].
    fn describe_model(&self, role: &str) -> Result<ModelDescription, Refusal>;

    /// As [`pacos_plugin::Host::complete_many`].
    fn complete_many<'a>(
        &'a self,
        role: &'a str,
        requests: Vec<Request>,
    ) -> BoxFuture<'a, Result<Vec<Result<Reply, Error>>, Refusal>>;

    /// As [`pacos_plugin::Host::count_tokens`].
    fn count_tokens(&self, role: &str, text: &str) -> Result<u32, Refusal>;

    /// As [`pacos_plugin::Host::log_likelihood`].
    fn log_likelihood<'a>(
        &'a self,
        role: &'a str,
        prompt: &'a Prompt,
        answer: &'a str,
    ) -> BoxFuture<'a, Result<Likelihood, Refusal>>;

    /// As [`pacos_plugin::Host::fetch_many`].
    fn fetch_many(
        &self,
        requests: Vec<HttpRequest>,
    ) -> BoxFuture<'_, Result<Vec<Result<HttpResponse, Error>>, Refusal>>;

    /// As [`pacos_plugin::Host::accepted`].
    fn accepted(&self, start: u64, count: u32) -> Result<Vec<Example>, Refusal>;

    /// As [`pacos_plugin::Host::log`].
    fn log(&self, level: Level, message: &str);

    /// As [`pacos_plugin::Host::progress`].
    fn progress(&self, done: u64, total: u64);
}

/// Why the host would not do what a plugin asked.
#[derive(Debug, Clone)]
pub enum Refusal {
    /// The plugin is told, and may go on.
    Error(Error),
    /// The run ends; the plugin does not come back from the call.
    Stop(Arc<crate::models::Stop>),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal::Error(error)
    }
}

impl From<crate::models::Stop> for Refusal {
    fn from(stop: crate::models::Stop) -> Self {
        Refusal::Stop(Arc::new(stop))
    }
}

/// A host that has nothing to give, for `describe`, `configure` and `start`.
pub struct NoCalls;

fn not_now() -> Refusal {
    Refusal::Error(Error::new(
        "not-now",
        "models and servers can be asked only while a unit, a batch or an item is under way",
    ))
}

impl HostCalls for NoCalls {
    fn describe_model(&self, _role: &str) -> Result<ModelDescription, Refusal> {
        Err(not_now())
    }

    fn complete_many<'a>(
        &'a self,
        _role: &'a str,
        _requests: Vec<Request>,
    ) -> BoxFuture<'a, Result<Vec<Result<Reply, Error>>, Refusal>> {
        Box::pin(async { Err(not_now()) })
    }

    fn count_tokens(&self, _role: &str, _text: &str) -> Result<u32, Refusal> {
        Err(not_now())
    }

    fn log_likelihood<'a>(
        &'a self,
        _role: &'a str,
        _prompt: &'a Prompt,
        _answer: &'a str,
    ) -> BoxFuture<'a, Result<Likelihood, Refusal>> {
        Box::pin(async { Err(not_now()) })
    }

    fn fetch_many(
        &self,
        _requests: Vec<HttpRequest>,
    ) -> BoxFuture<'_, Result<Vec<Result<HttpResponse, Error>>, Refusal>> {
        Box::pin(async { Err(not_now()) })
    }

    fn accepted(&self, _start: u64, _count: u32) -> Result<Vec<Example>, Refusal> {
        Ok(Vec::new())
    }

    fn log(&self, level: Level, message: &str) {
        tracing::debug!(?level, message, "plugin");
    }

    fn progress(&self, _done: u64, _total: u64) {}
}
