//! How a product is divided: pieces for threads, blocks for the caches, panels for a kernel.

use std::arch::x86_64::*;
use std::cell::RefCell;

use rayon::prelude::*;

use super::{Matrix, MatrixMut};

/// 32-bit words of a register.
pub(super) const LANES: usize = 16;
/// Multiplications below which a second thread costs more than it saves.
const WORTH_A_THREAD: usize = 1 << 20;

/// A register's worth of packed words, aligned as one. A word is a pair of neighbours along the depth:
/// the even one low, the odd one high.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Words(pub [u32; LANES]);

thread_local! {
    /// Packed blocks of `a` and of `b`, kept for the next product.
    static PACKED: RefCell<[Vec<Words>; 2]> = const { RefCell::new([const { Vec::new() }; 2]) };
}

/// An operand, from one of its elements on.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    pub data: *const f32,
    /// Elements from one row of `a`, or column of `b`, to the next.
    pub stride: usize,
    /// Elements from one place in the depth to the next.
    pub depth_stride: usize,
}

/// The result, from one of its elements on.
#[derive(Clone, Copy)]
pub(super) struct Target {
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
// result that no other piece has; `in_pieces` borrows all three until the last piece is done.
unsafe impl Send for Piece {}

/// What multiplies packed panels: some rows of `a` by some columns of `b`.
///
/// # Safety
/// [`Kernel::multiply`] writes no more of its target than the rows and columns that it is given, and
/// packing reads no more of an operand.
pub(super) unsafe trait Kernel {
    /// Rows of a panel of `a`.
    const ROWS: usize;
    /// Columns of a panel of `b`.
    const COLS: usize;
    /// Depth of a block; what is deeper is added up in the result, in f32.
    const DEPTH: usize;
    /// Rows of `a` that are packed at once, whole panels.
    const BLOCK_ROWS: usize;
    /// Columns of `b` that are packed at once, whole panels.
    const BLOCK_COLS: usize;

    /// Words of a panel of `a` and of one of `b`.
    fn panel_words(depth: usize) -> [usize; 2];

    /// Packs `rows` rows of `a`, at most a panel's, and fills the panel up with zeros.
    ///
    /// # Safety
    /// The operand has that many rows and that depth.
    unsafe fn pack_a(&self, from: Operand, rows: usize, depth: usize, to: &mut [Words]);

    /// Packs `cols` columns of `b`, at most a panel's, and fills the panel up with zeros.
    ///
    /// # Safety
    /// The operand has that many columns and that depth.
    unsafe fn pack_b(&self, from: Operand, cols: usize, depth: usize, to: &mut [Words]);

    /// Multiplies two panels, and puts what lies in the first `rows` rows and `cols` columns into the
    /// target; there may be more of either than the panels have.
    ///
    /// # Safety
    /// The panels are packed, of one depth, and nobody else reads or writes these rows and columns of the
    /// target.
    unsafe fn multiply(&self, a: &[Words], b: &[Words], target: Target, rows: usize, cols: usize);
}

impl Operand {
    /// From another row of `a`, or column of `b`, and another place in the depth on.
    pub fn skip(self, lines: usize, depth: usize) -> Self {
        Self {
            data: self
                .data
                .wrapping_add(lines * self.stride + depth * self.depth_stride),
            ..self
        }
    }
}

impl Target {
    pub fn skip(self, rows: usize, cols: usize) -> Self {
        Self {
            data: self.data.wrapping_add(rows * self.row_stride + cols),
            ..self
        }
    }

    /// Puts a register of sums, times the factor, into the first `cols` elements of the target, or adds
    /// them to what is there.
    ///
    /// # Safety
    /// The target has those elements in its first row, as far as a register goes.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn put(self, cols: usize, sums: __m512) {
        let mask = first(cols);
        let mut value = _mm512_mul_ps(_mm512_set1_ps(self.factor), sums);
        // SAFETY: the mask leaves out what is beyond the columns.
        unsafe {
            if self.accumulate {
                value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, self.data));
            }
            _mm512_mask_storeu_ps(self.data, mask, value);
        }
    }
}

/// A mask of the first `count` lanes.
pub(super) fn first(count: usize) -> __mmask16 {
    match count < LANES {
        true => (1 << count) - 1,
        false => !0,
    }
}

