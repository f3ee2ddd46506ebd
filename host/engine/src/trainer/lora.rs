//! LoRA: low-rank adapters that are trained in place of the model's own weights (Hu et al., arXiv
//! 2106.09685), with the names of the PEFT library.

use std::path::Path;

use candle_core::{DType, Device, Result, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

use super::engine::Dropout;
use super::parameters::{Layout, NumberFormat, ParameterSet};
use crate::llama::weights::WeightsError;
use crate::llama::{LlamaConfig, Weights, durable, safetensors_file};

/// Settings of LoRA, spelled as PEFT's `LoraConfig` spells them. The defaults are those of
/// alpaca-lora.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank of the product that is added to each matrix.
    pub r: usize,
    /// The product is multiplied by `lora_alpha / r`.
    pub lora_alpha: f64,
    /// Probability with which a number that an adapter reads is set to zero, in training alone; what is left
    /// is scaled by `1 / (1 − p)`. It is rounded to a multiple of 2⁻¹⁶.
    pub lora_dropout: f64,
    /// Which matrices of every layer have one.
    pub target_modules: Vec<Target>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 16.0,
            lora_dropout: 0.05,
            target_modules: vec![Target::Q, Target::V],
        }
    }
}

/// A matrix of a decoder layer that can be adapted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Target {
    /// Query projection.
    #[serde(rename = "q_proj")]
    Q,
    /// Key projection.
    #[serde(rename = "k_proj")]
    K,
    /// Value projection.
    #[serde(rename = "v_proj")]
    V,
    /// Output projection of the attention.
    #[serde(rename = "o_proj")]
    O,
    /// Gate of the MLP.
    #[serde(rename = "gate_proj")]
    Gate,
    /// Up projection of the MLP.
    #[serde(rename = "up_proj")]
    Up,
    /// Down projection of the MLP.
    #[serde(rename = "down_proj")]
    Down,
}

impl Target {
    /// Name of its module within a layer.
    pub fn module(self) -> &'static str {
        match self {
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::O => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    /// Hugging Face's name of its weight in a layer.
    pub fn weight_name(self, layer: usize) -> String {
        format!("model.layers.{layer}.{}.weight", self.module())
    }

    /// Its number among all matrices that could be adapted, layer by layer.
    pub(super) fn matrix(self, layer: usize) -> u32 {
        const IN_A_LAYER: usize = 7;
        (IN_A_LAYER * layer + self as usize) as u32
    }

    /// `[outputs, inputs]`.
    pub fn shape(self, config: &LlamaConfig) -> [usize; 2] {
        let queries = config.num_attention_heads * config.head_dim;
        let keys = config.num_key_value_heads * config.head_dim;
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        match self {
            Self::Q => [queries, hidden],
            Self::K | Self::V => [keys, hidden],
            Self::O => [hidden, queries],
            Self::Gate | Self::Up => [inner, hidden],
            Self::Down => [hidden, inner],
        }
    }

    /// PEFT's names of the two factors in a layer: `a` (`[r, inputs]`) and `b` (`[outputs, r]`).
    pub fn adapter_names(self, layer: usize) -> [String; 2] {
        ["A", "B"].map(|factor| {
            let module = self.module();
            format!("base_model.model.model.layers.{layer}.{module}.lora_{factor}.weight")
        })
    }
}

impl LoraConfig {
    /// Names and shapes of all factors, layer by layer.
    pub fn shapes(&self, config: &LlamaConfig) -> Vec<(String, Vec<usize>)> {
        let mut targets = self.target_modules.clone();
        targets.sort_unstable();
        targets.dedup();
        (0..config.num_hidden_layers)
            .flat_map(|layer| targets.iter().map(move |target| (layer, *target)))
            .flat_map(|(layer, target)| {
                let [outputs, inputs] = target.shape(config);
                let [a, b] = target.adapter_names(layer);
                [(a, vec![self.r, inputs]), (b, vec![outputs, self.r])]
            })
            .collect()
    }

    /// How many numbers are trained.
    pub fn parameter_count(&self, config: &LlamaConfig) -> usize {
        let shapes = self.shapes(config);
        shapes
            .iter()
            .map(|(_, s)| s.iter().product::<usize>())
            .sum()
    }

