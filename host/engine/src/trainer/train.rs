//! The training loop: steps, measurements, checkpoints, resume.

mod admission;
mod agreement;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::adamw::{AdamW, AdamWConstants};
use super::batches::{Batches, pack, shares};
use super::checkpoint::{
    Checkpoint, CheckpointError, CheckpointFolder, CheckpointState, NumericPath,
};
use super::collective::{Collective, CollectiveError, part};
use super::config::{ConfigProblem, TrainConfig};
use super::device::ComputeDevice;
use super::engine::{Capacity, Dropout, Engine};
use super::formats::Formats;
use super::lora::Adapters;
use super::operations;
use super::parameters::{Layout, ParameterSet};
use super::plan::Split;
use super::progress::{HeldOutLoss, StepRecord, TrainObserver, Unobserved};
use super::schedule::Schedule;
use super::student::Student;
use super::template::Row;
use crate::llama::{LlamaConfig, Weights};
use admission::{check, compare, identity, numeric_path};
use candle_core::{DType, Tensor};

/// Everything that a training run is given, but for the weights.
#[derive(Debug, Clone, Copy)]
pub struct TrainJob<'a> {
    /// Shape of the student.
    pub model: &'a LlamaConfig,
    /// Settings.
    pub config: &'a TrainConfig,
    /// Rows to learn.
    pub rows: &'a [Row],
    /// Rows to measure on; may be empty.
    pub held_out: &'a [Row],
    /// The run's folder; checkpoints go to `checkpoints` in it, and are looked for there.
    pub dir: &'a Path,
    /// Looked at between micro-batches: when it is set, the run saves a checkpoint and stops.
    pub cancel: &'a AtomicBool,
    /// What it runs on.
    pub device: &'a ComputeDevice,
    /// How a fresh run is split and what it computes again; a resumed one keeps those that it began with.
    pub split: Split,
    /// Threads of a fresh run; 0 takes all cores. A resumed run keeps those that it began with.
    pub threads: usize,
    /// The processes that train together, as this one sees them: each makes the same call, with the same
    /// job and weights but for `device`, `threads` and `cancel`. Rank 0 alone writes, and tells the
    /// observer; what the others need of `dir` they read there.
    pub ranks: &'a dyn Collective,
}

/// A finished run.
#[derive(Debug)]
pub struct TrainOutcome {
    /// The trained student, f32.
    pub student: Student,
    /// Every step.
    pub history: Vec<StepRecord>,
    /// Every measurement on the held-out rows.
    pub held_out: Vec<HeldOutLoss>,
    /// Steps that had been made before this sitting.
    pub resumed_from: u64,
    /// How the arithmetic was done.
    pub numeric_path: NumericPath,
    /// The checkpoint of the last step.
    pub checkpoint: PathBuf,
}

