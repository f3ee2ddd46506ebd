//! Loops over slices that the compiler turns into vector instructions.

/// Compiles a function twice, for AVX2 and for the baseline, and picks one at run time.
///
/// The body is the same, and Rust never contracts or reorders floating-point operations, so both
/// give the same bits.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn generic($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    generic($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: `avx2` needs the AVX2 instructions, whose presence was checked in the line above.
                    return unsafe { avx2($($arg),*) };
                }
            }
            generic($($arg),*)
        }
    };
}
pub(super) use vectorised;

/// Partial sums kept side by side; a fixed number, so that the order of a sum does not depend on the machine.
const LANES: usize = 16;

/// Adds up partial sums pairwise.
#[inline(always)]
pub(super) fn fold_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// `Σ aᵢ bᵢ`.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a_chunks.iter().zip(b_chunks) {
        for i in 0..LANES {
            lanes[i] += x[i] * y[i];
        }
    }
    for (lane, (x, y)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane += x * y;
    }
    fold_lanes(lanes)
}

/// `max aᵢ`, or -∞ of nothing; a NaN is passed over.
#[inline(always)]
pub(super) fn max(a: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = a.as_chunks::<LANES>();
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    for x in chunks {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], x[i]);
        }
    }
    rest.iter()
        .chain(&lanes)
        .copied()
        .fold(f32::NEG_INFINITY, larger)
}

/// Replaces every `aᵢ` by `exp(aᵢ − shift)` and returns their sum.
#[inline(always)]
pub(super) fn exp_in_place(a: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = a.as_chunks_mut::<LANES>();
    for x in chunks {
        for i in 0..LANES {
            x[i] = exp(x[i] - shift);
            lanes[i] += x[i];
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *x = exp(*x - shift);
        *lane += *x;
    }
    fold_lanes(lanes)
}

/// `eˣ` within 2 units in the last place on -87 to 88, held constant outside; NaN stays NaN.
///
/// Without branches, so that loops around it become vector code. Cody and Waite's reduction to
/// `|r| ≤ ln 2 / 2` and the minimax polynomial of the Cephes library (`expf.c`).
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding 1.5 × 2²³ rounds to a whole number, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let mantissa = p * (r * r) + r + 1.0;
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits());
    let power = f32::from_bits(exponent.wrapping_add(127) << 23);
    mantissa * power
}

vectorised! {
    /// `Σ aᵢ²`, in double precision over blocks, so that the length of the slice costs no accuracy.
    pub(in crate::trainer) fn sum_of_squares(a: &[f32]) -> f64 {
        a.chunks(4096).map(|block| f64::from(dot(block, block))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_is_accurate() {
        for i in -8700..8800 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x).exp();
            let relative = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(relative < 2.4e-7, "exp({x}) is off by {relative}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn sums_count_every_element() {
        for n in [0, 1, 15, 16, 17, 100, 5000] {
            let ones = vec![1.0f32; n];
            assert_eq!(dot(&ones, &ones), n as f32);
            assert_eq!(sum_of_squares(&ones), n as f64);
            let mut zeros = vec![0.0f32; n];
            assert_eq!(exp_in_place(&mut zeros, 0.0), n as f32);
        }
        let mut ramp: Vec<f32> = (0..40).map(|i| i as f32 - 50.0).collect();
        assert_eq!(max(&ramp), -11.0);
        ramp[3] = 7.0;
        assert_eq!(max(&ramp), 7.0);
    }
}
