//! Weights in and out: Hugging Face folders and GGUF files to named f32 tensors, and back to folders.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::config::LlamaConfig;
use super::generate::Stored;
use super::gguf::{self, GgufError, GgufFile};
use super::safetensors_file::{self, SafetensorsFile};

/// Bytes that one safetensors shard may hold, as transformers counts them.
const MAX_SHARD_BYTES: usize = 5_000_000_000;

/// The weights of one model.
#[derive(Debug, Clone)]
pub struct Weights {
    /// Tensors by Hugging Face name; exactly those of [`LlamaConfig::tensor_shapes`].
    pub tensors: BTreeMap<String, Tensor>,
}

/// A model's weights on disk, in one form or the other.
pub struct WeightsReader(Opened);

enum Opened {
    Folder {
        files: Vec<SafetensorsFile>,
        place: BTreeMap<String, usize>,
    },
    Gguf(Box<OpenedGguf>),
}

struct OpenedGguf {
    file: GgufFile,
    stored: BTreeMap<String, String>,
    config: LlamaConfig,
}

impl WeightsReader {
    /// One tensor by its Hugging Face name, dequantised, in Hugging Face's layout.
    ///
    /// # Errors
    /// When it cannot be read.
    ///
    /// # Panics
    /// If the configuration has no tensor of this name: opening has checked the others.
    pub fn tensor(&mut self, name: &str, dtype: DType) -> Result<Tensor, WeightsError> {
        let known = "opening has checked that every tensor of the configuration is there";
        match &mut self.0 {
            Opened::Folder { files, place } => {
                let number = *place.get(name).expect(known);
                files[number].tensor(name, dtype)
            }
            Opened::Gguf(opened) => {
                let OpenedGguf {
                    file,
                    stored,
                    config,
                } = &mut **opened;
                let tensor = file.tensor(stored.get(name).expect(known))?;
                gguf::to_hugging_face_layout(name, tensor, config)
                    .and_then(|tensor| tensor.to_dtype(dtype))
                    .map_err(|source| WeightsError::Tensor {
                        name: name.to_owned(),
                        source,
                    })
            }
        }
    }
}

impl WeightsReader {
    /// One tensor by its Hugging Face name, in Hugging Face's layout; a matrix in the numbers of the file
    /// where inference computes with them, all else as f32.
    pub(super) fn stored(&mut self, name: &str) -> Result<Stored, WeightsError> {
        let known = "opening has checked that every tensor of the configuration is there";
        match &mut self.0 {
            Opened::Folder { files, place } => {
                let number = *place.get(name).expect(known);
                files[number].stored(name)
            }
            Opened::Gguf(opened) => {
                let stored = opened.stored.get(name).expect(known);
                let matrix = opened.file.stored(stored)?;
                Ok(gguf::rows_to_hugging_face_layout(
                    name,
                    matrix,
                    &opened.config,
                ))
            }
        }
    }
}

/// Why weights cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// "read" or "write" or the like.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A GGUF file is none, or is damaged.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A safetensors file is shorter or longer than its header says.
    #[error("{} is cut short or overlong: its header promises {expected} bytes, the file has {found}; fetch it again", path.display())]
    WrongLength {
        /// The file.
        path: PathBuf,
        /// Bytes that header and tensors need.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// A safetensors file cannot be understood.
    #[error("{} is not a readable safetensors file: {reason}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The index of a sharded model cannot be understood.
    #[error("{} is not an index of safetensors shards: {reason}", path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Files named by the index are not there.
    #[error("{} lacks {} of the files that model.safetensors.index.json names: {}; fetch the folder again", folder.display(), missing.len(), missing.join(", "))]
    MissingShards {
        /// The model's folder.
        folder: PathBuf,
        /// Names of the absent files.
        missing: Vec<String>,
    },
    /// The folder holds no safetensors at all.
    #[error("{} holds neither model.safetensors nor model.safetensors.index.json{hint}", folder.display())]
    NoWeights {
        /// The model's folder.
        folder: PathBuf,
        /// What was found in their place.
        hint: &'static str,
    },
    /// The tensors are not those of the configuration.
    #[error("{} does not hold the weights that its configuration describes:{problems}\nconfiguration and weights are not of one model, or the files were cut or changed: fetch or convert the model again", path.display())]
    Mismatch {
        /// The file or folder.
        path: PathBuf,
        /// Every difference.
        problems: TensorProblems,
    },
    /// candle refused an operation on a tensor.
    #[error("tensor {name}: {source}")]
    Tensor {
        /// The tensor's name.
        name: String,
        /// candle's words.
        source: candle_core::Error,
    },
}

