//! A recipe from its beginning to its end, in one directory, from wherever it was left.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use pacos_plugin::{Metric, Task};
use serde_json::json;

use super::{
    FetchProgress, Finished, Generate, GenerateProgress, OpenError, Prepared, ServeError,
    StageError,
    about::about,
    evaluate::{self, EvaluateError, EvaluateProgress, Subjects},
    lock::{Lock, LockError},
    models::{BASE, Models, STUDENT, TEACHER},
    report::{self, ReportError},
    train::{self, Cancel, TrainProgress, TrainStageError, Trained},
};
use crate::{
    dataset::{self, DatasetError},
    ledger::{Ledger, LedgerError, Likelihoods, RunDir, RunDirError},
    manifest::{Evaluation, Recipe},
    models::Service,
    plugin::{Loaded, Meter, Usage},
    trainer::{TrainConfig, TrainError},
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
    /// What evaluation came to, where the recipe evaluates and the student is trained.
    pub evaluated: Option<Evaluated>,
}

/// What evaluation came to.
#[derive(Debug, Clone)]
pub struct Evaluated {
    /// How likely base and student find the reference answers.
    pub likelihoods: Vec<Likelihoods>,
    /// The evaluators' figures, each with the evaluator's place in the recipe.
    pub metrics: Vec<(u32, Metric)>,
    /// Tasks that an evaluator could not judge, over all evaluators.
    pub not_judged: u64,
    /// The evaluators most of whose judgements could not be read.
    pub unread: Vec<Unread>,
    /// A task that nobody was trained on, with an answer to show.
    pub sample: Option<Sample>,
}

/// Judgements that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Name and version of the evaluator.
    pub evaluator: String,
    /// Its place in the recipe.
    pub index: u32,
    /// The roles that it asks.
    pub roles: Vec<String>,
    /// Its judgements that could be read.
    pub read: u64,
    /// All of them.
    pub judgements: u64,
}

/// One evaluation task with its answers before and after training.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The task, with its reference answer.
    pub task: Task,
    /// What `student.base` answers.
    pub before: String,
    /// What `student` answers.
    pub after: String,
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
    /// A model is not there or not sound.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Generation.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// Writing the dataset.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// Writing down what the recipe resolved to.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Training.
    #[error(transparent)]
    Train(#[from] TrainStageError),
    /// Evaluation.
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
    /// Writing the report.
    #[error(transparent)]
    Report(#[from] ReportError),
}

impl From<LedgerError> for RunError {
    fn from(error: LedgerError) -> Self {
        RunError::Stage(error.into())
    }
}

impl From<RunDirError> for RunError {
    fn from(error: RunDirError) -> Self {
        RunError::Stage(error.into())
    }
}

impl From<ServeError> for RunError {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::Open(error) => error.into(),
            ServeError::Ledger(error) => error.into(),
        }
    }
}

/// How a run is followed and stopped, from outside.
pub struct Watch<'a> {
    /// Told how models come.
    pub fetching: FetchProgress<'a>,
    /// Told how generation comes along.
    pub generation: &'a dyn GenerateProgress,
    /// Told how training comes along.
    pub training: Box<dyn TrainProgress>,
    /// Told how evaluation comes along.
    pub evaluation: Box<dyn EvaluateProgress>,
    /// Given the service of each stage as it begins, so that it can be told to end. It is not to
    /// be kept alive: with it goes the memory of local models.
    pub started: &'a (dyn Fn(Weak<Service>) + Send + Sync),
    /// Set to stop training at the next micro-batch.
    pub cancel: Cancel,
}

/// Runs a prepared recipe.
///
/// # Errors
/// See [`RunError`]; the directory holds everything up to then.
pub async fn run(
    prepared: Prepared,
    run_dir: &RunDir,
    options: &Options,
    watch: Watch<'_>,
) -> Result<Outcome, RunError> {
    let ledger = run_dir.ledger()?;
    let meters = Meters::of(&prepared);
    let stages = run_stages(prepared, run_dir, &ledger, options, watch, &meters);
    let mut stages = std::pin::pin!(stages);
    let outcome = loop {
        tokio::select! {
            outcome = &mut stages => break outcome,
            () = tokio::time::sleep(RECORD_EVERY) => meters.record(&ledger).await?,
        }
    };
    if let Err(RunError::OtherRun(_)) = outcome {
        return outcome;
    }
    let metered = meters.record(&ledger).await;
    // Of a run that stopped, too: it says how far it came.
    let reported = report::write(&ledger, run_dir.path());
    let outcome = outcome?;
    metered?;
    reported?;
    Ok(outcome)
}

