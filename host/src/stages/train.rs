//! Training: from the accepted examples to the student's folder.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use candle_core::DType;
use pacos_plugin::{CandidateId, Payload, Task};
use tokio::runtime::Handle;

use super::prepare::hash;
use crate::{
    fault,
    ledger::{HeldOutRecord, Ledger, LedgerError, TrainingStep},
    llama::{self, LlamaConfig, ModelSource},
    trainer::{
        self, ComputeDevice, DeviceError, DeviceKind, HeldOutLoss, Plan, PlanError, Room,
        StepRecord, TrainConfig, TrainError, TrainJob, TrainObserver, batches,
        checkpoint::CheckpointFolder,
        collective::{Alone, Collective},
        config::{MicroBatchTokens, TemplateName},
        plan::{TokenLengths, plan},
        template::{Encode, ExampleText, StudentTokenizer, tokenize_all},
    },
};

/// Under this name the ledger has the sha256 of the files that training began with.
pub(super) const STUDENT_FILES: &str = "student_files";

/// Why the student was not trained.
#[derive(Debug, thiserror::Error)]
pub enum TrainStageError {
    /// The base model.
    #[error("student: {0}")]
    Model(String),
    /// What it is to run on.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// It would not fit.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Prompts that leave nothing of their answers to learn.
    #[error(
        "{} examples have a prompt that fills max_seq_len ({max_seq_len} tokens)",
        examples.len()
    )]
    LongPrompts {
        /// Indices of the examples.
        examples: Vec<usize>,
        /// The setting.
        max_seq_len: usize,
    },
    /// The trainer itself.
    #[error(transparent)]
    Trainer(#[from] TrainError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The trained model could not be written.
    #[error(
        "cannot write the trained model to {}: {message}. Training is done and its last checkpoint is kept: when the cause is gone, the same command goes on from there",
        path.display()
    )]
    Save {
        /// The folder.
        path: PathBuf,
        /// Why.
        message: String,
    },
}

/// Told how training comes along.
pub trait TrainProgress: Send {
    /// What is about to be done, in memory and steps.
    fn plan(&mut self, plan: &Plan);
    /// A step is done.
    fn step(&mut self, step: &StepRecord, total: u64);
    /// The held-out examples were measured.
    fn held_out(&mut self, measured: &HeldOutLoss);
    /// Something that a person should know.
    fn notice(&mut self, sentence: &str);
}

/// What training came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// The Hugging Face folder.
    pub folder: PathBuf,
    /// Optimizer steps.
    pub steps: u64,
    /// Held-out loss before and after, in nats per token, where examples were held out.
    pub held_out: Option<(f64, f64)>,
}

/// What the trained student depends on.
pub(super) fn fingerprint(
    config: &TrainConfig,
    source: &str,
    examples: &[(CandidateId, Payload)],
) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("trainer".to_owned(), config.trajectory().to_string()),
        ("student".to_owned(), source.to_owned()),
        ("examples".to_owned(), hash(&examples)),
    ])
}

/// Takes over the student of another run, if it was trained to the end on the same examples in the
/// same way: nothing is trained twice because a judge was changed.
pub(super) async fn take_over(
    other: &Path,
    dir: &Path,
    ledger: &Ledger,
    fingerprint: &str,
) -> Result<(), TrainStageError> {
    let whole = other.join("model").join("config.json").exists();
    if !whole || ledger.stage("train")?.is_some() {
        return Ok(());
    }
    let folder = dir.join("model");
    let copied = || -> std::io::Result<()> {
        std::fs::create_dir_all(&folder)?;
        let mut files: Vec<_> =
            std::fs::read_dir(other.join("model"))?.collect::<Result<_, _>>()?;
        // `config.json` comes last: a folder that has it is whole.
        files.sort_by_key(|file| file.file_name() == "config.json");
        for file in files {
            std::fs::copy(file.path(), folder.join(file.file_name()))?;
        }
        Ok(())
    };
    if ledger
        .import_training(&other.join("ledger.sqlite"), fingerprint)
        .await?
    {
        copied().map_err(|error| TrainStageError::Save {
            path: folder.clone(),
            message: error.to_string(),
        })?;
        ledger
            .set_stage("train", fingerprint.to_owned(), true, 0.0)
            .await?;
    }
    Ok(())
}

