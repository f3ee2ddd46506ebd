//! Dropout (Srivastava et al., Journal of Machine Learning Research 15, 2014), scaled in training so that
//! nothing is to be done afterwards.

use rayon::prelude::*;

use super::ROWS_PER_TASK;

/// Calls of the generator side by side, each for four numbers.
const CALLS: usize = 16;
/// Numbers that they decide about.
const PIECE: usize = 4 * CALLS;

/// Which numbers are kept: see [`DropoutMask`](crate::trainer::operations::DropoutMask).
#[derive(Clone, Copy)]
pub(in crate::trainer) struct Mask<'a> {
    pub key: u32,
    pub dropped: u16,
    pub scale: f32,
    pub sequences: &'a [u32],
    pub positions: &'a [u32],
}

/// Writes `x · mask / (1 − p)` to `out`; `width` is the length of a row.
pub(in crate::trainer) fn dropout(out: &mut [f32], x: &[f32], width: usize, mask: Mask<'_>) {
    each_row::<false>(out, x, width, mask);
}

/// Adds `dy · mask / (1 − p)` to `dx`.
pub(in crate::trainer) fn dropout_backward(
    dx: &mut [f32],
    dy: &[f32],
    width: usize,
    mask: Mask<'_>,
) {
    each_row::<true>(dx, dy, width, mask);
}

fn each_row<const ADD: bool>(out: &mut [f32], x: &[f32], width: usize, mask: Mask<'_>) {
    let calls = width.div_ceil(4) as u32;
    out.par_chunks_exact_mut(width)
        .zip(x.par_chunks_exact(width))
        .zip(mask.sequences)
        .zip(mask.positions)
        .with_min_len(ROWS_PER_TASK)
        .for_each(|(((out, x), &sequence), position)| {
            let first = position.wrapping_mul(calls);
            let (key, dropped, scale) = (mask.key, mask.dropped, mask.scale);
            let mask = RowMask {
                key,
                dropped,
                scale,
                sequence,
                first,
            };
            drop_row::<ADD>(out, x, mask);
        });
}

/// The mask of one row.
#[derive(Clone, Copy)]
struct RowMask {
    key: u32,
    dropped: u16,
    scale: f32,
    /// Upper word of the counter.
    sequence: u32,
    /// Lower word of the counter for the row's first numbers.
    first: u32,
}

impl RowMask {
    /// 16 bits for each of the numbers from `PIECE · piece` on.
    #[inline(always)]
    fn random(self, piece: usize) -> [u16; PIECE] {
        let first = self.first.wrapping_add((piece * CALLS) as u32);
        let calls = std::array::from_fn(|call| first.wrapping_add(call as u32));
        let words = philox2x32(self.key, calls, self.sequence);
        let bytes = words.map(u64::to_le_bytes);
        let mut halves = [0u16; PIECE];
        for (half, bytes) in halves.iter_mut().zip(bytes.as_flattened().as_chunks().0) {
            *half = u16::from_le_bytes(*bytes);
        }
        halves
    }

    #[inline(always)]
    fn kept(self, x: f32, random: u16) -> f32 {
        if random >= self.dropped {
            x * self.scale
        } else {
            0.0
        }
    }
}

/// [`philox2x32`](crate::trainer::rounding::philox2x32) for many counters with one upper word: round after
/// round for all of them, in words of 64 bits of which the lower half counts, so that it becomes vector code.
/// The second of each two words comes back in the upper half.
#[inline(always)]
fn philox2x32(key: u32, lower: [u32; CALLS], upper: u32) -> [u64; CALLS] {
    const HALF: u64 = u32::MAX as u64;
    let mut left = lower.map(u64::from);
    let mut right = [u64::from(upper); CALLS];
    for round in 0..10 {
        let key = u64::from(key.wrapping_add(0x9e37_79b9u32.wrapping_mul(round)));
        for call in 0..CALLS {
            let product = 0xd256_d193 * (left[call] & HALF);
            left[call] = (product >> 32) ^ key ^ right[call];
            right[call] = product & HALF;
        }
    }
    std::array::from_fn(|call| right[call] << 32 | left[call])
}

/// One row of [`dropout`], or of [`dropout_backward`] where the result is added.
///
/// Compiled for AVX-512 as well, unlike other loops: most of the work is multiplying whole numbers, which
/// takes a third of the time there. All ways give the same bits.
fn drop_row<const ADD: bool>(out: &mut [f32], x: &[f32], mask: RowMask) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw")]
        fn avx512<const ADD: bool>(out: &mut [f32], x: &[f32], mask: RowMask) {
            drop_pieces::<ADD>(out, x, mask);
        }
        #[target_feature(enable = "avx2")]
        fn avx2<const ADD: bool>(out: &mut [f32], x: &[f32], mask: RowMask) {
            drop_pieces::<ADD>(out, x, mask);
        }
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
            // SAFETY: the presence of AVX-512 F and BW was checked in the line above.
            return unsafe { avx512::<ADD>(out, x, mask) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the presence of AVX2 was checked in the line above.
            return unsafe { avx2::<ADD>(out, x, mask) };
        }
    }
    drop_pieces::<ADD>(out, x, mask);
}

