//! Packed blocks and a kernel of 8 x 48 sums, all of them in registers.
//!
//! The instruction takes pairs of neighbours along the depth, so a packed word is a pair: the even
//! one low, the odd one high. A panel of `a` is 16 rows, one of `b` 48 columns; word after word of
//! depth they lie side by side, filled up with zeros.

use std::arch::x86_64::*;
use std::cell::RefCell;

use rayon::prelude::*;

use super::{Matrix, MatrixMut};

/// 32-bit words of a register.
const LANES: usize = 16;
/// Rows of sums that the kernel holds; a panel of `a` is two of them.
const KERNEL_ROWS: usize = 8;
/// Registers of sums beside each other, and columns that makes.
const KERNEL_WIDTH: usize = 3;
const KERNEL_COLS: usize = KERNEL_WIDTH * LANES;
/// Depth of a block; what is deeper is added up in `out`, in f32.
const DEPTH: usize = 768;
/// Rows of `a` packed at once, 384 KiB: they stay in the second-level cache.
const BLOCK_ROWS: usize = 256;
/// Columns of `b` packed at once, 1.1 MiB.
const BLOCK_COLS: usize = 16 * KERNEL_COLS;
/// Multiplications below which a second thread costs more than it saves.
const WORTH_A_THREAD: usize = 1 << 20;

/// A register's worth of packed words, aligned as one.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Words([u32; LANES]);

thread_local! {
    /// Packed blocks of `a` and of `b`, kept for the next product.
    static PACKED: RefCell<[Vec<Words>; 2]> = const { RefCell::new([const { Vec::new() }; 2]) };
}

/// Proof that the processor has the instructions.
#[derive(Clone, Copy)]
pub(super) struct Bf16(());

/// An operand, from one of its elements on.
#[derive(Clone, Copy)]
struct Operand {
    data: *const f32,
    /// Elements from one row of `a`, or column of `b`, to the next.
    stride: usize,
    /// Elements from one place in the depth to the next.
    depth_stride: usize,
}

/// The result, from one of its elements on.
#[derive(Clone, Copy)]
struct Target {
    data: *mut f32,
    row_stride: usize,
    accumulate: bool,
    factor: f32,
}

/// A rectangle of the result with the rows of `a` and the columns of `b` that make it.
struct Piece {
    target: Target,
    a: Operand,
    b: Operand,
    rows: usize,
    cols: usize,
    depth: usize,
}

// SAFETY: the pieces of a product read operands that nobody writes, and each writes elements of the
// result that no other piece has; `matmul` borrows all three until the last piece is done.
unsafe impl Send for Piece {}

impl Operand {
    /// From another row of `a`, or column of `b`, and another place in the depth on.
    fn skip(self, lines: usize, depth: usize) -> Self {
        Self {
            data: self
                .data
                .wrapping_add(lines * self.stride + depth * self.depth_stride),
            ..self
        }
    }
}

impl Target {
    fn skip(self, rows: usize, cols: usize) -> Self {
        Self {
            data: self.data.wrapping_add(rows * self.row_stride + cols),
            ..self
        }
    }
}

impl Bf16 {
    pub fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512bf16"))
        .then_some(Self(()))
    }

    /// [`super::matmul`], whose shapes are known to fit.
    pub fn matmul(
        self,
        out: MatrixMut<'_>,
        accumulate: bool,
        factor: f32,
        a: Matrix<'_>,
        b: Matrix<'_>,
        parallel: bool,
    ) {
        let (rows, cols, depth) = (out.rows, out.cols, a.cols);
        if rows * cols == 0 {
            return;
        }
        if depth == 0 {
            if !accumulate {
                for row in out.data.chunks_mut(out.row_stride) {
                    row[..cols].fill(0.0);
                }
            }
            return;
        }
        let target = Target {
            data: out.data.as_mut_ptr(),
            row_stride: out.row_stride,
            accumulate,
            factor,
        };
        let a = Operand {
            data: a.data.as_ptr(),
            stride: a.row_stride,
            depth_stride: a.col_stride,
        };
        let b = Operand {
            data: b.data.as_ptr(),
            stride: b.col_stride,
            depth_stride: b.row_stride,
        };
        let threads = match parallel && rows * cols * depth >= WORTH_A_THREAD {
            true => rayon::current_num_threads(),
            false => 1,
        };
        let (high, wide) = piece_shape(rows, cols, threads);
        let pieces: Vec<Piece> = (0..rows)
            .step_by(high)
            .flat_map(|row| (0..cols).step_by(wide).map(move |col| (row, col)))
            .map(|(row, col)| Piece {
                target: target.skip(row, col),
                a: a.skip(row, 0),
                b: b.skip(col, 0),
                rows: high.min(rows - row),
                cols: wide.min(cols - col),
                depth,
            })
            .collect();
        let run = |piece: Piece| {
            // SAFETY: `self` proves the instructions. By the constructors of the matrices every
            // row, column and depth below the shape's lies in its slice, and a piece is a part of
            // the shape.
            PACKED.with_borrow_mut(|packed| unsafe { multiply(&piece, packed) });
        };
        match pieces.len() {
            1 => pieces.into_iter().for_each(run),
            _ => pieces.into_par_iter().for_each(run),
        }
    }
}

