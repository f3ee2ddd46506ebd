//! Named instants at which tests end the process, as a power cut would.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

/// Ends the process here, without a word or a clean-up, if `PACOS_CRASH_AT` names this instant:
/// `NAME`, or `NAME@COUNT` for the COUNT-th time that it is passed.
pub fn point(name: &str) {
    static WANTED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let wanted = WANTED.get_or_init(|| {
        let value = std::env::var("PACOS_CRASH_AT").ok()?;
        Some(match value.rsplit_once('@') {
            Some((name, count)) => (name.to_owned(), count.parse().unwrap_or(1)),
            None => (value, 1),
        })
    });
    if let Some((wanted, count)) = wanted
        && wanted == name
        && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *count
    {
        std::process::abort();
    }
}
