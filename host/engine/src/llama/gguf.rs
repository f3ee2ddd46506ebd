//! Reading GGUF files: metadata by key, tensors as f32 in Hugging Face's names and layout.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{Device, Tensor};

use super::config::LlamaConfig;
use super::generate::{Format, Stored};

/// Why a GGUF file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The operating system refused.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The first four bytes are others.
    #[error("{} is not a GGUF file: it begins with {found}, expected \"GGUF\"", path.display())]
    NotGguf {
        /// The file.
        path: PathBuf,
        /// The bytes found.
        found: String,
    },
    /// The header or a tensor cannot be read.
    #[error("{} is a damaged GGUF file, or one of an unknown kind: {reason}; fetch it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the reader met.
        reason: String,
    },
}

/// An open GGUF file.
pub struct GgufFile {
    path: PathBuf,
    content: Content,
    reader: BufReader<File>,
}

impl GgufFile {
    /// Opens a file and reads its header; tensors stay on disk.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let read = |source| GgufError::Read {
            path: path.to_owned(),
            source,
        };
        let mut reader = BufReader::new(File::open(path).map_err(read)?);
        let mut magic = Vec::with_capacity(4);
        reader
            .by_ref()
            .take(4)
            .read_to_end(&mut magic)
            .map_err(read)?;
        if magic != b"GGUF" {
            return Err(GgufError::NotGguf {
                path: path.to_owned(),
                found: if magic.is_empty() {
                    "nothing (the file is empty)".to_owned()
                } else {
                    format!("\"{}\"", magic.escape_ascii())
                },
            });
        }
        reader.seek(SeekFrom::Start(0)).map_err(read)?;
        let content = Content::read(&mut reader).map_err(|e| GgufError::Damaged {
            path: path.to_owned(),
            reason: e.to_string(),
        })?;
        Ok(Self {
            path: path.to_owned(),
            content,
            reader,
        })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The metadata value under a key.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(key)
    }

    /// A metadata value that is a string.
    pub fn string(&self, key: &str) -> Option<String> {
        match self.value(key)? {
            Value::String(text) => Some(text.clone()),
            _ => None,
        }
    }

    /// A metadata value of any integer type.
    pub fn integer(&self, key: &str) -> Option<i64> {
        integer(self.value(key)?)
    }

    /// A metadata value of any number type.
    pub fn float(&self, key: &str) -> Option<f64> {
        match self.value(key)? {
            Value::F32(x) => Some(f64::from(*x)),
            Value::F64(x) => Some(*x),
            other => integer(other).map(|n| n as f64),
        }
    }

    /// A metadata value that is true or false.
    pub fn boolean(&self, key: &str) -> Option<bool> {
        match self.value(key)? {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    /// A metadata value that is a list of strings.
    pub fn strings(&self, key: &str) -> Option<Vec<String>> {
        match self.value(key)? {
            Value::Array(items) => items
                .iter()
                .map(|item| match item {
                    Value::String(text) => Some(text.clone()),
                    _ => None,
                })
                .collect(),
            _ => None,
        }
    }

    /// A metadata value that is a list of integers.
    pub fn integers(&self, key: &str) -> Option<Vec<i64>> {
        match self.value(key)? {
            Value::Array(items) => items.iter().map(integer).collect(),
            _ => None,
        }
    }

    /// A metadata value that is a list of f32.
    pub fn floats(&self, key: &str) -> Option<Vec<f32>> {
        match self.value(key)? {
            Value::Array(items) => items.iter().map(|item| item.to_f32().ok()).collect(),
            _ => None,
        }
    }

    /// Names of all tensors, in GGUF's spelling.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.content.tensor_infos.keys().map(String::as_str)
    }

    /// Shape of a tensor in GGUF's spelling, rows first.
    pub fn tensor_shape(&self, name: &str) -> Option<&[usize]> {
        self.content.tensor_infos.get(name).map(|t| t.shape.dims())
    }

    /// One tensor, named in GGUF's spelling, dequantised to f32 on the CPU; layout as stored.
    pub fn tensor(&mut self, name: &str) -> Result<Tensor, GgufError> {
        self.content
            .tensor(&mut self.reader, name, &Device::Cpu)
            .and_then(|t| t.dequantize(&Device::Cpu))
            .map_err(|e| GgufError::Damaged {
                path: self.path.clone(),
                reason: format!("tensor {name}: {e}"),
            })
    }

    /// One tensor, named in GGUF's spelling; a matrix in its blocks where inference computes with them, all
    /// else dequantised to f32; layout as stored.
    pub(super) fn stored(&mut self, name: &str) -> Result<Stored, GgufError> {
        let damaged = |reason: String| GgufError::Damaged {
            path: self.path.clone(),
            reason: format!("tensor {name}: {reason}"),
        };
        let info = self.content.tensor_infos.get(name);
        let info = info.ok_or_else(|| damaged("the file has none".to_owned()))?;
        let dtype = info.ggml_dtype;
        let whole = match info.shape.dims() {
            [_, width] => width.is_multiple_of(dtype.block_size()),
            _ => false,
        };
        let Some(format) = Format::of(dtype).filter(|_| whole) else {
            let tensor = self.tensor(name)?;
            let numbers = tensor.flatten_all().and_then(|tensor| tensor.to_vec1());
            return Ok(Stored::F32(numbers.map_err(|e| GgufError::Damaged {
                path: self.path.clone(),
                reason: format!("tensor {name}: {e}"),
            })?));
        };
        let count = info.shape.elem_count() / dtype.block_size();
        let mut bytes = vec![0; count * dtype.type_size()];
        let place = SeekFrom::Start(self.content.tensor_data_offset + info.offset);
        self.reader
            .seek(place)
            .and_then(|_| self.reader.read_exact(&mut bytes))
            .map_err(|e| damaged(e.to_string()))?;
        Ok(Stored::Blocks(format, bytes))
    }

    /// The divisors of the rotary frequencies that Llama 3.1 files carry, if any.
    pub(super) fn rope_frequency_factors(&mut self) -> Result<Option<Vec<f32>>, GgufError> {
        if self.tensor_shape("rope_freqs.weight").is_none() {
            return Ok(None);
        }
        let factors = self.tensor("rope_freqs.weight")?;
        let factors = factors
            .flatten_all()
            .and_then(|t| t.to_vec1::<f32>())
            .map_err(|e| GgufError::Damaged {
                path: self.path.clone(),
                reason: format!("tensor rope_freqs.weight: {e}"),
            })?;
        Ok(Some(factors))
    }
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::U8(n) => Some(i64::from(*n)),
        Value::I8(n) => Some(i64::from(*n)),
        Value::U16(n) => Some(i64::from(*n)),
        Value::I16(n) => Some(i64::from(*n)),
        Value::U32(n) => Some(i64::from(*n)),
        Value::I32(n) => Some(i64::from(*n)),
        Value::U64(n) => i64::try_from(*n).ok(),
        Value::I64(n) => Some(*n),
        _ => None,
    }
}

