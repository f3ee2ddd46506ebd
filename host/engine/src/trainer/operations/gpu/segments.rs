//! Work lists of the attention kernels: which tiles of queries and keys there are, and what each has
//! to look at.

use std::ops::Range;

use candle_core::{Device, Result, Tensor};

use crate::trainer::micro_batch::Segment;

/// Queries, and keys, of a tile. The kernels are compiled for it.
pub(super) const TILE: usize = 64;

/// Queries behind a prefix that one block gathers a tile's key gradients from, at least. The first
/// tokens of all examples may be one prefix, whose gradients a single block would gather from thousands
/// of queries while the other blocks are long done.
const GATHERED_QUERIES: usize = 512;

/// Most parts that the work of a prefix's tiles is cut into: each has memory of its own until they are
/// summed.
const MOST_PARTS: usize = 32;

/// How many parts a micro-batch's key gradients are at most summed from, if its examples share two
/// prefixes of up to two tiles.
pub(super) const fn expected_parts(tokens: usize) -> usize {
    let [tiles, prefixes] = [2, 2];
    // Each prefix gives a part from its own queries, and one that may be shorter than the others.
    let gathered = tokens / GATHERED_QUERIES;
    let most = prefixes * (MOST_PARTS / tiles);
    tiles * (2 * prefixes + if gathered < most { gathered } else { most })
}

/// The work of one micro-batch. All numbers count tokens of the micro-batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct WorkLists {
    /// Tiles of queries.
    pub queries: Vec<QueryTile>,
    /// Tiles of keys whose gradients come from one stretch of queries.
    pub whole: Vec<KeyItem>,
    /// Parts of the work of tiles whose gradients come from several.
    pub parts: Vec<KeyItem>,
    /// What the parts are summed to.
    pub sums: Vec<KeySum>,
}

/// Up to [`TILE`] queries of one segment, with all keys that they look at: the segment's prefix, then
/// the segment itself, causally.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QueryTile {
    pub queries: Range<usize>,
    pub segment_start: usize,
    pub prefix: Range<usize>,
}

/// The gradients of up to [`TILE`] keys, as far as they come from some queries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyItem {
    pub keys: Range<usize>,
    /// Those of the keys that the queries look at.
    pub seen: Range<usize>,
    pub queries: Range<usize>,
    /// Whether a query looks at keys up to its own token only.
    pub causal: bool,
}

/// A tile of keys, and the parts that its gradients are the sum of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeySum {
    pub keys: Range<usize>,
    pub parts: Range<usize>,
}

impl WorkLists {
    pub fn of(segments: &[Segment]) -> Self {
        let mut lists = Self::default();
        let runs = prefix_runs(segments);
        for segment in segments {
            let tokens = &segment.tokens;
            for queries in chunks(tokens.clone(), TILE) {
                lists.queries.push(QueryTile {
                    queries,
                    segment_start: tokens.start,
                    prefix: segment.prefix.clone(),
                });
            }
            for keys in chunks(tokens.clone(), TILE) {
                // A segment's own queries are not cut: a long one has many tiles.
                let mut items = vec![KeyItem {
                    keys: keys.clone(),
                    seen: keys.clone(),
                    queries: keys.start..tokens.end,
                    causal: true,
                }];
                for (prefix, queries) in &runs {
                    let seen = prefix.start.max(keys.start)..prefix.end.min(keys.end);
                    if seen.is_empty() {
                        continue;
                    }
                    let parts = (MOST_PARTS / prefix.len().div_ceil(TILE)).max(1);
                    let part = queries.len().div_ceil(parts).next_multiple_of(TILE);
                    for queries in chunks(queries.clone(), part.max(GATHERED_QUERIES)) {
                        items.push(KeyItem {
                            keys: keys.clone(),
                            seen: seen.clone(),
                            queries,
                            causal: false,
                        });
                    }
                }
                lists.add_key_items(keys, items);
            }
        }
        // The longest work first, so that none of it is left alone at the end.
        lists.queries.sort_by_key(|tile| {
            let own = tile.queries.end - tile.segment_start;
            std::cmp::Reverse(own + tile.prefix.len())
        });
        let by_length = |item: &KeyItem| std::cmp::Reverse(item.queries.len());
        lists.whole.sort_by_key(by_length);
        lists
    }

