//! What a person sees while the host works: bars on a terminal, plain lines elsewhere.

use std::{
    io::IsTerminal,
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use tracing_subscriber::EnvFilter;

use crate::{
    llama,
    stages::{EvaluateProgress, GenerateProgress, TrainProgress},
    trainer::{HeldOutLoss, Plan, StepRecord},
};

/// How often a plain log says how far it is.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Starts the log on standard error. `RUST_LOG` has the last word.
pub(super) fn start_log(verbose: u8) {
    let level = match verbose {
        0 => "pacos=warn",
        1 => "pacos=info",
        _ => "pacos=debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .without_time()
        .init();
}

/// Progress of generation: a bar, or a line now and then.
pub(super) struct Generation {
    bar: Option<ProgressBar>,
    last_line: Mutex<Instant>,
    candidates: Mutex<u64>,
}

impl Generation {
    pub(super) fn start(target: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(target);
            bar.set_style(
                ProgressStyle::with_template(
                    "generate {bar:30} {pos}/{len} examples, {msg}, {elapsed}, {eta} to go",
                )
                .expect("the template is well formed"),
            );
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Generation {
            bar,
            last_line: Mutex::new(Instant::now()),
            candidates: Mutex::new(0),
        }
    }

    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl GenerateProgress for Generation {
    fn unit(&self, unit: u64, candidates: u64, accepted: u64, target: u64) {
        let mut seen = self.candidates.lock().expect("no holder panics");
        *seen += candidates;
        match &self.bar {
            Some(bar) => {
                bar.set_position(accepted.min(target));
                bar.set_message(format!("{} units, {} candidates", unit + 1, *seen));
            }
            None => {
                let mut last = self.last_line.lock().expect("no holder panics");
                if last.elapsed() >= LINE_EVERY {
                    *last = Instant::now();
                    eprintln!(
                        "generate: {accepted}/{target} examples after {} units",
                        unit + 1
                    );
                }
            }
        }
    }
}

/// Progress of training: a bar, or a line now and then.
#[derive(Default)]
pub(super) struct Training {
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
}

impl TrainProgress for Training {
    fn plan(&mut self, plan: &Plan) {
        tracing::info!("\n{plan}");
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(plan.total_steps);
            bar.set_style(
                ProgressStyle::with_template(
                    "train    {bar:30} {pos}/{len} steps, {msg}, {elapsed}, {eta} to go",
                )
                .expect("the template is well formed"),
            );
            self.bar = Some(bar);
        } else {
            eprintln!("train: {} steps", plan.total_steps);
        }
    }

    fn step(&mut self, step: &StepRecord, total: u64) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(step.step);
                bar.set_message(format!("loss {:.3}", step.loss));
                if step.step == total {
                    bar.finish_and_clear();
                }
            }
            None => {
                if self
                    .last_line
                    .is_none_or(|last| last.elapsed() >= LINE_EVERY)
                {
                    self.last_line = Some(Instant::now());
                    eprintln!("train: step {}/{total}, loss {:.3}", step.step, step.loss);
                }
            }
        }
    }

    fn held_out(&mut self, measured: &HeldOutLoss) {
        tracing::info!(
            "held-out loss {:.4} after step {}",
            measured.loss,
            measured.step
        );
    }

    fn notice(&mut self, sentence: &str) {
        tracing::warn!("{sentence}");
    }
}

/// Progress of evaluation: a bar, or one line.
#[derive(Default)]
pub(super) struct Evaluation {
    bar: Option<ProgressBar>,
}

impl EvaluateProgress for Evaluation {
    fn scored(&mut self, done: u64, total: u64) {
        let bar = self.bar.get_or_insert_with(|| {
            if !std::io::stderr().is_terminal() {
                eprintln!("evaluate: {total} answers");
                return ProgressBar::hidden();
            }
            let style =
                ProgressStyle::with_template("evaluate {bar:30} {pos}/{len} answers, {elapsed}");
            ProgressBar::new(total).with_style(style.expect("the template is well formed"))
        });
        bar.set_position(done);
        if done == total {
            bar.finish_and_clear();
        }
    }
}

/// Progress of a model's coming: a bar a step, or a line a step.
pub(super) fn fetching() -> impl FnMut(llama::Progress) {
    let mut current: Option<(String, ProgressBar)> = None;
    let terminal = std::io::stderr().is_terminal();
    move |progress| {
        let new = current
            .as_ref()
            .is_none_or(|(step, _)| *step != progress.task);
        if new {
            if let Some((_, bar)) = current.take() {
                bar.finish_and_clear();
            }
            let bar = if terminal {
                ProgressBar::new(progress.total.unwrap_or(0))
            } else {
                eprintln!("{}", progress.task);
                ProgressBar::hidden()
            };
            bar.set_style(
                ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes}")
                    .expect("the template is well formed"),
            );
            bar.set_message(progress.task.clone());
            current = Some((progress.task.clone(), bar));
        }
        if let Some((_, bar)) = &current {
            if let Some(total) = progress.total {
                bar.set_length(total);
            }
            bar.set_position(progress.done);
            if progress.total == Some(progress.done) {
                bar.finish_and_clear();
            }
        }
    }
}
