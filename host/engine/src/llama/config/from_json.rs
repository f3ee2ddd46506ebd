//! Hugging Face's `config.json`, read key by key with every problem kept.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{ConfigError, LlamaConfig, RopeScaling};

impl LlamaConfig {
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
