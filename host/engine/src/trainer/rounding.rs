//! 32-bit numbers in 16 bits: exactly in two halves, or rounded up and down at random.
//!
//! AdamW's steps are often smaller than half the distance between two neighbouring bf16 numbers, so
//! that weights rounded to the nearest would stay where they are. Weights therefore keep the bits that
//! bf16 lacks beside them. Moments may be rounded stochastically: up or down with the probabilities
//! that make the expected value exact.

use half::bf16;

/// A number as the nearest bf16 (ties go away from zero) and the rest, such that [`join`] gives it
/// back to the bit.
pub fn split(x: f32) -> (bf16, i16) {
    let bits = x.to_bits();
    let high = bits.wrapping_add(0x8000) >> 16;
    let low = bits.wrapping_sub(high << 16) as u16 as i16;
    (bf16::from_bits(high as u16), low)
}

/// The number that [`split`] took apart.
pub fn join(high: bf16, low: i16) -> f32 {
    let high = u32::from(high.to_bits()) << 16;
    f32::from_bits(high.wrapping_add(i32::from(low) as u32))
}

/// The bf16 below or above `x`, by 16 random bits; what is not finite stays so.
#[inline(always)]
pub fn stochastic(x: f32, random: u16) -> bf16 {
    // Without branches, for the vectors of the CPU's AdamW. What is not finite has all bits of the
    // exponent; a NaN keeps a bit of its fraction.
    const INFINITE: u32 = 0x7f80_0000;
    const QUIET: u32 = 0x0040_0000;
    let bits = x.to_bits();
    let finite = bits.wrapping_add(u32::from(random));
    let not_finite = bits | if x.is_nan() { QUIET } else { 0 };
    let rounded = if bits & INFINITE == INFINITE {
        not_finite
    } else {
        finite
    };
    bf16::from_bits((rounded >> 16) as u16)
}

/// Philox2x32-10 (Salmon, Moraes, Dror and Shaw, SC 2011): random words that depend on a key and a
/// counter alone, so that each number's are the same in whatever order numbers are computed.
#[inline(always)]
pub fn philox2x32(key: u32, counter: u64) -> [u32; 2] {
    const ROUNDS: u32 = 10;
    const MULTIPLIER: u64 = 0xd256_d193;
    const WEYL: u32 = 0x9e37_79b9;
    let (mut left, mut right) = (counter as u32, (counter >> 32) as u32);
    for round in 0..ROUNDS {
        let product = MULTIPLIER * u64::from(left);
        let key = key.wrapping_add(WEYL.wrapping_mul(round));
        (left, right) = ((product >> 32) as u32 ^ key ^ right, product as u32);
    }
    [left, right]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_halves_give_the_number_back() {
        let numbers = [
            0.0,
            -0.0,
            1.0,
            -1.5,
            1e-40,
            0.1,
            -0.3,
            3.1e38,
            f32::MIN_POSITIVE,
        ];
        for x in numbers
            .into_iter()
            .chain((0..1000).map(|i| (i as f32).sin()))
        {
            let (high, low) = split(x);
            assert_eq!(join(high, low).to_bits(), x.to_bits());
            // bf16 has 8 significant bits, where numbers are not subnormal.
            let bound = (x.abs() / 256.0).max(f32::MIN_POSITIVE / 128.0);
            assert!((high.to_f32() - x).abs() <= bound, "{x} {high}");
        }
    }

    #[test]
    fn rounding_at_random_is_right_on_average() {
        // A quarter of the way from one bf16 to the next, on both sides of zero.
        for x in [1.0 + 1.0 / 512.0, -(1.0 + 1.0 / 512.0)] {
            let rounded = (0..=u16::MAX).map(|random| f64::from(stochastic(x, random).to_f32()));
            let mean = rounded.sum::<f64>() / 65536.0;
            assert!((mean - f64::from(x)).abs() < 1e-12, "{mean}");
        }
        assert_eq!(stochastic(0.5, u16::MAX).to_f32(), 0.5);
        assert!(stochastic(f32::INFINITY, 1).is_infinite());
        assert!(stochastic(f32::NAN, 1).is_nan());
    }

    /// From the file of known answers that comes with Random123, the authors' own implementation.
    #[test]
    fn random_words_are_those_of_its_authors() {
        assert_eq!(philox2x32(0, 0), [0xff1d_ae59, 0x6cd1_0df2]);
        assert_eq!(philox2x32(u32::MAX, u64::MAX), [0x2c3f_628b, 0xab4f_d7ad]);
    }
}
