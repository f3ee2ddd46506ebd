//! Inference: many requests decoded together, each as if it were alone.

mod constraint;
mod engine;
mod forward;
mod kernel;
mod model;
mod request;
mod sampler;
mod scheduler;
#[cfg(test)]
mod tests;

pub use engine::{Engine, EngineOptions};
pub(in crate::llama) use kernel::Stored;
pub use model::InferenceModel;
pub use request::{
    Completion, CompletionRequest, Constraint, FinishReason, GenerateError, LogLikelihood, Prompt,
    TokenLogProb,
};
