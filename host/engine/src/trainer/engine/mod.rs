//! LLaMA forward and backward, written out by hand over buffers that are made once.
//!
//! One decoder layer (`layer.rs`) is RMSNorm, one product for query, key and value, rotary embedding,
//! causal attention, output projection, RMSNorm, one product for gate and up, SwiGLU, down projection
//! (Touvron et al., arXiv 2302.13971). The head (`head.rs`) runs on label rows only, in chunks. Nothing here
//! knows its device: all arithmetic goes through [`Operations`]. What a layer keeps for its backward
//! pass is listed in [`buffers`], which the planner prints.

mod buffers;
mod dropout;
mod head;
mod layer;
mod recompute;
#[cfg(test)]
mod tests;
mod weights;

use candle_core::{DType, Device, Result, Tensor};

use super::micro_batch::MicroBatch;
use super::operations::{Operations, PlacedSegments, Rotation};
use super::parameters::ParameterSet;
use super::student::Student;
use crate::llama::LlamaConfig;
use crate::llama::rope::RopeTable;
use buffers::{Buffers, Sizes};
pub use buffers::{Capacity, buffers};
pub use dropout::Dropout;
use dropout::PlacedDropout;
pub(in crate::trainer) use dropout::sequences;
pub use recompute::Recompute;
use weights::ModelTensors;

/// Computes losses and gradients of micro-batches.
pub struct Engine {
    config: LlamaConfig,
    operations: Box<dyn Operations>,
    device: Device,
    sizes: Sizes,
    capacity: Capacity,
    cos: Tensor,
    sin: Tensor,
    buffers: Buffers,
}

impl Engine {
    /// Makes all buffers, on a device that `operations` know.
    ///
    /// # Errors
    /// candle's, if the device has not so much memory.
    pub fn new(
        config: &LlamaConfig,
        operations: Box<dyn Operations>,
        capacity: Capacity,
        device: &Device,
    ) -> Result<Self> {
        let rope = RopeTable::new(config, capacity.tokens);
        let angles = (rope.positions(), config.head_dim / 2);
        Ok(Self {
            sizes: Sizes::of(config),
            cos: Tensor::from_slice(rope.cos(), angles, device)?,
            sin: Tensor::from_slice(rope.sin(), angles, device)?,
            buffers: Buffers::new(config, capacity, device)?,
            config: config.clone(),
            operations,
            device: device.clone(),
            capacity,
        })
    }

    /// The arithmetic that it runs on.
    pub fn operations(&self) -> &dyn Operations {
        &*self.operations
    }

    /// Adds `scale · ∂(summed loss)/∂(what is trained)` to `gradients`, and the summed loss to `loss`, one
    /// f64 on the device. Does not wait for the device.
    ///
    /// The summed loss is `Σ −ln p(target)` in nats over the labels of `batch`, unscaled. With `scale`
    /// = 1 / (labels of the whole optimizer step), accumulation over micro-batches is exact. `dropout` is
    /// that of the step, where the student's adapters have any.
    ///
    /// # Errors
    /// candle's, if the device fails.
    ///
    /// # Panics
    /// If the micro-batch has more tokens than the engine has room for.
    pub fn accumulate_gradients(
        &self,
        student: &Student,
        batch: &MicroBatch,
        scale: f32,
        dropout: Option<Dropout>,
        gradients: &mut ParameterSet,
        loss: &Tensor,
    ) -> Result<()> {
        let weights = ModelTensors::weights(&self.config, student)?;
        let gradients = ModelTensors::gradients(&self.config, student, gradients)?;
        let batch = self.place(batch, dropout)?;
        self.forward_layers(&weights, &batch)?;
        self.run_head(&weights, &batch, Some((scale, &gradients)))?;
        for index in (0..weights.layers.len()).rev() {
            self.recompute_layer(index, &weights.layers[index], &batch)?;
            let (layer, d_layer) = (&weights.layers[index], &gradients.layers[index]);
            self.backward_layer(index, layer, d_layer, &batch)?;
        }
        if let Some(d_embedding) = &gradients.embedding {
            let d_residual = batch.rows(&self.buffers.shared.d_residual, self.sizes.hidden)?;
            self.operations
                .scatter_add_rows(d_embedding, &batch.input_ids, &d_residual)?;
        }
        self.add_loss(&batch, loss)
    }

