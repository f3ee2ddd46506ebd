//! The command line: what people type, see and get back.

#[macro_use]
mod output;

mod chat;
mod check;
mod convert;
mod interrupt;
mod model;
mod plan;
mod plugin;
mod progress;
mod recorded;
mod report;
mod run;
mod serve;
mod train;
mod verify;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use pacos_plugin::Diagnostic;
use tokio::{runtime::Handle, task};

use crate::{
    download,
    manifest::{Checks, Plugin, Problems, Recipe},
    models::Stop,
    plugin::{CallError, Loaded},
    stages::{EvaluateError, RunError, ServeError, StageError, TrainStageError, plan::Refused},
    trainer::{TrainConfig, TrainError},
};

/// The Alpaca recipe as a framework: generate, filter, train, evaluate.
///
/// A recipe is one TOML manifest. `pacos run manifests/local.toml` needs no key and no GPU.
#[derive(Parser)]
#[command(name = "pacos", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// More of what is going on; twice for everything
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 something unforeseen, 2 the command or the manifest is wrong, \
3 a model or the budget stopped the run, 4 a plugin failed, 5 the disk or the run directory, 130 interrupted, 143 told to end (SIGTERM), \
141 nobody reads standard output any more.";

#[derive(Subcommand)]
enum Command {
    /// Run a recipe, from wherever it was left
    Run(run::RunArgs),
    /// Train a student on a dataset, and nothing else
    ///
    /// No teacher, no key, no evaluation. With a manifest, its student and its [trainer] are taken; with
    /// a dataset, --model and the published recipe's settings. Kill it at any moment and run the same
    /// command again. Started as several processes by torchrun, srun or mpirun, it divides the work
    /// among them.
    Train(train::TrainArgs),
    /// Find everything that is wrong with a recipe, without starting or spending anything
    Check(check::CheckArgs),
    /// Write one page that says what a run came to, finished or not
    Report(report::ReportArgs),
    /// Say what a run would ask, cost, train and evaluate, without asking or spending anything
    Plan(plan::PlanArgs),
    /// Say whether a recipe still resolves to what was run, and a run still holds what it made
    Verify(verify::VerifyArgs),
    /// Talk with a model on this machine
    Chat(chat::ChatArgs),
    /// Serve a model on this machine to programs that speak OpenAI's API
    Serve(serve::ServeArgs),
    /// Fetch and look at models
    Model(model::ModelArgs),
    /// Write a model in another form, for other programs
    Convert(convert::ConvertArgs),
    /// Write, build, test and look at plugins
    Plugin(plugin::PluginArgs),
}

/// The manifest, and what is said otherwise on the command line.
#[derive(Args, Clone)]
struct ManifestArgs {
    /// The recipe
    manifest: PathBuf,
    /// Another value for a key of the manifest, such as dataset.target=200; can be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Fetch no plugin and no model: what is not on this machine is an error
    #[arg(long)]
    offline: bool,
}

impl ManifestArgs {
    fn load(&self) -> Result<Recipe, Failed> {
        if self.offline {
            download::forbid();
        }
        let trainer = |table: &serde_json::Value| {
            let table = table.as_object().cloned().unwrap_or_default();
            match TrainConfig::from_table(&table) {
                Ok(_) => Vec::new(),
                Err(problems) => problems
                    .into_iter()
                    .map(|problem| Diagnostic::error(problem.field, problem.message))
                    .collect(),
            }
        };
        let plugin = |plugin: &Plugin| {
            let said = async { Loaded::load(plugin).await.ok()?.diagnose().await.ok() };
            let said = task::block_in_place(|| Handle::current().block_on(said));
            // What keeps it from being loaded is said once the manifest is right.
            said.unwrap_or_default()
        };
        let checks = Checks {
            trainer: Some(&trainer),
            plugin: Some(&plugin),
        };
        Ok(Recipe::load_with(&self.manifest, &self.set, &checks)?)
    }
}

/// A command that did not do what was asked.
enum Failed {
    /// The manifest, with places to point at.
    Manifest(Problems),
    /// Anything else: the message, and the exit code that its kind has.
    Other(anyhow::Error, u8),
}

