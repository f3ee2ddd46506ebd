//! The seam between the training loop and the arithmetic: loss and gradients of one micro-batch.

use std::ops::Range;

use super::parameters::ParameterSet;

/// Whole sequences laid end to end, with no attention from one to another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MicroBatch {
    /// Token ids of all sequences.
    pub input_ids: Vec<u32>,
    /// Position of each token within its own sequence, counted from 0.
    pub positions: Vec<u32>,
    /// Where each sequence lies in `input_ids`.
    pub sequences: Vec<Range<usize>>,
    /// Indices into `input_ids` whose next token is to be predicted, ascending.
    pub label_positions: Vec<usize>,
    /// That next token, one for each of `label_positions`.
    pub targets: Vec<u32>,
    /// Index of the row, in the list given to the trainer, behind each sequence.
    pub rows: Vec<usize>,
}

/// A model that can be trained: a loss, and its gradient added to a buffer.
pub trait Engine {
    /// Adds `scale · ∂(summed loss)/∂(parameters)` to `gradients` and returns the summed loss.
    ///
    /// The summed loss is `Σ −ln p(target)` in nats over the labels of `batch`, unscaled. With `scale`
    /// = 1 / (labels of the whole optimizer step), accumulation over micro-batches is exact.
    fn accumulate_gradients(
        &mut self,
        parameters: &ParameterSet,
        batch: &MicroBatch,
        scale: f32,
        gradients: &mut ParameterSet,
    ) -> f64;

    /// The summed loss alone.
    fn loss(&mut self, parameters: &ParameterSet, batch: &MicroBatch) -> f64;
}
