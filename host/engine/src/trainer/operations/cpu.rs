//! The operations on the CPU: the tensors' elements as slices, given to the fused kernels.

use std::cell::Cell;
use std::ops::{Deref, Range};

use candle_core::{
    CpuStorage, DType, InplaceOp1, Layout, Result, Storage, StorageRef, Tensor, WithDType, bail,
};
use half::bf16;
use rayon::prelude::*;

use super::{
    AdamWNumbers, AdamWTensors, AttentionSaved, DropoutMask, Operations, Output, PlacedSegments,
    RandomBits, RmsNormSaved, Rotation,
};
use crate::trainer::adamw::clip_factor;
use crate::trainer::config::TrainDtype;
use crate::trainer::kernels::{self, AttentionShape, Matrix, MatrixMut, matmul_bf16};
use crate::trainer::transfer::Number;

/// Elements of one task; fixed, so that sums do not depend on the number of threads.
const CHUNK: usize = 1 << 16;

/// Fused kernels, on the rayon pool that they are called in.
#[derive(Debug, Clone, Copy)]
pub struct CpuOperations {
    /// What makes products of operands in bf16; none where all is f32, so that a processor is not asked
    /// for what is not used.
    bf16: Option<matmul_bf16::Instructions>,
}

impl CpuOperations {
    /// Products of operands in a number format; all else is f32.
    pub fn new(dtype: TrainDtype) -> Self {
        Self {
            bf16: match dtype {
                TrainDtype::F32 => None,
                TrainDtype::Bf16 => Some(matmul_bf16::Instructions::detect()),
            },
        }
    }

    /// The same by the instructions that a run began with, as [`Operations::instructions`] named them,
    /// where this machine has them and there is a choice.
    pub fn with_instructions(self, name: &str) -> Self {
        let named = |bf16| matmul_bf16::Instructions::named(name).unwrap_or(bf16);
        Self {
            bf16: self.bf16.map(named),
        }
    }
}

