//! The record of a run: one directory, one SQLite database, one writer.
//!
//! Everything that costs something or decides something is committed (`synchronous=FULL`)
//! before anybody acts on it. Writes of one moment share a commit.

mod candidates;
mod column;
mod evaluation;
mod meta;
mod requests;
mod run_dir;
mod takeover;
mod training;
mod usage;
mod writer;

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::{Connection, OpenFlags};

pub use candidates::{Consumed, UnitRecord, VerdictRecord};
pub use evaluation::{AnswerRecord, ItemRecord, LikelihoodRecord, Likelihoods};
pub use requests::{Ask, AttemptEnd, AttemptState, Charge, RecordedOutcome, RequestKey, Spent};
pub use run_dir::{RunDir, RunDirError};
pub use training::{HeldOutRecord, TrainingStep};
pub(crate) use writer::Writer;

/// Version of the private tables: one more than there are [`MIGRATIONS`].
const SCHEMA_VERSION: i64 = 3;
/// Element `n` takes the tables of version `n + 1` to the next.
const MIGRATIONS: [&str; 2] = [
    include_str!("migrations/2.sql"),
    include_str!("migrations/3.sql"),
];
const _: () = assert!(SCHEMA_VERSION as usize == MIGRATIONS.len() + 1);

/// What keeps the ledger from being read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    /// SQLite's own words, with what was being done.
    #[error("ledger: {doing}: {message}{advice}")]
    Sqlite {
        /// What was being done.
        doing: &'static str,
        /// What SQLite said.
        message: String,
        /// What to do, where that is known.
        advice: &'static str,
    },
    /// The database was written by another release.
    #[error(
        "the ledger has version {found}, this release reads versions up to {SCHEMA_VERSION}; use the release that wrote it, or start a new run"
    )]
    Version {
        /// `user_version` of the file.
        found: i64,
    },
    /// A recorded value is not what this release writes.
    #[error("the ledger is damaged: {0}")]
    Damaged(String),
}

impl LedgerError {
    pub(crate) fn sqlite(doing: &'static str) -> impl Fn(rusqlite::Error) -> Self {
        move |error| {
            let advice = match error.sqlite_error_code() {
                Some(rusqlite::ErrorCode::DiskFull) => {
                    ". The disk is full; what was recorded is whole. Make room and run again"
                }
                Some(rusqlite::ErrorCode::ReadOnly | rusqlite::ErrorCode::CannotOpen) => {
                    ". Is the run directory writable?"
                }
                _ => "",
            };
            LedgerError::Sqlite {
                doing,
                message: error.to_string(),
                advice,
            }
        }
    }
}

/// The ledger of one run. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    writer: Writer,
    reader: Arc<Mutex<Connection>>,
}

impl Ledger {
    /// Opens the ledger of a run, or begins one. Attempts that a kill left open become
    /// `unknown` and stay charged at their worst case.
    ///
    /// # Errors
    /// When the file cannot be opened, or belongs to another release.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let error = LedgerError::sqlite("opening it");
        let connection = Connection::open(path).map_err(&error)?;
        connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 10000;")
            .map_err(&error)?;
        let version: i64 = connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(&error)?;
        migrate(&connection, version)?;
        connection
            .execute(
                "UPDATE attempt_ SET state = 'unknown' WHERE state = 'sent'",
                [],
            )
            .map_err(LedgerError::sqlite("closing interrupted attempts"))?;
        let reader = open_reader(path)?;
        Ok(Ledger {
            writer: Writer::start(connection),
            reader: Arc::new(Mutex::new(reader)),
        })
    }

    /// Opens the ledger of a run that may be going on, only to read it. Writing to it fails.
    ///
    /// # Errors
    /// When the file cannot be opened, or another release wrote it.
    pub fn open_to_read(path: &Path) -> Result<Self, LedgerError> {
        let reader = open_reader(path)?;
        let found: i64 = reader
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(LedgerError::sqlite("opening it for reading"))?;
        if found != SCHEMA_VERSION {
            return Err(LedgerError::Version { found });
        }
        Ok(Ledger {
            writer: Writer::start(open_reader(path)?),
            reader: Arc::new(Mutex::new(reader)),
        })
    }

    /// Runs a query on a connection that cannot write.
    ///
    /// # Errors
    /// What SQLite reports.
    pub fn read<T>(
        &self,
        doing: &'static str,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, LedgerError> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        query(&reader).map_err(LedgerError::sqlite(doing))
    }

    /// Writes, and returns when it is on disk.
    ///
    /// # Errors
    /// What SQLite reports; nothing of this write is then recorded.
    pub async fn write(
        &self,
        doing: &'static str,
        write: impl FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<(), LedgerError> {
        self.writer.write(doing, Box::new(write)).await
    }
}

