//! Attention's launches: over tiles of queries for results and query gradients, over tiles of keys for
//! theirs.

use candle_core::{DType, Result, Tensor};

use super::segments::{PlacedLists, TILE};
use super::{Argument, Format, GpuOperations, Launcher, by_format, expect, size};
use crate::trainer::operations::{AttentionSaved, PlacedSegments};

/// Threads of a block: four warps, each with 16 of a tile's 64 rows.
const THREADS: u32 = 128;
/// What the rows of a tile are padded by in shared memory, in numbers: 16 bytes, so that eight rows
/// that a warp reads at once lie in different banks.
const PADDING: usize = 8;
/// Most numbers of a head: the plain kernels keep 8 in each of a warp's lanes.
const MOST_HEAD_DIM: usize = 256;

/// How a call is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By tensor cores, for heads of 64 or 128 numbers in bf16.
    TensorCores64,
    TensorCores128,
    /// By plain arithmetic, for all others.
    Plain(Format),
}

/// Sizes of a call.
struct Shape {
    way: Way,
    heads: usize,
    kv_heads: usize,
    tokens: usize,
    head_dim: usize,
}

impl Shape {
    fn of(q: &Tensor, k: &Tensor, others: &[&Tensor]) -> Result<Self> {
        let (heads, tokens, head_dim) = q.dims3()?;
        let (kv_heads, ..) = k.dims3()?;
        expect("keys", k, &[kv_heads, tokens, head_dim], q.dtype())?;
        if kv_heads == 0 || heads % kv_heads != 0 || head_dim > MOST_HEAD_DIM {
            candle_core::bail!(
                "attention of {heads} query heads over {kv_heads} key heads of {head_dim} numbers: \
                 expected whole groups, and at most {MOST_HEAD_DIM} numbers"
            );
        }
        // The tensor-core kernels read 16 bytes at once.
        let aligned = [q, k]
            .into_iter()
            .chain(others.iter().copied())
            .all(|tensor| tensor.layout().start_offset() % 8 == 0);
        let way = match (Format::of([q, k])?, head_dim) {
            (Format::Bf16, 64) if aligned => Way::TensorCores64,
            (Format::Bf16, 128) if aligned => Way::TensorCores128,
            (format, _) => Way::Plain(format),
        };
        Ok(Self {
            way,
            heads,
            kv_heads,
            tokens,
            head_dim,
        })
    }

    /// `tokens`, query heads of a group, `head_dim` and the scale of products.
    fn arguments(&self) -> Result<[Argument<'static>; 4]> {
        let scale = 1.0 / (self.head_dim as f64).sqrt();
        Ok([
            size(self.tokens)?,
            size(self.heads / self.kv_heads)?,
            size(self.head_dim)?,
            Argument::F32(scale as f32),
        ])
    }

    /// Shared memory for so many tiles of 64 rows, and so many numbers of f32 beside them.
    fn tiles(&self, count: usize, numbers: usize) -> u32 {
        (count * TILE * (self.head_dim + PADDING) * 2 + numbers * 4) as u32
    }

    /// Shared memory of a plain kernel: for each of four warps so many rows, and 64 numbers.
    fn plain(&self, rows: usize) -> u32 {
        (4 * (rows * self.head_dim.next_multiple_of(4) + 64) * 4) as u32
    }
}

impl<L: Launcher> GpuOperations<L> {
    pub(super) fn attention_forward(
        &self,
        out: &Tensor,
        log_sum: &Tensor,
        [q, k, v]: [&Tensor; 3],
        segments: &PlacedSegments,
    ) -> Result<()> {
        let shape = Shape::of(q, k, &[v, out])?;
        expect("values", v, k.dims(), k.dtype())?;
        expect("attention", out, q.dims(), q.dtype())?;
        let sums = [shape.heads, shape.tokens];
        expect("attention: log_sum", log_sum, &sums, DType::F32)?;
        let lists = PlacedLists::of(&segments.tables)?;
        let (kernel, shared_bytes) = match shape.way {
            Way::TensorCores64 => ("attention_bf16_64", shape.tiles(2, 0)),
            Way::TensorCores128 => ("attention_bf16_128", shape.tiles(2, 0)),
            Way::Plain(format) => (by_format!("attention", format), shape.plain(1)),
        };
        let [tokens, group, head_dim, scale] = shape.arguments()?;
        let arguments = [
            out.into(),
            log_sum.into(),
            q.into(),
            k.into(),
            v.into(),
            lists.queries.into(),
            tokens,
            group,
            head_dim,
            scale,
        ];
        let grid = [lists.queries.dim(0)?, shape.heads, 1];
        self.launch(kernel, grid, THREADS, shared_bytes, &arguments)
    }