async fn run_stages(
    prepared: Prepared,
    run_dir: &RunDir,
    ledger: &Ledger,
    options: &Options,
    mut watch: Watch<'_>,
    meters: &Meters,
) -> Result<Outcome, RunError> {
    let here = Here {
        dir: run_dir.path(),
        ledger,
        reuse: options.reuse.as_deref(),
    };
    let asked = roles_of(prepared.generation());
    // A taste is no reason to fetch a student, nor is a recipe that trains none.
    let all: BTreeSet<String> = prepared.recipe.roles.keys().cloned().collect();
    let whole = options.limit.is_none() && prepared.recipe.trainer.is_some();
    let wanted = if whole { &all } else { &asked };
    prepared.models.fetch(wanted, watch.fetching)?;
    let service = prepared
        .models
        .serve(&asked, None, ledger, watch.fetching)?;
    let fingerprint = prepared.generation_fingerprint(|role| service.identity(role));
    here.check_generation(&fingerprint).await?;
    let mut tasks = prepared.evaluation.clone();
    if let Some(limit) = prepared.recipe.evaluation.as_ref().and_then(|e| e.limit) {
        tasks.truncate(limit);
    }
    here.check_later_stages(&prepared, &tasks)?;
    if let Some(other) = here.reuse {
        let other = other.join("ledger.sqlite");
        ledger.import_replies(&other).await?;
        let target = prepared.recipe.dataset.target;
        ledger.import_generation(&other, target).await?;
    }
    let about = about(&prepared, &service);
    for (key, value) in [
        ("seeds", json!(prepared.seeds)),
        ("evaluation", json!(tasks)),
        ("about", json!(about)),
    ] {
        ledger.set_meta(key, value.to_string()).await?;
    }
    let mut lock = Lock::of(&prepared, Some(run_dir.path()))?;
    lock.write(run_dir.path())?;
    let (recipe, models) = (prepared.recipe, prepared.models);
    let had = ledger.accepted()?;
    let mut nothing_to_do = had >= recipe.dataset.target;
    (watch.started)(Arc::downgrade(&service));
    let stages = (prepared.seeds, prepared.generator, prepared.filters);
    let generated = generate(&recipe, stages, service, options, watch.generation).await?;
    meters.record(ledger).await?;
    let complete = generated.accepted >= recipe.dataset.target;
    let exported = dataset::export(ledger, run_dir, &about)?;
    lock.add_dataset(&exported)?;
    lock.write(run_dir.path())?;
    let mut trained = None;
    if let (Some(table), true) = (&recipe.trainer, complete) {
        let (done, was_there) = here
            .train(&models, table, watch.training, watch.cancel)
            .await?;
        nothing_to_do &= was_there;
        trained = Some(done);
    }
    let mut evaluated = None;
    if let (Some(trained), Some(evaluation)) = (&trained, &recipe.evaluation) {
        let (done, was_there) = here
            .evaluate(
                &models,
                trained,
                (&tasks, evaluation),
                recipe.dataset.max_quarantined,
                &prepared.evaluators,
                evaluate::Watch {
                    progress: watch.evaluation.as_mut(),
                    fetching: watch.fetching,
                    started: watch.started,
                },
            )
            .await?;
        nothing_to_do &= was_there;
        evaluated = Some(done);
    }
    Ok(Outcome {
        generated,
        complete,
        nothing_to_do,
        trained,
        evaluated,
    })
}

/// How often the counts of plugins are written down: no more of them is lost to a kill.
const RECORD_EVERY: Duration = Duration::from_secs(2);

/// The counts of all plugins of a recipe, with place, name and version.
struct Meters(Vec<(String, String, Meter)>);

impl Meters {
    fn of(prepared: &Prepared) -> Self {
        let plugins = prepared.generation().chain(&prepared.evaluators);
        let meter = |plugin: &Loaded| {
            let place = plugin.recipe.path.clone();
            (place, plugin.title(), plugin.meter.clone())
        };
        Meters(plugins.map(meter).collect())
    }

    /// Adds what was counted since the last time to the ledger.
    async fn record(&self, ledger: &Ledger) -> Result<(), LedgerError> {
        for (place, title, meter) in &self.0 {
            let usage = meter.take();
            if usage != Usage::default() {
                ledger
                    .add_usage(place.clone(), title.clone(), usage)
                    .await?;
            }
        }
        Ok(())
    }
}

/// The roles that plugins declare.
pub(super) fn roles_of<'a>(plugins: impl Iterator<Item = &'a Loaded>) -> BTreeSet<String> {
    plugins
        .flat_map(|plugin| &plugin.description.capabilities)
        .filter_map(|capability| capability.strip_prefix("models:"))
        .map(str::to_owned)
        .collect()
}

