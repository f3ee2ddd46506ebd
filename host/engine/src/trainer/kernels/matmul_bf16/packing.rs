//! Rounding operands to bf16 and laying them out as packed words.

use std::arch::x86_64::*;

use super::pieces::{LANES, Operand, Words, first};

/// Whether the processor has the instructions of this file.
pub(super) fn detected() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16")
}

/// Rounds up to 16 rows of `a`, or columns of `b`, to bf16 and lays them out as words, those of a pair
/// of depths in every `step`-th register of `to`.
///
/// # Safety
/// The operand has that many lines and that depth.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn pack_by_pair(
    from: Operand,
    lines: usize,
    depth: usize,
    to: &mut [Words],
    step: usize,
) {
    /// The low halves of 32 elements beside the high ones.
    const INTERLEAVED: [u16; 2 * LANES] = {
        let mut order = [0; 2 * LANES];
        let mut lane = 0;
        while lane < LANES {
            order[2 * lane] = lane as u16;
            order[2 * lane + 1] = (LANES + lane) as u16;
            lane += 1;
        }
        order
    };
    let pairs = depth.div_ceil(2);
    let to = &mut to[..(pairs - 1) * step + 1];
    if from.depth_stride == 1 {
        for begin in (0..depth).step_by(2 * LANES) {
            // SAFETY: these are lines and depths of the operand.
            let words = unsafe { words_of_lines(from.skip(0, begin), lines, depth - begin) };
            let places = to[begin / 2 * step..].iter_mut().step_by(step);
            for (place, words) in places.zip(transpose(words)) {
                store(place, words);
            }
        }
    } else {
        // SAFETY: the array has as many elements as the register.
        let interleaved = unsafe { _mm512_loadu_si512(INTERLEAVED.as_ptr().cast()) };
        let load = |place: usize| {
            let mask = match place < depth {
                true => first(lines),
                false => 0,
            };
            let from = from.skip(0, place);
            if from.stride == 1 {
                // SAFETY: the mask leaves out what is beyond the lines and beyond the depth.
                return unsafe { _mm512_maskz_loadu_ps(mask, from.data) };
            }
            let mut values = [0.0; LANES];
            for (line, value) in values
                .iter_mut()
                .enumerate()
                .take(lines * usize::from(mask != 0))
            {
                // SAFETY: the line and the place are in the operand.
                *value = unsafe { *from.skip(line, 0).data };
            }
            // SAFETY: the array has as many elements as the register.
            unsafe { _mm512_loadu_ps(values.as_ptr()) }
        };
        for (pair, place) in to.iter_mut().step_by(step).enumerate() {
            let words = to_words([load(2 * pair), load(2 * pair + 1)]);
            store(place, _mm512_permutexvar_epi16(interleaved, words));
        }
    }
}

/// Rounds up to 16 rows of `a` to bf16 and lays them out as words: of each 32 depths 16 registers,
/// one a row. What lacks to 16 rows and to 32 depths becomes zero.
///
/// # Safety
/// The operand has that many lines and that depth.
#[cfg(target_os = "linux")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn pack_by_line(from: Operand, lines: usize, depth: usize, to: &mut [Words]) {
    let blocks = to.as_chunks_mut::<LANES>().0;
    for (begin, block) in (0..depth).step_by(2 * LANES).zip(blocks) {
        let from = from.skip(0, begin);
        let words = if from.depth_stride == 1 {
            // SAFETY: these are lines and depths of the operand.
            unsafe { words_of_lines(from, lines, depth - begin) }
        } else {
            block.fill(Words([0; LANES]));
            // SAFETY: these are lines and depths of the operand.
            unsafe { pack_by_pair(from, lines, (2 * LANES).min(depth - begin), block, 1) };
            transpose(block.map(|words| load(words)))
        };
        for (place, words) in block.iter_mut().zip(words) {
            store(place, words);
        }
    }
}

/// Rounds the first 32 depths of up to 16 lines, or as many as are left, a register for each line.
///
/// # Safety
/// The operand has that many lines and that depth, and what follows each other in the depth lies side
/// by side.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn words_of_lines(from: Operand, lines: usize, left: usize) -> [__m512i; LANES] {
    let mut words = [_mm512_setzero_si512(); LANES];
    for (line, words) in words.iter_mut().enumerate().take(lines) {
        let even = from.skip(line, 0).data;
        // SAFETY: the masks leave out what is beyond the depth of the line.
        let halves = unsafe {
            [
                _mm512_maskz_loadu_ps(first(left), even),
                _mm512_maskz_loadu_ps(first(left.saturating_sub(LANES)), even.wrapping_add(LANES)),
            ]
        };
        *words = to_words(halves);
    }
    words
}

/// Rounds two registers to one, the first in the low half.
#[target_feature(enable = "avx512f,avx512bf16")]
fn to_words([low, high]: [__m512; 2]) -> __m512i {
    // SAFETY: both are 512 bits without a meaning of their own.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(high, low)) }
}

#[cfg(target_os = "linux")]
#[target_feature(enable = "avx512f")]
fn load(from: Words) -> __m512i {
    // SAFETY: `Words` is as large as the register, and aligned as it must be.
    unsafe { _mm512_load_si512(from.0.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
fn store(to: &mut Words, words: __m512i) {
    // SAFETY: `Words` is as large as the register, and aligned as it must be.
    unsafe { _mm512_store_si512(to.0.as_mut_ptr().cast(), words) };
}

/// Lane `i` of register `j` becomes lane `j` of register `i`.
#[target_feature(enable = "avx512f")]
fn transpose(mut r: [__m512i; LANES]) -> [__m512i; LANES] {
    let mut t = r;
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for i in (0..LANES).step_by(4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    // Now the quarters of the registers are in place by fours; 0x88 takes the even ones, 0xdd the odd.
    for i in 0..4 {
        for half in [0, 8] {
            t[half + i] = _mm512_shuffle_i32x4::<0x88>(r[half + i], r[half + i + 4]);
            t[half + i + 4] = _mm512_shuffle_i32x4::<0xdd>(r[half + i], r[half + i + 4]);
        }
    }
    for i in 0..8 {
        let (row, odd) = (i % 4, i / 4 * 4);
        r[row + odd] = _mm512_shuffle_i32x4::<0x88>(t[row + odd], t[row + odd + 8]);
        r[row + odd + 8] = _mm512_shuffle_i32x4::<0xdd>(t[row + odd], t[row + odd + 8]);
    }
    r
}
