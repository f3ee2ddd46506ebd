//! The final norm, the head and the loss, over the rows that have a label.

use candle_core::{Result, Tensor};

use super::buffers::Sizes;
use super::weights::ModelTensors;
use super::{Engine, Placed, rows};
use crate::trainer::operations::{Output, RmsNormSaved};

impl Engine {
    /// Writes each label's loss. With `gradients` and their scale, leaves the gradient of the last
    /// residual stream in `d_residual` and adds those of the norm and the head.
    pub(super) fn run_head(
        &self,
        weights: &ModelTensors<Tensor>,
        batch: &Placed,
        gradients: Option<(f32, &ModelTensors<Option<Tensor>>)>,
    ) -> Result<()> {
        let Sizes { hidden, vocab, .. } = self.sizes;
        let operations = &self.operations;
        let labels = batch.labels;
        let head = &self.buffers.head;
        let last = self
            .buffers
            .residuals
            .last()
            .expect("there is one more residual than layers");
        let last = batch.rows(last, hidden)?;
        let picked = rows(&head.rows, labels, hidden)?;
        operations.gather_rows(&picked, &last, &batch.label_positions)?;
        let normed = rows(&head.normed, labels, hidden)?;
        let rstd = head.rstd.narrow(0, 0, labels)?;
        let eps = self.config.rms_norm_eps;
        operations.rms_norm(&normed, &rstd, &picked, &weights.final_norm, eps)?;

        let d_normed = rows(&head.d_normed, labels, hidden)?;
        let table = &weights.head;
        let at_once = self.capacity.label_rows;
        for start in (0..labels).step_by(at_once) {
            let count = at_once.min(labels - start);
            let normed = normed.narrow(0, start, count)?;
            let logits = rows(&head.logits, count, vocab)?;
            operations.matmul(Output::set(&logits), &normed, &table.t()?)?;
            let losses = head.losses.narrow(0, start, count)?;
            let targets = batch.targets.narrow(0, start, count)?;
            let scale = gradients.map(|(scale, _)| scale);
            operations.cross_entropy(&losses, &logits, &targets, scale)?;
            if let Some((_, gradients)) = gradients {
                // The logits have become their own gradient.
                let d_normed = d_normed.narrow(0, start, count)?;
                operations.matmul(Output::set(&d_normed), &logits, table)?;
                if let Some(d_table) = &gradients.head {
                    operations.matmul(Output::add(d_table), &logits.t()?, &normed)?;
                }
            }
        }
        let Some((_, gradients)) = gradients else {
            return Ok(());
        };
        let d_picked = rows(&head.d_rows, labels, hidden)?;
        operations.zero(&d_picked)?;
        let saved = RmsNormSaved {
            x: &picked,
            weight: &weights.final_norm,
            rstd: &rstd,
        };
        let d_norm = gradients.final_norm.as_ref();
        operations.rms_norm_backward(&d_picked, d_norm, &d_normed, saved)?;
        let d_residual = batch.rows(&self.buffers.shared.d_residual, hidden)?;
        operations.zero(&d_residual)?;
        operations.scatter_add_rows(&d_residual, &batch.label_positions, &d_picked)
    }

    /// Adds the sum of what [`Engine::run_head`] left to `loss`.
    pub(super) fn add_loss(&self, batch: &Placed, loss: &Tensor) -> Result<()> {
        let losses = self.buffers.head.losses.narrow(0, 0, batch.labels)?;
        self.operations.add_sum(loss, &losses)
    }
}
