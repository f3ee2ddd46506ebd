//! Models behind roles: providers, limits, prices, the record of what was asked.

mod provider;

pub use provider::{Attempt, BoxFuture, Failure, FailureKind, Provider};
