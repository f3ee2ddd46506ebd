//! The imports of a component, over [`HostCalls`].

use std::sync::Arc;

use pacos_plugin as plain;

use super::{
    State,
    bindings::guest::pacos::plugin::{accepted, http, log, models, types},
    convert::all,
};
use crate::{models::Stop, plugin::Refusal};

/// The run ends. Travels through wasmtime as the cause of a trap.
#[derive(Debug, thiserror::Error)]
#[error("the run was stopped")]
pub(super) struct Stopped(pub(super) Arc<Stop>);

/// What a guest sees of a refusal: an error, or nothing, because it does not come back.
fn told<T, U>(
    result: Result<T, Refusal>,
    convert: impl FnOnce(T) -> U,
) -> wasmtime::Result<Result<U, types::Error>> {
    match result {
        Ok(value) => Ok(Ok(convert(value))),
        Err(Refusal::Error(error)) => Ok(Err(error.into())),
        Err(Refusal::Stop(stop)) => Err(Stopped(stop).into()),
    }
}

/// What each of many requests brought.
fn each<T, U: From<T>>(results: Vec<Result<T, plain::Error>>) -> Vec<Result<U, types::Error>> {
    let results = results.into_iter();
    results
        .map(|result| result.map(Into::into).map_err(Into::into))
        .collect()
}

/// What one request brought.
fn only<T>(results: Result<Vec<Result<T, types::Error>>, types::Error>) -> Result<T, types::Error> {
    results.and_then(|mut results| match (results.pop(), results.len()) {
        (Some(result), 0) => result,
        _ => Err(
            plain::Error::new("host-broke-contract", "one request did not bring one reply").into(),
        ),
    })
}

impl types::Host for State {}

impl models::Host for State {
    async fn describe(
        &mut self,
        role: String,
    ) -> wasmtime::Result<Result<models::ModelDescription, types::Error>> {
        told(self.calls.describe_model(&role), Into::into)
    }

    async fn complete(
        &mut self,
        role: String,
        request: models::Request,
    ) -> wasmtime::Result<Result<models::Reply, types::Error>> {
        Ok(only(self.complete_many(role, vec![request]).await?))
    }

    async fn complete_many(
        &mut self,
        role: String,
        requests: Vec<models::Request>,
    ) -> wasmtime::Result<Result<Vec<Result<models::Reply, types::Error>>, types::Error>> {
        let calls = self.calls.clone();
        let replies = calls.complete_many(&role, all(requests)).await;
        told(replies, each)
    }

    async fn count_tokens(
        &mut self,
        role: String,
        text: String,
    ) -> wasmtime::Result<Result<u32, types::Error>> {
        told(self.calls.count_tokens(&role, &text), |count| count)
    }

    async fn log_likelihood(
        &mut self,
        role: String,
        prompt: models::Prompt,
        answer: String,
    ) -> wasmtime::Result<Result<models::Likelihood, types::Error>> {
        let calls = self.calls.clone();
        let likelihood = calls.log_likelihood(&role, &prompt.into(), &answer).await;
        told(likelihood, Into::into)
    }
}

impl http::Host for State {
    async fn fetch(
        &mut self,
        request: http::HttpRequest,
    ) -> wasmtime::Result<Result<http::HttpResponse, types::Error>> {
        Ok(only(self.fetch_many(vec![request]).await?))
    }

    async fn fetch_many(
        &mut self,
        requests: Vec<http::HttpRequest>,
    ) -> wasmtime::Result<Result<Vec<Result<http::HttpResponse, types::Error>>, types::Error>> {
        let calls = self.calls.clone();
        let responses = calls.fetch_many(all(requests)).await;
        told(responses, each)
    }
}

impl log::Host for State {
    async fn write(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        self.calls.log(level.into(), &message);
        if let log::Level::Error = level {
            self.last_error = Some(message);
        }
        Ok(())
    }

    async fn progress(&mut self, done: u64, total: u64) -> wasmtime::Result<()> {
        self.calls.progress(done, total);
        Ok(())
    }
}

impl accepted::Host for State {
    async fn read(&mut self, start: u64, count: u32) -> wasmtime::Result<Vec<accepted::Example>> {
        match self.calls.accepted(start, count) {
            Ok(examples) => Ok(all(examples)),
            Err(Refusal::Stop(stop)) => Err(Stopped(stop).into()),
            Err(Refusal::Error(error)) => Err(wasmtime::Error::msg(error.message)),
        }
    }
}
