//! Row-wise functions between the matrix products.

use super::{Instructions, multiply_add};

const LANES: usize = 16;

/// Defines a function in the three compilations of one generic body.
macro_rules! compiled_thrice {
    ($(#[$meta:meta])* $name:ident, $body:ident, ($($arg:ident: $type:ty),*) $(-> $out:ty)?) => {
        $(#[$meta])*
        pub(in super::super) fn $name($($arg: $type,)* with: Instructions) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f")]
            fn avx512($($arg: $type),*) $(-> $out)? {
                $body::<true>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $type),*) $(-> $out)? {
                $body::<true>($($arg),*)
            }
            match with {
                // SAFETY: `Instructions::Avx512` is made only where the processor has AVX-512F.
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: `Instructions::Avx2` is made only where the processor has AVX2 and FMA.
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx2 => unsafe { avx2($($arg),*) },
                _ => $body::<false>($($arg),*),
            }
        }
    };
}
pub(super) use compiled_thrice;

compiled_thrice!(
    /// RMSNorm (Zhang & Sennrich, arXiv 1910.07467) of each row of `x`, `[rows, weight.len()]`, into `out`.
    rms_norm, rms_norm_of, (x: &[f32], weight: &[f32], eps: f32, out: &mut [f32])
);

compiled_thrice!(
    /// SwiGLU (Shazeer, arXiv 2002.05202): rows of `[gate | up]` in, `silu(gate) * up` out.
    swiglu, swiglu_of, (gate_up: &[f32], inner: usize, out: &mut [f32])
);

compiled_thrice!(
    /// `ln(sum(exp(x)))`, summed in double precision.
    log_sum_exp, log_sum_exp_of, (x: &[f32]) -> f64
);

/// `x += y`.
pub(in super::super) fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// Sum over lanes in a fixed order, so that every compilation rounds alike.
#[inline(always)]
pub(super) fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn rms_norm_of<const FMA: bool>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let mut squares = [0.0; LANES];
        for part in x.chunks(LANES) {
            for (square, x) in squares.iter_mut().zip(part) {
                *square = multiply_add::<FMA>(*x, *x, *square);
            }
        }
        let scale = 1.0 / (sum_lanes(squares) / width as f32 + eps).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * weight;
        }
    }
}

#[inline(always)]
fn swiglu_of<const FMA: bool>(gate_up: &[f32], inner: usize, out: &mut [f32]) {
    for (row, out) in gate_up
        .chunks_exact(2 * inner)
        .zip(out.chunks_exact_mut(inner))
    {
        let (gate, up) = row.split_at(inner);
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate / (1.0 + exp::<FMA>(-gate)) * up;
        }
    }
}

#[inline(always)]
fn log_sum_exp_of<const FMA: bool>(x: &[f32]) -> f64 {
    let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if largest == f32::NEG_INFINITY {
        return f64::NEG_INFINITY;
    }
    let mut total = 0.0;
    for block in x.chunks(64 * LANES) {
        let mut sums = [0.0; LANES];
        for part in block.chunks(LANES) {
            for (sum, x) in sums.iter_mut().zip(part) {
                *sum += exp::<FMA>(x - largest);
            }
        }
        total += f64::from(sum_lanes(sums));
    }
    f64::from(largest) + total.ln()
}

/// `e^x` to within two units in the last place, in plain arithmetic that a compiler can vectorise;
/// below -87 it is about 1e-38, above 88 about 1.6e38.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2, then Taylor's series of r to the seventh power.
#[inline(always)]
pub(in super::super) fn exp<const FMA: bool>(x: f32) -> f32 {
    /// Adding 1.5 * 2^23 leaves the nearest integer in the lowest bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_145_75;
    const LN2_LOW: f32 = 1.428_606_8e-6;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = multiply_add::<FMA>(n, -LN2_HIGH, x);
    let r = multiply_add::<FMA>(n, -LN2_LOW, r);
    let mut sum = 1.0 / 5040.0;
    for term in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        sum = multiply_add::<FMA>(sum, r, term);
    }
    let exponent = (shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits());
    sum * f32::from_bits(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_of_the_library() {
        for step in -8700..8800 {
            let x = step as f32 / 100.0;
            let exact = f64::from(x).exp();
            for found in [exp::<true>(x), exp::<false>(x)] {
                let error = (f64::from(found) - exact).abs() / exact;
                assert!(error < 2.5e-7, "exp({x}) = {found}, expected {exact}");
            }
        }
    }

    #[test]
    fn log_sum_exp_survives_large_and_absent_values() {
        for with in Instructions::available() {
            let found = log_sum_exp(&[1000.0, 1000.0], with);
            assert!((found - (1000.0 + 2f64.ln())).abs() < 1e-6);
            assert_eq!(log_sum_exp(&[f32::NEG_INFINITY], with), f64::NEG_INFINITY);
        }
    }
}
