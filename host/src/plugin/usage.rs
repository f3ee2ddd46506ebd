//! What a plugin's calls come to: how many, over how many records, for how long, how they ended.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use pacos_plugin as plain;

use super::{CallError, HostCalls, Instance, places::Place};
use crate::models::BoxFuture;

/// Sums over the calls of all instances of a plugin.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usage {
    /// Calls of `generate` and `judge`.
    pub calls: u64,
    /// Units, candidates or items in them. One that is tried again counts again.
    pub records: u64,
    /// Calls that trapped or panicked.
    pub traps: u64,
    /// Calls that computed for too long.
    pub timeouts: u64,
    /// Calls whose answer broke the contract.
    pub invalid: u64,
    /// Calls that ended with the plugin's own error.
    pub errors: u64,
    /// Time that the plugin computed, in seconds, `start` and `restore` included. A component's
    /// does not run while it waits for a model; a library's is the time of its calls.
    pub seconds: f64,
    /// The most linear memory that one instance took, in bytes; 0 for a library.
    pub memory: u64,
}

/// Counts for all instances of one plugin.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<Mutex<Usage>>);

impl Meter {
    /// What was counted since the last time.
    #[must_use]
    pub fn take(&self) -> Usage {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// An instance whose calls are counted, in its place.
pub(super) struct Metered {
    pub(super) instance: Box<dyn Instance>,
    pub(super) meter: Meter,
    pub(super) place: Place,
}

impl Metered {
    fn count<T>(
        &self,
        records: usize,
        begun: Instant,
        result: Result<T, CallError>,
    ) -> Result<T, CallError> {
        let (computed, memory) = self.instance.reading();
        self.place.holds(memory);
        let seconds = computed.unwrap_or_else(|| begun.elapsed()).as_secs_f64();
        let mut usage = self.meter.0.lock().unwrap_or_else(PoisonError::into_inner);
        usage.seconds += seconds;
        usage.memory = usage.memory.max(memory);
        if records > 0 {
            usage.calls += 1;
            usage.records += records as u64;
        }
        match &result {
            Err(CallError::Plugin(_)) => usage.errors += 1,
            Err(CallError::Trap(_)) => usage.traps += 1,
            Err(CallError::Timeout { .. }) => usage.timeouts += 1,
            Err(CallError::Invalid(_)) => usage.invalid += 1,
            Ok(_) | Err(CallError::Stopped(_)) => {}
        }
        result
    }
}

impl Instance for Metered {
    fn describe(&mut self) -> BoxFuture<'_, Result<plain::Description, CallError>> {
        self.instance.describe()
    }

    fn configure<'a>(
        &'a mut self,
        config: &'a str,
    ) -> BoxFuture<'a, Result<Vec<plain::Diagnostic>, CallError>> {
        self.instance.configure(config)
    }

    fn start<'a>(&'a mut self, seeds: &'a [plain::Task]) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            let begun = Instant::now();
            let result = self.instance.start(seeds).await;
            self.count(0, begun, result)
        })
    }

    fn generate(
        &mut self,
        unit: plain::Unit,
        calls: Arc<dyn HostCalls>,
        patience: u32,
    ) -> BoxFuture<'_, Result<plain::Proposals, CallError>> {
        Box::pin(async move {
            let begun = Instant::now();
            let result = self.instance.generate(unit, calls, patience).await;
            self.count(1, begun, result)
        })
    }

    fn restore(&mut self, history: Vec<plain::Judged>) -> BoxFuture<'_, Result<(), CallError>> {
        Box::pin(async move {
            let begun = Instant::now();
            let result = self.instance.restore(history).await;
            self.count(0, begun, result)
        })
    }

    fn judge_batch(
        &mut self,
        batch: Vec<plain::Candidate>,
        calls: Arc<dyn HostCalls>,
        patience: u32,
    ) -> BoxFuture<'_, Result<Vec<plain::Verdict>, CallError>> {
        Box::pin(async move {
            let (begun, records) = (Instant::now(), batch.len());
            let result = self.instance.judge_batch(batch, calls, patience).await;
            self.count(records, begun, result)
        })
    }

    fn judge_item(
        &mut self,
        item: plain::Item,
        calls: Arc<dyn HostCalls>,
        patience: u32,
    ) -> BoxFuture<'_, Result<Vec<plain::Judgement>, CallError>> {
        Box::pin(async move {
            let begun = Instant::now();
            let result = self.instance.judge_item(item, calls, patience).await;
            self.count(1, begun, result)
        })
    }

    fn summarise(
        &mut self,
        judgements: Vec<plain::Judgement>,
    ) -> BoxFuture<'_, Result<Vec<plain::Metric>, CallError>> {
        Box::pin(async move {
            let begun = Instant::now();
            let result = self.instance.summarise(judgements).await;
            self.count(0, begun, result)
        })
    }

    fn reading(&self) -> (Option<Duration>, u64) {
        self.instance.reading()
    }
}
