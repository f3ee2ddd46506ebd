//! The first card: opened by the engine, its memory asked of the driver.

use anyhow::Result;
use candle_core::cuda::cudarc::driver::{result, sys};
use pacos_engine::trainer::{ComputeDevice, DeviceSetting};

/// The first card.
pub fn open() -> Result<ComputeDevice> {
    Ok(ComputeDevice::find(DeviceSetting::Cuda(Some(0)), 0)?)
}

/// What [`peak_bytes`] counts.
pub const PEAK: &str = "most memory in tensors at once";

/// For the report.
pub fn named(device: &ComputeDevice) -> String {
    device.name.clone()
}

/// Bytes of the card that cannot be had now.
pub fn used_bytes(device: &ComputeDevice) -> Result<Option<u64>> {
    device.handle.synchronize()?;
    let stream = device.handle.as_cuda_device()?.cuda_stream();
    let (free, total) = stream.context().mem_get_info()?;
    Ok(Some((total - free) as u64))
}

/// The most bytes that tensors have taken at once since the start or the last [`forget_peak`]; all of
/// them come from the driver's memory pool.
pub fn peak_bytes(device: &ComputeDevice) -> Result<Option<u64>> {
    let mut bytes = 0_u64;
    on_pool(device, |pool, high| {
        // SAFETY: the attribute is an integer of 8 bytes, written in the call.
        unsafe { result::mem_pool::get_attribute(pool, high, (&raw mut bytes).cast()) }
    })?;
    Ok(Some(bytes))
}

/// Sets the peak back to what is taken now, and gives what is free in the pool back to the driver.
pub fn forget_peak(device: &ComputeDevice) -> Result<()> {
    device.handle.synchronize()?;
    let mut zero = 0_u64;
    on_pool(device, |pool, high| {
        // SAFETY: nothing runs; the attribute is an integer of 8 bytes, read in the call.
        unsafe {
            sys::cuMemPoolTrimTo(pool, 0).result()?;
            result::mem_pool::set_attribute(pool, high, (&raw mut zero).cast())
        }
    })
}

fn on_pool(
    device: &ComputeDevice,
    act: impl FnOnce(
        sys::CUmemoryPool,
        sys::CUmemPool_attribute,
    ) -> std::result::Result<(), result::DriverError>,
) -> Result<()> {
    let stream = device.handle.as_cuda_device()?.cuda_stream();
    let context = stream.context();
    context.bind_to_thread()?;
    // SAFETY: the device is the context's own.
    let pool = unsafe { result::device::get_default_mem_pool(context.cu_device())? };
    let high = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    Ok(act(pool, high)?)
}
