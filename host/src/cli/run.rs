//! `pacos run`.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

use clap::Args;
use pacos_plugin::Metric;

use super::{
    Failed, ManifestArgs,
    interrupt::{INTERRUPTED, Signals},
    progress,
};
use crate::{
    counted::counted,
    ledger::RunDir,
    models::Service,
    stages::{self, Evaluated, Finished, Options, Outcome, Unread, Watch},
    trainer::launch::Launch,
};

/// Run a recipe, from wherever it was left.
///
/// Everything is kept in one directory, and nothing in it is paid for twice: kill it at any
/// moment and run the same command again.
#[derive(Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    manifest: ManifestArgs,
    /// Directory of the run [default: runs/NAME, after the recipe]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Run in this new directory, with the replies that the old one has on record
    #[arg(long, value_name = "NEW")]
    fork: Option<PathBuf>,
    /// Stop after so many units: a real run, only shorter
    #[arg(long, value_name = "UNITS")]
    limit: Option<u64>,
    /// Print what came of it as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: RunArgs) -> Result<(), Failed> {
    if let Ok(Some(launch)) = Launch::from_environment() {
        let message = format!(
            "{} started this as rank {} of {}, and `pacos run` is one process: it asks and pays teachers. Make the dataset with it, then train by several with `pacos train {}`",
            launch.launcher,
            launch.rank,
            launch.world_size,
            args.manifest.manifest.display()
        );
        return Err(Failed::Other(anyhow::anyhow!(message), 2));
    }
    let recipe = args.manifest.load()?;
    let home = args
        .dir
        .clone()
        .unwrap_or_else(|| PathBuf::from("runs").join(&recipe.name));
    let options = Options {
        dir: args.fork.clone().unwrap_or_else(|| home.clone()),
        limit: args.limit,
        reuse: args.fork.is_some().then_some(home),
    };
    if let Some(home) = &options.reuse
        && !home.join("ledger.sqlite").exists()
    {
        let message = format!(
            "{} holds no run to fork; name the old run's directory with --dir",
            home.display()
        );
        return Err(Failed::Other(anyhow::anyhow!(message), 2));
    }
    // A directory that is there is locked before anything is loaded; a new one is made only when
    // the recipe has been found good.
    let there = options.dir.exists();
    let locked = there.then(|| RunDir::open(&options.dir)).transpose()?;
    let prepared = stages::prepare_with(recipe, &mut progress::fetching_plugins()).await?;
    if options.limit.is_none() {
        stages::plan::refuse_early(&prepared.recipe, &options.dir)?;
    }
    let run_dir = match locked {
        Some(run_dir) => run_dir,
        None => RunDir::open(&options.dir)?,
    };
    let generation = progress::Generation::default();
    let service: Arc<Mutex<Weak<Service>>> = Arc::default();
    let cancel = Arc::new(AtomicBool::new(false));
    let began = Arc::new(AtomicBool::new(false));
    let told_by = Arc::new(AtomicU8::new(INTERRUPTED));
    tokio::spawn(stop_when_told(
        service.clone(),
        began.clone(),
        cancel.clone(),
        told_by.clone(),
    ));
    let mut fetching = progress::fetching();
    let watch = Watch {
        fetching: &mut fetching,
        generation: &generation,
        training: Box::new(progress::Training::default()),
        evaluation: Box::new(progress::Evaluation::default()),
        started: &|started| {
            *service.lock().expect("no holder panics") = started;
            began.store(true, Ordering::Relaxed);
        },
        cancel,
    };
    let outcome = stages::run(prepared, &run_dir, &options, watch).await;
    let outcome = outcome.map_err(|error| match error.into() {
        Failed::Other(error, INTERRUPTED) => Failed::Other(error, told_by.load(Ordering::Relaxed)),
        failed => failed,
    })?;
    if args.json {
        println!("{}", told_to_programs(&options, &outcome));
    } else {
        tell(&options, &outcome);
    }
    Ok(())
}

fn told_to_programs(options: &Options, outcome: &Outcome) -> serde_json::Value {
    let evaluated = outcome.evaluated.as_ref();
    let metrics = evaluated.map(|evaluated| {
        let metrics = evaluated.metrics.iter();
        metrics
            .map(|(evaluator, metric)| serde_json::json!({ "evaluator": evaluator, "metric": metric }))
            .collect::<Vec<_>>()
    });
    serde_json::json!({
        "dir": options.dir,
        "units": outcome.generated.units,
        "accepted": outcome.generated.accepted,
        "complete": outcome.complete,
        "model": outcome.trained.as_ref().map(|trained| &trained.folder),
        "log_likelihood": evaluated.map(|evaluated| &evaluated.likelihoods),
        "metrics": metrics,
    })
}

/// Says what came of a run, and what can be done with it now.
fn tell(options: &Options, outcome: &Outcome) {
    let dir = options.dir.display();
    let Finished { units, accepted } = outcome.generated;
    let examples = counted(accepted, "example", "examples");
    if outcome.nothing_to_do {
        println!("Already done: {examples} in {dir}");
    } else {
        let units = counted(units, "unit", "units");
        println!("{examples} after {units} in {dir}");
    }
    if let Some(trained) = &outcome.trained {
        println!("Trained for {}", counted(trained.steps, "step", "steps"));
        if let Some((before, after)) = trained.held_out {
            println!(
                "Loss on examples that it never saw: {before:.3} before, {after:.3} after (nats a token)"
            );
        }
    }
    if let Some(evaluated) = &outcome.evaluated {
        tell_evaluation(evaluated, &dir);
    }
    if !outcome.complete {
        println!("Not yet complete; the same command without --limit goes on from here.");
    }
    println!("\nWhat you can do now");
    println!("  read the report    {dir}/report.html");
    if let Some(trained) = &outcome.trained {
        let folder = trained.folder.display();
        println!("  use the student    transformers serve {folder}");
    }
    println!("  use the examples   {dir}/dataset/alpaca_data.json, .jsonl and .parquet beside it");
    println!(
        "  ask the record     sqlite3 -box {dir}/ledger.sqlite \"SELECT stage, what, code, count FROM funnel\""
    );
}

