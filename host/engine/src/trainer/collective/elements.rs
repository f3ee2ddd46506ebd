//! Elements of flat CPU tensors as bytes (little-endian), and sums of them.

use std::cell::Cell;
use std::ops::Range;

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Storage, Tensor, bail};
use half::bf16;

/// Refuses what cannot be sent.
pub(super) fn check(tensor: &Tensor, sum: bool) -> Result<()> {
    let dtype = tensor.dtype();
    let known = match dtype {
        DType::F32 | DType::BF16 | DType::F64 => true,
        DType::U8 | DType::I16 => !sum,
        _ => false,
    };
    if !known {
        bail!("{dtype:?} is none of the types that ranks exchange");
    }
    if tensor.rank() != 1 || !tensor.is_contiguous() {
        bail!(
            "expected a flat, contiguous tensor, found the shape {:?}",
            tensor.shape()
        );
    }
    if !tensor.device().is_cpu() {
        bail!("this collective exchanges tensors of the CPU alone");
    }
    Ok(())
}

/// The bytes of some elements, behind what `out` holds.
pub(super) fn append(tensor: &Tensor, range: Range<usize>, out: &mut Vec<u8>) -> Result<()> {
    let (storage, layout) = tensor.storage_and_layout();
    let start = layout.start_offset();
    let range = start + range.start..start + range.end;
    match &*storage {
        Storage::Cpu(CpuStorage::F32(all)) => extend(out, &all[range], |x| x.to_le_bytes()),
        Storage::Cpu(CpuStorage::F64(all)) => extend(out, &all[range], |x| x.to_le_bytes()),
        Storage::Cpu(CpuStorage::BF16(all)) => extend(out, &all[range], |x| x.to_le_bytes()),
        Storage::Cpu(CpuStorage::I16(all)) => extend(out, &all[range], |x| x.to_le_bytes()),
        Storage::Cpu(CpuStorage::U8(all)) => out.extend_from_slice(&all[range]),
        _ => bail!("this collective exchanges tensors of the CPU alone"),
    }
    Ok(())
}

fn extend<T: Copy, const N: usize>(out: &mut Vec<u8>, values: &[T], bytes: fn(T) -> [u8; N]) {
    out.reserve(values.len() * N);
    for value in values {
        out.extend_from_slice(&bytes(*value));
    }
}

/// Puts bytes into the places of some elements.
pub(super) fn write(tensor: &Tensor, start: usize, bytes: &[u8]) -> Result<()> {
    let count = bytes.len() / tensor.dtype().size_in_bytes();
    let place = tensor.narrow(0, start, count)?;
    place.inplace_op1(&Write(Cell::new(Some(bytes))))
}

struct Write<'a>(Cell<Option<&'a [u8]>>);

impl InplaceOp1 for Write<'_> {
    fn name(&self) -> &'static str {
        "received-from-rank"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let bytes = self.0.take().expect("an operation runs once");
        let range = layout.start_offset()..layout.start_offset() + layout.shape().elem_count();
        match storage {
            CpuStorage::F32(all) => place(&mut all[range], bytes, f32::from_le_bytes),
            CpuStorage::F64(all) => place(&mut all[range], bytes, f64::from_le_bytes),
            CpuStorage::BF16(all) => place(&mut all[range], bytes, bf16::from_le_bytes),
            CpuStorage::I16(all) => place(&mut all[range], bytes, i16::from_le_bytes),
            CpuStorage::U8(all) => all[range].copy_from_slice(bytes),
            _ => bail!("none of the types that ranks exchange"),
        }
        Ok(())
    }
}

fn place<T, const N: usize>(to: &mut [T], bytes: &[u8], value: fn([u8; N]) -> T) {
    let (whole, rest) = bytes.as_chunks::<N>();
    debug_assert!(rest.is_empty(), "messages are made of whole elements");
    for (to, bytes) in to.iter_mut().zip(whole) {
        *to = value(*bytes);
    }
}

/// A sum in the making: bf16 is added up in f32.
pub(super) enum Sum {
    F32(Vec<f32>),
    Bf16(Vec<f32>),
    F64(Vec<f64>),
}

impl Sum {
    /// Of the first summand alone.
    pub(super) fn new(dtype: DType, bytes: &[u8]) -> Self {
        match dtype {
            DType::F64 => Self::F64(numbers(bytes, f64::from_le_bytes).collect()),
            DType::BF16 => Self::Bf16(numbers(bytes, from_bf16).collect()),
            _ => Self::F32(numbers(bytes, f32::from_le_bytes).collect()),
        }
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        match self {
            Self::F32(sum) => add(sum, numbers(bytes, f32::from_le_bytes)),
            Self::Bf16(sum) => add(sum, numbers(bytes, from_bf16)),
            Self::F64(sum) => add(sum, numbers(bytes, f64::from_le_bytes)),
        }
    }

    pub(super) fn append_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::F32(sum) => extend(out, sum, |x| x.to_le_bytes()),
            Self::Bf16(sum) => extend(out, sum, |x| bf16::from_f32(x).to_le_bytes()),
            Self::F64(sum) => extend(out, sum, |x| x.to_le_bytes()),
        }
    }
}

fn from_bf16(bytes: [u8; 2]) -> f32 {
    bf16::from_le_bytes(bytes).to_f32()
}

fn numbers<'a, T: 'a, const N: usize>(
    bytes: &'a [u8],
    value: fn([u8; N]) -> T,
) -> impl Iterator<Item = T> + 'a {
    bytes.as_chunks::<N>().0.iter().map(move |b| value(*b))
}

fn add<T: std::ops::AddAssign>(sum: &mut [T], values: impl Iterator<Item = T>) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += value;
    }
}
