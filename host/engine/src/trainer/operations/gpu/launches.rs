//! What each operation launches: shapes checked, grids and arguments.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor, bail};

use super::{
    FLAT_BLOCKS, Format, GpuOperations, Launcher, NORM_PARTS, REDUCTION_BYTES, SUM_PARTS, THREADS,
    by_format, expect, segments, size,
};
use crate::trainer::micro_batch::Segment;
use crate::trainer::operations::{
    AdamWNumbers, AdamWTensors, AttentionSaved, DropoutMask, Operations, Output, PlacedSegments,
    RmsNormSaved, Rotation,
};

/// Blocks over a flat stretch of `count` pieces, one for a thread.
fn flat_grid(count: u64) -> [usize; 3] {
    [
        count.div_ceil(u64::from(THREADS)).min(FLAT_BLOCKS) as usize,
        1,
        1,
    ]
}

/// Threads for a row of `width` numbers: one for 16 bytes, as far as that goes.
fn row_threads(width: usize, format: Format) -> u32 {
    let vectors = width.div_ceil(format.vector());
    (vectors.next_multiple_of(32) as u32).clamp(32, 512)
}

fn bytes_of(x: &Tensor) -> u64 {
    x.elem_count() as u64 * x.dtype().size_in_bytes() as u64
}

