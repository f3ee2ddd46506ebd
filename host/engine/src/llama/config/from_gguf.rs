//! The metadata of GGUF files.

use super::{ConfigError, LlamaConfig, RopeScaling};
use crate::llama::gguf::GgufFile;
use crate::llama::rope::inverse_frequencies;

impl LlamaConfig {
    /// Reads the metadata of a GGUF file whose architecture is `llama`.
    pub fn from_gguf(file: &mut GgufFile) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let architecture = file.string("general.architecture").unwrap_or_default();
        if architecture != "llama" {
            problems.push(format!(
                "general.architecture is \"{architecture}\", expected \"llama\""
            ));
        }
        if file.integer("llama.expert_count").unwrap_or(0) > 0 {
            problems.push("llama.expert_count: mixtures of experts are not supported".to_owned());
        }
        let mut required = |key: &str| match file.integer(key) {
            Some(n) if (1..1 << 31).contains(&n) => n as usize,
            Some(n) => {
                problems.push(format!("{key} is {n}, expected a positive integer"));
                0
            }
            None => {
                problems.push(format!("{key} is missing"));
                0
            }
        };
        let hidden_size = required("llama.embedding_length");
        let intermediate_size = required("llama.feed_forward_length");
        let num_hidden_layers = required("llama.block_count");
        let num_attention_heads = required("llama.attention.head_count");
        let max_position_embeddings = required("llama.context_length");
        if !problems.is_empty() {
            return Err(ConfigError::Refused {
                path: file.path().to_owned(),
                problems,
            });
        }
        let vocab_size = match file.tensor_shape("token_embd.weight") {
            Some(shape) if shape.len() == 2 => shape[0],
            _ => {
                problems.push("the tensor token_embd.weight is missing".to_owned());
                0
            }
        };
        let num_key_value_heads = file
            .integer("llama.attention.head_count_kv")
            .map_or(num_attention_heads, |n| n as usize);
        let head_dim = file
            .integer("llama.attention.key_length")
            .map_or(hidden_size / num_attention_heads, |n| n as usize);
        if let Some(n) = file.integer("llama.rope.dimension_count")
            && n as usize != head_dim
        {
            problems.push(format!(
                "llama.rope.dimension_count is {n}, expected {head_dim}: partial rotary embedding is not supported"
            ));
        }
        let rope_theta = file.float("llama.rope.freq_base").unwrap_or(10_000.0);
        let rms_norm_eps = file
            .float("llama.attention.layer_norm_rms_epsilon")
            .unwrap_or(1e-5);
        let rope_scaling = match file.string("llama.rope.scaling.type").as_deref() {
            None | Some("none") => match file.rope_frequency_factors()? {
                None => RopeScaling::None,
                Some(factors) => {
                    let candidates = match written_llama3(file) {
                        Some(written) => vec![written],
                        None => published_llama3(&factors),
                    };
                    candidates
                        .into_iter()
                        .find(|scaling| gives(*scaling, &factors, head_dim, rope_theta))
                        .unwrap_or_else(|| {
                            problems.push(
                                "the tensor rope_freqs.weight does not follow Llama 3.1's rule; convert the model's Hugging Face folder, whose config.json has the rule's parameters"
                                    .to_owned(),
                            );
                            RopeScaling::None
                        })
                }
            },
            Some("linear") => RopeScaling::Linear {
                factor: file.float("llama.rope.scaling.factor").unwrap_or(1.0),
            },
            Some(other) => {
                problems.push(format!(
                    "llama.rope.scaling.type is \"{other}\", expected \"none\" or \"linear\""
                ));
                RopeScaling::None
            }
        };
        let token = |key: &str| file.integer(key).and_then(|n| u32::try_from(n).ok());
        let mut eos_token_ids: Vec<u32> = Vec::new();
        for key in [
            "tokenizer.ggml.eos_token_id",
            "tokenizer.ggml.eot_token_id",
            "tokenizer.ggml.eom_token_id",
        ] {
            eos_token_ids.extend(token(key).filter(|id| !eos_token_ids.contains(id)));
        }
        let config = Self {
            vocab_size,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            max_position_embeddings,
            // GGUF stores both as f32; the shortest decimal is what the model's makers wrote.
            rms_norm_eps: shortest_decimal(rms_norm_eps),
            rope_theta: shortest_decimal(rope_theta),
            rope_scaling,
            tie_word_embeddings: file.tensor_shape("output.weight").is_none(),
            bos_token_id: token("tokenizer.ggml.bos_token_id"),
            eos_token_ids,
            pad_token_id: token("tokenizer.ggml.padding_token_id"),
        };
        if problems.is_empty() {
            problems = config.contradictions();
        }
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Refused {
                path: file.path().to_owned(),
                problems,
            })
        }
    }
}

/// Metadata keys of our own for Llama 3.1's parameters: llama.cpp's converter keeps only what each frequency is
/// divided by, from which they cannot be told in general. Other programs pass over unknown keys.
pub(in crate::llama) const LLAMA3_KEYS: [&str; 4] = [
    "pacos.rope.llama3.factor",
    "pacos.rope.llama3.low_freq_factor",
    "pacos.rope.llama3.high_freq_factor",
    "pacos.rope.llama3.original_max_position_embeddings",
];

/// The parameters in keys of our own.
fn written_llama3(file: &GgufFile) -> Option<RopeScaling> {
    let [factor, low, high, original] = LLAMA3_KEYS;
    let number = |key| file.float(key).map(shortest_decimal);
    Some(RopeScaling::Llama3 {
        factor: number(factor)?,
        low_freq_factor: number(low)?,
        high_freq_factor: number(high)?,
        original_max_position_embeddings: usize::try_from(file.integer(original)?).ok()?,
    })
}

/// The parameters of published models that may be behind divisors: all use 1 and 4 as the frequency factors, and
/// a power of two as the original length, mostly 8192; the largest divisor is the factor itself.
fn published_llama3(factors: &[f32]) -> Vec<RopeScaling> {
    let lengths = std::iter::once(8192).chain((10..=20).map(|power| 1 << power));
    let of_length = |original_max_position_embeddings| RopeScaling::Llama3 {
        factor: f64::from(factors.iter().copied().fold(1.0, f32::max)),
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings,
    };
    lengths.map(of_length).collect()
}

/// Whether a scaling divides the frequencies by these numbers.
fn gives(scaling: RopeScaling, factors: &[f32], head_dim: usize, rope_theta: f64) -> bool {
    let plain = inverse_frequencies(head_dim, rope_theta, RopeScaling::None);
    let scaled = inverse_frequencies(head_dim, rope_theta, scaling);
    factors.len() == plain.len()
        && factors
            .iter()
            .zip(plain.iter().zip(&scaled))
            .all(|(found, (p, s))| (f64::from(*found) - p / s).abs() <= 1e-3 * (p / s))
}

fn shortest_decimal(value: f64) -> f64 {
    (value as f32).to_string().parse().unwrap_or(value)
}
