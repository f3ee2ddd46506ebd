//! One filter of the chain, at its place in the recipe.

use std::sync::Arc;

use pacos_plugin::{Candidate, Error, Judged, Task, Verdict};

use super::calls::{Grant, UnitCalls};
use crate::{
    counted::counted,
    ledger::Ledger,
    plugin::{CallError, HostCalls, Instance, Judging, Loaded, Surroundings},
    stages::StageError,
};

/// Records whose requests wait together; models and servers have limits of their own.
const RECORDS_AT_ONCE: usize = 32;

/// A filter at its place in the recipe.
pub(super) struct FilterStage {
    judging: Judging<InRun>,
}

/// A run, as a filter sees it.
struct InRun {
    plugin: Loaded,
    index: u32,
    grant: Arc<Grant>,
    seeds: Arc<[Task]>,
    ledger: Ledger,
    /// Verdicts given since the last commit; the ledger has the earlier ones.
    uncommitted: Vec<Judged>,
}

/// A verdict, or the error under which the record was put aside.
pub(super) type Judgement = Result<Verdict, Error>;

impl FilterStage {
    pub(super) fn new(
        plugin: Loaded,
        index: u32,
        grant: Arc<Grant>,
        seeds: Arc<[Task]>,
        ledger: Ledger,
    ) -> Self {
        let description = plugin.description.clone();
        let in_run = InRun {
            plugin,
            index,
            grant,
            seeds,
            ledger,
            uncommitted: Vec::new(),
        };
        FilterStage {
            judging: Judging::new(&description, in_run),
        }
    }

    pub(super) fn name(&self) -> String {
        self.judging.surroundings.plugin.title()
    }

    pub(super) fn index(&self) -> u32 {
        self.judging.surroundings.index
    }

    /// Tells that everything judged so far is in the ledger.
    pub(super) fn committed(&mut self) {
        self.judging.surroundings.uncommitted.clear();
    }

    /// Judges records in order. Those that break the filter come back as errors.
    pub(super) async fn judge(
        &mut self,
        records: &[Candidate],
    ) -> Result<Vec<Judgement>, StageError> {
        let verdicts = self.judging.judge(records).await;
        let verdicts = verdicts.map_err(|error| match error {
            CallError::Stopped(stop) => StageError::Stopped(stop),
            error => StageError::Plugin {
                plugin: self.name(),
                doing: format!("judging {}", counted(records.len(), "record", "records")),
                error,
            },
        })?;
        let judgement = |(record, verdict): (&Candidate, Result<Verdict, CallError>)| {
            verdict.map_err(|error| {
                tracing::warn!(
                    filter = self.name(),
                    unit = record.id.unit,
                    n = record.id.n,
                    "record put aside: {error}"
                );
                Error::new(error.code().to_owned(), error.to_string())
            })
        };
        Ok(records.iter().zip(verdicts).map(judgement).collect())
    }
}

impl Surroundings for InRun {
    async fn instance(&self) -> Result<Box<dyn Instance>, CallError> {
        self.plugin.instance(&self.seeds).await
    }

    fn calls(&self, batch: &[Candidate]) -> Arc<dyn HostCalls> {
        let place = |candidate: &Candidate| format!("{}.{}", candidate.id.unit, candidate.id.n);
        let place = match batch {
            [] => String::new(),
            [one] => place(one),
            // Only the log will have it: of a filter that asks models, every batch is one record.
            [first, .., last] => format!("{} to {}", place(first), place(last)),
        };
        let seed = batch.first().map_or(0, |candidate| candidate.seed);
        UnitCalls::new(&self.grant, place, seed, Arc::default(), 0)
    }

    fn history(&self) -> Result<Vec<Judged>, CallError> {
        let mut history = self
            .ledger
            .history(self.index)
            .map_err(|error| CallError::Stopped(Arc::new(error.into())))?;
        history.extend(self.uncommitted.iter().cloned());
        Ok(history)
    }

    fn at_once(&self) -> usize {
        RECORDS_AT_ONCE
    }

    fn judged(&mut self, more: Vec<Judged>) {
        self.uncommitted.extend(more);
    }
}
