//! Where the time of a step goes: every call of an operation, waited for and timed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use candle_core::{Device, Result, Tensor};
use pacos_engine::trainer::micro_batch::Segment;
use pacos_engine::trainer::operations::{
    AdamWNumbers, AdamWTensors, AttentionSaved, DropoutMask, Operations, Output, PlacedSegments,
    RmsNormSaved, Rotation,
};

/// Other operations, timed while the clock runs. The device is waited for around each call then, so
/// that the whole takes longer than it would.
pub struct Timed {
    inner: Box<dyn Operations>,
    device: Device,
    clock: Arc<Clock>,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Clock {
    runs: AtomicBool,
    spent: Mutex<BTreeMap<&'static str, Spent>>,
}

/// All calls of one kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// How many.
    pub calls: u64,
    /// How long they took in all.
    pub time: Duration,
    /// Of products: multiplications and additions.
    pub operations: f64,
}

impl Clock {
    /// Starts or stops it.
    pub fn run(&self, runs: bool) {
        self.runs.store(runs, Ordering::Relaxed);
    }

    /// What was seen, the longest first.
    pub fn spent(&self) -> Vec<(&'static str, Spent)> {
        let spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut spent: Vec<_> = spent.iter().map(|(kind, spent)| (*kind, *spent)).collect();
        spent.sort_by_key(|(_, spent)| std::cmp::Reverse(spent.time));
        spent
    }
}

impl Timed {
    /// `inner`, and a clock that does not run yet.
    pub fn new(inner: Box<dyn Operations>, device: &Device) -> (Self, Arc<Clock>) {
        let clock = Arc::new(Clock::default());
        let timed = Self {
            inner,
            device: device.clone(),
            clock: Arc::clone(&clock),
        };
        (timed, clock)
    }

    fn time<R>(
        &self,
        kind: &'static str,
        operations: f64,
        call: impl FnOnce(&dyn Operations) -> Result<R>,
    ) -> Result<R> {
        if !self.clock.runs.load(Ordering::Relaxed) {
            return call(&*self.inner);
        }
        self.device.synchronize()?;
        let began = Instant::now();
        let result = call(&*self.inner)?;
        self.device.synchronize()?;
        let time = began.elapsed();
        let mut spent = self
            .clock
            .spent
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let spent = spent.entry(kind).or_default();
        spent.calls += 1;
        spent.time += time;
        spent.operations += operations;
        Ok(result)
    }
}

impl Operations for Timed {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn instructions(&self) -> String {
        self.inner.instructions()
    }

