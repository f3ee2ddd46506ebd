//! Models behind roles, and the servers that plugins ask: providers, limits, prices, the record of
//! what was asked.

mod budget;
mod fetch;
mod flights;
mod local;
pub mod openai;
mod provider;
mod rate;
mod request;
mod served;
mod service;

pub use budget::{BEYOND_LIMITS, Exhausted};
pub use local::LocalProvider;
pub use openai::OpenAiProvider;
pub use provider::{Attempt, BoxFuture, Failure, FailureKind, Provider};
pub(crate) use request::canonical;
pub use served::Served;
pub use service::{Asker, Service};

use crate::counted::counted;

/// Why a run ends before its work is done, for a reason that is no plugin's fault. What was
/// recorded stays, and the run can be taken up again.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// A model will answer nothing until a person changes something.
    #[error("model `{model}`: {failure}")]
    Fatal {
        /// Name of the model in the manifest.
        model: String,
        /// What it said.
        failure: Failure,
    },
    /// Too many requests in a row failed for good.
    #[error(
        "model `{model}` failed {} in a row for good, the last with: {failure}. `pacos run` goes on from here once it answers again", counted(*count, "request", "requests")
    )]
    Failing {
        /// Name of the model in the manifest.
        model: String,
        /// How many.
        count: u32,
        /// The last failure.
        failure: Failure,
    },
    /// Too many requests in a row to one server brought nothing.
    #[error(
        "the server {server} failed {count} requests in a row, the last with: {error}. `pacos run` goes on from here once it answers again", error = .error.message
    )]
    ServerFailing {
        /// Its name, as granted.
        server: crate::manifest::ServerName,
        /// How many.
        count: u32,
        /// The last failure.
        error: pacos_plugin::Error,
    },
    /// Nobody is at a server's address.
    #[error(
        "the server {server} is not there, after {attempts} attempts: {error}; `pacos run` goes on from here once it is", error = .error.message
    )]
    ServerGone {
        /// Its name, as granted.
        server: crate::manifest::ServerName,
        /// How many.
        attempts: u32,
        /// The last failure.
        error: pacos_plugin::Error,
    },
    /// The budget does not cover the next request.
    #[error("the budget is spent: {0}. Raise [budget] {key} to go on", key = .0.key)]
    Budget(Exhausted),
    /// A plugin asked for something else than it did before.
    #[error(
        "plugin is not deterministic: request {ordinal} of {stage} at {place} differs from the one recorded. Restore the plugin that made the record, or start a new run"
    )]
    NotDeterministic {
        /// Stage.
        stage: String,
        /// Unit, record or item.
        place: String,
        /// Which request of the place.
        ordinal: u32,
    },
    /// The ledger could not be read or written.
    #[error(transparent)]
    Ledger(crate::ledger::LedgerError),
    /// The user asked for it.
    #[error("interrupted; `pacos run` goes on from here")]
    Interrupted,
}
