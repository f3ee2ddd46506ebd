//! What a user can say about training, and what is wrong with it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::checkpoint::RunIdentity;
use super::device::{DeviceKind, DeviceSetting};
use super::engine::Recompute;
use super::lora::LoraConfig;
use super::parameters::NumberFormat;

/// Settings of a training run, spelled as transformers' `TrainingArguments` spell them.
///
/// The defaults are those of Stanford Alpaca's 7B run (`train.py` and its README): 3 epochs,
/// 128 examples a step, 2e-5, cosine with 3 % warm-up, no weight decay, 512 tokens, and
/// transformers' own defaults for what the script leaves out (Adam's constants, clipping at 1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Passes over the examples; ignored when `max_steps` is set.
    #[serde(alias = "num_train_epochs")]
    pub epochs: u64,
    /// Optimizer steps, whatever the number of epochs that takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Examples in one optimizer step.
    pub batch_size: usize,
    /// Most tokens that go through the model at once; a step is split into such micro-batches. The
    /// planner chooses where nothing is said.
    pub micro_batch_tokens: MicroBatchTokens,
    /// What the backward pass computes again to save memory. The planner chooses where nothing is said.
    pub recompute: RecomputeSetting,
    /// Whether the beginning that many prompts share goes through the model once in a micro-batch.
    pub share_prefixes: bool,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Shape of the learning rate after the warm-up.
    #[serde(alias = "lr_scheduler_type")]
    pub lr_scheduler: LrScheduler,
    /// Fraction of all steps in which the learning rate rises from zero.
    pub warmup_ratio: f64,
    /// Decoupled weight decay; normalisation weights are exempt, as in transformers' Trainer.
    pub weight_decay: f64,
    /// Decay of Adam's first moment.
    pub adam_beta1: f64,
    /// Decay of Adam's second moment.
    pub adam_beta2: f64,
    /// Added to the denominator of Adam's update.
    pub adam_epsilon: f64,
    /// Largest global norm of the gradient; 0 turns clipping off.
    pub max_grad_norm: f64,
    /// Tokens after which an example is cut.
    pub max_seq_len: usize,
    /// Seed of the order of the examples.
    pub seed: u64,
    /// Fraction of the examples that is held out of training and measured.
    pub eval_fraction: f64,
    /// Steps between two measurements on the held-out examples; 0 measures at the start and end.
    pub eval_every: u64,
    /// Steps between two checkpoints; the last step always leaves one.
    pub checkpoint_every: u64,
    /// Complete checkpoints to keep.
    pub keep_checkpoints: usize,
    /// How an example becomes a prompt and an answer.
    pub template: TemplateName,
    /// What is computed on.
    pub device: DeviceSetting,
    /// Number format of the arithmetic: `"auto"` is f32 on the processor and bf16 on a card.
    pub dtype: DtypeSetting,
    /// Number format of AdamW's moments. The planner chooses where nothing is said: f32 where they fit,
    /// bf16 with stochastic rounding otherwise.
    pub moments_dtype: DtypeSetting,
    /// Adapters to be trained in place of the model's own weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
}

/// Size of a micro-batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number of tokens or \"auto\"")]
pub enum MicroBatchTokens {
    /// The planner's choice.
    #[default]
    #[serde(with = "auto")]
    Auto,
    /// So many tokens.
    Tokens(usize),
}

/// The word "auto" alone.
mod auto {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Word {
        Auto,
    }

    pub(super) fn serialize<S: Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
        Word::Auto.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
        Word::deserialize(deserializer).map(|Word::Auto| ())
    }
}

/// What is computed again for the backward pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecomputeSetting {
    /// The planner's choice.
    #[default]
    Auto,
    /// Nothing.
    None,
    /// The normalised rows and SwiGLU's product.
    Elementwise,
    /// Each layer from its input.
    Layers,
}

impl From<Recompute> for RecomputeSetting {
    fn from(recompute: Recompute) -> Self {
        match recompute {
            Recompute::Nothing => Self::None,
            Recompute::Elementwise => Self::Elementwise,
            Recompute::Layers => Self::Layers,
        }
    }
}

