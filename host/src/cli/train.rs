//! `pacos train`.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::anyhow;
use clap::Args;
use serde_json::{Map, Value, json};

use super::{Failed, ManifestArgs, progress, train_code};
use crate::{
    download,
    ledger::RunDir,
    stages::{
        Examples, Ranks, RanksError, TrainAlone, TrainAloneError, TrainProgress, TrainStageError,
        TrainedAlone, train_alone, train_of_recipe,
    },
    trainer::{self, HeldOutLoss, Plan, StepRecord, TrainConfig, TrainError, plan::size},
};

#[derive(Args)]
pub(super) struct TrainArgs {
    /// A recipe (.toml), or a dataset: JSON Lines, or a JSON array such as alpaca_data.json
    #[arg(value_name = "MANIFEST|DATASET")]
    subject: PathBuf,
    /// The dataset of a recipe: a file, or a run's directory [default: runs/NAME]
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// The student of a dataset: a folder, a GGUF file, hf:OWNER/NAME, or
    /// embedded:smollm2-135m-instruct
    #[arg(long, value_name = "SOURCE")]
    model: Option<String>,
    /// Directory for checkpoints and the trained model [default: trained/NAME]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Another value for a setting, such as trainer.epochs=1; can be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Leave out examples whose prompt fills max_seq_len, as Stanford's script does in silence
    #[arg(long)]
    skip_long_prompts: bool,
    /// Fetch no model: what is not on this machine is an error
    #[arg(long)]
    offline: bool,
    /// Print what came of it as JSON
    #[arg(long)]
    json: bool,
}

/// What is to be done, from either form of the command.
struct Subject {
    name: String,
    student: String,
    config: TrainConfig,
    data: PathBuf,
}

pub(super) async fn train(args: TrainArgs) -> Result<(), Failed> {
    let is_manifest = args.subject.extension().is_some_and(|ext| ext == "toml");
    let subject = match is_manifest {
        true => of_manifest(&args)?,
        false => of_dataset(&args)?,
    };
    let examples = Examples::load(&subject.data).map_err(TrainAloneError::from)?;
    let dir = args
        .dir
        .clone()
        .unwrap_or_else(|| Path::new("trained").join(&subject.name));
    let ranks = apart(|| Ranks::join(&|sentence| eprintln!("{sentence}")))
        .await
        .map_err(TrainAloneError::from)?;
    let rank = ranks.rank();
    // Rank 0 alone writes there, and speaks.
    let locked = match rank {
        0 => Some(RunDir::open(&dir).inspect_err(|error| ranks.stop(&error.to_string()))?),
        _ => None,
    };
    let cancel = Arc::new(AtomicBool::new(false));
    tokio::spawn(stop_on_interrupt(cancel.clone(), rank == 0));
    let skip_long_prompts = args.skip_long_prompts;
    let there = dir.clone();
    let trained = apart(move || {
        let job = TrainAlone {
            student: &subject.student,
            config: &subject.config,
            examples: &examples,
            dir: locked.as_ref().map_or(&there, RunDir::path),
            skip_long_prompts,
            cancel: &cancel,
        };
        if rank > 0 {
            return train_alone(&job, ranks, &mut |_| {}, &mut Silent);
        }
        let mut progress = progress::Training::that_tells_the_plan();
        train_alone(&job, ranks, &mut progress::fetching(), &mut progress)
    })
    .await;
    let trained = match (rank, trained.map_err(Failed::from)) {
        (0, trained) => trained?,
        (_, Ok(_)) => return Ok(()),
        (rank, Err(Failed::Other(error, code))) => {
            return Err(Failed::Other(error.context(format!("rank {rank}")), code));
        }
        (_, Err(failed)) => return Err(failed),
    };
    match args.json {
        true => println!("{}", told_to_programs(&dir, &trained)),
        false => tell(&dir, &trained),
    }
    Ok(())
}

/// Runs what blocks where it may.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// What ranks other than the first tell.
struct Silent;

impl TrainProgress for Silent {
    fn plan(&mut self, _: &Plan) {}

    fn step(&mut self, _: &StepRecord, _: u64) {}

    fn held_out(&mut self, _: &HeldOutLoss) {}

    fn notice(&mut self, _: &str) {}
}

fn of_manifest(args: &TrainArgs) -> Result<Subject, Failed> {
    if args.model.is_some() {
        let message = "--model is for a dataset; a recipe names its student under [roles]. Another one is --set roles.student=NAME";
        return Err(Failed::Other(anyhow!(message), 2));
    }
    let manifest = ManifestArgs {
        manifest: args.subject.clone(),
        set: args.set.clone(),
        offline: args.offline,
    };
    let recipe = manifest.load()?;
    let (student, config) = train_of_recipe(&recipe)?;
    let data = args
        .data
        .clone()
        .unwrap_or_else(|| Path::new("runs").join(&recipe.name));
    if !data.exists() {
        let message = format!(
            "there is no {}; name the dataset with --data FILE, or make it with `pacos run {}`",
            data.display(),
            args.subject.display()
        );
        return Err(Failed::Other(anyhow!(message), 2));
    }
    Ok(Subject {
        name: recipe.name,
        student,
        config,
        data,
    })
}

