//! What training will take, and refusing it before anything is asked.

use std::path::Path;

use pacos_plugin::{Payload, Task};
use serde::Serialize;

use super::{ForecastError, measured::Measured, models::KnownModel};
use crate::{
    ledger::Ledger,
    llama::{LlamaConfig, ModelSource},
    manifest::{Provider, Recipe},
    trainer::{
        ComputeDevice, DeviceError, DeviceKind, Plan, PlanError, Room, TrainConfig,
        batches::{split_held_out, total_steps},
        config::TemplateName,
        plan::{TokenLengths, plan, size},
        template::{ExampleText, StudentTokenizer, tokenize_all},
    },
};

/// Mean tokens of an example where nothing is known: Alpaca's under LLaMA's tokenizer.
const MEAN_TOKENS: f64 = 128.0;

/// What will be trained.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Training {
    /// The base model, as the manifest names it.
    pub student: String,
    /// Examples that are trained on.
    pub examples: u64,
    /// Examples that are held back to measure the loss.
    pub held_out: u64,
    /// Optimizer steps.
    pub steps: u64,
    /// Mean tokens of an example, and what that rests on.
    pub mean_tokens: f64,
    /// What `mean_tokens` rests on.
    pub lengths: Lengths,
    /// Steps, tokens and memory; absent where the student's configuration is not at hand.
    pub plan: Option<Plan>,
    /// Memory that can be had now, where that is known.
    pub available_bytes: Option<u64>,
    /// Whether the memory suffices, where both sides are known.
    pub fits: Option<bool>,
    /// Free disk space where the run's directory is or will be, where that is known.
    pub free_disk_bytes: Option<u64>,
}

impl Training {
    /// Disk space of the checkpoints at their most, and of the trained student in f32.
    #[must_use]
    pub fn disk_bytes(&self) -> Option<u64> {
        let plan = self.plan.as_ref()?;
        Some(plan.checkpoint_bytes + 4 * plan.parameters)
    }
}

/// What the examples' expected length rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lengths {
    /// The examples accepted so far, by the student's tokenizer.
    Examples,
    /// The seed tasks, by the student's tokenizer.
    Seeds,
    /// A guess: as long as Alpaca's.
    Guess,
}

