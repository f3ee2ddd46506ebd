//! Whole optimizer steps of a shape on rows of Alpaca's lengths: how fast they are, what memory they
//! take, and where their time goes.

use std::time::Instant;

use anyhow::{Result, bail};
use pacos_engine::trainer::config::TrainDtype;
use pacos_engine::trainer::operations;
use pacos_engine::trainer::plan::TokenLengths;
use pacos_engine::trainer::{ComputeDevice, Plan, Room, Row, TrainConfig, plan};
use serde_json::{Value, json};

use crate::card;
use crate::options::SpeedOptions;
use crate::peak::Peak;
use crate::report::Report;
use crate::rows::alpaca_like;
use crate::run::{Run, Setup, Step};
use crate::shapes;
use crate::timed::{Clock, Timed};

/// Rows of a step, as in Stanford's recipe.
const BATCH: usize = 128;
/// Steps before time is taken: products choose their algorithms then, and buffers are first touched.
const WARM_UP: usize = 3;
/// Steps of which every operation is timed.
const TAKEN_APART: usize = 2;
/// Alpaca's examples, and how often the recipe learns them.
const ALPACA: (f64, f64) = (52_002.0, 3.0);
const GIB: f64 = (1_u64 << 30) as f64;

/// Adds the speed, the memory and the parts of a step.
pub fn run(device: &ComputeDevice, options: &SpeedOptions, report: &mut Report) -> Result<()> {
    let Some(model) = shapes::named(&options.shape) else {
        bail!("there is no shape {}", options.shape);
    };
    let config = TrainConfig {
        batch_size: BATCH,
        epochs: 1,
        dtype: options.dtype,
        moments_dtype: options.moments,
        micro_batch_tokens: options.micro_batch,
        recompute: options.recompute,
        share_prefixes: options.share_prefixes,
        ..TrainConfig::default()
    };
    let dtype = config.dtype.on(device.kind);
    let all_steps = WARM_UP + options.steps + TAKEN_APART;
    let rows = alpaca_like(13, all_steps * BATCH, model.vocab_size);
    let name = named(options, dtype);
    let lengths = TokenLengths::Rows(&rows);
    let planned = plan(&model, &config, lengths, Room::from(device), None);
    note_plan(&name, &planned, report);
    if let Some(available) = device.available_bytes
        && let Err(problem) = planned.fits(available)
    {
        report.noted(&format!("{name}: left out"), &problem.to_string());
        return Ok(());
    }

    card::forget_peak(device)?;
    let before = card::used_bytes(device)?;
    let (timed, clock) = Timed::new(operations::of(device, dtype)?, &device.handle);
    let setup = Setup {
        model: &model,
        config: &config,
        device,
        split: planned.split,
        rows: &rows,
    };
    let began = Instant::now();
    let mut run = Run::new(setup, Box::new(timed), None)?;
    let members: Vec<usize> = (0..rows.len()).collect();
    let mut members = members.chunks(BATCH);
    let mut step = || {
        let members = members.next().expect("there are rows for all steps");
        run.step(members)
    };
    let first = step()?;
    let ready = began.elapsed().as_secs_f64();
    for _ in 1..WARM_UP {
        step()?;
    }
    let began = Instant::now();
    let mut steps = Vec::new();
    while steps.len() < options.steps && began.elapsed().as_secs_f64() < options.seconds {
        steps.push(step()?);
    }
    let took = began.elapsed().as_secs_f64();
    let seen = Seen {
        name: &name,
        options,
        first,
        steps: &steps,
        seconds: took,
        ready,
        matrix_parameters: shapes::matrix_parameters(&model),
        peak: Peak::of(&device.name),
    };
    seen.report(&rows, report);
    memory(&name, device, &planned, before, report)?;

    clock.run(true);
    let began = Instant::now();
    for _ in 0..TAKEN_APART {
        step()?;
    }
    clock.run(false);
    take_apart(
        &name,
        &clock,
        began.elapsed().as_secs_f64(),
        seen.peak,
        report,
    );
    Ok(())
}

/// Shape, format, and what was asked for.
fn named(options: &SpeedOptions, dtype: TrainDtype) -> String {
    let mut name = format!("{}, {}", options.shape, format!("{dtype:?}").to_lowercase());
    if !options.share_prefixes {
        name += ", no prefix shared";
    }
    name
}

fn note_plan(name: &str, planned: &Plan, report: &mut Report) {
    let split = planned.split;
    report.noted(
        &format!("{name}: split"),
        &format!(
            "micro-batches of {} tokens; computed again: {}; moments in {:?}",
            split.micro_batch_tokens, split.recompute, split.moments
        ),
    );
    for item in &planned.memory {
        let what = format!("{name}: planned for {}", item.purpose);
        report.measured(&what, item.bytes as f64 / GIB, "GiB", Value::Null);
    }
}

/// The steps that were timed.
struct Seen<'a> {
    name: &'a str,
    options: &'a SpeedOptions,
    first: Step,
    steps: &'a [Step],
    seconds: f64,
    ready: f64,
    matrix_parameters: f64,
    peak: Option<Peak>,
}

