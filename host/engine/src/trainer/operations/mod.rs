//! The arithmetic that a training step is made of, behind one interface: the seam between the layer
//! code and the device.
//!
//! [`Operations`] lists every operation, forward and backward, over candle tensors whose buffers are
//! there already: nothing is allocated for a result, what is written is written in place. There are
//! three implementations. [`CpuOperations`] hands the tensors' elements to the fused
//! kernels beside this folder. [`GpuOperations`](gpu::GpuOperations) launches fused kernels in CUDA C++.
//! [`ComposedOperations`] is made of candle's own plain operations and runs on every device that candle
//! knows: it is what the others are tested against.

#[cfg(any(test, feature = "cuda"))]
mod blas;
mod composed;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod gpu;
#[cfg(test)]
mod tests;

use std::ops::Range;

use candle_core::{Device, Result, Tensor};

use super::config::TrainDtype;
use super::device::{ComputeDevice, DeviceKind};
use super::micro_batch::Segment;
pub use composed::ComposedOperations;
pub use cpu::CpuOperations;

/// Every operation of a training step.
///
/// Activations are row-major `[tokens, features]`; queries, keys and values are `[heads, tokens,
/// head_dim]`. All tensors of one call lie on one device. Weights, activations and their gradients are
/// of one number format, f32 or bf16; reciprocal deviations, logarithms of sums, inner products of
/// heads, angles and losses are f32, sums over many numbers f64, indices u32. What is written is
/// contiguous. Nothing waits for the device: what one call writes, later calls find.
///
/// # Errors
/// candle's: shapes that do not fit, or a device that fails.
pub trait Operations: Send + Sync {
    /// Names the arithmetic in checkpoints. Changed whenever results change in any bit.
    fn name(&self) -> &'static str;

    /// The instruction set or the card that it computes with: part of a run's numeric path.
    fn instructions(&self) -> String;

