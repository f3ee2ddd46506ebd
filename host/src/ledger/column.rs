//! Values as columns hold them.

use serde::{Serialize, de::DeserializeOwned};

use super::LedgerError;

pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("records have string keys and finite shapes")
}

/// Reads a JSON column, or says that the ledger is damaged.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, LedgerError> {
    serde_json::from_str(text).map_err(|e| LedgerError::Damaged(format!("{e}: {text:.80}")))
}

pub(super) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn uint(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
