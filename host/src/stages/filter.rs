//! One filter of the chain: its instance, and what happens when a record breaks it.

use std::sync::Arc;

use pacos_plugin::{Candidate, Decision, Error, Judged, Task, Verdict};

use super::calls::{Grant, UnitCalls};
use crate::{
    ledger::Ledger,
    plugin::{CallError, Instance, Loaded},
    stages::StageError,
};

/// A time-out is tried once more with so many times the limit before the record is put aside.
const SECOND_PATIENCE: u32 = 4;

/// A filter at its place in the recipe.
pub(super) struct FilterStage {
    plugin: Loaded,
    index: u32,
    grant: Arc<Grant>,
    seeds: Arc<[Task]>,
    ledger: Ledger,
    instance: Option<Box<dyn Instance>>,
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
        FilterStage {
            plugin,
            index,
            grant,
            seeds,
            ledger,
            instance: None,
            uncommitted: Vec::new(),
        }
    }

    pub(super) fn name(&self) -> String {
        self.plugin.title()
    }

    pub(super) fn index(&self) -> u32 {
        self.index
    }

    /// Tells that everything judged so far is in the ledger.
    pub(super) fn committed(&mut self) {
        self.uncommitted.clear();
    }

    /// Most records in a call. A filter that asks models gets one at a time, so that its
    /// requests belong to a record whatever the batch.
    fn batch_limit(&self) -> usize {
        if !self.plugin.description.capabilities.is_empty() {
            return 1;
        }
        match self.plugin.description.batch_limit {
            0 => 256,
            limit => limit as usize,
        }
    }

    /// Judges records in order. Those that break the filter come back as errors.
    pub(super) async fn judge(
        &mut self,
        records: &[Candidate],
    ) -> Result<Vec<Judgement>, StageError> {
        let mut judgements = Vec::with_capacity(records.len());
        // Halves of a batch that broke wait here, so that order is kept.
        let mut waiting: Vec<&[Candidate]> = records.chunks(self.batch_limit()).rev().collect();
        while let Some(batch) = waiting.pop() {
            match self.judge_batch(batch).await {
                Ok(verdicts) => {
                    if self.plugin.description.stateful {
                        let judged =
                            batch
                                .iter()
                                .zip(&verdicts)
                                .map(|(candidate, verdict)| Judged {
                                    candidate: candidate.clone(),
                                    verdict: verdict.clone(),
                                });
                        self.uncommitted.extend(judged);
                    }
                    judgements.extend(verdicts.into_iter().map(Ok));
                }
                Err(StageError::Plugin { error, .. }) if batch.len() == 1 => {
                    tracing::warn!(
                        filter = self.name(),
                        unit = batch[0].id.unit,
                        n = batch[0].id.n,
                        "record put aside: {error}"
                    );
                    judgements.push(Err(Error::new(error.code().to_owned(), error.to_string())));
                }
                Err(StageError::Plugin { .. }) => {
                    let (first, second) = batch.split_at(batch.len() / 2);
                    waiting.push(second);
                    waiting.push(first);
                }
                Err(other) => return Err(other),
            }
        }
        Ok(judgements)
    }

    /// One batch, tried once more on a fresh instance.
    async fn judge_batch(&mut self, batch: &[Candidate]) -> Result<Vec<Verdict>, StageError> {
        let mut patience = 1;
        loop {
            let error = match self.call(batch, patience).await {
                Ok(verdicts) => return Ok(verdicts),
                Err(CallError::Stopped(stop)) => return Err(StageError::Stopped(stop)),
                Err(error) => error,
            };
            // Whatever state it is in now, the ledger knows the right one.
            self.instance = None;
            if patience > 1 {
                return Err(StageError::Plugin {
                    plugin: self.name(),
                    doing: format!("judging {} records", batch.len()),
                    error,
                });
            }
            patience = SECOND_PATIENCE;
        }
    }

    async fn call(
        &mut self,
        batch: &[Candidate],
        patience: u32,
    ) -> Result<Vec<Verdict>, CallError> {
        if self.instance.is_none() {
            self.instance = Some(self.rebuild().await?);
        }
        let instance = self.instance.as_mut().expect("made just above");
        let place = match batch {
            [one] => format!("{}.{}", one.id.unit, one.id.n),
            _ => String::new(),
        };
        let seed = batch.first().map_or(0, |candidate| candidate.seed);
        let calls = UnitCalls::new(&self.grant, place, seed, Arc::default(), 0);
        let verdicts = instance
            .judge_batch(batch.to_vec(), calls, patience)
            .await?;
        check(&verdicts, batch.len())?;
        Ok(verdicts)
    }

    /// A fresh instance in the state that its own verdicts so far have led to.
    async fn rebuild(&self) -> Result<Box<dyn Instance>, CallError> {
        let mut instance = self.plugin.instance(&self.seeds).await?;
        if self.plugin.description.stateful {
            let mut history = self
                .ledger
                .history(self.index)
                .map_err(|error| CallError::Stopped(Arc::new(error.into())))?;
            history.extend(self.uncommitted.iter().cloned());
            instance.restore(history).await?;
        }
        Ok(instance)
    }
}

/// What no filter may answer.
pub(crate) fn check(verdicts: &[Verdict], expected: usize) -> Result<(), CallError> {
    if verdicts.len() != expected {
        return Err(CallError::Invalid(format!(
            "{} verdicts for {expected} records",
            verdicts.len()
        )));
    }
    for verdict in verdicts {
        let nearest = verdict.nearest.iter().map(|n| ("nearest", n.score));
        let mut scores = verdict
            .scores
            .iter()
            .map(|score| (score.name.as_str(), score.value))
            .chain(nearest);
        if let Some((name, value)) = scores.find(|(_, value)| !value.is_finite()) {
            return Err(CallError::Invalid(format!("score `{name}` is {value}")));
        }
        if verdict.code.is_empty() {
            let decision = match verdict.decision {
                Decision::Keep => "keep",
                Decision::Drop => "drop",
                Decision::Edit(_) => "edit",
            };
            return Err(CallError::Invalid(format!(
                "a verdict `{decision}` without a code"
            )));
        }
    }
    Ok(())
}