impl Operations for CpuOperations {
    fn name(&self) -> &'static str {
        match self.bf16 {
            None => "cpu-f32-1",
            Some(_) => "cpu-bf16-1",
        }
    }

    fn instructions(&self) -> String {
        let name = match self.bf16 {
            None => kernels::instructions(),
            Some(bf16) => bf16.name(),
        };
        name.to_owned()
    }

    fn caution(&self) -> Option<&'static str> {
        use matmul_bf16::Instructions;
        match self.bf16? {
            Instructions::Rounded => Some(match Instructions::detect() {
                Instructions::Rounded => {
                    "this processor has no instructions for bf16 (AMX or AVX-512 BF16): dtype = \"f32\" would be quicker here"
                }
                _ => {
                    "this run began without instructions for bf16 and goes on so, to the same digits: a new run would be quicker on this processor"
                }
            }),
            _ => None,
        }
    }

    fn matmul(&self, out: Output<'_>, a: &Tensor, b: &Tensor) -> Result<()> {
        let (rows, width) = out.tensor.dims2()?;
        let columns = out.columns.unwrap_or(0..width);
        if columns.end > width || (rows, columns.len()) != (a.dim(0)?, b.dim(1)?) {
            bail!(
                "a product of {:?} and {:?} into columns {columns:?} of {:?}",
                a.shape(),
                b.shape(),
                out.tensor.shape()
            );
        }
        let (a_data, b_data) = (Strided::of(a)?, Strided::of(b)?);
        let (a, b) = (a_data.matrix()?, b_data.matrix()?);
        write(out.tensor, |y| {
            let y = MatrixMut::new(y, rows, width)
                .columns(columns)
                .accumulate(out.accumulate)
                .times(out.factor);
            match self.bf16 {
                None => kernels::matmul(y, a, b, true),
                Some(bf16) => bf16.matmul(y, a, b, true),
            }
            Ok(())
        })
    }

    fn zero(&self, x: &Tensor) -> Result<()> {
        x.zero_set()
    }

    fn copy(&self, out: &Tensor, x: &Tensor) -> Result<()> {
        out.slice_set(x, 0, 0)
    }

    fn gather_rows(&self, out: &Tensor, table: &Tensor, ids: &Tensor) -> Result<()> {
        let width = table.dim(1)?;
        let (table, ids) = (read::<f32>(table)?, read::<u32>(ids)?);
        write(out, |out| {
            kernels::gather_rows(out, &ids, &table, width);
            Ok(())
        })
    }

    fn scatter_add_rows(&self, table: &Tensor, ids: &Tensor, rows: &Tensor) -> Result<()> {
        let width = table.dim(1)?;
        let (rows, ids) = (read::<f32>(rows)?, read::<u32>(ids)?);
        write(table, |table| {
            kernels::scatter_add_rows(table, &ids, &rows, width);
            Ok(())
        })
    }

    fn rms_norm(
        &self,
        y: &Tensor,
        rstd: &Tensor,
        x: &Tensor,
        weight: &Tensor,
        eps: f64,
    ) -> Result<()> {
        let (x, weight) = (read(x)?, read(weight)?);
        write(y, |y| {
            write(rstd, |rstd| {
                kernels::rms_norm_forward(y, rstd, &x, &weight, eps as f32);
                Ok(())
            })
        })
    }

    fn rms_norm_backward(
        &self,
        dx: &Tensor,
        d_weight: Option<&Tensor>,
        dy: &Tensor,
        saved: RmsNormSaved<'_>,
    ) -> Result<()> {
        let (dy, x) = (read(dy)?, read(saved.x)?);
        let (weight, rstd) = (read(saved.weight)?, read(saved.rstd)?);
        write(dx, |dx| {
            kernels::rms_norm_backward(dx, &dy, &x, &weight, &rstd);
            Ok(())
        })?;
        let Some(d_weight) = d_weight else {
            return Ok(());
        };
        write(d_weight, |d_weight| {
            kernels::rms_norm_weight_gradient(d_weight, &dy, &x, &rstd);
            Ok(())
        })
    }

    fn split_heads(
        &self,
        heads: &Tensor,
        rows: &Tensor,
        columns: Range<usize>,
        rotation: Option<Rotation<'_>>,
    ) -> Result<()> {
        let (width, head_dim) = (rows.dim(1)?, heads.dim(2)?);
        let rows = read(rows)?;
        let angles = rotation.map(Angles::of).transpose()?;
        write(heads, |heads| {
            let angles = angles.as_ref().map(Angles::slices);
            kernels::split_heads(heads, &rows, width, columns, head_dim, angles);
            Ok(())
        })
    }

    fn merge_heads(
        &self,
        rows: &Tensor,
        columns: Range<usize>,
        heads: &Tensor,
        rotation: Option<Rotation<'_>>,
    ) -> Result<()> {
        let (width, head_dim) = (rows.dim(1)?, heads.dim(2)?);
        let heads = read(heads)?;
        let angles = rotation.map(Angles::of).transpose()?;
        write(rows, |rows| {
            let angles = angles.as_ref().map(Angles::slices);
            kernels::merge_heads(rows, &heads, width, columns, head_dim, angles);
            Ok(())
        })
    }

    fn attention(
        &self,
        out: &Tensor,
        log_sum: &Tensor,
        [q, k, v]: [&Tensor; 3],
        segments: &PlacedSegments,
    ) -> Result<()> {
        let shape = attention_shape(q, k)?;
        let (q, k, v) = (read(q)?, read(k)?, read(v)?);
        write(out, |out| {
            write(log_sum, |log_sum| {
                kernels::attention_forward(out, log_sum, &q, &k, &v, &segments.list, shape);
                Ok(())
            })
        })
    }

    fn attention_backward(
        &self,
        [dq, dk, dv]: [&Tensor; 3],
        saved: AttentionSaved<'_>,
        segments: &PlacedSegments,
    ) -> Result<()> {
        let shape = attention_shape(saved.q, saved.k)?;
        let (q, k, v) = (read(saved.q)?, read(saved.k)?, read(saved.v)?);
        let (log_sum, delta) = (read(saved.log_sum)?, read(saved.delta)?);
        let d_out = read(saved.d_out)?;
        let saved = kernels::AttentionSaved {
            q: &q,
            k: &k,
            v: &v,
            log_sum: &log_sum,
            delta: &delta,
            d_out: &d_out,
        };
        write(dq, |dq| {
            write(dk, |dk| {
                write(dv, |dv| {
                    kernels::attention_backward(dq, dk, dv, saved, &segments.list, shape);
                    Ok(())
                })
            })
        })
    }

    fn head_products(&self, products: &Tensor, a: &Tensor, b: &Tensor) -> Result<()> {
        let heads = products.dim(0)?;
        let head_dim = a.dim(1)? / heads;
        let (a, b) = (read(a)?, read(b)?);
        write(products, |products| {
            kernels::head_products(products, &a, &b, head_dim, heads);
            Ok(())
        })
    }

    fn swiglu(&self, out: &Tensor, gate_up: &Tensor) -> Result<()> {
        let inner = out.dim(1)?;
        let gate_up = read(gate_up)?;
        write(out, |out| {
            kernels::swiglu_forward(out, &gate_up, inner);
            Ok(())
        })
    }

    fn swiglu_backward(&self, d_gate_up: &Tensor, d_out: &Tensor, gate_up: &Tensor) -> Result<()> {
        let inner = d_out.dim(1)?;
        let (d_out, gate_up) = (read(d_out)?, read(gate_up)?);
        write(d_gate_up, |d_gate_up| {
            kernels::swiglu_backward(d_gate_up, &d_out, &gate_up, inner);
            Ok(())
        })
    }

    fn dropout(&self, out: &Tensor, x: &Tensor, mask: DropoutMask<'_>) -> Result<()> {
        let width = x.dim(1)?;
        let (x, mask) = (read(x)?, Mask::of(mask)?);
        write(out, |out| {
            kernels::dropout(out, &x, width, mask.slices());
            Ok(())
        })
    }

    fn dropout_backward(&self, dx: &Tensor, dy: &Tensor, mask: DropoutMask<'_>) -> Result<()> {
        let width = dy.dim(1)?;
        let (dy, mask) = (read(dy)?, Mask::of(mask)?);
        write(dx, |dx| {
            kernels::dropout_backward(dx, &dy, width, mask.slices());
            Ok(())
        })
    }

    fn cross_entropy(
        &self,
        losses: &Tensor,
        logits: &Tensor,
        targets: &Tensor,
        gradient_scale: Option<f32>,
    ) -> Result<()> {
        let targets = read::<u32>(targets)?;
        write(logits, |logits| {
            write(losses, |losses| {
                kernels::cross_entropy(losses, logits, &targets, gradient_scale);
                Ok(())
            })
        })
    }

    fn add_sum(&self, total: &Tensor, values: &Tensor) -> Result<()> {
        let values = read::<f32>(values)?;
        add(total, values.iter().copied().map(f64::from).sum())
    }

    fn add_sum_of_squares(&self, total: &Tensor, x: &Tensor) -> Result<()> {
        let x = read::<f32>(x)?;
        let sums: Vec<f64> = x.par_chunks(CHUNK).map(kernels::sum_of_squares).collect();
        add(total, sums.iter().sum())
    }

    fn clip_factor(&self, factor: &Tensor, sum_of_squares: &Tensor, max_norm: f64) -> Result<()> {
        let sum = read::<f64>(sum_of_squares)?[0];
        write(factor, |factor: &mut [f32]| {
            factor[0] = clip_factor(sum.sqrt(), max_norm);
            Ok(())
        })
    }

    fn adamw(&self, state: AdamWTensors<'_>, numbers: AdamWNumbers) -> Result<()> {
        let factor = read::<f32>(state.gradient_factor)?[0];
        if !factor.is_finite() {
            return Ok(());
        }
        if state.m.dtype() == DType::BF16 {
            return adamw::<bf16>(state, |chunk, w, g, m, v| {
                let random = RandomBits {
                    first: numbers.random.first + (chunk * CHUNK) as u64,
                    ..numbers.random
                };
                let numbers = AdamWNumbers { random, ..numbers };
                kernels::adamw_bf16(w, g, m, v, factor, numbers);
            });
        }
        adamw::<f32>(state, |_, w, g, m, v| {
            kernels::adamw(w, g, m, v, factor, numbers);
        })
    }
}

