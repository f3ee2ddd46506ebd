//! LLaMA forward and backward, written out by hand over buffers that are allocated once.
//!
//! f32 on the CPU. One decoder layer is RMSNorm, one product for query, key and value, rotary
//! embedding, causal attention, output projection, RMSNorm, one product for gate and up, SwiGLU,
//! down projection (Touvron et al., arXiv 2302.13971). The head runs on label rows only, in chunks.
//! What a layer keeps for its backward pass is listed in [`buffers`], which the planner prints.

mod buffers;

use std::ops::Range;

use super::kernels::*;
use super::model::{Engine, MicroBatch};
use super::parameters::ParameterSet;
use crate::llama::LlamaConfig;
use crate::llama::rope::RopeTable;
pub use buffers::buffers;
use buffers::{HEAD_ROWS, Head, LayerActivations, Shared, Sizes};

/// Names this arithmetic in checkpoints. Changed whenever results change in any bit.
pub const ENGINE_NAME: &str = "cpu-f32-1";

/// Where the weights of one layer lie in the flat buffer.
struct LayerWeights {
    input_norm: Range<usize>,
    qkv: Range<usize>,
    o: Range<usize>,
    post_norm: Range<usize>,
    gate_up: Range<usize>,
    down: Range<usize>,
}

/// The engine for f32 on the CPU. It runs on the rayon pool that it is called in.
pub struct CpuEngine {
    config: LlamaConfig,
    sizes: Sizes,
    rope: RopeTable,
    capacity: usize,
    embedding: Range<usize>,
    layers: Vec<LayerWeights>,
    final_norm: Range<usize>,
    head_weight: Range<usize>,
    residuals: Vec<Vec<f32>>,
    activations: Vec<LayerActivations>,
    shared: Shared,
    head: Head,
}

impl CpuEngine {
    /// Allocates all buffers for micro-batches of up to `capacity` tokens over `parameters`.
    pub fn new(config: &LlamaConfig, parameters: &ParameterSet, capacity: usize) -> Self {
        let sizes = Sizes::of(config);
        let range = |name: &str| {
            parameters
                .range(name)
                .expect("a parameter set holds every tensor of its configuration")
        };
        let layers = (0..config.num_hidden_layers)
            .map(|layer| {
                let part = |name: &str| range(&format!("model.layers.{layer}.{name}.weight"));
                // ParameterSet lays these side by side; `joined` would notice if that changed.
                LayerWeights {
                    input_norm: part("input_layernorm"),
                    qkv: joined(&[
                        part("self_attn.q_proj"),
                        part("self_attn.k_proj"),
                        part("self_attn.v_proj"),
                    ]),
                    o: part("self_attn.o_proj"),
                    post_norm: part("post_attention_layernorm"),
                    gate_up: joined(&[part("mlp.gate_proj"), part("mlp.up_proj")]),
                    down: part("mlp.down_proj"),
                }
            })
            .collect();
        let embedding = range("model.embed_tokens.weight");
        let head_weight = if config.tie_word_embeddings {
            embedding.clone()
        } else {
            range("lm_head.weight")
        };
        Self {
            sizes,
            rope: RopeTable::new(config, capacity),
            capacity,
            embedding,
            layers,
            final_norm: range("model.norm.weight"),
            head_weight,
            residuals: (0..=config.num_hidden_layers)
                .map(|_| vec![0.0; capacity * sizes.hidden])
                .collect(),
            activations: (0..config.num_hidden_layers)
                .map(|_| LayerActivations::new(sizes, capacity))
                .collect(),
            shared: Shared::new(sizes, capacity),
            head: Head::new(sizes, capacity),
            config: config.clone(),
        }
    }

    fn attention_shape(&self, tokens: usize) -> AttentionShape {
        AttentionShape {
            heads: self.config.num_attention_heads,
            kv_heads: self.config.num_key_value_heads,
            tokens,
            head_dim: self.config.head_dim,
        }
    }

