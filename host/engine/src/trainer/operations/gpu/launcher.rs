//! What a device does for [`GpuOperations`](super::GpuOperations): it launches kernels and multiplies
//! matrices.

use candle_core::{Result, Tensor};

use super::super::Output;

/// A device on which kernels are launched, one after another: a later one finds what an earlier one
/// wrote.
pub trait Launcher: Send + Sync {
    /// The card that it computes with, as
    /// [`Operations::instructions`](super::super::Operations::instructions) names it.
    fn instructions(&self) -> String;

    /// Launches a kernel of [`source`](super::source()), one of [`KERNELS`](super::KERNELS), on
    /// `grid` blocks of `block` threads (a multiple of 32, at most 1024) with so many bytes of dynamic
    /// shared memory each.
    ///
    /// More than 48 KiB of shared memory has to be asked of CUDA kernel by kernel
    /// (`CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`); no kernel wants more than
    /// [`MOST_SHARED_BYTES`](super::MOST_SHARED_BYTES).
    ///
    /// # Errors
    /// candle's, if the device fails.
    fn launch(
        &self,
        kernel: &'static str,
        grid: [u32; 3],
        block: u32,
        shared_bytes: u32,
        arguments: &[Argument<'_>],
    ) -> Result<()>;

    /// `out = factor · a b`, or `out += factor · a b`, as
    /// [`Operations::matmul`](super::super::Operations::matmul).
    ///
    /// # Errors
    /// candle's, if the shapes do not fit or the device fails.
    fn matmul(&self, out: Output<'_>, a: &Tensor, b: &Tensor) -> Result<()>;
}

/// One argument of a kernel, in the order of its parameters.
#[derive(Debug, Clone, Copy)]
pub enum Argument<'a> {
    /// The address of a contiguous tensor's first element, the offset of its layout counted in.
    Tensor(&'a Tensor),
    /// A null address.
    Absent,
    /// `unsigned int`.
    U32(u32),
    /// `unsigned long long`.
    U64(u64),
    /// `float`.
    F32(f32),
    /// `double`.
    F64(f64),
}

impl<'a> From<&'a Tensor> for Argument<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        Self::Tensor(tensor)
    }
}

impl<'a> From<Option<&'a Tensor>> for Argument<'a> {
    fn from(tensor: Option<&'a Tensor>) -> Self {
        tensor.map_or(Self::Absent, Self::Tensor)
    }
}

impl From<u32> for Argument<'_> {
    fn from(value: u32) -> Self {
        Self::U32(value)
    }
}

impl From<u64> for Argument<'_> {
    fn from(value: u64) -> Self {
        Self::U64(value)
    }
}

impl From<f32> for Argument<'_> {
    fn from(value: f32) -> Self {
        Self::F32(value)
    }
}

impl From<f64> for Argument<'_> {
    fn from(value: f64) -> Self {
        Self::F64(value)
    }
}