/// Every difference between the tensors found and those expected.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct TensorProblems {
    /// Expected and absent.
    pub missing: Vec<String>,
    /// Present and unknown.
    pub unexpected: Vec<String>,
    /// Name, shape expected, shape found.
    pub wrong_shape: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl std::fmt::Display for TensorProblems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A wrong layer count names hundreds of tensors; the first few tell the story.
        const SHOWN: usize = 12;
        let mut list = |title: &str, lines: Vec<String>| {
            if lines.is_empty() {
                return Ok(());
            }
            let more = match lines.len().saturating_sub(SHOWN) {
                0 => String::new(),
                n => format!(", and {n} more"),
            };
            let shown = lines[..lines.len().min(SHOWN)].join(", ");
            write!(f, "\n  - {title}: {shown}{more}")
        };
        list("missing", self.missing.clone())?;
        list("unexpected", self.unexpected.clone())?;
        list(
            "of the wrong shape",
            self.wrong_shape
                .iter()
                .map(|(name, expected, found)| {
                    format!("{name} (expected {expected:?}, found {found:?})")
                })
                .collect(),
        )
    }
}

impl TensorProblems {
    fn between(
        expected: &[(String, Vec<usize>)],
        found: &BTreeMap<String, Vec<usize>>,
    ) -> Option<Self> {
        let mut problems = Self::default();
        let mut known = BTreeSet::new();
        for (name, shape) in expected {
            known.insert(name.as_str());
            match found.get(name) {
                None => problems.missing.push(name.clone()),
                Some(other) if other != shape => {
                    problems
                        .wrong_shape
                        .push((name.clone(), shape.clone(), other.clone()));
                }
                Some(_) => {}
            }
        }
        problems.unexpected = found
            .keys()
            .filter(|name| !known.contains(name.as_str()))
            .cloned()
            .collect();
        (problems != Self::default()).then_some(problems)
    }
}

impl Weights {
    /// Loads a Hugging Face folder (safetensors, one file or shards; f32, f16 or bf16) or a GGUF
    /// file (dequantised, queries and keys in Hugging Face's layout) as f32 on the CPU.
    ///
    /// Names and shapes of all tensors are checked against `config` before any is read.
    pub fn load(path: &Path, config: &LlamaConfig) -> Result<Self, WeightsError> {
        Self::load_as(path, config, DType::F32)
    }

    /// Like [`Weights::load`] with another element type.
    pub fn load_as(path: &Path, config: &LlamaConfig, dtype: DType) -> Result<Self, WeightsError> {
        let mut reader = Self::reader(path, config)?;
        let mut tensors = BTreeMap::new();
        for (name, _) in config.tensor_shapes() {
            let tensor = reader.tensor(&name, dtype)?;
            tensors.insert(name, tensor);
        }
        Ok(Self { tensors })
    }

    /// Opens the files of a model, to read its tensors one at a time.
    ///
    /// # Errors
    /// As [`Weights::load`].
    pub fn reader(path: &Path, config: &LlamaConfig) -> Result<WeightsReader, WeightsError> {
        Ok(WeightsReader(if path.is_dir() {
            let (files, place) = Self::survey_folder(path, config)?;
            Opened::Folder { files, place }
        } else {
            let file = GgufFile::open(path)?;
            let stored = Self::survey_gguf(&file, config)?;
            Opened::Gguf(Box::new(OpenedGguf {
                file,
                stored,
                config: config.clone(),
            }))
        }))
    }

    /// Checks that all tensors are there in the right shapes, without reading any of them.
    ///
    /// # Errors
    /// As [`Weights::load`].
    pub fn check(path: &Path, config: &LlamaConfig) -> Result<(), WeightsError> {
        if path.is_dir() {
            Self::survey_folder(path, config).map(drop)
        } else {
            Self::survey_gguf(&GgufFile::open(path)?, config).map(drop)
        }
    }