    /// What a user should know before a run on this machine, if anything.
    fn caution(&self) -> Option<&'static str> {
        None
    }

    /// `out = factor · a b`, or `out += factor · a b` ([`Output`] says which); `a` is `[m, k]`, `b`
    /// `[k, n]`, either of them possibly a transpose or some columns of a larger matrix.
    fn matmul(&self, out: Output<'_>, a: &Tensor, b: &Tensor) -> Result<()>;

    /// Makes all elements zero.
    fn zero(&self, x: &Tensor) -> Result<()>;

    /// `out = x`, of one shape.
    fn copy(&self, out: &Tensor, x: &Tensor) -> Result<()>;

    /// `out[i] = table[ids[i]]`, rows of the table.
    fn gather_rows(&self, out: &Tensor, table: &Tensor, ids: &Tensor) -> Result<()>;

    /// `table[ids[i]] += rows[i]`; ids may come more than once.
    fn scatter_add_rows(&self, table: &Tensor, ids: &Tensor, rows: &Tensor) -> Result<()>;

    /// RMSNorm (Zhang and Sennrich, arXiv 1910.07467) of each row: `y = weight · x · rstd` with
    /// `rstd = 1 / √(mean(x²) + eps)`, which is written too.
    fn rms_norm(
        &self,
        y: &Tensor,
        rstd: &Tensor,
        x: &Tensor,
        weight: &Tensor,
        eps: f64,
    ) -> Result<()>;

    /// Adds the gradient of RMSNorm's input to `dx`, and that of its weight to `d_weight` where it is
    /// trained.
    fn rms_norm_backward(
        &self,
        dx: &Tensor,
        d_weight: Option<&Tensor>,
        dy: &Tensor,
        saved: RmsNormSaved<'_>,
    ) -> Result<()>;

    /// Copies columns `columns` of `rows` (`[tokens, width]`) to `heads` (`[heads, tokens,
    /// head_dim]`), turning every head to its token's position where a rotation is given (RoPE, Su et
    /// al., arXiv 2104.09864, in Hugging Face's rotate-half layout).
    fn split_heads(
        &self,
        heads: &Tensor,
        rows: &Tensor,
        columns: Range<usize>,
        rotation: Option<Rotation<'_>>,
    ) -> Result<()>;

    /// The reverse of [`Operations::split_heads`], which is also how a gradient goes through it.
    fn merge_heads(
        &self,
        rows: &Tensor,
        columns: Range<usize>,
        heads: &Tensor,
        rotation: Option<Rotation<'_>>,
    ) -> Result<()>;

    /// Lays on the device what attention asks of a micro-batch's segments, once for all layers.
    fn place_segments(&self, segments: &[Segment], device: &Device) -> Result<PlacedSegments> {
        let _ = device;
        Ok(PlacedSegments {
            list: segments.to_vec(),
            tables: Vec::new(),
        })
    }

    /// `out = softmax(q kᵀ / √head_dim, causal) v`, segment by segment and with each segment's
    /// prefix. The logarithm of each softmax's denominator goes to `log_sum` (`[heads, tokens]`).
    fn attention(
        &self,
        out: &Tensor,
        log_sum: &Tensor,
        qkv: [&Tensor; 3],
        segments: &PlacedSegments,
    ) -> Result<()>;

    /// Writes the gradients of queries, keys and values.
    fn attention_backward(
        &self,
        d_qkv: [&Tensor; 3],
        saved: AttentionSaved<'_>,
        segments: &PlacedSegments,
    ) -> Result<()>;

    /// `products[head, token]` = inner product of that head's parts of `a` and `b` (`[tokens, heads ·
    /// head_dim]`).
    fn head_products(&self, products: &Tensor, a: &Tensor, b: &Tensor) -> Result<()>;

    /// SwiGLU (Shazeer, arXiv 2002.05202): `out = silu(gate) · up`; `gate_up` is `[tokens, 2 · inner]`,
    /// gate first.
    fn swiglu(&self, out: &Tensor, gate_up: &Tensor) -> Result<()>;

    /// Writes the gradient of `gate_up`.
    fn swiglu_backward(&self, d_gate_up: &Tensor, d_out: &Tensor, gate_up: &Tensor) -> Result<()>;

    /// Dropout (Srivastava et al., Journal of Machine Learning Research 15, 2014):
    /// `out = x · mask / (1 − p)`, both `[tokens, features]`; what is dropped is zero whatever it was.
    fn dropout(&self, out: &Tensor, x: &Tensor, mask: DropoutMask<'_>) -> Result<()>;

    /// Adds the gradient of dropout's input to `dx`, under the mask of the forward pass.
    fn dropout_backward(&self, dx: &Tensor, dy: &Tensor, mask: DropoutMask<'_>) -> Result<()>;

    /// `losses[i] = −ln softmax(logits[i])[targets[i]]` in nats. Where a scale is given, each row of
    /// `logits` is replaced by the gradient of that loss times the scale.
    fn cross_entropy(
        &self,
        losses: &Tensor,
        logits: &Tensor,
        targets: &Tensor,
        gradient_scale: Option<f32>,
    ) -> Result<()>;

    /// `total += Σ values`; `total` is one f64.
    fn add_sum(&self, total: &Tensor, values: &Tensor) -> Result<()>;

    /// `total += Σ xᵢ²`; `total` is one f64.
    fn add_sum_of_squares(&self, total: &Tensor, x: &Tensor) -> Result<()>;

    /// What gradients are multiplied by whose squares have this sum, as in
    /// `torch.nn.utils.clip_grad_norm_`: `max_norm / (√sum + 1e-6)`, at most 1. A `max_norm` of 0 turns
    /// clipping off. A sum that is not finite has no finite factor. `factor` is one f32.
    fn clip_factor(&self, factor: &Tensor, sum_of_squares: &Tensor, max_norm: f64) -> Result<()>;

    /// One update of AdamW on weights with their gradient and moments, all of one shape. A gradient
    /// factor that is not finite changes nothing.
    fn adamw(&self, state: AdamWTensors<'_>, numbers: AdamWNumbers) -> Result<()>;
}

/// The operations of a run that began with these instructions, as far as the device has a choice of them and
/// has these; else the quickest.
///
/// # Errors
/// candle's, if the device's kernels cannot be made.
pub fn begun_with(
    instructions: &str,
    device: &ComputeDevice,
    dtype: TrainDtype,
) -> Result<Box<dyn Operations>> {
    match device.kind {
        DeviceKind::Cpu => {
            let quickest = CpuOperations::new(dtype);
            Ok(Box::new(quickest.with_instructions(instructions)))
        }
        DeviceKind::Cuda => of(device, dtype),
    }
}

/// The quickest operations for a device.
///
/// # Errors
/// candle's, if the device's kernels cannot be made.
pub fn of(device: &ComputeDevice, dtype: TrainDtype) -> Result<Box<dyn Operations>> {
    match device.kind {
        DeviceKind::Cpu => Ok(Box::new(CpuOperations::new(dtype))),
        #[cfg(feature = "cuda")]
        DeviceKind::Cuda => cuda::operations(&device.handle),
        // The tests' card is emulated.
        #[cfg(all(test, not(feature = "cuda")))]
        DeviceKind::Cuda => Ok(Box::new(gpu::GpuOperations::new(
            gpu::emulator::EmulatedLauncher,
        ))),
        #[cfg(not(any(test, feature = "cuda")))]
        DeviceKind::Cuda => candle_core::bail!("this program was built without CUDA"),
    }
}

/// Where a product goes.
#[derive(Debug, Clone)]
pub struct Output<'a> {
    tensor: &'a Tensor,
    columns: Option<Range<usize>>,
    accumulate: bool,
    factor: f32,
}

impl<'a> Output<'a> {
    /// In place of what is there.
    pub fn set(tensor: &'a Tensor) -> Self {
        Self {
            tensor,
            columns: None,
            accumulate: false,
            factor: 1.0,
        }
    }

    /// The matrix that is written, whole.
    pub fn tensor(&self) -> &'a Tensor {
        self.tensor
    }

    /// What the product is multiplied by.
    pub fn factor(&self) -> f32 {
        self.factor
    }

    /// Added to what is there.
    pub fn add(tensor: &'a Tensor) -> Self {
        Self {
            accumulate: true,
            ..Self::set(tensor)
        }
    }

    /// Some columns of the matrix; the others stay as they are.
    pub fn columns(self, columns: Range<usize>) -> Self {
        Self {
            columns: Some(columns),
            ..self
        }
    }

    /// The product times a number.
    pub fn times(self, factor: f32) -> Self {
        Self { factor, ..self }
    }
}

/// What RMSNorm's backward pass reads of the forward one.
#[derive(Debug, Clone, Copy)]
pub struct RmsNormSaved<'a> {
    /// Its input, `[tokens, features]`.
    pub x: &'a Tensor,
    /// Its weight, `[features]`.
    pub weight: &'a Tensor,
    /// `[tokens]`, as the forward pass wrote it.
    pub rstd: &'a Tensor,
}

