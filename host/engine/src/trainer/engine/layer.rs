//! One decoder layer, forward and backward.

use candle_core::{Result, Tensor};

use super::buffers::{LayerActivations, Sizes};
use super::recompute::Recompute;
use super::weights::{LayerTensors, Projection};
use super::{Engine, Placed, rows};
use crate::trainer::operations::{AttentionSaved, Output, RmsNormSaved};

impl Engine {
    /// Takes the residual stream before a layer to that after it.
    pub(super) fn forward_layer(
        &self,
        index: usize,
        layer: &LayerTensors<Tensor>,
        batch: &Placed,
    ) -> Result<()> {
        let (hidden, inner) = (self.sizes.hidden, self.sizes.inner);
        self.forward_to_gated(index, layer, batch)?;
        let saved = &self.buffers.activations[index];
        let middle = batch.rows(&saved.costly.middle, hidden)?;
        let out = batch.rows(&self.buffers.residuals[index + 1], hidden)?;
        let gated = batch.rows(&saved.cheap.gated, inner)?;
        self.operations.copy(&out, &middle)?;
        self.project(Output::add(&out), &gated, &layer.down, batch)
    }

    /// All of a layer's forward pass that its backward pass reads: that is, all but the last product.
    fn forward_to_gated(
        &self,
        index: usize,
        layer: &LayerTensors<Tensor>,
        batch: &Placed,
    ) -> Result<()> {
        let Sizes {
            hidden,
            inner,
            queries,
            keys,
            qkv,
            heads,
            kv_heads,
            head_dim,
            ..
        } = self.sizes;
        let operations = &self.operations;
        let LayerActivations { costly, cheap } = &self.buffers.activations[index];
        let shared = &self.buffers.shared;
        let x = batch.rows(&self.buffers.residuals[index], hidden)?;

        self.normalise_input(index, layer, batch)?;
        let normed = batch.rows(&cheap.normed, hidden)?;
        let projected = batch.rows(&shared.qkv, qkv)?;
        self.project(Output::set(&projected), &normed, &layer.qkv, batch)?;
        let rotation = Some(self.rotation(batch));
        let q = batch.heads(&costly.q, heads, head_dim)?;
        let k = batch.heads(&costly.k, kv_heads, head_dim)?;
        let v = batch.heads(&costly.v, kv_heads, head_dim)?;
        operations.split_heads(&q, &projected, 0..queries, rotation)?;
        operations.split_heads(&k, &projected, queries..queries + keys, rotation)?;
        operations.split_heads(&v, &projected, queries + keys..qkv, None)?;
        let by_head = batch.heads(&shared.heads, heads, head_dim)?;
        let log_sum = rows(&costly.log_sum, heads, batch.tokens)?;
        operations.attention(&by_head, &log_sum, [&q, &k, &v], &batch.segments)?;
        let attended = batch.rows(&costly.attended, queries)?;
        operations.merge_heads(&attended, 0..queries, &by_head, None)?;
        let middle = batch.rows(&costly.middle, hidden)?;
        operations.copy(&middle, &x)?;
        self.project(Output::add(&middle), &attended, &layer.o, batch)?;

        self.normalise_middle(index, layer, batch)?;
        let normed = batch.rows(&cheap.middle_normed, hidden)?;
        let gate_up = batch.rows(&costly.gate_up, 2 * inner)?;
        self.project(Output::set(&gate_up), &normed, &layer.gate_up, batch)?;
        operations.swiglu(&batch.rows(&cheap.gated, inner)?, &gate_up)
    }

    fn normalise_input(
        &self,
        index: usize,
        layer: &LayerTensors<Tensor>,
        batch: &Placed,
    ) -> Result<()> {
        let hidden = self.sizes.hidden;
        let LayerActivations { costly, cheap } = &self.buffers.activations[index];
        self.operations.rms_norm(
            &batch.rows(&cheap.normed, hidden)?,
            &batch.numbers(&costly.rstd)?,
            &batch.rows(&self.buffers.residuals[index], hidden)?,
            &layer.input_norm,
            self.config.rms_norm_eps,
        )
    }