impl RecomputeSetting {
    /// What is asked for, if anything is.
    pub fn given(self) -> Option<Recompute> {
        match self {
            Self::Auto => None,
            Self::None => Some(Recompute::Nothing),
            Self::Elementwise => Some(Recompute::Elementwise),
            Self::Layers => Some(Recompute::Layers),
        }
    }
}

/// Shape of the learning rate over the steps, after a linear warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrScheduler {
    /// Half a cosine from the peak to zero.
    Cosine,
    /// A straight line from the peak to zero.
    Linear,
    /// The peak until the end. Unlike transformers' `constant`, which ignores it, the warm-up counts
    /// (transformers calls that `constant_with_warmup`).
    #[serde(alias = "constant_with_warmup")]
    Constant,
}

/// A prompt template known to the trainer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TemplateName {
    /// The two prompts of Stanford Alpaca's `train.py`.
    Alpaca,
}

/// A number format as it is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum DtypeSetting {
    /// The program's choice.
    #[default]
    Auto,
    /// [`TrainDtype::F32`].
    F32,
    /// [`TrainDtype::Bf16`].
    Bf16,
}

impl TryFrom<String> for DtypeSetting {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "auto" => Ok(Self::Auto),
            "f32" | "float32" => Ok(Self::F32),
            "bf16" | "bfloat16" => Ok(Self::Bf16),
            _ => Err(format!(
                "{text:?} is no number format of the trainer; expected \"auto\", \"f32\" or \"bf16\""
            )),
        }
    }
}

impl From<DtypeSetting> for &'static str {
    fn from(setting: DtypeSetting) -> Self {
        match setting {
            DtypeSetting::Auto => "auto",
            DtypeSetting::F32 => "f32",
            DtypeSetting::Bf16 => "bf16",
        }
    }
}

impl DtypeSetting {
    /// The arithmetic on a kind of device.
    pub fn on(self, kind: DeviceKind) -> TrainDtype {
        match (self, kind) {
            (Self::F32, _) | (Self::Auto, DeviceKind::Cpu) => TrainDtype::F32,
            (Self::Bf16, _) | (Self::Auto, DeviceKind::Cuda) => TrainDtype::Bf16,
        }
    }

    /// The format of numbers that are kept, if one is asked for.
    pub fn given(self) -> Option<NumberFormat> {
        match self {
            Self::Auto => None,
            Self::F32 => Some(NumberFormat::F32),
            Self::Bf16 => Some(NumberFormat::Bf16),
        }
    }
}

impl From<NumberFormat> for DtypeSetting {
    fn from(format: NumberFormat) -> Self {
        match format {
            NumberFormat::F32 => Self::F32,
            NumberFormat::Bf16 | NumberFormat::Split => Self::Bf16,
        }
    }
}

impl From<TrainDtype> for DtypeSetting {
    fn from(dtype: TrainDtype) -> Self {
        match dtype {
            TrainDtype::F32 => Self::F32,
            TrainDtype::Bf16 => Self::Bf16,
        }
    }
}

/// Number format of training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainDtype {
    /// 32-bit floating point throughout.
    F32,
    /// Mixed precision: the matrix products of the layers and the head take operands in bf16 and add in
    /// f32, as under PyTorch's autocast. On the processor everything else is f32; on a card activations
    /// and gradients are bf16 and weights keep what bf16 lacks beside them. So no update is lost to
    /// rounding.
    Bf16,
}

/// One setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConfigProblem {
    /// The key in the `[trainer]` table.
    pub field: String,
    /// What is wrong with it and what to write instead; names the key.
    pub message: String,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: 3,
            max_steps: None,
            batch_size: 128,
            micro_batch_tokens: MicroBatchTokens::Auto,
            recompute: RecomputeSetting::Auto,
            share_prefixes: true,
            learning_rate: 2e-5,
            lr_scheduler: LrScheduler::Cosine,
            warmup_ratio: 0.03,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            max_seq_len: 512,
            seed: 42,
            eval_fraction: 0.0,
            eval_every: 0,
            checkpoint_every: 100,
            keep_checkpoints: 1,
            template: TemplateName::Alpaca,
            device: DeviceSetting::Auto,
            dtype: DtypeSetting::Auto,
            moments_dtype: DtypeSetting::Auto,
            lora: None,
        }
    }
}