/// Rows and columns of the pieces that `threads` threads work at: the cut that packs least, since
/// pieces beside each other pack the same rows, and pieces one above the other the same columns.
fn piece_shape(rows: usize, cols: usize, threads: usize) -> (usize, usize) {
    let packed = |down: &usize| rows * (threads / down) + cols * down;
    let down = (1..=threads).min_by_key(packed).unwrap_or(1);
    (
        rows.div_ceil(down).next_multiple_of(LANES),
        cols.div_ceil(threads / down).next_multiple_of(KERNEL_COLS),
    )
}

/// Computes a piece.
///
/// # Safety
/// The operands have the piece's rows, columns and depth, the target its rows and columns, and
/// nobody else reads or writes the target.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn multiply(piece: &Piece, [a_packed, b_packed]: &mut [Vec<Words>; 2]) {
    let depth = piece.depth.min(DEPTH).div_ceil(2);
    let panels = |lines: usize, most: usize, panel: usize| lines.min(most).div_ceil(panel);
    let empty = Words([0; LANES]);
    let a_words = panels(piece.rows, BLOCK_ROWS, LANES) * depth;
    let b_words = panels(piece.cols, BLOCK_COLS, KERNEL_COLS) * depth * KERNEL_WIDTH;
    a_packed.resize(a_words.max(a_packed.len()), empty);
    b_packed.resize(b_words.max(b_packed.len()), empty);
    for col in (0..piece.cols).step_by(BLOCK_COLS) {
        let cols = BLOCK_COLS.min(piece.cols - col);
        for place in (0..piece.depth).step_by(DEPTH) {
            let depth = DEPTH.min(piece.depth - place);
            let pairs = depth.div_ceil(2);
            for lane in (0..cols.next_multiple_of(KERNEL_COLS)).step_by(LANES) {
                let panel = lane / KERNEL_COLS * KERNEL_WIDTH * pairs;
                let to = &mut b_packed[panel + lane % KERNEL_COLS / LANES..];
                let lines = cols.saturating_sub(lane).min(LANES);
                // SAFETY: these are lines and depths of the piece.
                unsafe {
                    pack(
                        piece.b.skip(col + lane, place),
                        lines,
                        depth,
                        to,
                        KERNEL_WIDTH,
                    )
                };
            }
            for row in (0..piece.rows).step_by(BLOCK_ROWS) {
                let rows = BLOCK_ROWS.min(piece.rows - row);
                for (panel, lane) in (0..rows).step_by(LANES).enumerate() {
                    let to = &mut a_packed[panel * pairs..];
                    let lines = (rows - lane).min(LANES);
                    // SAFETY: these are lines and depths of the piece.
                    unsafe { pack(piece.a.skip(row + lane, place), lines, depth, to, 1) };
                }
                let target = Target {
                    accumulate: piece.target.accumulate || place > 0,
                    ..piece.target.skip(row, col)
                };
                for (right, b) in b_packed
                    .chunks_exact(KERNEL_WIDTH * pairs)
                    .take(cols.div_ceil(KERNEL_COLS))
                    .enumerate()
                {
                    for down in (0..rows).step_by(KERNEL_ROWS) {
                        let a = &a_packed[down / LANES * pairs..][..pairs];
                        let col = right * KERNEL_COLS;
                        // SAFETY: the rows and columns left are those of the piece.
                        unsafe {
                            kernel(
                                a,
                                down % LANES,
                                b,
                                target.skip(down, col),
                                rows - down,
                                cols - col,
                            );
                        }
                    }
                }
            }
        }
    }
}

/// Rounds up to 16 rows of `a`, or columns of `b`, to bf16 and lays them out as words, those of a pair
/// of depths in every `step`-th register of `to`.
///
/// # Safety
/// The operand has that many lines and that depth.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pack(from: Operand, lines: usize, depth: usize, to: &mut [Words], step: usize) {
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
            let left = depth - begin;
            let mut words = [_mm512_setzero_si512(); LANES];
            for (line, words) in words.iter_mut().enumerate().take(lines) {
                let even = from.skip(line, begin).data;
                // SAFETY: the masks leave out what is beyond the depth of the line.
                let halves = unsafe {
                    [
                        _mm512_maskz_loadu_ps(first(left), even),
                        _mm512_maskz_loadu_ps(
                            first(left.saturating_sub(LANES)),
                            even.wrapping_add(LANES),
                        ),
                    ]
                };
                *words = to_words(halves);
            }
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

/// A mask of the first `count` lanes.
fn first(count: usize) -> __mmask16 {
    match count < LANES {
        true => (1 << count) - 1,
        false => !0,
    }
}

/// Rounds two registers to one, the first in the low half.
#[target_feature(enable = "avx512f,avx512bf16")]
fn to_words([low, high]: [__m512; 2]) -> __m512i {
    // SAFETY: both are 512 bits without a meaning of their own.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(high, low)) }
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

/// Multiplies eight packed rows of `a`, those from `first_row` of the panel on, by a packed panel of
/// `b`, and adds up to `rows` rows and `cols` columns of the result to the target or puts them there.
///
/// # Safety
/// The target has those rows and columns, as far as the kernel goes.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn kernel(
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
    let factor = _mm512_set1_ps(target.factor);
    for (row, sums) in sums.iter().enumerate().take(rows) {
        for (part, sum) in sums.iter().enumerate() {
            let to = target.skip(row, part * LANES).data;
            let mask = first(cols.saturating_sub(part * LANES));
            let mut value = _mm512_mul_ps(factor, *sum);
            // SAFETY: the row is among the target's, and the mask leaves out what is beyond its
            // columns.
            unsafe {
                if target.accumulate {
                    value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, to));
                }
                _mm512_mask_storeu_ps(to, mask, value);
            }
        }
    }
}
