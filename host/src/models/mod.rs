//! Models behind roles: providers, limits, prices, the record of what was asked.

pub mod openai;
mod provider;

pub use openai::OpenAiProvider;
pub use provider::{Attempt, BoxFuture, Failure, FailureKind, Provider};
