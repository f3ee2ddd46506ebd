//! Pages of keys and values, and the pool that counts them.
//!
//! A sequence's keys and values lie in pages of a fixed number of positions, so that memory is taken as
//! a sequence grows and sequences that begin alike hold the same pages (PagedAttention, Kwon et al.,
//! arXiv 2309.06180).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::attention::{AttentionShape, LANES};

/// Positions of a page: as many scores as are computed side by side. Fewer waste less at a sequence's
/// end, more make longer runs of neighbouring memory.
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
        self.layers
            * self.attention.key_value_heads
            * 2
            * self.part()
            * size_of::<[f32; PAGE_POSITIONS]>()
    }

    /// Where the keys of one head of one layer begin. The keys of a layer's heads lie side by side, and
    /// their values after them.
    fn keys(self, layer: usize, head: usize) -> usize {
        let heads = self.attention.key_value_heads;
        (2 * layer * heads + head) * self.part()
    }

    /// Where the values of one head of one layer begin.
    fn values(self, layer: usize, head: usize) -> usize {
        self.keys(layer, head) + self.attention.key_value_heads * self.part()
    }

    /// What the keys of one head take, in groups of 64 numbers; its values take as much.
    fn part(self) -> usize {
        self.attention.head_dim
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
            numbers: vec![
                [0.0; PAGE_POSITIONS];
                shape.bytes() / size_of::<[f32; PAGE_POSITIONS]>()
            ],
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
/// Keys lie dimension by dimension, all positions of a dimension side by side, so that scores are computed
/// side by side; values lie position by position.
#[derive(Debug, Clone)]
pub(in super::super) struct Page {
    shape: PageShape,
    numbers: Vec<[f32; PAGE_POSITIONS]>,
    /// Held, never read.
    _claim: Claim,
}

impl Page {
    pub(super) fn shape(&self) -> PageShape {
        self.shape
    }

    /// Keys of one head of one layer: `[head_dim, positions]`.
    #[inline(always)]
    pub(super) fn keys(&self, layer: usize, head: usize) -> &[[f32; PAGE_POSITIONS]] {
        &self.numbers[self.shape.keys(layer, head)..][..self.shape.part()]
    }

    /// Values of one head of one layer: `[positions, head_dim]`.
    #[inline(always)]
    pub(super) fn values(&self, layer: usize, head: usize) -> &[f32] {
        self.numbers[self.shape.values(layer, head)..][..self.shape.part()].as_flattened()
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
        for (head, (key, value)) in key
            .chunks_exact(width)
            .zip(value.chunks_exact(width))
            .enumerate()
        {
            let keys = &mut self.numbers[self.shape.keys(layer, head)..];
            for (lanes, key) in keys.iter_mut().zip(key) {
                lanes[position] = *key;
            }
            let values = self.numbers[self.shape.values(layer, head)..].as_flattened_mut();
            values[position * width..][..width].copy_from_slice(value);
        }
    }
}
