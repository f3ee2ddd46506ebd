//! The operations out of candle's own, on any device: slow, plain, and what the kernels are tested
//! against.

use std::ops::Range;

use candle_core::{D, DType, Result, Tensor};
use half::bf16;

use super::{
    AdamWNumbers, AdamWTensors, AttentionSaved, DropoutMask, Operations, Output, PlacedSegments,
    RmsNormSaved, Rotation,
};
use crate::trainer::adamw::clip_factor;
use crate::trainer::micro_batch::Segment;
use crate::trainer::rounding::{join, philox2x32, split, stochastic};

/// candle's plain operations in f32; each result is computed in memory of its own, then rounded to the
/// format of its place and copied there.
#[derive(Debug, Clone, Copy, Default)]
pub struct ComposedOperations;

impl Operations for ComposedOperations {
    fn name(&self) -> &'static str {
        "candle-1"
    }

    fn instructions(&self) -> String {
        "candle".to_owned()
    }

    fn matmul(&self, out: Output<'_>, a: &Tensor, b: &Tensor) -> Result<()> {
        let product = f32(&a.contiguous()?)?.matmul(&f32(&b.contiguous()?)?)?;
        let product = (product * f64::from(out.factor))?;
        let (columns, width) = (out.columns.unwrap_or(0..out.tensor.dim(1)?), 1);
        let product = if out.accumulate {
            let there = out.tensor.narrow(width, columns.start, columns.len())?;
            (f32(&there)? + product)?
        } else {
            product
        };
        let product = product.to_dtype(out.tensor.dtype())?;
        out.tensor.slice_set(&product, width, columns.start)
    }

    fn zero(&self, x: &Tensor) -> Result<()> {
        x.zero_set()
    }

    fn copy(&self, out: &Tensor, x: &Tensor) -> Result<()> {
        set(out, x)
    }

    fn gather_rows(&self, out: &Tensor, table: &Tensor, ids: &Tensor) -> Result<()> {
        set(out, &table.index_select(ids, 0)?)
    }

    fn scatter_add_rows(&self, table: &Tensor, ids: &Tensor, rows: &Tensor) -> Result<()> {
        set(table, &f32(table)?.index_add(ids, &f32(rows)?, 0)?)
    }

    fn rms_norm(
        &self,
        y: &Tensor,
        rstd: &Tensor,
        x: &Tensor,
        weight: &Tensor,
        eps: f64,
    ) -> Result<()> {
        let (x, weight) = (f32(x)?, f32(weight)?);
        let inverse = (x.sqr()?.mean(D::Minus1)? + eps)?.sqrt()?.recip()?;
        let normed = x.broadcast_mul(&inverse.unsqueeze(1)?)?;
        set(rstd, &inverse)?;
        set(y, &normed.broadcast_mul(&weight)?)
    }

    fn rms_norm_backward(
        &self,
        dx: &Tensor,
        d_weight: Option<&Tensor>,
        dy: &Tensor,
        saved: RmsNormSaved<'_>,
    ) -> Result<()> {
        let dy = f32(dy)?;
        let rstd = saved.rstd.unsqueeze(1)?;
        let normed = f32(saved.x)?.broadcast_mul(&rstd)?;
        let weighted = dy.broadcast_mul(&f32(saved.weight)?)?;
        let mean = (&weighted * &normed)?.mean_keepdim(D::Minus1)?;
        let inner = (weighted - normed.broadcast_mul(&mean)?)?;
        set(dx, &(f32(dx)? + inner.broadcast_mul(&rstd)?)?)?;
        match d_weight {
            Some(d_weight) => set(d_weight, &(f32(d_weight)? + (dy * normed)?.sum(0)?)?),
            None => Ok(()),
        }
    }

    fn split_heads(
        &self,
        heads: &Tensor,
        rows: &Tensor,
        columns: Range<usize>,
        rotation: Option<Rotation<'_>>,
    ) -> Result<()> {
        let (count, tokens, head_dim) = heads.dims3()?;
        let split = f32(rows)?
            .narrow(1, columns.start, columns.len())?
            .reshape((tokens, count, head_dim))?
            .transpose(0, 1)?
            .contiguous()?;
        set(heads, &rotated(&split, rotation, 1.0)?)
    }

    fn merge_heads(
        &self,
        rows: &Tensor,
        columns: Range<usize>,
        heads: &Tensor,
        rotation: Option<Rotation<'_>>,
    ) -> Result<()> {
        let tokens = rows.dim(0)?;
        let merged = rotated(&f32(heads)?, rotation, -1.0)?
            .transpose(0, 1)?
            .reshape((tokens, columns.len()))?
            .to_dtype(rows.dtype())?;
        rows.slice_set(&merged, 1, columns.start)
    }

    fn attention(
        &self,
        out: &Tensor,
        log_sum: &Tensor,
        [q, k, v]: [&Tensor; 3],
        segments: &PlacedSegments,
    ) -> Result<()> {
        let [q, k, v] = [&f32(q)?, &f32(k)?, &f32(v)?];
        let scores = scores(q, k, &segments.list)?;
        let largest = scores.max_keepdim(D::Minus1)?;
        let weights = scores.broadcast_sub(&largest)?.exp()?;
        let sum = weights.sum_keepdim(D::Minus1)?;
        set(log_sum, &(largest + sum.log()?)?.squeeze(2)?)?;
        let v = per_query_head(v, q.dim(0)?)?;
        set(out, &weights.broadcast_div(&sum)?.matmul(&v)?)
    }

    fn attention_backward(
        &self,
        [dq, dk, dv]: [&Tensor; 3],
        saved: AttentionSaved<'_>,
        segments: &PlacedSegments,
    ) -> Result<()> {
        let [q, k, v] = [&f32(saved.q)?, &f32(saved.k)?, &f32(saved.v)?];
        let d_out = &f32(saved.d_out)?;
        let heads = q.dim(0)?;
        let log_sum = saved.log_sum.unsqueeze(2)?;
        let weights = scores(q, k, &segments.list)?
            .broadcast_sub(&log_sum)?
            .exp()?;
        let (k_each, v_each) = (per_query_head(k, heads)?, per_query_head(v, heads)?);
        let d_weights = d_out.matmul(&v_each.t()?)?;
        let d_scores = (&weights * d_weights.broadcast_sub(&saved.delta.unsqueeze(2)?)?)?;
        let d_scores = (d_scores * scale(q)?)?;
        set(dq, &d_scores.matmul(&k_each)?)?;
        let d_k = d_scores.t()?.contiguous()?.matmul(q)?;
        set(dk, &per_kv_head(&d_k, k.dim(0)?)?)?;
        let d_v = weights.t()?.contiguous()?.matmul(d_out)?;
        set(dv, &per_kv_head(&d_v, v.dim(0)?)?)
    }

    fn head_products(&self, products: &Tensor, a: &Tensor, b: &Tensor) -> Result<()> {
        let (heads, tokens) = products.dims2()?;
        let by_head = (f32(a)? * f32(b)?)?.reshape((tokens, heads, ()))?;
        set(products, &by_head.sum(D::Minus1)?.t()?.contiguous()?)
    }

    fn swiglu(&self, out: &Tensor, gate_up: &Tensor) -> Result<()> {
        let (gate, up) = halves(&f32(gate_up)?)?;
        set(out, &(gate.silu()? * up)?)
    }

    fn swiglu_backward(&self, d_gate_up: &Tensor, d_out: &Tensor, gate_up: &Tensor) -> Result<()> {
        let d_out = &f32(d_out)?;
        let (gate, up) = halves(&f32(gate_up)?)?;
        let sigmoid = (gate.neg()?.exp()? + 1.0)?.recip()?;
        let slope = (&sigmoid * (((1.0 - &sigmoid)? * &gate)? + 1.0)?)?;
        let d_gate = ((d_out * up)? * slope)?;
        let d_up = ((d_out * gate)? * sigmoid)?;
        set(d_gate_up, &Tensor::cat(&[d_gate, d_up], 1)?)
    }

    fn dropout(&self, out: &Tensor, x: &Tensor, mask: DropoutMask<'_>) -> Result<()> {
        set(out, &kept(x, mask)?)
    }

    fn dropout_backward(&self, dx: &Tensor, dy: &Tensor, mask: DropoutMask<'_>) -> Result<()> {
        set(dx, &(f32(dx)? + kept(dy, mask)?)?)
    }

    fn cross_entropy(
        &self,
        losses: &Tensor,
        logits: &Tensor,
        targets: &Tensor,
        gradient_scale: Option<f32>,
    ) -> Result<()> {
        let targets = targets.unsqueeze(1)?;
        let numbers = f32(logits)?;
        let largest = numbers.max_keepdim(D::Minus1)?;
        let shifted = numbers.broadcast_sub(&largest)?;
        let powers = shifted.exp()?;
        let sum = powers.sum_keepdim(D::Minus1)?;
        let loss = (sum.log()? - shifted.gather(&targets, 1)?)?;
        set(losses, &loss.squeeze(1)?)?;
        if let Some(scale) = gradient_scale {
            let softmax = powers.broadcast_div(&sum)?;
            let minus_one = targets.ones_like()?.to_dtype(DType::F32)?.neg()?;
            let gradient = softmax.scatter_add(&targets, &minus_one, 1)?;
            set(logits, &(gradient * f64::from(scale))?)?;
        }
        Ok(())
    }

    fn add_sum(&self, total: &Tensor, values: &Tensor) -> Result<()> {
        let sum = values.to_dtype(DType::F64)?.sum_all()?;
        set(total, &(total + sum.reshape(1)?)?)
    }

    fn add_sum_of_squares(&self, total: &Tensor, x: &Tensor) -> Result<()> {
        let sum = f32(x)?.sqr()?.to_dtype(DType::F64)?.sum_all()?;
        set(total, &(total + sum.reshape(1)?)?)
    }

    fn clip_factor(&self, factor: &Tensor, sum_of_squares: &Tensor, max_norm: f64) -> Result<()> {
        let sum = sum_of_squares.to_vec1::<f64>()?[0];
        let value = clip_factor(sum.sqrt(), max_norm);
        set(factor, &Tensor::from_slice(&[value], 1, factor.device())?)
    }

    /// Number by number on the host: candle has no operations on bits.
    fn adamw(&self, state: AdamWTensors<'_>, numbers: AdamWNumbers) -> Result<()> {
        let factor = state.gradient_factor.to_vec1::<f32>()?[0];
        if !factor.is_finite() {
            return Ok(());
        }
        let (mut weights, gradients) = (host(state.weights)?, host(state.gradients)?);
        let (mut m, mut v) = (host(state.m)?, host(state.v)?);
        let mut rest = match state.rest {
            Some(rest) => Some(rest.flatten_all()?.to_vec1::<i16>()?),
            None => None,
        };
        let c = numbers;
        for i in 0..weights.len() {
            let weight = match &rest {
                Some(rest) => join(bf16::from_f32(weights[i]), rest[i]),
                None => weights[i],
            };
            let gradient = gradients[i] * factor;
            m[i] += (gradient - m[i]) * c.one_minus_beta1;
            v[i] = v[i] * c.beta2 + gradient * gradient * c.one_minus_beta2;
            let denominator = v[i].sqrt() * c.inverse_root_correction + c.epsilon;
            weights[i] = weight * c.decay - c.step_size * (m[i] / denominator);
            if let Some(rest) = &mut rest {
                let (high, low) = split(weights[i]);
                (weights[i], rest[i]) = (high.to_f32(), low);
            }
            if state.m.dtype() == DType::BF16 {
                let [word, _] = philox2x32(c.random.key, c.random.first + i as u64);
                m[i] = stochastic(m[i], word as u16).to_f32();
                v[i] = stochastic(v[i], (word >> 16) as u16).to_f32();
            }
        }
        let back = |place: &Tensor, values: Vec<f32>| {
            set(
                place,
                &Tensor::from_vec(values, place.shape(), place.device())?,
            )
        };
        back(state.weights, weights)?;
        back(state.m, m)?;
        back(state.v, v)?;
        match (state.rest, rest) {
            (Some(place), Some(rest)) => set(
                place,
                &Tensor::from_vec(rest, place.shape(), place.device())?,
            ),
            _ => Ok(()),
        }
    }
}

