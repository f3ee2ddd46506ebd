//! RMSNorm (Zhang and Sennrich, arXiv 1910.07467): `y = w · x / √(mean(x²) + ε)`.

use rayon::prelude::*;

use super::ROWS_PER_TASK;
use super::vector::{dot, vectorised};

/// Writes the normalised rows to `y` and `1 / √(mean(x²) + ε)` of each row to `rstd`.
pub(in crate::trainer) fn rms_norm_forward(
    y: &mut [f32],
    rstd: &mut [f32],
    x: &[f32],
    weight: &[f32],
    eps: f32,
) {
    let width = weight.len();
    y.par_chunks_exact_mut(width)
        .zip(rstd)
        .zip(x.par_chunks_exact(width))
        .with_min_len(ROWS_PER_TASK)
        .for_each(|((y, rstd), x)| *rstd = forward_row(y, x, weight, eps));
}

/// Adds the gradient of the input to `dx`.
pub(in crate::trainer) fn rms_norm_backward(
    dx: &mut [f32],
    dy: &[f32],
    x: &[f32],
    weight: &[f32],
    rstd: &[f32],
) {
    let width = weight.len();
    dx.par_chunks_exact_mut(width)
        .zip(dy.par_chunks_exact(width))
        .zip(x.par_chunks_exact(width))
        .zip(rstd)
        .with_min_len(ROWS_PER_TASK)
        .for_each(|(((dx, dy), x), &rstd)| backward_row(dx, dy, x, weight, rstd));
}

/// Adds the gradient of the weight to `d_weight`.
///
/// One thread, row after row: the sum over rows keeps its order, and it is a small part of the work.
pub(in crate::trainer) fn rms_norm_weight_gradient(
    d_weight: &mut [f32],
    dy: &[f32],
    x: &[f32],
    rstd: &[f32],
) {
    let width = d_weight.len();
    for ((dy, x), &rstd) in dy.chunks_exact(width).zip(x.chunks_exact(width)).zip(rstd) {
        add_weight_gradient(d_weight, dy, x, rstd);
    }
}

vectorised! {
    fn forward_row(y: &mut [f32], x: &[f32], weight: &[f32], eps: f32) -> f32 {
        let rstd = 1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt();
        for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
            *y = w * (x * rstd);
        }
        rstd
    }
}

vectorised! {
    // With n = x · rstd: dx = rstd · (w · dy − n · mean(w · dy · n)).
    fn backward_row(dx: &mut [f32], dy: &[f32], x: &[f32], weight: &[f32], rstd: f32) {
        let mut lanes = [0.0f32; 16];
        let (dy_chunks, dy_rest) = dy.as_chunks::<16>();
        let (x_chunks, x_rest) = x.as_chunks::<16>();
        let (w_chunks, w_rest) = weight.as_chunks::<16>();
        for ((dy, x), w) in dy_chunks.iter().zip(x_chunks).zip(w_chunks) {
            for i in 0..16 {
                lanes[i] += dy[i] * w[i] * x[i];
            }
        }
        for (lane, ((dy, x), w)) in lanes.iter_mut().zip(dy_rest.iter().zip(x_rest).zip(w_rest)) {
            *lane += dy * w * x;
        }
        let mean = super::vector::fold_lanes(lanes) * rstd / x.len() as f32;
        for (((dx, dy), x), w) in dx.iter_mut().zip(dy).zip(x).zip(weight) {
            *dx += rstd * (w * dy - x * rstd * mean);
        }
    }
}

vectorised! {
    fn add_weight_gradient(d_weight: &mut [f32], dy: &[f32], x: &[f32], rstd: f32) {
        for ((d, dy), x) in d_weight.iter_mut().zip(dy).zip(x) {
            *d += dy * (x * rstd);
        }
    }
}
