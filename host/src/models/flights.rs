//! Requests under way: the same one is not sent twice at a time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::OwnedMutexGuard;

use crate::ledger::RequestKey;

type Flight = tokio::sync::Mutex<()>;

#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<RequestKey, Weak<Flight>>>);

impl Flights {
    /// Waits until nobody else sends this request. What is then in the ledger is what they got.
    pub(super) async fn alone(&self, key: RequestKey) -> OwnedMutexGuard<()> {
        let flight = {
            let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            flights.retain(|_, flight| flight.strong_count() > 0);
            match flights.get(&key).and_then(Weak::upgrade) {
                Some(flight) => flight,
                None => {
                    let flight = Arc::new(Flight::default());
                    flights.insert(key, Arc::downgrade(&flight));
                    flight
                }
            }
        };
        flight.lock_owned().await
    }
}
