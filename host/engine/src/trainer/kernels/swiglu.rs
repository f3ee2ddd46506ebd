//! SwiGLU (Shazeer, arXiv 2002.05202): `silu(gate) · up`, with `silu(x) = x σ(x)`.

use rayon::prelude::*;

use super::ROWS_PER_TASK;
use super::vector::{exp, vectorised};

/// `gate_up` is `[tokens, 2 · inner]`, gate first; `out` is `[tokens, inner]`.
pub(in crate::trainer) fn swiglu_forward(out: &mut [f32], gate_up: &[f32], inner: usize) {
    out.par_chunks_exact_mut(inner)
        .zip(gate_up.par_chunks_exact(2 * inner))
        .with_min_len(ROWS_PER_TASK)
        .for_each(|(out, gate_up)| {
            let (gate, up) = gate_up.split_at(inner);
            forward_row(out, gate, up);
        });
}

/// Writes the gradient of `gate_up` to `d_gate_up`.
pub(in crate::trainer) fn swiglu_backward(
    d_gate_up: &mut [f32],
    d_out: &[f32],
    gate_up: &[f32],
    inner: usize,
) {
    d_gate_up
        .par_chunks_exact_mut(2 * inner)
        .zip(d_out.par_chunks_exact(inner))
        .zip(gate_up.par_chunks_exact(2 * inner))
        .with_min_len(ROWS_PER_TASK)
        .for_each(|((d_gate_up, d_out), gate_up)| {
            let (d_gate, d_up) = d_gate_up.split_at_mut(inner);
            let (gate, up) = gate_up.split_at(inner);
            backward_row(d_gate, d_up, d_out, gate, up);
        });
}

vectorised! {
    fn forward_row(out: &mut [f32], gate: &[f32], up: &[f32]) {
        for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
            *out = g / (1.0 + exp(-g)) * u;
        }
    }
}

vectorised! {
    fn backward_row(d_gate: &mut [f32], d_up: &mut [f32], d_out: &[f32], gate: &[f32], up: &[f32]) {
        for ((((dg, du), d), g), u) in d_gate.iter_mut().zip(d_up).zip(d_out).zip(gate).zip(up) {
            let sigmoid = 1.0 / (1.0 + exp(-g));
            *dg = d * u * sigmoid * (1.0 + g * (1.0 - sigmoid));
            *du = d * g * sigmoid;
        }
    }
}
