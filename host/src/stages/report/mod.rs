//! The report: one page that says what a run came to, and what of it can be trusted.
//!
//! Everything in it is read from the ledger's documented views, in one transaction, so that a
//! person can reproduce every number with `sqlite3` (docs/ledger.md has the queries) and so that a
//! page made while the run goes on agrees with itself. Nothing is read from the clock: the same
//! ledger gives the same bytes.

mod answers;
mod chart;
mod evaluation;
mod excerpt;
mod figures;
mod funnel;
mod headline;
mod interval;
mod lengths;
mod origin;
mod page;
mod similarity;
mod spending;
#[cfg(test)]
mod tests;
mod training;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, Params, Row};
use serde::Serialize;

pub use answers::{Answered, Answers, Judged, Sample, TaskAnswers};
pub use evaluation::{
    Comparison, Evaluation, EvaluatorReport, FailedItems, Gain, Judge, Likelihood, OtherMetric,
};
pub use excerpt::Excerpt;
pub use funnel::{
    DropSample, FailedUnits, Funnel, FunnelStep, Neighbour, Reason, RejectReason, RejectSample,
};
pub use headline::Headline;
pub use interval::Estimate;
pub use lengths::{Length, Lengths};
pub use origin::{Model, Origin, Plan, Plugin};
pub use similarity::{Bucket, Similarity};
pub use spending::{FailedAttempts, Spending, SpendingRow, StageTime};
pub use training::{HeldOut, Training, TrainingPoint};

use crate::ledger::{Ledger, LedgerError};

/// Name of the page in a run's directory.
pub const FILE: &str = "report.html";

/// Everything that the page says. What a run has not come to yet is empty or `None`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The result in words.
    pub headline: Headline,
    /// From what the generator read to the examples.
    pub funnel: Funnel,
    /// How near candidates came to their nearest neighbours, filter by filter.
    pub similarity: Vec<Similarity>,
    /// How long the examples are.
    pub lengths: Option<Lengths>,
    /// The student's training.
    pub training: Option<Training>,
    /// Log-likelihoods and what the evaluators found.
    pub evaluation: Evaluation,
    /// Answers side by side.
    pub answers: Answers,
    /// Tokens, money and time.
    pub spending: Spending,
    /// Recipe, models, plugins, licences.
    pub origin: Origin,
}

impl Report {
    /// Reads the documented views of a ledger, whose run may be going on.
    ///
    /// # Errors
    /// What SQLite reports, or a value in a view that is not what the documentation says.
    pub fn read(ledger: &Ledger) -> Result<Self, LedgerError> {
        ledger.read("reading it for the report", |c| {
            // One snapshot for all queries. Dropped, it ends; there is nothing to undo.
            let snapshot = c.unchecked_transaction()?;
            let c = &*snapshot;
            let mut report = Report {
                headline: Headline::default(),
                funnel: funnel::read(c)?,
                similarity: similarity::read(c)?,
                lengths: lengths::read(c)?,
                training: training::read(c)?,
                evaluation: evaluation::read(c)?,
                answers: answers::read(c)?,
                spending: spending::read(c)?,
                origin: origin::read(c)?,
            };
            report.headline = headline::of(&report);
            Ok(report)
        })
    }

    /// The page: one HTML document without script and without anything to load.
    #[must_use]
    pub fn html(&self) -> String {
        page::html(self)
    }
}

/// What keeps the page from being written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The page cannot be written; what stood there before stands there still.
    #[error("cannot write the report {}: {error}. Make room or mend the directory, or name another place with `pacos report --out FILE`", path.display())]
    Write {
        /// The page.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// Writes `report.html` into a directory, whole or not at all, in place of an earlier one, and
/// returns its path. The same ledger gives the same bytes.
///
/// # Errors
/// When the ledger cannot be read or the page cannot be written.
pub fn write(ledger: &Ledger, dir: &Path) -> Result<PathBuf, ReportError> {
    let path = dir.join(FILE);
    write_page(&Report::read(ledger)?, &path)?;
    Ok(path)
}

/// Writes the page of a report to a file, whole or not at all.
///
/// # Errors
/// When it cannot be written.
pub fn write_page(report: &Report, path: &Path) -> Result<(), ReportError> {
    write_whole(path, report.html().as_bytes()).map_err(|error| ReportError::Write {
        path: path.to_owned(),
        error,
    })
}

/// The temporary file has a name of its own: anybody may make the page while the run makes it too.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".report-").suffix(".part");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // What the user's umask leaves of it: a page is made to be passed on.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// All rows of a query.
fn rows<T>(
    c: &Connection,
    sql: &str,
    parameters: impl Params,
    row: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    c.prepare(sql)?.query_map(parameters, row)?.collect()
}

/// A count. A negative one, which only a damaged ledger has, is none.
fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
}

/// A text; an empty one where the column is NULL.
fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    Ok(row.get::<_, Option<String>>(column)?.unwrap_or_default())
}
