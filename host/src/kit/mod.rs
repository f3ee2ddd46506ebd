//! What an author of plugins works with: test cases, runs by hand, the conformance kit and
//! benchmarks, all on the engine that a recipe runs on.

pub mod bench;
mod cases;
mod compare;
pub mod conformance;
mod disagreement;
mod driver;
mod expected;
pub mod lines;
mod recorded;
pub mod script;

use std::path::PathBuf;

pub use cases::{CasesReport, FailedCase, run_cases};
pub use disagreement::{Disagreement, Verdicts};
pub use driver::{Driver, Judging};
pub use recorded::Recorded;

use crate::plugin::{CallError, LoadError};

/// Why the kit could not do its work. What a plugin does wrong is in its reports.
#[derive(Debug, thiserror::Error)]
pub enum KitError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line of a file is not what it should be.
    #[error("{}:{line}: {message}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What was expected, and what was found.
        message: String,
    },
    /// The plugin broke over ordinary work.
    #[error("{plugin} broke: {error}")]
    Broke {
        /// Name and version.
        plugin: String,
        /// How.
        error: CallError,
    },
    /// The plugin cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
}
