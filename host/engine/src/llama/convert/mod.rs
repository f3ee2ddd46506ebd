//! Models from one form to another: Hugging Face folders and GGUF files.

mod gguf_writer;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};

use self::gguf_writer::{TensorInfo, Value, write_header, write_tensor};
use super::config::{LLAMA3_KEYS, LlamaConfig, RopeScaling};
use super::durable;
use super::gguf::{gguf_name, to_gguf_layout};
use super::rope::inverse_frequencies;
use super::source::{LocalModel, Progress, SourceError, save_hf};
use super::weights::{Weights, WeightsError};

/// How the elements of a GGUF file are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufType {
    /// Everything in f32.
    F32,
    /// Matrices in f16.
    F16,
    /// Matrices in bf16.
    Bf16,
    /// Matrices in blocks of 32 with 8 bits an element.
    Q8_0,
    /// llama.cpp's mixture of 4 and 6 bits an element, in blocks of 256; where rows are no
    /// multiple of 256 long, of 5 and 8 bits in blocks of 32.
    Q4KM,
}

impl GgufType {
    /// As a command spells it.
    pub const NAMES: [(&'static str, GgufType); 5] = [
        ("f32", GgufType::F32),
        ("f16", GgufType::F16),
        ("bf16", GgufType::Bf16),
        ("q8_0", GgufType::Q8_0),
        ("q4_k_m", GgufType::Q4KM),
    ];

    /// `general.file_type`.
    fn file_type(self) -> u32 {
        match self {
            GgufType::F32 => 0,
            GgufType::F16 => 1,
            GgufType::Q8_0 => 7,
            GgufType::Q4KM => 15,
            GgufType::Bf16 => 32,
        }
    }

    /// The type of one tensor, by its Hugging Face name.
    fn of_tensor(self, name: &str, shape: &[usize], config: &LlamaConfig) -> GgmlDType {
        let [.., columns] = shape else {
            return GgmlDType::F32;
        };
        // Norms are a few thousand numbers, and matter.
        if shape.len() < 2 {
            return GgmlDType::F32;
        }
        let wanted = match self {
            GgufType::F32 => GgmlDType::F32,
            GgufType::F16 => GgmlDType::F16,
            GgufType::Bf16 => GgmlDType::BF16,
            GgufType::Q8_0 => GgmlDType::Q8_0,
            GgufType::Q4KM if more_bits(name, config) => GgmlDType::Q6K,
            GgufType::Q4KM => GgmlDType::Q4K,
        };
        let fits = |kind: GgmlDType| columns.is_multiple_of(kind.block_size());
        match wanted {
            GgmlDType::Q4K if !fits(GgmlDType::Q4K) && fits(GgmlDType::Q5_0) => GgmlDType::Q5_0,
            GgmlDType::Q6K if !fits(GgmlDType::Q6K) && fits(GgmlDType::Q8_0) => GgmlDType::Q8_0,
            kind if fits(kind) => kind,
            _ => GgmlDType::F16,
        }
    }
}

/// Which tensors `Q4_K_M` stores with more bits: the output, and of values and down projections
/// the first and the last eighth of the layers and every third between.
fn more_bits(name: &str, config: &LlamaConfig) -> bool {
    let output = if config.tie_word_embeddings {
        "model.embed_tokens.weight"
    } else {
        "lm_head.weight"
    };
    if name == output {
        return true;
    }
    let part = name.strip_prefix("model.layers.");
    let Some((layer, part)) = part.and_then(|part| part.split_once('.')) else {
        return false;
    };
    let layers = config.num_hidden_layers;
    let Ok(layer) = layer.parse::<usize>() else {
        return false;
    };
    let heavy = matches!(part, "self_attn.v_proj.weight" | "mlp.down_proj.weight");
    heavy && (layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2)
}

/// Why a model cannot be converted.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The model cannot be read.
    #[error(transparent)]
    Source(Box<SourceError>),
    /// Its weights cannot be read.
    #[error(transparent)]
    Weights(Box<WeightsError>),
    /// The tokenizer has no form in a GGUF file.
    #[error("the tokenizer of {} cannot go into a GGUF file: {reason}", path.display())]
    Tokenizer {
        /// The model.
        path: PathBuf,
        /// What is unknown.
        reason: String,
    },
    /// The file or folder cannot be written.
    #[error("cannot write {}: {source}; {kept}. Make room there, or name another place", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What could not be written, and what the operating system said.
        source: Box<dyn std::error::Error + Send + Sync>,
        /// What is there now.
        kept: Kept,
    },
    /// A tensor cannot be converted.
    #[error("tensor {name}: {source}")]
    Tensor {
        /// Its Hugging Face name.
        name: String,
        /// candle's words.
        source: candle_core::Error,
    },
}