/// Why training stopped.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Settings that cannot be used.
    #[error("the [trainer] settings cannot be used:{}", list(.0))]
    Config(Vec<ConfigProblem>),
    /// Nothing to learn.
    #[error(
        "there is no example to train on: there was none, all were held out, or the prompt of each fills max_seq_len"
    )]
    NoRows,
    /// A row that the model cannot be trained on.
    #[error("example {example} cannot be trained on: {reason}")]
    Row {
        /// Index of the example.
        example: usize,
        /// What is wrong with its row.
        reason: String,
    },
    /// The weights are not those of the configuration.
    #[error("the student's weights cannot be used: {0}")]
    Weights(candle_core::Error),
    /// The device failed, or has too little memory.
    #[error("the trainer's arithmetic failed: {0}")]
    Device(#[from] candle_core::Error),
    /// The folder holds a checkpoint of another run.
    #[error(
        "{} holds checkpoints of another run:{}\nName another run directory, or undo the change",
        dir.display(), list(differences)
    )]
    OtherRun {
        /// The run's folder.
        dir: PathBuf,
        /// What differs: name, value in the checkpoint, value now.
        differences: Vec<String>,
    },
    /// The loss or the gradient is not a finite number.
    #[error(
        "step {step}: the {what} is {value} (examples {}, counted from 0); {}. To try a lower learning_rate or other weights, train anew in a directory of its own",
        shown(examples),
        match checkpoint { Some(step) => format!("the checkpoint of step {step} is whole"), None => "no checkpoint was made yet".to_owned() }
    )]
    NotFinite {
        /// The step, counted from 1; 0 is before the first.
        step: u64,
        /// "loss", "held-out loss" or "norm of the gradient".
        what: &'static str,
        /// What it is.
        value: f64,
        /// Examples of the micro-batch (loss) or of the step (gradient).
        examples: Vec<usize>,
        /// The newest checkpoint.
        checkpoint: Option<u64>,
    },
    /// The cancel flag was set.
    #[error(
        "training was stopped after step {step} of {total_steps}; run again to go on from there"
    )]
    Cancelled {
        /// Steps made, all of them in a checkpoint.
        step: u64,
        /// Steps of the whole run.
        total_steps: u64,
    },
    /// A checkpoint could not be written or read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The ranks could not go on together.
    #[error(transparent)]
    Ranks(#[from] CollectiveError),
    /// The operating system gave no threads.
    #[error("cannot start the trainer's threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

/// Trains the student, or goes on from the newest whole checkpoint in `job.dir`.
///
/// `weights` are those that the run begins with. A resumed run takes what it trained from the checkpoint:
/// all weights, so that these are not looked at, or adapters, which are laid over these. That they are
/// the same is the caller's promise.
///
/// A finished run returns its result again without training.
///
/// Where several ranks train, each step's examples are divided among them, and what they end with is
/// the same model on all. An error of one ends the others.
pub fn train(
    job: &TrainJob<'_>,
    weights: Weights,
    observer: &mut dyn TrainObserver,
) -> Result<TrainOutcome, TrainError> {
    let outcome = match job.ranks.rank() {
        0 => train_here(job, weights, observer),
        _ => train_here(job, weights, &mut Unobserved),
    };
    match &outcome {
        // All stop together.
        Ok(_) | Err(TrainError::Cancelled { .. }) => {}
        Err(error) => job.ranks.stop(&error.to_string()),
    }
    outcome
}

/// What one rank does.
fn train_here(
    job: &TrainJob<'_>,
    weights: Weights,
    observer: &mut dyn TrainObserver,
) -> Result<TrainOutcome, TrainError> {
    let ranks = job.ranks;
    let identity = identity(job);
    let job = &TrainJob {
        split: agreement::on_the_job(ranks, &identity, job.split)?,
        ..*job
    };
    check(job)?;
    let folder = match ranks.rank() {
        0 => CheckpointFolder::open(job.dir)?,
        _ => CheckpointFolder::at(job.dir),
    };
    // None looks before what an interrupted run left behind is swept away.
    ranks.barrier()?;
    let constants = AdamWConstants::from(job.config);
    let mut batches = Batches::new(job.config, job.rows.len());
    let total_steps = batches.total_steps();

    let device = &job.device.handle;
    let kind = job.device.kind;
    let dtype = job.config.dtype.on(kind);
    // Before the tensors: those of other settings would look damaged.
    let newest = folder.newest_state()?;
    if let Some(state) = &newest {
        compare(job, state, &identity)?;
    }
    let path = newest.map(|state| state.numeric_path);
    let operations = match &path {
        Some(path) => operations::begun_with(&path.instructions, job.device, dtype)?,
        None => operations::of(job.device, dtype)?,
    };
    let path = path.filter(|path| path.engine == operations.name());
    let moments = path.map_or(job.split.moments, |path| path.moments);
    let formats = Formats::of(kind, dtype, moments);
    let layout = match &job.config.lora {
        Some(lora) => Layout::of_shapes(lora.shapes(job.model)),
        None => Layout::of_model(job.model),
    };
    let own = part(layout.count(), ranks.world_size(), ranks.rank());
    let (checkpoint, notices) = folder.load_newest(&layout, formats, device, constants, &own)?;
    for notice in &notices {
        observer.on_notice(notice);
    }
    let fresh = checkpoint.is_none();
    let begun = checkpoint.as_ref().map(|found| &found.state.identity);
    let config = begun.map_or_else(|| job.config.clone(), |run| job.config.as_begun(run));
    let job = &TrainJob {
        config: &config,
        ..*job
    };
    agreement::on_the_checkpoint(ranks, checkpoint.as_ref().map(|found| found.state.step))?;
    let base = || {
        let format = match job.config.lora {
            Some(_) => formats.frozen,
            None => formats.trained,
        };
        ParameterSet::from_weights(job.model, weights, format, device)
    };
    let seed = job.config.seed;
    let adapters = |lora| Adapters::new(lora, job.model, seed, formats.trained, device);
    let (mut state, mut student, mut adamw) = match checkpoint {
        Some(Checkpoint {
            state,
            parameters,
            adamw,
        }) => {
            let student = match &job.config.lora {
                None => {
                    drop(base);
                    Student::full(parameters)
                }
                Some(lora) => Student {
                    base: base().map_err(TrainError::Weights)?,
                    adapters: Some(Adapters {
                        config: lora.clone(),
                        values: parameters,
                    }),
                },
            };
            (state, student, adamw)
        }
        None => {
            let student = Student {
                base: base().map_err(TrainError::Weights)?,
                adapters: job.config.lora.as_ref().map(adapters).transpose()?,
            };
            let state = CheckpointState {
                format: CheckpointState::FORMAT,
                step: 0,
                total_steps,
                epoch: 0,
                rows_used: 0,
                identity,
                numeric_path: numeric_path(job, &*operations, moments),
                history: Vec::new(),
                held_out: Vec::new(),
            };
            let adamw = AdamW::of_part(constants, student.trained(), formats.moments, own)?;
            (state, student, adamw)
        }
    };
    if !fresh {
        let then = &state.numeric_path;
        let here = numeric_path(job, &*operations, moments);
        let as_many = then.world_size == here.world_size;
        let now = NumericPath {
            // Threads change no digit; other ranks leave room for others.
            threads: if as_many { then.threads } else { here.threads },
            micro_batch_tokens: state.numeric_path.micro_batch_tokens,
            recompute: state.numeric_path.recompute,
            shared_prefixes: state.numeric_path.shared_prefixes.clone(),
            ..here
        };
        if let Some(notice) = agreement::changed(&state.numeric_path, &now) {
            observer.on_notice(&notice);
        }
        state.numeric_path = now;
    }
    if let Some(caution) = operations.caution() {
        observer.on_notice(caution);
    }
    let resumed_from = state.step;
    observer.on_start(resumed_from, total_steps);

    let capacity = Capacity {
        tokens: state.numeric_path.micro_batch_tokens,
        recompute: state.numeric_path.recompute,
        lora_rank: job.config.lora.as_ref().map_or(0, |lora| lora.r),
        dropout_width: (job.config.lora.as_ref()).map_or(0, |lora| lora.dropout_width(job.model)),
        label_rows: formats.label_rows,
        activations: formats.activations,
    };
    let mut sitting = Sitting {
        job,
        pool: rayon::ThreadPoolBuilder::new()
            .num_threads(state.numeric_path.threads)
            .build()?,
        engine: Engine::new(job.model, operations, capacity, device)?,
        saved: (!fresh).then_some(state.step),
        folder,
    };
    let schedule = Schedule::new(job.config, total_steps);
    let mut gradients = student.trained().zeros_in(formats.gradients)?;
    sitting.measure_if_due(&mut state, &student, observer)?;
    while state.step < total_steps {
        let members = batches.step(state.step);
        let learning_rate = schedule.learning_rate(state.step);
        let mut update = Update {
            student: &mut student,
            gradients: &mut gradients,
            adamw: &mut adamw,
            learning_rate,
        };
        let record = match sitting.step(&state, &members, &mut update, observer) {
            Ok(record) => record,
            Err(stop) => {
                if matches!(stop, TrainError::Cancelled { .. }) {
                    sitting.save(&state, student.trained(), &adamw, observer)?;
                }
                return Err(stop);
            }
        };
        state.step += 1;
        state.epoch = state.step / batches.steps_per_epoch();
        state.rows_used = (state.step % batches.steps_per_epoch()) * job.config.batch_size as u64;
        let record = StepRecord {
            epoch: state.step as f64 / batches.steps_per_epoch() as f64,
            ..record
        };
        observer.on_step(&record);
        state.history.push(record);
        observer.on_point("step:after");
        sitting.measure_if_due(&mut state, &student, observer)?;
        if state.step.is_multiple_of(job.config.checkpoint_every) || state.step == total_steps {
            sitting.save(&state, student.trained(), &adamw, observer)?;
        }
    }
    let checkpoint = sitting.folder.step_path(state.step);
    Ok(TrainOutcome {
        student,
        history: state.history,
        held_out: state.held_out,
        resumed_from,
        numeric_path: state.numeric_path,
        checkpoint,
    })
}

/// What lives as long as one call of [`train`].
struct Sitting<'a> {
    job: &'a TrainJob<'a>,
    pool: rayon::ThreadPool,
    engine: Engine,
    folder: CheckpointFolder,
    /// Step of the newest whole checkpoint.
    saved: Option<u64>,
}

