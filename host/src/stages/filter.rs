//! One filter of the chain, at its place in the recipe.

use std::sync::Arc;

use pacos_plugin::{Candidate, CandidateId, Error, Judged, Task, Verdict};

use super::{
    calls::{Grant, UnitCalls, may_spend},
    told::Told,
};
use crate::{
    counted::counted,
    ledger::{Ledger, LedgerError},
    models::BEYOND_LIMITS,
    plugin::{CallError, HostCalls, Instance, Judging, Loaded, Surroundings},
    stages::StageError,
};

/// Records whose requests wait together; models and servers have limits of their own.
const RECORDS_AT_ONCE: usize = 32;

/// A filter at its place in the recipe.
pub(super) struct FilterStage {
    judging: Judging<InRun>,
    told: Told,
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
            told: Told::default(),
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

    /// The candidates that were put aside because the filter had spent what it may, if it may spend
    /// more now.
    pub(super) fn put_aside(&self) -> Result<Vec<Candidate>, LedgerError> {
        let InRun {
            plugin,
            index,
            ledger,
            ..
        } = &self.judging.surroundings;
        match may_spend(&plugin.recipe.limits, ledger, &plugin.recipe.path)? {
            true => ledger.put_aside(*index, BEYOND_LIMITS),
            false => Ok(Vec::new()),
        }
    }

    /// Has the filter begin again from its verdicts in the ledger.
    pub(super) fn rebuild(&mut self) {
        self.judging.rebuild();
    }

    /// Says how often that was so which was said once.
    pub(super) fn tell_repeated(&self) {
        let filter = self.name();
        for (reason, count) in self.told.repeated() {
            tracing::warn!(
                filter,
                "{count} records were put aside for this reason: {reason}"
            );
        }
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
        let filter = self.name();
        let mut judgements = Vec::with_capacity(records.len());
        for (record, verdict) in records.iter().zip(verdicts) {
            let grant = &self.judging.surroundings.grant;
            judgements.push(verdict.map_err(|error| {
                let reason = Error::new(error.code().to_owned(), error.to_string());
                let reason = grant.reason(&place(record.id), reason);
                if !matches!(error, CallError::Plugin(_)) || self.told.is_new(&reason.message) {
                    let CandidateId { unit, n } = record.id;
                    tracing::warn!(filter, unit, n, "record put aside: {}", reason.message);
                }
                reason
            }));
        }
        Ok(judgements)
    }
}

/// Where a filter's requests about a record are recorded.
fn place(record: CandidateId) -> String {
    format!("{}.{}", record.unit, record.n)
}

impl Surroundings for InRun {
    async fn instance(&self) -> Result<Box<dyn Instance>, CallError> {
        self.plugin.instance(&self.seeds).await
    }

    fn calls(&self, batch: &[Candidate]) -> Arc<dyn HostCalls> {
        let place = match batch {
            [] => String::new(),
            [one] => place(one.id),
            // Only the log will have it: of a filter that asks models, every batch is one record.
            [first, .., last] => format!("{} to {}", place(first.id), place(last.id)),
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