    /// Opens the files of a folder, and says which of them has each tensor.
    fn survey_folder(
        folder: &Path,
        config: &LlamaConfig,
    ) -> Result<(Vec<SafetensorsFile>, BTreeMap<String, usize>), WeightsError> {
        let files = weight_files(folder)?
            .iter()
            .map(|path| SafetensorsFile::open(path))
            .collect::<Result<Vec<_>, _>>()?;
        let mut found = BTreeMap::new();
        let mut place = BTreeMap::new();
        for (number, file) in files.iter().enumerate() {
            for (name, shape) in file.shapes() {
                if is_ignored(&name, config) {
                    continue;
                }
                place.insert(name.clone(), number);
                found.insert(name, shape);
            }
        }
        check(folder, config, &found)?;
        Ok((files, place))
    }

    /// Hugging Face's name of each tensor of a GGUF file, with the name that it has there.
    fn survey_gguf(
        file: &GgufFile,
        config: &LlamaConfig,
    ) -> Result<BTreeMap<String, String>, WeightsError> {
        let mut found = BTreeMap::new();
        let mut stored = BTreeMap::new();
        for name in file.tensor_names().filter(|n| *n != "rope_freqs.weight") {
            let ours = gguf::hugging_face_name(name).unwrap_or_else(|| name.to_owned());
            let shape = file.tensor_shape(name).unwrap_or_default().to_vec();
            found.insert(ours.clone(), shape);
            stored.insert(ours, name.to_owned());
        }
        check(file.path(), config, &found)?;
        Ok(stored)
    }

    /// Weights drawn from N(0, 0.02), norms at one: for tests, plans and training from nothing.
    ///
    /// Each tensor depends on `seed` and its own place only.
    pub fn random(config: &LlamaConfig, seed: u64) -> Self {
        let tensors = config
            .tensor_shapes()
            .into_iter()
            .enumerate()
            .map(|(stream, (name, shape))| {
                let count = shape.iter().product();
                let values = if shape.len() == 1 {
                    vec![1.0; count]
                } else {
                    normal(seed, stream as u64, count, 0.02)
                };
                let tensor = Tensor::from_vec(values, shape, &Device::Cpu)
                    .expect("the vector was made for this shape");
                (name, tensor)
            })
            .collect();
        Self { tensors }
    }

    /// A tensor by its Hugging Face name.
    ///
    /// # Panics
    /// If there is none: loading has checked that every name of the configuration is present.
    pub fn get(&self, name: &str) -> &Tensor {
        self.tensors
            .get(name)
            .unwrap_or_else(|| panic!("weights hold no tensor named {name}"))
    }

    /// The output head: `lm_head.weight`, or the embedding matrix where they are tied.
    pub fn head(&self) -> &Tensor {
        self.tensors
            .get("lm_head.weight")
            .unwrap_or_else(|| self.get("model.embed_tokens.weight"))
    }

    /// Writes the weights and `config.json` into `folder`, as elements of `dtype` (f32, f16 or bf16).
    ///
    /// One `model.safetensors`, or shards of at most 5 GB with an index. Each file is written under
    /// a temporary name, flushed to disk and renamed, `config.json` last: a folder that has it is whole.
    pub fn save_hf(
        &self,
        folder: &Path,
        config: &LlamaConfig,
        dtype: DType,
    ) -> Result<(), WeightsError> {
        self.save_hf_in_shards(folder, config, dtype, MAX_SHARD_BYTES)
    }

    pub(super) fn save_hf_in_shards(
        &self,
        folder: &Path,
        config: &LlamaConfig,
        dtype: DType,
        max_shard_bytes: usize,
    ) -> Result<(), WeightsError> {
        let torch_dtype = match dtype {
            DType::F32 => "float32",
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            other => {
                return Err(WeightsError::Safetensors {
                    path: folder.to_owned(),
                    reason: format!("cannot write {other:?}, expected F32, F16 or BF16"),
                });
            }
        };
        let shapes = self
            .tensors
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.dims().to_vec()))
            .collect();
        check(folder, config, &shapes)?;
        std::fs::create_dir_all(folder).map_err(|source| WeightsError::Io {
            action: "create",
            path: folder.to_owned(),
            source,
        })?;

        let bytes = |tensor: &Tensor| tensor.elem_count() * dtype.size_in_bytes();
        let mut shards: Vec<Vec<&str>> = vec![Vec::new()];
        let mut filled = 0;
        for (name, tensor) in &self.tensors {
            if filled > 0 && filled + bytes(tensor) > max_shard_bytes {
                shards.push(Vec::new());
                filled = 0;
            }
            filled += bytes(tensor);
            shards
                .last_mut()
                .expect("there is always an open shard")
                .push(name);
        }
        let count = shards.len();
        let mut weight_map = serde_json::Map::new();
        for (number, names) in shards.iter().enumerate() {
            let file = match count {
                1 => "model.safetensors".to_owned(),
                _ => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
            };
            let tensors: Vec<(&str, &Tensor)> =
                names.iter().map(|name| (*name, self.get(name))).collect();
            safetensors_file::write(&folder.join(&file), &tensors, dtype)?;
            for name in names {
                weight_map.insert((*name).to_owned(), file.clone().into());
            }
        }
        // A second save into the same folder must not leave the other layout's file to be found.
        let (index, single) = ("model.safetensors.index.json", "model.safetensors");
        if count > 1 {
            let total: usize = self.tensors.values().map(bytes).sum();
            let text = serde_json::json!({
                "metadata": {"total_size": total},
                "weight_map": weight_map,
            });
            write_json(&folder.join(index), &text)?;
            remove_if_present(&folder.join(single))?;
        } else {
            remove_if_present(&folder.join(index))?;
        }
        write_json(&folder.join("config.json"), &config.to_json(torch_dtype))
    }
}