/// Trains the student on the accepted examples, from wherever its checkpoints end, and writes it
/// as a Hugging Face folder. Blocks for as long as training takes.
///
/// # Errors
/// See [`TrainStageError`]; checkpoints stay, and the next run goes on from the newest.
#[allow(
    clippy::too_many_arguments,
    reason = "each is a different thing that training needs"
)]
pub(super) fn train(
    source: &str,
    config: &TrainConfig,
    examples: &[(CandidateId, Payload)],
    dir: &Path,
    ledger: &Ledger,
    runtime: &Handle,
    cancel: &AtomicBool,
    progress: &mut dyn TrainProgress,
) -> Result<Trained, TrainStageError> {
    // Before the weights are in memory: they are part of the plan.
    let device = ComputeDevice::find(config.device, 0)?;
    let student = open(source, &mut |_| {})?;
    match ledger.meta(STUDENT_FILES)? {
        Some(recorded) if recorded != student.identity => {
            return Err(TrainStageError::Model(format!(
                "training began with files of sha256 {recorded}, and {source} now has {}. Put the old files back, or begin anew with `--fork NEW`",
                student.identity
            )));
        }
        Some(_) => {}
        None => {
            let identity = student.identity.clone();
            runtime.block_on(ledger.set_meta(STUDENT_FILES, identity))?;
        }
    }
    let tasks = examples.iter().filter_map(|(_, payload)| match payload {
        Payload::Task(task) => Some(task),
        Payload::Chat(_) => None,
    });
    let lesson = Lesson {
        source,
        config,
        dir,
        device: &device,
        skip_long_prompts: true,
        cancel,
        ranks: &Alone,
        local_world_size: 1,
    };
    let mut record = LedgerRecord {
        ledger: ledger.clone(),
        runtime: runtime.clone(),
    };
    let taught = teach(student, tasks, &lesson, &mut record, progress)?;
    Ok(taught.trained)
}

/// Opens the model that training begins with.
pub(super) fn open(
    source: &str,
    fetching: &mut dyn FnMut(llama::Progress),
) -> Result<llama::Model, TrainStageError> {
    let model_error = |error: &dyn std::fmt::Display| TrainStageError::Model(error.to_string());
    let parsed: ModelSource = source.parse().map_err(|e| model_error(&e))?;
    llama::open(&parsed, fetching).map_err(|e| model_error(&e))
}

/// How a student is taught, apart from what.
pub(super) struct Lesson<'a> {
    /// The model that training begins with, as the user named it.
    pub(super) source: &'a str,
    pub(super) config: &'a TrainConfig,
    /// Where the checkpoints and the folder `model` are.
    pub(super) dir: &'a Path,
    /// Memory that could be had before the student was opened.
    pub(super) device: &'a ComputeDevice,
    /// Whether examples whose prompt leaves nothing to learn are left out, rather than refused.
    pub(super) skip_long_prompts: bool,
    pub(super) cancel: &'a AtomicBool,
    /// The processes that teach it together; rank 0 alone writes.
    pub(super) ranks: &'a dyn Collective,
    /// How many of them share this machine.
    pub(super) local_world_size: usize,
}

/// What teaching came to, with every step.
pub(super) struct Taught {
    pub(super) trained: Trained,
    pub(super) history: Vec<StepRecord>,
}

/// Where steps are written down before the next begins.
pub(super) trait Record {
    fn step(&mut self, step: &StepRecord) -> Result<(), LedgerError>;
    fn held_out(&mut self, measured: &HeldOutLoss) -> Result<(), LedgerError>;
}

/// Plans the training in `dir`: with the settings that it keeps, where it has begun.
///
/// # Errors
/// If it does not fit into the memory that there is.
fn planned(
    shape: &LlamaConfig,
    config: &TrainConfig,
    dir: &Path,
    lengths: TokenLengths<'_>,
    room: Room,
) -> Result<(TrainConfig, Plan), TrainStageError> {
    let begun = CheckpointFolder::at(dir)
        .newest_state()
        .map_err(TrainError::Checkpoint)?;
    let mut config = config.clone();
    let plan = match begun {
        None => plan(shape, &config, lengths, room, None),
        Some(state) => {
            config = config.as_begun(&state.identity);
            let path = state.numeric_path;
            config.micro_batch_tokens = MicroBatchTokens::Tokens(path.micro_batch_tokens);
            config.recompute = path.recompute.into();
            config.moments_dtype = path.moments.into();
            plan(shape, &config, lengths, room, None).begun()
        }
    };
    Ok((config, plan))
}

