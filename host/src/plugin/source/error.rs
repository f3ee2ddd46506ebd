//! Why a plugin's bytes are not to be had.

use std::{io, path::PathBuf};

use crate::download::FORBIDDEN_BY;

/// A plugin from another machine that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The recipe does not say which bytes are meant.
    #[error(
        "{from} is on another machine, so the recipe must pin it: {}",
        match found {
            Some(sha256) => format!("what is there now has sha256 = \"{sha256}\""),
            None => format!("`pacos plugin fetch {from}` prints the line to write"),
        }
    )]
    Unpinned {
        /// The source.
        from: String,
        /// What is there today, if that could be fetched.
        found: Option<String>,
    },
    /// It was not fetched yet, and may not be now.
    #[error(
        "{from} is not on this machine, and {FORBIDDEN_BY} forbids fetching it: run `pacos plugin fetch {from}` where there is a network"
    )]
    Offline {
        /// The source.
        from: String,
    },
    /// It was not fetched yet.
    #[error("{from} is not on this machine: run `pacos plugin fetch {from}`")]
    NotFetched {
        /// The source.
        from: String,
    },
    /// What is there is not what is meant.
    #[error(
        "{from} has sha256 {found}, but the recipe pins {expected}: it was changed at its source, or another was meant; if the change is meant, write sha256 = \"{found}\""
    )]
    Pin {
        /// The source.
        from: String,
        /// What the recipe says.
        expected: String,
        /// What is there.
        found: String,
    },
    /// What came is not what was announced.
    #[error(
        "{what} of {from} has sha256 {found}, expected {expected}: it was damaged on its way, or the registry is not to be trusted; try again, or name another source"
    )]
    Digest {
        /// The source.
        from: String,
        /// `the manifest`, `the component`.
        what: &'static str,
        /// What was announced.
        expected: String,
        /// What came.
        found: String,
    },
    /// The copy on this machine was changed.
    #[error(
        "{} is damaged: it has sha256 {found}, and its name says which is right; `pacos plugin fetch` of the manifest or of the source puts it right",
        path.display()
    )]
    Damaged {
        /// The copy.
        path: PathBuf,
        /// What it has now.
        found: String,
    },
    /// Nobody answers, or nobody who could.
    #[error("{from} did not come in {tries} attempts: {reason}; check the network, or try later")]
    Silent {
        /// The source.
        from: String,
        /// How often it was asked for.
        tries: u32,
        /// What happened the last time.
        reason: String,
    },
    /// The server's last word.
    #[error("{from} is not to be had: {reason}")]
    Refused {
        /// The source.
        from: String,
        /// What the server said, and what to do.
        reason: String,
    },
    /// It is too large to be a plugin.
    #[error(
        "{from} is larger than {limit} MiB, the most that is fetched: name a smaller component, or download it yourself and write its path"
    )]
    TooLarge {
        /// The source.
        from: String,
        /// The limit.
        limit: u64,
    },
    /// It is something else.
    #[error(
        "{from} is no WASM component: it begins with {begins:?}; open the address in a browser to see what it is"
    )]
    NotWasm {
        /// The source.
        from: String,
        /// Its first characters.
        begins: String,
    },
    /// There is nowhere to keep what is fetched.
    #[error("there is no folder to keep fetched plugins in: set PACOS_CACHE to one")]
    NoFolder,
    /// The operating system refused.
    #[error("cannot {action} {}: {source}; make room or mend the folder, or set PACOS_CACHE to another", path.display())]
    Disk {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl SourceError {
    /// The line of the manifest that is missing, where it is known.
    #[must_use]
    pub fn line_to_write(&self) -> Option<String> {
        match self {
            SourceError::Unpinned { found, .. } => Some(found.as_ref().map_or_else(
                || "sha256 = \"...\"".to_owned(),
                |sha256| format!("sha256 = \"{sha256}\""),
            )),
            _ => None,
        }
    }
}
