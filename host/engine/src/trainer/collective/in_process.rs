//! Ranks that are threads of one process.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Departure;
use super::star::{Gone, Links};

/// A rank that is a thread of this process.
///
/// When one is dropped, the others fail as soon as they need it.
#[derive(Debug)]
pub struct InProcess {
    rank: usize,
    world_size: usize,
    post: Arc<Post>,
}

#[derive(Debug)]
struct Post {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Messages on their way, by sender and receiver.
    queues: Vec<VecDeque<Vec<u8>>>,
    /// Which ranks were dropped.
    left: Vec<bool>,
    departure: Option<Departure>,
}

impl InProcess {
    /// A world of this many ranks, one for each thread; there must be at least one.
    pub fn world(world_size: usize) -> Vec<Self> {
        assert!(world_size > 0, "a world has at least one rank");
        let post = Arc::new(Post {
            state: Mutex::new(State {
                queues: vec![VecDeque::new(); world_size * world_size],
                left: vec![false; world_size],
                departure: None,
            }),
            changed: Condvar::new(),
        });
        (0..world_size)
            .map(|rank| Self {
                rank,
                world_size,
                post: Arc::clone(&post),
            })
            .collect()
    }

    /// No code panics while it holds the lock, so a poisoned state is whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.post
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Why a rank cannot be reached, if so; the first reason is the one for all.
    fn unreachable(&mut self, rank: usize) -> Option<Gone> {
        if self.left[rank] {
            let departure = Departure::lost(rank, "its thread ended");
            self.departure.get_or_insert(departure);
        }
        self.departure.clone().map(Gone)
    }
}

impl Links for InProcess {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn send(&self, to: usize, message: Vec<u8>) -> Result<(), Gone> {
        let mut state = self.state();
        if let Some(gone) = state.unreachable(to) {
            return Err(gone);
        }
        state.queues[self.rank * self.world_size + to].push_back(message);
        self.post.changed.notify_all();
        Ok(())
    }

    fn receive(&self, from: usize) -> Result<Vec<u8>, Gone> {
        let mut state = self.state();
        loop {
            if let Some(message) = state.queues[from * self.world_size + self.rank].pop_front() {
                return Ok(message);
            }
            if let Some(gone) = state.unreachable(from) {
                self.post.changed.notify_all();
                return Err(gone);
            }
            state = self
                .post
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn stop(&self, reason: &str) {
        let departure = Departure::stopped(self.rank, reason);
        self.state().departure.get_or_insert(departure);
        self.post.changed.notify_all();
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        self.state().left[self.rank] = true;
        self.post.changed.notify_all();
    }
}
