//! Whether a run's directory still holds what the run left there.

use std::{collections::BTreeMap, io, path::Path};

use super::{Difference, FILE, Lock, LockError, resolve::files};
use crate::{
    dataset::{self, About, DatasetError},
    ledger::{Ledger, LedgerError},
    llama::FileIdentity,
};

const LEDGER: &str = "ledger.sqlite";
const DATASET: &str = "dataset";

/// What keeps a run's files from being compared.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A file, or the lock.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Writing the dataset once more, to compare with.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// A folder for that.
    #[error(
        "there is no room for a copy of the dataset to compare with: {0}; make room, or set TMPDIR"
    )]
    Folder(#[from] io::Error),
}

/// Where a run's ledger and dataset are not what they were: a damaged database, and files of the
/// dataset that are not what the lock says or not what the ledger gives.
///
/// # Errors
/// When something cannot be read, or there is no room to write the dataset once more.
pub fn own_files(dir: &Path, lock: &Lock) -> Result<Vec<Difference>, VerifyError> {
    let mut differences = Vec::new();
    let ledger = match sound_ledger(&dir.join(LEDGER)) {
        Ok(ledger) => Some(ledger),
        Err(found) => {
            differences.push(Difference {
                what: LEDGER.to_owned(),
                expected: "a sound ledger".to_owned(),
                found,
                advice: "put a copy of the run's directory back, or run the recipe in a new one"
                    .to_owned(),
            });
            None
        }
    };
    let given = match &ledger {
        Some(ledger) => given_by(ledger)?,
        None => None,
    };
    for (name, locked) in &lock.dataset {
        let path = dir.join(DATASET).join(name);
        let found = match path.exists() {
            true => files(std::slice::from_ref(&path))?.remove(name),
            false => None,
        };
        let given = given.as_ref().and_then(|given| given.get(name));
        let (expected, advice) = match given {
            Some(given) if found.as_ref() != Some(given) => {
                (given, "`pacos run` writes it anew, as the ledger gives it")
            }
            None if found.as_ref() != Some(locked) => {
                (locked, "`pacos run` writes it anew from the ledger")
            }
            Some(_) if found.as_ref() != Some(locked) => (
                locked,
                "the ledger gives another dataset than when the run was locked: put a copy of the \
                 run's directory back, or let `pacos run` lock what there is",
            ),
            _ => continue,
        };
        differences.push(Difference {
            what: format!("{DATASET}/{name}"),
            expected: shown(Some(expected)),
            found: shown(found.as_ref()),
            advice: advice.to_owned(),
        });
    }
    Ok(differences)
}

fn shown(file: Option<&FileIdentity>) -> String {
    file.and_then(|file| file.sha256.as_ref())
        .map_or_else(|| "nothing".to_owned(), |sha256| format!("sha256 {sha256}"))
}

/// The ledger, if SQLite finds nothing wrong with it; else what is wrong.
fn sound_ledger(path: &Path) -> Result<Ledger, String> {
    if !path.exists() {
        return Err("nothing".to_owned());
    }
    let checked = Ledger::open_to_read(path).and_then(|ledger| {
        let told: Vec<String> = ledger.read("checking it", |c| {
            c.prepare("PRAGMA integrity_check")?
                .query_map([], |row| row.get(0))?
                .collect()
        })?;
        Ok((ledger, told))
    });
    match checked {
        Ok((ledger, told)) if told == ["ok"] => Ok(ledger),
        Ok((_, told)) => Err(told.join(", ").replace('\n', " ")),
        Err(error) => Err(error.to_string().replace('\n', " ")),
    }
}

/// The dataset that the ledger gives, once generation is finished: before that its files are
/// those of an earlier moment.
fn given_by(ledger: &Ledger) -> Result<Option<BTreeMap<String, FileIdentity>>, VerifyError> {
    let read = || -> Result<Option<About>, LedgerError> {
        let finished = ledger
            .stage("generate")?
            .is_some_and(|(_, finished)| finished);
        let about = ledger.meta("about")?.filter(|_| finished);
        Ok(about.and_then(|text| serde_json::from_str(&text).ok()))
    };
    let Some(about) = read().map_err(DatasetError::from)? else {
        return Ok(None);
    };
    let folder = tempfile::tempdir()?;
    let exported = dataset::export_into(ledger, folder.path(), &about)?;
    Ok(Some(files(&exported.files)?))
}

impl Lock {
    /// Reads the lock of a run.
    ///
    /// # Errors
    /// As [`Lock::read`].
    pub fn of_run(dir: &Path) -> Result<Self, LockError> {
        Lock::read(&dir.join(FILE))
    }
}