impl From<Problems> for Failed {
    fn from(problems: Problems) -> Self {
        Failed::Manifest(problems)
    }
}

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Self {
        Failed::Other(error, 1)
    }
}

impl From<crate::ledger::RunDirError> for Failed {
    fn from(error: crate::ledger::RunDirError) -> Self {
        Failed::Other(error.into(), 5)
    }
}

impl From<Refused> for Failed {
    fn from(error: Refused) -> Self {
        Failed::Other(error.into(), 3)
    }
}

impl From<RunError> for Failed {
    fn from(error: RunError) -> Self {
        let code = match &error {
            RunError::OtherRun(_) => 2,
            RunError::Train(error) => train_code(error),
            RunError::Stage(stage) | RunError::Evaluate(EvaluateError::Stage(stage)) => {
                stage_code(stage)
            }
            RunError::Dataset(_)
            | RunError::Report(_)
            | RunError::Lock(_)
            | RunError::Evaluate(EvaluateError::Serve(ServeError::Ledger(_))) => 5,
            RunError::Open(_) | RunError::Evaluate(_) => 3,
        };
        Failed::Other(error.into(), code)
    }
}

fn train_code(error: &TrainStageError) -> u8 {
    match error {
        TrainStageError::LongPrompts { .. }
        | TrainStageError::Trainer(TrainError::OtherRun { .. } | TrainError::Config(_)) => 2,
        TrainStageError::Ledger(_)
        | TrainStageError::Save { .. }
        | TrainStageError::Trainer(TrainError::Checkpoint(_)) => 5,
        TrainStageError::Model(_) | TrainStageError::Device(_) | TrainStageError::Plan(_) => 3,
        TrainStageError::Trainer(TrainError::Cancelled { .. }) => 130,
        TrainStageError::Trainer(_) => 1,
    }
}

fn stage_code(error: &StageError) -> u8 {
    match error {
        StageError::Plugin {
            error: CallError::Stopped(stop),
            ..
        }
        | StageError::Stopped(stop) => match **stop {
            Stop::Interrupted => 130,
            Stop::Ledger(_) => 5,
            Stop::NotDeterministic { .. } => 4,
            Stop::Fatal { .. }
            | Stop::Failing { .. }
            | Stop::ServerFailing { .. }
            | Stop::ServerGone { .. }
            | Stop::Budget { .. } => 3,
        },
        StageError::Plugin { .. }
        | StageError::Load(_)
        | StageError::Barren { .. }
        | StageError::OutOfUnits { .. }
        | StageError::TooManyItems { .. }
        | StageError::TooManyQuarantined { .. } => 4,
        StageError::Ledger(_) | StageError::RunDir(_) => 5,
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    progress::start_log(cli.verbose);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no threads to work with: {error}");
            return ExitCode::from(1);
        }
    };
    let done = runtime.block_on(async {
        match cli.command {
            Command::Run(args) => run::run(args).await,
            Command::Train(args) => train::train(args).await,
            Command::Check(args) => check::check(args).await,
            Command::Report(args) => report::report(args),
            Command::Plan(args) => plan::plan(args).await,
            Command::Verify(args) => verify::verify(args).await,
            Command::Chat(args) => chat::chat(args).await,
            Command::Serve(args) => serve::serve(args).await,
            Command::Model(args) => model::model(args),
            Command::Convert(args) => convert::convert(args),
            Command::Plugin(args) => plugin::plugin(args).await,
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed::Manifest(problems)) => {
            // Where standard error is gone there is nobody left to tell.
            let _ = problems.eprint();
            ExitCode::from(2)
        }
        Err(Failed::Other(error, code)) => {
            eprintln!("error: {}", in_full(&error));
            ExitCode::from(code)
        }
    }
}

/// An error and its causes, but for causes that have been told already: most of our messages
/// hold their cause's words.
fn in_full(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if told.is_empty() {
            told = cause;
        } else if !told.contains(&cause) {
            told = format!("{told}: {cause}");
        }
    }
    told
}
