//! Reasons that befall many records: told once, and counted.

use std::collections::BTreeMap;

/// What a plugin has said so far of why it failed, with how often.
#[derive(Default)]
pub(super) struct Told(BTreeMap<String, u64>);

impl Told {
    /// Counts a reason. Says whether it is the first time.
    pub(super) fn is_new(&mut self, reason: &str) -> bool {
        match self.0.get_mut(reason) {
            Some(count) => {
                *count += 1;
                false
            }
            None => {
                self.0.insert(reason.to_owned(), 1);
                true
            }
        }
    }

    /// Reasons that were given more than once, with how often.
    pub(super) fn repeated(&self) -> impl Iterator<Item = (&str, u64)> {
        let all = self.0.iter().map(|(reason, count)| (&**reason, *count));
        all.filter(|(_, count)| *count > 1)
    }
}