/// The safetensors files of a Hugging Face folder.
pub fn weight_files(folder: &Path) -> Result<Vec<PathBuf>, WeightsError> {
    let single = folder.join("model.safetensors");
    if single.exists() {
        return Ok(vec![single]);
    }
    let index = folder.join("model.safetensors.index.json");
    if !index.exists() {
        let hint = if folder.join("pytorch_model.bin").exists()
            || folder.join("pytorch_model.bin.index.json").exists()
        {
            "; it holds pytorch_model.bin: save it again with transformers' save_pretrained(safe_serialization=True)"
        } else {
            "; expected a Hugging Face model folder"
        };
        return Err(WeightsError::NoWeights {
            folder: folder.to_owned(),
            hint,
        });
    }
    let text = std::fs::read_to_string(&index).map_err(|source| WeightsError::Io {
        action: "read",
        path: index.clone(),
        source,
    })?;
    let bad = |reason: String| WeightsError::Index {
        path: index.clone(),
        reason,
    };
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
    let map = value
        .get("weight_map")
        .and_then(|map| map.as_object())
        .ok_or_else(|| bad("it has no object \"weight_map\"".to_owned()))?;
    let names: BTreeSet<&str> = map.values().filter_map(|v| v.as_str()).collect();
    if let Some(name) = names.iter().find(|n| n.contains(['/', '\\'])) {
        return Err(bad(format!("\"{name}\" is not a plain file name")));
    }
    let missing: Vec<String> = names
        .iter()
        .filter(|name| !folder.join(name).exists())
        .map(|name| (*name).to_owned())
        .collect();
    if !missing.is_empty() {
        return Err(WeightsError::MissingShards {
            folder: folder.to_owned(),
            missing,
        });
    }
    Ok(names.iter().map(|name| folder.join(name)).collect())
}

/// Tensors that some folders carry and no computation needs.
fn is_ignored(name: &str, config: &LlamaConfig) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
        || (config.tie_word_embeddings && name == "lm_head.weight")
}

fn check(
    path: &Path,
    config: &LlamaConfig,
    found: &BTreeMap<String, Vec<usize>>,
) -> Result<(), WeightsError> {
    match TensorProblems::between(&config.tensor_shapes(), found) {
        None => Ok(()),
        Some(problems) => Err(WeightsError::Mismatch {
            path: path.to_owned(),
            problems,
        }),
    }
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<(), WeightsError> {
    let text = format!("{value:#}\n");
    super::durable::write(path, text.as_bytes()).map_err(|source| WeightsError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

fn remove_if_present(path: &Path) -> Result<(), WeightsError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(WeightsError::Io {
            action: "remove",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Normal deviates by the Box-Muller transform over a counter-based generator.
fn normal(seed: u64, stream: u64, count: usize, deviation: f64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(stream);
    let mut uniform = || (random.next_u32() as f64 + 0.5) / f64::from(u32::MAX);
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        let radius = deviation * (-2.0 * uniform().ln()).sqrt();
        let angle = std::f64::consts::TAU * uniform();
        values.push((radius * angle.cos()) as f32);
        values.push((radius * angle.sin()) as f32);
    }
    values.truncate(count);
    values
}

#[cfg(test)]
#[path = "weights_tests.rs"]
mod tests;
