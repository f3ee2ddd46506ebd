//! Every buffer of the engine: what it is, how large it is, and the table that the planner prints.

use crate::llama::LlamaConfig;

/// Label rows whose logits are held at once: large enough for full speed of the products, small
/// enough that 49,152 words take 50 MB.
pub(super) const HEAD_ROWS: usize = 256;

/// Numbers of f32 that the engine holds for micro-batches of up to `tokens` tokens, by purpose.
pub fn buffers(config: &LlamaConfig, tokens: usize) -> Vec<(&'static str, usize)> {
    let sizes = Sizes::of(config);
    let layer = 4 * sizes.hidden + 2 + sizes.qkv + sizes.heads + sizes.queries + 3 * sizes.inner;
    let shared =
        2 * sizes.hidden + 2 * sizes.qkv + 2 * sizes.queries + sizes.heads + 3 * sizes.inner;
    vec![
        (
            "activations kept for backward",
            tokens * (config.num_hidden_layers * layer + sizes.hidden),
        ),
        ("buffers shared by the layers", tokens * shared),
        (
            "logits and label rows",
            HEAD_ROWS.min(tokens) * sizes.vocab + tokens * (4 * sizes.hidden + 1),
        ),
    ]
}

/// Widths of a token's row in the different buffers.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub hidden: usize,
    pub inner: usize,
    pub vocab: usize,
    pub queries: usize,
    pub keys: usize,
    pub qkv: usize,
    pub heads: usize,
}

impl Sizes {
    pub fn of(config: &LlamaConfig) -> Self {
        let queries = config.num_attention_heads * config.head_dim;
        let keys = config.num_key_value_heads * config.head_dim;
        Self {
            hidden: config.hidden_size,
            inner: config.intermediate_size,
            vocab: config.vocab_size,
            queries,
            keys,
            qkv: queries + 2 * keys,
            heads: config.num_attention_heads,
        }
    }
}

/// What one layer keeps from its forward pass.
pub(super) struct LayerActivations {
    pub normed: Vec<f32>,
    pub rstd: Vec<f32>,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub log_sum: Vec<f32>,
    pub attended: Vec<f32>,
    pub middle: Vec<f32>,
    pub middle_rstd: Vec<f32>,
    pub middle_normed: Vec<f32>,
    pub gate_up: Vec<f32>,
    pub gated: Vec<f32>,
}

/// Buffers that one layer after another uses.
pub(super) struct Shared {
    pub qkv: Vec<f32>,
    pub heads: Vec<f32>,
    pub d_residual: Vec<f32>,
    pub d_normed: Vec<f32>,
    pub d_q: Vec<f32>,
    pub d_k: Vec<f32>,
    pub d_v: Vec<f32>,
    pub d_attended: Vec<f32>,
    pub delta: Vec<f32>,
    pub d_gate_up: Vec<f32>,
    pub d_gated: Vec<f32>,
}

/// Buffers of the final norm and the head, over label rows.
pub(super) struct Head {
    pub rows: Vec<f32>,
    pub rstd: Vec<f32>,
    pub normed: Vec<f32>,
    pub d_normed: Vec<f32>,
    pub d_rows: Vec<f32>,
    pub logits: Vec<f32>,
}

impl LayerActivations {
    pub fn new(sizes: Sizes, capacity: usize) -> Self {
        let buffer = |width: usize| vec![0.0f32; capacity * width];
        Self {
            normed: buffer(sizes.hidden),
            rstd: buffer(1),
            q: buffer(sizes.queries),
            k: buffer(sizes.keys),
            v: buffer(sizes.keys),
            log_sum: buffer(sizes.heads),
            attended: buffer(sizes.queries),
            middle: buffer(sizes.hidden),
            middle_rstd: buffer(1),
            middle_normed: buffer(sizes.hidden),
            gate_up: buffer(2 * sizes.inner),
            gated: buffer(sizes.inner),
        }
    }
}

impl Shared {
    pub fn new(sizes: Sizes, capacity: usize) -> Self {
        let buffer = |width: usize| vec![0.0f32; capacity * width];
        Self {
            qkv: buffer(sizes.qkv),
            heads: buffer(sizes.queries),
            d_residual: buffer(sizes.hidden),
            d_normed: buffer(sizes.hidden),
            d_q: buffer(sizes.queries),
            d_k: buffer(sizes.keys),
            d_v: buffer(sizes.keys),
            d_attended: buffer(sizes.queries),
            delta: buffer(sizes.heads),
            d_gate_up: buffer(2 * sizes.inner),
            d_gated: buffer(sizes.inner),
        }
    }
}

impl Head {
    pub fn new(sizes: Sizes, capacity: usize) -> Self {
        let buffer = |width: usize| vec![0.0f32; capacity * width];
        Self {
            rows: buffer(sizes.hidden),
            rstd: buffer(1),
            normed: buffer(sizes.hidden),
            d_normed: buffer(sizes.hidden),
            d_rows: buffer(sizes.hidden),
            logits: vec![0.0; HEAD_ROWS.min(capacity) * sizes.vocab],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::engine::CpuEngine;
    use crate::trainer::parameters::ParameterSet;
    use crate::trainer::testing::tiny_config;

    #[test]
    fn the_table_of_buffers_is_what_is_allocated() {
        let config = tiny_config(true);
        for capacity in [16, 600] {
            let engine = CpuEngine::new(&config, &ParameterSet::zeros(&config), capacity);
            let (shared, head) = (&engine.shared, &engine.head);
            let kept: usize = engine
                .activations
                .iter()
                .flat_map(|a| {
                    [
                        &a.normed,
                        &a.rstd,
                        &a.q,
                        &a.k,
                        &a.v,
                        &a.log_sum,
                        &a.attended,
                        &a.middle,
                        &a.middle_rstd,
                        &a.middle_normed,
                        &a.gate_up,
                        &a.gated,
                    ]
                })
                .chain(&engine.residuals)
                .map(Vec::len)
                .sum();
            let of_layers = [
                &shared.qkv,
                &shared.heads,
                &shared.d_residual,
                &shared.d_normed,
                &shared.d_q,
                &shared.d_k,
                &shared.d_v,
                &shared.d_attended,
                &shared.delta,
                &shared.d_gate_up,
                &shared.d_gated,
            ];
            let of_head = [
                &head.rows,
                &head.rstd,
                &head.normed,
                &head.d_normed,
                &head.d_rows,
                &head.logits,
            ];
            let length = |buffers: &[&Vec<f32>]| buffers.iter().map(|b| b.len()).sum();
            let table: Vec<usize> = buffers(&config, capacity).iter().map(|b| b.1).collect();
            assert_eq!(table, [kept, length(&of_layers), length(&of_head)]);
        }
    }
}
