//! AdamW (Loshchilov and Hutter, arXiv 1711.05101) in place, with PyTorch's order of operations.

use half::bf16;

use super::vector::vectorised;
use crate::trainer::operations::AdamWNumbers;
use crate::trainer::rounding::{philox2x32, stochastic};

/// Numbers that are updated side by side.
const LANES: usize = 16;

/// The weight and the moments of one parameter, updated by gradient `g` times `factor`.
#[inline(always)]
fn updated([w, m, v]: [f32; 3], g: f32, factor: f32, c: AdamWNumbers) -> [f32; 3] {
    let g = g * factor;
    let m = m + (g - m) * c.one_minus_beta1;
    let v = v * c.beta2 + g * g * c.one_minus_beta2;
    let denominator = v.sqrt() * c.inverse_root_correction + c.epsilon;
    [w * c.decay - c.step_size * (m / denominator), m, v]
}

/// As [`updated`], moments rounded to bf16 by the random bits of this parameter's `place`.
#[inline(always)]
fn updated_bf16(
    (w, m, v): (&mut f32, &mut bf16, &mut bf16),
    g: f32,
    factor: f32,
    c: AdamWNumbers,
    place: u64,
) {
    let new = updated([*w, m.to_f32(), v.to_f32()], g, factor, c);
    let [word, _] = philox2x32(c.random.key, place);
    *w = new[0];
    *m = stochastic(new[1], word as u16);
    *v = stochastic(new[2], (word >> 16) as u16);
}

vectorised! {
    /// One update of weights `w` by gradients `g` times `factor`, with moments `m` and `v`.
    pub(in crate::trainer) fn adamw(w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], factor: f32, c: AdamWNumbers) {
        for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
            [*w, *m, *v] = updated([*w, *m, *v], *g, factor, c);
        }
    }
}

vectorised! {
    /// The same with moments in bf16, rounded stochastically.
    pub(in crate::trainer) fn adamw_bf16(w: &mut [f32], g: &[f32], m: &mut [bf16], v: &mut [bf16], factor: f32, c: AdamWNumbers) {
        let (w, w_rest) = w.as_chunks_mut::<LANES>();
        let (g, g_rest) = g.as_chunks::<LANES>();
        let (m, m_rest) = m.as_chunks_mut::<LANES>();
        let (v, v_rest) = v.as_chunks_mut::<LANES>();
        let mut place = c.random.first;
        for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
            for i in 0..LANES {
                updated_bf16((&mut w[i], &mut m[i], &mut v[i]), g[i], factor, c, place + i as u64);
            }
            place += LANES as u64;
        }
        for (i, g) in g_rest.iter().enumerate() {
            let state = (&mut w_rest[i], &mut m_rest[i], &mut v_rest[i]);
            updated_bf16(state, *g, factor, c, place + i as u64);
        }
    }
}