fn tell_evaluation(evaluated: &Evaluated, dir: &impl std::fmt::Display) {
    println!("Log-likelihood of the reference answers (nats a token; nearer to 0 is better):");
    for scored in &evaluated.likelihoods {
        println!(
            "  {:<12} {:<7} {:.3}  over {}",
            scored.model,
            scored.template,
            scored.per_token,
            counted(scored.tokens, "token", "tokens")
        );
    }
    for (evaluator, metric) in &evaluated.metrics {
        if metric.name == "win_rate" {
            let judge_fails = evaluated.metrics.iter().any(|(other, metric)| {
                other == evaluator && metric.name == "judge_usable" && metric.value == 0.0
            });
            println!("{}", win_rate(metric, judge_fails));
        }
    }
    if evaluated.not_judged > 0 {
        println!(
            "{} a task could not be judged; the report says why",
            counted(evaluated.not_judged, "time", "times")
        );
    }
    for unread in &evaluated.unread {
        let Unread {
            evaluator,
            index,
            roles,
            read,
            judgements,
        } = unread;
        let advice = match roles.as_slice() {
            [] => "Read".to_owned(),
            roles => format!("Take another model as {}, or read", roles.join(" and ")),
        };
        println!(
            "{read} of {judgements} judgements of {evaluator} could be read. {advice} what was answered instead: sqlite3 -box {dir}/ledger.sqlite \"SELECT reply FROM requests WHERE stage = 'evaluators.{index}'\""
        );
    }
    if let Some(sample) = &evaluated.sample {
        println!("\nA task that nobody was trained on");
        let task = match sample.task.input.as_str() {
            "" => sample.task.instruction.clone(),
            input => format!("{}\n{input}", sample.task.instruction),
        };
        for (who, text) in [
            ("task", task.as_str()),
            ("before", &sample.before),
            ("after", &sample.after),
        ] {
            println!(
                "  {who:<7} {}",
                shortened(text).replace('\n', "\n          ")
            );
        }
    }
}

/// `student against student.base: 61 % +- 5 (n = 24), first`.
fn win_rate(metric: &Metric, judge_fails: bool) -> String {
    let attribute = |name: &str| {
        let mut attributes = metric.attributes.iter();
        attributes
            .find(|attribute| attribute.name == name)
            .map_or("?", |attribute| attribute.value.as_str())
    };
    let (first, second) = (attribute("first"), attribute("second"));
    let verdict = attribute("verdict");
    let explained = match (metric.standard_error, verdict) {
        (None, "?") => String::new(),
        (Some(_), "?") => " (standard error)".to_owned(),
        (None, verdict) => format!(" (verdict: {verdict})"),
        (Some(_), verdict) => format!(" (standard error; verdict: {verdict})"),
    };
    if verdict.starts_with("cannot-tell") {
        let why = match judge_fails {
            true => "the judge does not know good answers from bad ones, as its calibration shows",
            false => "there are too few judgements",
        };
        return format!("{first} against {second}: cannot tell; {why}");
    }
    let error = metric
        .standard_error
        .map_or(String::new(), |error| format!(" +- {error:.1}"));
    format!(
        "{first} against {second}: wins {:.1} %{error} of {}{explained}",
        metric.value, metric.n
    )
}

/// The beginning of a text, for a terminal.
fn shortened(text: &str) -> String {
    const LINES: usize = 6;
    const CHARACTERS: usize = 400;
    let text = text.trim();
    let lines: Vec<&str> = text.lines().take(LINES).collect();
    let mut short: String = lines.join("\n").chars().take(CHARACTERS).collect();
    if short.len() < text.len() {
        short.push_str(" ...");
    }
    short
}

/// The first signal lets what is in flight end and be recorded; the second ends the process.
/// `told_by` becomes the exit code of the first.
async fn stop_when_told(
    service: Arc<Mutex<Weak<Service>>>,
    began: Arc<AtomicBool>,
    cancel: Arc<AtomicBool>,
    told_by: Arc<AtomicU8>,
) {
    // Where that cannot be, signals end the process as they always do.
    let Ok(mut signals) = Signals::listen() else {
        return;
    };
    let code = signals.next().await;
    told_by.store(code, Ordering::Relaxed);
    if service.lock().expect("no holder panics").strong_count() == 0
        && !began.load(Ordering::Relaxed)
    {
        // Models are still on their way; nothing is in flight.
        std::process::exit(code.into());
    }
    eprintln!("stopping: what is in flight is awaited and recorded; again to leave it");
    cancel.store(true, Ordering::Relaxed);
    // A stage that begins after the interrupt is ended too.
    let again = async {
        loop {
            if let Some(service) = service.lock().expect("no holder panics").upgrade() {
                service.end();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = again => {}
        code = signals.next() => std::process::exit(code.into()),
    }
}
