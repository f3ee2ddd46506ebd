//! The operations on an NVIDIA card: fused kernels compiled for it by NVRTC, products by cuBLASLt.

mod compile;
mod launcher;
mod products;

use candle_core::cuda::cudarc::driver::{CudaContext, result, sys};
use candle_core::cuda::{CudaDevice, WrapErr};
use candle_core::{Device, Result, bail};

use super::Operations;
use super::gpu::GpuOperations;
use crate::trainer::device::{ComputeDevice, DeviceKind};
use launcher::CudaLauncher;

/// The card with a number, as this process sees them.
///
/// # Errors
/// What the driver says, if there is no such card.
pub fn open(index: usize) -> Result<ComputeDevice> {
    // A stream of its own: candle's default is another one for every thread.
    let handle = Device::new_cuda_with_stream(index)?;
    let device = handle.as_cuda_device()?;
    // SAFETY: everything runs on the one stream made above, so that nothing has to be waited for.
    unsafe { device.disable_event_tracking() };
    let context = context(device);
    let name = context.name().w()?;
    let (major, minor) = capability(&context)?;
    if major < 8 {
        bail!(
            "{name} has compute capability {major}.{minor}, and the kernels need 8.0 (Ampere) or later"
        );
    }
    keep_memory(&context)?;
    let (free, _) = context.mem_get_info().w()?;
    Ok(ComputeDevice {
        kind: DeviceKind::Cuda,
        name,
        caution: None,
        available_bytes: Some(free as u64),
        handle,
    })
}

/// The operations on an opened card.
///
/// # Errors
/// If the kernels cannot be compiled for it.
pub fn operations(device: &Device) -> Result<Box<dyn Operations>> {
    Ok(Box::new(GpuOperations::new(CudaLauncher::new(device)?)))
}

/// Major and minor number of a card's compute capability.
fn capability(context: &CudaContext) -> Result<(i32, i32)> {
    use sys::CUdevice_attribute as Attribute;
    let major = Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR;
    let minor = Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR;
    Ok((context.attribute(major).w()?, context.attribute(minor).w()?))
}

fn context(device: &CudaDevice) -> std::sync::Arc<CudaContext> {
    std::sync::Arc::clone(device.cuda_stream().context())
}

/// Has the driver's memory pool keep what is freed. By itself it hands everything back whenever the
/// host waits for the card, and gets it anew afterwards.
fn keep_memory(context: &CudaContext) -> Result<()> {
    let mut all = u64::MAX;
    // SAFETY: the device is the context's; the attribute is of 8 bytes, which are read in the call.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device()).w()?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        result::mem_pool::set_attribute(pool, attribute, (&raw mut all).cast()).w()
    }
}
