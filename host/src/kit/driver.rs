//! Drives a plugin as the stages do, without a run: the same batches, fresh instances, second
//! tries and halving, and nothing recorded.

use std::sync::Arc;

use pacos_plugin::{
    Candidate, Example, Item, Judged, Judgement, Metric, Proposals, Task, Unit, Verdict,
};

use super::script::{Replies, ScriptedCalls};
use crate::plugin::{CallError, HostCalls, Instance, Loaded};

/// Compute limit of a second try, in first ones.
const SECOND_PATIENCE: u32 = 4;

/// Records in a call to a filter that sets no limit itself.
const BATCH: usize = 256;

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

/// A filter at work: one instance, rebuilt from its own verdicts after it broke.
pub struct Judging<'a> {
    driver: Driver<'a>,
    instance: Option<Box<dyn Instance>>,
    history: Vec<Judged>,
}

impl<'a> Judging<'a> {
    /// Nothing judged yet.
    #[must_use]
    pub fn new(driver: Driver<'a>) -> Self {
        Judging {
            driver,
            instance: None,
            history: Vec::new(),
        }
    }

    /// Most records in a call, as in a run: one for a filter that asks models.
    #[must_use]
    pub fn batch_limit(&self) -> usize {
        let description = &self.driver.plugin.description;
        match description.batch_limit as usize {
            _ if !description.capabilities.is_empty() => 1,
            0 => BATCH,
            limit => limit,
        }
    }

    /// Judges records in order. A batch that breaks the filter is halved until the record that
    /// does it is alone; that record has an error for a verdict, and the others go on.
    pub async fn judge(&mut self, records: &[Candidate]) -> Vec<Result<Verdict, CallError>> {
        let mut verdicts = Vec::with_capacity(records.len());
        let mut waiting: Vec<&[Candidate]> = records.chunks(self.batch_limit()).rev().collect();
        while let Some(batch) = waiting.pop() {
            match self.batch(batch).await {
                Ok(judged) => {
                    if self.driver.plugin.description.stateful {
                        let pairs = batch.iter().zip(&judged);
                        self.history
                            .extend(pairs.map(|(candidate, verdict)| Judged {
                                candidate: candidate.clone(),
                                verdict: verdict.clone(),
                            }));
                    }
                    verdicts.extend(judged.into_iter().map(Ok));
                }
                Err(error) if batch.len() == 1 => verdicts.push(Err(error)),
                Err(_) => {
                    let (first, second) = batch.split_at(batch.len() / 2);
                    waiting.extend([second, first]);
                }
            }
        }
        verdicts
    }

    /// One batch, tried once more on a fresh instance.
    async fn batch(&mut self, batch: &[Candidate]) -> Result<Vec<Verdict>, CallError> {
        let mut patience = 1;
        loop {
            match self.call(batch, patience).await {
                Ok(verdicts) => return Ok(verdicts),
                Err(error) => {
                    self.instance = None;
                    if patience > 1 {
                        return Err(error);
                    }
                }
            }
            patience = SECOND_PATIENCE;
        }
    }

    async fn call(
        &mut self,
        batch: &[Candidate],
        patience: u32,
    ) -> Result<Vec<Verdict>, CallError> {
        let instance = match &mut self.instance {
            Some(instance) => instance,
            None => {
                let mut fresh = self.driver.plugin.instance(self.driver.seeds).await?;
                if self.driver.plugin.description.stateful {
                    fresh.restore(self.history.clone()).await?;
                }
                self.instance.insert(fresh)
            }
        };
        let calls: Arc<dyn HostCalls> = Arc::new(self.driver.calls());
        let verdicts = instance
            .judge_batch(batch.to_vec(), calls, patience)
            .await?;
        crate::stages::check_verdicts(&verdicts, batch.len())?;
        Ok(verdicts)
    }
}