    /// Widest input of an adapter, where there is dropout; 0 without.
    pub fn dropout_width(&self, config: &LlamaConfig) -> usize {
        let inputs = self.target_modules.iter().map(|t| t.shape(config)[1]);
        match Dropout::dropped(self.lora_dropout) {
            0 => 0,
            _ => inputs.max().unwrap_or(0),
        }
    }
}

/// The adapters of a model.
#[derive(Debug)]
pub struct Adapters {
    /// Their settings.
    pub config: LoraConfig,
    /// All factors.
    pub values: ParameterSet,
}

impl Adapters {
    /// As PEFT begins: the `b` are zero, so that the model is what it was, and the `a` uniform between
    /// `±1 / √inputs` (Kaiming's with `a = √5`), from the seed.
    ///
    /// # Errors
    /// candle's.
    pub fn new(
        lora: &LoraConfig,
        config: &LlamaConfig,
        seed: u64,
        format: NumberFormat,
        device: &Device,
    ) -> Result<Self> {
        let mut values =
            ParameterSet::zeros(&Layout::of_shapes(lora.shapes(config)), format, device)?;
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(STREAM);
        for spec in values.specs().to_vec() {
            if spec.name.contains(".lora_A.") {
                let bound = 1.0 / (spec.shape[1] as f32).sqrt();
                let drawn: Vec<f32> = spec
                    .range
                    .clone()
                    .map(|_| bound * uniform(&mut random))
                    .collect();
                values.write(spec.range.start, &drawn)?;
            }
        }
        Ok(Self {
            config: lora.clone(),
            values,
        })
    }

    /// What every product is multiplied by.
    pub fn scale(&self) -> f32 {
        (self.config.lora_alpha / self.config.r as f64) as f32
    }

    /// The factors of one matrix, or their gradients, where it has an adapter; `values` are laid out as
    /// the adapters' own.
    pub(super) fn of(
        &self,
        values: &ParameterSet,
        layer: usize,
        target: Target,
    ) -> Result<Option<(Tensor, Tensor)>> {
        let [a, b] = target.adapter_names(layer).map(|name| values.get(&name));
        Ok(a?.zip(b?))
    }

    /// Adds all products to the weights of a model, which then answers as it did with the adapters.
    ///
    /// # Errors
    /// candle's.
    pub fn merge_into(&self, config: &LlamaConfig, base: &Weights) -> Result<()> {
        let factor = |name: &str| -> Result<Option<Tensor>> {
            let values = &self.values;
            let Some(spec) = values.layout().spec(name) else {
                return Ok(None);
            };
            let numbers = values.read(spec.range.clone())?;
            Tensor::from_vec(numbers, spec.shape.as_slice(), &Device::Cpu).map(Some)
        };
        for layer in 0..config.num_hidden_layers {
            for target in &self.config.target_modules {
                let [a, b] = target.adapter_names(layer).map(|name| factor(&name));
                let (Some(a), Some(b)) = (a?, b?) else {
                    continue;
                };
                let product = (b.matmul(&a)? * f64::from(self.scale()))?;
                let weight = &base.tensors[&target.weight_name(layer)];
                weight.slice_set(&(weight + product)?, 0, 0)?;
            }
        }
        Ok(())
    }
}

/// Files of a folder that PEFT reads.
const PEFT_FILES: [&str; 2] = ["adapter_model.safetensors", "adapter_config.json"];

impl Adapters {
    /// Writes the adapters as the PEFT library reads them; `base` names the model that they adapt.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save_peft(&self, folder: &Path, base: &str) -> std::result::Result<(), WeightsError> {
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| WeightsError::Io {
                action,
                path,
                source,
            }
        };
        std::fs::create_dir_all(folder).map_err(io("create", folder))?;
        let [weights, settings] = PEFT_FILES.map(|name| folder.join(name));
        let mut tensors = Vec::new();
        for spec in self.values.specs() {
            let numbers = self.values.read(spec.range.clone());
            let tensor =
                numbers.and_then(|x| Tensor::from_vec(x, spec.shape.as_slice(), &Device::Cpu));
            let tensor = tensor.map_err(|source| WeightsError::Tensor {
                name: spec.name.clone(),
                source,
            })?;
            tensors.push((spec.name.as_str(), tensor));
        }
        let named: Vec<(&str, &Tensor)> = tensors.iter().map(|(name, t)| (*name, t)).collect();
        safetensors_file::write(&weights, &named, DType::F32)?;
        let config = serde_json::json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": self.config.r,
            "lora_alpha": self.config.lora_alpha,
            "lora_dropout": self.config.lora_dropout,
            "target_modules": self.config.target_modules,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
        });
        let text = format!("{config:#}\n");
        durable::write(&settings, text.as_bytes()).map_err(io("write", &settings))
    }
}

/// The stream of random numbers that adapters begin with; see [`super::batches`] for the others.
const STREAM: u64 = u64::MAX - 1;

/// From -1 to below 1, in steps of 2⁻²³.
fn uniform(random: &mut ChaCha8Rng) -> f32 {
    (random.next_u32() >> 8) as f32 / (1u32 << 23) as f32 - 1.0
}
