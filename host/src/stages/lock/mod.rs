//! `pacos.lock`: everything that a recipe resolved to when it was run, in a file that can be
//! handed on, read and compared. The run itself never reads it.

mod compare;
mod resolve;
mod verify;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub use compare::Difference;
pub use verify::{VerifyError, own_files};

use crate::llama::FileIdentity;

/// The lock's name in a run's directory.
pub const FILE: &str = "pacos.lock";

/// What [`Lock::version`] is of locks that this release writes and reads.
const VERSION: u32 = 1;

/// A file that is no lock, or a lock that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// There is none.
    #[error("there is no {}: `pacos run` writes it, from this release on, when a run begins or goes on", .0.display())]
    Absent(PathBuf),
    /// It cannot be read or written.
    #[error("cannot {action} {}: {source}; make room, or make it readable and writable", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The lock.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is something else.
    #[error("{} is no lock of a run: {reason}; `pacos run` writes it anew", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another release wrote it.
    #[error("{} has version {found}, and this release reads version {VERSION}: use Pacos {by}, which wrote it", path.display())]
    Version {
        /// The lock.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The release that wrote it.
        by: String,
    },
    /// A model's file cannot be read.
    #[error(transparent)]
    Model(#[from] crate::llama::SourceError),
}

/// What a recipe resolved to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lock {
    /// Version of this format.
    pub version: u32,
    /// Release of Pacos.
    pub pacos: String,
    /// Version of the plugin contract that it serves.
    pub contract: String,
    /// The manifest.
    pub recipe: LockedRecipe,
    /// The seed tasks.
    pub seeds: LockedTasks,
    /// The evaluation tasks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<LockedTasks>,
    /// By their place in the recipe: `generator`, `filters.0`.
    pub plugins: BTreeMap<String, LockedPlugin>,
    /// By their names in the recipe, those that a role names.
    #[serde(default)]
    pub models: BTreeMap<String, LockedModel>,
    /// The files that the dataset was written to, once it was.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dataset: BTreeMap<String, FileIdentity>,
}

/// A manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LockedRecipe {
    /// Name of the recipe.
    pub name: String,
    /// The file, as seen from the run's directory; its name alone where the two have nothing but
    /// the root in common, as the rest would say too much about its owner.
    pub manifest: String,
    /// Of the file.
    pub sha256: String,
    /// `seed`.
    pub seed: u64,
    /// What `--set` said.
    pub overrides: Vec<String>,
    /// Every setting that can change a result and stands nowhere else in the lock, by its dotted
    /// path, defaults included.
    pub settings: BTreeMap<String, toml::Value>,
}

/// Tasks from a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LockedTasks {
    /// The file, as seen from the manifest; `bundled` for those inside the binary.
    pub source: String,
    /// Of the file.
    pub sha256: String,
    /// How many there are in it.
    pub tasks: usize,
}

/// A plugin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LockedPlugin {
    /// As the manifest names it.
    pub source: String,
    /// What a registry's tag stood for. It may move and the component stay the same: `sha256` is
    /// what counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<String>,
    /// Of the component or library.
    pub sha256: String,
    /// In bytes.
    pub size: u64,
    /// What it calls itself.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// The interface that it implements.
    pub contract: String,
    /// Of its configuration, as JSON.
    pub config_sha256: String,
}

/// A model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LockedModel {
    /// The roles that name it.
    pub roles: Vec<String>,
    /// `openai` or `local`.
    pub provider: String,
    /// The provider's name for it, or where it comes from.
    pub model: String,
    /// The server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// The hub's commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The files of a local model that are on this machine.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, FileIdentity>,
}

impl Lock {
    /// Reads a lock.
    ///
    /// # Errors
    /// When it is not there, not one, or another release's.
    pub fn read(path: &Path) -> Result<Self, LockError> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
            #[serde(default)]
            pacos: String,
        }
        let text = fs::read_to_string(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => LockError::Absent(path.to_owned()),
            _ => LockError::Io {
                action: "read",
                path: path.to_owned(),
                source,
            },
        })?;
        let unreadable = |error: toml::de::Error| LockError::Unreadable {
            path: path.to_owned(),
            reason: error.message().to_owned(),
        };
        let head: Head = toml::from_str(&text).map_err(unreadable)?;
        if head.version != VERSION {
            return Err(LockError::Version {
                path: path.to_owned(),
                found: head.version,
                by: head.pacos,
            });
        }
        toml::from_str(&text).map_err(unreadable)
    }

    /// Writes it into a run's directory, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written; what stood there stands there still.
    pub fn write(&self, dir: &Path) -> Result<(), LockError> {
        let path = dir.join(FILE);
        let text = format!(
            "# What this run resolved to, written by `pacos run`; `pacos verify` compares.\n\n{}",
            toml::to_string(self).expect("a lock holds only what TOML can")
        );
        crate::llama::durable::write(&path, text.as_bytes()).map_err(|source| LockError::Io {
            action: "write",
            path,
            source,
        })
    }
}
