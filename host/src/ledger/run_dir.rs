//! A run's directory, held by an operating-system lock for as long as somebody writes in it.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use super::{Ledger, LedgerError};

/// What keeps a directory from being used.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// It cannot be made or written.
    #[error(
        "cannot use the run directory {}: {source}; choose another with --dir, or make this one writable",
        path.display()
    )]
    Io {
        /// The directory, or the file in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else is writing in it.
    #[error("another `pacos` is running in {}; wait for it, or choose another directory with --dir", .0.display())]
    Locked(PathBuf),
    /// It has files, and none of them is a ledger.
    #[error("{} is not empty and is no run of Pacos; choose another directory with --dir", .0.display())]
    NotARun(PathBuf),
    /// The ledger in it.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// A run's directory, locked.
pub struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Makes the directory if need be, and locks it. The lock ends with the process, however it
    /// ends.
    ///
    /// # Errors
    /// When it cannot be written, is locked, or is something else.
    pub fn open(path: &Path) -> Result<Self, RunDirError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| RunDirError::Io { path, source }
        };
        fs::create_dir_all(path).map_err(io(path))?;
        let is_run = path.join("ledger.sqlite").exists() || path.join("run.lock").exists();
        if !is_run && fs::read_dir(path).map_err(io(path))?.next().is_some() {
            return Err(RunDirError::NotARun(path.to_owned()));
        }
        let lock_path = path.join("run.lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(io(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(RunDirError::Locked(path.to_owned())),
            Err(TryLockError::Error(source)) => return Err(io(&lock_path)(source)),
        }
        Ok(RunDir {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the ledger in it.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub fn ledger(&self) -> Result<Ledger, RunDirError> {
        Ok(Ledger::open(&self.path.join("ledger.sqlite"))?)
    }
}