/// Angles of the rotary embedding, and where each token stands.
#[derive(Debug, Clone, Copy)]
pub struct Rotation<'a> {
    /// `[positions, head_dim / 2]`.
    pub cos: &'a Tensor,
    /// `[positions, head_dim / 2]`.
    pub sin: &'a Tensor,
    /// Of each token, u32.
    pub positions: &'a Tensor,
}

/// Which numbers of a matrix `[tokens, features]` dropout keeps: a function of what a token is, and not
/// of where it lies in a micro-batch.
///
/// Four neighbouring features of a token share the two words of
/// [`philox2x32`](crate::trainer::rounding::philox2x32)`(key, counter)`, 16 bits each, the lower half of
/// the first word first. The counter is `sequence · 2³² + position · ⌈features / 4⌉ + ⌊feature / 4⌋`,
/// the last two summands in 32 bits. A feature whose bits are below `dropped` is dropped.
#[derive(Debug, Clone, Copy)]
pub struct DropoutMask<'a> {
    /// Another one for every matrix in every step.
    pub key: u32,
    /// The probability of being dropped, in parts of 65,536.
    pub dropped: u16,
    /// Of each token, u32: the sequence that it belongs to.
    pub sequences: &'a Tensor,
    /// Of each token, u32: where in its sequence it stands.
    pub positions: &'a Tensor,
}