    /// Runs all layers; the last residual stream is the model's output before its final norm.
    fn forward_layers(&mut self, weights: &[f32], batch: &MicroBatch) {
        let tokens = batch.input_ids.len();
        assert!(
            tokens <= self.capacity,
            "micro-batches are packed to at most the engine's capacity"
        );
        let Sizes { hidden, .. } = self.sizes;
        embedding_forward(
            &mut self.residuals[0][..tokens * hidden],
            &batch.input_ids,
            &weights[self.embedding.clone()],
            hidden,
        );
        for layer in 0..self.layers.len() {
            self.forward_layer(layer, weights, batch);
        }
    }

    fn forward_layer(&mut self, layer: usize, weights: &[f32], batch: &MicroBatch) {
        let tokens = batch.input_ids.len();
        let Sizes {
            hidden,
            inner,
            queries,
            keys,
            qkv,
            ..
        } = self.sizes;
        let head_dim = self.config.head_dim;
        let eps = self.config.rms_norm_eps as f32;
        let shape = self.attention_shape(tokens);
        let place = &self.layers[layer];
        let saved = &mut self.activations[layer];
        let (before, after) = self.residuals.split_at_mut(layer + 1);
        let x = &before[layer][..tokens * hidden];
        let out = &mut after[0][..tokens * hidden];

        let normed = &mut saved.normed[..tokens * hidden];
        rms_norm_forward(
            normed,
            &mut saved.rstd[..tokens],
            x,
            &weights[place.input_norm.clone()],
            eps,
        );
        let projected = &mut self.shared.qkv[..tokens * qkv];
        project(
            projected,
            false,
            normed,
            &weights[place.qkv.clone()],
            tokens,
        );
        let rotation = Some((&self.rope, batch.positions.as_slice()));
        let (q, k, v) = (
            &mut saved.q[..tokens * queries],
            &mut saved.k[..tokens * keys],
            &mut saved.v[..tokens * keys],
        );
        split_heads(q, projected, qkv, 0..queries, head_dim, rotation);
        split_heads(
            k,
            projected,
            qkv,
            queries..queries + keys,
            head_dim,
            rotation,
        );
        split_heads(v, projected, qkv, queries + keys..qkv, head_dim, None);
        let heads = &mut self.shared.heads[..tokens * queries];
        let log_sum = &mut saved.log_sum[..tokens * shape.heads];
        attention_forward(heads, log_sum, q, k, v, &batch.segments, shape);
        let attended = &mut saved.attended[..tokens * queries];
        merge_heads(attended, heads, queries, 0..queries, head_dim, None);
        let middle = &mut saved.middle[..tokens * hidden];
        middle.copy_from_slice(x);
        project(middle, true, attended, &weights[place.o.clone()], tokens);

        let normed = &mut saved.middle_normed[..tokens * hidden];
        rms_norm_forward(
            normed,
            &mut saved.middle_rstd[..tokens],
            middle,
            &weights[place.post_norm.clone()],
            eps,
        );
        let gate_up = &mut saved.gate_up[..tokens * 2 * inner];
        project(
            gate_up,
            false,
            normed,
            &weights[place.gate_up.clone()],
            tokens,
        );
        let gated = &mut saved.gated[..tokens * inner];
        swiglu_forward(gated, gate_up, inner);
        out.copy_from_slice(middle);
        project(out, true, gated, &weights[place.down.clone()], tokens);
    }

