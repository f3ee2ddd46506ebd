//! Every operation of a training step: against its plain twin, and against the card's peak.
//!
//! The twin is [`ComposedOperations`] on the processor in f32. Both begin with the same numbers, rounded
//! to bf16, so that an error says what the operation itself loses. An error is the largest difference
//! over the largest value of the twin's result. Results that the operation adds to hold random numbers
//! before.

mod adamw;
mod cases;
mod inputs;

use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use pacos_engine::trainer::config::TrainDtype;
use pacos_engine::trainer::operations::{self, ComposedOperations, Operations};
use pacos_engine::trainer::{ComputeDevice, DeviceKind};
use serde_json::json;

use crate::peak::Peak;
use crate::report::Report;
use cases::{CASES, Case};
use inputs::Inputs;

/// Sizes of one layer.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// For the report.
    name: &'static str,
    /// Tokens of the micro-batch; odd, because nothing else finds what is wrong at the edges.
    tokens: usize,
    hidden: usize,
    inner: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocabulary: usize,
    label_rows: usize,
}

const fn sizes(
    name: &'static str,
    [tokens, hidden, inner]: [usize; 3],
    [heads, kv_heads, head_dim]: [usize; 3],
    [vocabulary, label_rows]: [usize; 2],
) -> Sizes {
    Sizes {
        name,
        tokens,
        hidden,
        inner,
        heads,
        kv_heads,
        head_dim,
        vocabulary,
        label_rows,
    }
}

/// LLaMA 7B's, SmolLM2-135M's (three query heads to a key head), TinyLlama's (eight).
const ON_A_CARD: [Sizes; 3] = [
    sizes("7b", [517, 4096, 11008], [32, 32, 128], [32000, 131]),
    sizes("135m", [1031, 576, 1536], [9, 3, 64], [49152, 131]),
    sizes("1b", [389, 2048, 5632], [32, 4, 64], [32000, 67]),
];
const ON_THE_PROCESSOR: [Sizes; 1] = [sizes("small", [149, 96, 264], [6, 2, 16], [517, 31])];

/// For speed alone: a micro-batch of LLaMA 7B as the trainer has them.
const FOR_SPEED: Sizes = sizes("7b", [8192, 4096, 11008], [32, 32, 128], [32000, 2048]);

/// Least time over which an operation is repeated to be timed.
const TIMED_SECONDS: f64 = 0.03;

/// Adds one row for each result of each operation, format and size, then one for each speed.
pub fn run(device: &ComputeDevice, report: &mut Report) -> Result<()> {
    let on_a_card = device.kind == DeviceKind::Cuda;
    let (all_sizes, formats): (&[Sizes], &[DType]) = match on_a_card {
        true => (&ON_A_CARD, &[DType::F32, DType::BF16]),
        false => (&ON_THE_PROCESSOR, &[DType::F32]),
    };
    let began = Instant::now();
    let operations = operations::of(device, TrainDtype::F32)?;
    let details =
        json!({ "kernels": operations.name(), "instructions": operations.instructions() });
    let seconds = began.elapsed().as_secs_f64();
    report.measured("kernels ready after", seconds, "s", details);
    for sizes in all_sizes {
        for case in CASES {
            check(&*operations, &device.handle, formats, case, *sizes, report)
                .with_context(|| format!("{}, {}", case.name, sizes.name))?;
        }
    }
    adamw::check(&*operations, device, report)?;
    if !on_a_card {
        // Nothing computes in bf16 here but the twin itself: what the roundings alone cost.
        for case in CASES {
            let bf16 = &[DType::BF16];
            check(
                &ComposedOperations,
                &Device::Cpu,
                bf16,
                case,
                all_sizes[0],
                report,
            )
            .with_context(|| format!("{}, rounded", case.name))?;
        }
    }
    if on_a_card {
        let peak = Peak::of(&device.name);
        for case in CASES {
            time(&*operations, &device.handle, case, peak, report).context(case.name)?;
        }
        adamw::time(&*operations, device, peak, report)?;
    }
    Ok(())
}

