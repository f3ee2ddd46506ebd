//! The build without CUDA: the CPU is the device, and there is nothing to time.

use anyhow::Result;
use candle_core::Device;

use crate::Section;

/// The CPU.
pub fn device() -> Result<Device> {
    Ok(Device::Cpu)
}

/// None.
pub fn sections() -> Vec<(&'static str, Section)> {
    Vec::new()
}