    /// The summed loss alone, without dropout.
    ///
    /// # Errors
    /// candle's, if the device fails.
    ///
    /// # Panics
    /// If the micro-batch has more tokens than the engine has room for.
    pub fn loss(&self, student: &Student, batch: &MicroBatch) -> Result<f64> {
        let weights = ModelTensors::weights(&self.config, student)?;
        let batch = self.place(batch, None)?;
        self.forward_layers(&weights, &batch)?;
        self.run_head(&weights, &batch, None)?;
        let loss = Tensor::zeros(1, DType::F64, &self.device)?;
        self.add_loss(&batch, &loss)?;
        Ok(loss.to_vec1::<f64>()?[0])
    }

    /// Runs all layers; the last residual stream is the model's output before its final norm.
    fn forward_layers(&self, weights: &ModelTensors<Tensor>, batch: &Placed) -> Result<()> {
        let first = batch.rows(&self.buffers.residuals[0], self.sizes.hidden)?;
        self.operations
            .gather_rows(&first, &weights.embedding, &batch.input_ids)?;
        for (index, layer) in weights.layers.iter().enumerate() {
            self.forward_layer(index, layer, batch)?;
        }
        Ok(())
    }

    /// Lays a micro-batch's numbers on the device.
    fn place(&self, batch: &MicroBatch, dropout: Option<Dropout>) -> Result<Placed> {
        let (tokens, labels) = (batch.input_ids.len(), batch.targets.len());
        assert!(
            tokens <= self.capacity.tokens,
            "micro-batches are packed to at most the engine's capacity"
        );
        let label_positions: Vec<u32> = batch.label_positions.iter().map(|p| *p as u32).collect();
        let place = |values: &[u32]| Tensor::from_slice(values, values.len(), &self.device);
        let dropout = match dropout {
            Some(step) => Some(PlacedDropout {
                step,
                sequences: place(&sequences(batch))?,
            }),
            None => None,
        };
        Ok(Placed {
            tokens,
            labels,
            input_ids: place(&batch.input_ids)?,
            positions: place(&batch.positions)?,
            label_positions: place(&label_positions)?,
            targets: place(&batch.targets)?,
            dropout,
            segments: self
                .operations
                .place_segments(&batch.segments, &self.device)?,
        })
    }

    fn rotation<'a>(&'a self, batch: &'a Placed) -> Rotation<'a> {
        Rotation {
            cos: &self.cos,
            sin: &self.sin,
            positions: &batch.positions,
        }
    }
}

/// A micro-batch whose numbers are on the device.
struct Placed {
    tokens: usize,
    labels: usize,
    input_ids: Tensor,
    positions: Tensor,
    label_positions: Tensor,
    targets: Tensor,
    segments: PlacedSegments,
    dropout: Option<PlacedDropout>,
}

impl Placed {
    /// The part of a buffer that holds a row for every token.
    fn rows(&self, buffer: &Tensor, width: usize) -> Result<Tensor> {
        rows(buffer, self.tokens, width)
    }

    /// The part of a buffer that holds a number for every token.
    fn numbers(&self, buffer: &Tensor) -> Result<Tensor> {
        buffer.narrow(0, 0, self.tokens)
    }

    /// The part of a buffer that holds a plane for every head.
    fn heads(&self, buffer: &Tensor, heads: usize, head_dim: usize) -> Result<Tensor> {
        buffer
            .narrow(0, 0, heads * self.tokens * head_dim)?
            .reshape((heads, self.tokens, head_dim))
    }
}

/// The beginning of a buffer as a matrix.
fn rows(buffer: &Tensor, count: usize, width: usize) -> Result<Tensor> {
    buffer.narrow(0, 0, count * width)?.reshape((count, width))
}