/// What one optimizer step changes.
struct Update<'a> {
    student: &'a mut Student,
    gradients: &'a mut ParameterSet,
    adamw: &'a mut AdamW,
    learning_rate: f64,
}

impl Sitting<'_> {
    /// One optimizer step. The device is waited for once, at its end.
    fn step(
        &self,
        state: &CheckpointState,
        members: &[usize],
        update: &mut Update<'_>,
        observer: &mut dyn TrainObserver,
    ) -> Result<StepRecord, TrainError> {
        let started = Instant::now();
        let number = state.step + 1;
        let rows = self.job.rows;
        let path = &state.numeric_path;
        let ranks = self.job.ranks;
        let prefixes = &path.shared_prefixes;
        let share = shares(rows, members, prefixes, ranks.world_size()).swap_remove(ranks.rank());
        let micro_batches = pack(rows, &share, path.micro_batch_tokens, prefixes);
        // Of all ranks: what each adds up is a summand of the whole step's gradient.
        let label_tokens: usize = members.iter().map(|&row| rows[row].label_tokens()).sum();
        let scale = 1.0 / label_tokens as f32;
        let config = self.job.config;
        let dropout = config.lora.as_ref().and_then(|lora| {
            // Steps are counted from 0 here, as for the order of the rows.
            Dropout::of_step(lora.lora_dropout, config.seed, state.step)
        });
        let device = &self.job.device.handle;
        // A rank may have nothing to do in a small step.
        let losses = Tensor::zeros(micro_batches.len().max(1), DType::F64, device)?;
        let squares = Tensor::zeros(1, DType::F64, device)?;
        let factor = Tensor::zeros(1, DType::F32, device)?;
        let operations = self.engine.operations();
        self.pool
            .install(|| operations.zero(update.gradients.data()))?;
        let mut cancelled = false;
        for (done, batch) in micro_batches.iter().enumerate() {
            cancelled = self.job.cancel.load(Ordering::Relaxed);
            if cancelled {
                break;
            }
            let loss = losses.narrow(0, done, 1)?;
            let (student, gradients) = (&*update.student, &mut *update.gradients);
            self.pool.install(|| {
                self.engine
                    .accumulate_gradients(student, batch, scale, dropout, gradients, &loss)
            })?;
            observer.on_micro_batch(number, done + 1, micro_batches.len());
        }
        if ranks.any(cancelled)? {
            return Err(TrainError::Cancelled {
                step: state.step,
                total_steps: state.total_steps,
            });
        }
        let max_norm = self.job.config.max_grad_norm;
        let Update {
            student,
            gradients,
            adamw,
            learning_rate,
        } = update;
        ranks.reduce_scatter(gradients.data())?;
        let own = adamw.own.clone();
        if !own.is_empty() {
            let own = gradients.data().narrow(0, own.start, own.len())?;
            self.pool
                .install(|| operations.add_sum_of_squares(&squares, &own))?;
        }
        ranks.all_reduce_sum(&squares)?;
        self.pool.install(|| {
            operations.clip_factor(&factor, &squares, max_norm)?;
            let trained = student.trained_mut();
            // Changes nothing where the norm is not finite, which is found out below.
            adamw.update(operations, trained, gradients, *learning_rate, &factor)
        })?;
        ranks.all_gather(student.trained().data())?;
        let losses: Vec<f64> = losses.to_vec1()?;
        let grad_norm = squares.to_vec1::<f64>()?[0].sqrt();
        let not_finite = |what, value, members: &[usize]| TrainError::NotFinite {
            step: number,
            what,
            value,
            examples: members.iter().map(|&row| rows[row].example).collect(),
            checkpoint: self.saved,
        };
        for (loss, batch) in losses.iter().zip(&micro_batches) {
            if !loss.is_finite() {
                return Err(not_finite("loss", *loss, &batch.rows()));
            }
        }
        let mut loss = [losses.iter().sum::<f64>()];
        ranks.sum(&mut loss)?;
        if !grad_norm.is_finite() {
            return Err(not_finite("norm of the gradient", grad_norm, members));
        }
        Ok(StepRecord {
            step: number,
            epoch: 0.0,
            loss: loss[0] / label_tokens as f64,
            learning_rate: *learning_rate,
            grad_norm,
            tokens: members
                .iter()
                .map(|&row| rows[row].input_ids.len() as u64)
                .sum(),
            label_tokens: label_tokens as u64,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Measures the held-out rows at the start, every `eval_every` steps and at the end, once each.
    fn measure_if_due(
        &mut self,
        state: &mut CheckpointState,
        student: &Student,
        observer: &mut dyn TrainObserver,
    ) -> Result<(), TrainError> {
        let every = self.job.config.eval_every;
        let due = state.step == 0
            || state.step == state.total_steps
            || (every > 0 && state.step.is_multiple_of(every));
        let measured = state.held_out.last().is_some_and(|m| m.step == state.step);
        let rows = self.job.held_out;
        if !due || measured || rows.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let members: Vec<usize> = (0..rows.len()).collect();
        let mut loss = 0.0;
        let path = &state.numeric_path;
        let ranks = self.job.ranks;
        let prefixes = &path.shared_prefixes;
        let share = shares(rows, &members, prefixes, ranks.world_size()).swap_remove(ranks.rank());
        let batches = pack(rows, &share, path.micro_batch_tokens, prefixes);
        for batch in batches {
            let engine = &self.engine;
            let summed = self.pool.install(|| engine.loss(student, &batch))?;
            if !summed.is_finite() {
                return Err(TrainError::NotFinite {
                    step: state.step,
                    what: "held-out loss",
                    value: summed,
                    examples: batch.rows().iter().map(|&row| rows[row].example).collect(),
                    checkpoint: self.saved,
                });
            }
            loss += summed;
        }
        let mut loss = [loss];
        ranks.sum(&mut loss)?;
        let label_tokens: usize = rows.iter().map(Row::label_tokens).sum();
        let record = HeldOutLoss {
            step: state.step,
            loss: loss[0] / label_tokens as f64,
            label_tokens: label_tokens as u64,
            seconds: started.elapsed().as_secs_f64(),
        };
        observer.on_held_out(&record);
        state.held_out.push(record);
        Ok(())
    }

    fn save(
        &mut self,
        state: &CheckpointState,
        parameters: &ParameterSet,
        adamw: &AdamW,
        observer: &mut dyn TrainObserver,
    ) -> Result<(), TrainError> {
        if self.saved == Some(state.step) {
            return Ok(());
        }
        let keep = self.job.config.keep_checkpoints;
        let ranks = self.job.ranks;
        if let Some(rest) = parameters.rest(0..parameters.count())? {
            ranks.all_gather(&rest)?;
        }
        if ranks.rank() > 0 {
            CheckpointFolder::hand_moments(parameters, adamw, ranks)?;
            self.saved = Some(state.step);
            return Ok(());
        }
        let path = self
            .folder
            .save(state, parameters, adamw, ranks, keep, &mut |point| {
                observer.on_point(point);
            })?;
        self.saved = Some(state.step);
        observer.on_checkpoint(state.step, &path);
        Ok(())
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    items
        .iter()
        .map(|item| format!("\n  - {}", item.to_string()))
        .collect()
}

fn shown(examples: &[usize]) -> String {
    const SHOWN: usize = 16;
    let first: Vec<String> = examples.iter().take(SHOWN).map(usize::to_string).collect();
    let more = match examples.len().saturating_sub(SHOWN) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    format!("{}{more}", first.join(", "))
}

#[cfg(test)]
mod tests;