fn of_dataset(args: &TrainArgs) -> Result<Subject, Failed> {
    let wrong = |message: String| Failed::Other(anyhow!(message), 2);
    if args.offline {
        download::forbid();
    }
    if args.data.is_some() {
        return Err(wrong(
            "--data goes with a manifest; here the dataset is named already".into(),
        ));
    }
    let Some(student) = args.model.clone() else {
        return Err(wrong(
            "a dataset needs a student: --model embedded:smollm2-135m-instruct, a folder, a GGUF file or hf:OWNER/NAME".into(),
        ));
    };
    let mut table = Map::new();
    for set in &args.set {
        let (key, value) = setting(set).ok_or_else(|| {
            wrong(format!(
                "`--set {set}` is no setting of the trainer; write --set trainer.epochs=1"
            ))
        })?;
        place(&mut table, &key, value);
    }
    let config = TrainConfig::from_table(&table).map_err(|problems| {
        TrainAloneError::from(TrainStageError::from(TrainError::Config(problems)))
    })?;
    let data = args.subject.clone();
    let name = match data.is_dir() {
        true => data.file_name(),
        false => data.file_stem(),
    };
    Ok(Subject {
        name: name.map_or_else(|| "dataset".into(), |name| name.to_string_lossy().into()),
        student,
        config,
        data,
    })
}

/// Lays a value in a table, or in one of its tables where the key is dotted.
fn place(table: &mut Map<String, Value>, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((first, rest)) => {
            let inner = table.entry(first).or_insert_with(|| json!({}));
            if let Some(inner) = inner.as_object_mut() {
                place(inner, rest, value);
            }
        }
    }
}

/// `trainer.KEY=VALUE`, the value as TOML reads it; what it cannot read is a text.
fn setting(text: &str) -> Option<(String, Value)> {
    let (key, value) = text.strip_prefix("trainer.")?.split_once('=')?;
    let value = toml::from_str::<Map<String, Value>>(&format!("value = {value}"))
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| value.trim().into());
    Some((key.trim().to_owned(), value))
}

fn told_to_programs(dir: &Path, trained: &TrainedAlone) -> Value {
    let losses: Vec<f64> = trained.history.iter().map(|step| step.loss).collect();
    json!({
        "dir": dir,
        "model": trained.trained.folder,
        "steps": trained.trained.steps,
        "losses": losses,
        "held_out_loss": trained.trained.held_out,
    })
}

fn tell(dir: &Path, trained: &TrainedAlone) {
    let steps = &trained.history;
    println!("Trained for {} steps in {}", steps.len(), dir.display());
    if let (Some(first), Some(last)) = (steps.first(), steps.last()) {
        println!(
            "Loss in training: {:.3} at the first step, {:.3} at the last (nats a token)",
            first.loss, last.loss
        );
    }
    if let Some((before, after)) = trained.trained.held_out {
        println!(
            "Loss on examples that it never saw: {before:.3} before, {after:.3} after (nats a token)"
        );
    }
    let seconds: f64 = steps.iter().map(|step| step.seconds).sum();
    let tokens: u64 = steps.iter().map(|step| step.tokens).sum();
    if seconds > 0.0 {
        println!("Speed: {:.0} tokens a second", tokens as f64 / seconds);
    }
    if let Some(peak) = trainer::memory::peak_bytes() {
        println!("Memory: {} at most", size(peak));
    }
    let folder = trained.trained.folder.display();
    println!("The trained model is in {folder}");
}

/// The first interrupt has a checkpoint saved; the second ends the process.
async fn stop_on_interrupt(cancel: Arc<AtomicBool>, aloud: bool) {
    if tokio::signal::ctrl_c().await.is_err() {
        return;
    }
    if aloud {
        eprintln!("stopping: a checkpoint is saved first; again to leave it");
    }
    cancel.store(true, Ordering::Relaxed);
    if tokio::signal::ctrl_c().await.is_ok() {
        std::process::exit(130);
    }
}

impl From<TrainAloneError> for Failed {
    fn from(error: TrainAloneError) -> Self {
        let code = match &error {
            TrainAloneError::NoTrainer(_)
            | TrainAloneError::Examples(_)
            | TrainAloneError::LongPrompts { .. }
            | TrainAloneError::OfARecipe(_)
            | TrainAloneError::OtherStudent { .. }
            | TrainAloneError::Ranks(RanksError::Launch(_) | RanksError::OneCard { .. })
            | TrainAloneError::Train(TrainStageError::Trainer(
                TrainError::Row { .. } | TrainError::NoRows,
            )) => 2,
            TrainAloneError::NotFinite { .. } => 1,
            TrainAloneError::Record { .. } => 5,
            TrainAloneError::Ranks(RanksError::Join(_) | RanksError::NoNccl(_)) => 3,
            TrainAloneError::Ranks(RanksError::Collective(_)) => 1,
            TrainAloneError::Train(error) => train_code(error),
        };
        Failed::Other(error.into(), code)
    }
}