impl<L: Launcher> Operations for GpuOperations<L> {
    fn name(&self) -> &'static str {
        "gpu-1"
    }

    fn instructions(&self) -> String {
        self.launcher.instructions()
    }

    fn matmul(&self, out: Output<'_>, a: &Tensor, b: &Tensor) -> Result<()> {
        self.launcher.matmul(out, a, b)
    }

    fn zero(&self, x: &Tensor) -> Result<()> {
        let bytes = bytes_of(x);
        let arguments = [x.into(), bytes.into()];
        let grid = flat_grid(bytes.div_ceil(16));
        self.launch("zero_bytes", grid, THREADS, 0, &arguments)
    }

    fn copy(&self, out: &Tensor, x: &Tensor) -> Result<()> {
        expect("copy", out, x.dims(), x.dtype())?;
        let bytes = bytes_of(x);
        let arguments = [out.into(), x.into(), bytes.into()];
        let grid = flat_grid(bytes.div_ceil(16));
        self.launch("copy_bytes", grid, THREADS, 0, &arguments)
    }

    fn gather_rows(&self, out: &Tensor, table: &Tensor, ids: &Tensor) -> Result<()> {
        let format = Format::of([out, table])?;
        let (rows, width) = out.dims2()?;
        expect("gather_rows: ids", ids, &[rows], DType::U32)?;
        let arguments = [out.into(), table.into(), ids.into(), size(width)?];
        self.launch(
            by_format!("gather_rows", format),
            [rows, 1, 1],
            row_threads(width, format),
            0,
            &arguments,
        )
    }

    fn scatter_add_rows(&self, table: &Tensor, ids: &Tensor, rows: &Tensor) -> Result<()> {
        let format = Format::of([table, rows])?;
        let (count, width) = rows.dims2()?;
        expect("scatter_add_rows: ids", ids, &[count], DType::U32)?;
        let threads = row_threads(width, format).clamp(64, THREADS);
        let columns = threads as usize * format.vector();
        let arguments = [
            table.into(),
            ids.into(),
            rows.into(),
            size(count)?,
            size(width)?,
        ];
        // A list of as many rows as threads, and a bit for each.
        let shared_bytes = threads * 4 + REDUCTION_BYTES;
        self.launch(
            by_format!("scatter_add_rows", format),
            [count, width.div_ceil(columns), 1],
            threads,
            shared_bytes,
            &arguments,
        )
    }

    fn rms_norm(
        &self,
        y: &Tensor,
        rstd: &Tensor,
        x: &Tensor,
        weight: &Tensor,
        eps: f64,
    ) -> Result<()> {
        let format = Format::of([y, x, weight])?;
        let (rows, width) = x.dims2()?;
        expect("rms_norm: result", y, &[rows, width], x.dtype())?;
        expect("rms_norm: rstd", rstd, &[rows], DType::F32)?;
        expect("rms_norm: weight", weight, &[width], x.dtype())?;
        let arguments = [
            y.into(),
            rstd.into(),
            x.into(),
            weight.into(),
            size(width)?,
            (eps as f32).into(),
        ];
        self.launch(
            by_format!("rms_norm", format),
            [rows, 1, 1],
            row_threads(width, format),
            REDUCTION_BYTES,
            &arguments,
        )
    }

    fn rms_norm_backward(
        &self,
        dx: &Tensor,
        d_weight: Option<&Tensor>,
        dy: &Tensor,
        saved: RmsNormSaved<'_>,
    ) -> Result<()> {
        let RmsNormSaved { x, weight, rstd } = saved;
        let format = Format::of([dx, dy, x, weight])?;
        let (rows, width) = x.dims2()?;
        expect("rms_norm_backward: dx", dx, &[rows, width], x.dtype())?;
        expect("rms_norm_backward: dy", dy, &[rows, width], x.dtype())?;
        expect("rms_norm_backward: rstd", rstd, &[rows], DType::F32)?;
        let blocks = rows.min(NORM_PARTS);
        let backward = |partials: Option<&Tensor>| {
            let arguments = [
                dx.into(),
                partials.into(),
                dy.into(),
                x.into(),
                weight.into(),
                rstd.into(),
                size(rows)?,
                size(width)?,
            ];
            // Each block sums its rows' part of the weight's gradient in shared memory.
            let columns = partials.map_or(0, |_| width.next_multiple_of(4) * 4);
            self.launch(
                by_format!("rms_norm_backward", format),
                [blocks, 1, 1],
                row_threads(width, format),
                REDUCTION_BYTES + columns as u32,
                &arguments,
            )
        };
        let Some(d_weight) = d_weight else {
            return backward(None);
        };
        expect("rms_norm_backward: d_weight", d_weight, &[width], x.dtype())?;
        let count = blocks * width;
        self.scratch
            .lend(DType::F32, count, dx.device(), |partials| {
                backward(Some(partials))?;
                let arguments = [
                    d_weight.into(),
                    partials.into(),
                    size(blocks)?,
                    size(width)?,
                ];
                self.launch(
                    by_format!("rms_norm_weight_gradient", format),
                    [width.div_ceil(32), 1, 1],
                    THREADS,
                    THREADS * 4,
                    &arguments,
                )
            })
    }

    fn split_heads(
        &self,
        heads: &Tensor,
        rows: &Tensor,
        columns: Range<usize>,
        rotation: Option<Rotation<'_>>,
    ) -> Result<()> {
        let format = Format::of([heads, rows])?;
        let kernel = by_format!("split_heads", format);
        self.move_heads(kernel, heads, rows, columns, rotation)
    }

    fn merge_heads(
        &self,
        rows: &Tensor,
        columns: Range<usize>,
        heads: &Tensor,
        rotation: Option<Rotation<'_>>,
    ) -> Result<()> {
        let format = Format::of([heads, rows])?;
        let kernel = by_format!("merge_heads", format);
        self.move_heads(kernel, heads, rows, columns, rotation)
    }

    fn place_segments(&self, segments: &[Segment], device: &Device) -> Result<PlacedSegments> {
        Ok(PlacedSegments {
            list: segments.to_vec(),
            tables: segments::WorkLists::of(segments).place(device)?,
        })
    }

    fn attention(
        &self,
        out: &Tensor,
        log_sum: &Tensor,
        qkv: [&Tensor; 3],
        segments: &PlacedSegments,
    ) -> Result<()> {
        self.attention_forward(out, log_sum, qkv, segments)
    }

    fn attention_backward(
        &self,
        d_qkv: [&Tensor; 3],
        saved: AttentionSaved<'_>,
        segments: &PlacedSegments,
    ) -> Result<()> {
        self.attention_gradients(d_qkv, saved, segments)
    }

    fn head_products(&self, products: &Tensor, a: &Tensor, b: &Tensor) -> Result<()> {
        let format = Format::of([a, b])?;
        let (heads, tokens) = products.dims2()?;
        expect("head_products", products, &[heads, tokens], DType::F32)?;
        let width = a.dim(1)?;
        expect("head_products: b", b, a.dims(), a.dtype())?;
        let head_dim = width / heads;
        let vectors = head_dim.div_ceil(format.vector());
        let lanes = vectors.next_power_of_two().min(32);
        let groups = THREADS as usize / lanes;
        let arguments = [
            products.into(),
            a.into(),
            b.into(),
            size(tokens)?,
            size(heads)?,
            size(head_dim)?,
            size(lanes)?,
        ];
        self.launch(
            by_format!("head_products", format),
            [(tokens * heads).div_ceil(groups), 1, 1],
            THREADS,
            0,
            &arguments,
        )
    }

    fn swiglu(&self, out: &Tensor, gate_up: &Tensor) -> Result<()> {
        let format = Format::of([out, gate_up])?;
        let (rows, inner) = out.dims2()?;
        expect("swiglu", gate_up, &[rows, 2 * inner], out.dtype())?;
        let arguments = [out.into(), gate_up.into(), size(inner)?];
        let columns = THREADS as usize * format.vector();
        self.launch(
            by_format!("swiglu", format),
            [rows, inner.div_ceil(columns), 1],
            THREADS,
            0,
            &arguments,
        )
    }

    fn swiglu_backward(&self, d_gate_up: &Tensor, d_out: &Tensor, gate_up: &Tensor) -> Result<()> {
        let format = Format::of([d_gate_up, d_out, gate_up])?;
        let (rows, inner) = d_out.dims2()?;
        expect(
            "swiglu_backward",
            gate_up,
            &[rows, 2 * inner],
            d_out.dtype(),
        )?;
        expect(
            "swiglu_backward",
            d_gate_up,
            gate_up.dims(),
            gate_up.dtype(),
        )?;
        let arguments = [d_gate_up.into(), d_out.into(), gate_up.into(), size(inner)?];
        let columns = THREADS as usize * format.vector();
        self.launch(
            by_format!("swiglu_backward", format),
            [rows, inner.div_ceil(columns), 1],
            THREADS,
            0,
            &arguments,
        )
    }

    fn dropout(&self, out: &Tensor, x: &Tensor, mask: DropoutMask<'_>) -> Result<()> {
        let format = Format::of([out, x])?;
        self.drop_numbers(by_format!("dropout", format), out, x, mask)
    }

    fn dropout_backward(&self, dx: &Tensor, dy: &Tensor, mask: DropoutMask<'_>) -> Result<()> {
        let format = Format::of([dx, dy])?;
        self.drop_numbers(by_format!("dropout_backward", format), dx, dy, mask)
    }

    fn cross_entropy(
        &self,
        losses: &Tensor,
        logits: &Tensor,
        targets: &Tensor,
        gradient_scale: Option<f32>,
    ) -> Result<()> {
        let format = Format::of([logits])?;
        let (rows, words) = logits.dims2()?;
        expect("cross_entropy: losses", losses, &[rows], DType::F32)?;
        expect("cross_entropy: targets", targets, &[rows], DType::U32)?;
        let arguments = [
            losses.into(),
            logits.into(),
            targets.into(),
            size(words)?,
            u32::from(gradient_scale.is_some()).into(),
            gradient_scale.unwrap_or(0.0).into(),
        ];
        self.launch(
            by_format!("cross_entropy", format),
            [rows, 1, 1],
            row_threads(words, format),
            REDUCTION_BYTES,
            &arguments,
        )
    }

    fn add_sum(&self, total: &Tensor, values: &Tensor) -> Result<()> {
        expect("add_sum: total", total, &[1], DType::F64)?;
        expect("add_sum", values, values.dims(), DType::F32)?;
        let count = values.elem_count() as u64;
        let arguments = [total.into(), values.into(), count.into()];
        self.launch("add_sum", [1, 1, 1], THREADS, REDUCTION_BYTES, &arguments)
    }

    fn add_sum_of_squares(&self, total: &Tensor, x: &Tensor) -> Result<()> {
        expect("add_sum_of_squares: total", total, &[1], DType::F64)?;
        let format = Format::of([x])?;
        let count = x.elem_count() as u64;
        let vectors = count.div_ceil(format.vector() as u64);
        let parts = vectors.div_ceil(u64::from(THREADS)).min(SUM_PARTS) as usize;
        self.scratch
            .lend(DType::F64, parts, x.device(), |partials| {
                let arguments = [partials.into(), x.into(), count.into()];
                let kernel = by_format!("sum_of_squares", format);
                self.launch(kernel, [parts, 1, 1], THREADS, REDUCTION_BYTES, &arguments)?;
                let arguments = [total.into(), partials.into(), size(parts)?];
                let kernel = "add_partial_sums";
                self.launch(kernel, [1, 1, 1], THREADS, REDUCTION_BYTES, &arguments)
            })
    }

    fn clip_factor(&self, factor: &Tensor, sum_of_squares: &Tensor, max_norm: f64) -> Result<()> {
        expect("clip_factor", factor, &[1], DType::F32)?;
        expect("clip_factor: sum", sum_of_squares, &[1], DType::F64)?;
        let arguments = [factor.into(), sum_of_squares.into(), max_norm.into()];
        self.launch("clip_factor", [1, 1, 1], 32, 0, &arguments)
    }

    fn adamw(&self, state: AdamWTensors<'_>, numbers: AdamWNumbers) -> Result<()> {
        let AdamWTensors {
            weights,
            rest,
            gradients,
            m,
            v,
            gradient_factor,
        } = state;
        let shape = weights.dims();
        let format = Format::of([weights, gradients])?;
        let moments = Format::of([m, v])?;
        for tensor in [gradients, m, v] {
            expect("adamw", tensor, shape, tensor.dtype())?;
        }
        expect("adamw: factor", gradient_factor, &[1], DType::F32)?;
        if let Some(rest) = rest {
            expect("adamw: rest of the weights", rest, shape, DType::I16)?;
            if format == Format::F32 {
                bail!("adamw: weights in f32 lack nothing, yet their rest was given");
            }
        }
        let kernel = match (format, moments) {
            (Format::F32, Format::F32) => "adamw_f32_f32",
            (Format::F32, Format::Bf16) => "adamw_f32_bf16",
            (Format::Bf16, Format::F32) => "adamw_bf16_f32",
            (Format::Bf16, Format::Bf16) => "adamw_bf16_bf16",
        };
        let count = weights.elem_count() as u64;
        let arguments = [
            weights.into(),
            rest.into(),
            gradients.into(),
            m.into(),
            v.into(),
            gradient_factor.into(),
            count.into(),
            numbers.decay.into(),
            numbers.one_minus_beta1.into(),
            numbers.beta2.into(),
            numbers.one_minus_beta2.into(),
            numbers.step_size.into(),
            numbers.inverse_root_correction.into(),
            numbers.epsilon.into(),
            numbers.random.key.into(),
            numbers.random.first.into(),
        ];
        let vectors = count.div_ceil(format.vector() as u64);
        self.launch(kernel, flat_grid(vectors), THREADS, 0, &arguments)
    }
}

