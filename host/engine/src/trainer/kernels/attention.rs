//! Causal attention within each segment of a packed micro-batch and to the prefix that it shares,
//! with grouped key/value heads.

use std::ops::Range;

use rayon::prelude::*;

use super::matmul::{Matrix, MatrixMut, matmul};
use super::vector::{dot, exp_in_place, max, vectorised};
use crate::trainer::micro_batch::Segment;

/// `out = softmax(q kᵀ / √head_dim, causal) v`, segment by segment; `k` and `v` are the segment's
/// own behind those of its prefix.
///
/// `q` and `out` are `[heads, tokens, head_dim]`, `k` and `v` `[kv_heads, tokens, head_dim]`. The
/// logarithm of each softmax's denominator goes to `log_sum` (`[heads, tokens]`) for the backward pass.
pub(in crate::trainer) fn attention_forward(
    out: &mut [f32],
    log_sum: &mut [f32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    segments: &[Segment],
    shape: AttentionShape,
) {
    let AttentionShape {
        tokens, head_dim, ..
    } = shape;
    let plane = tokens * head_dim;
    out.par_chunks_exact_mut(plane)
        .zip(log_sum.par_chunks_exact_mut(tokens))
        .zip(q.par_chunks_exact(plane))
        .enumerate()
        .for_each_init(Vec::new, |scores, (head, ((out, log_sum), q))| {
            let kv = head / shape.group();
            let (k, v) = (&k[kv * plane..][..plane], &v[kv * plane..][..plane]);
            let rows = |plane, tokens: &Range<usize>| rows(plane, tokens, head_dim);
            for segment in segments {
                let length = segment.tokens.len();
                let width = segment.prefix.len() + length;
                let q = rows(q, &segment.tokens);
                scores.resize(length * width, 0.0);
                for (tokens, columns) in seen(segment) {
                    let scores = MatrixMut::new(scores, length, width).columns(columns);
                    matmul(scores.times(shape.scale()), q, rows(k, tokens).t(), false);
                }
                causal_softmax(scores, &mut log_sum[segment.tokens.clone()]);
                let weights = Matrix::new(scores, length, width);
                for (part, (tokens, columns)) in seen(segment).enumerate() {
                    let out = rows_mut(out, &segment.tokens, head_dim);
                    let weights = weights.columns(columns);
                    matmul(out.accumulate(part > 0), weights, rows(v, tokens), false);
                }
            }
        });
}

/// The stretches of tokens that a segment attends to, itself first, each with its columns among the
/// segment's scores, where the prefix comes first.
fn seen(segment: &Segment) -> impl Iterator<Item = (&Range<usize>, Range<usize>)> {
    let before = segment.prefix.len();
    let own = (&segment.tokens, before..before + segment.tokens.len());
    let prefix = (before > 0).then_some((&segment.prefix, 0..before));
    std::iter::once(own).chain(prefix)
}

/// One head's rows of some tokens.
fn rows<'a>(plane: &'a [f32], tokens: &Range<usize>, head_dim: usize) -> Matrix<'a> {
    let part = &plane[tokens.start * head_dim..tokens.end * head_dim];
    Matrix::new(part, tokens.len(), head_dim)
}

fn rows_mut<'a>(plane: &'a mut [f32], tokens: &Range<usize>, head_dim: usize) -> MatrixMut<'a> {
    let part = &mut plane[tokens.start * head_dim..tokens.end * head_dim];
    MatrixMut::new(part, tokens.len(), head_dim)
}

/// Heads and sizes of an attention.
#[derive(Clone, Copy)]
pub(in crate::trainer) struct AttentionShape {
    pub heads: usize,
    pub kv_heads: usize,
    pub tokens: usize,
    pub head_dim: usize,
}

impl AttentionShape {
    /// Query heads that share one key/value head.
    fn group(self) -> usize {
        self.heads / self.kv_heads
    }

    fn scale(self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
}

/// What the backward pass reads: the forward pass's inputs and outputs, and the gradient of its output.
#[derive(Clone, Copy)]
pub(in crate::trainer) struct AttentionSaved<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
    pub log_sum: &'a [f32],
    /// `[heads, tokens]`: inner product of output and its gradient, for every head of every token.
    pub delta: &'a [f32],
    pub d_out: &'a [f32],
}

