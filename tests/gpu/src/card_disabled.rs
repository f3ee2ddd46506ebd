//! The build without CUDA: the processor is checked, at small shapes.

use anyhow::Result;
use pacos_engine::trainer::{ComputeDevice, memory};

/// The processor.
pub fn open() -> Result<ComputeDevice> {
    Ok(ComputeDevice::cpu())
}

/// What [`peak_bytes`] counts.
pub const PEAK: &str = "most memory of the process, from its start";

/// For the report.
pub fn named(device: &ComputeDevice) -> String {
    format!("{}: no card was used", device.name)
}

/// Not known of one process.
pub fn used_bytes(_device: &ComputeDevice) -> Result<Option<u64>> {
    Ok(None)
}

/// The most memory that this process has had.
pub fn peak_bytes(_device: &ComputeDevice) -> Result<Option<u64>> {
    Ok(memory::peak_bytes())
}

/// A process cannot.
pub fn forget_peak(_device: &ComputeDevice) -> Result<()> {
    Ok(())
}