    /// Final norm, head and loss over the label rows. With `gradients`, leaves the gradient of the
    /// last residual stream in `shared.d_residual` and adds those of the norm and the head.
    fn run_head(
        &mut self,
        weights: &[f32],
        batch: &MicroBatch,
        mut gradients: Option<(f32, &mut [f32])>,
    ) -> f64 {
        let Sizes { hidden, vocab, .. } = self.sizes;
        let labels = batch.targets.len();
        let last = self
            .residuals
            .last()
            .expect("there is one more residual than layers");
        let head = &mut self.head;
        let rows = &mut head.rows[..labels * hidden];
        for (row, &position) in rows.chunks_exact_mut(hidden).zip(&batch.label_positions) {
            row.copy_from_slice(&last[position * hidden..][..hidden]);
        }
        let norm = &weights[self.final_norm.clone()];
        let normed = &mut head.normed[..labels * hidden];
        let rstd = &mut head.rstd[..labels];
        rms_norm_forward(normed, rstd, rows, norm, self.config.rms_norm_eps as f32);

        let table = &weights[self.head_weight.clone()];
        let mut loss = 0.0;
        for start in (0..labels).step_by(HEAD_ROWS) {
            let count = HEAD_ROWS.min(labels - start);
            let normed = &head.normed[start * hidden..][..count * hidden];
            let logits = &mut head.logits[..count * vocab];
            project(logits, false, normed, table, count);
            let scale = gradients.as_ref().map(|(scale, _)| *scale);
            loss += cross_entropy(logits, &batch.targets[start..start + count], scale);
            if let Some((_, gradients)) = &mut gradients {
                let d_normed = &mut head.d_normed[start * hidden..][..count * hidden];
                let d_table = &mut gradients[self.head_weight.clone()];
                project_backward(d_normed, d_table, logits, normed, table, count);
            }
        }
        if let Some((_, gradients)) = gradients {
            let d_normed = &head.d_normed[..labels * hidden];
            let d_rows = &mut head.d_rows[..labels * hidden];
            d_rows.fill(0.0);
            let d_norm = &mut gradients[self.final_norm.clone()];
            rms_norm_backward(d_rows, d_norm, d_normed, rows, norm, &head.rstd[..labels]);
            let d_residual = &mut self.shared.d_residual[..batch.input_ids.len() * hidden];
            d_residual.fill(0.0);
            for (row, &position) in d_rows.chunks_exact(hidden).zip(&batch.label_positions) {
                d_residual[position * hidden..][..hidden].copy_from_slice(row);
            }
        }
        loss
    }

    /// Takes the gradient of a layer's output in `shared.d_residual` to that of its input.
    fn backward_layer(
        &mut self,
        layer: usize,
        weights: &[f32],
        batch: &MicroBatch,
        gradients: &mut [f32],
    ) {
        let tokens = batch.input_ids.len();
        let Sizes {
            hidden,
            inner,
            queries,
            keys,
            qkv,
            ..
        } = self.sizes;
        let head_dim = self.config.head_dim;
        let shape = self.attention_shape(tokens);
        let place = &self.layers[layer];
        let saved = &self.activations[layer];
        let x = &self.residuals[layer][..tokens * hidden];
        let shared = &mut self.shared;
        let d_residual = &mut shared.d_residual[..tokens * hidden];
        let d_normed = &mut shared.d_normed[..tokens * hidden];

        let d_gated = &mut shared.d_gated[..tokens * inner];
        project_backward(
            d_gated,
            &mut gradients[place.down.clone()],
            d_residual,
            &saved.gated[..tokens * inner],
            &weights[place.down.clone()],
            tokens,
        );
        let d_gate_up = &mut shared.d_gate_up[..tokens * 2 * inner];
        let gate_up = &saved.gate_up[..tokens * 2 * inner];
        swiglu_backward(d_gate_up, d_gated, gate_up, inner);
        project_backward(
            d_normed,
            &mut gradients[place.gate_up.clone()],
            d_gate_up,
            &saved.middle_normed[..tokens * hidden],
            &weights[place.gate_up.clone()],
            tokens,
        );
        rms_norm_backward(
            d_residual,
            &mut gradients[place.post_norm.clone()],
            d_normed,
            &saved.middle[..tokens * hidden],
            &weights[place.post_norm.clone()],
            &saved.middle_rstd[..tokens],
        );

        let d_attended = &mut shared.d_attended[..tokens * queries];
        let attended = &saved.attended[..tokens * queries];
        project_backward(
            d_attended,
            &mut gradients[place.o.clone()],
            d_residual,
            attended,
            &weights[place.o.clone()],
            tokens,
        );
        let delta = &mut shared.delta[..tokens * shape.heads];
        head_products(delta, d_attended, attended, head_dim, shape.heads);
        let d_heads = &mut shared.heads[..tokens * queries];
        split_heads(d_heads, d_attended, queries, 0..queries, head_dim, None);
        let (d_q, d_k, d_v) = (
            &mut shared.d_q[..tokens * queries],
            &mut shared.d_k[..tokens * keys],
            &mut shared.d_v[..tokens * keys],
        );
        let forward = AttentionSaved {
            q: &saved.q[..tokens * queries],
            k: &saved.k[..tokens * keys],
            v: &saved.v[..tokens * keys],
            log_sum: &saved.log_sum[..tokens * shape.heads],
            delta,
            d_out: d_heads,
        };
        attention_backward(d_q, d_k, d_v, forward, &batch.segments, shape);
        let d_qkv = &mut shared.qkv[..tokens * qkv];
        let rotation = Some((&self.rope, batch.positions.as_slice()));
        merge_heads(d_qkv, d_q, qkv, 0..queries, head_dim, rotation);
        merge_heads(d_qkv, d_k, qkv, queries..queries + keys, head_dim, rotation);
        merge_heads(d_qkv, d_v, qkv, queries + keys..qkv, head_dim, None);
        project_backward(
            d_normed,
            &mut gradients[place.qkv.clone()],
            d_qkv,
            &saved.normed[..tokens * hidden],
            &weights[place.qkv.clone()],
            tokens,
        );
        rms_norm_backward(
            d_residual,
            &mut gradients[place.input_norm.clone()],
            d_normed,
            x,
            &weights[place.input_norm.clone()],
            &saved.rstd[..tokens],
        );
    }
}