/// Writes the gradients of queries, keys and values.
///
/// The attention weights are computed again from the saved denominators (Dao et al., arXiv
/// 2205.14135, section 3.1) and never stored for a whole layer. A prefix comes before the segments
/// that share it, so its own gradients are there when theirs are added.
pub(in crate::trainer) fn attention_backward(
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
    saved: AttentionSaved<'_>,
    segments: &[Segment],
    shape: AttentionShape,
) {
    let AttentionShape {
        tokens, head_dim, ..
    } = shape;
    let plane = tokens * head_dim;
    let group = shape.group();
    // Keys and values gather gradients from all query heads of their group: one task per group.
    dq.par_chunks_exact_mut(group * plane)
        .zip(dk.par_chunks_exact_mut(plane))
        .zip(dv.par_chunks_exact_mut(plane))
        .enumerate()
        .for_each_init(
            || (Vec::new(), Vec::new()),
            |(weights, d_weights), (kv, ((dq, dk), dv))| {
                let rows = |plane, tokens: &Range<usize>| rows(plane, tokens, head_dim);
                let (k, v) = (
                    &saved.k[kv * plane..][..plane],
                    &saved.v[kv * plane..][..plane],
                );
                for segment in segments {
                    let length = segment.tokens.len();
                    let width = segment.prefix.len() + length;
                    for member in 0..group {
                        let head = kv * group + member;
                        let q = rows(&saved.q[head * plane..][..plane], &segment.tokens);
                        let d_out = &saved.d_out[head * plane..][..plane];
                        let d_out = rows(d_out, &segment.tokens);
                        let log_sum = &saved.log_sum[head * tokens..][segment.tokens.clone()];
                        let delta = &saved.delta[head * tokens..][segment.tokens.clone()];
                        weights.resize(length * width, 0.0);
                        d_weights.resize(length * width, 0.0);
                        for (tokens, columns) in seen(segment) {
                            let weights =
                                MatrixMut::new(weights, length, width).columns(columns.clone());
                            let k = rows(k, tokens).t();
                            matmul(weights.times(shape.scale()), q, k, false);
                            let d_weights =
                                MatrixMut::new(d_weights, length, width).columns(columns);
                            matmul(d_weights, d_out, rows(v, tokens).t(), false);
                        }
                        softmax_backward(weights, d_weights, log_sum, delta);
                        let weights = Matrix::new(weights, length, width);
                        let d_scores = Matrix::new(d_weights, length, width);
                        let dq = &mut dq[member * plane..][..plane];
                        for (part, (tokens, columns)) in seen(segment).enumerate() {
                            // The prefix's gradients are there already, the segment's own are from
                            // the second head of the group on.
                            let in_prefix = part > 0;
                            let later = in_prefix || member > 0;
                            let weights = weights.columns(columns.clone());
                            let d_scores = d_scores.columns(columns);
                            let dv = rows_mut(dv, tokens, head_dim);
                            matmul(dv.accumulate(later), weights.t(), d_out, false);
                            let dk = rows_mut(dk, tokens, head_dim);
                            matmul(
                                dk.accumulate(later).times(shape.scale()),
                                d_scores.t(),
                                q,
                                false,
                            );
                            let dq = rows_mut(dq, &segment.tokens, head_dim);
                            let k = rows(k, tokens);
                            matmul(
                                dq.accumulate(in_prefix).times(shape.scale()),
                                d_scores,
                                k,
                                false,
                            );
                        }
                    }
                }
            },
        );
}

vectorised! {
    /// Softmax of row `i` over the prefix's columns and the `i + 1` after them; the rest becomes zero.
    fn causal_softmax(scores: &mut [f32], log_sum: &mut [f32]) {
        let width = scores.len() / log_sum.len();
        let prefix = width - log_sum.len();
        for (i, (row, log_sum)) in scores.chunks_exact_mut(width).zip(log_sum).enumerate() {
            let (past, future) = row.split_at_mut(prefix + i + 1);
            let largest = max(past);
            let sum = exp_in_place(past, largest);
            let inverse = 1.0 / sum;
            for p in past {
                *p *= inverse;
            }
            future.fill(0.0);
            *log_sum = largest + sum.ln();
        }
    }
}

vectorised! {
    /// Turns scores into weights again, and gradients of the weights into gradients of the scores.
    fn softmax_backward(scores: &mut [f32], d_weights: &mut [f32], log_sum: &[f32], delta: &[f32]) {
        let width = scores.len() / log_sum.len();
        let prefix = width - log_sum.len();
        let rows = scores.chunks_exact_mut(width).zip(d_weights.chunks_exact_mut(width));
        for (i, ((row, d_row), (log_sum, delta))) in rows.zip(log_sum.iter().zip(delta)).enumerate() {
            let (past, future) = row.split_at_mut(prefix + i + 1);
            let (d_past, d_future) = d_row.split_at_mut(prefix + i + 1);
            exp_in_place(past, *log_sum);
            for (d, p) in d_past.iter_mut().zip(past) {
                *d = *p * (*d - delta);
            }
            future.fill(0.0);
            d_future.fill(0.0);
        }
    }
}

vectorised! {
    /// `products[head, token]` = inner product of that head's parts of `a` and `b` (`[tokens, heads · head_dim]`).
    pub(in crate::trainer) fn head_products(products: &mut [f32], a: &[f32], b: &[f32], head_dim: usize, heads: usize) {
        let tokens = products.len() / heads;
        let parts = a.chunks_exact(head_dim).zip(b.chunks_exact(head_dim));
        for (i, (a, b)) in parts.enumerate() {
            products[i % heads * tokens + i / heads] = dot(a, b);
        }
    }
}
