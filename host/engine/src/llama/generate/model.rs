//! A model read for inference: weights of few bits stay as the file has them.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor};

use super::kernel::Stored;
use crate::llama::config::LlamaConfig;
use crate::llama::source::{LocalModel, Model, OnProgress, SourceError};
use crate::llama::tokenizer::Tokenizer;
use crate::llama::weights::{Weights, WeightsError};
use crate::trainer::memory::available_bytes;

/// A model in memory, for inference alone.
pub struct InferenceModel {
    pub(super) config: LlamaConfig,
    pub(super) weights: StoredWeights,
    pub(super) tokenizer: Tokenizer,
    pub(super) identity: String,
}

impl InferenceModel {
    /// Reads a model. Matrices in f16 and bf16 and the blocks of a GGUF file's `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`,
    /// `Q8_0`, `Q4_K`, `Q5_K` and `Q6_K` matrices are kept; all else becomes f32. Both give the same answers, to the bit.
    ///
    /// # Errors
    /// As [`LocalModel::open`]; [`SourceError::TooLarge`] before anything is read.
    pub fn open(model: &LocalModel, progress: OnProgress<'_>) -> Result<Self, SourceError> {
        model.fits(available_bytes())?;
        // Three things that take about as long as each other, and do not need each other.
        std::thread::scope(|scope| {
            let weights = scope.spawn(|| -> Result<StoredWeights, SourceError> {
                let config = LlamaConfig::load(&model.path)?;
                Ok(StoredWeights::read(&model.path, &config)?)
            });
            let shape = scope.spawn(|| model.shape());
            let identity = model.identity(progress);
            let wait = "a panic goes on where it is waited for";
            // What is wrong with the shape explains what is wrong with the weights.
            let (config, tokenizer) = shape.join().expect(wait)?;
            Ok(Self {
                config,
                weights: weights.join().expect(wait)?,
                tokenizer,
                identity: identity?,
            })
        })
    }
}

impl From<Model> for InferenceModel {
    fn from(model: Model) -> Self {
        Self {
            config: model.config,
            weights: model.weights.into(),
            tokenizer: model.tokenizer,
            identity: model.identity,
        }
    }
}

/// Weights by Hugging Face name, in Hugging Face's layout.
pub(super) struct StoredWeights(BTreeMap<String, Weight>);

enum Weight {
    Tensor(Tensor),
    Stored(Stored),
}

impl From<Weights> for StoredWeights {
    fn from(weights: Weights) -> Self {
        let tensors = weights.tensors.into_iter();
        Self(tensors.map(|(n, t)| (n, Weight::Tensor(t))).collect())
    }
}

impl StoredWeights {
    fn read(path: &Path, config: &LlamaConfig) -> Result<Self, WeightsError> {
        let mut reader = Weights::reader(path, config)?;
        let mut weights = BTreeMap::new();
        for (name, _) in config.tensor_shapes() {
            let stored = reader.stored(&name)?;
            weights.insert(name, Weight::Stored(stored));
        }
        Ok(Self(weights))
    }

    /// Takes a tensor out, so that the model is not held twice where it is ours alone.
    pub(super) fn take(&mut self, name: &str) -> candle_core::Result<Stored> {
        match self.0.remove(name) {
            None => candle_core::bail!("weights hold no tensor named {name}"),
            Some(Weight::Stored(stored)) => Ok(stored),
            Some(Weight::Tensor(tensor)) => {
                let numbers = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
                Ok(Stored::F32(numbers))
            }
        }
    }

    /// Takes a norm's weights out.
    pub(super) fn take_vector(&mut self, name: &str) -> candle_core::Result<Vec<f32>> {
        match self.take(name)? {
            Stored::F32(numbers) => Ok(numbers),
            Stored::Blocks(..) => {
                candle_core::bail!("tensor {name} is a matrix, expected a vector")
            }
        }
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
