//! Runs that were made before, as people name them.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::anyhow;

use super::{Failed, ManifestArgs};
use crate::ledger::{Ledger, LedgerError};

const LEDGER: &str = "ledger.sqlite";
/// Where runs are kept that are given no directory of their own.
const RUNS: &str = "runs";

/// The directory of a run and its ledger, to read: of the run that is named by its directory, its
/// ledger or its manifest, or of the newest.
pub(super) fn open(run: Option<&Path>) -> Result<(PathBuf, Ledger), Failed> {
    let dir = match run {
        Some(run) => dir_of(run)?,
        None => newest(Path::new(RUNS))?,
    };
    let ledger = Ledger::open_to_read(&dir.join(LEDGER)).map_err(|error| {
        let error = match error {
            LedgerError::Version { found } => anyhow!(
                "the ledger in {} has version {found}, and this release reads another only. If an earlier release wrote it, `pacos run` of its recipe brings it up to date; if a later one did, use that",
                dir.display()
            ),
            error => error.into(),
        };
        Failed::Other(error, 5)
    })?;
    Ok((dir, ledger))
}

fn wrong(message: String) -> Failed {
    Failed::Other(anyhow!(message), 2)
}

/// The directory of a run that somebody named by it, by its ledger, or by its manifest.
pub(super) fn dir_of(run: &Path) -> Result<PathBuf, Failed> {
    let shown = run.display();
    if run.join(LEDGER).is_file() {
        return Ok(run.to_owned());
    }
    if run.is_dir() {
        return Err(wrong(format!(
            "{shown} holds no {LEDGER}, so it is no run's directory; name one, such as runs/local"
        )));
    }
    if !run.is_file() {
        return Err(wrong(format!(
            "there is no {shown}; name a run's directory, such as runs/local, or a manifest that was run"
        )));
    }
    if run.file_name().is_some_and(|name| name == LEDGER) {
        return Ok(run.parent().unwrap_or(Path::new("")).to_owned());
    }
    let manifest = ManifestArgs {
        manifest: run.to_owned(),
        offline: false,
        set: Vec::new(),
    };
    let dir = Path::new(RUNS).join(manifest.load()?.name);
    if dir.join(LEDGER).is_file() {
        return Ok(dir);
    }
    Err(wrong(format!(
        "{shown} has not been run here: there is no {}. Run it with `pacos run {shown}`, or name the directory that it was run in",
        dir.join(LEDGER).display()
    )))
}

/// The run that was written to last.
fn newest(runs: &Path) -> Result<PathBuf, Failed> {
    let written = |dir: &Path| -> Option<SystemTime> {
        let changed = |name: &str| fs::metadata(dir.join(name)).and_then(|m| m.modified()).ok();
        // While a run goes on, what is new stands in the log beside the database.
        let database = changed(LEDGER)?;
        Some(changed("ledger.sqlite-wal").map_or(database, |log| log.max(database)))
    };
    fs::read_dir(runs)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let dir = entry.ok()?.path();
            Some((written(&dir)?, dir))
        })
        .max()
        .map(|(_, dir)| dir)
        .ok_or_else(|| {
            wrong(format!(
                "there is no run under {}; name the run's directory",
                runs.display()
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(result: Result<PathBuf, Failed>) -> String {
        match result {
            Err(Failed::Other(error, 2)) => error.to_string(),
            Err(_) => panic!("another exit code"),
            Ok(path) => panic!("{} was taken", path.display()),
        }
    }

    #[test]
    fn the_newest_run_is_the_one_that_was_written_to_last() {
        let runs = tempfile::tempdir().unwrap();
        assert!(refusal(newest(runs.path())).starts_with("there is no run under "));
        for (name, file, seconds) in [
            ("older", LEDGER, 300),
            ("newer", LEDGER, 200),
            ("going-on", LEDGER, 100),
            ("going-on", "ledger.sqlite-wal", 400),
            ("no-run", "notes.txt", 500),
        ] {
            let path = runs.path().join(name).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            fs::File::create(&path).unwrap().set_modified(time).unwrap();
        }
        let found = newest(runs.path()).map_err(|_| ()).unwrap();
        assert_eq!(found, runs.path().join("going-on"));
    }

    #[test]
    fn what_is_no_run_is_said_to_be_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(refusal(dir_of(dir.path())).contains("holds no ledger.sqlite"));
        assert!(refusal(dir_of(&dir.path().join("typo"))).starts_with("there is no "));
        let ledger = dir.path().join(LEDGER);
        fs::write(&ledger, "").unwrap();
        for named in [dir.path(), &ledger] {
            assert_eq!(dir_of(named).map_err(|_| ()).unwrap(), dir.path());
        }
    }
}