impl Seen<'_> {
    fn report(&self, rows: &[Row], report: &mut Report) {
        let (name, steps) = (self.name, self.steps);
        let sum = |count: fn(&Step) -> usize| steps.iter().map(count).sum::<usize>() as f64;
        let (tokens, computed) = (sum(|step| step.tokens), sum(|step| step.computed));
        let (speed, computed_speed) = (tokens / self.seconds, computed / self.seconds);
        let of_peak = |speed: f64| {
            self.peak
                .map(|peak| 6.0 * self.matrix_parameters * speed / peak.operations)
        };
        let mut times: Vec<f64> = steps.iter().map(|step| step.seconds).collect();
        times.sort_by(f64::total_cmp);
        let at = |part: f64| times[(part * (times.len() - 1) as f64).round() as usize];
        let [least, lower, median, upper, most] = [0.0, 0.25, 0.5, 0.75, 1.0].map(at);
        let details = json!({
            "of_peak": of_peak(speed),
            "against": format!("{} steps of {BATCH} rows, {:.0} tokens a step", steps.len(), tokens / steps.len() as f64),
            "shape": self.options.shape,
            "matrix_parameters": self.matrix_parameters,
            "losses": steps.iter().map(|step| step.loss).collect::<Vec<_>>(),
            "step_seconds": steps.iter().map(|step| step.seconds).collect::<Vec<_>>(),
        });
        report.measured(
            &format!("{name}: tokens a second"),
            speed,
            "tokens/s",
            details,
        );
        let details = json!({
            "of_peak": of_peak(computed_speed),
            "against": format!("{:.1} % of the tokens", 100.0 * computed / tokens),
        });
        let what = format!("{name}: computed tokens a second");
        report.measured(&what, computed_speed, "tokens/s", details);
        let spread = format!(
            "least {least:.4}, quartiles {lower:.4} and {upper:.4}, most {most:.4}; the first, from nothing, after {:.1} s",
            self.ready
        );
        let details = json!({ "against": spread });
        report.measured(&format!("{name}: median step"), median, "s", details);
        let last = steps[steps.len() - 1].loss;
        let text = format!("{:.4} and {last:.4}", self.first.loss);
        report.noted(&format!("{name}: loss at first and at last"), &text);
        let (examples, epochs) = ALPACA;
        let all_tokens: usize = rows.iter().map(|row| row.input_ids.len()).sum();
        let mean = all_tokens as f64 / rows.len() as f64;
        let minutes = examples * epochs * mean / speed / 60.0;
        let details = json!({
            "against": format!("extrapolated from {} steps, mean row {mean:.1} tokens; never run", steps.len()),
        });
        let what = format!("{name}: 52,002 examples, 3 epochs");
        report.measured(&what, minutes, "min", details);
    }
}

fn memory(
    name: &str,
    device: &ComputeDevice,
    planned: &Plan,
    before: Option<u64>,
    report: &mut Report,
) -> Result<()> {
    let all = planned.memory_bytes as f64;
    report.measured(
        &format!("{name}: memory planned"),
        all / GIB,
        "GiB",
        Value::Null,
    );
    let against = |bytes: f64| json!({ "against": format!("{:+.1} % of the plan", 100.0 * (bytes / all - 1.0)) });
    if let (Some(before), Some(after)) = (before, card::used_bytes(device)?) {
        let bytes = after.saturating_sub(before) as f64;
        let what = format!("{name}: memory taken of the card");
        report.measured(&what, bytes / GIB, "GiB", against(bytes));
        let what = format!("{name}: memory of the card in use, all programs");
        report.measured(&what, after as f64 / GIB, "GiB", Value::Null);
    }
    if let Some(peak) = card::peak_bytes(device)? {
        let bytes = peak as f64;
        let what = format!("{name}: {}", card::PEAK);
        report.measured(&what, bytes / GIB, "GiB", against(bytes));
    }
    Ok(())
}

fn take_apart(name: &str, clock: &Clock, seconds: f64, peak: Option<Peak>, report: &mut Report) {
    let each = TAKEN_APART as f64;
    let details = json!({ "against": "the device waited for around every operation" });
    let what = format!("{name}: a step taken apart");
    report.measured(&what, 1e3 * seconds / each, "ms", details);
    let mut known = 0.0;
    for (kind, spent) in clock.spent() {
        let time = spent.time.as_secs_f64();
        known += time;
        let rate = spent.operations / time;
        let products = match spent.operations > 0.0 {
            true => format!(", {:.1} TFLOP/s", rate / 1e12),
            false => String::new(),
        };
        let calls = spent.calls as f64 / each;
        let details = json!({
            "of_peak": peak.filter(|_| spent.operations > 0.0).map(|peak| rate / peak.operations),
            "against": format!("{:.1} % of it, {calls:.0} calls{products}", 100.0 * time / seconds),
        });
        let what = format!("{name}: of it {kind}");
        report.measured(&what, 1e3 * time / each, "ms", details);
    }
    let rest = seconds - known;
    let details = json!({ "against": format!("{:.1} % of it", 100.0 * rest / seconds) });
    let what = format!("{name}: of it the host between operations");
    report.measured(&what, 1e3 * rest / each, "ms", details);
}
