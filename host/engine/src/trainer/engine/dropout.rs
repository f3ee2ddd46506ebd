//! Dropout of what adapters read, in training alone.

use candle_core::{Result, Tensor};

use super::weights::Adapter;
use super::{Engine, Placed};
use crate::trainer::micro_batch::MicroBatch;
use crate::trainer::operations::{DropoutMask, Output};
use crate::trainer::rounding::philox2x32;

/// Dropout in one optimizer step.
///
/// Every adapted matrix has a mask of its own. What it keeps of a token depends on the run's seed, the step,
/// the matrix, the token's row and its position in it, and on nothing else: neither resume, nor what is
/// computed again, nor the split of a step changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropout {
    /// Of the step's first matrix; those of the others follow.
    key: u32,
    /// The probability in parts of 65,536.
    dropped: u16,
}

impl Dropout {
    /// That of a run's step, or none where so little is dropped that no number is; `probability` is
    /// rounded as by [`dropped`](Self::dropped).
    pub fn of_step(probability: f64, seed: u64, step: u64) -> Option<Self> {
        let dropped = Self::dropped(probability);
        // The seed's upper half and the step share the counter: no run has 2³² steps.
        let [key, _] = philox2x32(seed as u32, (seed & !u64::from(u32::MAX)) ^ step);
        (dropped > 0).then_some(Self { key, dropped })
    }

    /// A probability in parts of 65,536, to the nearest; never all of them.
    pub fn dropped(probability: f64) -> u16 {
        // A conversion that stays within the type's bounds.
        (probability * 65_536.0).round() as u16
    }

    /// The mask of what one matrix's adapter reads: `matrix` counts all that could be adapted.
    pub(in crate::trainer) fn mask<'a>(
        self,
        matrix: u32,
        sequences: &'a Tensor,
        positions: &'a Tensor,
    ) -> DropoutMask<'a> {
        DropoutMask {
            key: self.key.wrapping_add(matrix),
            dropped: self.dropped,
            sequences,
            positions,
        }
    }
}

/// A step's dropout and the tokens of a micro-batch, on the device.
pub(super) struct PlacedDropout {
    pub step: Dropout,
    pub sequences: Tensor,
}

/// A number for the sequence of each token of a micro-batch, whatever else is in the micro-batch: the
/// row's index, and 2³¹ or more for a shared prefix, which its tokens decide.
pub(in crate::trainer) fn sequences(batch: &MicroBatch) -> Vec<u32> {
    const OF_PREFIX: u32 = 1 << 31;
    let mut sequences = Vec::with_capacity(batch.input_ids.len());
    for segment in &batch.segments {
        let sequence = match segment.row {
            Some(row) => row as u32 & !OF_PREFIX,
            None => {
                let ids = &batch.input_ids[segment.tokens.clone()];
                let hash = |hash, id: &u32| philox2x32(*id, u64::from(hash))[0];
                ids.iter().fold(0, hash) | OF_PREFIX
            }
        };
        sequences.extend(segment.tokens.clone().map(|_| sequence));
    }
    sequences
}

impl Placed {
    /// Which numbers of an adapter's input are kept, where there is dropout.
    fn mask(&self, adapter: &Adapter) -> Option<DropoutMask<'_>> {
        let PlacedDropout { step, sequences } = self.dropout.as_ref()?;
        Some(step.mask(adapter.matrix, sequences, &self.positions))
    }
}

impl Engine {
    /// What an adapter reads of its projection's input `x`: all of it, unless there is dropout.
    pub(super) fn input_of(&self, adapter: &Adapter, x: &Tensor, batch: &Placed) -> Result<Tensor> {
        let Some(mask) = batch.mask(adapter) else {
            // The same numbers under another name.
            return Ok(x.clone());
        };
        let dropped = batch.rows(self.dropout_buffer(), x.dim(1)?)?;
        self.operations.dropout(&dropped, x, mask)?;
        Ok(dropped)
    }

    /// Adds `d_low a`, the gradient of what [`Engine::input_of`] gave, to that of `x`.
    pub(super) fn add_input_gradient(
        &self,
        dx: &Tensor,
        d_low: &Tensor,
        adapter: &Adapter,
        batch: &Placed,
    ) -> Result<()> {
        let Some(mask) = batch.mask(adapter) else {
            return self.operations.matmul(Output::add(dx), d_low, &adapter.a);
        };
        let d_dropped = batch.rows(self.dropout_buffer(), dx.dim(1)?)?;
        self.operations
            .matmul(Output::set(&d_dropped), d_low, &adapter.a)?;
        self.operations.dropout_backward(dx, &d_dropped, mask)
    }

    fn dropout_buffer(&self) -> &Tensor {
        let buffer = self.buffers.shared.dropped.as_ref();
        buffer
            .expect("an engine for adapters with dropout is made with the width of what they read")
    }
}
