//! A recipe from its beginning to its end, in one directory, from wherever it was left.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use super::{Finished, Generate, GenerateProgress, Prepared, StageError};
use crate::{
    ledger::{Ledger, RunDir},
    models::{Served, Service},
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
    /// A stage.
    #[error(transparent)]
    Stage(#[from] StageError),
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

/// Runs a prepared recipe. `service` is told when to stop, from anywhere.
///
/// # Errors
/// See [`RunError`]; the directory holds everything up to then.
pub async fn run(
    prepared: Prepared,
    models: Vec<Served>,
    run_dir: &RunDir,
    options: &Options,
    progress: &dyn GenerateProgress,
    started: impl FnOnce(Arc<Service>),
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
    let mut recipe = prepared.recipe.clone();
    let target = recipe.dataset.target;
    let before = ledger.consumed()?;
    let had = before.last().copied().unwrap_or(0);
    let nothing_to_do = had >= target;
    if let Some(limit) = options.limit {
        let most = before.len() as u64 + limit;
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
    let complete = generated.accepted >= target;
    ledger
        .set_stage(
            "generate",
            String::new(),
            complete,
            begun.elapsed().as_secs_f64(),
        )
        .await?;
    Ok(Outcome {
        complete,
        generated,
        nothing_to_do,
    })
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
