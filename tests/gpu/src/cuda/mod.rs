//! The sections that need a card.

mod clock;
mod fused_rms_norm;
mod kernel;
mod launch;
mod lt;
mod matmul;
mod memory;

use anyhow::{Result, anyhow};
use candle_core::{Device, Tensor};

use crate::Section;

/// NVIDIA's figure for dense bf16 on the H100 SXM, in operations a second.
pub const PEAK_BF16: f64 = 989e12;
/// NVIDIA's figure for the memory of the H100 SXM, in bytes a second.
pub const PEAK_BYTES: f64 = 3.35e12;

/// The first card.
pub fn device() -> Result<Device> {
    Device::new_cuda(0).map_err(|error| {
        // candle adds a backtrace, which helps nobody who only lacks a card.
        let error = error.to_string();
        let first = error.lines().next().unwrap_or_default();
        anyhow!("no CUDA card answers: {first}; without one, build without the feature `cuda`")
    })
}

/// In the order in which they run.
pub fn sections() -> Vec<(&'static str, Section)> {
    vec![
        ("kernel", kernel::run as Section),
        ("matmul", matmul::run),
        ("memory", memory::run),
        ("launch", launch::run),
    ]
}

/// Standard normal numbers made on the card, rounded to bf16.
fn normal_bf16(device: &Device, rows: usize, columns: usize) -> Result<Tensor> {
    Ok(Tensor::randn(0_f32, 1.0, (rows, columns), device)?.to_dtype(candle_core::DType::BF16)?)
}
