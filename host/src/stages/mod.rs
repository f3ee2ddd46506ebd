//! The stages of a recipe. Each reads the ledger, does one thing, writes the ledger.

mod about;
mod calls;
mod evaluate;
mod examples;
mod filter;
mod generate;
mod judge;
pub mod lock;
mod models;
pub mod plan;
mod prepare;
mod ranks;
pub mod report;
mod run;
mod seeds;
mod told;
mod train;
mod train_alone;

use std::sync::Arc;

pub use evaluate::{EvaluateError, EvaluatePart, EvaluateProgress};
pub use examples::{Examples, ExamplesError};
pub use generate::{Finished, Generate, Progress as GenerateProgress};
pub(crate) use judge::check as check_judgements;
pub use models::{FetchProgress, Models, OpenError, ServeError};
pub use prepare::{Prepared, bundled_seeds, prepare, prepare_with, source_name};
pub use ranks::{Ranks, RanksError};
pub use run::{Evaluated, Options, OtherRun, Outcome, RunError, Sample, Unread, Watch, run};
pub use seeds::{SeedError, load as load_seeds};
pub use train::{Cancel, TrainProgress, TrainStageError, Trained};
pub use train_alone::{
    TrainAlone, TrainAloneError, TrainedAlone, of_recipe as train_of_recipe, train_alone,
};

use crate::{
    counted::counted,
    ledger::{LedgerError, RunDirError},
    models::Stop,
    plugin::{CallError, LoadError},
};

/// Why a stage ended before its work was done. What was recorded stays.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// A plugin failed where the run cannot go on without it.
    #[error("{plugin} failed {doing}: {error}")]
    Plugin {
        /// Name and version.
        plugin: String,
        /// What it was doing.
        doing: String,
        /// How it failed.
        error: CallError,
    },
    /// A plugin could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Models, budget, ledger or user.
    #[error("{0}")]
    Stopped(Arc<Stop>),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The run directory.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// The generator goes on and nothing is accepted.
    #[error(
        "the last {} accepted nothing ({accepted} of {target} examples so far): {reasons}. Loosen the filters, change the generator, or take what there is with --set dataset.target={accepted}", counted(*units, "unit", "units")
    )]
    Barren {
        /// Units without an accepted candidate.
        units: u64,
        /// Accepted so far.
        accepted: u64,
        /// Wanted.
        target: u64,
        /// Commonest reasons of these units.
        reasons: String,
    },
    /// `max_units` was reached first.
    #[error(
        "{} done, as many as [dataset] max_units allows, and {accepted} of {target} examples are accepted", counted(*units, "unit is", "units are")
    )]
    OutOfUnits {
        /// The limit.
        units: u64,
        /// Accepted so far.
        accepted: u64,
        /// Wanted.
        target: u64,
    },
    /// An evaluator fails over too many tasks.
    #[error(
        "{evaluator} could not judge {count} of {tasks} tasks, more than [dataset] max_quarantined; the last: {last}. Mend the evaluator or its models and use `--fork NEW`: nothing is trained again, and no reply is paid twice"
    )]
    TooManyItems {
        /// Name and version.
        evaluator: String,
        /// How many.
        count: u64,
        /// Of how many.
        tasks: u64,
        /// Why the last one failed.
        last: String,
    },
    /// Too many records break a filter.
    #[error(
        "{} broke a filter, more than max_quarantined = {limit}; the last: {last}. Mend the plugin, or raise [dataset] max_quarantined; with the plugin or its config changed, `--fork NEW` judges them again", counted(*count, "record", "records")
    )]
    TooManyQuarantined {
        /// How many.
        count: u64,
        /// The limit.
        limit: u64,
        /// What the last one did.
        last: String,
    },
}

impl From<CallError> for StageError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Stopped(stop) => StageError::Stopped(stop),
            error => StageError::Plugin {
                plugin: "plugin".into(),
                doing: "starting".into(),
                error,
            },
        }
    }
}
