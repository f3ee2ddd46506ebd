//! What a LLaMA-family model is made of, read from a Hugging Face `config.json` or from GGUF metadata.

mod from_gguf;
mod from_json;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

pub(super) use from_gguf::LLAMA3_KEYS;

use crate::llama::gguf::{GgufError, GgufFile};

/// Shape and constants of a LLaMA-family decoder.
///
/// Field names are those of Hugging Face's `LlamaConfig`. Everything that this crate does not
/// implement (biases, other activations, mixtures of experts, quantised folders) is refused when
/// the configuration is read, so a value of this type can be run and trained.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Rows of the embedding matrix.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the SwiGLU feed-forward layer.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key/value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of one head; even, because rotary embedding turns pairs.
    pub head_dim: usize,
    /// Longest sequence, in tokens, that the model was made for.
    pub max_position_embeddings: usize,
    /// Added to the mean square inside RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the rotary frequencies are stretched for long contexts.
    pub rope_scaling: RopeScaling,
    /// Whether the output head is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text; may be empty.
    pub eos_token_ids: Vec<u32>,
    /// Token that fills batches.
    pub pad_token_id: Option<u32>,
}

/// How rotary frequencies are changed for contexts longer than the pre-training ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// The frequencies of Su et al., "RoFormer" (arXiv 2104.09864).
    None,
    /// Positions divided by `factor` (Chen et al., arXiv 2306.15595).
    Linear {
        /// How many times longer the context becomes.
        factor: f64,
    },
    /// Llama 3.1's rule: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths longer than `original / low_freq_factor` are stretched in full.
        low_freq_factor: f64,
        /// Wavelengths shorter than `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length of pre-training, in tokens.
        original_max_position_embeddings: usize,
    },
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {}: {source}; a Hugging Face model folder holds a config.json", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is no JSON object.
    #[error("{} is not a JSON object: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where the parser stopped, or what it found instead.
        reason: String,
    },
    /// The GGUF header could not be read.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The file describes a model that this crate does not run.
    #[error("{} does not describe a model that can be used:\n  - {}", path.display(), problems.join("\n  - "))]
    Refused {
        /// The file.
        path: PathBuf,
        /// Every problem found: key, value found, value expected.
        problems: Vec<String>,
    },
}