impl TrainConfig {
    /// Reads a `[trainer]` table, reporting unknown keys, wrong types and impossible values all at once.
    pub fn from_table(table: &Map<String, Value>) -> Result<Self, Vec<ConfigProblem>> {
        // Each key is read alone first, because serde stops at the first mistake.
        let mut problems: Vec<ConfigProblem> = table
            .iter()
            .filter_map(|(key, value)| {
                // serde would take an array for a table whose fields come in order.
                if key == "lora" && !value.is_object() {
                    return Some(ConfigProblem {
                        field: key.clone(),
                        message: format!("lora is {value}; expected a table, [trainer.lora]"),
                    });
                }
                let alone = Map::from_iter([(key.clone(), value.clone())]);
                let error = serde_json::from_value::<Self>(Value::Object(alone)).err()?;
                // A table within may hold an unknown key, too.
                let itself = format!("unknown field `{key}`");
                let message = if error.to_string().starts_with(&itself) {
                    format!(
                        "{key} is no setting of the trainer; the settings are {}",
                        Self::keys().join(", ")
                    )
                } else {
                    format!("{key} is {value}: {error}")
                };
                Some(ConfigProblem {
                    field: key.clone(),
                    message,
                })
            })
            .collect();
        let mut readable = table.clone();
        readable.retain(|key, _| problems.iter().all(|problem| problem.field != *key));
        match serde_json::from_value::<Self>(Value::Object(readable)) {
            Ok(config) => {
                if let Err(more) = config.validate() {
                    problems.extend(more);
                }
                if problems.is_empty() {
                    return Ok(config);
                }
            }
            // Alone each key is right, so one setting is given under two names.
            Err(error) => problems.push(ConfigProblem {
                field: String::new(),
                message: format!("a setting is given twice, under two names: {error}"),
            }),
        }
        Err(problems)
    }

    /// Names of all settings.
    fn keys() -> Vec<String> {
        let all = Self {
            max_steps: Some(1),
            lora: Some(LoraConfig::default()),
            ..Self::default()
        };
        let value = serde_json::to_value(all).expect("numbers and names always become JSON");
        value
            .as_object()
            .into_iter()
            .flat_map(|object| object.keys().cloned())
            .collect()
    }