impl DropoutMask<'_> {
    /// What numbers that are kept are multiplied by.
    pub fn scale(&self) -> f32 {
        65_536.0 / (65_536.0 - f32::from(self.dropped))
    }
}

/// What attention's backward pass reads.
#[derive(Debug, Clone, Copy)]
pub struct AttentionSaved<'a> {
    /// Queries, `[heads, tokens, head_dim]`.
    pub q: &'a Tensor,
    /// Keys, `[kv_heads, tokens, head_dim]`.
    pub k: &'a Tensor,
    /// Values, `[kv_heads, tokens, head_dim]`.
    pub v: &'a Tensor,
    /// As the forward pass wrote it, `[heads, tokens]`.
    pub log_sum: &'a Tensor,
    /// Inner product of output and its gradient, for every head of every token, `[heads, tokens]`.
    pub delta: &'a Tensor,
    /// Gradient of the output, `[heads, tokens, head_dim]`.
    pub d_out: &'a Tensor,
}

/// A micro-batch's segments, and what an implementation of attention made of them.
#[derive(Debug, Clone)]
pub struct PlacedSegments {
    /// The segments.
    pub list: Vec<Segment>,
    /// Tables on the device, whatever the implementation wants.
    pub tables: Vec<Tensor>,
}

/// The tensors of one AdamW update.
#[derive(Debug, Clone, Copy)]
pub struct AdamWTensors<'a> {
    /// To be changed.
    pub weights: &'a Tensor,
    /// Of weights in bf16 whose exact values are kept: what they lack (i16), to be changed with them
    /// (see [`split`](crate::trainer::rounding::split)).
    pub rest: Option<&'a Tensor>,
    /// Only read.
    pub gradients: &'a Tensor,
    /// First moment, to be changed; f32, or bf16 with stochastic rounding.
    pub m: &'a Tensor,
    /// Second moment, to be changed; of the same format.
    pub v: &'a Tensor,
    /// What gradients are multiplied by, to clip them: one f32.
    pub gradient_factor: &'a Tensor,
}

/// The numbers of one AdamW update, rounded to f32 as PyTorch rounds its scalars.
#[derive(Debug, Clone, Copy)]
pub struct AdamWNumbers {
    /// What weights are multiplied by: `1 − learning rate · weight decay`.
    pub decay: f32,
    /// `1 − β₁`.
    pub one_minus_beta1: f32,
    /// `β₂`.
    pub beta2: f32,
    /// `1 − β₂`.
    pub one_minus_beta2: f32,
    /// `learning rate / (1 − β₁ᵗ)`.
    pub step_size: f32,
    /// `1 / √(1 − β₂ᵗ)`.
    pub inverse_root_correction: f32,
    /// Added to the denominator.
    pub epsilon: f32,
    /// Where moments in bf16 take their random bits from.
    pub random: RandomBits,
}

/// Random bits for one stretch of numbers: those of number `i` are the first word of
/// [`philox2x32`](crate::trainer::rounding::philox2x32)`(key, first + i)`, the low half for the first
/// moment and the high half for the second.
#[derive(Debug, Clone, Copy)]
pub struct RandomBits {
    /// Another one in every update.
    pub key: u32,
    /// Place of the first number among all parameters.
    pub first: u64,
}
