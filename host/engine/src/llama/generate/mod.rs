//! Inference: many requests decoded together, each as if it were alone.

mod constraint;
mod engine;
mod forward;
mod kernel;
mod model;
mod prefix;
mod request;
mod sampler;
mod scheduler;
mod streaming;
#[cfg(test)]
mod tests;
mod text;

pub use engine::{Engine, EngineOptions};
pub(in crate::llama) use kernel::{Format, Stored};
pub use model::InferenceModel;
pub use request::{
    Completion, CompletionRequest, Constraint, FinishReason, GenerateError, LogLikelihood, Prompt,
    TokenLogProb,
};
pub use streaming::{CompletionStream, StreamEvent};
