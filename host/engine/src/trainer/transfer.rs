//! Numbers between the host and a part of a buffer on any device: in place, by plain copies of memory.
//!
//! candle copies a whole buffer to the host, however small the part that is asked for, and copies to a
//! part by way of a kernel, which it does not have for every type.

use std::ops::Range;

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Tensor, WithDType, bail};
use half::bf16;

/// What candle asks of a number on a card.
#[cfg(feature = "cuda")]
pub(super) trait OnCards:
    candle_core::cuda::CudaDType + candle_core::cuda::cudarc::driver::DeviceRepr
{
}

#[cfg(feature = "cuda")]
impl<T> OnCards for T where
    T: candle_core::cuda::CudaDType + candle_core::cuda::cudarc::driver::DeviceRepr
{
}

/// What candle asks of a number on a card: nothing, where there are no cards.
#[cfg(not(feature = "cuda"))]
pub(super) trait OnCards {}

#[cfg(not(feature = "cuda"))]
impl<T> OnCards for T {}

/// A number that is written.
pub(super) trait Number: WithDType + OnCards {
    /// All numbers of a storage, if it holds numbers of this kind.
    fn all(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

macro_rules! number {
    ($type:ty, $name:ident) => {
        impl Number for $type {
            fn all(storage: &mut CpuStorage) -> Option<&mut [Self]> {
                match storage {
                    CpuStorage::$name(data) => Some(data),
                    _ => None,
                }
            }
        }
    };
}

number!(f32, F32);
number!(f64, F64);
number!(bf16, BF16);
number!(i16, I16);

/// Copies numbers of the host to the places from `start` on of a flat buffer.
///
/// # Errors
/// candle's, if there are not so many places, or they hold numbers of another kind.
pub(super) fn write<T: Number>(buffer: &Tensor, start: usize, values: &[T]) -> Result<()> {
    struct Write<'a, T>(&'a [T]);

    impl<T: Number> InplaceOp1 for Write<'_, T> {
        fn name(&self) -> &'static str {
            "write"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            let Some(all) = T::all(storage) else {
                bail!("a buffer of another number format was written to");
            };
            all[layout.start_offset()..][..self.0.len()].copy_from_slice(self.0);
            Ok(())
        }

        #[cfg(feature = "cuda")]
        fn cuda_fwd(&self, storage: &mut candle_core::CudaStorage, layout: &Layout) -> Result<()> {
            let device = storage.device.clone();
            let place = layout.start_offset()..layout.start_offset() + self.0.len();
            let all = storage.as_cuda_slice_mut::<T>()?;
            device.memcpy_htod(self.0, &mut all.slice_mut(place))
        }
    }

    if values.is_empty() {
        return Ok(());
    }
    let place = buffer.narrow(0, start, values.len())?;
    place.inplace_op1(&Write(values))
}

/// Copies some numbers of a flat buffer to the host.
///
/// # Errors
/// candle's, if there are not so many, or they are of another kind.
pub(super) fn read<T: WithDType>(buffer: &Tensor, range: Range<usize>) -> Result<Vec<T>> {
    let whole = range.len() == buffer.elem_count();
    let part = buffer.narrow(0, range.start, range.len())?;
    if whole || buffer.device().is_cpu() {
        return part.to_vec1();
    }
    part.force_contiguous()?.to_vec1()
}

/// As [`read`], of numbers in f32 or bf16.
///
/// # Errors
/// As there.
pub(super) fn read_f32(buffer: &Tensor, range: Range<usize>) -> Result<Vec<f32>> {
    match buffer.dtype() {
        DType::BF16 => {
            let values = read::<bf16>(buffer, range)?;
            Ok(values.into_iter().map(bf16::to_f32).collect())
        }
        _ => read(buffer, range),
    }
}