impl Engine for CpuEngine {
    fn accumulate_gradients(
        &mut self,
        parameters: &ParameterSet,
        batch: &MicroBatch,
        scale: f32,
        gradients: &mut ParameterSet,
    ) -> f64 {
        let (weights, gradients) = (parameters.data(), gradients.data_mut());
        self.forward_layers(weights, batch);
        let loss = self.run_head(weights, batch, Some((scale, gradients)));
        for layer in (0..self.layers.len()).rev() {
            self.backward_layer(layer, weights, batch, gradients);
        }
        let hidden = self.sizes.hidden;
        embedding_backward(
            &mut gradients[self.embedding.clone()],
            &batch.input_ids,
            &self.shared.d_residual[..batch.input_ids.len() * hidden],
            hidden,
        );
        loss
    }

    fn loss(&mut self, parameters: &ParameterSet, batch: &MicroBatch) -> f64 {
        self.forward_layers(parameters.data(), batch);
        self.run_head(parameters.data(), batch, None)
    }
}

/// One range over neighbours.
fn joined(ranges: &[Range<usize>]) -> Range<usize> {
    assert!(
        ranges.windows(2).all(|pair| pair[0].end == pair[1].start),
        "projections that are multiplied together lie side by side"
    );
    ranges[0].start..ranges[ranges.len() - 1].end
}

/// `y = x wᵀ`, or `y += x wᵀ`; `x` is `[rows, in]`, `w` `[out, in]`, `y` `[rows, out]`.
fn project(y: &mut [f32], accumulate: bool, x: &[f32], w: &[f32], rows: usize) {
    let (inputs, outputs) = (x.len() / rows, y.len() / rows);
    matmul(
        MatrixMut::new(y, rows, outputs),
        accumulate,
        1.0,
        Matrix::new(x, rows, inputs),
        Matrix::new(w, outputs, inputs).t(),
        true,
    );
}

/// The gradients of [`project`]: `dx = dy w` is written, `dw += dyᵀ x` is added.
fn project_backward(dx: &mut [f32], dw: &mut [f32], dy: &[f32], x: &[f32], w: &[f32], rows: usize) {
    let (inputs, outputs) = (x.len() / rows, dy.len() / rows);
    let dy = Matrix::new(dy, rows, outputs);
    let w = Matrix::new(w, outputs, inputs);
    matmul(MatrixMut::new(dx, rows, inputs), false, 1.0, dy, w, true);
    let x = Matrix::new(x, rows, inputs);
    matmul(
        MatrixMut::new(dw, outputs, inputs),
        true,
        1.0,
        dy.t(),
        x,
        true,
    );
}
