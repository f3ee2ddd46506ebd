//! Causal attention within each sequence of a packed micro-batch, with grouped key/value heads.

use std::ops::Range;

use rayon::prelude::*;

use super::matmul::{Matrix, MatrixMut, matmul};
use super::vector::{dot, exp_in_place, max, vectorised};

/// `out = softmax(q kᵀ / √head_dim, causal) v`, sequence by sequence.
///
/// `q` and `out` are `[heads, tokens, head_dim]`, `k` and `v` `[kv_heads, tokens, head_dim]`. The
/// logarithm of each softmax's denominator goes to `log_sum` (`[heads, tokens]`) for the backward pass.
pub(in crate::trainer) fn attention_forward(
    out: &mut [f32],
    log_sum: &mut [f32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    sequences: &[Range<usize>],
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
            for sequence in sequences {
                let length = sequence.len();
                let part = sequence.start * head_dim..sequence.end * head_dim;
                let k = Matrix::new(&k[part.clone()], length, head_dim);
                let v = Matrix::new(&v[part.clone()], length, head_dim);
                let q = Matrix::new(&q[part.clone()], length, head_dim);
                scores.resize(length * length, 0.0);
                let square = |s| MatrixMut::new(s, length, length);
                matmul(square(scores), false, shape.scale(), q, k.t(), false);
                causal_softmax(scores, &mut log_sum[sequence.clone()]);
                let weights = Matrix::new(scores, length, length);
                let out = MatrixMut::new(&mut out[part], length, head_dim);
                matmul(out, false, 1.0, weights, v, false);
            }
        });
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
/// 2205.14135, section 3.1) and never stored for a whole layer.
pub(in crate::trainer) fn attention_backward(
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
    saved: AttentionSaved<'_>,
    sequences: &[Range<usize>],
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
                for sequence in sequences {
                    let length = sequence.len();
                    let part = sequence.start * head_dim..sequence.end * head_dim;
                    let k = &saved.k[kv * plane..][..plane][part.clone()];
                    let v = &saved.v[kv * plane..][..plane][part.clone()];
                    let (k, v) = (
                        Matrix::new(k, length, head_dim),
                        Matrix::new(v, length, head_dim),
                    );
                    for member in 0..group {
                        let head = kv * group + member;
                        let q = &saved.q[head * plane..][..plane][part.clone()];
                        let d_out = &saved.d_out[head * plane..][..plane][part.clone()];
                        let q = Matrix::new(q, length, head_dim);
                        let d_out = Matrix::new(d_out, length, head_dim);
                        let log_sum = &saved.log_sum[head * tokens..][sequence.clone()];
                        let delta = &saved.delta[head * tokens..][sequence.clone()];
                        weights.resize(length * length, 0.0);
                        d_weights.resize(length * length, 0.0);
                        let square = |s| MatrixMut::new(s, length, length);
                        matmul(square(weights), false, shape.scale(), q, k.t(), false);
                        matmul(square(d_weights), false, 1.0, d_out, v.t(), false);
                        softmax_backward(weights, d_weights, log_sum, delta);
                        let weights = Matrix::new(weights, length, length);
                        let d_scores = Matrix::new(d_weights, length, length);
                        let later = member > 0;
                        let dv = MatrixMut::new(&mut dv[part.clone()], length, head_dim);
                        matmul(dv, later, 1.0, weights.t(), d_out, false);
                        let dk = MatrixMut::new(&mut dk[part.clone()], length, head_dim);
                        matmul(dk, later, shape.scale(), d_scores.t(), q, false);
                        let dq = &mut dq[member * plane..][..plane][part.clone()];
                        let dq = MatrixMut::new(dq, length, head_dim);
                        matmul(dq, false, shape.scale(), d_scores, k, false);
                    }
                }
            },
        );
}

vectorised! {
    /// Softmax of row `i` over its first `i + 1` columns; the rest becomes zero.
    fn causal_softmax(scores: &mut [f32], log_sum: &mut [f32]) {
        let length = log_sum.len();
        for (i, (row, log_sum)) in scores.chunks_exact_mut(length).zip(log_sum).enumerate() {
            let (past, future) = row.split_at_mut(i + 1);
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
        let length = log_sum.len();
        let rows = scores.chunks_exact_mut(length).zip(d_weights.chunks_exact_mut(length));
        for (i, ((row, d_row), (log_sum, delta))) in rows.zip(log_sum.iter().zip(delta)).enumerate() {
            let (past, future) = row.split_at_mut(i + 1);
            let (d_past, d_future) = d_row.split_at_mut(i + 1);
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
