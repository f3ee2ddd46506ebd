//! Whole optimizer steps: against the engine on the processor in f32, and against themselves.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use pacos_engine::llama::{LlamaConfig, Weights};
use pacos_engine::trainer::collective::Alone;
use pacos_engine::trainer::config::{DtypeSetting, TrainDtype};
use pacos_engine::trainer::engine::Recompute;
use pacos_engine::trainer::operations::{self, ComposedOperations, CpuOperations, Operations};
use pacos_engine::trainer::parameters::NumberFormat;
use pacos_engine::trainer::{
    ComputeDevice, DeviceKind, Row, Split, StepRecord, TrainConfig, TrainError, TrainJob,
    TrainObserver, TrainOutcome, train,
};
use serde_json::{Value, json};

use crate::report::Report;
use crate::rows::alpaca_like;
use crate::run::{Run, Setup, Step};
use crate::shapes;

const STEPS: usize = 20;
/// Rows of a step: few, because the processor computes them too.
const BATCH: usize = 8;
/// Steps of the run that is stopped in its middle.
const RESUMED_STEPS: u64 = 6;

/// Bounds in one number format.
struct Bounds {
    /// Of the difference of two losses, in nats.
    loss: f64,
    /// Of the difference of two norms, over the norm.
    norm: f64,
}

const IN_F32: Bounds = Bounds {
    loss: 1e-3,
    norm: 1e-3,
};
/// A loss near 10 of activations with 8 bits, and 20 steps whose differences add up.
const IN_BF16: Bounds = Bounds {
    loss: 5e-2,
    norm: 5e-2,
};

/// The 135M shape on a card; without one, a tiny shape, the processor's kernels against candle's plain
/// operations.
pub fn run(device: &ComputeDevice, folder: &Path, report: &mut Report) -> Result<()> {
    let on_a_card = device.kind == DeviceKind::Cuda;
    let name = if on_a_card { "135m" } else { "tiny" };
    let Some(model) = shapes::named(name) else {
        bail!("there is no shape {name}");
    };
    let rows = alpaca_like(7, STEPS * BATCH, model.vocab_size);
    let weights = Weights::random(&model, 11);
    let processor = ComputeDevice::cpu();
    let reference: Box<dyn Operations> = match on_a_card {
        true => Box::new(CpuOperations::new(TrainDtype::F32)),
        false => Box::new(ComposedOperations),
    };
    let began = Instant::now();
    let job = |device, dtype, recompute| Steps {
        model: &model,
        device,
        rows: &rows,
        weights: &weights,
        dtype,
        recompute,
    };
    let (expected, _) = job(&processor, TrainDtype::F32, Recompute::Nothing).make(reference)?;
    let seconds = began.elapsed().as_secs_f64();
    let tokens: usize = expected.iter().map(|step| step.tokens).sum();
    let details = json!({ "losses": losses(&expected), "against": format!("{tokens} tokens") });
    report.measured(
        &format!("{name}, {STEPS} steps of the reference"),
        seconds,
        "s",
        details,
    );
    let (first, last) = (expected[0].loss, expected[STEPS - 1].loss);
    ensure!(
        last < first - 0.1,
        "the reference learns nothing: its loss is {first} at first and {last} at last"
    );

    for (dtype, bounds) in [(TrainDtype::F32, IN_F32), (TrainDtype::Bf16, IN_BF16)] {
        let what = format!("{name}, {}", format!("{dtype:?}").to_lowercase());
        let steps = |recompute| -> Result<_> {
            job(device, dtype, recompute).make(operations::of(device, dtype)?)
        };
        let (own, weights) = steps(Recompute::Nothing)?;
        compare(&what, &own, &expected, &bounds, report);
        for (again, recompute) in [
            ("made again", Recompute::Nothing),
            ("layers computed again", Recompute::Layers),
        ] {
            let (repeated, same_weights) = steps(recompute)?;
            let different = different(&own, &repeated, &weights, &same_weights);
            report.bounded(
                &format!("{what}: {STEPS} steps {again}"),
                different as f64,
                0.0,
                "numbers differ",
            );
        }
        drop(weights);
        resume(&what, dtype, &model, device, &rows, folder, report)?;
    }
    Ok(())
}

fn losses(steps: &[Step]) -> Vec<f64> {
    steps.iter().map(|step| step.loss).collect()
}

/// Steps from given weights over given rows.
struct Steps<'a> {
    model: &'a LlamaConfig,
    device: &'a ComputeDevice,
    rows: &'a [Row],
    weights: &'a Weights,
    dtype: TrainDtype,
    recompute: Recompute,
}

impl Steps<'_> {
    /// Every step, and the weights after the last.
    fn make(&self, operations: Box<dyn Operations>) -> Result<(Vec<Step>, Vec<f32>)> {
        let config = config(self.model, self.dtype, STEPS as u64);
        let setup = Setup {
            model: self.model,
            config: &config,
            device: self.device,
            split: split(self.device, self.dtype, self.recompute),
            rows: self.rows,
        };
        let mut run = Run::new(setup, operations, Some(self.weights.clone()))?;
        let members: Vec<usize> = (0..self.rows.len()).collect();
        let steps = members.chunks(BATCH).map(|members| run.step(members));
        let steps = steps.collect::<Result<_>>()?;
        Ok((steps, run.weights()?))
    }
}

/// Large enough a learning rate for 20 steps to change the loss: a logit by about one.
fn config(model: &LlamaConfig, dtype: TrainDtype, steps: u64) -> TrainConfig {
    TrainConfig {
        dtype: DtypeSetting::from(dtype),
        learning_rate: 0.06 / model.hidden_size as f64,
        warmup_ratio: 0.0,
        batch_size: BATCH,
        max_steps: Some(steps),
        checkpoint_every: steps,
        max_seq_len: shapes::LONGEST,
        ..TrainConfig::default()
    }
}