/// The room that one of so many ranks has on a device that some of them share.
fn room(device: &ComputeDevice, ranks: &dyn Collective, local_world_size: usize) -> Room {
    let mut room = Room::from(device);
    room.ranks = ranks.world_size();
    if room.kind == DeviceKind::Cpu {
        // Its memory is the machine's, of which every rank here takes its share.
        let share = |bytes| bytes / local_world_size as u64;
        room.available_bytes = room.available_bytes.map(share);
    }
    room
}

/// Refuses training that cannot fit, before the student's weights are fetched and read. Where its
/// configuration is not to be had, opening it will say so.
///
/// # Errors
/// The planner's figure.
pub(super) fn refuse_early(lesson: &Lesson<'_>, examples: usize) -> Result<(), TrainStageError> {
    let source: Option<ModelSource> = lesson.source.parse().ok();
    let Some(shape) = source.and_then(|source| source.config_without_weights().ok()) else {
        return Ok(());
    };
    // How long they are changes the memory little, and is known later.
    let lengths = TokenLengths::Estimated {
        examples,
        mean_tokens: 1.0,
    };
    let room = room(lesson.device, lesson.ranks, lesson.local_world_size);
    let (_, plan) = planned(&shape, lesson.config, lesson.dir, lengths, room)?;
    match room.available_bytes {
        Some(available) => Ok(plan.fits(available)?),
        None => Ok(()),
    }
}

/// Trains a student on tasks, from wherever the checkpoints end, and writes it as a Hugging Face
/// folder.
pub(super) fn teach<'a>(
    student: llama::Model,
    tasks: impl Iterator<Item = &'a Task>,
    lesson: &Lesson<'_>,
    record: &mut dyn Record,
    progress: &mut dyn TrainProgress,
) -> Result<Taught, TrainStageError> {
    let Lesson {
        source,
        config,
        dir,
        cancel,
        ranks,
        local_world_size,
        ..
    } = *lesson;
    let model_error = |error: &dyn std::fmt::Display| TrainStageError::Model(error.to_string());
    let encoder = StudentTokenizer::new(&student.tokenizer, &student.config).ok_or_else(|| {
        TrainStageError::Model("neither tokenizer nor configuration names an end token".into())
    })?;
    let texts = tasks.map(|task| ExampleText {
        instruction: &task.instruction,
        input: &task.input,
        output: &task.output,
    });
    let dataset = tokenize_all(&encoder, TemplateName::Alpaca, texts, config.max_seq_len)
        .map_err(|e| model_error(&e))?;
    if !lesson.skip_long_prompts && !dataset.fully_masked.is_empty() {
        return Err(TrainStageError::LongPrompts {
            examples: dataset.fully_masked,
            max_seq_len: config.max_seq_len,
        });
    }
    for warning in dataset.warnings(config.max_seq_len) {
        progress.notice(&warning);
    }
    if let Some(caution) = &lesson.device.caution {
        progress.notice(caution);
    }
    let (learnt, held) = batches::split_held_out(dataset.rows.len(), config);
    let pick = |indices: &[usize]| -> Vec<_> {
        indices.iter().map(|i| dataset.rows[*i].clone()).collect()
    };
    let (rows, held_out) = (pick(&learnt), pick(&held));
    let lengths = TokenLengths::Rows(&rows);
    let room = room(lesson.device, ranks, local_world_size);
    let (config, planned) = planned(&student.config, config, dir, lengths, room)?;
    let config = &config;
    progress.plan(&planned);
    if let Some(available) = room.available_bytes {
        planned.fits(available)?;
    }
    let chat_template = encoder
        .chat_template(TemplateName::Alpaca)
        .map_err(|e| model_error(&e))?;
    let (shape, tokenizer) = (&student.config, &student.tokenizer);
    let mut observer = Recorder {
        record,
        progress,
        total: planned.total_steps,
        cancel,
        failed: None,
    };
    let job = TrainJob {
        model: shape,
        config,
        rows: &rows,
        held_out: &held_out,
        dir,
        cancel,
        device: lesson.device,
        split: planned.split,
        threads: threads(local_world_size),
        ranks,
    };
    let outcome = trainer::train(&job, student.weights, &mut observer);
    if let Some(error) = observer.failed {
        return Err(error.into());
    }
    let outcome = outcome?;
    let folder = dir.join("model");
    let held_out = match (outcome.held_out.first(), outcome.held_out.last()) {
        (Some(before), Some(after)) if before.step < after.step => Some((before.loss, after.loss)),
        _ => None,
    };
    let trained = Trained {
        folder: folder.clone(),
        steps: outcome.history.len() as u64,
        held_out,
    };
    if ranks.rank() > 0 {
        return Ok(Taught {
            trained,
            history: outcome.history,
        });
    }
    let save = |message: String| TrainStageError::Save {
        path: folder.clone(),
        message,
    };
    std::fs::create_dir_all(&folder).map_err(|e| save(e.to_string()))?;
    // Whoever asks the student must ask as it was trained, and stop where it learnt to stop.
    tokenizer
        .clone()
        .with_chat_template(chat_template)
        .save_hf(&folder)
        .map_err(|e| save(e.to_string()))?;
    let mut shape = shape.clone();
    let end = encoder.eos_token_id();
    if !shape.eos_token_ids.contains(&end) {
        shape.eos_token_ids.insert(0, end);
    }
    shape
        .save_generation_config(&folder)
        .map_err(|e| save(e.to_string()))?;
    if let Some(adapters) = &outcome.student.adapters {
        adapters
            .save_peft(&dir.join("adapter"), source)
            .map_err(|e| save(e.to_string()))?;
    }
    fault::point("model:before-weights");
    // `config.json` is written last: a folder that has it is whole.
    outcome
        .student
        .into_weights(&shape)
        .map_err(|e| save(e.to_string()))?
        .save_hf(&folder, &shape, DType::F32)
        .map_err(|e| save(e.to_string()))?;
    Ok(Taught {
        trained,
        history: outcome.history,
    })
}

