//! Training by itself: a dataset and a student, without a ledger, a generator or a key.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use serde::{Deserialize, Serialize};

use super::{
    examples::{Examples, ExamplesError},
    models::FetchProgress,
    ranks::{Ranks, RanksError},
    train::{self, Lesson, Record, Taught, TrainProgress, TrainStageError, Trained},
};
use crate::{
    ledger::LedgerError,
    llama::{self, durable},
    manifest::{Provider, Recipe},
    trainer::{
        ComputeDevice, HeldOutLoss, StepRecord, TrainConfig, TrainError,
        collective::{Collective, CollectiveError},
        config::ConfigProblem,
    },
};

/// In the directory: what training began with, and once it is done, what it came to.
const RECORD: &str = "training.json";

/// What is trained, on what, and where.
#[derive(Debug, Clone, Copy)]
pub struct TrainAlone<'a> {
    /// The student, as manifests spell it.
    pub student: &'a str,
    /// Settings.
    pub config: &'a TrainConfig,
    /// What there is to learn.
    pub examples: &'a Examples,
    /// Checkpoints, the trained model and `training.json` go here.
    pub dir: &'a Path,
    /// Whether examples are left out whose prompt fills `max_seq_len`, rather than refused.
    pub skip_long_prompts: bool,
    /// Set to stop after a checkpoint.
    pub cancel: &'a AtomicBool,
}

/// What training came to.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainedAlone {
    /// Folder, steps and losses on held-out examples.
    pub trained: Trained,
    /// Every step.
    pub history: Vec<StepRecord>,
}

