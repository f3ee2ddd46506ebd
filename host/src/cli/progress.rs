//! What a person sees while the host works: bars on a terminal, plain lines elsewhere.

use std::{
    io::IsTerminal,
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use tracing_subscriber::EnvFilter;

use crate::{
    counted::counted,
    download::Progress,
    stages::{EvaluatePart, EvaluateProgress, GenerateProgress, TrainProgress},
    trainer::{HeldOutLoss, Plan, StepRecord},
};

/// How often a plain log says how far it is.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Bytes of a file that takes long enough to be named in a plain log.
const WORTH_A_LINE: u64 = 1 << 30;
/// How often a bar shows that time goes by.
const TICK: Duration = Duration::from_millis(200);

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
        // Colours are for people, and not for files that they are piped into.
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        .init();
}

/// A bar's looks. What is left to do is told only once something is done: nobody knows before.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is well formed")
}

/// Progress of generation: a bar, or a line now and then.
#[derive(Default)]
pub(super) struct Generation {
    state: Mutex<GenerationState>,
}

#[derive(Default)]
struct GenerationState {
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
    candidates: u64,
}

impl GenerateProgress for Generation {
    fn begin(&self, accepted: u64, target: u64) {
        let mut state = self.state.lock().expect("no holder panics");
        state.last_line = Some(Instant::now());
        if !std::io::stderr().is_terminal() {
            eprintln!("generate: {accepted}/{target} examples");
            return;
        }
        let bar = ProgressBar::new(target)
            .with_style(style(
                "generate {bar:30} {pos}/{len} examples, {msg}, {elapsed}",
            ))
            .with_position(accepted.min(target))
            .with_message("waiting for the first replies");
        // What was there before this start says nothing of how fast it goes now.
        bar.reset_eta();
        bar.enable_steady_tick(TICK);
        state.bar = Some(bar);
    }

    fn unit(&self, unit: u64, candidates: u64, accepted: u64, target: u64) {
        let mut state = self.state.lock().expect("no holder panics");
        state.candidates += candidates;
        if let Some(bar) = &state.bar {
            bar.set_position(accepted.min(target));
            let candidates = state.candidates;
            let (left, waiting) = match accepted >= target {
                true => ("", ", waiting for what is in flight"),
                false => (", {eta} to go", ""),
            };
            bar.set_style(style(&format!(
                "generate {{bar:30}} {{pos}}/{{len}} examples, {{msg}}, {{elapsed}}{left}"
            )));
            bar.set_message(format!(
                "{}, {}{waiting}",
                counted(unit + 1, "unit", "units"),
                counted(candidates, "candidate", "candidates")
            ));
        } else if state
            .last_line
            .is_none_or(|last| last.elapsed() >= LINE_EVERY)
        {
            state.last_line = Some(Instant::now());
            eprintln!(
                "generate: {accepted}/{target} examples after {}",
                counted(unit + 1, "unit", "units")
            );
        }
    }

    fn end(&self) {
        let mut state = self.state.lock().expect("no holder panics");
        if let Some(bar) = state.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// Progress of training: a bar, or a line now and then.
#[derive(Default)]
pub(super) struct Training {
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
    tells_plan: bool,
}

impl Training {
    /// Writes the whole plan first, for a command that does nothing but train.
    pub(super) fn that_tells_the_plan() -> Self {
        Self {
            tells_plan: true,
            ..Self::default()
        }
    }
}

impl TrainProgress for Training {
    fn plan(&mut self, plan: &Plan) {
        match self.tells_plan {
            true => eprintln!("{plan}\n"),
            false => tracing::info!("\n{plan}"),
        }
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(plan.total_steps).with_style(style(
                "train    {bar:30} {pos}/{len} steps, {msg}, {elapsed}",
            ));
            bar.set_message("the first step is under way");
            bar.enable_steady_tick(TICK);
            self.bar = Some(bar);
        } else {
            eprintln!("train: {}", counted(plan.total_steps, "step", "steps"));
        }
    }

    fn step(&mut self, step: &StepRecord, total: u64) {
        match &self.bar {
            Some(bar) => {
                bar.set_style(style(
                    "train    {bar:30} {pos}/{len} steps, {msg}, {elapsed}, {eta} to go",
                ));
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

/// Progress of evaluation: a bar a part, or a line a part.
#[derive(Default)]
pub(super) struct Evaluation {
    current: Option<(EvaluatePart, ProgressBar)>,
}

impl EvaluateProgress for Evaluation {
    fn at(&mut self, part: EvaluatePart, done: u64, total: u64) {
        let new = self
            .current
            .as_ref()
            .is_none_or(|(there, _)| *there != part);
        if new {
            let bar = if std::io::stderr().is_terminal() {
                let template = format!("{part:<8} {{bar:30}} {{pos}}/{{len}} tasks, {{elapsed}}");
                let style = ProgressStyle::with_template(&template);
                let bar =
                    ProgressBar::new(total).with_style(style.expect("the template is well formed"));
                bar.enable_steady_tick(TICK);
                bar
            } else {
                eprintln!("{part}: {}", counted(total, "task", "tasks"));
                ProgressBar::hidden()
            };
            self.current = Some((part, bar));
        }
        if let Some((_, bar)) = &self.current {
            bar.set_position(done);
            if done == total {
                bar.finish_and_clear();
                self.current = None;
            }
        }
    }
}

/// Progress of a model's coming: a bar a step, or a line a step.
pub(super) fn fetching() -> impl FnMut(Progress) {
    // A plain log has no use for what is over at once.
    fetching_files(WORTH_A_LINE)
}

/// Progress of a plugin's coming: nothing of a stranger's is fetched without a word.
pub(super) fn fetching_plugins() -> impl FnMut(Progress) {
    fetching_files(0)
}

fn fetching_files(worth_a_line: u64) -> impl FnMut(Progress) {
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
                if progress.total.is_none_or(|bytes| bytes > worth_a_line) {
                    eprintln!("{}", progress.task);
                }
                ProgressBar::hidden()
            };
            bar.set_style(style("{msg} {bar:30} {bytes}/{total_bytes}"));
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