/// Writes the tables of a new ledger, or brings those of an earlier version to the present one.
fn migrate(connection: &Connection, version: i64) -> Result<(), LedgerError> {
    if version == SCHEMA_VERSION {
        return Ok(());
    }
    let unknown = LedgerError::Version { found: version };
    let tables = match usize::try_from(version) {
        Ok(0) => include_str!("tables.sql").to_owned(),
        Ok(version) => MIGRATIONS.get(version - 1..).ok_or(unknown)?.join("\n"),
        Err(_) => return Err(unknown),
    };
    let error = LedgerError::sqlite("writing its tables");
    let views: Vec<String> = connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'view'")
        .and_then(|mut query| query.query_map([], |r| r.get(0))?.collect())
        .map_err(&error)?;
    let dropped: String = views
        .iter()
        .map(|name| format!("DROP VIEW \"{name}\";\n"))
        .collect();
    let views = include_str!("views.sql");
    connection
        .execute_batch(&format!(
            "BEGIN IMMEDIATE;\n{dropped}{tables}\n{views}\nPRAGMA user_version = {SCHEMA_VERSION};\nCOMMIT;"
        ))
        .map_err(error)
}

fn open_reader(path: &Path) -> Result<Connection, LedgerError> {
    let error = LedgerError::sqlite("opening it for reading");
    let reader = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(&error)?;
    reader
        .busy_timeout(std::time::Duration::from_secs(10))
        .map_err(&error)?;
    Ok(reader)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(path: &Path) -> Vec<String> {
        Ledger::open_to_read(path)
            .unwrap()
            .read("reading the schema", |c| {
                c.prepare("SELECT type || ' ' || name || ' ' || coalesce(sql, '') FROM sqlite_schema ORDER BY 1")?
                    .query_map([], |r| r.get(0))?
                    .collect()
            })
            .unwrap()
    }

    #[tokio::test]
    async fn a_ledger_of_the_first_version_is_brought_up_to_date() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old.sqlite"), dir.path().join("new.sqlite"));
        drop(Ledger::open(&new).unwrap());
        let ledger = Ledger::open(&old).unwrap();
        ledger.set_meta("seeds", "[]".into()).await.unwrap();
        drop(ledger);
        Connection::open(&old)
            .unwrap()
            .execute_batch(
                "DROP VIEW plugin_use; DROP VIEW likelihood_gains; DROP VIEW items; DROP VIEW answers;
                 DROP TABLE plugin_use_; DROP TABLE item_; DROP TABLE answer_;
                 CREATE TABLE answer_ (item INTEGER NOT NULL, model TEXT NOT NULL, text TEXT NOT NULL,
                     finish_reason TEXT NOT NULL, PRIMARY KEY (item, model)) WITHOUT ROWID, STRICT;
                 PRAGMA user_version = 1;",
            )
            .unwrap();
        let told = Ledger::open_to_read(&old).err().unwrap().to_string();
        assert!(told.contains("version 1"), "{told}");
        let ledger = Ledger::open(&old).unwrap();
        assert_eq!(ledger.meta("seeds").unwrap().as_deref(), Some("[]"));
        drop(ledger);
        assert_eq!(schema(&old), schema(&new));
    }

    #[test]
    fn a_ledger_of_a_later_version_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.sqlite");
        drop(Ledger::open(&path).unwrap());
        Connection::open(&path)
            .unwrap()
            .execute_batch("PRAGMA user_version = 99;")
            .unwrap();
        for opened in [Ledger::open(&path), Ledger::open_to_read(&path)] {
            let told = opened.err().unwrap().to_string();
            assert!(told.contains("version 99"), "{told}");
        }
    }
}
