//! Drives a plugin as the stages do, without a run: the same batches, fresh instances, second
//! tries and halving, and nothing recorded.

use std::sync::{Arc, Mutex, PoisonError};

use pacos_plugin::{
    Candidate, CandidateId, Example, Item, Judged, Judgement, Metric, Proposals, Task, Unit,
    Verdict,
};

use super::script::{Answered, Replies, ScriptedCalls};
use crate::plugin::{
    self, CallError, HostCalls, Instance, Loaded, Surroundings, batch_limit, check_rejects,
};

/// A plugin, the seeds that it starts with and the script of its models.
pub struct Driver<'a> {
    /// The plugin.
    pub plugin: &'a Loaded,
    /// Seed tasks.
    pub seeds: &'a [Task],
    /// What its models say.
    pub replies: Arc<Replies>,
}

impl Driver<'_> {
    /// The host of one call.
    fn calls(&self) -> ScriptedCalls {
        ScriptedCalls::new(self.plugin, &self.replies)
    }

    /// Does one unit on an instance of its own; says also how many requests it made.
    ///
    /// # Errors
    /// Those of the plugin.
    pub async fn unit(
        &self,
        unit: Unit,
        accepted: Vec<Example>,
    ) -> Result<(Proposals, usize), CallError> {
        let calls = Arc::new(self.calls().with_accepted(accepted));
        let mut instance = self.plugin.instance(self.seeds).await?;
        let proposals = instance.generate(unit, calls.clone(), 1).await?;
        check_rejects(&proposals)?;
        Ok((proposals, calls.asked().len()))
    }

    /// Judges one item on an instance of its own.
    ///
    /// # Errors
    /// Those of the plugin; a judgement of another item is one.
    pub async fn item(&self, item: Item) -> Result<Vec<Judgement>, CallError> {
        let index = item.index;
        let mut instance = self.plugin.instance(self.seeds).await?;
        let judgements = instance.judge_item(item, Arc::new(self.calls()), 1).await?;
        crate::stages::check_judgements(&judgements, index)?;
        Ok(judgements)
    }

    /// Sums judgements up on an instance of its own.
    ///
    /// # Errors
    /// Those of the plugin.
    pub async fn summary(&self, judgements: Vec<Judgement>) -> Result<Vec<Metric>, CallError> {
        let mut instance = self.plugin.instance(self.seeds).await?;
        instance.summarise(judgements).await
    }
}

/// A filter at work, as in a run.
pub struct Judging<'a>(plugin::Judging<Scripted<'a>>);

/// A script, as a filter sees it.
struct Scripted<'a> {
    driver: Driver<'a>,
    history: Vec<Judged>,
    /// The records of the last call, and what its requests were answered.
    last: Mutex<(Vec<CandidateId>, Answered)>,
}

impl<'a> Judging<'a> {
    /// Nothing judged yet.
    #[must_use]
    pub fn new(driver: Driver<'a>) -> Self {
        let description = &driver.plugin.description;
        let scripted = Scripted {
            driver,
            history: Vec::new(),
            last: Mutex::default(),
        };
        Judging(plugin::Judging::new(description, scripted))
    }

    /// Most records in a call, as in a run: one for a filter that asks models.
    #[must_use]
    pub fn batch_limit(&self) -> usize {
        batch_limit(&self.0.surroundings.driver.plugin.description)
    }

    /// Judges records in order. A batch that breaks the filter is halved until the record that
    /// does it is alone; that record has an error for a verdict, and the others go on.
    pub async fn judge(&mut self, records: &[Candidate]) -> Vec<Result<Verdict, CallError>> {
        match self.0.judge(records).await {
            Ok(verdicts) => verdicts,
            // A script stops no run.
            Err(error) => records.iter().map(|_| Err(error.clone())).collect(),
        }
    }
}

impl Surroundings for Scripted<'_> {
    async fn instance(&self) -> Result<Box<dyn Instance>, CallError> {
        self.driver.plugin.instance(self.driver.seeds).await
    }

    fn calls(&self, batch: &[Candidate]) -> Arc<dyn HostCalls> {
        let records: Vec<CandidateId> = batch.iter().map(|record| record.id).collect();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0 != records {
            *last = (records, Arc::default());
        }
        // A second try hears what the first one heard, as it does in a run.
        let calls = self.driver.calls().again(&last.1);
        Arc::new(calls.about(batch.first().map_or(0, |record| record.seed)))
    }

    fn history(&self) -> Result<Vec<Judged>, CallError> {
        Ok(self.history.clone())
    }

    fn at_once(&self) -> usize {
        // A script is read in the order of the records.
        1
    }

    fn judged(&mut self, more: Vec<Judged>) {
        self.history.extend(more);
    }
}
