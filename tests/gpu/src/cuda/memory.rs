//! candle's memory-bound operations: bytes read and written once, over the time taken.

use anyhow::Result;
use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops;
use serde_json::json;

use super::clock::Clock;
use super::{PEAK_BYTES, normal_bf16};
use crate::report::Report;

const ROWS: usize = 8192;
const COLUMNS: usize = 4096;
/// Inputs taken in turn: one pair alone would stay in the card's 50 MB cache in part.
const SETS: usize = 4;

/// How often an operation must pass over a `[ROWS, COLUMNS]` bf16 tensor at least.
struct Passes {
    reads: f64,
    writes: f64,
}

/// One row for each operation.
pub fn run(device: &Device, report: &mut Report) -> Result<()> {
    let clock = Clock::new(device)?;
    let mut sets = Vec::new();
    for _ in 0..SETS {
        sets.push((
            normal_bf16(device, ROWS, COLUMNS)?,
            normal_bf16(device, ROWS, COLUMNS)?,
        ));
    }
    let weight = normal_bf16(device, 1, COLUMNS)?.squeeze(0)?;
    let mut time =
        |name: &str,
         passes: Passes,
         call: &dyn Fn(&Tensor, &Tensor) -> candle_core::Result<Tensor>| {
            let mut turn = 0;
            let seconds = clock.seconds(|| {
                turn = (turn + 1) % SETS;
                call(&sets[turn].0, &sets[turn].1)?;
                Ok(())
            })?;
            let bytes = (passes.reads + passes.writes) * (ROWS * COLUMNS * 2) as f64;
            let details = json!({ "of_peak": bytes / seconds / PEAK_BYTES, "seconds": seconds });
            report.measured(name, bytes / seconds / 1e9, "GB/s", details);
            anyhow::Ok(())
        };
    let one = || Passes {
        reads: 1.0,
        writes: 1.0,
    };
    let two = || Passes {
        reads: 2.0,
        writes: 1.0,
    };
    time("copy", one(), &|a, _| a.copy())?;
    time("add", two(), &|a, b| a + b)?;
    time("mul", two(), &|a, b| a * b)?;
    time("affine (scale and shift)", one(), &|a, _| {
        a.affine(0.5, 1.0)
    })?;
    time("silu", one(), &|a, _| ops::silu(a))?;
    time(
        "SwiGLU as silu, mul (least passes counted)",
        two(),
        &|a, b| ops::silu(a)? * b,
    )?;
    time(
        "cast to f32",
        Passes {
            reads: 1.0,
            writes: 2.0,
        },
        &|a, _| a.to_dtype(DType::F32),
    )?;
    time(
        "sum of the last dimension",
        Passes {
            reads: 1.0,
            writes: 0.0,
        },
        &|a, _| a.sum(D::Minus1),
    )?;
    time("softmax, fused", one(), &|a, _| ops::softmax_last_dim(a))?;
    time(
        "softmax, composed (least passes counted)",
        one(),
        &|a, _| ops::softmax(a, D::Minus1),
    )?;
    time("RMSNorm, fused", one(), &|a, _| {
        ops::rms_norm(a, &weight, 1e-5)
    })?;
    time(
        "RMSNorm, composed (least passes counted)",
        one(),
        &|a, _| ops::rms_norm_slow(a, &weight, 1e-5),
    )?;
    time("transposed copy", one(), &|a, _| a.t()?.contiguous())?;
    Ok(())
}
