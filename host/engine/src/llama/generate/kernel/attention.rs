//! Causal attention of one new position over a sequence's cached keys and values.

use super::elementwise::{compiled_thrice, exp, sum_lanes};
use super::{Instructions, multiply_add};

const LANES: usize = 16;

/// Heads of a layer.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct AttentionShape {
    pub heads: usize,
    pub key_value_heads: usize,
    pub head_dim: usize,
}

/// The keys and values of one layer of one sequence.
///
/// Keys lie in blocks of 16 positions, dimension by dimension, so that 16 scores are computed side by
/// side; values lie position by position.
pub(in super::super) struct LayerCache {
    shape: AttentionShape,
    positions: usize,
    keys: Vec<Vec<[f32; LANES]>>,
    values: Vec<Vec<f32>>,
}

impl LayerCache {
    pub(in super::super) fn new(shape: AttentionShape) -> Self {
        Self {
            shape,
            positions: 0,
            keys: vec![Vec::new(); shape.key_value_heads],
            values: vec![Vec::new(); shape.key_value_heads],
        }
    }

    /// A copy of the first positions.
    pub(in super::super) fn prefix(&self, positions: usize) -> Self {
        debug_assert!(positions <= self.positions, "only what is there is copied");
        let width = self.shape.head_dim;
        let blocks = positions.div_ceil(LANES);
        Self {
            shape: self.shape,
            positions,
            // Lanes past the end may hold later keys, as attention allows.
            keys: self
                .keys
                .iter()
                .map(|k| k[..blocks * width].to_vec())
                .collect(),
            values: self
                .values
                .iter()
                .map(|v| v[..positions * width].to_vec())
                .collect(),
        }
    }

    /// Adds one position: its key and value, each `[key_value_heads * head_dim]`.
    pub(in super::super) fn push(&mut self, key: &[f32], value: &[f32]) {
        let width = self.shape.head_dim;
        let (block, lane) = (self.positions / LANES, self.positions % LANES);
        for (head, (keys, values)) in self.keys.iter_mut().zip(&mut self.values).enumerate() {
            let part = head * width..(head + 1) * width;
            if lane == 0 {
                keys.resize((block + 1) * width, [0.0; LANES]);
            }
            for (lanes, key) in keys[block * width..].iter_mut().zip(&key[part.clone()]) {
                lanes[lane] = *key;
            }
            values.extend_from_slice(&value[part]);
        }
        self.positions += 1;
    }
}

/// Attention of one row of queries (`[heads * head_dim]`, already rotated) over the first `positions`
/// cached positions, into `out` of the same size.
///
/// softmax(q K^T / sqrt(head_dim)) V, Vaswani et al., arXiv 1706.03762, with query heads sharing
/// key/value heads in order (Ainslie et al., arXiv 2305.13245).
pub(in super::super) fn attend(
    queries: &[f32],
    cache: &LayerCache,
    positions: usize,
    out: &mut [f32],
    with: Instructions,
) {
    let shape = cache.shape;
    let width = shape.head_dim;
    let per_group = shape.heads / shape.key_value_heads;
    let mut weights = vec![0.0; positions.next_multiple_of(LANES)];
    for (head, (query, out)) in queries
        .chunks_exact(width)
        .zip(out.chunks_exact_mut(width))
        .enumerate()
    {
        let group = head / per_group;
        let (keys, values) = (&cache.keys[group], &cache.values[group]);
        attend_head(query, keys, values, positions, &mut weights, out, with);
    }
}

compiled_thrice!(
    /// One head; `weights` is room for one number a position.
    attend_head, attend_head_of,
    (query: &[f32], keys: &[[f32; 16]], values: &[f32], positions: usize, weights: &mut [f32], out: &mut [f32])
);