    fn normalise_middle(
        &self,
        index: usize,
        layer: &LayerTensors<Tensor>,
        batch: &Placed,
    ) -> Result<()> {
        let hidden = self.sizes.hidden;
        let LayerActivations { costly, cheap } = &self.buffers.activations[index];
        self.operations.rms_norm(
            &batch.rows(&cheap.middle_normed, hidden)?,
            &batch.numbers(&costly.middle_rstd)?,
            &batch.rows(&costly.middle, hidden)?,
            &layer.post_norm,
            self.config.rms_norm_eps,
        )
    }

    /// Computes what a layer did not keep of its forward pass, the same way again.
    pub(super) fn recompute_layer(
        &self,
        index: usize,
        layer: &LayerTensors<Tensor>,
        batch: &Placed,
    ) -> Result<()> {
        if index + 1 == self.config.num_hidden_layers {
            // The last layer's are still there.
            return Ok(());
        }
        match self.capacity.recompute {
            Recompute::Nothing => Ok(()),
            Recompute::Elementwise => {
                let inner = self.sizes.inner;
                let LayerActivations { costly, cheap } = &self.buffers.activations[index];
                self.normalise_input(index, layer, batch)?;
                self.normalise_middle(index, layer, batch)?;
                let gate_up = batch.rows(&costly.gate_up, 2 * inner)?;
                self.operations
                    .swiglu(&batch.rows(&cheap.gated, inner)?, &gate_up)
            }
            Recompute::Layers => self.forward_to_gated(index, layer, batch),
        }
    }

    /// Takes the gradient of a layer's output in `d_residual` to that of its input.
    pub(super) fn backward_layer(
        &self,
        index: usize,
        layer: &LayerTensors<Tensor>,
        gradients: &LayerTensors<Option<Tensor>>,
        batch: &Placed,
    ) -> Result<()> {
        let Sizes {
            hidden,
            inner,
            queries,
            keys,
            qkv,
            heads,
            kv_heads,
            head_dim,
            ..
        } = self.sizes;
        let operations = &self.operations;
        let LayerActivations { costly, cheap } = &self.buffers.activations[index];
        let shared = &self.buffers.shared;
        let d_residual = batch.rows(&shared.d_residual, hidden)?;
        let d_normed = batch.rows(&shared.d_normed, hidden)?;

        let d_gated = batch.rows(&shared.d_gated, inner)?;
        let gated = batch.rows(&cheap.gated, inner)?;
        let down = (&layer.down, &gradients.down);
        self.project_backward(&d_gated, &d_residual, &gated, down, batch)?;
        let d_gate_up = batch.rows(&shared.d_gate_up, 2 * inner)?;
        let gate_up = batch.rows(&costly.gate_up, 2 * inner)?;
        operations.swiglu_backward(&d_gate_up, &d_gated, &gate_up)?;
        let normed = batch.rows(&cheap.middle_normed, hidden)?;
        let gate_up = (&layer.gate_up, &gradients.gate_up);
        self.project_backward(&d_normed, &d_gate_up, &normed, gate_up, batch)?;
        let saved = RmsNormSaved {
            x: &batch.rows(&costly.middle, hidden)?,
            weight: &layer.post_norm,
            rstd: &batch.numbers(&costly.middle_rstd)?,
        };
        let d_weight = gradients.post_norm.as_ref();
        operations.rms_norm_backward(&d_residual, d_weight, &d_normed, saved)?;

        let d_attended = batch.rows(&shared.d_attended, queries)?;
        let attended = batch.rows(&costly.attended, queries)?;
        let o = (&layer.o, &gradients.o);
        self.project_backward(&d_attended, &d_residual, &attended, o, batch)?;
        let delta = rows(&shared.delta, heads, batch.tokens)?;
        operations.head_products(&delta, &d_attended, &attended)?;
        let d_by_head = batch.heads(&shared.heads, heads, head_dim)?;
        operations.split_heads(&d_by_head, &d_attended, 0..queries, None)?;
        let d_q = batch.heads(&shared.d_q, heads, head_dim)?;
        let d_k = batch.heads(&shared.d_k, kv_heads, head_dim)?;
        let d_v = batch.heads(&shared.d_v, kv_heads, head_dim)?;
        let saved = AttentionSaved {
            q: &batch.heads(&costly.q, heads, head_dim)?,
            k: &batch.heads(&costly.k, kv_heads, head_dim)?,
            v: &batch.heads(&costly.v, kv_heads, head_dim)?,
            log_sum: &rows(&costly.log_sum, heads, batch.tokens)?,
            delta: &delta,
            d_out: &d_by_head,
        };
        operations.attention_backward([&d_q, &d_k, &d_v], saved, &batch.segments)?;
        let d_qkv = batch.rows(&shared.qkv, qkv)?;
        let rotation = Some(self.rotation(batch));
        operations.merge_heads(&d_qkv, 0..queries, &d_q, rotation)?;
        operations.merge_heads(&d_qkv, queries..queries + keys, &d_k, rotation)?;
        operations.merge_heads(&d_qkv, queries + keys..qkv, &d_v, None)?;
        let normed = batch.rows(&cheap.normed, hidden)?;
        let projection = (&layer.qkv, &gradients.qkv);
        self.project_backward(&d_normed, &d_qkv, &normed, projection, batch)?;
        let saved = RmsNormSaved {
            x: &batch.rows(&self.buffers.residuals[index], hidden)?,
            weight: &layer.input_norm,
            rstd: &batch.numbers(&costly.rstd)?,
        };
        let d_weight = gradients.input_norm.as_ref();
        operations.rms_norm_backward(&d_residual, d_weight, &d_normed, saved)
    }

