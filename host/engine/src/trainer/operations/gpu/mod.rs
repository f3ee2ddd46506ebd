//! The operations by fused kernels in CUDA C++, which NVRTC compiles on the machine that has the card.
//!
//! [`GpuOperations`] decides grids, arguments and tables; a [`Launcher`] launches. So everything but
//! the launching is tested where there is no card: the tests compile the same source with g++ and run
//! it thread by thread (`emulator`).
//!
//! No kernel uses atomics on numbers: the same input gives the same bits, whatever the card's
//! scheduling.

mod attention;
#[cfg(test)]
pub(crate) mod emulator;
mod launcher;
mod launches;
mod segments;
mod source;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::llama::LlamaConfig;
pub use launcher::{Argument, Launcher};
pub use source::{KERNELS, source};

/// Most dynamic shared memory that a kernel is launched with: what a block may have on every card of
/// compute capability 8.0 or later.
pub const MOST_SHARED_BYTES: u32 = 99 * 1024;

/// Threads of most blocks.
const THREADS: u32 = 256;
/// Most blocks of a launch over a flat stretch of memory; the kernel goes on from there.
const FLAT_BLOCKS: u64 = 1 << 14;
/// Parts of a sum over a flat stretch: fixed, because it decides the order of additions.
const SUM_PARTS: u64 = 1024;
/// Blocks that the rows of RMSNorm's backward pass are dealt to; fixed, as above. Four for each
/// multiprocessor of an H100: while some wait for a row's sum, others read.
const NORM_PARTS: usize = 512;
/// For reductions over a block: a number for each of its warps, twice.
const REDUCTION_BYTES: u32 = 512;

/// Fused kernels, launched by `L`.
#[derive(Debug, Default)]
pub struct GpuOperations<L> {
    launcher: L,
    scratch: Scratch,
}

impl<L: Launcher> GpuOperations<L> {
    /// Kernels launched by a launcher.
    pub fn new(launcher: L) -> Self {
        Self {
            launcher,
            scratch: Scratch::default(),
        }
    }

    /// What launches the kernels.
    pub fn launcher(&self) -> &L {
        &self.launcher
    }

    fn launch(
        &self,
        kernel: &'static str,
        grid: [usize; 3],
        block: u32,
        shared_bytes: u32,
        arguments: &[Argument<'_>],
    ) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        if grid[0] > i32::MAX as usize || grid[1] > 65_535 || grid[2] > 65_535 {
            bail!("{kernel} was asked for {grid:?} blocks, more than a card launches");
        }
        if shared_bytes > MOST_SHARED_BYTES {
            bail!(
                "{kernel} needs {shared_bytes} bytes of shared memory for these shapes; a block has \
                 {MOST_SHARED_BYTES}"
            );
        }
        for argument in arguments {
            if let Argument::Tensor(tensor) = argument
                && !tensor.is_contiguous()
            {
                bail!(
                    "{kernel}: expected contiguous tensors, found {:?}",
                    tensor.layout()
                );
            }
        }
        let grid = grid.map(|blocks| blocks as u32);
        self.launcher
            .launch(kernel, grid, block, shared_bytes, arguments)
    }
}

/// Bytes that partial results take beside the engine's buffers, for micro-batches of up to `tokens`
/// tokens whose examples share two prompt beginnings of up to 128 tokens; with longer ones or more of
/// them it may be more.
pub fn scratch_bytes(config: &LlamaConfig, tokens: usize) -> usize {
    let parts = segments::expected_parts(tokens) * 2 * segments::TILE;
    let attention = parts * config.num_key_value_heads * config.head_dim;
    let norms = NORM_PARTS.min(tokens) * config.hidden_size;
    4 * attention.max(norms) + 8 * SUM_PARTS as usize
}

/// Number format of weights, activations and gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    F32,
    Bf16,
}

impl Format {
    /// That of some tensors, which must have one and the same.
    fn of<const N: usize>(tensors: [&Tensor; N]) -> Result<Self> {
        let formats = tensors.map(Tensor::dtype);
        let format = match formats[0] {
            DType::F32 => Self::F32,
            DType::BF16 => Self::Bf16,
            other => bail!("kernels compute on numbers in f32 or bf16, found {other:?}"),
        };
        if formats.iter().any(|other| *other != formats[0]) {
            bail!("expected tensors of one number format, found {formats:?}");
        }
        Ok(format)
    }

    /// Numbers in 16 bytes.
    fn vector(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 8,
        }
    }
}

/// The name of a kernel that there is for every number format.
macro_rules! by_format {
    ($name:literal, $format:expr) => {
        match $format {
            Format::F32 => concat!($name, "_f32"),
            Format::Bf16 => concat!($name, "_bf16"),
        }
    };
}
use by_format;

/// Memory for partial results, which grows to the largest that was asked for.
///
/// Kernels run one after another, so that one piece serves all.
#[derive(Debug, Default)]
struct Scratch {
    /// Numbers of f32.
    single: Mutex<Option<Tensor>>,
    /// Numbers of f64.
    double: Mutex<Option<Tensor>>,
}

impl Scratch {
    /// Runs `with` on `count` numbers, of which nothing is known.
    fn lend<R>(
        &self,
        dtype: DType,
        count: usize,
        device: &Device,
        with: impl FnOnce(&Tensor) -> Result<R>,
    ) -> Result<R> {
        let place = match dtype {
            DType::F64 => &self.double,
            _ => &self.single,
        };
        // What is in it means nothing between two calls, so a panic in one spoils nothing.
        let mut held = place.lock().unwrap_or_else(PoisonError::into_inner);
        let enough = held
            .as_ref()
            .is_some_and(|tensor| tensor.elem_count() >= count);
        let tensor = if enough {
            held.as_ref()
        } else {
            // The old piece goes first: both may not fit.
            *held = None;
            *held = Some(Tensor::zeros(count, dtype, device)?);
            held.as_ref()
        };
        let tensor = tensor.expect("it was there or was made above");
        with(&tensor.narrow(0, 0, count)?)
    }
}

/// A size that a kernel counts in 32 bits.
fn size(value: usize) -> Result<Argument<'static>> {
    match u32::try_from(value) {
        Ok(value) => Ok(Argument::U32(value)),
        Err(_) => bail!("a size of {value} is more than the kernels count"),
    }
}

/// Refuses a shape or format that a kernel would misread.
fn expect(what: &str, tensor: &Tensor, shape: &[usize], dtype: DType) -> Result<()> {
    if tensor.dims() != shape || tensor.dtype() != dtype {
        bail!(
            "{what}: expected {dtype:?} of shape {shape:?}, found {:?} of {:?}",
            tensor.dtype(),
            tensor.dims()
        );
    }
    Ok(())
}
