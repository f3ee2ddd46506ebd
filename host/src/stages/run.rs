//! A recipe from its beginning to its end, in one directory, from wherever it was left.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use super::{
    Finished, Generate, GenerateProgress, Prepared, StageError,
    evaluate::{self, EvaluateError, EvaluateProgress},
    train::{self, Cancel, TrainProgress, TrainStageError, Trained},
};
use crate::{
    dataset::{self, About, AboutModel, AboutPlugin, DatasetError},
    ledger::{Ledger, Likelihoods, RunDir},
    manifest::{Provider, Recipe, Seeds},
    models::{Served, Service},
    trainer::TrainConfig,
};

/// How to run, beside what the recipe says.
#[derive(Debug, Clone)]
pub struct Options {
    /// The run's directory.
    pub dir: PathBuf,
    /// Stop after so many units, and call it success.
    pub limit: Option<u64>,
    /// Take recorded replies from this run, at no cost.
    pub reuse: Option<PathBuf>,
}

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What generation came to.
    pub generated: Finished,
    /// Whether the dataset has as many examples as the recipe asks for.
    pub complete: bool,
    /// Whether everything was there already.
    pub nothing_to_do: bool,
    /// What training came to, where the recipe trains and the dataset is complete.
    pub trained: Option<Trained>,
    /// How likely base and student find the reference answers, where the recipe evaluates.
    pub likelihoods: Vec<Likelihoods>,
}