impl<L: Launcher> GpuOperations<L> {
    /// Dropout forward or backward: the arguments are the same.
    fn drop_numbers(
        &self,
        kernel: &'static str,
        out: &Tensor,
        x: &Tensor,
        mask: DropoutMask<'_>,
    ) -> Result<()> {
        let format = Format::of([out, x])?;
        let (rows, width) = x.dims2()?;
        expect(kernel, out, &[rows, width], x.dtype())?;
        expect("dropout: sequences", mask.sequences, &[rows], DType::U32)?;
        expect("dropout: positions", mask.positions, &[rows], DType::U32)?;
        let arguments = [
            out.into(),
            x.into(),
            mask.sequences.into(),
            mask.positions.into(),
            size(width)?,
            mask.key.into(),
            u32::from(mask.dropped).into(),
            mask.scale().into(),
        ];
        let threads = row_threads(width, format).min(THREADS);
        let columns = threads as usize * format.vector();
        let grid = [rows, width.div_ceil(columns), 1];
        self.launch(kernel, grid, threads, 0, &arguments)
    }

    /// Splits heads or merges them: the arguments are the same.
    fn move_heads(
        &self,
        kernel: &'static str,
        heads: &Tensor,
        rows: &Tensor,
        columns: Range<usize>,
        rotation: Option<Rotation<'_>>,
    ) -> Result<()> {
        let format = Format::of([heads, rows])?;
        let (count, tokens, head_dim) = heads.dims3()?;
        let width = rows.dim(1)?;
        if columns.len() != count * head_dim
            || columns.end > width
            || rows.dim(0)? != tokens
            || head_dim % 2 != 0
        {
            bail!(
                "{kernel}: {count} heads of {head_dim} numbers (expected an even number) for {tokens} \
                 tokens do not fit columns {columns:?} of {:?}",
                rows.dims()
            );
        }
        if let Some(rotation) = rotation {
            let angles = [rotation.cos.dim(0)?, head_dim / 2];
            expect("angles", rotation.cos, &angles, DType::F32)?;
            expect("angles", rotation.sin, &angles, DType::F32)?;
            expect("positions", rotation.positions, &[tokens], DType::U32)?;
        }
        let arguments = [
            heads.into(),
            rows.into(),
            rotation.map(|r| r.cos).into(),
            rotation.map(|r| r.sin).into(),
            rotation.map(|r| r.positions).into(),
            size(tokens)?,
            size(count)?,
            size(head_dim)?,
            size(width)?,
            size(columns.start)?,
        ];
        // The kernels count the numbers of all heads in 32 bits.
        size(tokens * count * head_dim)?;
        // A thread turns 16 bytes of a head's first half with the 16 of its second.
        let pieces = (tokens * count) as u64 * (head_dim / 2).div_ceil(format.vector()) as u64;
        self.launch(kernel, flat_grid(pieces), THREADS, 0, &arguments)
    }
}