    /// Checks every setting and returns all problems at once.
    pub fn validate(&self) -> Result<(), Vec<ConfigProblem>> {
        let mut problems = Vec::new();
        let mut require = |holds: bool, field: &'static str, found: String, expected: &str| {
            if !holds {
                problems.push(ConfigProblem {
                    field: field.to_owned(),
                    message: format!("{field} is {found}; expected {expected}"),
                });
            }
        };
        let positive = "a whole number of at least 1";
        let counts = [
            (self.epochs, "epochs"),
            (self.max_steps.unwrap_or(1), "max_steps"),
            (self.batch_size as u64, "batch_size"),
            (self.checkpoint_every, "checkpoint_every"),
            (self.keep_checkpoints as u64, "keep_checkpoints"),
        ];
        for (value, field) in counts {
            require(value >= 1, field, value.to_string(), positive);
        }
        require(
            self.max_seq_len >= 2,
            "max_seq_len",
            self.max_seq_len.to_string(),
            "at least 2 tokens, one to read and one to predict",
        );
        if let MicroBatchTokens::Tokens(tokens) = self.micro_batch_tokens {
            require(
                tokens >= self.max_seq_len,
                "micro_batch_tokens",
                tokens.to_string(),
                &format!(
                    "at least max_seq_len ({}), because an example is never split",
                    self.max_seq_len
                ),
            );
        }
        if let Some(lora) = &self.lora {
            require(
                lora.r >= 1,
                "lora",
                format!("r = {}", lora.r),
                "r of at least 1",
            );
            require(
                lora.lora_alpha.is_finite() && lora.lora_alpha > 0.0,
                "lora",
                format!("lora_alpha = {}", lora.lora_alpha),
                "a positive lora_alpha such as 16",
            );
            require(
                (0.0..1.0).contains(&lora.lora_dropout),
                "lora",
                format!("lora_dropout = {}", lora.lora_dropout),
                "a lora_dropout from 0 to below 1, such as 0.05",
            );
            require(
                !lora.target_modules.is_empty(),
                "lora",
                "target_modules = []".to_owned(),
                "at least one module, such as \"q_proj\"",
            );
            let mut modules = lora.target_modules.clone();
            modules.sort_unstable();
            modules.dedup();
            require(
                modules.len() == lora.target_modules.len(),
                "lora",
                "target_modules with one of them twice".to_owned(),
                "each module once",
            );
        }
        require(
            self.learning_rate.is_finite() && self.learning_rate > 0.0,
            "learning_rate",
            self.learning_rate.to_string(),
            "a positive number such as 2e-5",
        );
        require(
            self.adam_epsilon.is_finite() && self.adam_epsilon > 0.0,
            "adam_epsilon",
            self.adam_epsilon.to_string(),
            "a positive number such as 1e-8",
        );
        for (value, field) in [
            (self.weight_decay, "weight_decay"),
            (self.max_grad_norm, "max_grad_norm"),
        ] {
            require(
                value.is_finite() && value >= 0.0,
                field,
                value.to_string(),
                "zero or a positive number",
            );
        }
        require(
            (0.0..=1.0).contains(&self.warmup_ratio),
            "warmup_ratio",
            self.warmup_ratio.to_string(),
            "a fraction from 0 to 1",
        );
        for (value, field) in [
            (self.adam_beta1, "adam_beta1"),
            (self.adam_beta2, "adam_beta2"),
            (self.eval_fraction, "eval_fraction"),
        ] {
            require(
                (0.0..1.0).contains(&value),
                field,
                value.to_string(),
                "a fraction from 0 to below 1",
            );
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(problems)
        }
    }

    /// The settings that the trained weights depend on; a checkpoint is resumed only under equal ones.
    ///
    /// How often something is measured or saved is left out, and so is what changes no mathematics but
    /// only the order of sums: they may change between two sittings. The default of `lora_dropout` is left
    /// out because settings from before there was any are those of today's default: see
    /// [`TrainConfig::as_begun`].
    pub fn trajectory(&self) -> Value {
        let mut value =
            serde_json::to_value(self).expect("numbers and names always become a JSON object");
        if let Some(object) = value.as_object_mut() {
            for key in [
                "checkpoint_every",
                "keep_checkpoints",
                "eval_every",
                "eval_fraction",
                "micro_batch_tokens",
                "recompute",
                "share_prefixes",
                "device",
                "moments_dtype",
            ] {
                object.shift_remove(key);
            }
            if self.max_steps.is_some() {
                object.shift_remove("epochs");
            }
            if self.has_default_dropout()
                && let Some(lora) = object.get_mut("lora").and_then(Value::as_object_mut)
            {
                lora.shift_remove("lora_dropout");
            }
        }
        value
    }

    /// The settings for going on with a run: one that was begun before there was dropout goes on without,
    /// unless another than the default is asked for.
    pub fn as_begun(&self, run: &RunIdentity) -> Self {
        let mut config = self.clone();
        if run.lora_dropout.is_none()
            && self.has_default_dropout()
            && let Some(lora) = &mut config.lora
        {
            lora.lora_dropout = 0.0;
        }
        config
    }

    fn has_default_dropout(&self) -> bool {
        let default = LoraConfig::default().lora_dropout;
        let lora = self.lora.as_ref();
        lora.is_some_and(|lora| lora.lora_dropout == default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_published_recipe() {
        let config: TrainConfig = toml::from_str("").unwrap();
        assert_eq!(config, TrainConfig::default());
        assert_eq!(
            (config.epochs, config.batch_size, config.max_seq_len),
            (3, 128, 512)
        );
        config.validate().unwrap();
    }

    #[test]
    fn transformers_names_are_read_and_unknown_ones_refused() {
        let config: TrainConfig =
            toml::from_str("num_train_epochs = 5\nlr_scheduler_type = \"linear\"").unwrap();
        assert_eq!(
            (config.epochs, config.lr_scheduler),
            (5, LrScheduler::Linear)
        );
        let error = toml::from_str::<TrainConfig>("learning_rat = 1e-5").unwrap_err();
        assert!(
            error.to_string().contains("unknown field `learning_rat`"),
            "{error}"
        );
    }

    #[test]
    fn all_problems_are_named_at_once() {
        let config = TrainConfig {
            batch_size: 0,
            learning_rate: -1.0,
            micro_batch_tokens: MicroBatchTokens::Tokens(100),
            warmup_ratio: 3.0,
            ..TrainConfig::default()
        };
        let problems: Vec<String> = config
            .validate()
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            problems,
            [
                "batch_size is 0; expected a whole number of at least 1",
                "micro_batch_tokens is 100; expected at least max_seq_len (512), because an example is never split",
                "learning_rate is -1; expected a positive number such as 2e-5",
                "warmup_ratio is 3; expected a fraction from 0 to 1",
            ]
        );
    }

    #[test]
    fn a_table_with_many_mistakes_is_told_all_of_them() {
        let table = serde_json::json!({
            "learning_rat": 1e-5,
            "epochs": "three",
            "lr_scheduler": "cosin",
            "batch_size": 0,
            "max_grad_norm": 1.0,
            "lora": {"rank": 8},
        });
        let problems = TrainConfig::from_table(table.as_object().unwrap()).unwrap_err();
        let fields: Vec<&str> = problems.iter().map(|p| p.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "learning_rat",
                "epochs",
                "lr_scheduler",
                "lora",
                "batch_size"
            ]
        );
        let messages: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(messages[0].starts_with(
            "learning_rat is no setting of the trainer; the settings are epochs, max_steps,"
        ));
        assert_eq!(
            messages[1],
            "epochs is \"three\": invalid type: string \"three\", expected u64"
        );
        assert_eq!(
            messages[2],
            "lr_scheduler is \"cosin\": unknown variant `cosin`, expected one of `cosine`, `linear`, `constant`, `constant_with_warmup`"
        );
        assert_eq!(
            messages[3],
            "lora is {\"rank\":8}: unknown field `rank`, expected one of `r`, `lora_alpha`, `lora_dropout`, `target_modules`"
        );
        let twice = serde_json::json!({"epochs": 3, "num_train_epochs": 3});
        let problems = TrainConfig::from_table(twice.as_object().unwrap()).unwrap_err();
        assert!(problems[0].message.contains("given twice"), "{problems:?}");
        let fine = serde_json::json!({"epochs": 1, "batch_size": 8});
        let config = TrainConfig::from_table(fine.as_object().unwrap()).unwrap();
        assert_eq!((config.epochs, config.batch_size), (1, 8));
    }

    #[test]
    fn adapters_that_cannot_be_are_refused() {
        let told = |lora: Value| -> String {
            let table = serde_json::json!({"lora": lora});
            TrainConfig::from_table(table.as_object().unwrap()).unwrap_err()[0].to_string()
        };
        let twice = serde_json::json!({"target_modules": ["q_proj", "v_proj", "q_proj"]});
        assert_eq!(
            told(serde_json::json!([])),
            "lora is []; expected a table, [trainer.lora]"
        );
        assert_eq!(
            told(twice),
            "lora is target_modules with one of them twice; expected each module once"
        );
        assert!(told(serde_json::json!({"r": 0})).contains("expected r of at least 1"));
        for dropout in [1.0, 1.5, -0.1] {
            assert_eq!(
                told(serde_json::json!({"lora_dropout": dropout})),
                format!(
                    "lora is lora_dropout = {dropout}; expected a lora_dropout from 0 to below 1, such as 0.05"
                )
            );
        }
        assert!(told(serde_json::json!({"target_modules": []})).contains("at least one module"));
    }

    #[test]
    fn saving_more_often_is_no_other_trajectory() {
        let config = TrainConfig::default();
        let more = TrainConfig {
            checkpoint_every: 1,
            eval_every: 5,
            ..config.clone()
        };
        assert_eq!(config.trajectory(), more.trajectory());
        let hotter = TrainConfig {
            learning_rate: 3e-5,
            ..config.clone()
        };
        assert_ne!(config.trajectory(), hotter.trajectory());
    }
}