/// Threads of one of so many ranks on this machine; 0 is as many as there are cores.
fn threads(local_world_size: usize) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    match local_world_size {
        1 => 0,
        ranks => (cores() / ranks).max(1),
    }
}

/// Writes steps into the ledger.
struct LedgerRecord {
    ledger: Ledger,
    runtime: Handle,
}

impl Record for LedgerRecord {
    fn step(&mut self, record: &StepRecord) -> Result<(), LedgerError> {
        let step = TrainingStep {
            step: record.step,
            loss: record.loss,
            learning_rate: record.learning_rate,
            grad_norm: record.grad_norm,
            tokens: record.tokens,
            label_tokens: record.label_tokens,
            seconds: record.seconds,
        };
        self.runtime.block_on(self.ledger.record_step(step))
    }

    fn held_out(&mut self, record: &HeldOutLoss) -> Result<(), LedgerError> {
        let measured = HeldOutRecord {
            step: record.step,
            loss: record.loss,
        };
        self.runtime.block_on(self.ledger.record_held_out(measured))
    }
}

/// Has each step written down before the next begins.
struct Recorder<'a> {
    record: &'a mut dyn Record,
    progress: &'a mut dyn TrainProgress,
    total: u64,
    cancel: &'a AtomicBool,
    failed: Option<LedgerError>,
}

impl Recorder<'_> {
    /// What cannot be recorded is not gone on with.
    fn keep(&mut self, result: Result<(), LedgerError>) {
        if let Err(error) = result {
            self.failed.get_or_insert(error);
            self.cancel.store(true, Ordering::Relaxed);
        }
    }
}

impl TrainObserver for Recorder<'_> {
    fn on_step(&mut self, record: &StepRecord) {
        let written = self.record.step(record);
        self.keep(written);
        self.progress.step(record, self.total);
    }

    fn on_held_out(&mut self, record: &HeldOutLoss) {
        let written = self.record.held_out(record);
        self.keep(written);
        self.progress.held_out(record);
    }

    fn on_notice(&mut self, sentence: &str) {
        self.progress.notice(sentence);
    }

    fn on_point(&mut self, name: &str) {
        fault::point(name);
    }
}

/// A student that is being trained can be told to stop; it saves a checkpoint first.
pub type Cancel = Arc<AtomicBool>;