    pub(super) fn attention_gradients(
        &self,
        [dq, dk, dv]: [&Tensor; 3],
        saved: AttentionSaved<'_>,
        segments: &PlacedSegments,
    ) -> Result<()> {
        let AttentionSaved {
            q,
            k,
            v,
            log_sum,
            delta,
            d_out,
        } = saved;
        let shape = Shape::of(q, k, &[v, d_out, dq, dk, dv])?;
        for (what, tensor, like) in [
            ("values", v, k),
            ("gradient of attention", d_out, q),
            ("gradient of queries", dq, q),
            ("gradient of keys", dk, k),
            ("gradient of values", dv, k),
        ] {
            expect(what, tensor, like.dims(), q.dtype())?;
        }
        for sums in [log_sum, delta] {
            expect(
                "log_sum and delta",
                sums,
                &[shape.heads, shape.tokens],
                DType::F32,
            )?;
        }
        let lists = PlacedLists::of(&segments.tables)?;
        let (kernel, shared_bytes) = match shape.way {
            Way::TensorCores64 => ("attention_query_gradient_bf16_64", shape.tiles(2, 0)),
            Way::TensorCores128 => ("attention_query_gradient_bf16_128", shape.tiles(2, 0)),
            Way::Plain(format) => (
                by_format!("attention_query_gradient", format),
                shape.plain(2),
            ),
        };
        let [tokens, group, head_dim, scale] = shape.arguments()?;
        let arguments = [
            dq.into(),
            q.into(),
            k.into(),
            v.into(),
            log_sum.into(),
            delta.into(),
            d_out.into(),
            lists.queries.into(),
            tokens,
            group,
            head_dim,
            scale,
        ];
        let grid = [lists.queries.dim(0)?, shape.heads, 1];
        self.launch(kernel, grid, THREADS, shared_bytes, &arguments)?;

        let (kernel, shared_bytes) = match shape.way {
            Way::TensorCores64 => ("attention_key_gradient_bf16_64", shape.tiles(4, 2 * TILE)),
            Way::TensorCores128 => ("attention_key_gradient_bf16_128", shape.tiles(4, 2 * TILE)),
            Way::Plain(format) => (by_format!("attention_key_gradient", format), shape.plain(2)),
        };
        let key_gradients = |items: &Tensor, parts: Option<&Tensor>| {
            let arguments = [
                dk.into(),
                dv.into(),
                parts.into(),
                q.into(),
                k.into(),
                v.into(),
                log_sum.into(),
                delta.into(),
                d_out.into(),
                items.into(),
                tokens,
                group,
                head_dim,
                scale,
            ];
            let grid = [items.dim(0)?, shape.kv_heads, 1];
            self.launch(kernel, grid, THREADS, shared_bytes, &arguments)
        };
        let parts = lists.parts.dim(0)?;
        if parts > 0 {
            let count = parts * shape.kv_heads * 2 * TILE * shape.head_dim;
            self.scratch
                .lend(DType::F32, count, q.device(), |scratch| {
                    key_gradients(lists.parts, Some(scratch))?;
                    let arguments = [
                        dk.into(),
                        dv.into(),
                        scratch.into(),
                        lists.sums.into(),
                        tokens,
                        head_dim,
                    ];
                    let kernel = by_format!("attention_key_sums", Format::of([q])?);
                    let grid = [lists.sums.dim(0)?, shape.kv_heads, 1];
                    self.launch(kernel, grid, super::THREADS, 0, &arguments)
                })?;
        }
        key_gradients(lists.whole, None)
    }
}
