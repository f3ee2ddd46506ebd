//! Causal attention of one new position over a sequence's cached keys and values.

use std::sync::Arc;

use super::elementwise::{compiled_thrice, exp, sum_lanes};
use super::page::{PAGE_POSITIONS, Page};
use super::{Instructions, multiply_add};

pub(super) const LANES: usize = 16;

/// Heads of a layer.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct AttentionShape {
    pub heads: usize,
    pub key_value_heads: usize,
    pub head_dim: usize,
}

/// Attention of one row of queries (`[heads * head_dim]`, already rotated) over the first `positions`
/// positions of a layer, which lie in `pages`, into `out` of the same size.
///
/// softmax(q K^T / sqrt(head_dim)) V, Vaswani et al., arXiv 1706.03762, with query heads sharing
/// key/value heads in order (Ainslie et al., arXiv 2305.13245).
pub(in super::super) fn attend(
    queries: &[f32],
    pages: &[Arc<Page>],
    layer: usize,
    positions: usize,
    out: &mut [f32],
    with: Instructions,
) {
    let pages = &pages[..positions.div_ceil(PAGE_POSITIONS)];
    let shape = pages[0].shape().attention;
    // A number for each position of the pages, for each head.
    let mut weights = vec![0.0; shape.heads * pages.len() * PAGE_POSITIONS];
    attend_row(queries, pages, layer, positions, &mut weights, out, with);
}

compiled_thrice!(
    /// All heads of one row. Page by page, so that heads find shared keys and values in the nearest cache
    /// and what is read lies side by side; each sum is one chain in the order of dimensions or positions.
    attend_row, attend_row_of,
    (queries: &[f32], pages: &[Arc<Page>], layer: usize, positions: usize, weights: &mut [f32],
        out: &mut [f32])
);

#[inline(always)]
fn attend_row_of<const FMA: bool>(
    queries: &[f32],
    pages: &[Arc<Page>],
    layer: usize,
    positions: usize,
    weights: &mut [f32],
    out: &mut [f32],
) {
    let shape = pages[0].shape().attention;
    let width = shape.head_dim;
    let per_group = shape.heads / shape.key_value_heads;
    let room = pages.len() * PAGE_POSITIONS;
    let scale = 1.0 / (width as f32).sqrt();
    for (number, page) in pages.iter().enumerate() {
        let first = number * PAGE_POSITIONS;
        for (head, (query, weights)) in queries
            .chunks_exact(width)
            .zip(weights.chunks_exact_mut(room))
            .enumerate()
        {
            let keys = page.keys(layer, head / per_group);
            let scores = &mut weights[first..first + PAGE_POSITIONS];
            // Lanes past the end take no part; a short sequence leaves most of them out.
            match positions - first {
                ..=16 => multiply_keys::<FMA, LANES>(query, keys, scale, scores),
                17..=32 => multiply_keys::<FMA, 32>(query, keys, scale, scores),
                _ => multiply_keys::<FMA, PAGE_POSITIONS>(query, keys, scale, scores),
            }
        }
    }
    out.fill(0.0);
    let mut normals = vec![0.0; shape.heads];
    for (normal, weights) in normals.iter_mut().zip(weights.chunks_exact_mut(room)) {
        *normal = 1.0 / exponents::<FMA>(weights, positions);
    }
    for (number, page) in pages.iter().enumerate() {
        let first = number * PAGE_POSITIONS;
        let here = PAGE_POSITIONS.min(positions - first);
        for (head, (out, weights)) in out
            .chunks_exact_mut(width)
            .zip(weights.chunks_exact(room))
            .enumerate()
        {
            let values = page.values(layer, head / per_group);
            add_weighted::<FMA>(&weights[first..][..here], values, out);
        }
    }
    for (out, normal) in out.chunks_exact_mut(width).zip(normals) {
        for out in out {
            *out *= normal;
        }
    }
}