    /// `x wᵀ`, and for each adapter `scale · (x aᵀ) bᵀ` added to its outputs, there with dropout of `x`; `x`
    /// is `[rows, in]`, `w` `[out, in]`.
    fn project(
        &self,
        y: Output<'_>,
        x: &Tensor,
        projection: &Projection<Tensor>,
        batch: &Placed,
    ) -> Result<()> {
        let tensor = y.tensor();
        self.operations.matmul(y, x, &projection.weight.t()?)?;
        for adapter in &projection.adapters {
            let [low, _] = self.low_rank();
            let low = rows(low, x.dim(0)?, adapter.b.dim(1)?)?;
            let x = self.input_of(adapter, x, batch)?;
            self.operations
                .matmul(Output::set(&low), &x, &adapter.a.t()?)?;
            let y = Output::add(tensor)
                .columns(adapter.outputs.clone())
                .times(adapter.scale);
            self.operations.matmul(y, &low, &adapter.b.t()?)?;
        }
        Ok(())
    }

    fn low_rank(&self) -> &[Tensor; 2] {
        let buffers = self.buffers.shared.low_rank.as_ref();
        buffers.expect("an engine for a student with adapters is made with their rank")
    }

    /// The gradients of [`Engine::project`]: that of `x` is written to `dx`, those of what is trained
    /// are added.
    fn project_backward(
        &self,
        dx: &Tensor,
        dy: &Tensor,
        x: &Tensor,
        (projection, gradients): (&Projection<Tensor>, &Projection<Option<Tensor>>),
        batch: &Placed,
    ) -> Result<()> {
        let operations = &self.operations;
        operations.matmul(Output::set(dx), dy, &projection.weight)?;
        if let Some(d_weight) = &gradients.weight {
            operations.matmul(Output::add(d_weight), &dy.t()?, x)?;
        }
        for (adapter, gradient) in projection.adapters.iter().zip(&gradients.adapters) {
            let (count, rank) = (x.dim(0)?, adapter.b.dim(1)?);
            let [low, d_low] = self.low_rank();
            let (low, d_low) = (rows(low, count, rank)?, rows(d_low, count, rank)?);
            let dy = dy.narrow(1, adapter.outputs.start, adapter.outputs.len())?;
            let x = self.input_of(adapter, x, batch)?;
            operations.matmul(Output::set(&low), &x, &adapter.a.t()?)?;
            let d_b = Output::add(&gradient.b).times(adapter.scale);
            operations.matmul(d_b, &dy.t()?, &low)?;
            let out = Output::set(&d_low).times(adapter.scale);
            operations.matmul(out, &dy, &adapter.b)?;
            operations.matmul(Output::add(&gradient.a), &d_low.t()?, &x)?;
            self.add_input_gradient(dx, &d_low, adapter, batch)?;
        }
        Ok(())
    }
}
