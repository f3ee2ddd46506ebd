//! What the run is, and how far its stages are.

use rusqlite::{OptionalExtension, params};

use super::{Ledger, LedgerError};

impl Ledger {
    /// A value under a name.
    ///
    /// # Errors
    /// What SQLite reports, here and below.
    pub fn meta(&self, key: &str) -> Result<Option<String>, LedgerError> {
        self.read("reading the run's description", |c| {
            c.query_row("SELECT value FROM meta_ WHERE key = ?1", [key], |r| {
                r.get(0)
            })
            .optional()
        })
    }

    /// Sets a value under a name.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub async fn set_meta(&self, key: &'static str, value: String) -> Result<(), LedgerError> {
        self.write("writing the run's description", move |c| {
            c.execute(
                "INSERT INTO meta_ VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = excluded.value",
                params![key, value],
            )
            .map(drop)
        })
        .await
    }

    /// Marks a stage as done, adding to the time it took.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub async fn set_stage(
        &self,
        name: impl Into<String>,
        fingerprint: String,
        finished: bool,
        seconds: f64,
    ) -> Result<(), LedgerError> {
        let name = name.into();
        self.write("writing a stage's state", move |c| {
            c.execute(
                "INSERT INTO stage_ VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET
                 fingerprint = excluded.fingerprint, finished = excluded.finished, seconds = seconds + excluded.seconds",
                params![name, fingerprint, finished, seconds],
            )
            .map(drop)
        })
        .await
    }

    /// Fingerprint of a stage and whether it is finished, if it was ever begun.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub fn stage(&self, name: &str) -> Result<Option<(String, bool)>, LedgerError> {
        self.read("reading a stage's state", |c| {
            c.query_row(
                "SELECT fingerprint, finished FROM stage_ WHERE name = ?1",
                [name],
                |r| Ok((r.get(0)?, r.get(1)?)),
            )
            .optional()
        })
    }
}
