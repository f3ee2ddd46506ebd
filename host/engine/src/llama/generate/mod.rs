//! Inference: many requests decoded together, each as if it were alone.

#[cfg(test)]
mod batch_tests;
mod constraint;
mod engine;
mod forward;
mod kernel;
mod kv_cache;
mod model;
#[cfg(test)]
mod parity_tests;
mod prefix;
mod request;
mod sampler;
mod scheduler;
mod sequence;
mod streaming;
#[cfg(test)]
mod tests;
mod text;
mod writing;

pub use engine::{Engine, EngineOptions};
pub(in crate::llama) use kernel::{Format, Stored};
pub use kv_cache::KvCacheUsage;
pub use model::InferenceModel;
pub use request::{
    Completion, CompletionRequest, Constraint, FinishReason, GenerateError, LogLikelihood, Prompt,
    TokenLogProb,
};
pub use streaming::{CompletionStream, StreamEvent};
