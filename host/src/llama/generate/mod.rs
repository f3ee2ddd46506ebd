//! Inference: many requests decoded together, each as if it were alone.

mod constraint;
mod engine;
mod forward;
mod kernel;
mod request;
mod sampler;
mod scheduler;
#[cfg(test)]
mod tests;

pub use engine::{Engine, EngineOptions};
pub use request::{
    Completion, CompletionRequest, Constraint, FinishReason, GenerateError, LogLikelihood, Prompt,
    TokenLogProb,
};