/// What stands at the place of a model that could not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// What was there before, if anything.
    Nothing,
    /// A folder with files of the model before and of the new one.
    Mixed,
}

impl std::fmt::Display for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kept::Nothing => "nothing of it was kept, and nothing was overwritten",
            Kept::Mixed => "the folder is not whole, and can be deleted",
        })
    }
}

impl From<SourceError> for ConvertError {
    fn from(error: SourceError) -> Self {
        ConvertError::Source(Box::new(error))
    }
}

impl From<WeightsError> for ConvertError {
    fn from(error: WeightsError) -> Self {
        ConvertError::Weights(Box::new(error))
    }
}

/// Writes a model as a GGUF file with its tokenizer and chat template, tensor by tensor. The file
/// appears when it is whole.
///
/// # Errors
/// When the model cannot be read, its tokenizer has no form in GGUF, or the file cannot be written.
pub fn to_gguf(
    model: &LocalModel,
    out: &Path,
    kind: GgufType,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), ConvertError> {
    let (config, tokenizer) = model.shape()?;
    let unusable = |reason| ConvertError::Tokenizer {
        path: model.path.clone(),
        reason,
    };
    let mut metadata = architecture(&config, kind, out);
    metadata.extend(vocabulary::metadata(&tokenizer, &config).map_err(unusable)?);
    let names: Vec<(String, TensorInfo)> = config
        .tensor_shapes()
        .into_iter()
        .map(|(name, shape)| {
            let kind = kind.of_tensor(&name, &shape, &config);
            let info = TensorInfo {
                name: gguf_name(&name).expect("every tensor of a LLaMA has a name there"),
                shape,
                kind,
            };
            (name, info)
        })
        .collect();
    let factors = rope_factors(&config);
    let mut tensors: Vec<TensorInfo> = names.iter().map(|(_, info)| info.clone()).collect();
    tensors.extend(factors.as_ref().map(|factors| TensorInfo {
        name: "rope_freqs.weight".to_owned(),
        shape: vec![factors.len()],
        kind: GgmlDType::F32,
    }));
    let total = tensors.iter().map(TensorInfo::bytes).sum();
    let mut reader = Weights::reader(&model.path, &config)?;
    let mut failed = None;
    let written = durable::write_with(out, |file| {
        let mut file = BufWriter::new(file);
        write_header(&mut file, &metadata, &tensors)?;
        let mut done = 0;
        for (name, info) in &names {
            let bytes = reader
                .tensor(name, DType::F32)
                .map_err(ConvertError::from)
                .and_then(|tensor| {
                    elements(name, tensor, info.kind, &config).map_err(|source| {
                        ConvertError::Tensor {
                            name: name.clone(),
                            source,
                        }
                    })
                });
            match bytes {
                Ok(bytes) => write_tensor(&mut file, &bytes)?,
                Err(error) => {
                    failed = Some(error);
                    return Err(io::Error::other("the model cannot be read"));
                }
            }
            done += info.bytes();
            progress(Progress {
                task: format!("writing {}", out.display()),
                done,
                total: Some(total),
            });
        }
        if let Some(factors) = &factors {
            let bytes: Vec<u8> = factors.iter().flat_map(|f| f.to_le_bytes()).collect();
            write_tensor(&mut file, &bytes)?;
        }
        file.flush()
    });
    if let Some(error) = failed {
        return Err(error);
    }
    written.map_err(|source| ConvertError::Write {
        path: out.to_owned(),
        source: source.into(),
        kept: Kept::Nothing,
    })
}