/// Parts of a layer, in GGUF's names and in Hugging Face's.
const LAYER_PARTS: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The Hugging Face name of a LLaMA tensor that GGUF calls `name`.
pub fn hugging_face_name(name: &str) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".to_owned()),
        "output_norm.weight" => return Some("model.norm.weight".to_owned()),
        "output.weight" => return Some("lm_head.weight".to_owned()),
        _ => {}
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let part = part.strip_suffix(".weight")?;
    let (_, theirs) = LAYER_PARTS.iter().find(|(ours, _)| *ours == part)?;
    Some(format!("model.layers.{layer}.{theirs}.weight"))
}

/// What GGUF calls a LLaMA tensor of this Hugging Face name: the inverse of [`hugging_face_name`].
pub fn gguf_name(name: &str) -> Option<String> {
    match name {
        "model.embed_tokens.weight" => return Some("token_embd.weight".to_owned()),
        "model.norm.weight" => return Some("output_norm.weight".to_owned()),
        "lm_head.weight" => return Some("output.weight".to_owned()),
        _ => {}
    }
    let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let part = part.strip_suffix(".weight")?;
    let (ours, _) = LAYER_PARTS.iter().find(|(_, theirs)| *theirs == part)?;
    Some(format!("blk.{layer}.{ours}.weight"))
}

/// Turns the rows of a query or key projection from GGUF's order (pairs side by side) to Hugging
/// Face's (first halves, then second halves); other tensors pass unchanged.
///
/// llama.cpp's converter permutes them the other way, so that its rotary embedding can turn
/// neighbours.
pub fn to_hugging_face_layout(
    name: &str,
    tensor: Tensor,
    config: &LlamaConfig,
) -> candle_core::Result<Tensor> {
    let Some(heads) = rotated_heads(name, config) else {
        return Ok(tensor);
    };
    let (rows, columns) = tensor.dims2()?;
    tensor
        .reshape((heads, rows / heads / 2, 2, columns))?
        .transpose(1, 2)?
        .contiguous()?
        .reshape((rows, columns))
}

/// As [`to_hugging_face_layout`], for a matrix in whatever blocks.
pub(super) fn rows_to_hugging_face_layout(
    name: &str,
    matrix: Stored,
    config: &LlamaConfig,
) -> Stored {
    if rotated_heads(name, config).is_none() {
        return matrix;
    }
    let (width, half) = (config.head_dim, config.head_dim / 2);
    matrix.with_rows(config.hidden_size, |row| {
        let (head, place) = (row / width, row % width);
        head * width + place % half * 2 + place / half
    })
}

/// The inverse of [`to_hugging_face_layout`].
pub fn to_gguf_layout(
    name: &str,
    tensor: Tensor,
    config: &LlamaConfig,
) -> candle_core::Result<Tensor> {
    let Some(heads) = rotated_heads(name, config) else {
        return Ok(tensor);
    };
    let (rows, columns) = tensor.dims2()?;
    tensor
        .reshape((heads, 2, rows / heads / 2, columns))?
        .transpose(1, 2)?
        .contiguous()?
        .reshape((rows, columns))
}

/// Number of heads in a projection (Hugging Face name) whose output is turned by RoPE.
fn rotated_heads(name: &str, config: &LlamaConfig) -> Option<usize> {
    if name.ends_with("self_attn.q_proj.weight") {
        Some(config.num_attention_heads)
    } else if name.ends_with("self_attn.k_proj.weight") {
        Some(config.num_key_value_heads)
    } else {
        None
    }
}