/// Why a run would not begin in a directory that has another's work in it.
#[derive(Debug, thiserror::Error)]
#[error("{} holds a run of another recipe:\n{differences}\nRun this recipe in a new directory with `--fork NEW`: what was asked before is not paid again. Or undo the change.", dir.display())]
pub struct OtherRun {
    dir: PathBuf,
    differences: String,
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The directory belongs to another recipe.
    #[error(transparent)]
    OtherRun(#[from] OtherRun),
    /// Generation.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// Writing the dataset.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// Training.
    #[error(transparent)]
    Train(#[from] TrainStageError),
    /// Evaluation.
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
}

/// How a run is followed and stopped, from outside.
pub struct Watch<'a> {
    /// Told how generation comes along.
    pub generation: &'a dyn GenerateProgress,
    /// Told how training comes along.
    pub training: Box<dyn TrainProgress>,
    /// Told how evaluation comes along.
    pub evaluation: Box<dyn EvaluateProgress>,
    /// Given the service when it is there, so that it can be told to end.
    pub started: Box<dyn FnOnce(Arc<Service>) + Send + 'a>,
    /// Set to stop training at the next micro-batch.
    pub cancel: Cancel,
}

impl From<crate::ledger::LedgerError> for RunError {
    fn from(error: crate::ledger::LedgerError) -> Self {
        RunError::Stage(error.into())
    }
}

impl From<crate::ledger::RunDirError> for RunError {
    fn from(error: crate::ledger::RunDirError) -> Self {
        RunError::Stage(error.into())
    }
}

/// Runs a prepared recipe.
///
/// # Errors
/// See [`RunError`]; the directory holds everything up to then.
pub async fn run(
    prepared: Prepared,
    models: Vec<Served>,
    run_dir: &RunDir,
    options: &Options,
    mut watch: Watch<'_>,
) -> Result<Outcome, RunError> {
    let ledger = run_dir.ledger()?;
    check_fingerprint(
        run_dir.path(),
        &ledger,
        &prepared.generation_fingerprint(&models),
    )
    .await?;
    if let Some(other) = &options.reuse {
        ledger.import_replies(&other.join("ledger.sqlite")).await?;
    }
    let seeds = serde_json::json!(prepared.seeds).to_string();
    ledger.set_meta("seeds", seeds).await?;
    let about = about(&prepared, &models);
    let recipe = prepared.recipe.clone();
    let mut tasks = prepared.evaluation.clone();
    if let Some(limit) = recipe.evaluation.as_ref().and_then(|table| table.limit) {
        tasks.truncate(limit);
    }
    let had = ledger.consumed()?.last().copied().unwrap_or(0);
    let mut nothing_to_do = had >= recipe.dataset.target;
    let generated = generate(
        prepared,
        models,
        &ledger,
        options,
        watch.generation,
        watch.started,
    )
    .await?;
    let complete = generated.accepted >= recipe.dataset.target;
    dataset::export(&ledger, run_dir, &about)?;
    let trained = match (&recipe.trainer, complete) {
        (Some(table), true) => {
            let table = table.as_object().cloned().unwrap_or_default();
            let config = TrainConfig::from_table(&table).map_err(|problems| {
                TrainStageError::from(crate::trainer::TrainError::Config(problems))
            })?;
            let (trained, was_there) = train_student(
                &recipe,
                config,
                &ledger,
                run_dir,
                watch.training,
                watch.cancel,
            )
            .await?;
            nothing_to_do &= was_there;
            Some(trained)
        }
        _ => None,
    };
    let likelihoods = match (&trained, student_source(&recipe)) {
        (Some(trained), Some(source)) if !tasks.is_empty() => {
            let begun = Instant::now();
            let progress = watch.evaluation.as_mut();
            let likelihoods =
                evaluate::evaluate(&source, &trained.folder, &tasks, &ledger, progress).await?;
            let seconds = begun.elapsed().as_secs_f64();
            ledger
                .set_stage("evaluate", String::new(), true, seconds)
                .await?;
            likelihoods
        }
        _ => Vec::new(),
    };
    Ok(Outcome {
        complete,
        generated,
        nothing_to_do,
        trained,
        likelihoods,
    })
}

async fn generate(
    prepared: Prepared,
    models: Vec<Served>,
    ledger: &Ledger,
    options: &Options,
    progress: &dyn GenerateProgress,
    started: Box<dyn FnOnce(Arc<Service>) + Send + '_>,
) -> Result<Finished, RunError> {
    let mut recipe = prepared.recipe.clone();
    if let Some(limit) = options.limit {
        let most = ledger.consumed()?.len() as u64 + limit;
        let most = recipe.dataset.max_units.map_or(most, |max| max.min(most));
        recipe.dataset.max_units = Some(most);
    }
    let service = Arc::new(Service::new(
        recipe.roles.clone(),
        models,
        recipe.budget.clone(),
        ledger.clone(),
    )?);
    started(service.clone());
    let begun = Instant::now();
    let generate = Generate::new(
        &recipe,
        prepared.seeds,
        prepared.generator,
        prepared.filters,
        service,
    )?;
    let generated = match generate.run(progress).await {
        Err(StageError::OutOfUnits {
            units, accepted, ..
        }) if options.limit.is_some() => Finished { units, accepted },
        other => other?,
    };
    let complete = generated.accepted >= recipe.dataset.target;
    ledger
        .set_stage(
            "generate",
            String::new(),
            complete,
            begun.elapsed().as_secs_f64(),
        )
        .await?;
    Ok(generated)
}

/// Trains, unless the same has been trained before. Says whether it had.
async fn train_student(
    recipe: &Recipe,
    config: TrainConfig,
    ledger: &Ledger,
    run_dir: &RunDir,
    mut progress: Box<dyn TrainProgress>,
    cancel: Cancel,
) -> Result<(Trained, bool), RunError> {
    let source = student_source(recipe).ok_or_else(|| {
        TrainStageError::Model("[trainer] needs a local model as [roles] student".into())
    })?;
    let examples = ledger.examples()?;
    let fingerprint = train::fingerprint(&config, &source, &examples);
    match ledger.stage("train")? {
        Some((recorded, _)) if recorded != fingerprint => {
            return Err(OtherRun {
                dir: run_dir.path().to_owned(),
                differences: format!("  train: {recorded} there,\n         {fingerprint} here"),
            }
            .into());
        }
        Some((_, true)) => {
            let trained = Trained {
                folder: run_dir.path().join("model"),
                steps: ledger.steps()?,
                held_out: ledger.held_out()?,
            };
            return Ok((trained, true));
        }
        _ => {}
    }
    ledger
        .set_stage("train", fingerprint.clone(), false, 0.0)
        .await?;
    let begun = Instant::now();
    let (dir, ledger_there) = (run_dir.path().to_owned(), ledger.clone());
    let runtime = tokio::runtime::Handle::current();
    let trained = tokio::task::spawn_blocking(move || {
        train::train(
            &source,
            &config,
            &examples,
            &dir,
            &ledger_there,
            &runtime,
            &cancel,
            progress.as_mut(),
        )
    })
    .await
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    ledger
        .set_stage("train", fingerprint, true, begun.elapsed().as_secs_f64())
        .await?;
    Ok((trained, false))
}

/// Where the student's base model is.
fn student_source(recipe: &Recipe) -> Option<String> {
    let name = recipe.roles.get("student")?;
    match &recipe.models.get(name)?.provider {
        Provider::Local(local) => Some(local.model.clone()),
        Provider::OpenAi(_) => None,
    }
}

/// What the dataset's card tells of the recipe.
fn about(prepared: &Prepared, models: &[Served]) -> About {
    let recipe = &prepared.recipe;
    let published = recipe.published();
    let plugins = std::iter::once(&prepared.generator).chain(&prepared.filters);
    let seeds = match &recipe.seeds {
        Seeds::Bundled => "written for Pacos, Apache-2.0".to_owned(),
        Seeds::File(path) => format!("from `{}`", path.file_name().unwrap_or_default().display()),
    };
    About {
        recipe: recipe.name.clone(),
        license: recipe.dataset.license.clone(),
        seeds: format!("{} seed tasks, {seeds}", prepared.seeds.len()),
        models: models
            .iter()
            .map(|served| {
                let model = &recipe.models[&served.name];
                let told = &published["models"][&served.name];
                let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
                let roles = recipe.roles.iter();
                AboutModel {
                    roles: roles
                        .filter(|(_, name)| **name == served.name)
                        .map(|(role, _)| role.clone())
                        .collect(),
                    provider: text("provider"),
                    model: text("model"),
                    identity: served.provider.identity(),
                    terms: model.terms.clone(),
                }
            })
            .collect(),
        plugins: plugins
            .map(|plugin| AboutPlugin {
                stage: plugin.recipe.path.clone(),
                title: plugin.title(),
                sha256: plugin.sha256.clone(),
            })
            .collect(),
        manifest: recipe.published_toml(),
    }
}

/// Writes the fingerprint of a new run, or compares it with the one that is there.
async fn check_fingerprint(
    dir: &Path,
    ledger: &Ledger,
    fingerprint: &BTreeMap<String, String>,
) -> Result<(), RunError> {
    let Some(recorded) = ledger.meta("fingerprint")? else {
        let text = serde_json::json!(fingerprint).to_string();
        return Ok(ledger.set_meta("fingerprint", text).await?);
    };
    let recorded: BTreeMap<String, String> = serde_json::from_str(&recorded)
        .map_err(|e| crate::ledger::LedgerError::Damaged(format!("fingerprint: {e}")))?;
    let keys: std::collections::BTreeSet<_> = recorded.keys().chain(fingerprint.keys()).collect();
    let absent = "(nothing)".to_owned();
    let differences: Vec<String> = keys
        .into_iter()
        .filter(|key| recorded.get(*key) != fingerprint.get(*key))
        .map(|key| {
            format!(
                "  {key}: {} there, {} here",
                recorded.get(key).unwrap_or(&absent),
                fingerprint.get(key).unwrap_or(&absent)
            )
        })
        .collect();
    if differences.is_empty() {
        return Ok(());
    }
    Err(OtherRun {
        dir: dir.to_owned(),
        differences: differences.join("\n"),
    }
    .into())
}
