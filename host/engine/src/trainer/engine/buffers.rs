//! Every buffer of the engine: what it is, how large it is, and the table that the planner prints.

use candle_core::{DType, Device, Result, Tensor};

use super::recompute::Recompute;
use crate::llama::LlamaConfig;

/// What decides how large the engine's buffers are, beside the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Most tokens of a micro-batch.
    pub tokens: usize,
    /// What is computed again for the backward pass rather than kept.
    pub recompute: Recompute,
    /// Rank of the adapters; 0 without.
    pub lora_rank: usize,
    /// Widest input of a matrix whose adapter has dropout; 0 without.
    pub dropout_width: usize,
    /// Label rows whose logits are held at once.
    pub label_rows: usize,
    /// Number format of activations and their gradients: f32 or bf16.
    pub activations: DType,
}

/// Bytes that the engine's buffers take, by purpose.
pub fn buffers(config: &LlamaConfig, capacity: Capacity) -> Vec<(&'static str, u64)> {
    let sizes = Sizes::of(config);
    let layers = config.num_hidden_layers;
    let bytes_of = |dtype: DType| dtype.size_in_bytes();
    let activation = bytes_of(capacity.activations);
    let bytes = |widths: &[(usize, Numbers)]| -> usize {
        let each = widths.iter().map(|(width, numbers)| match numbers {
            Numbers::Activations => width * activation,
            Numbers::F32 => width * bytes_of(DType::F32),
        });
        each.sum()
    };
    let [costly, cheap] = [&sizes.costly()[..], &sizes.cheap()].map(bytes);
    let (kept, reused) = match capacity.recompute {
        Recompute::Nothing => (layers * (costly + cheap), 0),
        Recompute::Elementwise => (layers * costly, cheap),
        Recompute::Layers => (0, costly + cheap),
    };
    let residuals = (layers + 1) * sizes.hidden * activation;
    let shared = bytes(&sizes.shared());
    let tokens = capacity.tokens;
    let adapters = (2 * capacity.lora_rank + capacity.dropout_width) * activation;
    let logits = capacity.label_rows.min(tokens) * sizes.vocab * activation;
    let label_rows = tokens * (4 * sizes.hidden * activation + 2 * bytes_of(DType::F32));
    let items = [
        ("activations kept for backward", tokens * (kept + residuals)),
        (
            "buffers shared by the layers",
            tokens * (reused + shared + adapters),
        ),
        ("logits and label rows", logits + label_rows),
    ];
    items
        .map(|(purpose, bytes)| (purpose, bytes as u64))
        .to_vec()
}

/// Which format the numbers of a buffer have.
#[derive(Clone, Copy)]
enum Numbers {
    /// That of [`Capacity::activations`].
    Activations,
    /// Always f32.
    F32,
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
    pub kv_heads: usize,
    pub head_dim: usize,
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
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
        }
    }

    /// Of [`Costly`], in its order.
    fn costly(self) -> [(usize, Numbers); 9] {
        use Numbers::{Activations, F32};
        let (queries, keys) = (self.queries, self.keys);
        let (hidden, inner) = (self.hidden, self.inner);
        [
            (1, F32),
            (queries, Activations),
            (keys, Activations),
            (keys, Activations),
            (self.heads, F32),
            (queries, Activations),
            (hidden, Activations),
            (1, F32),
            (2 * inner, Activations),
        ]
    }

    /// Of [`Cheap`], in its order.
    fn cheap(self) -> [(usize, Numbers); 3] {
        [self.hidden, self.hidden, self.inner].map(|width| (width, Numbers::Activations))
    }

    /// Of [`Shared`], in its order, without the adapters'.
    fn shared(self) -> [(usize, Numbers); 11] {
        use Numbers::{Activations, F32};
        let (queries, keys) = (self.queries, self.keys);
        let (hidden, inner) = (self.hidden, self.inner);
        [
            (self.qkv, Activations),
            (queries, Activations),
            (hidden, Activations),
            (hidden, Activations),
            (queries, Activations),
            (keys, Activations),
            (keys, Activations),
            (queries, Activations),
            (self.heads, F32),
            (2 * inner, Activations),
            (inner, Activations),
        ]
    }
}