/// Writes a model as a Hugging Face folder, its weights as `dtype`. The folder appears when it is
/// whole; in one that is there already the model's files are replaced then, and others stay.
///
/// # Errors
/// When the model cannot be read or the folder not be written.
pub fn to_folder(model: &LocalModel, out: &Path, dtype: DType) -> Result<(), ConvertError> {
    let (config, tokenizer) = model.shape()?;
    let weights = Weights::load_as(&model.path, &config, dtype)?;
    durable::folder_with(out, &REPLACED, |folder| {
        save_hf(folder, &config, &tokenizer, &weights, dtype).map_err(Into::into)
    })
    .map_err(|error| ConvertError::Write {
        path: out.to_owned(),
        kept: match error.is_mixed {
            false => Kept::Nothing,
            true => Kept::Mixed,
        },
        source: error.source,
    })
}

/// What a model that was in a folder before may leave there to be taken for a part of the new one.
const REPLACED: [&str; 4] = [
    "config.json",
    "chat_template.jinja",
    "model.safetensors",
    "model.safetensors.index.json",
];

/// A tensor's elements as they stand in the file.
fn elements(
    name: &str,
    tensor: Tensor,
    kind: GgmlDType,
    config: &LlamaConfig,
) -> candle_core::Result<Vec<u8>> {
    let tensor = to_gguf_layout(name, tensor, config)?;
    let quantized = QTensor::quantize(&tensor.to_device(&Device::Cpu)?, kind)?;
    Ok(quantized.data()?.into_owned())
}

/// The metadata of the model itself.
fn architecture(config: &LlamaConfig, kind: GgufType, out: &Path) -> Vec<(String, Value)> {
    let name = out.file_stem().unwrap_or_default().to_string_lossy();
    let count = |number: usize| Value::U32(u32::try_from(number).unwrap_or(u32::MAX));
    let mut metadata = vec![
        ("general.architecture", Value::String("llama".into())),
        ("general.name", Value::String(name.into_owned())),
        ("general.file_type", Value::U32(kind.file_type())),
        ("general.quantization_version", Value::U32(2)),
        ("llama.vocab_size", count(config.vocab_size)),
        (
            "llama.context_length",
            count(config.max_position_embeddings),
        ),
        ("llama.embedding_length", count(config.hidden_size)),
        ("llama.feed_forward_length", count(config.intermediate_size)),
        ("llama.block_count", count(config.num_hidden_layers)),
        (
            "llama.attention.head_count",
            count(config.num_attention_heads),
        ),
        (
            "llama.attention.head_count_kv",
            count(config.num_key_value_heads),
        ),
        ("llama.attention.key_length", count(config.head_dim)),
        ("llama.attention.value_length", count(config.head_dim)),
        (
            "llama.attention.layer_norm_rms_epsilon",
            Value::F32(config.rms_norm_eps as f32),
        ),
        ("llama.rope.dimension_count", count(config.head_dim)),
        ("llama.rope.freq_base", Value::F32(config.rope_theta as f32)),
    ];
    match config.rope_scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => {
            metadata.push(("llama.rope.scaling.type", Value::String("linear".into())));
            metadata.push(("llama.rope.scaling.factor", Value::F32(factor as f32)));
        }
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let numbers = [factor, low_freq_factor, high_freq_factor];
            let values = numbers.map(|number| Value::F32(number as f32));
            let length = count(original_max_position_embeddings);
            metadata.extend(
                LLAMA3_KEYS
                    .into_iter()
                    .zip(values.into_iter().chain([length])),
            );
        }
    }
    let metadata = metadata.into_iter();
    metadata
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

/// Llama 3.1's scaling, as GGUF has it: what each frequency is divided by.
fn rope_factors(config: &LlamaConfig) -> Option<Vec<f32>> {
    if !matches!(config.rope_scaling, RopeScaling::Llama3 { .. }) {
        return None;
    }
    let of = |scaling| inverse_frequencies(config.head_dim, config.rope_theta, scaling);
    let plain = of(RopeScaling::None);
    let scaled = of(config.rope_scaling);
    Some(
        plain
            .iter()
            .zip(scaled)
            .map(|(plain, scaled)| (plain / scaled) as f32)
            .collect(),
    )
}
