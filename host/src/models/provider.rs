//! What the host asks of whoever runs a model.

use std::{future::Future, pin::Pin, time::Duration};

use pacos_plugin::{Likelihood, ModelDescription, Prompt, Reply, Request};

/// A boxed future, so that providers can stand behind one type.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One model, wherever it runs. A provider makes a single attempt: retries, limits, prices and
/// records are the service's.
pub trait Provider: Send + Sync {
    /// What can be asked of it.
    fn describe(&self) -> ModelDescription;

    /// What identifies the model in a request's key: equal strings promise equal meaning.
    fn identity(&self) -> String;

    /// Whether it needs a seed for every request. The host then gives one that derives from the
    /// run's, so that a model without randomness of its own still varies.
    fn wants_seed(&self) -> bool {
        false
    }

    /// Sends one request once.
    fn attempt<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Attempt>;

    /// An upper bound of the prompt's tokens, for the budget.
    fn prompt_token_bound(&self, request: &Request) -> u64;

    /// Tokens of `text`, where the provider can say.
    fn count_tokens(&self, text: &str) -> Option<u32> {
        let _ = text;
        None
    }

    /// Log-likelihood of `answer` after `prompt`, where the provider can say.
    fn log_likelihood<'a>(
        &'a self,
        prompt: &'a Prompt,
        answer: &'a str,
    ) -> BoxFuture<'a, Result<Likelihood, Failure>> {
        let _ = (prompt, answer);
        Box::pin(async {
            Err(Failure::refused(
                "unsupported",
                "this model does not report log-likelihoods",
            ))
        })
    }

    /// Asks the server whether it is there and knows the model, without spending anything.
    fn probe(&self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }
}

/// What one attempt brought: the bytes as they came, and what they mean.
#[derive(Debug)]
pub struct Attempt {
    /// HTTP status, where there was one.
    pub status: Option<u16>,
    /// The body as it came, whole or cut; recorded before anything is made of it.
    pub body: Vec<u8>,
    /// What it means.
    pub outcome: Result<Reply, Failure>,
}

/// Why an attempt brought no reply.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Kebab-case, for programs: `rate-limited`, `unauthorized`, `timed-out`, `not-json`, ...
    pub code: String,
    /// One sentence for a person, with the server's own words where it had some.
    pub message: String,
    /// What follows from it.
    pub kind: FailureKind,
}

/// What follows from a failure.
#[derive(Debug, Clone, PartialEq)]
pub enum FailureKind {
    /// Worth another attempt, not before the given time where the server named one.
    Passing {
        /// `Retry-After`.
        after: Option<Duration>,
    },
    /// This request will never be answered; others may be.
    Refused,
    /// No request to this model will be answered until a person changes something.
    Fatal,
}

impl Failure {
    /// Worth another attempt.
    pub fn passing(code: &str, message: impl Into<String>) -> Self {
        Failure {
            code: code.into(),
            message: message.into(),
            kind: FailureKind::Passing { after: None },
        }
    }

    /// This request will never be answered.
    pub fn refused(code: &str, message: impl Into<String>) -> Self {
        Failure {
            code: code.into(),
            message: message.into(),
            kind: FailureKind::Refused,
        }
    }

    /// Nothing will be answered until a person changes something.
    pub fn fatal(code: &str, message: impl Into<String>) -> Self {
        Failure {
            code: code.into(),
            message: message.into(),
            kind: FailureKind::Fatal,
        }
    }
}