/// [`Instructions::matmul`](super::Instructions::matmul), whose shapes are known to fit, by a kernel that
/// is made anew for each piece, on the thread that computes it.
pub(super) fn in_pieces<K: Kernel>(
    kernel: impl Fn() -> K + Sync,
    out: MatrixMut<'_>,
    a: Matrix<'_>,
    b: Matrix<'_>,
    parallel: bool,
) {
    let (rows, cols, depth) = (out.rows, out.cols, a.cols);
    if rows * cols == 0 {
        return;
    }
    if depth == 0 {
        if !out.accumulate {
            for row in out.data.chunks_mut(out.row_stride) {
                row[..cols].fill(0.0);
            }
        }
        return;
    }
    let target = Target {
        data: out.data.as_mut_ptr(),
        row_stride: out.row_stride,
        accumulate: out.accumulate,
        factor: out.factor,
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
    let (high, wide) = piece_shape::<K>(rows, cols, threads);
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
        // SAFETY: by the constructors of the matrices every row, column and depth below the shape's
        // lies in its slice, and a piece is a part of the shape.
        PACKED.with_borrow_mut(|packed| unsafe { multiply(&kernel(), &piece, packed) });
    };
    match pieces.len() {
        1 => pieces.into_iter().for_each(run),
        _ => pieces.into_par_iter().for_each(run),
    }
}

/// Rows and columns of the pieces that `threads` threads work at: the cut that packs least, since
/// pieces beside each other pack the same rows, and pieces one above the other the same columns.
fn piece_shape<K: Kernel>(rows: usize, cols: usize, threads: usize) -> (usize, usize) {
    let packed = |down: &usize| rows * (threads / down) + cols * down;
    let down = (1..=threads).min_by_key(packed).unwrap_or(1);
    (
        rows.div_ceil(down).next_multiple_of(K::ROWS),
        cols.div_ceil(threads / down).next_multiple_of(K::COLS),
    )
}

/// Computes a piece.
///
/// # Safety
/// The operands have the piece's rows, columns and depth, the target its rows and columns, and
/// nobody else reads or writes the target.
unsafe fn multiply<K: Kernel>(
    kernel: &K,
    piece: &Piece,
    [a_packed, b_packed]: &mut [Vec<Words>; 2],
) {
    let [a_words, b_words] = K::panel_words(piece.depth.min(K::DEPTH));
    let a_words = piece.rows.min(K::BLOCK_ROWS).div_ceil(K::ROWS) * a_words;
    let b_words = piece.cols.min(K::BLOCK_COLS).div_ceil(K::COLS) * b_words;
    let empty = Words([0; LANES]);
    a_packed.resize(a_words.max(a_packed.len()), empty);
    b_packed.resize(b_words.max(b_packed.len()), empty);
    for col in (0..piece.cols).step_by(K::BLOCK_COLS) {
        let cols = K::BLOCK_COLS.min(piece.cols - col);
        for place in (0..piece.depth).step_by(K::DEPTH) {
            let depth = K::DEPTH.min(piece.depth - place);
            let [a_words, b_words] = K::panel_words(depth);
            let b_panels = (0..cols).step_by(K::COLS);
            for (right, panel) in b_panels.clone().zip(b_packed.chunks_exact_mut(b_words)) {
                let from = piece.b.skip(col + right, place);
                // SAFETY: these are columns and depths of the piece.
                unsafe { kernel.pack_b(from, K::COLS.min(cols - right), depth, panel) };
            }
            for row in (0..piece.rows).step_by(K::BLOCK_ROWS) {
                let rows = K::BLOCK_ROWS.min(piece.rows - row);
                let a_panels = (0..rows).step_by(K::ROWS);
                for (down, panel) in a_panels.clone().zip(a_packed.chunks_exact_mut(a_words)) {
                    let from = piece.a.skip(row + down, place);
                    // SAFETY: these are rows and depths of the piece.
                    unsafe { kernel.pack_a(from, K::ROWS.min(rows - down), depth, panel) };
                }
                let target = Target {
                    accumulate: piece.target.accumulate || place > 0,
                    ..piece.target.skip(row, col)
                };
                for (right, b) in b_panels.clone().zip(b_packed.chunks_exact(b_words)) {
                    for (down, a) in a_panels.clone().zip(a_packed.chunks_exact(a_words)) {
                        let target = target.skip(down, right);
                        // SAFETY: the panels were packed above, and the rows and columns left are
                        // those of the piece.
                        unsafe { kernel.multiply(a, b, target, rows - down, cols - right) };
                    }
                }
            }
        }
    }
}
