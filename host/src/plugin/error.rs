//! What can go wrong between the host and a plugin.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::source::SourceError;
use crate::models::Stop;

/// A plugin that cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("cannot read plugin {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is on another machine, and not to be had.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// There is no such component in the binary.
    #[error("no bundled plugin is called `{name}`; bundled are {known}. A path has a slash in it")]
    NotBundled {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The file is another than the recipe pins.
    #[error(
        "plugin {name} has sha256 {found}, but the recipe pins {expected}; if the change is meant, write sha256 = \"{found}\""
    )]
    Checksum {
        /// Which plugin.
        name: String,
        /// What the recipe says.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// Not WASM, or WASM that is not a component.
    #[error(
        "plugin {name} is not a WASM component: {found}. Build it with `--target wasm32-wasip2`"
    )]
    NotComponent {
        /// Which plugin.
        name: String,
        /// What it is instead.
        found: String,
    },
    /// Not a library of the native ABI.
    #[error("plugin {name} is not a Pacos library: {found}")]
    NotLibrary {
        /// Which plugin.
        name: String,
        /// What is wrong with it.
        found: String,
    },
    /// A component that implements none of the stages, or none that this host knows.
    #[error("plugin {name} exports {found}, but this host serves {expected}. {advice}")]
    Contract {
        /// Which plugin.
        name: String,
        /// The interfaces that it exports.
        found: String,
        /// The interface wanted.
        expected: String,
        /// What its user, and its author, can do.
        advice: String,
    },
    /// The component did not compile or link.
    #[error("plugin {name} cannot be started: {message}")]
    Start {
        /// Which plugin.
        name: String,
        /// What wasmtime says.
        message: String,
    },
    /// A call that must not fail did.
    #[error("plugin {name} failed in `{call}`: {error}")]
    Call {
        /// Which plugin.
        name: String,
        /// Which call.
        call: &'static str,
        /// How.
        error: CallError,
    },
}

/// A call that did not bring a result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The plugin says so itself.
    #[error("{} ({})", .0.message, .0.code)]
    Plugin(pacos_plugin::Error),
    /// It trapped, or panicked.
    #[error("it broke: {0}")]
    Trap(String),
    /// It computed for too long.
    #[error("{}", timed_out(.limit, *.patience, .places))]
    Timeout {
        /// `limits.compute_seconds`.
        limit: Duration,
        /// How many times the limit it was given: more than once where it was tried again.
        patience: u32,
        /// Where in its own source it was, a line each; empty where that is not known.
        places: String,
    },
    /// The result is not one that the contract allows.
    #[error("its answer is not valid: {0}")]
    Invalid(String),
    /// The run ends for a reason that is not the plugin's.
    #[error("{0}")]
    Stopped(Arc<Stop>),
}

fn timed_out(limit: &Duration, patience: u32, places: &str) -> String {
    let again = match patience {
        0 | 1 => String::new(),
        times => format!(
            ", nor, tried once more, in {} s",
            (*limit * times).as_secs_f64()
        ),
    };
    format!(
        "it computed for more than {} s without an answer{again}; its limit is limits.compute_seconds{places}",
        limit.as_secs_f64()
    )
}

impl CallError {
    /// Kebab-case, for the ledger.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            CallError::Plugin(error) => &error.code,
            CallError::Trap(_) => "trap",
            CallError::Timeout { .. } => "timeout",
            CallError::Invalid(_) => "invalid-answer",
            CallError::Stopped(_) => "stopped",
        }
    }
}