/// Two micro-batches or so; in bf16 moments as a 7B model's on one card.
fn split(device: &ComputeDevice, dtype: TrainDtype, recompute: Recompute) -> Split {
    Split {
        micro_batch_tokens: shapes::LONGEST,
        recompute,
        moments: match (device.kind, dtype) {
            (DeviceKind::Cuda, TrainDtype::Bf16) => NumberFormat::Bf16,
            (DeviceKind::Cuda, TrainDtype::F32) | (DeviceKind::Cpu, _) => NumberFormat::F32,
        },
    }
}

fn compare(what: &str, own: &[Step], expected: &[Step], bounds: &Bounds, report: &mut Report) {
    let worst = |difference: fn(&Step, &Step) -> f64| {
        let each = own.iter().zip(expected).map(|(a, b)| difference(a, b));
        // A NaN is worse than all else.
        each.fold(0.0_f64, |most, x| if x <= most { most } else { x })
    };
    let loss = worst(|a, b| (a.loss - b.loss).abs());
    let norm = worst(|a, b| ((a.grad_norm - b.grad_norm) / b.grad_norm).abs());
    report.bounded(
        &format!("{what}: largest difference of the losses"),
        loss,
        bounds.loss,
        "nats",
    );
    report.bounded(
        &format!("{what}: largest difference of the norms"),
        norm,
        bounds.norm,
        "of the norm",
    );
    report.noted(
        &format!("{what}: loss at first and at last"),
        &format!(
            "{:.4} and {:.4}; the reference's {:.4} and {:.4}",
            own[0].loss,
            own[own.len() - 1].loss,
            expected[0].loss,
            expected[expected.len() - 1].loss
        ),
    );
}

/// Losses, norms and weights whose bits are not the same.
fn different(a: &[Step], b: &[Step], weights: &[f32], others: &[f32]) -> usize {
    let numbers = |step: &Step| [step.loss.to_bits(), step.grad_norm.to_bits()];
    let steps = a.iter().zip(b).filter(|(a, b)| numbers(a) != numbers(b));
    let weights = weights
        .iter()
        .zip(others)
        .filter(|(a, b)| a.to_bits() != b.to_bits());
    steps.count() + weights.count()
}

/// The trainer itself: a run in one go against one that is stopped after half its steps and goes on from
/// its checkpoint.
fn resume(
    what: &str,
    dtype: TrainDtype,
    model: &LlamaConfig,
    device: &ComputeDevice,
    rows: &[Row],
    folder: &Path,
    report: &mut Report,
) -> Result<()> {
    let config = config(model, dtype, RESUMED_STEPS);
    let cancel = AtomicBool::new(false);
    let sitting = |dir: &Path, stop_after: Option<u64>| {
        cancel.store(false, Ordering::Relaxed);
        let job = TrainJob {
            model,
            config: &config,
            rows,
            held_out: &[],
            dir,
            cancel: &cancel,
            device,
            split: split(device, dtype, Recompute::Elementwise),
            threads: 0,
            ranks: &Alone,
        };
        let mut stopping = Stopping {
            cancel: &cancel,
            after: stop_after,
        };
        train(&job, Weights::random(model, 11), &mut stopping)
    };
    let began = Instant::now();
    let dirs = ["in_one_go", "stopped"].map(|name| folder.join(name));
    for dir in &dirs {
        // What an earlier, broken run of this check left.
        if dir.exists() {
            std::fs::remove_dir_all(dir)?;
        }
        std::fs::create_dir_all(dir)?;
    }
    let whole = sitting(&dirs[0], None)?;
    match sitting(&dirs[1], Some(RESUMED_STEPS / 2)) {
        Err(TrainError::Cancelled { step, .. }) if step == RESUMED_STEPS / 2 => {}
        Err(error) => return Err(error.into()),
        Ok(_) => bail!("the run did not stop"),
    }
    let resumed = sitting(&dirs[1], None)?;
    ensure!(
        resumed.resumed_from == RESUMED_STEPS / 2,
        "the run went on from step {}",
        resumed.resumed_from
    );
    for dir in &dirs {
        std::fs::remove_dir_all(dir)?;
    }
    let trained = |outcome: &TrainOutcome| {
        let trained = outcome.student.trained();
        trained.read(0..trained.count())
    };
    let numbers = |records: &[StepRecord]| -> Vec<[u64; 2]> {
        let each = records.iter();
        each.map(|r| [r.loss.to_bits(), r.grad_norm.to_bits()])
            .collect()
    };
    let (a, b) = (trained(&whole)?, trained(&resumed)?);
    let weights = a
        .iter()
        .zip(&b)
        .filter(|(a, b)| a.to_bits() != b.to_bits())
        .count();
    let (a, b) = (numbers(&whole.history), numbers(&resumed.history));
    ensure!(
        a.len() == b.len(),
        "{} steps and {} steps",
        a.len(),
        b.len()
    );
    let steps = a.iter().zip(&b).filter(|(a, b)| a != b).count();
    report.bounded(
        &format!("{what}: {RESUMED_STEPS} steps, stopped and resumed in their middle"),
        (weights + steps) as f64,
        0.0,
        "numbers differ",
    );
    let seconds = began.elapsed().as_secs_f64();
    report.measured(
        &format!("{what}: that took, with its checkpoints"),
        seconds,
        "s",
        Value::Null,
    );
    Ok(())
}

/// Stops a run after a step.
struct Stopping<'a> {
    cancel: &'a AtomicBool,
    after: Option<u64>,
}

impl TrainObserver for Stopping<'_> {
    fn on_step(&mut self, record: &StepRecord) {
        if Some(record.step) == self.after {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }
}
