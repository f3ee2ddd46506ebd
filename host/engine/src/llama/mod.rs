//! The LLaMA family itself: configuration, weights in and out, tokenizer and inference.
//!
//! Everything here knows models and nothing of recipes, plugins or money.

pub mod config;
pub mod convert;
pub mod durable;
pub mod generate;
pub mod gguf;
pub mod rope;
pub(crate) mod safetensors_file;
pub mod source;
#[cfg(any(test, feature = "test-model"))]
pub mod test_model;
pub mod tokenizer;
pub mod weights;

pub use config::{ConfigError, LlamaConfig, RopeScaling};
pub use generate::{Engine, EngineOptions, GenerateError, InferenceModel};
pub use source::{
    FileIdentity, LocalModel, Model, ModelFiles, ModelSource, Progress, SourceError, open,
};
pub use tokenizer::{ChatMessage, Tokenizer, TokenizerError};
pub use weights::{Weights, WeightsError};
