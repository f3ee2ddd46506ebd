//! Reasons that befall many records: told once, and counted.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// What a plugin has said so far of why it failed, with how often.
#[derive(Default)]
pub(super) struct Told(Mutex<BTreeMap<String, u64>>);

impl Told {
    /// Counts a reason. Says whether it is the first time.
    pub(super) fn is_new(&self, reason: &str) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match told.get_mut(reason) {
            Some(count) => {
                *count += 1;
                false
            }
            None => {
                told.insert(reason.to_owned(), 1);
                true
            }
        }
    }

    /// Reasons that were given more than once, with how often.
    pub(super) fn repeated(&self) -> Vec<(String, u64)> {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = told.iter().map(|(reason, count)| (reason.clone(), *count));
        all.filter(|(_, count)| *count > 1).collect()
    }
}
