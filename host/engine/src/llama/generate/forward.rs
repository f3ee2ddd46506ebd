//! The forward pass of a LLaMA decoder over rows of several sequences at once.

use std::sync::Arc;

use rayon::prelude::*;

use super::kernel::{
    AttentionShape, Instructions, PackedMatrix, Page, PagePool, PageShape, add, attend, rms_norm,
    swiglu,
};
use super::kv_cache::KvCache;
use super::model::StoredWeights;
use crate::llama::config::LlamaConfig;
use crate::llama::rope::RopeTable;

/// A model's weights, arranged for inference.
pub(super) struct Decoder {
    config: LlamaConfig,
    shape: AttentionShape,
    embedding: PackedMatrix,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// The embedding is the head where there is no other.
    head: Option<PackedMatrix>,
    rope: RopeTable,
    with: Instructions,
}

struct Layer {
    attention_norm: Vec<f32>,
    query_key_value: PackedMatrix,
    attention_output: PackedMatrix,
    feed_forward_norm: Vec<f32>,
    gate_up: PackedMatrix,
    down: PackedMatrix,
}

/// The next tokens of one sequence.
pub(super) struct Step<'a> {
    pub tokens: &'a [u32],
    pub cache: &'a mut KvCache,
    /// How many of the last tokens want logits.
    pub logits: usize,
}

impl Decoder {
    /// Arranges weights; `context` is the longest sequence that will be asked for.
    pub(super) fn new(
        config: LlamaConfig,
        weights: impl Into<StoredWeights>,
        context: usize,
    ) -> candle_core::Result<Self> {
        let mut weights = weights.into();
        let take =
            |weights: &mut StoredWeights, name: &str| weights.take(&format!("{name}.weight"));
        let vector = |weights: &mut StoredWeights, name: &str| {
            weights.take_vector(&format!("{name}.weight"))
        };
        let hidden = config.hidden_size;
        let embedding = PackedMatrix::pack(hidden, &[&take(&mut weights, "model.embed_tokens")?]);
        let head = if config.tie_word_embeddings {
            None
        } else {
            Some(PackedMatrix::pack(
                hidden,
                &[&take(&mut weights, "lm_head")?],
            ))
        };
        let norm = vector(&mut weights, "model.norm")?;
        let queries = config.num_attention_heads * config.head_dim;
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for number in 0..config.num_hidden_layers {
            let layer = |name: &str| format!("model.layers.{number}.{name}");
            let attention_norm = vector(&mut weights, &layer("input_layernorm"))?;
            let feed_forward_norm = vector(&mut weights, &layer("post_attention_layernorm"))?;
            let mut part = |name: &str| take(&mut weights, &layer(name));
            let (q, k, v) = (
                part("self_attn.q_proj")?,
                part("self_attn.k_proj")?,
                part("self_attn.v_proj")?,
            );
            let (gate, up) = (part("mlp.gate_proj")?, part("mlp.up_proj")?);
            layers.push(Layer {
                attention_norm,
                query_key_value: PackedMatrix::pack(hidden, &[&q, &k, &v]),
                attention_output: PackedMatrix::pack(queries, &[&part("self_attn.o_proj")?]),
                feed_forward_norm,
                gate_up: PackedMatrix::pack(hidden, &[&gate, &up]),
                down: PackedMatrix::pack(config.intermediate_size, &[&part("mlp.down_proj")?]),
            });
        }
        Ok(Self {
            shape: AttentionShape {
                heads: config.num_attention_heads,
                key_value_heads: config.num_key_value_heads,
                head_dim: config.head_dim,
            },
            norm,
            rope: RopeTable::new(&config, context),
            embedding,
            layers,
            head,
            config,
            with: Instructions::detected(),
        })
    }

    pub(super) fn instructions(&self) -> Instructions {
        self.with
    }

    /// A pool of pages for keys and values of this model, of no more than `limit_bytes` together.
    pub(super) fn page_pool(&self, limit_bytes: usize) -> Arc<PagePool> {
        let shape = PageShape {
            layers: self.layers.len(),
            attention: self.shape,
        };
        PagePool::new(shape, limit_bytes)
    }