/// Gives weights, gradients and moments in format `M` to `update`, chunk by chunk with its number.
fn adamw<M: Number>(
    state: AdamWTensors<'_>,
    update: impl Fn(usize, &mut [f32], &[f32], &mut [M], &mut [M]) + Sync,
) -> Result<()> {
    let gradients = read::<f32>(state.gradients)?;
    write(state.weights, |weights| {
        write(state.m, |m| {
            write(state.v, |v| {
                weights
                    .par_chunks_mut(CHUNK)
                    .zip(gradients.par_chunks(CHUNK))
                    .zip(m.par_chunks_mut(CHUNK))
                    .zip(v.par_chunks_mut(CHUNK))
                    .enumerate()
                    .for_each(|(chunk, (((w, g), m), v))| update(chunk, w, g, m, v));
                Ok(())
            })
        })
    })
}

fn attention_shape(q: &Tensor, k: &Tensor) -> Result<AttentionShape> {
    let (heads, tokens, head_dim) = q.dims3()?;
    Ok(AttentionShape {
        heads,
        kv_heads: k.dim(0)?,
        tokens,
        head_dim,
    })
}

/// A rotation's tables and positions.
struct Angles<'a> {
    cos: Elements<'a, f32>,
    sin: Elements<'a, f32>,
    positions: Elements<'a, u32>,
}