    fn caution(&self) -> Option<&'static str> {
        self.inner.caution()
    }

    fn matmul(&self, out: Output<'_>, a: &Tensor, b: &Tensor) -> Result<()> {
        // The engine's layouts tell what a product is for.
        let kind = match (a.is_contiguous(), b.is_contiguous()) {
            (false, _) => "products, weight gradients",
            (true, false) => "products, forward",
            (true, true) => "products, input gradients",
        };
        let count = 2.0 * (a.elem_count() * b.dim(1)?) as f64;
        self.time(kind, count, |o| o.matmul(out, a, b))
    }

    fn zero(&self, x: &Tensor) -> Result<()> {
        self.time("zeros", 0.0, |o| o.zero(x))
    }

    fn copy(&self, out: &Tensor, x: &Tensor) -> Result<()> {
        self.time("copies", 0.0, |o| o.copy(out, x))
    }

    fn gather_rows(&self, out: &Tensor, table: &Tensor, ids: &Tensor) -> Result<()> {
        self.time("rows gathered", 0.0, |o| o.gather_rows(out, table, ids))
    }

    fn scatter_add_rows(&self, table: &Tensor, ids: &Tensor, rows: &Tensor) -> Result<()> {
        self.time("rows scattered", 0.0, |o| {
            o.scatter_add_rows(table, ids, rows)
        })
    }

    fn rms_norm(
        &self,
        y: &Tensor,
        rstd: &Tensor,
        x: &Tensor,
        weight: &Tensor,
        eps: f64,
    ) -> Result<()> {
        self.time("RMSNorm", 0.0, |o| o.rms_norm(y, rstd, x, weight, eps))
    }

    fn rms_norm_backward(
        &self,
        dx: &Tensor,
        d_weight: Option<&Tensor>,
        dy: &Tensor,
        saved: RmsNormSaved<'_>,
    ) -> Result<()> {
        self.time("RMSNorm, backward", 0.0, |o| {
            o.rms_norm_backward(dx, d_weight, dy, saved)
        })
    }

    fn split_heads(
        &self,
        heads: &Tensor,
        rows: &Tensor,
        columns: Range<usize>,
        rotation: Option<Rotation<'_>>,
    ) -> Result<()> {
        self.time("heads split", 0.0, |o| {
            o.split_heads(heads, rows, columns, rotation)
        })
    }

    fn merge_heads(
        &self,
        rows: &Tensor,
        columns: Range<usize>,
        heads: &Tensor,
        rotation: Option<Rotation<'_>>,
    ) -> Result<()> {
        self.time("heads merged", 0.0, |o| {
            o.merge_heads(rows, columns, heads, rotation)
        })
    }

    fn place_segments(&self, segments: &[Segment], device: &Device) -> Result<PlacedSegments> {
        self.time("segments laid out", 0.0, |o| {
            o.place_segments(segments, device)
        })
    }

    fn attention(
        &self,
        out: &Tensor,
        log_sum: &Tensor,
        qkv: [&Tensor; 3],
        segments: &PlacedSegments,
    ) -> Result<()> {
        self.time("attention", 0.0, |o| {
            o.attention(out, log_sum, qkv, segments)
        })
    }

    fn attention_backward(
        &self,
        d_qkv: [&Tensor; 3],
        saved: AttentionSaved<'_>,
        segments: &PlacedSegments,
    ) -> Result<()> {
        self.time("attention, backward", 0.0, |o| {
            o.attention_backward(d_qkv, saved, segments)
        })
    }

    fn head_products(&self, products: &Tensor, a: &Tensor, b: &Tensor) -> Result<()> {
        self.time("products of heads", 0.0, |o| {
            o.head_products(products, a, b)
        })
    }

    fn swiglu(&self, out: &Tensor, gate_up: &Tensor) -> Result<()> {
        self.time("SwiGLU", 0.0, |o| o.swiglu(out, gate_up))
    }

    fn swiglu_backward(&self, d_gate_up: &Tensor, d_out: &Tensor, gate_up: &Tensor) -> Result<()> {
        self.time("SwiGLU, backward", 0.0, |o| {
            o.swiglu_backward(d_gate_up, d_out, gate_up)
        })
    }

    fn dropout(&self, out: &Tensor, x: &Tensor, mask: DropoutMask<'_>) -> Result<()> {
        self.time("dropout", 0.0, |o| o.dropout(out, x, mask))
    }

    fn dropout_backward(&self, dx: &Tensor, dy: &Tensor, mask: DropoutMask<'_>) -> Result<()> {
        self.time("dropout, backward", 0.0, |o| {
            o.dropout_backward(dx, dy, mask)
        })
    }

    fn cross_entropy(
        &self,
        losses: &Tensor,
        logits: &Tensor,
        targets: &Tensor,
        gradient_scale: Option<f32>,
    ) -> Result<()> {
        self.time("cross-entropy", 0.0, |o| {
            o.cross_entropy(losses, logits, targets, gradient_scale)
        })
    }

    fn add_sum(&self, total: &Tensor, values: &Tensor) -> Result<()> {
        self.time("sums", 0.0, |o| o.add_sum(total, values))
    }

    fn add_sum_of_squares(&self, total: &Tensor, x: &Tensor) -> Result<()> {
        self.time("norm of the gradient", 0.0, |o| {
            o.add_sum_of_squares(total, x)
        })
    }

    fn clip_factor(&self, factor: &Tensor, sum_of_squares: &Tensor, max_norm: f64) -> Result<()> {
        self.time("clipping factor", 0.0, |o| {
            o.clip_factor(factor, sum_of_squares, max_norm)
        })
    }

    fn adamw(&self, state: AdamWTensors<'_>, numbers: AdamWNumbers) -> Result<()> {
        self.time("AdamW", 0.0, |o| o.adamw(state, numbers))
    }
}
