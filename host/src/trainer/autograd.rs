//! The same model out of candle's plain operations: the reference that the engine is tested against.
//!
//! Only operations that record a backward pass are used. candle_nn's `rms_norm`, `rope` and
//! `softmax_last_dim` do not, and would cut the gradient without a word.

use candle_core::{D, Device, Result, Tensor, Var};

use super::model::MicroBatch;
use super::parameters::ParameterSet;
use crate::llama::LlamaConfig;
use crate::llama::rope::RopeTable;

/// Summed loss and `scale` times its gradient, by candle's autograd.
///
/// An error if any parameter is left without a gradient.
pub(crate) fn loss_and_gradients(
    config: &LlamaConfig,
    parameters: &ParameterSet,
    batch: &MicroBatch,
    scale: f32,
) -> Result<(f64, ParameterSet)> {
    let device = Device::Cpu;
    let mut vars = Vec::new();
    for spec in parameters.specs() {
        let values = &parameters.data()[spec.range.clone()];
        let tensor = Tensor::from_slice(values, spec.shape.as_slice(), &device)?;
        vars.push((spec.clone(), Var::from_tensor(&tensor)?));
    }
    let get = |name: &str| -> &Tensor {
        let (_, var) = vars
            .iter()
            .find(|(spec, _)| spec.name == name)
            .expect("a tensor of the configuration");
        var.as_tensor()
    };
    let loss = summed_loss(config, batch, &get)?;
    let grads = (&loss * f64::from(scale))?.backward()?;
    let mut gradients = parameters.zeros_like();
    for (spec, var) in &vars {
        let Some(gradient) = grads.get(var.as_tensor()) else {
            candle_core::bail!("no gradient was recorded for {}", spec.name);
        };
        let values = gradient.flatten_all()?.to_vec1::<f32>()?;
        gradients.data_mut()[spec.range.clone()].copy_from_slice(&values);
    }
    Ok((f64::from(loss.to_scalar::<f32>()?), gradients))
}

fn summed_loss<'a>(
    config: &LlamaConfig,
    batch: &MicroBatch,
    get: &impl Fn(&str) -> &'a Tensor,
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

    let linear = |x: &Tensor, name: &str| x.matmul(&get(name).t()?);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llama::RopeScaling;
    use crate::trainer::batches::pack;
    use crate::trainer::engine::CpuEngine;
    use crate::trainer::kernels::sum_of_squares;
    use crate::trainer::model::Engine;
    use crate::trainer::prefixes::SharedPrefixes;
    use crate::trainer::testing::{alike_rows, tiny_config, tiny_parameters, tiny_rows};

    /// Asserts that every tensor of `got` is near that of `want`, by the norm of the difference.
    fn assert_near(got: &ParameterSet, want: &ParameterSet, bound: f64) {
        for spec in want.specs() {
            let (a, b) = (got.get(&spec.name).unwrap(), want.get(&spec.name).unwrap());
            let difference: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
            let size = sum_of_squares(b).sqrt();
            assert!(size > 1e-4, "{} has no gradient to speak of", spec.name);
            let relative = sum_of_squares(&difference).sqrt() / size;
            assert!(relative < bound, "{}: {relative}", spec.name);
        }
    }

    #[test]
    fn engine_and_autograd_agree_on_every_gradient() {
        for (tied, rows) in [
            (true, tiny_rows(5, 2)),
            (false, tiny_rows(5, 2)),
            (true, alike_rows(6, 2)),
            (false, alike_rows(6, 2)),
        ] {
            let mut config = tiny_config(tied);
            if tied {
                config.rope_scaling = RopeScaling::Llama3 {
                    factor: 4.0,
                    low_freq_factor: 1.0,
                    high_freq_factor: 4.0,
                    original_max_position_embeddings: 16,
                };
            }
            let parameters = tiny_parameters(&config, 1);
            let members: Vec<usize> = (0..rows.len()).collect();
            let batches = pack(&rows, &members, 128, &SharedPrefixes::of(&rows));
            let batch = &batches[0];
            assert!(batch.rows().len() > 1, "packing is what is tested");
            let shared = batch.segments.iter().filter(|s| s.row.is_none()).count();
            assert_eq!(shared, if rows[1].form == 1 { 2 } else { 0 });
            let scale = 0.125;
            let (want_loss, want) = loss_and_gradients(&config, &parameters, batch, scale).unwrap();

            let mut engine = CpuEngine::new(&config, &parameters, 128);
            let mut got = parameters.zeros_like();
            let loss = engine.accumulate_gradients(&parameters, batch, scale, &mut got);
            assert!(
                (loss - want_loss).abs() < 1e-4 * want_loss,
                "{loss} {want_loss}"
            );
            assert_eq!(engine.loss(&parameters, batch), loss);
            assert_near(&got, &want, 2e-5);

            // A second micro-batch adds to the first.
            engine.accumulate_gradients(&parameters, batch, scale, &mut got);
            let (a, b) = (got.data()[0], 2.0 * want.data()[0]);
            assert!((a - b).abs() <= 1e-5 + 1e-4 * b.abs());
        }
    }

    #[test]
    fn a_shared_prefix_changes_no_loss_and_no_gradient() {
        for tied in [true, false] {
            let config = tiny_config(tied);
            let parameters = tiny_parameters(&config, 5);
            let rows = alike_rows(9, 6);
            let members: Vec<usize> = (0..rows.len()).collect();
            let mut engine = CpuEngine::new(&config, &parameters, 256);
            let mut run = |prefixes: &SharedPrefixes| {
                let batches = pack(&rows, &members, 256, prefixes);
                assert_eq!(batches.len(), 1);
                let mut gradients = parameters.zeros_like();
                let loss =
                    engine.accumulate_gradients(&parameters, &batches[0], 0.01, &mut gradients);
                (loss, gradients, batches[0].input_ids.len())
            };
            let (want_loss, want, all) = run(&SharedPrefixes::none());
            let (loss, got, fewer) = run(&SharedPrefixes::of(&rows));
            // 5 rows begin with 9 tokens and 4 with 12.
            assert_eq!(all - fewer, 4 * 9 + 3 * 12);
            assert!(
                (loss - want_loss).abs() < 1e-5 * want_loss,
                "{loss} {want_loss}"
            );
            assert_near(&got, &want, 1e-5);
            // The oracle on whole sequences knows nothing of prefixes at all.
            let whole = &pack(&rows, &members, 256, &SharedPrefixes::none())[0];
            let (_, oracle) = loss_and_gradients(&config, &parameters, whole, 0.01).unwrap();
            assert_near(&got, &oracle, 2e-5);
        }
    }

    #[test]
    fn packing_changes_no_loss() {
        let config = tiny_config(true);
        let parameters = tiny_parameters(&config, 3);
        let rows = tiny_rows(6, 4);
        let none = SharedPrefixes::none();
        let mut engine = CpuEngine::new(&config, &parameters, 128);
        let members: Vec<usize> = (0..6).collect();
        let packed = pack(&rows, &members, 128, &none);
        assert_eq!(packed.len(), 1);
        let together = engine.loss(&parameters, &packed[0]);
        let alone: f64 = members
            .iter()
            .map(|&row| engine.loss(&parameters, &pack(&rows, &[row], 128, &none)[0]))
            .sum();
        assert!(
            (together - alone).abs() < 1e-5 * alone,
            "{together} {alone}"
        );
    }
}
