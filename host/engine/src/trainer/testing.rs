//! A tiny model and made-up rows for the tests of this module.

use candle_core::Device;

use super::parameters::{Layout, NumberFormat, ParameterSet};
use super::template::Row;
use crate::llama::{LlamaConfig, RopeScaling};

/// Two layers with grouped key/value heads and odd widths.
pub(crate) fn tiny_config(tied: bool) -> LlamaConfig {
    LlamaConfig {
        vocab_size: 61,
        hidden_size: 24,
        intermediate_size: 40,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 6,
        max_position_embeddings: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        tie_word_embeddings: tied,
        bos_token_id: Some(1),
        eos_token_ids: vec![2],
        pad_token_id: None,
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014): a sequence that the PyTorch script makes too.
pub(crate) struct SplitMix64(pub u64);

impl SplitMix64 {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A multiple of 2⁻²⁴ from -1 to below 1.
    pub(crate) fn symmetric(&mut self) -> f32 {
        (self.next() >> 39) as f32 / (1u64 << 24) as f32 - 1.0
    }
}

/// Uniform weights of the size that training starts with, norms around 1.
pub(crate) fn tiny_parameters(config: &LlamaConfig, seed: u64) -> ParameterSet {
    let mut random = SplitMix64(seed);
    let mut set =
        ParameterSet::zeros(&Layout::of_model(config), NumberFormat::F32, &Device::Cpu).unwrap();
    for spec in set.specs().to_vec() {
        let norm = spec.shape.len() == 1;
        let mut value = || {
            let x = random.symmetric();
            if norm { 1.0 + 0.125 * x } else { 0.25 * x }
        };
        let values: Vec<f32> = spec.range.clone().map(|_| value()).collect();
        set.write(spec.range.start, &values).unwrap();
    }
    set
}

/// All values of a set.
pub(crate) fn values(set: &ParameterSet) -> Vec<f32> {
    set.read(0..set.count()).unwrap()
}

/// Rows of 4 to 23 tokens; the answer is what follows the first third.
pub(crate) fn tiny_rows(count: usize, seed: u64) -> Vec<Row> {
    let mut random = SplitMix64(seed);
    (0..count)
        .map(|example| {
            let length = 4 + random.below(20) as usize;
            let input_ids = (0..length).map(|_| random.below(61) as u32).collect();
            let label_mask = (0..length).map(|i| i > length / 3).collect();
            Row {
                example,
                form: 0,
                input_ids,
                label_mask,
            }
        })
        .collect()
}

/// Rows of 14 to 32 tokens in two forms by turns, which begin with 9 and 12 tokens of their own; the
/// answer is what follows the prefix and one token more.
pub(crate) fn alike_rows(count: usize, seed: u64) -> Vec<Row> {
    let mut random = SplitMix64(seed);
    (0..count)
        .map(|example| {
            let form = example % 2;
            let prefix = [9, 12][form];
            let own = 5 + random.below(16) as usize;
            let mut input_ids: Vec<u32> = (0..prefix).map(|i| 3 * i + form as u32).collect();
            // The first own tokens differ from row to row, so that no prefix grows by chance.
            input_ids.push(example as u32 % 61);
            input_ids.extend((1..own).map(|_| random.below(61) as u32));
            let answer = prefix as usize + 2;
            Row {
                example,
                form,
                label_mask: (0..input_ids.len()).map(|i| i >= answer).collect(),
                input_ids,
            }
        })
        .collect()
}
