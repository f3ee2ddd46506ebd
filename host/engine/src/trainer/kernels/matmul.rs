//! Matrix products through the `gemm` crate.

use std::ops::Range;

use gemm::Parallelism;

/// A matrix seen in a slice.
#[derive(Clone, Copy)]
pub(in crate::trainer) struct Matrix<'a> {
    pub(super) data: &'a [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

/// A matrix to be written, each row contiguous, and how a product is put there.
pub(in crate::trainer) struct MatrixMut<'a> {
    pub(super) data: &'a mut [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    /// Added to what is there, rather than put in its place.
    pub(super) accumulate: bool,
    /// What it is multiplied by.
    pub(super) factor: f32,
}

impl<'a> Matrix<'a> {
    /// `data` as `[rows, cols]`, row by row.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(
            data.len(),
            rows * cols,
            "a {rows}x{cols} matrix needs its elements"
        );
        Self {
            data,
            rows,
            cols,
            row_stride: cols,
            col_stride: 1,
        }
    }

    /// Rows and columns `strides` elements apart, from the first element of `data` on.
    ///
    /// # Panics
    /// If `data` ends before the last element.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, strides: [usize; 2]) -> Self {
        let [row_stride, col_stride] = strides;
        let last = rows.saturating_sub(1) * row_stride + cols.saturating_sub(1) * col_stride;
        assert!(
            rows * cols == 0 || last < data.len(),
            "a {rows}x{cols} matrix with strides {strides:?} needs its elements"
        );
        Self {
            data,
            rows,
            cols,
            row_stride,
            col_stride,
        }
    }

    /// Some of the columns, without moving anything.
    ///
    /// # Panics
    /// If there are no rows, or not so many columns.
    pub fn columns(self, columns: Range<usize>) -> Self {
        assert!(
            self.rows > 0 && columns.start < columns.end && columns.end <= self.cols,
            "columns {columns:?} of a {}x{} matrix",
            self.rows,
            self.cols
        );
        Self {
            data: &self.data[columns.start * self.col_stride..],
            cols: columns.len(),
            ..self
        }
    }

    /// The transpose, without moving anything.
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

impl<'a> MatrixMut<'a> {
    /// `data` as `[rows, cols]`, row by row.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(
            data.len(),
            rows * cols,
            "a {rows}x{cols} matrix needs its elements"
        );
        Self {
            data,
            rows,
            cols,
            row_stride: cols,
            accumulate: false,
            factor: 1.0,
        }
    }

    /// Whether a product is added to what is there.
    pub fn accumulate(self, accumulate: bool) -> Self {
        Self { accumulate, ..self }
    }

    /// What a product is multiplied by.
    pub fn times(self, factor: f32) -> Self {
        Self { factor, ..self }
    }

    /// Some of the columns; the others are not touched.
    ///
    /// # Panics
    /// If there are no rows, or not so many columns.
    pub fn columns(self, columns: Range<usize>) -> Self {
        assert!(
            self.rows > 0 && columns.start < columns.end && columns.end <= self.cols,
            "columns {columns:?} of a {}x{} matrix",
            self.rows,
            self.cols
        );
        Self {
            data: &mut self.data[columns.start..],
            cols: columns.len(),
            ..self
        }
    }
}

/// `out = factor · a b`, or `out += factor · a b`, as `out` says.
///
/// Runs on all threads of the current rayon pool if `parallel`, else on the calling one.
///
/// # Panics
/// If the shapes do not fit.
pub(in crate::trainer) fn matmul(out: MatrixMut<'_>, a: Matrix<'_>, b: Matrix<'_>, parallel: bool) {
    assert_eq!(
        (a.rows, a.cols, b.cols),
        (out.rows, b.rows, out.cols),
        "shapes of a matrix product"
    );
    let parallelism = if parallel {
        Parallelism::Rayon(rayon::current_num_threads())
    } else {
        Parallelism::None
    };
    // SAFETY: `new` checked that each slice has rows × cols elements, and the strides of a matrix or
    // of its transpose reach each of them exactly once, `strided` that the last element that its
    // strides reach is in the slice; `columns` keeps the strides, takes fewer
    // columns and moves the beginning by no more than those left out, so what is reached is among
    // what was; the shapes agree by the assertion above; `out` is a unique borrow and overlaps
    // neither operand.
    unsafe {
        gemm::gemm(
            out.rows,
            out.cols,
            a.cols,
            out.data.as_mut_ptr(),
            1,
            out.row_stride as isize,
            out.accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            out.factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// The instruction set that products use on this machine: part of a run's numeric path.
pub(in crate::trainer) fn instructions() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            return "x86-64 avx512f";
        }
        if std::arch::is_x86_feature_detected!("fma") {
            return "x86-64 fma";
        }
    }
    std::env::consts::ARCH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_and_transposes_are_right() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let b = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0];
        let mut out = [100.0; 4];
        let (a, b) = (Matrix::new(&a, 2, 3), Matrix::new(&b, 3, 2));
        matmul(MatrixMut::new(&mut out, 2, 2), a, b, false);
        assert_eq!(out, [4.0, 5.0, 10.0, 11.0]);
        let more = MatrixMut::new(&mut out, 2, 2).accumulate(true).times(0.5);
        matmul(more, b.t(), a.t(), true);
        assert_eq!(out, [6.0, 10.0, 12.5, 16.5]);
    }

    #[test]
    fn columns_are_read_and_written_alone() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let a = Matrix::new(&a, 2, 3);
        let mut out = [100.0; 6];
        let right = MatrixMut::new(&mut out, 2, 3).columns(1..3);
        let last = a.columns(1..3);
        matmul(right, last, last.t(), false);
        assert_eq!(out, [100.0, 13.0, 28.0, 100.0, 28.0, 61.0]);
    }
}