/// The scores of the first `COUNT` positions of a page: the query times each key, times `scale`.
#[inline(always)]
fn multiply_keys<const FMA: bool, const COUNT: usize>(
    query: &[f32],
    keys: &[[f32; PAGE_POSITIONS]],
    scale: f32,
    scores: &mut [f32],
) {
    let mut sums = [0.0; COUNT];
    for (keys, q) in keys.iter().zip(query) {
        for (sum, key) in sums.iter_mut().zip(keys) {
            *sum = multiply_add::<FMA>(*q, *key, *sum);
        }
    }
    for (score, sum) in scores.iter_mut().zip(sums) {
        *score = sum * scale;
    }
}

/// Adds rows of `values`, each as long as `sums`, times their weights to `sums`.
#[inline(always)]
fn add_weighted<const FMA: bool>(weights: &[f32], values: &[f32], sums: &mut [f32]) {
    const BLOCK: usize = 64;
    let width = sums.len();
    let (blocks, rest) = sums.as_chunks_mut::<BLOCK>();
    for (number, block) in blocks.iter_mut().enumerate() {
        let mut sums = *block;
        for (weight, value) in weights.iter().zip(values.chunks_exact(width)) {
            let value: &[f32; BLOCK] = value[number * BLOCK..]
                .first_chunk()
                .expect("a block lies within a row");
            for (sum, value) in sums.iter_mut().zip(value) {
                *sum = multiply_add::<FMA>(*weight, *value, *sum);
            }
        }
        *block = sums;
    }
    if rest.is_empty() {
        return;
    }
    let first = width - rest.len();
    for (weight, value) in weights.iter().zip(values.chunks_exact(width)) {
        for (sum, value) in rest.iter_mut().zip(&value[first..]) {
            *sum = multiply_add::<FMA>(*weight, *value, *sum);
        }
    }
}

/// Makes `exp(score - largest)` of the scores of the first `positions`; returns their sum.
#[inline(always)]
fn exponents<const FMA: bool>(weights: &mut [f32], positions: usize) -> f32 {
    // Lanes past the end hold what was there: they take no part.
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
    sum_lanes(totals)
}

#[cfg(test)]
mod tests {
    use super::super::page::{PagePool, PageShape};
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
    fn agrees_with_the_textbook_across_the_borders_of_blocks_and_pages() {
        for (heads, key_value_heads, head_dim) in
            [(4, 2, 12), (2, 1, 80), (3, 3, 64), (9, 3, 64), (4, 1, 144)]
        {
            let shape = AttentionShape {
                heads,
                key_value_heads,
                head_dim,
            };
            let row = key_value_heads * head_dim;
            const COUNT: usize = 2 * PAGE_POSITIONS + 9;
            let keys: Vec<Vec<f32>> = (0..COUNT).map(|p| numbers(row, p as f32)).collect();
            let values: Vec<Vec<f32>> =
                (0..COUNT).map(|p| numbers(row, 100.0 - p as f32)).collect();
            let queries = numbers(heads * head_dim, 0.3);
            let shape_of_pages = PageShape {
                layers: 2,
                attention: shape,
            };
            let pool = PagePool::new(shape_of_pages, usize::MAX);
            let mut pages = vec![pool.take(), pool.take(), pool.take()];
            for (position, (key, value)) in keys.iter().zip(&values).enumerate() {
                let page = Arc::get_mut(&mut pages[position / PAGE_POSITIONS]).unwrap();
                let position = position % PAGE_POSITIONS;
                page.write(1, position, key, value);
                // Another layer's numbers take no part.
                page.write(0, position, &numbers(row, 7.0), &numbers(row, 8.0));
            }
            for positions in [1, 15, 16, 17, 33, 40, 63, 64, 65, 80, 128, 129, COUNT] {
                let exact = textbook(&queries, &keys[..positions], &values[..positions], shape);
                let mut results = Vec::new();
                for with in Instructions::available() {
                    let mut out = vec![0.0; heads * head_dim];
                    attend(&queries, &pages, 1, positions, &mut out, with);
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