/// What one layer's backward pass reads of its forward pass. All buffers are flat; a micro-batch uses
/// the beginning of each.
pub(super) struct LayerActivations {
    pub costly: Costly,
    pub cheap: Cheap,
}

/// What takes products or attention to compute.
#[derive(Clone)]
pub(super) struct Costly {
    pub rstd: Tensor,
    pub q: Tensor,
    pub k: Tensor,
    pub v: Tensor,
    pub log_sum: Tensor,
    pub attended: Tensor,
    pub middle: Tensor,
    pub middle_rstd: Tensor,
    pub gate_up: Tensor,
}

/// What is a small part of the work to compute again.
#[derive(Clone)]
pub(super) struct Cheap {
    pub normed: Tensor,
    pub middle_normed: Tensor,
    pub gated: Tensor,
}

/// Buffers that one layer after another uses.
pub(super) struct Shared {
    pub qkv: Tensor,
    pub heads: Tensor,
    pub d_residual: Tensor,
    pub d_normed: Tensor,
    pub d_q: Tensor,
    pub d_k: Tensor,
    pub d_v: Tensor,
    pub d_attended: Tensor,
    pub delta: Tensor,
    pub d_gate_up: Tensor,
    pub d_gated: Tensor,
    /// Of adapters, where there are any: `x aᵀ`, and its gradient.
    pub low_rank: Option<[Tensor; 2]>,
    /// Of adapters with dropout: what is kept of their input, and its gradient.
    pub dropped: Option<Tensor>,
}

/// Buffers of the final norm and the head, over label rows.
pub(super) struct Head {
    pub rows: Tensor,
    pub rstd: Tensor,
    pub normed: Tensor,
    pub d_normed: Tensor,
    pub d_rows: Tensor,
    pub losses: Tensor,
    pub logits: Tensor,
}

/// All buffers, made once.
pub(super) struct Buffers {
    /// The residual stream before each layer, and after the last.
    pub residuals: Vec<Tensor>,
    /// Of each layer; where something is computed again, all layers name the same buffer.
    pub activations: Vec<LayerActivations>,
    pub shared: Shared,
    pub head: Head,
}

