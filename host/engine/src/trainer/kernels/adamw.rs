//! AdamW (Loshchilov and Hutter, arXiv 1711.05101) in place, with PyTorch's order of operations.

use super::vector::vectorised;
use crate::trainer::operations::AdamWNumbers;

vectorised! {
    /// One update of weights `w` by gradients `g` times `factor`, with moments `m` and `v`.
    pub(in crate::trainer) fn adamw(w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], factor: f32, c: AdamWNumbers) {
        for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
            let g = g * factor;
            *m += (g - *m) * c.one_minus_beta1;
            *v = *v * c.beta2 + g * g * c.one_minus_beta2;
            let denominator = v.sqrt() * c.inverse_root_correction + c.epsilon;
            *w = *w * c.decay - c.step_size * (*m / denominator);
        }
    }
}
