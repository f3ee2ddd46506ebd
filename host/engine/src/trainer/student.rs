//! The model that is being trained: its own weights, and adapters where those are trained instead.

use candle_core::Result;

use super::lora::Adapters;
use super::parameters::ParameterSet;
use crate::llama::{LlamaConfig, Weights};

/// A model in training.
#[derive(Debug)]
pub struct Student {
    /// Its weights.
    pub base: ParameterSet,
    /// What is trained in place of the weights, where anything is.
    pub adapters: Option<Adapters>,
}

impl Student {
    /// All weights are trained.
    pub fn full(base: ParameterSet) -> Self {
        Self {
            base,
            adapters: None,
        }
    }

    /// What is trained.
    pub fn trained(&self) -> &ParameterSet {
        match &self.adapters {
            Some(adapters) => &adapters.values,
            None => &self.base,
        }
    }

    /// What is trained, to change.
    pub fn trained_mut(&mut self) -> &mut ParameterSet {
        match &mut self.adapters {
            Some(adapters) => &mut adapters.values,
            None => &mut self.base,
        }
    }

    /// The weights that answer as the student does, adapters merged into them.
    ///
    /// # Errors
    /// candle's.
    pub fn into_weights(self, config: &LlamaConfig) -> Result<Weights> {
        let weights = self.base.into_weights()?;
        if let Some(adapters) = &self.adapters {
            adapters.merge_into(config, &weights)?;
        }
        Ok(weights)
    }
}
