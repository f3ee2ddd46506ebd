//! Kernels, compiled for the card that is there and launched on candle's tensors.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use candle_core::cuda::cudarc::driver::{
    CudaContext, CudaFunction, CudaStream, DevicePtr, result, sys,
};
use candle_core::cuda::{CudaDType, CudaStorage, WrapErr};
use candle_core::{DType, Device, Error, Result, Storage, Tensor, bail};
use half::bf16;

use super::capability;
use super::compile::compile;
use super::products::Products;
use crate::trainer::operations::Output;
use crate::trainer::operations::gpu::{self, Argument, KERNELS, Launcher, MOST_SHARED_BYTES};

/// Launches kernels on one card, one after another.
pub(super) struct CudaLauncher {
    card: String,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    kernels: HashMap<&'static str, CudaFunction>,
    products: Products,
}

impl CudaLauncher {
    /// Compiles all kernels for the card.
    pub(super) fn new(device: &Device) -> Result<Self> {
        let device = device.as_cuda_device()?;
        let stream = device.cuda_stream();
        let context = Arc::clone(stream.context());
        let (major, minor) = capability(&context)?;
        let card = context.name().w()?;
        let code = compile(&gpu::source(), major, minor).map_err(|error| {
            Error::Msg(format!(
                "NVRTC cannot compile the kernels for {card}: {error}"
            ))
        })?;
        let module = context.load_module(code).w()?;
        let kernels = KERNELS
            .into_iter()
            .map(|name| {
                let kernel = module.load_function(name).w()?;
                // By itself a kernel may have 48 KiB.
                let attribute =
                    sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                kernel
                    .set_attribute(attribute, MOST_SHARED_BYTES as i32)
                    .w()?;
                Ok((name, kernel))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            products: Products::new(device)?,
            card: format!("{card}, compute capability {major}.{minor}"),
            context,
            stream,
            kernels,
        })
    }
}

impl Launcher for CudaLauncher {
    fn instructions(&self) -> String {
        self.card.clone()
    }

    fn launch(
        &self,
        kernel: &'static str,
        grid: [u32; 3],
        block: u32,
        shared_bytes: u32,
        arguments: &[Argument<'_>],
    ) -> Result<()> {
        let Some(function) = self.kernels.get(kernel) else {
            bail!("there is no kernel {kernel}");
        };
        self.context.bind_to_thread().w()?;
        // CUDA copies as many bytes of each as the kernel's parameter has.
        let mut values = arguments
            .iter()
            .map(|argument| {
                Ok(match argument {
                    Argument::Tensor(tensor) => address(tensor, &self.stream)?,
                    Argument::Absent => 0,
                    Argument::U32(value) => u64::from(*value),
                    Argument::U64(value) => *value,
                    Argument::F32(value) => u64::from(value.to_bits()),
                    Argument::F64(value) => value.to_bits(),
                })
            })
            .collect::<Result<Vec<u64>>>()?;
        let mut places: Vec<*mut c_void> =
            values.iter_mut().map(|v| (&raw mut *v).cast()).collect();
        // SAFETY: the arguments are those of the kernel in number, order and type, which the tests hold
        // by calling the same source; the tensors are borrowed until the launch is queued, and their
        // memory is freed in the order of the same stream.
        unsafe {
            result::launch_kernel(
                function.cu_function(),
                grid.into(),
                (block, 1, 1),
                shared_bytes,
                self.stream.cu_stream(),
                &mut places,
            )
        }
        .map_err(|error| {
            Error::Msg(format!(
                "the kernel {kernel} cannot be launched on {grid:?} blocks of {block} threads with {shared_bytes} bytes of shared memory: {error}"
            ))
        })
    }

    fn matmul(&self, out: Output<'_>, a: &Tensor, b: &Tensor) -> Result<()> {
        self.context.bind_to_thread().w()?;
        self.products.multiply(&self.stream, &out, a, b)
    }
}

/// Where a tensor's first element lies in the card's memory.
pub(super) fn address(tensor: &Tensor, stream: &Arc<CudaStream>) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        bail!("a kernel of the card was given a tensor of another device");
    };
    let base = match tensor.dtype() {
        DType::F32 => base::<f32>(storage, stream)?,
        DType::F64 => base::<f64>(storage, stream)?,
        DType::BF16 => base::<bf16>(storage, stream)?,
        DType::I16 => base::<i16>(storage, stream)?,
        DType::U32 => base::<u32>(storage, stream)?,
        other => bail!("no kernel takes numbers of {other:?}"),
    };
    Ok(base + (layout.start_offset() * tensor.dtype().size_in_bytes()) as u64)
}

fn base<T: CudaDType>(storage: &CudaStorage, stream: &Arc<CudaStream>) -> Result<u64> {
    let (address, _in_use) = storage.as_cuda_slice::<T>()?.device_ptr(stream);
    Ok(address)
}