impl Buffers {
    pub fn new(config: &LlamaConfig, capacity: Capacity, device: &Device) -> Result<Self> {
        let sizes = Sizes::of(config);
        let layers = config.num_hidden_layers;
        let buffer = |(width, numbers): (usize, Numbers)| {
            let dtype = match numbers {
                Numbers::Activations => capacity.activations,
                Numbers::F32 => DType::F32,
            };
            Tensor::zeros(capacity.tokens * width, dtype, device)
        };
        let rows = |width| buffer((width, Numbers::Activations));
        let numbers = || buffer((1, Numbers::F32));
        let costly = || -> Result<Costly> {
            let [
                rstd,
                q,
                k,
                v,
                log_sum,
                attended,
                middle,
                middle_rstd,
                gate_up,
            ] = sizes.costly();
            Ok(Costly {
                rstd: buffer(rstd)?,
                q: buffer(q)?,
                k: buffer(k)?,
                v: buffer(v)?,
                log_sum: buffer(log_sum)?,
                attended: buffer(attended)?,
                middle: buffer(middle)?,
                middle_rstd: buffer(middle_rstd)?,
                gate_up: buffer(gate_up)?,
            })
        };
        let cheap = || -> Result<Cheap> {
            let [normed, middle_normed, gated] = sizes.cheap();
            Ok(Cheap {
                normed: buffer(normed)?,
                middle_normed: buffer(middle_normed)?,
                gated: buffer(gated)?,
            })
        };
        let first = LayerActivations {
            costly: costly()?,
            cheap: cheap()?,
        };
        let mut activations = vec![first];
        for _ in 1..layers {
            let LayerActivations {
                costly: all_costly,
                cheap: all_cheap,
            } = &activations[0];
            // A clone is the same buffer under another name.
            let next = match capacity.recompute {
                Recompute::Nothing => (costly()?, cheap()?),
                Recompute::Elementwise => (costly()?, all_cheap.clone()),
                Recompute::Layers => (all_costly.clone(), all_cheap.clone()),
            };
            activations.push(LayerActivations {
                costly: next.0,
                cheap: next.1,
            });
        }
        let [
            qkv,
            heads,
            d_residual,
            d_normed,
            d_q,
            d_k,
            d_v,
            d_attended,
            delta,
            d_gate_up,
            d_gated,
        ] = sizes.shared();
        Ok(Self {
            residuals: (0..=layers)
                .map(|_| rows(sizes.hidden))
                .collect::<Result<_>>()?,
            activations,
            shared: Shared {
                qkv: buffer(qkv)?,
                heads: buffer(heads)?,
                d_residual: buffer(d_residual)?,
                d_normed: buffer(d_normed)?,
                d_q: buffer(d_q)?,
                d_k: buffer(d_k)?,
                d_v: buffer(d_v)?,
                d_attended: buffer(d_attended)?,
                delta: buffer(delta)?,
                d_gate_up: buffer(d_gate_up)?,
                d_gated: buffer(d_gated)?,
                low_rank: match capacity.lora_rank {
                    0 => None,
                    rank => Some([rows(rank)?, rows(rank)?]),
                },
                dropped: match capacity.dropout_width {
                    0 => None,
                    width => Some(rows(width)?),
                },
            },
            head: Head {
                rows: rows(sizes.hidden)?,
                rstd: numbers()?,
                normed: rows(sizes.hidden)?,
                d_normed: rows(sizes.hidden)?,
                d_rows: rows(sizes.hidden)?,
                losses: numbers()?,
                logits: Tensor::zeros(
                    capacity.label_rows.min(capacity.tokens) * sizes.vocab,
                    capacity.activations,
                    device,
                )?,
            },
        })
    }
}

#[cfg(test)]
impl Buffers {
    /// Bytes of all buffers, each counted once.
    fn bytes(&self) -> usize {
        let mut seen = std::collections::HashMap::new();
        let layers = self.activations.iter().flat_map(|layer| {
            let (costly, cheap) = (&layer.costly, &layer.cheap);
            [
                &costly.rstd,
                &costly.q,
                &costly.k,
                &costly.v,
                &costly.log_sum,
                &costly.attended,
                &costly.middle,
                &costly.middle_rstd,
                &costly.gate_up,
                &cheap.normed,
                &cheap.middle_normed,
                &cheap.gated,
            ]
        });
        let (shared, head) = (&self.shared, &self.head);
        let others = [
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
            &head.rows,
            &head.rstd,
            &head.normed,
            &head.d_normed,
            &head.d_rows,
            &head.losses,
            &head.logits,
        ];
        let adapters = shared.low_rank.iter().flatten().chain(&shared.dropped);
        for tensor in layers.chain(others).chain(adapters).chain(&self.residuals) {
            seen.insert(
                tensor.id(),
                tensor.elem_count() * tensor.dtype().size_in_bytes(),
            );
        }
        seen.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::testing::tiny_config;

    #[test]
    fn the_table_of_buffers_is_what_is_allocated() {
        let config = tiny_config(true);
        for (tokens, dropout_width) in [(16, 0), (600, 40)] {
            for recompute in Recompute::ALL {
                for activations in [DType::F32, DType::BF16] {
                    let capacity = Capacity {
                        tokens,
                        recompute,
                        lora_rank: 3,
                        dropout_width,
                        label_rows: 256,
                        activations,
                    };
                    let made = Buffers::new(&config, capacity, &Device::Cpu).unwrap();
                    let table = buffers(&config, capacity);
                    let sum: u64 = table.iter().map(|(_, bytes)| bytes).sum();
                    assert_eq!(sum, made.bytes() as u64, "{capacity:?}");
                }
            }
        }
    }
}