fn train_config(table: &serde_json::Value) -> Result<TrainConfig, TrainStageError> {
    let table = table.as_object().cloned().unwrap_or_default();
    TrainConfig::from_table(&table).map_err(|problems| TrainError::Config(problems).into())
}

type GenerationStages = (Vec<Task>, Loaded, Vec<Loaded>);

async fn generate(
    recipe: &Recipe,
    (seeds, generator, filters): GenerationStages,
    service: Arc<Service>,
    options: &Options,
    progress: &dyn GenerateProgress,
) -> Result<Finished, RunError> {
    let ledger = service.ledger().clone();
    let mut recipe = recipe.clone();
    if let Some(limit) = options.limit {
        let most = ledger.consumed()?.len() as u64 + limit;
        let most = recipe.dataset.max_units.map_or(most, |max| max.min(most));
        recipe.dataset.max_units = Some(most);
    }
    let begun = Instant::now();
    let generate = Generate::new(&recipe, seeds, generator, filters, service)?;
    let generated = match generate.run(progress).await {
        Err(StageError::OutOfUnits {
            units, accepted, ..
        }) if options.limit.is_some() => Ok(Finished { units, accepted }),
        other => other,
    };
    let complete = generated
        .as_ref()
        .is_ok_and(|done| done.accepted >= recipe.dataset.target);
    let seconds = begun.elapsed().as_secs_f64();
    ledger
        .set_stage("generate", String::new(), complete, seconds)
        .await?;
    Ok(generated?)
}

/// The directory of a run, with what is known of it.
struct Here<'a> {
    dir: &'a Path,
    ledger: &'a Ledger,
    reuse: Option<&'a Path>,
}