/// The numbers of a tensor in f32.
fn f32(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F32)
}

/// The numbers of a tensor in f32, in the host's memory.
fn host(x: &Tensor) -> Result<Vec<f32>> {
    f32(&x.flatten_all()?)?.to_vec1()
}

/// Copies a result to its place, rounded to the format that is kept there.
fn set(place: &Tensor, value: &Tensor) -> Result<()> {
    place.slice_set(&value.to_dtype(place.dtype())?.contiguous()?, 0, 0)
}

/// Turns every head of `[heads, tokens, head_dim]` to its token's position, or back where `direction`
/// is -1.
fn rotated(heads: &Tensor, rotation: Option<Rotation<'_>>, direction: f64) -> Result<Tensor> {
    let Some(rotation) = rotation else {
        return Ok(heads.clone());
    };
    let cos = rotation.cos.index_select(rotation.positions, 0)?;
    let sin = (rotation.sin.index_select(rotation.positions, 0)? * direction)?;
    let half = heads.dim(2)? / 2;
    let (a, b) = (heads.narrow(2, 0, half)?, heads.narrow(2, half, half)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Tensor::cat(&[first, second], 2)
}

/// `x` under dropout. The mask is made number by number on the host.
fn kept(x: &Tensor, mask: DropoutMask<'_>) -> Result<Tensor> {
    let (tokens, features) = x.dims2()?;
    let calls = features.div_ceil(4) as u32;
    let sequences = mask.sequences.to_vec1::<u32>()?;
    let positions = mask.positions.to_vec1::<u32>()?;
    let mut keep = Vec::with_capacity(tokens * features);
    for (&sequence, position) in sequences.iter().zip(positions) {
        for feature in 0..features {
            let call = position
                .wrapping_mul(calls)
                .wrapping_add(feature as u32 / 4);
            let words = philox2x32(mask.key, u64::from(sequence) << 32 | u64::from(call));
            let bits = (words[feature % 4 / 2] >> (16 * (feature % 2))) as u16;
            keep.push(u8::from(bits >= mask.dropped));
        }
    }
    let keep = Tensor::from_vec(keep, (tokens, features), x.device())?;
    let scaled = (f32(x)? * f64::from(mask.scale()))?;
    keep.where_cond(&scaled, &scaled.zeros_like()?)
}

fn scale(q: &Tensor) -> Result<f64> {
    Ok(1.0 / (q.dim(2)? as f64).sqrt())
}

/// Scaled products of all queries with all keys, minus infinity where a token does not look.
fn scores(q: &Tensor, k: &Tensor, segments: &[Segment]) -> Result<Tensor> {
    let (heads, tokens, _) = q.dims3()?;
    let mut mask = vec![f32::NEG_INFINITY; tokens * tokens];
    for segment in segments {
        for token in segment.tokens.clone() {
            let row = &mut mask[token * tokens..][..tokens];
            row[segment.prefix.clone()].fill(0.0);
            row[segment.tokens.start..=token].fill(0.0);
        }
    }
    let mask = Tensor::from_vec(mask, (tokens, tokens), q.device())?;
    let products = q.matmul(&per_query_head(k, heads)?.t()?)?;
    (products * scale(q)?)?.broadcast_add(&mask)
}

/// A copy of each key/value head for each query head of its group.
fn per_query_head(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (kv_heads, tokens, head_dim) = x.dims3()?;
    x.unsqueeze(1)?
        .expand((kv_heads, heads / kv_heads, tokens, head_dim))?
        .reshape((heads, tokens, head_dim))
}

/// The sum over each group of query heads.
fn per_kv_head(x: &Tensor, kv_heads: usize) -> Result<Tensor> {
    let (heads, tokens, head_dim) = x.dims3()?;
    x.reshape((kv_heads, heads / kv_heads, tokens, head_dim))?
        .sum(1)
}

fn halves(x: &Tensor) -> Result<(Tensor, Tensor)> {
    let inner = x.dim(1)? / 2;
    Ok((x.narrow(1, 0, inner)?, x.narrow(1, inner, inner)?))
}
