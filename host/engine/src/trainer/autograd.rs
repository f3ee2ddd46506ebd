//! The same model out of candle's plain operations: the reference that the engine is tested against.
//!
//! Only operations that record a backward pass are used. candle_nn's `rms_norm`, `rope` and
//! `softmax_last_dim` do not, and would cut the gradient without a word.

use std::collections::HashMap;

use candle_core::{D, DType, Device, Result, Tensor, Var};

use super::engine::{Dropout, sequences};
use super::micro_batch::MicroBatch;
use super::operations::{ComposedOperations, Operations};
use super::parameters::ParameterSet;
use super::student::Student;
use crate::llama::LlamaConfig;
use crate::llama::rope::RopeTable;

/// Summed loss and `scale` times its gradient by what is trained, by candle's autograd.
///
/// An error if any parameter is left without a gradient.
pub(crate) fn loss_and_gradients(
    config: &LlamaConfig,
    student: &Student,
    batch: &MicroBatch,
    scale: f32,
    dropout: Option<Dropout>,
) -> Result<(f64, ParameterSet)> {
    let mut vars = Vec::new();
    for spec in student.trained().specs() {
        let tensor = student.trained().tensor(spec)?;
        vars.push((spec.clone(), Var::from_tensor(&tensor)?));
    }
    let var = |name: &str| {
        let found = vars.iter().find(|(spec, _)| spec.name == name);
        found.map(|(_, var)| var.as_tensor().clone())
    };
    let mut weights = HashMap::new();
    for spec in student.base.specs() {
        let weight = match var(&spec.name) {
            Some(weight) => weight,
            None => student.base.tensor(spec)?,
        };
        weights.insert(spec.name.clone(), weight);
    }
    let mut factors = HashMap::new();
    if let Some(adapters) = &student.adapters {
        for layer in 0..config.num_hidden_layers {
            for target in &adapters.config.target_modules {
                let [a, b] = target.adapter_names(layer);
                let (a, b) = (var(&a).expect("it is trained"), var(&b).expect("it is"));
                let name = target.weight_name(layer);
                let b = (b * f64::from(adapters.scale()))?;
                if let Some(dropout) = dropout {
                    let kept = kept(batch, dropout, target.matrix(layer), a.dim(1)?)?;
                    factors.insert(name, (a, b, kept));
                } else {
                    let whole = (&weights[&name] + b.matmul(&a)?)?;
                    weights.insert(name, whole);
                }
            }
        }
    }
    let linear = |x: &Tensor, name: &str| -> Result<Tensor> {
        let y = x.matmul(&weights[name].t()?)?;
        match factors.get(name) {
            Some((a, b, kept)) => y + (x * kept)?.matmul(&a.t()?)?.matmul(&b.t()?)?,
            None => Ok(y),
        }
    };
    let loss = summed_loss(config, batch, &|name| &weights[name], &linear)?;
    let grads = (&loss * f64::from(scale))?.backward()?;
    let mut gradients = student.trained().zeros_in(student.trained().format())?;
    for (spec, var) in &vars {
        let Some(gradient) = grads.get(var.as_tensor()) else {
            candle_core::bail!("no gradient was recorded for {}", spec.name);
        };
        let values = gradient.flatten_all()?.to_vec1::<f32>()?;
        gradients.write(spec.range.start, &values)?;
    }
    Ok((f64::from(loss.to_scalar::<f32>()?), gradients))
}

