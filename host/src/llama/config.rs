//! What a LLaMA-family model is made of, read from a Hugging Face `config.json` or from GGUF metadata.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::gguf::{GgufError, GgufFile};

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

    /// Parses the text of a `config.json`; `path` is what error messages name.
    ///
    /// Both spellings of the rotary settings are read: `rope_theta` with `rope_scaling`, and
    /// `rope_parameters`, which transformers 5 writes.
    pub fn from_json(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let value: Value = serde_json::from_str(text).map_err(|e| ConfigError::Json {
            path: path.to_owned(),
            reason: e.to_string(),
        })?;
        let Value::Object(object) = value else {
            return Err(ConfigError::Json {
                path: path.to_owned(),
                reason: "the top level is not an object".to_owned(),
            });
        };
        let mut fields = Fields {
            object: &object,
            problems: Vec::new(),
        };
        let config = fields.config();
        let mut problems = fields.problems;
        if problems.is_empty() {
            problems = config.contradictions();
        }
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Refused {
                path: path.to_owned(),
                problems,
            })
        }
    }

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
            Some(n) if n > 0 => n as usize,
            Some(n) => {
                problems.push(format!("{key} is {n}, expected a positive number"));
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
                Some(factors) => llama3_from_factors(&factors, head_dim, rope_theta)
                    .unwrap_or_else(|| {
                        problems.push(
                            "the tensor rope_freqs.weight does not follow Llama 3.1's rule"
                                .to_owned(),
                        );
                        RopeScaling::None
                    }),
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

    /// The configuration as a `config.json` that transformers (4 and 5), vLLM and llama.cpp's
    /// converter read. `torch_dtype` is the element type of the weights beside it: "float32",
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
        super::durable::write(&path, format!("{value:#}\n").as_bytes())
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
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) {
            problems.push(format!(
                "head_dim is {}, expected an even positive number",
                self.head_dim
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

/// Llama 3.1's parameters behind the per-frequency divisors that GGUF stores, if there are any.
///
/// The converter keeps only the divisors. All published models use 1 and 4 as the frequency
/// factors and 8192 as the original length; the largest divisor is the factor itself.
fn llama3_from_factors(factors: &[f32], head_dim: usize, rope_theta: f64) -> Option<RopeScaling> {
    let scaling = RopeScaling::Llama3 {
        factor: f64::from(factors.iter().copied().fold(1.0, f32::max)),
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let plain = super::rope::inverse_frequencies(head_dim, rope_theta, RopeScaling::None);
    let scaled = super::rope::inverse_frequencies(head_dim, rope_theta, scaling);
    let agrees = factors.len() == plain.len()
        && factors
            .iter()
            .zip(plain.iter().zip(&scaled))
            .all(|(found, (p, s))| (f64::from(*found) - p / s).abs() <= 1e-3 * (p / s));
    agrees.then_some(scaling)
}

fn shortest_decimal(value: f64) -> f64 {
    (value as f32).to_string().parse().unwrap_or(value)
}

/// The keys of a `config.json`, read one by one, with every problem kept.
struct Fields<'a> {
    object: &'a Map<String, Value>,
    problems: Vec<String>,
}

impl Fields<'_> {
    fn config(&mut self) -> LlamaConfig {
        match self.get("model_type") {
            Some(Value::String(kind)) if kind == "llama" => {}
            Some(found) => self
                .problems
                .push(format!("model_type is {found}, expected \"llama\"")),
            None => self
                .problems
                .push("model_type is missing, expected \"llama\"".to_owned()),
        }
        for key in ["attention_bias", "mlp_bias"] {
            if self.get(key) == Some(&Value::Bool(true)) {
                self.problems.push(format!(
                    "{key} is true, expected false: projections with a bias are not supported"
                ));
            }
        }
        if let Some(found) = self
            .get("hidden_act")
            .filter(|v| *v != "silu" && *v != "swish")
        {
            self.problems
                .push(format!("hidden_act is {found}, expected \"silu\""));
        }
        if self.get("quantization_config").is_some() {
            self.problems.push(
                "quantization_config is set: name the unquantised folder, or a GGUF file"
                    .to_owned(),
            );
        }
        let hidden_size = self.count("hidden_size");
        let num_attention_heads = self.count("num_attention_heads");
        let num_key_value_heads = self.optional_count("num_key_value_heads", num_attention_heads);
        let head_dim = self.optional_count("head_dim", hidden_size / num_attention_heads);
        let (rope_theta, rope_scaling) = self.rope();
        LlamaConfig {
            vocab_size: self.count("vocab_size"),
            hidden_size,
            intermediate_size: self.count("intermediate_size"),
            num_hidden_layers: self.count("num_hidden_layers"),
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            max_position_embeddings: self.optional_count("max_position_embeddings", 2048),
            rms_norm_eps: self.number("rms_norm_eps", 1e-6),
            rope_theta,
            rope_scaling,
            tie_word_embeddings: self.get("tie_word_embeddings") == Some(&Value::Bool(true)),
            bos_token_id: self.tokens("bos_token_id").first().copied(),
            eos_token_ids: self.tokens("eos_token_id"),
            pad_token_id: self.tokens("pad_token_id").first().copied(),
        }
    }

    /// The value of a key; null counts as absent, as it does in transformers.
    fn get(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|v| !v.is_null())
    }

    fn count(&mut self, key: &str) -> usize {
        match self.get(key) {
            None => {
                self.problems
                    .push(format!("{key} is missing, expected a positive integer"));
                1
            }
            Some(_) => self.optional_count(key, 1),
        }
    }

    fn optional_count(&mut self, key: &str, default: usize) -> usize {
        match self.get(key) {
            None => default,
            Some(value) => match value.as_u64().filter(|n| (1..1 << 31).contains(n)) {
                Some(n) => n as usize,
                None => {
                    let problem = format!("{key} is {value}, expected a positive integer");
                    self.problems.push(problem);
                    1
                }
            },
        }
    }

    fn number(&mut self, key: &str, default: f64) -> f64 {
        let object = self.object;
        self.number_in(object, key, key, default)
    }

    fn number_in(
        &mut self,
        object: &Map<String, Value>,
        key: &str,
        name: &str,
        default: f64,
    ) -> f64 {
        match object.get(key).filter(|v| !v.is_null()) {
            None => default,
            Some(value) => value
                .as_f64()
                .filter(|x| x.is_finite() && *x > 0.0)
                .unwrap_or_else(|| {
                    self.problems
                        .push(format!("{name} is {value}, expected a positive number"));
                    default
                }),
        }
    }

    /// Token ids under `key`: one number or a list; negative ones mean "none" in old LLaMA folders.
    fn tokens(&mut self, key: &str) -> Vec<u32> {
        let Some(value) = self.get(key).cloned() else {
            return Vec::new();
        };
        let list = match &value {
            Value::Array(list) => list.as_slice(),
            one => std::slice::from_ref(one),
        };
        let mut ids = Vec::new();
        for item in list {
            match item.as_i64() {
                Some(id) if id < 0 => {}
                Some(id) if id <= i64::from(u32::MAX) => ids.push(id as u32),
                _ => self.problems.push(format!(
                    "{key} is {value}, expected a token id or a list of them"
                )),
            }
        }
        ids
    }

    fn rope(&mut self) -> (f64, RopeScaling) {
        let empty = Map::new();
        let (name, settings) = match (self.get("rope_parameters"), self.get("rope_scaling")) {
            (Some(Value::Object(map)), _) => ("rope_parameters", map.clone()),
            (None, Some(Value::Object(map))) => ("rope_scaling", map.clone()),
            (None, None) => ("rope_scaling", empty),
            (Some(other), _) | (None, Some(other)) => {
                let problem = format!("the rotary settings are {other}, expected an object");
                self.problems.push(problem);
                ("rope_scaling", empty)
            }
        };
        let outer_theta = self.number("rope_theta", 10_000.0);
        let theta = self.number_in(
            &settings,
            "rope_theta",
            &format!("{name}.rope_theta"),
            outer_theta,
        );
        let kind = settings
            .get("rope_type")
            .or_else(|| settings.get("type"))
            .cloned()
            .unwrap_or_else(|| json!("default"));
        let mut required = |key: &str| {
            let full = format!("{name}.{key}");
            if settings.contains_key(key) {
                self.number_in(&settings, key, &full, 1.0)
            } else {
                self.problems
                    .push(format!("{full} is missing, expected a positive number"));
                1.0
            }
        };
        let scaling = match kind.as_str() {
            Some("default") => RopeScaling::None,
            Some("linear") => RopeScaling::Linear {
                factor: required("factor"),
            },
            Some("llama3") => RopeScaling::Llama3 {
                factor: required("factor"),
                low_freq_factor: required("low_freq_factor"),
                high_freq_factor: required("high_freq_factor"),
                original_max_position_embeddings: required("original_max_position_embeddings")
                    as usize,
            },
            _ => {
                self.problems.push(format!(
                    "{name}.rope_type is {kind}, expected \"default\", \"linear\" or \"llama3\""
                ));
                RopeScaling::None
            }
        };
        (theta, scaling)
    }
}