    /// An empty cache whose pages nothing bounds.
    #[cfg(test)]
    pub(super) fn new_cache(&self) -> KvCache {
        KvCache::new(&self.page_pool(usize::MAX))
    }

    /// Runs the next tokens of several sequences. Returns the logits asked for, `[rows, vocab_size]`, in the
    /// order of the steps and their tokens.
    ///
    /// # Panics
    /// If a token is outside the vocabulary or a position past the context, which the engine checks; if
    /// a cache's pool has no room for the tokens, which the scheduler makes first.
    pub(super) fn forward(&self, steps: &mut [Step<'_>]) -> Vec<f32> {
        let (config, with) = (&self.config, self.with);
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let queries = self.shape.heads * self.shape.head_dim;
        let keys = self.shape.key_value_heads * self.shape.head_dim;
        let eps = config.rms_norm_eps as f32;

        for step in steps.iter_mut() {
            let room = step.cache.reserve(step.tokens.len());
            assert!(room, "the scheduler makes room before tokens are fed");
        }
        // For each row: its step and its position in that step's sequence.
        let places: Vec<(usize, usize)> = steps
            .iter()
            .enumerate()
            .flat_map(|(number, step)| {
                let first = step.cache.positions();
                (0..step.tokens.len()).map(move |offset| (number, first + offset))
            })
            .collect();
        let rows = places.len();
        let mut x = vec![0.0; rows * hidden];
        let tokens = steps.iter().flat_map(|step| step.tokens);
        for (token, row) in tokens.zip(x.chunks_exact_mut(hidden)) {
            self.embedding.row(*token as usize, row);
        }

        let mut normal = vec![0.0; rows * hidden];
        let mut branch = vec![0.0; rows * hidden];
        let mut qkv = vec![0.0; rows * (queries + 2 * keys)];
        let mut attention = vec![0.0; rows * queries];
        let mut gate_up = vec![0.0; rows * 2 * inner];
        let mut product = vec![0.0; rows * inner];
        for (number, layer) in self.layers.iter().enumerate() {
            rms_norm(&x, &layer.attention_norm, eps, &mut normal, with);
            layer.query_key_value.multiply(&normal, &mut qkv, with);
            for (row, (step, position)) in qkv.chunks_exact_mut(queries + 2 * keys).zip(&places) {
                let (rotated, value) = row.split_at_mut(queries + keys);
                for head in rotated.chunks_exact_mut(self.shape.head_dim) {
                    self.rope.rotate(head, *position);
                }
                let cache = &mut steps[*step].cache;
                cache.write(number, *position, &rotated[queries..], value);
            }
            let caches: Vec<&[Arc<Page>]> = steps.iter().map(|step| step.cache.pages()).collect();
            attention
                .par_chunks_exact_mut(queries)
                .zip(qkv.par_chunks_exact(queries + 2 * keys))
                .zip(&places)
                .for_each(|((out, row), (step, position))| {
                    let pages = caches[*step];
                    attend(&row[..queries], pages, number, position + 1, out, with);
                });
            layer
                .attention_output
                .multiply(&attention, &mut branch, with);
            add(&mut x, &branch);

            rms_norm(&x, &layer.feed_forward_norm, eps, &mut normal, with);
            layer.gate_up.multiply(&normal, &mut gate_up, with);
            swiglu(&gate_up, inner, &mut product, with);
            layer.down.multiply(&product, &mut branch, with);
            add(&mut x, &branch);
        }

        let mut wanted = Vec::new();
        let mut row = 0;
        for step in steps {
            step.cache.advance(step.tokens.len());
            row += step.tokens.len();
            wanted.extend_from_slice(&x[(row - step.logits) * hidden..row * hidden]);
        }
        let mut last = vec![0.0; wanted.len()];
        rms_norm(&wanted, &self.norm, eps, &mut last, with);
        let mut logits = vec![0.0; wanted.len() / hidden * config.vocab_size];
        if !logits.is_empty() {
            let head = self.head.as_ref().unwrap_or(&self.embedding);
            head.multiply(&last, &mut logits, with);
        }
        logits
    }
}