/// Why a student was not trained.
#[derive(Debug, thiserror::Error)]
pub enum TrainAloneError {
    /// The recipe trains nothing here.
    #[error(
        "the recipe `{0}` trains no student: it needs a [trainer] table, and a local model as [roles] student"
    )]
    NoTrainer(String),
    /// The dataset.
    #[error(transparent)]
    Examples(#[from] ExamplesError),
    /// Prompts that leave nothing of their answers to learn.
    #[error(
        "{}: {places}: the prompt alone fills max_seq_len ({max_seq_len} tokens), so nothing of the answer is left to learn. Raise it with --set trainer.max_seq_len=N, or leave these examples out with --skip-long-prompts",
        path.display()
    )]
    LongPrompts {
        /// The file.
        path: PathBuf,
        /// The lines of the examples.
        places: String,
        /// The setting.
        max_seq_len: usize,
    },
    /// The loss or the gradient is not a finite number.
    #[error("{error}. They are {}: {places}", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The lines of the examples.
        places: String,
        /// What the trainer said.
        error: Box<TrainError>,
    },
    /// The directory belongs to a recipe.
    #[error("{} is the directory of a recipe's run; choose another with --dir", .0.display())]
    OfARecipe(PathBuf),
    /// Training began with another student.
    #[error(
        "training in {} began with {was}, and now the student is {now}. Put the old files back, or choose another directory with --dir",
        dir.display()
    )]
    OtherStudent {
        /// The directory.
        dir: PathBuf,
        /// The student there.
        was: String,
        /// The student here.
        now: String,
    },
    /// `training.json` cannot be read or written.
    #[error("cannot {action} {}: {message}", path.display())]
    Record {
        /// "read" or "write".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// The processes that were to train together.
    #[error(transparent)]
    Ranks(#[from] RanksError),
    /// Training itself.
    #[error(transparent)]
    Train(#[from] TrainStageError),
}

impl From<CollectiveError> for TrainAloneError {
    fn from(error: CollectiveError) -> Self {
        RanksError::from(error).into()
    }
}

/// `training.json`.
#[derive(Serialize, Deserialize)]
struct Training {
    student: Student,
    dataset: String,
    examples: usize,
    trainer: TrainConfig,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    steps: Vec<StepRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held_out_loss: Option<(f64, f64)>,
}

#[derive(PartialEq, Serialize, Deserialize)]
struct Student {
    source: String,
    sha256: String,
}

/// The student of a recipe and the settings of its `[trainer]`.
///
/// # Errors
/// When it has none, or the settings cannot be used.
pub fn of_recipe(recipe: &Recipe) -> Result<(String, TrainConfig), TrainAloneError> {
    let student = recipe.roles.get("student");
    let model = student.and_then(|name| recipe.models.get(name));
    match (&recipe.trainer, model.map(|model| &model.provider)) {
        (Some(table), Some(Provider::Local(local))) => {
            let table = table.as_object().cloned().unwrap_or_default();
            let config = TrainConfig::from_table(&table).map_err(settings)?;
            Ok((local.model.clone(), config))
        }
        _ => Err(TrainAloneError::NoTrainer(recipe.name.clone())),
    }
}

fn settings(problems: Vec<ConfigProblem>) -> TrainAloneError {
    TrainStageError::from(TrainError::Config(problems)).into()
}

/// Trains a student on a dataset, from wherever it was left in the directory. Blocks.
///
/// Where several `ranks` train, each makes the same call on the same files. Rank 0 alone writes into the
/// directory; the others read there what they go on from.
///
/// # Errors
/// See [`TrainAloneError`]; checkpoints stay, and the same call goes on from the newest.
pub fn train_alone(
    job: &TrainAlone<'_>,
    ranks: Ranks,
    fetching: FetchProgress<'_>,
    progress: &mut dyn TrainProgress,
) -> Result<TrainedAlone, TrainAloneError> {
    let local = (ranks.local_rank(), ranks.local_world_size());
    // Before the weights are in memory: they are part of the plan.
    let device = ranks
        .device(job.config.device)
        .inspect_err(|error| ranks.stop(&error.to_string()))?;
    let ranks = ranks.on(&device)?;
    let trained = train_here(job, &device, &*ranks, local, fetching, progress);
    let cancelled = |error: &TrainAloneError| {
        let error = match error {
            TrainAloneError::Train(TrainStageError::Trainer(error)) => error,
            _ => return false,
        };
        matches!(error, TrainError::Cancelled { .. })
    };
    if let Err(error) = &trained
        && !cancelled(error)
    {
        ranks.stop(&error.to_string());
    }
    trained
}

/// What one rank does; `local` is its number on its machine, and how many there are.
fn train_here(
    job: &TrainAlone<'_>,
    device: &ComputeDevice,
    ranks: &dyn Collective,
    local: (usize, usize),
    fetching: FetchProgress<'_>,
    progress: &mut dyn TrainProgress,
) -> Result<TrainedAlone, TrainAloneError> {
    if job.dir.join("ledger.sqlite").exists() {
        return Err(TrainAloneError::OfARecipe(job.dir.to_owned()));
    }
    let first = ranks.rank() == 0;
    let lesson = Lesson {
        source: job.student,
        config: job.config,
        dir: job.dir,
        device,
        skip_long_prompts: job.skip_long_prompts,
        cancel: job.cancel,
        ranks,
        local_world_size: local.1,
    };
    train::refuse_early(&lesson, job.examples.tasks.len())?;
    let model = open_in_turn(job.student, ranks, local.0, fetching)?;
    let mut training = Training {
        student: Student {
            source: job.student.to_owned(),
            sha256: model.identity.clone(),
        },
        dataset: job.examples.path.display().to_string(),
        examples: job.examples.tasks.len(),
        trainer: job.config.clone(),
        steps: Vec::new(),
        held_out_loss: None,
    };
    let path = job.dir.join(RECORD);
    if first {
        compare_student(job.dir, &path, &training.student)?;
        // What is there tells of a run that may yet refuse these settings or rows.
        if !path.exists() {
            write(&path, &training)?;
        }
    }
    compare_with_first(ranks, &training.student)?;
    let tasks = job.examples.tasks.iter();
    let taught = train::teach(model, tasks, &lesson, &mut Unrecorded, progress);
    let Taught { trained, history } = taught.map_err(|error| match error {
        TrainStageError::LongPrompts {
            examples,
            max_seq_len,
        } => TrainAloneError::LongPrompts {
            path: job.examples.path.clone(),
            places: job.examples.places(&examples),
            max_seq_len,
        },
        TrainStageError::Trainer(error @ TrainError::NotFinite { .. }) => {
            TrainAloneError::NotFinite {
                path: job.examples.path.clone(),
                places: match &error {
                    TrainError::NotFinite { examples, .. } => job.examples.places(examples),
                    _ => String::new(),
                },
                error: Box::new(error),
            }
        }
        error => error.into(),
    })?;
    training.steps.clone_from(&history);
    training.held_out_loss = trained.held_out;
    if first {
        write(&path, &training)?;
    }
    Ok(TrainedAlone { trained, history })
}

/// Opens the student, first on one rank of each machine: what has to be fetched is fetched once.
fn open_in_turn(
    source: &str,
    ranks: &dyn Collective,
    local_rank: usize,
    fetching: FetchProgress<'_>,
) -> Result<llama::Model, TrainAloneError> {
    if local_rank == 0 {
        let model = train::open(source, fetching)?;
        ranks.barrier()?;
        return Ok(model);
    }
    ranks.barrier()?;
    Ok(train::open(source, fetching)?)
}

/// All ranks begin with the same weights.
fn compare_with_first(ranks: &dyn Collective, now: &Student) -> Result<(), TrainAloneError> {
    let first = ranks.broadcast_bytes(now.sha256.as_bytes())?;
    if first == now.sha256.as_bytes() {
        return Ok(());
    }
    let what = format!(
        "the student {} has sha256 {} here and {} there",
        now.source,
        now.sha256,
        String::from_utf8_lossy(&first)
    );
    let rank = ranks.rank();
    Err(CollectiveError::Disagreement { rank, what }.into())
}

/// A resumed run takes its weights from a checkpoint, so it must have begun with the same ones.
fn compare_student(dir: &Path, path: &Path, now: &Student) -> Result<(), TrainAloneError> {
    let read = |message: String| TrainAloneError::Record {
        action: "read",
        path: path.to_owned(),
        message,
    };
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(read(error.to_string())),
    };
    let there: Training = serde_json::from_slice(&text).map_err(|e| read(e.to_string()))?;
    if there.student.sha256 == now.sha256 {
        return Ok(());
    }
    let shown = |student: &Student| format!("{} (sha256 {})", student.source, student.sha256);
    Err(TrainAloneError::OtherStudent {
        dir: dir.to_owned(),
        was: shown(&there.student),
        now: shown(now),
    })
}

fn write(path: &Path, training: &Training) -> Result<(), TrainAloneError> {
    let mut text = serde_json::to_vec_pretty(training).expect("numbers and texts become JSON");
    text.push(b'\n');
    durable::write(path, &text).map_err(|error| TrainAloneError::Record {
        action: "write",
        path: path.to_owned(),
        message: error.to_string(),
    })
}

/// The checkpoints hold every step; nothing else writes them down.
struct Unrecorded;

impl Record for Unrecorded {
    fn step(&mut self, _: &StepRecord) -> Result<(), LedgerError> {
        Ok(())
    }

    fn held_out(&mut self, _: &HeldOutLoss) -> Result<(), LedgerError> {
        Ok(())
    }
}
