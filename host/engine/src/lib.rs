//! The LLaMA family as Pacos runs and trains it: [`llama`] is the model itself, [`trainer`] what
//! teaches it. Knows nothing of recipes, plugins or money; the host is built on it.

pub mod digest;
pub mod download;
pub mod llama;
pub mod trainer;
