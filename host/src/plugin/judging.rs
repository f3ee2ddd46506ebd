//! A filter at work: batches of the right size, and what happens when a record breaks it.

use std::{
    slice,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use futures::future::join_all;
use pacos_plugin::{Candidate, Decision, Description, Judged, Verdict};

use super::{CallError, HostCalls, Instance, codes::check_codes};
use crate::counted::counted;

/// A call that broke is tried once more with so many times the compute limit before anything is
/// put aside.
const SECOND_PATIENCE: u32 = 4;

/// Most records in a call to a filter that sets no limit itself.
const BATCH: usize = 256;

/// What a filter at work needs of the place that it works in.
pub trait Surroundings: Send + Sync {
    /// A fresh instance, started.
    fn instance(&self) -> impl Future<Output = Result<Box<dyn Instance>, CallError>> + Send;

    /// The host's side of a call for these records.
    fn calls(&self, batch: &[Candidate]) -> Arc<dyn HostCalls>;

    /// Everything that a stateful filter has judged so far, in order.
    ///
    /// # Errors
    /// When it cannot be read.
    fn history(&self) -> Result<Vec<Judged>, CallError>;

    /// How many records may be judged at once by a stateless filter that asks models or servers.
    fn at_once(&self) -> usize;

    /// Takes what has just been judged, for [`Surroundings::history`]. Stateful filters only.
    fn judged(&mut self, more: Vec<Judged>);
}

/// A filter at work. Its instance is rebuilt from its own verdicts after it broke.
pub struct Judging<S> {
    /// Where it works.
    pub surroundings: S,
    stateful: bool,
    /// Whether it asks models or servers.
    asks: bool,
    batch_limit: usize,
    worker: Worker,
}

impl<S: Surroundings> Judging<S> {
    /// Nothing judged yet.
    #[must_use]
    pub fn new(description: &Description, surroundings: S) -> Self {
        Judging {
            surroundings,
            stateful: description.stateful,
            asks: !description.capabilities.is_empty(),
            batch_limit: batch_limit(description),
            worker: Worker::default(),
        }
    }

    /// Ends the instance. The next is rebuilt from the filter's verdicts, in the order of the
    /// candidates.
    pub fn rebuild(&mut self) {
        self.worker = Worker::default();
    }

    /// Judges records in order. A batch that breaks the filter is tried once more on a fresh
    /// instance, then halved until the record that does it is alone; that record has an error for
    /// a verdict, and the others go on.
    ///
    /// # Errors
    /// When the run is stopped ([`CallError::Stopped`]), and for nothing else.
    pub async fn judge(
        &mut self,
        records: &[Candidate],
    ) -> Result<Vec<Result<Verdict, CallError>>, CallError> {
        let at_once = self.surroundings.at_once().min(records.len());
        if self.asks && !self.stateful && at_once > 1 {
            return self.judge_at_once(records, at_once).await;
        }
        let mut verdicts = Vec::with_capacity(records.len());
        // Halves of a batch that broke wait here, so that order is kept.
        let mut waiting: Vec<&[Candidate]> = records.chunks(self.batch_limit).rev().collect();
        while let Some(batch) = waiting.pop() {
            let judged = self.worker.batch(&self.surroundings, self.stateful, batch);
            match judged.await {
                Ok(judged) => {
                    if self.stateful {
                        let pairs = batch.iter().cloned().zip(judged.iter().cloned());
                        let pairs = pairs.map(|(candidate, verdict)| Judged { candidate, verdict });
                        self.surroundings.judged(pairs.collect());
                    }
                    verdicts.extend(judged.into_iter().map(Ok));
                }
                Err(error @ CallError::Stopped(_)) => return Err(error),
                Err(error) if batch.len() == 1 => verdicts.push(Err(error)),
                Err(_) => {
                    let (first, second) = batch.split_at(batch.len() / 2);
                    waiting.extend([second, first]);
                }
            }
        }
        Ok(verdicts)
    }

    /// Judges records one by one on several instances, so that their requests wait together.
    async fn judge_at_once(
        &mut self,
        records: &[Candidate],
        at_once: usize,
    ) -> Result<Vec<Result<Verdict, CallError>>, CallError> {
        let surroundings = &self.surroundings;
        let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = (0..at_once).map(async |_| {
            let mut worker = Worker::default();
            let mut judged = Vec::new();
            // What is under way when the run is stopped comes to its end and is recorded.
            while !stopped.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(record) = records.get(number) else {
                    break;
                };
                let verdicts = worker.batch(surroundings, false, slice::from_ref(record));
                let verdict = verdicts.await.map(|mut verdicts| verdicts.remove(0));
                if matches!(verdict, Err(CallError::Stopped(_))) {
                    stopped.store(true, Ordering::Relaxed);
                }
                judged.push((number, verdict));
            }
            // The instance ends here: its place may be what another waits for.
            judged
        });
        let mut verdicts: Vec<Option<Result<Verdict, CallError>>> = Vec::new();
        verdicts.resize_with(records.len(), || None);
        for (number, verdict) in join_all(work).await.into_iter().flatten() {
            if let Err(error @ CallError::Stopped(_)) = verdict {
                return Err(error);
            }
            verdicts[number] = Some(verdict);
        }
        let verdicts = verdicts.into_iter();
        Ok(verdicts
            .map(|verdict| verdict.expect("without a stop, every record is judged"))
            .collect())
    }
}

/// An instance at work, if there is one yet.
#[derive(Default)]
struct Worker {
    instance: Option<Box<dyn Instance>>,
}

impl Worker {
    /// One batch, tried once more on a fresh instance.
    async fn batch(
        &mut self,
        surroundings: &impl Surroundings,
        stateful: bool,
        batch: &[Candidate],
    ) -> Result<Vec<Verdict>, CallError> {
        match self.call(surroundings, stateful, batch, 1).await {
            Err(CallError::Stopped(stop)) => Err(CallError::Stopped(stop)),
            Err(_) => {
                // Whatever state it is in now, its verdicts tell the right one.
                self.instance = None;
                let again = self
                    .call(surroundings, stateful, batch, SECOND_PATIENCE)
                    .await;
                if again.is_err() {
                    self.instance = None;
                }
                again
            }
            verdicts => verdicts,
        }
    }

    async fn call(
        &mut self,
        surroundings: &impl Surroundings,
        stateful: bool,
        batch: &[Candidate],
        patience: u32,
    ) -> Result<Vec<Verdict>, CallError> {
        let instance = match &mut self.instance {
            Some(instance) => instance,
            None => {
                let mut fresh = surroundings.instance().await?;
                if stateful {
                    fresh.restore(surroundings.history()?).await?;
                }
                self.instance.insert(fresh)
            }
        };
        let calls = surroundings.calls(batch);
        let verdicts = instance
            .judge_batch(batch.to_vec(), calls, patience)
            .await?;
        check(&verdicts, batch.len())?;
        check_codes(&verdicts)?;
        Ok(verdicts)
    }
}

/// Most records in a call. A filter that asks models or servers gets one at a time, so that its
/// requests belong to a record whatever the batch.
#[must_use]
pub fn batch_limit(description: &Description) -> usize {
    match description.batch_limit as usize {
        _ if !description.capabilities.is_empty() => 1,
        0 => BATCH,
        limit => limit,
    }
}

/// What no filter may answer.
pub(crate) fn check(verdicts: &[Verdict], expected: usize) -> Result<(), CallError> {
    if verdicts.len() != expected {
        return Err(CallError::Invalid(format!(
            "{} for {}",
            counted(verdicts.len(), "verdict", "verdicts"),
            counted(expected, "record", "records")
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