impl Here<'_> {
    /// Compares what a stage depends on with what is recorded of it.
    fn same(&self, recorded: &str, fingerprint: &BTreeMap<String, String>) -> Result<(), RunError> {
        let recorded: BTreeMap<String, String> = serde_json::from_str(recorded)
            .map_err(|e| LedgerError::Damaged(format!("fingerprint: {e}")))?;
        let keys: BTreeSet<_> = recorded.keys().chain(fingerprint.keys()).collect();
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
        Err(self.other_run(differences.join("\n")))
    }

    /// Compares a stage that was begun. Says whether it was finished.
    fn check_stage(
        &self,
        name: &str,
        fingerprint: &BTreeMap<String, String>,
    ) -> Result<bool, RunError> {
        match self.ledger.stage(name)? {
            Some((recorded, finished)) => {
                self.same(&recorded, fingerprint)?;
                Ok(finished)
            }
            None => Ok(false),
        }
    }

    /// Writes the fingerprint of a new run, or compares it with the one that is there.
    async fn check_generation(
        &self,
        fingerprint: &BTreeMap<String, String>,
    ) -> Result<(), RunError> {
        match self.ledger.meta("fingerprint")? {
            Some(recorded) => self.same(&recorded, fingerprint),
            None => {
                let text = json!(fingerprint).to_string();
                Ok(self.ledger.set_meta("fingerprint", text).await?)
            }
        }
    }

    /// Compares everything after generation that was begun here before, so that a recipe which is
    /// refused leaves no trace in the record.
    fn check_later_stages(&self, prepared: &Prepared, tasks: &[Task]) -> Result<(), RunError> {
        let Some((trained_from, _)) = self.ledger.stage("train")? else {
            return Ok(());
        };
        let recipe = &prepared.recipe;
        let had = self.ledger.accepted()?;
        let target = recipe.dataset.target;
        if had < target {
            return Err(self.other_run(format!(
                "  dataset.target: the student is trained on {had} examples there, {target} here"
            )));
        }
        if let (Some(table), Some(source)) = (&recipe.trainer, prepared.models.source(STUDENT)) {
            let config = train_config(table)?;
            let examples = self.ledger.examples()?;
            self.same(
                &trained_from,
                &train::fingerprint(&config, &source, &examples),
            )?;
        }
        let Some(evaluation) = &recipe.evaluation else {
            return Ok(());
        };
        let folder = self.dir.join("model");
        let subjects = Subjects {
            models: &prepared.models,
            trained: &folder,
            trained_from: &trained_from,
            tasks,
            max_tokens: evaluation.max_tokens,
            max_failed: recipe.dataset.max_quarantined,
            ledger: self.ledger,
        };
        let fingerprint = subjects.fingerprint();
        for role in [BASE, STUDENT, TEACHER] {
            self.check_stage(&evaluate::stage_of(role), &fingerprint)?;
        }
        for (index, evaluator) in prepared.evaluators.iter().enumerate() {
            let fingerprint = subjects.judging_fingerprint(evaluator);
            self.check_stage(&format!("evaluators.{index}"), &fingerprint)?;
        }
        let beyond = format!("evaluators.{}", prepared.evaluators.len());
        match self.ledger.stage(&beyond)? {
            Some(_) => Err(self.other_run(format!("  {beyond}: begun there, nothing here"))),
            None => Ok(()),
        }
    }

    fn other_run(&self, differences: String) -> RunError {
        OtherRun {
            dir: self.dir.to_owned(),
            differences,
        }
        .into()
    }

    /// Trains, unless the same has been trained before. Says whether it had.
    async fn train(
        &self,
        models: &Models,
        table: &serde_json::Value,
        mut progress: Box<dyn TrainProgress>,
        cancel: Cancel,
    ) -> Result<(Trained, bool), RunError> {
        let source = models.source(STUDENT).ok_or_else(|| {
            TrainStageError::Model("[trainer] needs a local model as [roles] student".into())
        })?;
        let config = train_config(table)?;
        let examples = self.ledger.examples()?;
        let fingerprint = train::fingerprint(&config, &source, &examples);
        let text = json!(fingerprint).to_string();
        if let Some(other) = self.reuse {
            train::take_over(other, self.dir, self.ledger, &text).await?;
        }
        if self.check_stage("train", &fingerprint)? {
            let trained = Trained {
                folder: self.dir.join("model"),
                steps: self.ledger.steps()?,
                held_out: self.ledger.held_out()?,
            };
            return Ok((trained, true));
        }
        self.ledger
            .set_stage("train", text.clone(), false, 0.0)
            .await?;
        let begun = Instant::now();
        let (dir, ledger) = (self.dir.to_owned(), self.ledger.clone());
        let runtime = tokio::runtime::Handle::current();
        let trained = tokio::task::spawn_blocking(move || {
            train::train(
                &source,
                &config,
                &examples,
                &dir,
                &ledger,
                &runtime,
                &cancel,
                progress.as_mut(),
            )
        })
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        let seconds = begun.elapsed().as_secs_f64();
        self.ledger
            .set_stage("train", text, trained.is_ok(), seconds)
            .await?;
        Ok((trained?, false))
    }

    /// Scores, answers and judges, unless it has been done before. Says whether it had.
    async fn evaluate(
        &self,
        models: &Models,
        trained: &Trained,
        (tasks, evaluation): (&[Task], &Evaluation),
        max_failed: u64,
        evaluators: &[Loaded],
        mut watch: evaluate::Watch<'_>,
    ) -> Result<(Evaluated, bool), RunError> {
        let trained_from = self.ledger.stage("train")?.unwrap_or_default().0;
        let subjects = Subjects {
            models,
            trained: &trained.folder,
            trained_from: &trained_from,
            tasks,
            max_tokens: evaluation.max_tokens,
            max_failed,
            ledger: self.ledger,
        };
        let mut was_there = !subjects.compare(&mut watch).await?;
        for (index, evaluator) in (0_u32..).zip(evaluators) {
            was_there &= !subjects.judge(index, evaluator, &mut watch).await?;
        }
        let (mut not_judged, mut unread) = (0, Vec::new());
        for (index, evaluator) in (0_u32..).zip(evaluators) {
            not_judged += self.ledger.failed_items(index)?.0;
            let (unparsed, judgements) = self.ledger.unparsed(index)?;
            if 2 * unparsed > judgements {
                unread.push(Unread {
                    evaluator: evaluator.title(),
                    index,
                    roles: roles_of(std::iter::once(evaluator)).into_iter().collect(),
                    read: judgements - unparsed,
                    judgements,
                });
            }
        }
        let evaluated = Evaluated {
            not_judged,
            unread,
            likelihoods: self.ledger.likelihoods()?,
            metrics: self.ledger.metrics()?,
            sample: self.sample(tasks)?,
        };
        Ok((evaluated, was_there))
    }

    /// The first task that both answered, and not with the same words if there is one.
    fn sample(&self, tasks: &[Task]) -> Result<Option<Sample>, LedgerError> {
        let mut answers: BTreeMap<u64, BTreeMap<String, String>> = BTreeMap::new();
        for answer in self.ledger.answers()? {
            if let Ok((text, _)) = answer.outcome {
                let of_task = answers.entry(answer.item).or_default();
                of_task.insert(answer.model, text);
            }
        }
        let mut samples = (0_u64..).zip(tasks).filter_map(|(item, task)| {
            let answers = answers.get(&item)?;
            Some(Sample {
                task: task.clone(),
                before: answers.get(BASE)?.clone(),
                after: answers.get(STUDENT)?.clone(),
            })
        });
        let first = samples.next();
        let differs = |sample: &Sample| sample.before != sample.after;
        Ok(match first {
            Some(first) if !differs(&first) => samples.find(differs).or(Some(first)),
            first => first,
        })
    }
}
