//! A kernel of 8 x 48 sums, all of them in registers, by AVX-512 BF16.
//!
//! A panel of `a` is 16 rows, one of `b` 48 columns; word after word of depth they lie side by side,
//! filled up with zeros.

use std::arch::x86_64::*;

use super::packing::{self, pack_by_pair};
use super::pieces::{Kernel, LANES, Operand, Target, Words, in_pieces};
use super::{Matrix, MatrixMut};

/// Rows of sums that the kernel holds; a panel of `a` is two of them.
const KERNEL_ROWS: usize = 8;
/// Registers of sums beside each other, and columns that makes.
const KERNEL_WIDTH: usize = 3;
const KERNEL_COLS: usize = KERNEL_WIDTH * LANES;

/// Proof that the processor has the instructions.
#[derive(Debug, Clone, Copy)]
pub(in crate::trainer) struct Bf16(());

impl Bf16 {
    pub(super) fn detect() -> Option<Self> {
        packing::detected().then_some(Self(()))
    }

    /// [`Instructions::matmul`](super::Instructions::matmul), whose shapes are known to fit.
    pub(super) fn matmul(self, out: MatrixMut<'_>, a: Matrix<'_>, b: Matrix<'_>, parallel: bool) {
        in_pieces(|| self, out, a, b, parallel);
    }
}

// SAFETY: `pack_by_pair` reads the lines and the depth that it is given, `multiply_eight` writes the rows
// and columns that it is given.
unsafe impl Kernel for Bf16 {
    const ROWS: usize = LANES;
    const COLS: usize = KERNEL_COLS;
    const DEPTH: usize = 768;
    /// 384 KiB: they stay in the second-level cache.
    const BLOCK_ROWS: usize = 256;
    /// 1.1 MiB.
    const BLOCK_COLS: usize = 16 * KERNEL_COLS;

    fn panel_words(depth: usize) -> [usize; 2] {
        let pairs = depth.div_ceil(2);
        [pairs, KERNEL_WIDTH * pairs]
    }

    unsafe fn pack_a(&self, from: Operand, rows: usize, depth: usize, to: &mut [Words]) {
        // SAFETY: `self` proves the instructions, the caller the rows and the depth.
        unsafe { pack_by_pair(from, rows, depth, to, 1) };
    }

    unsafe fn pack_b(&self, from: Operand, cols: usize, depth: usize, to: &mut [Words]) {
        for part in 0..KERNEL_WIDTH {
            let from = from.skip(part * LANES, 0);
            let lines = cols.saturating_sub(part * LANES).min(LANES);
            // SAFETY: `self` proves the instructions, the caller the columns and the depth.
            unsafe { pack_by_pair(from, lines, depth, &mut to[part..], KERNEL_WIDTH) };
        }
    }

    unsafe fn multiply(&self, a: &[Words], b: &[Words], target: Target, rows: usize, cols: usize) {
        for first_row in (0..rows.min(LANES)).step_by(KERNEL_ROWS) {
            let target = target.skip(first_row, 0);
            // SAFETY: `self` proves the instructions, the caller the rows and columns.
            unsafe { multiply_eight(a, first_row, b, target, rows - first_row, cols) };
        }
    }
}

/// Multiplies eight packed rows of `a`, those from `first_row` of the panel on, by a packed panel of
/// `b`, and puts up to `rows` rows and `cols` columns of the result into the target.
///
/// # Safety
/// The target has those rows and columns, as far as the kernel goes.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn multiply_eight(
    a: &[Words],
    first_row: usize,
    b: &[Words],
    target: Target,
    rows: usize,
    cols: usize,
) {
    // As the instruction's operand, which has a type of its own.
    // SAFETY: both are 512 bits without a meaning of their own.
    let pairs = |words: __m512i| unsafe { std::mem::transmute::<__m512i, __m512bh>(words) };
    let mut sums = [[_mm512_setzero_ps(); KERNEL_WIDTH]; KERNEL_ROWS];
    for (a, b) in a.iter().zip(b.as_chunks::<KERNEL_WIDTH>().0) {
        let a = &a.0[first_row..first_row + KERNEL_ROWS];
        // SAFETY: `Words` is as large as the register, and aligned as it must be.
        let b = b.map(|words| pairs(unsafe { _mm512_load_si512(words.0.as_ptr().cast()) }));
        for (sums, a) in sums.iter_mut().zip(a) {
            let a = pairs(_mm512_set1_epi32(*a as i32));
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = _mm512_dpbf16_ps(*sum, a, b);
            }
        }
    }
    for (row, sums) in sums.iter().enumerate().take(rows) {
        for (part, sum) in sums.iter().enumerate() {
            let to = target.skip(row, part * LANES);
            // SAFETY: the row is among the target's, and so are the columns left.
            unsafe { to.put(cols.saturating_sub(part * LANES), *sum) };
        }
    }
}
