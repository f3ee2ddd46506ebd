//! The accepted examples as files that other tools read: Stanford's JSON, JSON Lines, Parquet
//! with provenance, and a card that says how they came about.
//!
//! The same ledger and the same [`About`] give the same bytes, on any machine and at any time:
//! nothing of the clock, of the machine or of the order of arrival is written.

mod alpaca_json;
mod card;
#[cfg(test)]
mod ledger_doc;
mod parquet;
mod rows;
#[cfg(test)]
pub(crate) mod tests;
mod whole_file;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use self::{
    alpaca_json::AlpacaJson, card::Counts, parquet::Columns, rows::Rows, whole_file::WholeFile,
};
use crate::ledger::{Ledger, LedgerError, RunDir};

/// What the dataset's card tells and the ledger does not know.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct About {
    /// Name of the recipe.
    pub recipe: String,
    /// Licence under which the dataset is given on: an identifier of the Hugging Face hub, such
    /// as `cc-by-nc-4.0`, or any name. `None` where the recipe states none.
    pub license: Option<String>,
    /// The seed tasks, in a phrase: how many, from where, under what licence.
    pub seeds: String,
    /// Every model that a role names.
    pub models: Vec<AboutModel>,
    /// Generator, filters and evaluators, in the order of the recipe.
    pub plugins: Vec<AboutPlugin>,
    /// The manifest as it was resolved, `--set` included.
    pub manifest: String,
}

/// A model of the recipe.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct AboutModel {
    /// Name in the manifest.
    pub name: String,
    /// Roles that name it: `teacher`, `judge`.
    pub roles: Vec<String>,
    /// `openai`, `local`.
    pub provider: String,
    /// The provider's name for it; becomes the `source_model` of the examples that it wrote.
    pub model: String,
    /// What identifies it in the ledger's requests ([`crate::models::Provider::identity`]), if it
    /// had a part in making the dataset.
    pub identity: Option<String>,
    /// Licence or terms, as the recipe states them.
    pub terms: Option<String>,
}

/// A plugin of the recipe.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct AboutPlugin {
    /// Where it stands in the recipe: `generator`, `filters.0`.
    pub stage: String,
    /// Name and version.
    pub title: String,
    /// Hash of its file, in hex.
    pub sha256: String,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// Examples in `dataset.jsonl` and `dataset.parquet`.
    pub examples: u64,
    /// Examples in `alpaca_data.json`: conversations that do not fit its three fields are left
    /// out of it.
    pub alpaca_examples: u64,
    /// `alpaca_data.json`, `dataset.jsonl`, `dataset.parquet`, `README.md`.
    pub files: [PathBuf; 4],
}

/// What keeps a dataset from being written.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A file cannot be written; what stood there before stands there still.
    #[error(
        "cannot write {}: {source}. The ledger is whole: make room or mend the directory and run again, nothing is paid twice",
        path.display()
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Writes the accepted examples, in order, into `dataset/` of the run's directory:
/// `alpaca_data.json`, `dataset.jsonl`, `dataset.parquet` and the card `README.md`. Each appears
/// whole or not at all, in place of an earlier one. Memory does not grow with the dataset.
///
/// # Errors
/// When the ledger cannot be read or a file cannot be written.
pub fn export(ledger: &Ledger, run_dir: &RunDir, about: &About) -> Result<Exported, DatasetError> {
    export_into(ledger, &run_dir.path().join("dataset"), about)
}

/// As [`export`], into a folder that nobody else writes in.
///
/// # Errors
/// As [`export`].
pub fn export_into(ledger: &Ledger, dir: &Path, about: &About) -> Result<Exported, DatasetError> {
    let mut alpaca = Output::create(dir, "alpaca_data.json", |file| Ok(AlpacaJson::new(file)))?;
    let mut lines = Output::create(dir, "dataset.jsonl", Ok)?;
    let mut columns = Output::create(dir, "dataset.parquet", Columns::new)?;
    let mut counts = Counts::default();
    let mut rows = Rows::new(ledger, &about.models)?;
    loop {
        let page = rows.next_page()?;
        if page.is_empty() {
            break;
        }
        for row in &page {
            counts.examples += 1;
            if let Some(task) = row.task() {
                counts.alpaca_examples += 1;
                alpaca.write(|json| json.task(&task))?;
            }
            lines.write(|file| {
                serde_json::to_writer(&mut *file, &row.line())?;
                file.write_all(b"\n")
            })?;
        }
        columns.write(|columns| columns.rows(page))?;
    }
    let mut card = Output::create(dir, "README.md", Ok)?;
    let text = card::text(ledger, about, counts)?;
    card.write(|file| file.write_all(text.as_bytes()))?;
    Ok(Exported {
        examples: counts.examples,
        alpaca_examples: counts.alpaca_examples,
        files: [
            alpaca.finish(AlpacaJson::finish)?,
            lines.finish(Ok)?,
            columns.finish(Columns::finish)?,
            card.finish(Ok)?,
        ],
    })
}

/// A format on its way into a file, with the file's name for messages.
struct Output<F> {
    path: PathBuf,
    format: F,
}

impl<F> Output<F> {
    fn create(
        dir: &Path,
        name: &str,
        format: impl FnOnce(WholeFile) -> io::Result<F>,
    ) -> Result<Self, DatasetError> {
        let path = dir.join(name);
        match WholeFile::create(&path).and_then(format) {
            Ok(format) => Ok(Output { path, format }),
            Err(source) => Err(DatasetError::Write { path, source }),
        }
    }

    fn write(&mut self, write: impl FnOnce(&mut F) -> io::Result<()>) -> Result<(), DatasetError> {
        write(&mut self.format).map_err(|source| DatasetError::Write {
            path: self.path.clone(),
            source,
        })
    }

    fn finish(
        self,
        finish: impl FnOnce(F) -> io::Result<WholeFile>,
    ) -> Result<PathBuf, DatasetError> {
        match finish(self.format).and_then(WholeFile::commit) {
            Ok(()) => Ok(self.path),
            Err(source) => Err(DatasetError::Write {
                path: self.path,
                source,
            }),
        }
    }
}
