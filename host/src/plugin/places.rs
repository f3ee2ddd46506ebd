//! How many instances of a plugin may live at once: as many as its memory budget holds.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// What an instance is taken to need before one has been seen at work.
const FIRST_GUESS: u64 = 4 << 20;

/// Places for the instances of one plugin. Each is taken to need what the greediest instance so
/// far has needed, so that a plugin that turns out greedy has fewer from then on.
#[derive(Debug)]
pub(super) struct Places {
    budget: u64,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug)]
struct State {
    taken: u64,
    each: u64,
}

/// One place, given back on drop.
#[derive(Debug)]
pub(super) struct Place(Arc<Places>);

impl Places {
    /// For instances that together hold `budget` bytes of linear memory.
    pub(super) fn new(budget: u64) -> Arc<Self> {
        Arc::new(Places {
            budget,
            state: Mutex::new(State {
                taken: 0,
                each: FIRST_GUESS,
            }),
            freed: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place. There is always one, however greedy the plugin.
    pub(super) async fn take(self: &Arc<Self>) -> Place {
        loop {
            let freed = self.freed.notified();
            {
                let mut state = self.state();
                if state.taken == 0 || (state.taken + 1) * state.each <= self.budget {
                    state.taken += 1;
                    return Place(self.clone());
                }
            }
            freed.await;
        }
    }
}

impl Place {
    /// Tells how much linear memory the instance in this place has taken.
    pub(super) fn holds(&self, bytes: u64) {
        let mut state = self.0.state();
        state.each = state.each.max(bytes);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.state().taken -= 1;
        self.0.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn full(places: &Arc<Places>) -> bool {
        let take = places.take();
        tokio::time::timeout(std::time::Duration::from_millis(10), take)
            .await
            .is_err()
    }

    #[tokio::test]
    async fn a_greedy_plugin_has_fewer_instances() {
        let places = Places::new(3 * FIRST_GUESS);
        let first = places.take().await;
        let second = places.take().await;
        let third = places.take().await;
        assert!(full(&places).await);
        drop(third);
        assert!(!full(&places).await);
        first.holds(2 * FIRST_GUESS);
        assert!(full(&places).await);
        drop(second);
        assert!(full(&places).await);
        first.holds(100 * FIRST_GUESS);
        drop(first);
        // One can always work.
        assert!(!full(&places).await);
    }
}
