//! Prompt prefixes shared between requests: keys and values that one request computed serve another.
//!
//! A cached position is the same, to the bit, as one computed again, so sharing changes no answer.

use std::collections::VecDeque;

use super::kv_cache::KvCache;

/// Tokens in common below which sharing, which may copy a page, is not worth its while.
pub(super) const WORTH_SHARING: usize = 16;

/// How many tokens two sequences have in common at their beginning.
pub(super) fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Keys and values of sequences that have ended, the latest last.
pub(super) struct Ended {
    /// Most tokens kept, of all sequences together.
    limit: usize,
    kept: VecDeque<(Vec<u32>, KvCache)>,
}

impl Ended {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            kept: VecDeque::new(),
        }
    }

    /// Keeps a sequence; those that it begins with, and the oldest past the limit, go.
    pub(super) fn keep(&mut self, mut tokens: Vec<u32>, cache: KvCache) {
        tokens.truncate(cache.positions());
        if tokens.len() < WORTH_SHARING || tokens.len() > self.limit {
            return;
        }
        if self.kept.iter().any(|(kept, _)| kept.starts_with(&tokens)) {
            return;
        }
        self.kept.retain(|(kept, _)| !tokens.starts_with(kept));
        self.kept.push_back((tokens, cache));
        while self.kept.iter().map(|(kept, _)| kept.len()).sum::<usize>() > self.limit {
            self.kept.pop_front();
        }
    }

    /// Gives up the oldest kept sequence, and with it the pages that no other holds; says whether there was one.
    pub(super) fn drop_oldest(&mut self) -> bool {
        self.kept.pop_front().is_some()
    }

    /// The kept sequence that has most of `tokens` in common, and how many.
    pub(super) fn best(&self, tokens: &[u32]) -> Option<(usize, &KvCache)> {
        self.kept
            .iter()
            .map(|(kept, cache)| (common(kept, tokens), cache))
            .max_by_key(|(length, _)| *length)
    }
}