fn check(
    operations: &dyn Operations,
    device: &Device,
    formats: &[DType],
    case: &Case,
    sizes: Sizes,
    report: &mut Report,
) -> Result<()> {
    let mut kept = Vec::new();
    let mut inputs = Inputs::kept(&mut kept, &Device::Cpu, DType::F32);
    let twin = (case.prepare)(&mut inputs, &ComposedOperations, sizes)?;
    (twin.call)(&ComposedOperations)?;
    for &format in formats {
        let mut inputs = Inputs::kept(&mut kept, device, format);
        let own = (case.prepare)(&mut inputs, operations, sizes)?;
        (own.call)(operations)?;
        for (own, twin) in own.written.iter().zip(&twin.written) {
            let error = error_of_max(&own.tensor, &twin.tensor)?;
            let name = format!(
                "{}: {}, {}, {}",
                case.name,
                own.name,
                sizes.name,
                format.as_str()
            );
            let bound = match format {
                DType::F32 => own.bounds.f32,
                _ => own.bounds.bf16,
            };
            report.bounded(&name, error, bound, "of max");
        }
    }
    Ok(())
}

fn time(
    operations: &dyn Operations,
    device: &Device,
    case: &Case,
    peak: Option<Peak>,
    report: &mut Report,
) -> Result<()> {
    let mut inputs = Inputs::made(device, DType::BF16);
    let prepared = (case.prepare)(&mut inputs, operations, FOR_SPEED)?;
    let seconds = seconds_of(device, || Ok((prepared.call)(operations)?))?;
    prepared.work.report(case.name, seconds, peak, report);
    Ok(())
}

/// What an operation must do at least.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    /// Bytes read and written once.
    Bytes(f64),
    /// Multiplications and additions.
    Operations(f64),
    /// Too little to be worth a figure.
    Little,
}

impl Work {
    fn report(self, name: &str, seconds: f64, peak: Option<Peak>, report: &mut Report) {
        let (rate, unit, size, most) = match self {
            Self::Bytes(bytes) => (bytes / seconds, "GB/s", 1e9, peak.map(|peak| peak.bytes)),
            Self::Operations(count) => (
                count / seconds,
                "TFLOP/s",
                1e12,
                peak.map(|peak| peak.operations),
            ),
            Self::Little => return,
        };
        let details = json!({
            "of_peak": most.map(|most| rate / most),
            "seconds": seconds,
            "against": format!("{:.1} us", 1e6 * seconds),
        });
        report.measured(&format!("{name}, speed"), rate / size, unit, details);
    }
}

/// Seconds of one call among many: warmed up, the least of five rows of calls. The host waits for the
/// device before and after a row.
fn seconds_of(device: &Device, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut row = |calls: usize| -> Result<f64> {
        device.synchronize()?;
        let began = Instant::now();
        for _ in 0..calls {
            call()?;
        }
        device.synchronize()?;
        Ok(began.elapsed().as_secs_f64() / calls as f64)
    };
    row(2)?;
    let calls = ((TIMED_SECONDS / row(2)?).ceil() as usize).clamp(3, 1000);
    let mut times = Vec::new();
    for _ in 0..5 {
        times.push(row(calls)?);
    }
    Ok(times.into_iter().fold(f64::INFINITY, f64::min))
}

/// The largest difference over the largest value of the second.
fn error_of_max(result: &Tensor, reference: &Tensor) -> Result<f64> {
    if result.dims() != reference.dims() {
        bail!(
            "the result has shape {:?}, the twin's {:?}",
            result.dims(),
            reference.dims()
        );
    }
    let numbers = |tensor: &Tensor| -> Result<Vec<f64>> {
        let on_the_host = tensor.to_device(&Device::Cpu)?.flatten_all()?;
        Ok(on_the_host.to_dtype(DType::F64)?.to_vec1()?)
    };
    let (result, reference) = (numbers(result)?, numbers(reference)?);
    let largest = reference.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
    let mut worst = 0.0_f64;
    for (a, b) in result.iter().zip(&reference) {
        let difference = (a - b).abs();
        // `max` would pass over it.
        if difference.is_nan() {
            return Ok(f64::NAN);
        }
        worst = worst.max(difference);
    }
    // Where all should be zero, nothing else will do.
    Ok(if worst == 0.0 { 0.0 } else { worst / largest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_seen_and_a_nan_is_none_that_passes() {
        let error = |result: [f32; 3], reference: [f32; 3]| {
            let [result, reference] =
                [result, reference].map(|values| Tensor::new(&values, &Device::Cpu).unwrap());
            error_of_max(&result, &reference).unwrap()
        };
        assert_eq!(error([1.0, 2.0, -4.0], [1.0, 2.0, -4.0]), 0.0);
        assert_eq!(error([1.0, 2.5, -4.0], [1.0, 2.0, -4.0]), 0.125);
        assert!(error([1.0, f32::NAN, -4.0], [1.0, 2.0, -4.0]).is_nan());
        assert_eq!(error([0.0; 3], [0.0; 3]), 0.0);
        assert_eq!(error([0.0, 0.1, 0.0], [0.0; 3]), f64::INFINITY);
    }
}
