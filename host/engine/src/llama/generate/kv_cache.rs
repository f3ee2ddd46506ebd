//! The cached keys and values of one sequence.

use std::sync::Arc;

use super::kernel::{PAGE_POSITIONS, Page, PagePool};

/// Memory that an engine's keys and values take, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvCacheUsage {
    /// Bytes of the pages that sequences and kept beginnings hold; one that several hold counts once.
    pub bytes: u64,
    /// Most bytes so far.
    pub peak_bytes: u64,
    /// Most bytes that may be taken.
    pub limit_bytes: u64,
    /// Times that a running request was put back to be computed again, for want of pages.
    pub preemptions: u64,
}

/// The pages of one sequence.
pub(super) struct KvCache {
    pool: Arc<PagePool>,
    pages: Vec<Arc<Page>>,
    positions: usize,
}

impl KvCache {
    /// An empty one, which takes its pages from `pool`.
    pub(super) fn new(pool: &Arc<PagePool>) -> Self {
        Self {
            pool: pool.clone(),
            pages: Vec::new(),
            positions: 0,
        }
    }

    /// Tokens that have passed through the model.
    pub(super) fn positions(&self) -> usize {
        self.positions
    }

    /// Pages that it holds, its own and shared ones.
    pub(super) fn pages(&self) -> &[Arc<Page>] {
        &self.pages
    }

    /// What the first tokens left, in the same pages; a page is copied when either sequence writes to it.
    pub(super) fn prefix(&self, positions: usize) -> Self {
        debug_assert!(positions <= self.positions, "only what is there is shared");
        Self {
            pool: self.pool.clone(),
            pages: self.pages[..pages_of(positions)].to_vec(),
            positions,
        }
    }

    /// Pages that must be taken before `tokens` more can be written: new ones, and a copy of the last
    /// one where another sequence reads it too.
    pub(super) fn lacking(&self, tokens: usize) -> usize {
        if tokens == 0 {
            return 0;
        }
        let new = pages_of(self.positions + tokens).saturating_sub(self.pages.len());
        new + usize::from(self.shares_its_last_page())
    }

    /// Makes room for `tokens` more, in pages that no other sequence holds; nothing if the pool has too few.
    pub(super) fn reserve(&mut self, tokens: usize) -> bool {
        let lacking = self.lacking(tokens);
        if lacking > self.pool.free() {
            return false;
        }
        if lacking > 0 && self.shares_its_last_page() {
            let last = &mut self.pages[self.positions / PAGE_POSITIONS];
            Arc::make_mut(last);
        }
        let wanted = pages_of(self.positions + tokens);
        while self.pages.len() < wanted {
            self.pages.push(self.pool.take());
        }
        true
    }

    /// Writes one layer's key and value of a position for which there is room.
    pub(super) fn write(&mut self, layer: usize, position: usize, key: &[f32], value: &[f32]) {
        Arc::get_mut(&mut self.pages[position / PAGE_POSITIONS])
            .expect("room is made in pages that no other sequence holds")
            .write(layer, position % PAGE_POSITIONS, key, value);
    }

    /// Counts tokens whose keys and values have been written in all layers.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.positions += tokens;
    }

    /// Whether the page that the next token goes to is there and another sequence holds it.
    fn shares_its_last_page(&self) -> bool {
        self.pages
            .get(self.positions / PAGE_POSITIONS)
            .is_some_and(|page| Arc::strong_count(page) > 1)
    }
}

/// Pages that so many positions take.
pub(super) fn pages_of(positions: usize) -> usize {
    positions.div_ceil(PAGE_POSITIONS)
}
