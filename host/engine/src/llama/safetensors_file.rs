//! One safetensors file: header checked against the file's length, tensors read one at a time.
//!
//! Format: <https://github.com/huggingface/safetensors#format>.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::durable;
use super::generate::{Format, Stored};
use super::weights::WeightsError;

/// The longest header that the reference implementation reads, in bytes.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// An open safetensors file.
pub(super) struct SafetensorsFile {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    data_start: u64,
}

impl SafetensorsFile {
    pub(super) fn open(path: &Path) -> Result<Self, WeightsError> {
        let read = |source| WeightsError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        };
        let bad = |reason: String| WeightsError::Safetensors {
            path: path.to_owned(),
            reason,
        };
        let mut file = File::open(path).map_err(read)?;
        let length = file.metadata().map_err(read)?.len();
        let wrong_length = |expected| WeightsError::WrongLength {
            path: path.to_owned(),
            expected,
            found: length,
        };
        if length < 8 {
            return Err(wrong_length(8));
        }
        let mut prefix = [0; 8];
        file.read_exact(&mut prefix).map_err(read)?;
        let header_bytes = u64::from_le_bytes(prefix);
        if header_bytes > MAX_HEADER_BYTES {
            return Err(bad(format!(
                "its first eight bytes give a header of {header_bytes} bytes; this is another kind of file"
            )));
        }
        let data_start = 8 + header_bytes;
        if length < data_start {
            return Err(wrong_length(data_start));
        }
        let mut header = vec![0; header_bytes as usize];
        file.read_exact(&mut header).map_err(read)?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|e| bad(format!("its header does not parse: {e}")))?;
        let expected = data_start + metadata.data_len() as u64;
        if length != expected {
            return Err(wrong_length(expected));
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            metadata,
            data_start,
        })
    }

    pub(super) fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        self.metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| (name, info.shape.clone()))
            .collect()
    }

    pub(super) fn tensor(&mut self, name: &str, dtype: DType) -> Result<Tensor, WeightsError> {
        let (stored, shape, bytes) = self.read(name)?;
        Tensor::from_raw_buffer(&bytes, stored, &shape, &Device::Cpu)
            .and_then(|t| t.to_dtype(dtype))
            .map_err(|source| WeightsError::Tensor {
                name: name.to_owned(),
                source,
            })
    }

    /// One tensor; a matrix of 16-bit numbers as it is, all else as f32.
    pub(super) fn stored(&mut self, name: &str) -> Result<Stored, WeightsError> {
        let (stored, shape, bytes) = self.read(name)?;
        let format = match (stored, shape.len()) {
            (DType::F16, 2) => Some(Format::F16),
            (DType::BF16, 2) => Some(Format::Bf16),
            _ => None,
        };
        if let Some(format) = format {
            return Ok(Stored::Blocks(format, bytes));
        }
        Tensor::from_raw_buffer(&bytes, stored, &shape, &Device::Cpu)
            .and_then(|t| t.to_dtype(DType::F32)?.flatten_all()?.to_vec1())
            .map(Stored::F32)
            .map_err(|source| WeightsError::Tensor {
                name: name.to_owned(),
                source,
            })
    }

    /// Element type, shape and bytes of a tensor.
    fn read(&mut self, name: &str) -> Result<(DType, Vec<usize>, Vec<u8>), WeightsError> {
        let bad = |reason: String| WeightsError::Safetensors {
            path: self.path.clone(),
            reason,
        };
        let info = self
            .metadata
            .info(name)
            .ok_or_else(|| bad(format!("it holds no tensor {name}")))?;
        let stored = match info.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => {
                return Err(bad(format!(
                    "tensor {name} is of type {other:?}, expected F32, F16 or BF16"
                )));
            }
        };
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        self.file
            .seek(SeekFrom::Start(self.data_start + start as u64))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(|source| WeightsError::Io {
                action: "read",
                path: self.path.clone(),
                source,
            })?;
        Ok((stored, info.shape.clone(), bytes))
    }
}

/// Writes tensors, converted to `dtype` (f32, f16 or bf16) one at a time, as one file that appears whole.
pub(crate) fn write(
    path: &Path,
    tensors: &[(&str, &Tensor)],
    dtype: DType,
) -> Result<(), WeightsError> {
    let kind = match dtype {
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        _ => "F32",
    };
    let mut header = serde_json::Map::new();
    header.insert(
        "__metadata__".to_owned(),
        serde_json::json!({"format": "pt"}),
    );
    let mut offset = 0;
    for (name, tensor) in tensors {
        let end = offset + tensor.elem_count() * dtype.size_in_bytes();
        header.insert(
            (*name).to_owned(),
            serde_json::json!({
                "dtype": kind,
                "shape": tensor.dims(),
                "data_offsets": [offset, end],
            }),
        );
        offset = end;
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    // The format asks that data begin at a multiple of eight.
    header.resize(header.len().next_multiple_of(8), b' ');
    durable::write_with(path, |file| {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for (name, tensor) in tensors {
            write_elements(&mut out, tensor, dtype)
                .map_err(|e| std::io::Error::other(format!("tensor {name}: {e}")))?;
        }
        out.flush()
    })
    .map_err(|source| WeightsError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

fn write_elements(
    out: &mut impl Write,
    tensor: &Tensor,
    dtype: DType,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let flat = tensor
        .to_device(&Device::Cpu)?
        .to_dtype(dtype)?
        .flatten_all()?;
    match dtype {
        DType::F16 => {
            for x in flat.to_vec1::<f16>()? {
                out.write_all(&x.to_le_bytes())?;
            }
        }
        DType::BF16 => {
            for x in flat.to_vec1::<bf16>()? {
                out.write_all(&x.to_le_bytes())?;
            }
        }
        _ => {
            for x in flat.to_vec1::<f32>()? {
                out.write_all(&x.to_le_bytes())?;
            }
        }
    }
    Ok(())
}