/// Training that cannot take place here, found before anything was asked.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is no such device.
    #[error("[trainer]: {0}. Nothing was asked")]
    Device(#[from] DeviceError),
    /// It would not fit into memory.
    #[error("{0}; or leave [trainer] out, to make the dataset alone. Nothing was asked")]
    Plan(#[from] PlanError),
}

/// The recipe's student, where it is trained here.
fn student(recipe: &Recipe) -> Option<&str> {
    let model = recipe.models.get(recipe.roles.get("student")?)?;
    match &model.provider {
        Provider::Local(local) => Some(&local.model),
        Provider::OpenAi(_) => None,
    }
}

fn settings(recipe: &Recipe) -> Option<Result<TrainConfig, ForecastError>> {
    let table = recipe.trainer.as_ref()?.as_object().cloned();
    Some(TrainConfig::from_table(&table.unwrap_or_default()).map_err(ForecastError::Trainer))
}

/// Refuses a run whose training cannot fit into the memory that there is, if the student's
/// configuration is at hand. What is not known yet is left to the trainer: `Ok`. So is a run in
/// `dir` that is trained already.
///
/// # Errors
/// The planner's figure.
pub fn refuse_early(recipe: &Recipe, dir: &Path) -> Result<(), Refused> {
    let (Some(Ok(config)), false) = (settings(recipe), trained(dir)) else {
        return Ok(());
    };
    let device = ComputeDevice::find(config.device, 0)?;
    refuse(recipe, Room::from(&device))
}

fn trained(dir: &Path) -> bool {
    let path = dir.join("ledger.sqlite");
    path.exists()
        && Ledger::open_to_read(&path)
            .and_then(|ledger| ledger.stage("train"))
            .is_ok_and(|stage| stage.is_some_and(|(_, finished)| finished))
}

pub(super) fn refuse(recipe: &Recipe, room: Room) -> Result<(), Refused> {
    let (Some(Ok(config)), Some(student)) = (settings(recipe), student(recipe)) else {
        return Ok(());
    };
    let source: Option<ModelSource> = student.parse().ok();
    let shape = source.and_then(|source| source.config_without_weights().ok());
    let Some(shape) = shape else {
        return Ok(());
    };
    // Neither number of examples nor their length changes the memory.
    let lengths = TokenLengths::Estimated {
        examples: 1,
        mean_tokens: MEAN_TOKENS,
    };
    let planned = plan(&shape, &config, lengths, room, None);
    match room.available_bytes {
        Some(available) => Ok(planned.fits(available)?),
        None => Ok(()),
    }
}

/// Plans the training of a recipe, where it trains.
pub(super) fn training(
    recipe: &Recipe,
    seeds: &[Task],
    student_model: Option<&KnownModel>,
    measured: Option<&Measured>,
    dir: Option<&Path>,
    card: Option<Room>,
    obstacles: &mut Vec<String>,
) -> Result<Option<Training>, ForecastError> {
    let (Some(config), Some(student)) = (settings(recipe), student(recipe)) else {
        return Ok(None);
    };
    let config = config?;
    let target = usize::try_from(recipe.dataset.target).unwrap_or(usize::MAX);
    let (learnt, held_out) = split_held_out(target, &config);
    let examples = learnt.len();
    let shape = match student.parse::<ModelSource>() {
        Ok(source) => source.config_without_weights(),
        Err(error) => Err(error),
    };
    let shape = match shape {
        Ok(shape) => Some(shape),
        Err(error) => {
            obstacles.push(format!(
                "the student cannot be opened, so parameters and memory are unknown: {error}"
            ));
            None
        }
    };
    let accepted: Vec<&Task> = (measured.iter())
        .flat_map(|measured| &measured.examples)
        .filter_map(|(_, payload)| match payload {
            Payload::Task(task) => Some(task),
            Payload::Chat(_) => None,
        })
        .collect();
    let known = shape.as_ref().and_then(|shape| {
        let mean = |tasks: &[&Task]| mean_tokens(tasks, student_model?, shape, &config);
        match mean(&accepted) {
            Some(mean) => Some((mean, Lengths::Examples)),
            None => Some((mean(&seeds.iter().collect::<Vec<_>>())?, Lengths::Seeds)),
        }
    });
    let (mean_tokens, lengths) = known.unwrap_or((MEAN_TOKENS, Lengths::Guess));
    let found = match card {
        Some(card) => Ok(card),
        None => ComputeDevice::find(config.device, 0).map(|device| Room::from(&device)),
    };
    let room = match found {
        Ok(room) => room,
        Err(error) => {
            obstacles.push(format!("{error}; `pacos run` refuses this recipe"));
            Room {
                kind: DeviceKind::Cuda,
                available_bytes: None,
                ranks: 1,
            }
        }
    };
    let available_bytes = room.available_bytes;
    let planned = shape.map(|shape| {
        let lengths = TokenLengths::Estimated {
            examples,
            mean_tokens,
        };
        // What was measured here says nothing of a card elsewhere.
        let measured = measured.filter(|_| card.is_none());
        let speed = measured.and_then(|measured| measured.training_speed);
        plan(&shape, &config, lengths, room, speed)
    });
    let fits = planned.as_ref().zip(available_bytes).map(|(plan, bytes)| {
        let fits = plan.fits(bytes);
        if let Err(error) = &fits {
            obstacles.push(match card {
                Some(_) => format!("on such a card {error}"),
                None => format!("{error}; `pacos run` refuses this recipe"),
            });
        }
        fits.is_ok()
    });
    let training = Training {
        student: student.to_owned(),
        examples: examples as u64,
        held_out: held_out.len() as u64,
        steps: planned
            .as_ref()
            .map_or_else(|| total_steps(&config, examples), |plan| plan.total_steps),
        mean_tokens,
        lengths,
        plan: planned,
        available_bytes,
        fits,
        free_disk_bytes: free_disk_bytes(dir.unwrap_or(Path::new("."))),
    };
    if let (Some(needed), Some(free)) = (training.disk_bytes(), training.free_disk_bytes)
        && needed > free
    {
        obstacles.push(format!(
            "checkpoints and the trained student take {} of disk, {} are free: choose another --dir, or a lower `keep_checkpoints`",
            size(needed),
            size(free)
        ));
    }
    Ok(Some(training))
}

/// Bytes that this user may still write below `dir`, which need not be there yet.
#[cfg(unix)]
fn free_disk_bytes(dir: &Path) -> Option<u64> {
    let there = dir.ancestors().find(|folder| folder.exists());
    // The last ancestor of a relative path is the empty one.
    let there = there.unwrap_or(Path::new("."));
    let disk = rustix::fs::statvfs(there).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

#[cfg(not(unix))]
fn free_disk_bytes(_dir: &Path) -> Option<u64> {
    None
}

/// Mean tokens of tasks as the trainer would make rows of them.
#[expect(
    clippy::cast_precision_loss,
    reason = "tokens of a dataset are far below 2^53"
)]
fn mean_tokens(
    tasks: &[&Task],
    model: &KnownModel,
    shape: &LlamaConfig,
    config: &TrainConfig,
) -> Option<f64> {
    let encoder = StudentTokenizer::new(model.tokenizer()?, shape)?;
    let texts = tasks.iter().map(|task| ExampleText {
        instruction: &task.instruction,
        input: &task.input,
        output: &task.output,
    });
    let dataset = tokenize_all(&encoder, TemplateName::Alpaca, texts, config.max_seq_len).ok()?;
    let tokens: usize = dataset.rows.iter().map(|row| row.input_ids.len()).sum();
    (!dataset.rows.is_empty()).then(|| tokens as f64 / dataset.rows.len() as f64)
}