#[inline(always)]
fn attend_head_of<const FMA: bool>(
    query: &[f32],
    keys: &[[f32; LANES]],
    values: &[f32],
    positions: usize,
    weights: &mut [f32],
    out: &mut [f32],
) {
    let width = query.len();
    let scale = 1.0 / (width as f32).sqrt();
    for (block, scores) in keys
        .chunks_exact(width)
        .zip(weights.chunks_exact_mut(LANES))
    {
        let mut sums = [0.0; LANES];
        for (lanes, q) in block.iter().zip(query) {
            for (sum, key) in sums.iter_mut().zip(lanes) {
                *sum = multiply_add::<FMA>(*q, *key, *sum);
            }
        }
        for (score, sum) in scores.iter_mut().zip(sums) {
            *score = sum * scale;
        }
    }
    // Lanes past the end hold zero keys, or keys of later positions: they take no part.
    let padded = positions.next_multiple_of(LANES);
    weights[positions..padded].fill(f32::NEG_INFINITY);
    let weights = &mut weights[..padded];

    let mut largest = [f32::NEG_INFINITY; LANES];
    for part in weights.chunks_exact(LANES) {
        for (largest, score) in largest.iter_mut().zip(part) {
            *largest = if *score > *largest { *score } else { *largest };
        }
    }
    let largest = largest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut totals = [0.0; LANES];
    for part in weights.chunks_exact_mut(LANES) {
        for (total, score) in totals.iter_mut().zip(part) {
            *score = if *score == f32::NEG_INFINITY {
                0.0
            } else {
                exp::<FMA>(*score - largest)
            };
            *total += *score;
        }
    }
    let normal = 1.0 / sum_lanes(totals);

    const BLOCK: usize = 64;
    for (number, out) in out.chunks_mut(BLOCK).enumerate() {
        let first = number * BLOCK;
        let mut sums = [0.0; BLOCK];
        for (weight, value) in weights
            .iter()
            .zip(values.chunks_exact(width))
            .take(positions)
        {
            let value = &value[first..first + out.len()];
            if let Some(value) = value.first_chunk::<BLOCK>() {
                for (sum, value) in sums.iter_mut().zip(value) {
                    *sum = multiply_add::<FMA>(*weight, *value, *sum);
                }
            } else {
                for (sum, value) in sums.iter_mut().zip(value) {
                    *sum = multiply_add::<FMA>(*weight, *value, *sum);
                }
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = sum * normal;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * 0.7 + seed).sin()).collect()
    }

    /// Attention as the textbook writes it, in double precision.
    fn textbook(
        queries: &[f32],
        keys: &[Vec<f32>],
        values: &[Vec<f32>],
        shape: AttentionShape,
    ) -> Vec<f64> {
        let width = shape.head_dim;
        let mut out = Vec::new();
        for head in 0..shape.heads {
            let group = head / (shape.heads / shape.key_value_heads);
            let part = |row: &[f32], head: usize| row[head * width..(head + 1) * width].to_vec();
            let query = part(queries, head);
            let weights: Vec<f64> = keys
                .iter()
                .map(|key| {
                    let dot: f64 = part(key, group)
                        .iter()
                        .zip(&query)
                        .map(|(k, q)| f64::from(*k) * f64::from(*q))
                        .sum();
                    (dot / (width as f64).sqrt()).exp()
                })
                .collect();
            let total: f64 = weights.iter().sum();
            for i in 0..width {
                let sum: f64 = weights
                    .iter()
                    .zip(values)
                    .map(|(w, value)| w * f64::from(part(value, group)[i]))
                    .sum();
                out.push(sum / total);
            }
        }
        out
    }

    #[test]
    fn agrees_with_the_textbook_across_block_borders() {
        for (heads, key_value_heads, head_dim) in [(4, 2, 12), (2, 1, 80), (3, 3, 64)] {
            let shape = AttentionShape {
                heads,
                key_value_heads,
                head_dim,
            };
            let row = key_value_heads * head_dim;
            let keys: Vec<Vec<f32>> = (0..40).map(|p| numbers(row, p as f32)).collect();
            let values: Vec<Vec<f32>> = (0..40).map(|p| numbers(row, 100.0 - p as f32)).collect();
            let queries = numbers(heads * head_dim, 0.3);
            let mut cache = LayerCache::new(shape);
            for (key, value) in keys.iter().zip(&values) {
                cache.push(key, value);
            }
            for positions in [1, 15, 16, 17, 33, 40] {
                let exact = textbook(&queries, &keys[..positions], &values[..positions], shape);
                let mut results = Vec::new();
                for with in Instructions::available() {
                    let mut out = vec![0.0; heads * head_dim];
                    attend(&queries, &cache, positions, &mut out, with);
                    for (found, exact) in out.iter().zip(&exact) {
                        assert!((f64::from(*found) - exact).abs() < 1e-5);
                    }
                    if with != Instructions::Portable {
                        results.push(out);
                    }
                }
                assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
            }
        }
    }
}
