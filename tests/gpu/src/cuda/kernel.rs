//! Whether a kernel can be given as source text, compiled at run time and launched on candle's storage.

use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::cuda_backend::cudarc::driver::{LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops;
use serde_json::json;

use super::clock::Clock;
use super::fused_rms_norm::FusedRmsNorm;
use super::{PEAK_BYTES, normal_bf16};
use crate::parity::error_of_max;
use crate::report::Report;

const ROWS: usize = 8192;
const COLUMNS: usize = 4096;
const EPSILON: f32 = 1e-5;

/// Compile time, parity and bandwidth of a fused RMSNorm; whether Hopper's own instructions work.
pub fn run(device: &Device, report: &mut Report) -> Result<()> {
    let start = Instant::now();
    let fused = FusedRmsNorm::compile(COLUMNS, EPSILON)?;
    report.measured(
        "NVRTC compiles the RMSNorm",
        start.elapsed().as_secs_f64() * 1e3,
        "ms",
        json!({}),
    );
    let weight = normal_bf16(device, 1, COLUMNS)?.squeeze(0)?;
    let x = normal_bf16(device, ROWS, COLUMNS)?;
    let start = Instant::now();
    let result = x.apply_op2_no_bwd(&weight, &fused)?;
    device.synchronize()?;
    report.measured(
        "first launch, PTX loaded",
        start.elapsed().as_secs_f64() * 1e3,
        "ms",
        json!({}),
    );

    let reference = composed(
        &x.to_device(&Device::Cpu)?,
        &weight.to_device(&Device::Cpu)?,
    )?;
    report.bounded(
        "own RMSNorm, bf16, against f64",
        error_of_max(&result, &reference)?,
        4e-3,
    );
    let twin = ops::rms_norm(&x, &weight, EPSILON)?;
    report.bounded(
        "candle's fused RMSNorm, bf16, against f64",
        error_of_max(&twin, &reference)?,
        8e-3,
    );
    let slow = ops::rms_norm_slow(&x, &weight, EPSILON)?;
    report.bounded(
        "candle's composed RMSNorm, bf16, against f64",
        error_of_max(&slow, &reference)?,
        8e-3,
    );

    let clock = Clock::new(device)?;
    let mut inputs = vec![x];
    for _ in 0..3 {
        inputs.push(normal_bf16(device, ROWS, COLUMNS)?);
    }
    let bytes = (2 * ROWS * COLUMNS * 2) as f64;
    let mut turn = 0;
    let seconds = clock.seconds(|| {
        turn = (turn + 1) % inputs.len();
        inputs[turn].apply_op2_no_bwd(&weight, &fused)?;
        Ok(())
    })?;
    let details = json!({ "of_peak": bytes / seconds / PEAK_BYTES, "seconds": seconds });
    report.measured("own RMSNorm", bytes / seconds / 1e9, "GB/s", details);
    hopper(device, report)
}

fn composed(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (x, weight) = (x.to_dtype(DType::F64)?, weight.to_dtype(DType::F64)?);
    let root = x
        .sqr()?
        .mean_keepdim(D::Minus1)?
        .affine(1.0, f64::from(EPSILON))?
        .sqrt()?;
    Ok(x.broadcast_div(&root)?.broadcast_mul(&weight)?)
}

/// wgmma is in compute capability 9.0a only, and NVRTC must be asked for that.
fn hopper(device: &Device, report: &mut Report) -> Result<()> {
    let options = CompileOptions {
        arch: Some("compute_90a"),
        ..Default::default()
    };
    let ptx = compile_ptx_with_opts(include_str!("hopper_probe.cu"), options)
        .context("NVRTC did not compile for compute_90a")?;
    let cuda = device.as_cuda_device()?;
    let function = cuda.get_or_load_custom_func("hopper_probe", "hopper_probe", &ptx.to_src())?;
    let seen = cuda.alloc_zeros::<f32>(128)?;
    let mut arguments = function.builder();
    arguments.arg(&seen);
    let launch = LaunchConfig {
        grid_dim: (1, 1, 1),
        block_dim: (128, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: one warpgroup of 128 threads, each writing its own of the 128 elements.
    unsafe { arguments.launch(launch) }?;
    let seen = cuda.clone_dtoh(&seen)?;
    let expected: Vec<f32> = (1..=128).map(|i| i as f32).collect();
    let text = if seen == expected {
        "compiled, loaded and ran"
    } else {
        "ran, and wrote wrong numbers"
    };
    report.noted("a kernel with wgmma for compute_90a", text);
    Ok(())
}