#[inline(always)]
fn drop_pieces<const ADD: bool>(out: &mut [f32], x: &[f32], mask: RowMask) {
    let put = |out: &mut f32, kept: f32| match ADD {
        true => *out += kept,
        false => *out = kept,
    };
    let (out, out_rest) = out.as_chunks_mut::<PIECE>();
    let (x, x_rest) = x.as_chunks::<PIECE>();
    let pieces = x.len();
    for (piece, (out, x)) in out.iter_mut().zip(x).enumerate() {
        let random = mask.random(piece);
        for i in 0..PIECE {
            put(&mut out[i], mask.kept(x[i], random[i]));
        }
    }
    if x_rest.is_empty() {
        return;
    }
    let random = mask.random(pieces);
    for ((out, x), random) in out_rest.iter_mut().zip(x_rest).zip(random) {
        put(out, mask.kept(*x, random));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::rounding::philox2x32;

    /// What becomes of a row of ones.
    fn row(width: usize, key: u32, dropped: u16, [sequence, position]: [u32; 2]) -> Vec<f32> {
        let mask = Mask {
            key,
            dropped,
            scale: 65536.0 / (65536.0 - f32::from(dropped)),
            sequences: &[sequence],
            positions: &[position],
        };
        let mut out = vec![f32::NAN; width];
        dropout(&mut out, &vec![1.0; width], width, mask);
        out
    }

    #[test]
    fn each_number_has_bits_of_its_own() {
        for width in [1, 5, 64, 150] {
            for (sequence, position) in [(0, 0), (7, 3), (u32::MAX, 500)] {
                let dropped = 20_000;
                let got = row(width, 99, dropped, [sequence, position]);
                for (feature, got) in got.iter().enumerate() {
                    let call = position * width.div_ceil(4) as u32 + feature as u32 / 4;
                    let words = philox2x32(99, u64::from(sequence) << 32 | u64::from(call));
                    let word = words[feature % 4 / 2];
                    let bits = if feature % 2 == 0 {
                        word & 0xffff
                    } else {
                        word >> 16
                    };
                    assert_eq!(
                        *got == 0.0,
                        bits < u32::from(dropped),
                        "{feature} of {width}"
                    );
                }
            }
        }
    }

    /// Over many masks each number is dropped as often as it should be, and keeps its mean: within five
    /// standard deviations, for all numbers of a row and for each of them.
    #[test]
    fn the_mean_over_many_masks_is_what_was_there() {
        const MASKS: u32 = 4000;
        const WIDTH: usize = 100;
        for dropped in [3277, 32_768, 60_000] {
            let p = f64::from(dropped) / 65536.0;
            let mut zeros = [0u32; WIDTH];
            let mut sum = [0.0f64; WIDTH];
            for key in 0..MASKS {
                let values = row(WIDTH, key, dropped as u16, [5, 9]);
                for ((zeros, sum), x) in zeros.iter_mut().zip(&mut sum).zip(values) {
                    *zeros += u32::from(x == 0.0);
                    *sum += f64::from(x);
                }
            }
            let bound = |count: f64| 5.0 * (p * (1.0 - p) / count).sqrt();
            let masks = f64::from(MASKS);
            for (zeros, sum) in zeros.iter().zip(sum) {
                let share = f64::from(*zeros) / masks;
                assert!((share - p).abs() < bound(masks), "{share} {p}");
                let mean = sum / masks;
                assert!((mean - 1.0).abs() < bound(masks) / (1.0 - p), "{mean}");
            }
            let all = masks * WIDTH as f64;
            let share = f64::from(zeros.iter().sum::<u32>()) / all;
            assert!((share - p).abs() < bound(all), "{share} {p}");
        }
    }

    /// Masks of other keys, sequences, positions and neighbours agree no more than chance would have it.
    #[test]
    fn masks_are_independent_of_one_another() {
        const WIDTH: usize = 20_000;
        let base = row(WIDTH, 1000, 32_768, [3, 4]);
        let others = [
            row(WIDTH, 1001, 32_768, [3, 4]),
            row(WIDTH, 1000, 32_768, [4, 4]),
            row(WIDTH, 1000, 32_768, [3, 5]),
            [&base[1..], &base[..1]].concat(),
            [&base[4..], &base[..4]].concat(),
        ];
        for (which, other) in others.iter().enumerate() {
            let same = base.iter().zip(other).filter(|(a, b)| a == b).count();
            let share = same as f64 / WIDTH as f64;
            // Five standard deviations of the share of heads in as many throws.
            let bound = 5.0 * 0.5 / (WIDTH as f64).sqrt();
            assert!((share - 0.5).abs() < bound, "{which}: {share}");
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let x: Vec<f32> = (0..150).map(|i| (i as f32).sin()).collect();
        let mask = RowMask {
            key: 3,
            dropped: 10_000,
            scale: 1.18,
            sequence: 8,
            first: u32::MAX - 9,
        };
        let [mut widest, mut plain] = [(); 2].map(|()| x.clone());
        drop_row::<true>(&mut widest, &x, mask);
        drop_pieces::<true>(&mut plain, &x, mask);
        assert_eq!(widest, plain);
        drop_row::<false>(&mut widest, &x, mask);
        drop_pieces::<false>(&mut plain, &x, mask);
        assert_eq!(widest, plain);
    }

    #[test]
    fn gradients_are_added_where_numbers_were_kept() {
        let x: Vec<f32> = (0..3 * 70).map(|i| i as f32 - 100.0).collect();
        let mask = Mask {
            key: 5,
            dropped: 20_000,
            scale: 1.5,
            sequences: &[1, 1, 2],
            positions: &[0, 1, 0],
        };
        let mut out = vec![0.0; x.len()];
        dropout(&mut out, &x, 70, mask);
        assert!(out[..70] != out[140..], "other rows have other masks");
        let mut dx = vec![10.0; x.len()];
        dropout_backward(&mut dx, &x, 70, mask);
        for (dx, out) in dx.iter().zip(&out) {
            assert_eq!(*dx, 10.0 + out);
        }
    }
}