fn summed_loss<'a>(
    config: &LlamaConfig,
    batch: &MicroBatch,
    get: &impl Fn(&str) -> &'a Tensor,
    linear: &impl Fn(&Tensor, &str) -> Result<Tensor>,
) -> Result<Tensor> {
    let device = Device::Cpu;
    let tokens = batch.input_ids.len();
    let ids = Tensor::from_slice(&batch.input_ids, tokens, &device)?;
    let positions = Tensor::from_slice(&batch.positions, tokens, &device)?;
    let table = RopeTable::new(config, tokens);
    let half = config.head_dim / 2;
    let cos =
        Tensor::from_slice(table.cos(), (tokens, half), &device)?.index_select(&positions, 0)?;
    let sin =
        Tensor::from_slice(table.sin(), (tokens, half), &device)?.index_select(&positions, 0)?;
    let mask = Tensor::from_vec(mask(batch), (tokens, tokens), &device)?;

    let mut x = get("model.embed_tokens.weight").index_select(&ids, 0)?;
    for layer in 0..config.num_hidden_layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let normed = rms_norm(&x, get(&name("input_layernorm")), config.rms_norm_eps)?;
        let heads = |projection: &str, count: usize| -> Result<Tensor> {
            linear(&normed, &name(projection))?
                .reshape((tokens, count, config.head_dim))?
                .transpose(0, 1)?
                .contiguous()
        };
        let q = rope(
            &heads("self_attn.q_proj", config.num_attention_heads)?,
            &cos,
            &sin,
        )?;
        let k = rope(
            &heads("self_attn.k_proj", config.num_key_value_heads)?,
            &cos,
            &sin,
        )?;
        let v = heads("self_attn.v_proj", config.num_key_value_heads)?;
        let group = config.num_attention_heads / config.num_key_value_heads;
        let (k, v) = (repeat(&k, group)?, repeat(&v, group)?);
        let scores = (q.matmul(&k.t()?)? / (config.head_dim as f64).sqrt())?;
        let weights = candle_nn::ops::softmax(&scores.broadcast_add(&mask)?, D::Minus1)?;
        let attended = weights
            .matmul(&v)?
            .transpose(0, 1)?
            .reshape((tokens, config.num_attention_heads * config.head_dim))?;
        x = (x + linear(&attended, &name("self_attn.o_proj"))?)?;
        let normed = rms_norm(
            &x,
            get(&name("post_attention_layernorm")),
            config.rms_norm_eps,
        )?;
        let gate = candle_nn::ops::silu(&linear(&normed, &name("mlp.gate_proj"))?)?;
        let gated = (gate * linear(&normed, &name("mlp.up_proj"))?)?;
        x = (x + linear(&gated, &name("mlp.down_proj"))?)?;
    }
    let labels: Vec<u32> = batch.label_positions.iter().map(|p| *p as u32).collect();
    let labels = Tensor::from_slice(&labels, labels.len(), &device)?;
    let rows = x.index_select(&labels, 0)?;
    let normed = rms_norm(&rows, get("model.norm.weight"), config.rms_norm_eps)?;
    let head = if config.tie_word_embeddings {
        "model.embed_tokens.weight"
    } else {
        "lm_head.weight"
    };
    let logits = linear(&normed, head)?;
    let targets = Tensor::from_slice(&batch.targets, (batch.targets.len(), 1), &device)?;
    candle_nn::ops::log_softmax(&logits, D::Minus1)?
        .gather(&targets, 1)?
        .sum_all()?
        .neg()
}

/// What each number of a matrix's input is multiplied by: zero, or the reciprocal of what is kept.
fn kept(batch: &MicroBatch, dropout: Dropout, matrix: u32, width: usize) -> Result<Tensor> {
    let tokens = batch.input_ids.len();
    let place = |numbers: Vec<u32>| Tensor::from_vec(numbers, tokens, &Device::Cpu);
    let sequences = place(sequences(batch))?;
    let positions = place(batch.positions.clone())?;
    let kept = Tensor::zeros((tokens, width), DType::F32, &Device::Cpu)?;
    let mask = dropout.mask(matrix, &sequences, &positions);
    ComposedOperations.dropout(&kept, &kept.ones_like()?, mask)?;
    Ok(kept)
}

fn mask(batch: &MicroBatch) -> Vec<f32> {
    let tokens = batch.input_ids.len();
    let mut mask = vec![f32::NEG_INFINITY; tokens * tokens];
    for segment in &batch.segments {
        for i in segment.tokens.clone() {
            let row = &mut mask[i * tokens..][..tokens];
            row[segment.prefix.clone()].fill(0.0);
            row[segment.tokens.start..=i].fill(0.0);
        }
    }
    mask
}

fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean + eps)?.sqrt()?)?
        .broadcast_mul(weight)
}

fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let (a, b) = (
        x.narrow(D::Minus1, 0, half)?,
        x.narrow(D::Minus1, half, half)?,
    );
    let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
    let second = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
    Tensor::cat(&[first, second], D::Minus1)
}

fn repeat(x: &Tensor, group: usize) -> Result<Tensor> {
    let (heads, tokens, head_dim) = x.dims3()?;
    x.unsqueeze(1)?
        .expand((heads, group, tokens, head_dim))?
        .reshape((heads * group, tokens, head_dim))
}