impl LlamaConfig {
    /// Reads `config.json` of a Hugging Face folder (or that file itself), or the metadata of a GGUF file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        if path.is_dir() {
            Self::from_json_file(&path.join("config.json"))
        } else if path.extension().is_some_and(|e| e == "json") {
            Self::from_json_file(path)
        } else {
            Self::from_gguf(&mut GgufFile::open(path)?)
        }
    }

    fn from_json_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::from_json(&text, path)
    }

    /// The configuration as a `config.json` in the form that transformers 4 and 5 read. `torch_dtype` is the element type of the weights beside it: "float32",
    /// "float16" or "bfloat16".
    pub fn to_json(&self, torch_dtype: &str) -> Value {
        let rope_scaling = match self.rope_scaling {
            RopeScaling::None => Value::Null,
            RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_position_embeddings,
            }),
        };
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": rope_scaling,
            "attention_bias": false,
            "mlp_bias": false,
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "tie_word_embeddings": self.tie_word_embeddings,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_json(),
            "pad_token_id": self.pad_token_id,
            "torch_dtype": torch_dtype,
            "use_cache": true,
        })
    }

    /// Adds the end tokens that `generation_config.json` of a Hugging Face folder names beside those of
    /// `config.json`; instruction-tuned models often keep the end of a turn there alone.
    pub fn add_generation_eos(&mut self, folder: &Path) -> Result<(), ConfigError> {
        let path = folder.join("generation_config.json");
        let Ok(text) = std::fs::read_to_string(&path) else {
            return Ok(());
        };
        let value: Value = serde_json::from_str(&text).map_err(|e| ConfigError::Json {
            path,
            reason: e.to_string(),
        })?;
        let ids = match &value["eos_token_id"] {
            Value::Array(list) => list.clone(),
            one => vec![one.clone()],
        };
        for id in ids.iter().filter_map(Value::as_u64) {
            if id < self.vocab_size as u64 && !self.eos_token_ids.contains(&(id as u32)) {
                self.eos_token_ids.push(id as u32);
            }
        }
        Ok(())
    }

    /// Writes `generation_config.json`, which tells servers where answers end.
    pub fn save_generation_config(&self, folder: &Path) -> Result<(), ConfigError> {
        let path = folder.join("generation_config.json");
        let value = json!({
            "_from_model_config": true,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_json(),
            "pad_token_id": self.pad_token_id,
        });
        crate::llama::durable::write(&path, format!("{value:#}\n").as_bytes())
            .map_err(|source| ConfigError::Write { path, source })
    }

    fn eos_json(&self) -> Value {
        match self.eos_token_ids.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            many => json!(many),
        }
    }

    /// Number of trainable parameters; a tied head is counted once.
    pub fn parameter_count(&self) -> usize {
        self.tensor_shapes()
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum()
    }

    /// Every weight that a model of this shape has: Hugging Face name and shape, rows first
    /// (`[out_features, in_features]`), in the order of the forward pass. A tied head is absent.
    pub fn tensor_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let queries = self.num_attention_heads * self.head_dim;
        let keys = self.num_key_value_heads * self.head_dim;
        let mut shapes = vec![(
            "model.embed_tokens.weight".to_owned(),
            vec![self.vocab_size, hidden],
        )];
        for layer in 0..self.num_hidden_layers {
            for (part, shape) in [
                ("input_layernorm", vec![hidden]),
                ("self_attn.q_proj", vec![queries, hidden]),
                ("self_attn.k_proj", vec![keys, hidden]),
                ("self_attn.v_proj", vec![keys, hidden]),
                ("self_attn.o_proj", vec![hidden, queries]),
                ("post_attention_layernorm", vec![hidden]),
                ("mlp.gate_proj", vec![inner, hidden]),
                ("mlp.up_proj", vec![inner, hidden]),
                ("mlp.down_proj", vec![hidden, inner]),
            ] {
                shapes.push((format!("model.layers.{layer}.{part}.weight"), shape));
            }
        }
        shapes.push(("model.norm.weight".to_owned(), vec![hidden]));
        if !self.tie_word_embeddings {
            shapes.push(("lm_head.weight".to_owned(), vec![self.vocab_size, hidden]));
        }
        shapes
    }

    /// Values that are possible alone and not together.
    fn contradictions(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !self
            .num_attention_heads
            .is_multiple_of(self.num_key_value_heads)
        {
            problems.push(format!(
                "num_key_value_heads is {}, which does not divide num_attention_heads {}",
                self.num_key_value_heads, self.num_attention_heads
            ));
        }
        // The upper bounds keep a damaged file from asking for the impossible; no model comes near.
        if !(2..=4096).contains(&self.head_dim) || !self.head_dim.is_multiple_of(2) {
            problems.push(format!(
                "head_dim is {}, expected an even number of at most 4096",
                self.head_dim
            ));
        }
        if self.num_hidden_layers > 4096 {
            problems.push(format!(
                "num_hidden_layers is {}, expected at most 4096",
                self.num_hidden_layers
            ));
        }
        let named = [
            ("bos_token_id", self.bos_token_id),
            ("pad_token_id", self.pad_token_id),
        ]
        .into_iter()
        .filter_map(|(name, id)| Some((name, id?)))
        .chain(self.eos_token_ids.iter().map(|id| ("eos_token_id", *id)));
        for (name, id) in named {
            if id as usize >= self.vocab_size {
                problems.push(format!(
                    "{name} is {id}, outside the vocabulary of {} tokens",
                    self.vocab_size
                ));
            }
        }
        problems
    }
}
