//! Two kinds of time: the one a guest is held to, and the one it is shown.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use wasmtime::component::{HasData, Resource, ResourceTable};
use wasmtime_wasi::{
    HostMonotonicClock, HostWallClock,
    p2::{DynPollable, Pollable, bindings::clocks::monotonic_clock, subscribe},
};

/// Compute time of one call. It runs while the guest holds a thread, and stands while the guest
/// waits: for a model, or for its turn among other guests.
#[derive(Clone)]
pub(super) struct ComputeClock(Arc<Mutex<Reading>>);

struct Reading {
    spent: Duration,
    running_since: Option<Instant>,
    limit: Duration,
    /// How many times the limit this call may take.
    patience: u32,
}

impl ComputeClock {
    pub(super) fn new(limit: Duration) -> Self {
        ComputeClock(Arc::new(Mutex::new(Reading {
            spent: Duration::ZERO,
            running_since: None,
            limit,
            patience: 1,
        })))
    }

    /// Begins a call.
    pub(super) fn reset(&self, limit: Duration, patience: u32) {
        *self.read() = Reading {
            spent: Duration::ZERO,
            running_since: None,
            limit,
            patience,
        };
    }

    /// The limit and how many times it was given, where that has been passed.
    pub(super) fn passed(&self) -> Option<(Duration, u32)> {
        let reading = self.read();
        let running = reading.running_since.map(|since| since.elapsed());
        let (limit, patience) = (reading.limit, reading.patience);
        (reading.spent + running.unwrap_or_default() > limit * patience)
            .then_some((limit, patience))
    }

    /// What the call has computed.
    pub(super) fn spent(&self) -> Duration {
        self.read().spent
    }

    /// Runs a guest's call with the clock: what happens between two polls is not counted.
    pub(super) async fn count<T>(self, call: impl Future<Output = T>) -> T {
        let mut call = pin!(call);
        poll_fn(|context| {
            self.read().running_since = Some(Instant::now());
            let polled = call.as_mut().poll(context);
            let mut reading = self.read();
            if let Some(since) = reading.running_since.take() {
                reading.spent += since.elapsed();
            }
            polled
        })
        .await
    }

    fn read(&self) -> MutexGuard<'_, Reading> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A time that never passes: guests are the same at every run.
pub(super) struct StoppedTime;

impl HostWallClock for StoppedTime {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

impl HostMonotonicClock for StoppedTime {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        0
    }
}

/// `wasi:clocks/monotonic-clock` where sleeping takes no time. WASI's own would let a guest
/// sleep past every limit, since a guest that waits does not compute.
pub(super) struct Sleepless<'a>(pub(super) &'a mut ResourceTable);

/// Names [`Sleepless`] for a linker.
pub(super) struct HasSleepless;

impl HasData for HasSleepless {
    type Data<'a> = Sleepless<'a>;
}

impl monotonic_clock::Host for Sleepless<'_> {
    fn now(&mut self) -> wasmtime::Result<monotonic_clock::Instant> {
        Ok(HostMonotonicClock::now(&StoppedTime))
    }

    fn resolution(&mut self) -> wasmtime::Result<monotonic_clock::Duration> {
        Ok(HostMonotonicClock::resolution(&StoppedTime))
    }

    fn subscribe_instant(
        &mut self,
        _when: monotonic_clock::Instant,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        let over = self.0.push(Over)?;
        subscribe(self.0, over)
    }

    fn subscribe_duration(
        &mut self,
        _when: monotonic_clock::Duration,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        let over = self.0.push(Over)?;
        subscribe(self.0, over)
    }
}

/// A sleep that is over.
struct Over;

#[wasmtime_wasi::async_trait]
impl Pollable for Over {
    async fn ready(&mut self) {}
}