impl<'a> Angles<'a> {
    fn of(rotation: Rotation<'a>) -> Result<Self> {
        Ok(Self {
            cos: read(rotation.cos)?,
            sin: read(rotation.sin)?,
            positions: read(rotation.positions)?,
        })
    }

    fn slices(&self) -> kernels::Angles<'_> {
        kernels::Angles {
            cos: &self.cos,
            sin: &self.sin,
            positions: &self.positions,
        }
    }
}

/// A mask's tokens.
struct Mask<'a> {
    mask: DropoutMask<'a>,
    sequences: Elements<'a, u32>,
    positions: Elements<'a, u32>,
}

impl<'a> Mask<'a> {
    fn of(mask: DropoutMask<'a>) -> Result<Self> {
        Ok(Self {
            sequences: read(mask.sequences)?,
            positions: read(mask.positions)?,
            mask,
        })
    }

    fn slices(&self) -> kernels::Mask<'_> {
        kernels::Mask {
            key: self.mask.key,
            dropped: self.mask.dropped,
            scale: self.mask.scale(),
            sequences: &self.sequences,
            positions: &self.positions,
        }
    }
}

/// The elements of a contiguous tensor, for as long as its storage is locked for reading.
struct Elements<'a, T> {
    storage: StorageRef<'a>,
    range: Range<usize>,
    element: std::marker::PhantomData<T>,
}

impl<T: WithDType> Deref for Elements<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &elements_of(&self.storage).expect("the type was checked when the tensor was opened")
            [self.range.clone()]
    }
}

fn elements_of<T: WithDType>(storage: &Storage) -> Result<&[T]> {
    match storage {
        Storage::Cpu(storage) => storage.as_slice(),
        _ => bail!("the operations of the CPU were given a tensor of another device"),
    }
}

fn read<T: WithDType>(tensor: &Tensor) -> Result<Elements<'_, T>> {
    let (storage, layout) = tensor.storage_and_layout();
    elements_of::<T>(&storage)?;
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("expected a contiguous tensor, found {layout:?}");
    };
    Ok(Elements {
        storage,
        range: start..end,
        element: std::marker::PhantomData,
    })
}

/// A matrix that need not be contiguous.
struct Strided<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> Strided<'a> {
    fn of(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        elements_of::<f32>(&storage)?;
        Ok(Self { storage, layout })
    }

    fn matrix(&self) -> Result<Matrix<'_>> {
        let (rows, cols) = self.layout.shape().dims2()?;
        let data = &elements_of(&self.storage)?[self.layout.start_offset()..];
        let strides = [self.layout.stride()[0], self.layout.stride()[1]];
        Ok(Matrix::strided(data, rows, cols, strides))
    }
}

fn add(total: &Tensor, sum: f64) -> Result<()> {
    write(total, |total: &mut [f64]| {
        total[0] += sum;
        Ok(())
    })
}

/// Runs `change` on the elements of a contiguous tensor.
///
/// candle lends a storage for writing to its in-place operations alone, so this is one.
fn write<T: Number, R>(tensor: &Tensor, change: impl FnOnce(&mut [T]) -> Result<R>) -> Result<R> {
    struct Write<T, F, R> {
        change: Cell<Option<F>>,
        result: Cell<Option<R>>,
        number: std::marker::PhantomData<T>,
    }

    impl<T: Number, F: FnOnce(&mut [T]) -> Result<R>, R> InplaceOp1 for Write<T, F, R> {
        fn name(&self) -> &'static str {
            "write"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            let Some(data) = T::all(storage) else {
                bail!(
                    "the operations of the CPU compute in f32, sum in f64 and keep moments in f32 or bf16"
                );
            };
            let Some((start, end)) = layout.contiguous_offsets() else {
                bail!("expected a contiguous tensor, found {layout:?}");
            };
            let change = self.change.take().expect("an operation is run once");
            self.result.set(Some(change(&mut data[start..end])?));
            Ok(())
        }
    }

    let operation = Write {
        change: Cell::new(Some(change)),
        result: Cell::new(None),
        number: std::marker::PhantomData,
    };
    tensor.inplace_op1(&operation)?;
    Ok(operation
        .result
        .take()
        .expect("what was run has a result or an error"))
}
