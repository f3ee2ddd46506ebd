//! A product of row-major matrices as BLAS libraries take it: of column-major ones.
//!
//! A row-major matrix is the column-major transpose of itself, so `C = A B` is asked for as
//! `Cᵀ = Bᵀ Aᵀ`: no number is moved.

use candle_core::{DType, Layout, Result, Tensor, bail};

use super::Output;

/// A matrix in memory, column by column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stored {
    /// Numbers in a column.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Numbers from the beginning of one column to that of the next.
    pub leading: usize,
    /// Whether the product is with its transpose.
    pub transposed: bool,
}

/// `product = factor · first second`, or added to what is there; all column-major.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Product {
    /// Left operand: the right one of the row-major product.
    pub first: Stored,
    /// Right operand.
    pub second: Stored,
    /// Result.
    pub product: Stored,
    /// Of all three.
    pub dtype: DType,
    /// Whether it is added to what is there.
    pub accumulate: bool,
}

impl Product {
    /// The product that writes `out` from `a` and `b`, and how many numbers into `out` its result begins.
    ///
    /// # Errors
    /// If the shapes do not fit together, or a matrix has neither its rows nor its columns in one piece.
    pub fn of(out: &Output<'_>, a: &Tensor, b: &Tensor) -> Result<(Self, usize)> {
        let (rows, width) = out.tensor.dims2()?;
        let columns = out.columns.clone().unwrap_or(0..width);
        let ((m, k), (k2, n)) = (a.dims2()?, b.dims2()?);
        let dtype = out.tensor.dtype();
        if (rows, columns.len(), k) != (m, n, k2)
            || columns.end > width
            || a.dtype() != dtype
            || b.dtype() != dtype
            || !out.tensor.is_contiguous()
        {
            bail!(
                "a product of {:?} {:?} and {:?} {:?} into columns {columns:?} of {:?} {dtype:?}",
                a.dtype(),
                a.shape(),
                b.dtype(),
                b.shape(),
                out.tensor.shape()
            );
        }
        let product = Stored {
            rows: n,
            columns: m,
            leading: width,
            transposed: false,
        };
        let product = Self {
            first: stored(b.layout())?,
            second: stored(a.layout())?,
            product,
            dtype,
            accumulate: out.accumulate,
        };
        Ok((product, columns.start))
    }
}

/// A row-major view as the column-major matrix whose transpose it is, or whose transpose's.
fn stored(layout: &Layout) -> Result<Stored> {
    let (rows, columns) = layout.shape().dims2()?;
    let [down, across] = [layout.stride()[0], layout.stride()[1]];
    // The stride of a single row or column means nothing.
    if across == 1 || columns == 1 && down != 1 {
        Ok(Stored {
            rows: columns,
            columns: rows,
            leading: if rows == 1 { columns } else { down },
            transposed: false,
        })
    } else if down == 1 || rows == 1 {
        Ok(Stored {
            rows,
            columns,
            leading: if columns == 1 { rows } else { across },
            transposed: true,
        })
    } else {
        bail!("a product of a matrix that has neither rows nor columns in one piece: {layout:?}")
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::trainer::operations::{ComposedOperations, Operations};
    use crate::trainer::testing::SplitMix64;

    /// The numbers of a tensor's whole buffer from its first element on.
    fn memory(x: &Tensor, whole: &Tensor) -> Vec<f32> {
        let all: Vec<f32> = whole.flatten_all().unwrap().to_vec1().unwrap();
        all[x.layout().start_offset()..].to_vec()
    }

    fn at(memory: &[f32], matrix: Stored, row: usize, column: usize) -> f32 {
        let (row, column) = match matrix.transposed {
            true => (column, row),
            false => (row, column),
        };
        assert!(row < matrix.rows && column < matrix.columns);
        memory[column * matrix.leading + row]
    }

    /// Numbers that are added up for one of the result.
    fn inner(product: &Product) -> usize {
        match product.first.transposed {
            true => product.first.rows,
            false => product.first.columns,
        }
    }

    /// As the BLAS standard defines `gemm`, number by number.
    fn multiply(product: &Product, first: &[f32], second: &[f32], out: &mut [f32], factor: f32) {
        let Stored {
            rows,
            columns,
            leading,
            ..
        } = product.product;
        for column in 0..columns {
            for row in 0..rows {
                let sum: f32 = (0..inner(product))
                    .map(|i| {
                        at(first, product.first, row, i) * at(second, product.second, i, column)
                    })
                    .sum();
                let place = &mut out[column * leading + row];
                *place = factor * sum + if product.accumulate { *place } else { 0.0 };
            }
        }
    }

    #[test]
    fn products_are_those_of_the_row_major_matrices() {
        let mut random = SplitMix64(3);
        let mut tensor = |rows: usize, columns: usize| {
            let values: Vec<f32> = (0..rows * columns).map(|_| random.symmetric()).collect();
            Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
        };
        for (m, k, n) in [(5, 7, 3), (1, 4, 6), (6, 1, 4), (4, 5, 1), (1, 1, 1)] {
            let (wide_a, tall_a) = (tensor(m, k + 3), tensor(k, m));
            let (wide_b, tall_b) = (tensor(k, n + 2), tensor(n, k));
            let operands_a = [
                (wide_a.narrow(1, 2, k).unwrap(), &wide_a),
                (tall_a.t().unwrap(), &tall_a),
            ];
            let operands_b = [
                (wide_b.narrow(1, 1, n).unwrap(), &wide_b),
                (tall_b.t().unwrap(), &tall_b),
            ];
            for (a, whole_a) in &operands_a {
                for (b, whole_b) in &operands_b {
                    let there = tensor(m, n + 4);
                    let wanted = there.copy().unwrap();
                    let out = |tensor| Output::add(tensor).columns(3..3 + n).times(0.5);
                    ComposedOperations.matmul(out(&wanted), a, b).unwrap();
                    let (product, start) = Product::of(&out(&there), a, b).unwrap();
                    let mut got: Vec<f32> = there.flatten_all().unwrap().to_vec1().unwrap();
                    multiply(
                        &product,
                        &memory(b, whole_b),
                        &memory(a, whole_a),
                        &mut got[start..],
                        0.5,
                    );
                    let wanted: Vec<f32> = wanted.flatten_all().unwrap().to_vec1().unwrap();
                    for (got, wanted) in got.iter().zip(&wanted) {
                        assert!((got - wanted).abs() < 1e-6, "{got} {wanted}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let zeros =
            |shape: (usize, usize), dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
        let (a, b) = (zeros((2, 3), DType::F32), zeros((4, 5), DType::F32));
        let out = zeros((2, 5), DType::F32);
        assert!(Product::of(&Output::set(&out), &a, &b).is_err());
        let b = zeros((3, 5), DType::BF16);
        let error = Product::of(&Output::set(&out), &a, &b).unwrap_err();
        assert!(error.to_string().contains("BF16"), "{error}");
    }
}
