//! The budget: a worst case is reserved before a request leaves, and settled when it ends.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::{
    ledger::{Charge, Spent},
    manifest::Budget,
};

/// The code of the error that a plugin gets for a request beyond its own limits. No server's
/// failure has it.
pub const BEYOND_LIMITS: &str = "budget";

/// A limit that does not cover the next request.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "{spent} of {limit} {unit} ({reserved} reserved for what is under way), and the next request \
     may take {needed}"
)]
pub struct Exhausted {
    /// The limit's key: `usd`, `tokens`, `requests`.
    pub key: &'static str,
    /// `USD`, `tokens`, `requests`.
    pub unit: &'static str,
    /// Charged so far.
    pub spent: String,
    /// Reserved for requests in flight.
    pub reserved: String,
    /// Worst case of the request that was not sent.
    pub needed: String,
    /// The limit.
    pub limit: String,
}

/// Counts what is spent and what is under way against limits: the run's, or one plugin's.
pub(super) struct Till {
    limits: Budget,
    state: Mutex<State>,
    settled: Notify,
}

struct State {
    spent: Spent,
    reserved: Spent,
}

/// A reservation. It is held until it is settled; dropped unsettled it is charged whole, as a
/// request whose end nobody saw must be.
pub(super) struct Reservation<'a> {
    till: &'a Till,
    worst: Spent,
    settled: bool,
}

impl Till {
    pub(super) fn new(limits: Budget, spent: Spent) -> Self {
        Till {
            limits,
            state: Mutex::new(State {
                spent,
                reserved: Spent::default(),
            }),
            settled: Notify::new(),
        }
    }

    /// Reserves the worst case of one attempt. Where the limit is reached only by what others
    /// have reserved, waits for them to settle.
    pub(super) async fn reserve(&self, worst: Charge) -> Result<Reservation<'_>, Exhausted> {
        let worst = Spent {
            requests: 1,
            tokens: worst.prompt_tokens + worst.completion_tokens,
            usd: worst.usd,
        };
        loop {
            let settled = self.settled.notified();
            {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                match self.over(&state, &worst) {
                    None => {
                        add(&mut state.reserved, &worst);
                        return Ok(Reservation {
                            till: self,
                            worst,
                            settled: false,
                        });
                    }
                    Some(exhausted) if state.reserved.requests == 0 => return Err(exhausted),
                    Some(_) => {}
                }
            }
            settled.await;
        }
    }

    fn over(&self, state: &State, worst: &Spent) -> Option<Exhausted> {
        let exhausted =
            |key, unit, spent: String, reserved: String, needed: String, limit: String| {
                Some(Exhausted {
                    key,
                    unit,
                    spent,
                    reserved,
                    needed,
                    limit,
                })
            };
        let whole = |key, limit: Option<u64>, spent: u64, reserved: u64, needed: u64| {
            let limit = limit.filter(|limit| spent + reserved + needed > *limit)?;
            exhausted(
                key,
                key,
                spent.to_string(),
                reserved.to_string(),
                needed.to_string(),
                limit.to_string(),
            )
        };
        let (spent, reserved) = (&state.spent, &state.reserved);
        if let Some(limit) = self.limits.usd
            && spent.usd + reserved.usd + worst.usd > limit
        {
            let usd = |value: f64| format!("{value:.4}");
            return exhausted(
                "usd",
                "USD",
                usd(spent.usd),
                usd(reserved.usd),
                usd(worst.usd),
                usd(limit),
            );
        }
        whole(
            "tokens",
            self.limits.tokens,
            spent.tokens,
            reserved.tokens,
            worst.tokens,
        )
        .or_else(|| {
            whole(
                "requests",
                self.limits.requests,
                spent.requests,
                reserved.requests,
                worst.requests,
            )
        })
    }
}

impl Reservation<'_> {
    /// Gives the reservation back and charges what the attempt came to.
    pub(super) fn settle(mut self, charge: Charge) {
        self.close(Spent {
            requests: 1,
            tokens: charge.prompt_tokens + charge.completion_tokens,
            usd: charge.usd,
        });
    }

    /// Gives the reservation back for a request that never left.
    pub(super) fn settle_unsent(mut self) {
        self.close(Spent::default());
    }

    fn close(&mut self, spent: Spent) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let mut state = self
            .till
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        state.reserved.requests -= self.worst.requests;
        state.reserved.tokens -= self.worst.tokens;
        // Floating sums drift; nothing reserved is exactly nothing.
        state.reserved.usd = if state.reserved.requests == 0 {
            0.0
        } else {
            state.reserved.usd - self.worst.usd
        };
        add(&mut state.spent, &spent);
        drop(state);
        self.till.settled.notify_waiters();
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.close(self.worst);
    }
}

fn add(sum: &mut Spent, more: &Spent) {
    sum.requests += more.requests;
    sum.tokens += more.tokens;
    sum.usd += more.usd;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn till(usd: f64) -> Till {
        let limits = Budget {
            usd: Some(usd),
            ..Budget::default()
        };
        Till::new(limits, Spent::default())
    }

    fn charge(usd: f64) -> Charge {
        Charge {
            prompt_tokens: 10,
            completion_tokens: 10,
            usd,
        }
    }

    #[tokio::test]
    async fn a_request_that_could_exceed_the_limit_is_not_sent() {
        let till = till(1.0);
        let stop = till.reserve(charge(1.5)).await.err().unwrap();
        let stop = crate::models::Stop::Budget(stop);
        assert_eq!(
            stop.to_string(),
            "the budget is spent: 0.0000 of 1.0000 USD (0.0000 reserved for what is under way), \
             and the next request may take 1.5000. Raise [budget] usd to go on"
        );
    }

    #[tokio::test]
    async fn what_is_under_way_is_awaited_before_the_budget_is_declared_spent() {
        let till = till(1.0);
        let first = till.reserve(charge(0.9)).await.unwrap();
        let second = till.reserve(charge(0.5));
        tokio::pin!(second);
        tokio::select! {
            _ = &mut second => panic!("the first may still take 0.9 of the 1.0"),
            () = tokio::time::sleep(std::time::Duration::from_millis(20)) => {}
        }
        first.settle(charge(0.1));
        assert!(second.await.is_ok());
    }

    #[tokio::test]
    async fn a_reservation_that_nobody_settled_is_charged_whole() {
        let till = till(1.0);
        drop(till.reserve(charge(0.9)).await.unwrap());
        assert!(till.reserve(charge(0.5)).await.is_err());
    }
}