    fn add_key_items(&mut self, keys: Range<usize>, items: Vec<KeyItem>) {
        if items.len() == 1 {
            self.whole.extend(items);
            return;
        }
        let start = self.parts.len();
        self.parts.extend(items);
        self.sums.push(KeySum {
            keys,
            parts: start..self.parts.len(),
        });
    }

    /// The lists on a device, as [`PlacedLists`] reads them: views of one table.
    pub fn place(&self, device: &Device) -> Result<Vec<Tensor>> {
        let queries = self.queries.iter().map(|tile| {
            vec![
                tile.queries.start,
                tile.queries.end,
                tile.segment_start,
                tile.prefix.start,
                tile.prefix.end,
            ]
        });
        let items = |items: &[KeyItem]| -> Vec<Vec<usize>> {
            let numbers = |item: &KeyItem| {
                vec![
                    item.keys.start,
                    item.keys.end,
                    item.seen.start,
                    item.seen.end,
                    item.queries.start,
                    item.queries.end,
                    usize::from(item.causal),
                ]
            };
            items.iter().map(numbers).collect()
        };
        let sums = self
            .sums
            .iter()
            .map(|sum| vec![sum.keys.start, sum.keys.end, sum.parts.start, sum.parts.end]);
        let lists: [(usize, Vec<Vec<usize>>); 4] = [
            (5, queries.collect()),
            (7, items(&self.whole)),
            (7, items(&self.parts)),
            (4, sums.collect()),
        ];
        let mut numbers: Vec<u32> = Vec::new();
        for (_, rows) in &lists {
            numbers.extend(rows.iter().flatten().map(|n| *n as u32));
        }
        // A device has no empty tensors.
        numbers.push(0);
        let table = Tensor::from_slice(&numbers, numbers.len(), device)?;
        let mut start = 0;
        lists
            .iter()
            .map(|(width, rows)| {
                let count = rows.len() * width;
                let view = table.narrow(0, start, count)?;
                start += count;
                view.reshape((rows.len(), *width))
            })
            .collect()
    }
}

/// The tables that [`WorkLists::place`] made; each has a row per block of a launch.
pub(super) struct PlacedLists<'a> {
    pub queries: &'a Tensor,
    pub whole: &'a Tensor,
    pub parts: &'a Tensor,
    pub sums: &'a Tensor,
}

impl<'a> PlacedLists<'a> {
    pub fn of(tables: &'a [Tensor]) -> Result<Self> {
        let [queries, whole, parts, sums] = tables else {
            candle_core::bail!(
                "these segments were placed by another implementation: expected 4 tables, found {}",
                tables.len()
            );
        };
        Ok(Self {
            queries,
            whole,
            parts,
            sums,
        })
    }
}

/// Every prefix with the stretches of queries that look at it: neighbouring segments with the same
/// prefix are one stretch, since all their tokens see all of it.
fn prefix_runs(segments: &[Segment]) -> Vec<(Range<usize>, Range<usize>)> {
    let mut runs: Vec<(Range<usize>, Range<usize>)> = Vec::new();
    for segment in segments.iter().filter(|s| !s.prefix.is_empty()) {
        match runs.last_mut() {
            Some((prefix, queries))
                if *prefix == segment.prefix && queries.end == segment.tokens.start =>
            {
                queries.end = segment.tokens.end;
            }
            _ => runs.push((segment.prefix.clone(), segment.tokens.clone())),
        }
    }
    runs
}

fn chunks(range: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range
        .step_by(size)
        .map(move |start| start..(start + size).min(end))
}
