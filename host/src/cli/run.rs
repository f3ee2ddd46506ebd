//! `pacos run`.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::Args;

use super::{Failed, ManifestArgs, progress};
use crate::{
    ledger::RunDir,
    models::Service,
    stages::{self, Options, Watch},
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
    // A directory that is there is locked before anything is loaded; a new one is made only when
    // the recipe has been found good.
    let there = options.dir.exists();
    let locked = there.then(|| RunDir::open(&options.dir)).transpose()?;
    let mut prepared = stages::prepare(recipe).await?;
    stages::plan::refuse_early(&prepared.recipe, &options.dir)?;
    let run_dir = match locked {
        Some(run_dir) => run_dir,
        None => RunDir::open(&options.dir)?,
    };
    let models = prepared.open_models(&mut progress::fetching())?;
    let bar = progress::Generation::start(prepared.recipe.dataset.target);
    let service: Arc<Mutex<Option<Arc<Service>>>> = Arc::default();
    let cancel = Arc::new(AtomicBool::new(false));
    tokio::spawn(stop_on_interrupt(service.clone(), cancel.clone()));
    let watch = Watch {
        generation: &bar,
        training: Box::new(progress::Training::default()),
        evaluation: Box::new(progress::Evaluation::default()),
        started: Box::new(|started| {
            *service.lock().expect("no holder panics") = Some(started);
        }),
        cancel,
    };
    let result = stages::run(prepared, models, &run_dir, &options, watch).await;
    bar.end();
    let outcome = result?;
    if args.json {
        let text = serde_json::json!({
            "dir": options.dir,
            "units": outcome.generated.units,
            "accepted": outcome.generated.accepted,
            "complete": outcome.complete,
            "log_likelihood": outcome.likelihoods,
            "model": outcome.trained.as_ref().map(|trained| &trained.folder),
        });
        println!("{text}");
        return Ok(());
    }
    let dir = options.dir.display();
    if outcome.nothing_to_do {
        println!(
            "Already done: {} examples in {dir}",
            outcome.generated.accepted
        );
    } else {
        println!(
            "{} examples after {} units in {dir}",
            outcome.generated.accepted, outcome.generated.units
        );
    }
    if let Some(trained) = &outcome.trained {
        println!(
            "Trained for {} steps; the student is a Hugging Face folder: {}",
            trained.steps,
            trained.folder.display()
        );
        if let Some((before, after)) = trained.held_out {
            println!(
                "Loss on examples that it never saw: {before:.3} before, {after:.3} after (nats a token)"
            );
        }
    }
    if !outcome.likelihoods.is_empty() {
        println!("Log-likelihood of the reference answers (nats a token; nearer to 0 is better):");
        for scored in &outcome.likelihoods {
            println!(
                "  {:<12} {:<7} {:.3}  over {} tokens",
                scored.model, scored.template, scored.per_token, scored.tokens
            );
        }
    }
    if !outcome.complete {
        println!("Not yet complete; the same command without --limit goes on from here.");
    }
    Ok(())
}

/// The first interrupt lets what is in flight end and be recorded; the second ends the process.
async fn stop_on_interrupt(service: Arc<Mutex<Option<Arc<Service>>>>, cancel: Arc<AtomicBool>) {
    let mut asked = false;
    while tokio::signal::ctrl_c().await.is_ok() {
        let running = service.lock().expect("no holder panics").clone();
        match running {
            Some(service) if !asked => {
                eprintln!("stopping: what is in flight is awaited and recorded; again to leave it");
                service.end();
                cancel.store(true, Ordering::Relaxed);
                asked = true;
            }
            _ => std::process::exit(130),
        }
    }
}
