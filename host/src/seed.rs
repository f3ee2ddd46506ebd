//! Where all randomness comes from: the recipe's seed and a stable index.

use sha2::{Digest, Sha256};

fn first_u64(hash: &[u8]) -> u64 {
    let bytes = hash.first_chunk().expect("a SHA-256 has 32 bytes");
    u64::from_le_bytes(*bytes)
}

/// The seed of one thing among many of a kind, such as unit 7 of the generator.
#[must_use]
pub fn derive(seed: u64, kind: &str, index: u64) -> u64 {
    let mut hash = Sha256::new();
    hash.update(b"pacos seed 1\0");
    hash.update(seed.to_le_bytes());
    hash.update(kind.as_bytes());
    hash.update([0]);
    hash.update(index.to_le_bytes());
    first_u64(&hash.finalize())
}

/// The seed of a record, from nothing but what it says: the same text in another place, or
/// under another filter, has the same.
#[must_use]
pub fn of_content(content: &impl serde::Serialize) -> u64 {
    let text = serde_json::to_vec(content).expect("records have string keys and finite shapes");
    let mut hash = Sha256::new();
    hash.update(b"pacos content 1\0");
    hash.update(&text);
    first_u64(&hash.finalize())
}
