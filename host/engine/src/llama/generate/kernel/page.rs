//! Pages of keys and values, and the pool that counts them.
//!
//! A sequence's keys and values lie in pages of a fixed number of positions, so that memory is taken as
//! a sequence grows and sequences that begin alike hold the same pages (PagedAttention, Kwon et al.,
//! arXiv 2309.06180).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::attention::{AttentionShape, LANES};

/// Positions of a page: blocks of 16 whose scores are computed side by side. Fewer waste less at a
/// sequence's end, more make longer runs of neighbouring memory.
pub(in super::super) const PAGE_POSITIONS: usize = 4 * LANES;

/// What a model keeps of a position.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct PageShape {
    pub layers: usize,
    pub attention: AttentionShape,
}

impl PageShape {
    /// Memory of a page.
    pub(in super::super) fn bytes(self) -> usize {
        self.layers * self.attention.key_value_heads * 2 * self.part() * size_of::<[f32; LANES]>()
    }

    /// Where the numbers of one head of one layer begin: its keys, and its values after them.
    fn start(self, layer: usize, head: usize) -> usize {
        (layer * self.attention.key_value_heads + head) * 2 * self.part()
    }

    /// What the keys of one head take, in groups of 16 numbers; its values take as much.
    fn part(self) -> usize {
        self.attention.head_dim * (PAGE_POSITIONS / LANES)
    }
}

/// Counts the pages alive, and holds them under a limit.
#[derive(Debug)]
pub(in super::super) struct PagePool {
    shape: PageShape,
    limit_bytes: usize,
    alive: AtomicUsize,
    most: AtomicUsize,
}

impl PagePool {
    /// A pool that gives no more pages than fit into `limit_bytes` together.
    pub(in super::super) fn new(shape: PageShape, limit_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            shape,
            limit_bytes,
            alive: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        })
    }

    /// Memory of a page.
    pub(in super::super) fn page_bytes(&self) -> usize {
        self.shape.bytes()
    }

    /// Most memory of all pages together.
    pub(in super::super) fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    /// Most pages at once.
    pub(in super::super) fn limit(&self) -> usize {
        self.limit_bytes / self.shape.bytes()
    }

    /// Pages alive.
    pub(in super::super) fn alive(&self) -> usize {
        self.alive.load(Ordering::Relaxed)
    }

    /// Most pages that have been alive at once.
    pub(in super::super) fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// Pages that can still be taken.
    pub(in super::super) fn free(&self) -> usize {
        self.limit().saturating_sub(self.alive())
    }

    /// A page of zeros. The caller has seen that one is free.
    pub(in super::super) fn take(self: &Arc<Self>) -> Arc<Page> {
        let claim = Claim::on(self);
        let shape = self.shape;
        Arc::new(Page {
            shape,
            numbers: vec![[0.0; LANES]; shape.bytes() / size_of::<[f32; LANES]>()],
            _claim: claim,
        })
    }
}

/// One page in a pool's count, for as long as it lives.
#[derive(Debug)]
struct Claim(Arc<PagePool>);

impl Claim {
    fn on(pool: &Arc<PagePool>) -> Self {
        let alive = pool.alive.fetch_add(1, Ordering::Relaxed) + 1;
        pool.most.fetch_max(alive, Ordering::Relaxed);
        Self(pool.clone())
    }
}

impl Clone for Claim {
    fn clone(&self) -> Self {
        Self::on(&self.0)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Keys and values of neighbouring positions of one sequence, of all layers and heads.
///
/// Keys lie in blocks of 16 positions, dimension by dimension, so that 16 scores are computed side by
/// side; values lie position by position.
#[derive(Debug, Clone)]
pub(in super::super) struct Page {
    shape: PageShape,
    numbers: Vec<[f32; LANES]>,
    /// Held, never read.
    _claim: Claim,
}

impl Page {
    pub(super) fn shape(&self) -> PageShape {
        self.shape
    }

    /// Keys of one head of one layer: `[blocks, head_dim, 16]`.
    #[inline(always)]
    pub(super) fn keys(&self, layer: usize, head: usize) -> &[[f32; LANES]] {
        &self.numbers[self.shape.start(layer, head)..][..self.shape.part()]
    }

    /// Values of one head of one layer: `[positions, head_dim]`.
    #[inline(always)]
    pub(super) fn values(&self, layer: usize, head: usize) -> &[f32] {
        let start = self.shape.start(layer, head) + self.shape.part();
        self.numbers[start..][..self.shape.part()].as_flattened()
    }

    /// Writes one position of one layer: its key and value, each `[key_value_heads * head_dim]`.
    pub(in super::super) fn write(
        &mut self,
        layer: usize,
        position: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let width = self.shape.attention.head_dim;
        let (block, lane) = (position / LANES, position % LANES);
        for (head, (key, value)) in key
            .chunks_exact(width)
            .zip(value.chunks_exact(width))
            .enumerate()
        {
            let start = self.shape.start(layer, head);
            let (keys, values) =
                self.numbers[start..][..2 * self.shape.part()].split_at_mut(self.shape.part());
            for (lanes, key) in keys[block * width..].iter_mut().zip(key) {
                lanes[lane] = *key;
            }
            values.as_flattened_mut()[position * width..][..width].copy_from_slice(value);
        }
    }
}
