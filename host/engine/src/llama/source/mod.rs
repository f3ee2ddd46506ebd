//! Where a model comes from: a folder, a GGUF file, the embedded model, or a hub.

mod embedded;
mod files;
mod hub;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use candle_core::DType;
use sha2::{Digest, Sha256};

pub use crate::download::Progress;
pub use embedded::EmbeddedModel;
pub use files::{FileIdentity, ModelFiles};

use super::config::{ConfigError, LlamaConfig};
use super::tokenizer::{Tokenizer, TokenizerError};
use super::weights::{Weights, WeightsError, weight_files};

/// Where a model comes from, as manifests and commands spell it:
/// `path/to/folder`, `path/to/file.gguf`, `embedded:smollm2-135m-instruct`, `hf:owner/name[@revision]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// A Hugging Face folder or a GGUF file.
    Path(PathBuf),
    /// A small model that comes with the framework.
    Embedded(EmbeddedModel),
    /// A repository on a hub.
    Hub {
        /// "owner/name".
        repository: String,
        /// Branch, tag or commit; the main branch where absent.
        revision: Option<String>,
    },
}

/// Why a model cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The text names no source.
    #[error("\"{text}\" is not a model source: {reason}")]
    Parse {
        /// What was written.
        text: String,
        /// What is wrong and what to write.
        reason: String,
    },
    /// There is nothing at the path.
    #[error("there is no model at {}; expected a Hugging Face folder or a GGUF file", .0.display())]
    NoSuchPath(PathBuf),
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file is not the one that was meant.
    #[error("{} is not the file that {what} names: sha256 is {found}, expected {expected}; {next}", path.display())]
    WrongHash {
        /// The file.
        path: PathBuf,
        /// Who named it.
        what: String,
        /// The hash pinned in this program.
        expected: String,
        /// The file's hash.
        found: String,
        /// What to do.
        next: String,
    },
    /// Every way to get the embedded model failed.
    #[error("cannot get the model {model}; tried, in this order:\n  - {}\n{next}", tried.join("\n  - "))]
    Unavailable {
        /// The model.
        model: String,
        /// Each way and why it failed.
        tried: Vec<String>,
        /// What to do.
        next: String,
    },
    /// The hub could not serve the model.
    #[error("cannot fetch {repository} from the hub: {reason}")]
    Hub {
        /// "owner/name".
        repository: String,
        /// What happened, and what to do.
        reason: String,
    },
    /// The model's configuration is no good.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The model's weights are no good.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The model's tokenizer is no good.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Configuration and tokenizer do not belong together.
    #[error("{}: the tokenizer has {tokens} tokens, the model only {rows} embedding rows; they are not of one model; take the tokenizer's files from where the weights came from", path.display())]
    TokenizerTooLarge {
        /// The model.
        path: PathBuf,
        /// Tokens of the tokenizer.
        tokens: usize,
        /// Rows of the embedding matrix.
        rows: usize,
    },
    /// The weights alone are larger than the memory that there is.
    #[error(
        "{}: the weights take {needed_bytes} bytes of memory, {available_bytes} are available; free some, or take a smaller model or one of fewer bits (`pacos convert MODEL small.gguf --type q4_k_m`, on a machine that has room for it)",
        path.display()
    )]
    TooLarge {
        /// The model.
        path: PathBuf,
        /// Bytes of its weights as they are stored, which is the least that they take.
        needed_bytes: u64,
        /// Bytes that can be had.
        available_bytes: u64,
    },
}

/// Called now and then while a model is fetched.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress);

/// A model whose files are on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalModel {
    /// A Hugging Face folder or a GGUF file.
    pub path: PathBuf,
    /// Where it came from, for a person.
    pub origin: String,
    /// sha256 of the file, where finding it meant checking that.
    checked: Option<&'static str>,
}

/// A model in memory.
pub struct Model {
    /// Its shape.
    pub config: LlamaConfig,
    /// Its weights, f32 on the CPU.
    pub weights: Weights,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// sha256 in hexadecimal: of a GGUF file its own, of a folder that of the lines
    /// "sha256  name" of the files read, sorted by name.
    pub identity: String,
    /// Where it came from, for a person.
    pub origin: String,
}

impl FromStr for ModelSource {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let bad = |reason: String| SourceError::Parse {
            text: text.to_owned(),
            reason,
        };
        if let Some(name) = text.strip_prefix("embedded:") {
            return EmbeddedModel::named(name)
                .map(Self::Embedded)
                .ok_or_else(|| {
                    bad(format!(
                        "no embedded model is called \"{name}\", expected embedded:{}",
                        EmbeddedModel::Smollm2.name()
                    ))
                });
        }
        if let Some(rest) = text.strip_prefix("hf:") {
            let (repository, revision) = match rest.split_once('@') {
                Some((repository, revision)) => (repository, Some(revision)),
                None => (rest, None),
            };
            let plain = |s: &str| {
                !s.is_empty()
                    && s != "."
                    && s != ".."
                    && s.chars()
                        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
            };
            let valid = repository
                .split_once('/')
                .is_some_and(|(owner, name)| plain(owner) && plain(name))
                && revision.is_none_or(|r| !r.is_empty());
            if !valid {
                return Err(bad(
                    "expected hf:owner/name or hf:owner/name@revision".to_owned()
                ));
            }
            return Ok(Self::Hub {
                repository: repository.to_owned(),
                revision: revision.map(str::to_owned),
            });
        }
        if text.is_empty() {
            return Err(bad(
                "expected a folder, a GGUF file, embedded:NAME or hf:owner/name".to_owned(),
            ));
        }
        Ok(Self::Path(PathBuf::from(text)))
    }
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Embedded(model) => write!(f, "embedded:{}", model.name()),
            Self::Hub {
                repository,
                revision,
            } => match revision {
                Some(revision) => write!(f, "hf:{repository}@{revision}"),
                None => write!(f, "hf:{repository}"),
            },
        }
    }
}

impl ModelSource {
    /// Brings the model's files to this machine if they are not there yet. Blocks.
    pub fn fetch(&self, progress: OnProgress<'_>) -> Result<LocalModel, SourceError> {
        match self {
            Self::Path(path) => local(path),
            Self::Embedded(model) => embedded::fetch(*model, progress),
            Self::Hub {
                repository,
                revision,
            } => hub::fetch_model(repository, revision.as_deref(), progress),
        }
    }

    /// The model's configuration where it is known without fetching anything: read from a path, built in
    /// for an embedded model, that in the hub's cache or `None` for a hub.
    pub fn config_without_fetching(&self) -> Result<Option<LlamaConfig>, SourceError> {
        match self {
            Self::Path(path) => Ok(Some(LlamaConfig::load(&local(path)?.path)?)),
            Self::Embedded(model) => Ok(Some(model.config())),
            Self::Hub {
                repository,
                revision,
            } => hub::cached_config(repository, revision.as_deref())
                .map(|folder| LlamaConfig::load(&folder).map_err(SourceError::from))
                .transpose(),
        }
    }

    /// The model's configuration; a hub is asked for it if it is not there, and for nothing else.
    pub fn config_without_weights(&self) -> Result<LlamaConfig, SourceError> {
        match self {
            Self::Path(path) => Ok(LlamaConfig::load(&local(path)?.path)?),
            Self::Embedded(model) => Ok(model.config()),
            Self::Hub {
                repository,
                revision,
            } => {
                let folder = hub::fetch_config(repository, revision.as_deref())?;
                Ok(LlamaConfig::load(&folder)?)
            }
        }
    }

    /// Where the model's files are, if any are on this machine: of a hub's model some may be missing.
    pub fn path_without_fetching(&self) -> Option<PathBuf> {
        match self {
            Self::Path(path) => path.exists().then(|| path.clone()),
            Self::Embedded(model) => model.path().filter(|path| path.is_file()),
            Self::Hub {
                repository,
                revision,
            } => hub::cached_config(repository, revision.as_deref()),
        }
    }
}

/// A path in an environment variable; empty counts as absent.
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

fn local(path: &Path) -> Result<LocalModel, SourceError> {
    if !path.exists() {
        return Err(SourceError::NoSuchPath(path.to_owned()));
    }
    Ok(LocalModel {
        path: path.to_owned(),
        origin: path.display().to_string(),
        checked: None,
    })
}

/// Fetches a model if need be and reads all of it into memory. Blocks.
pub fn open(source: &ModelSource, progress: OnProgress<'_>) -> Result<Model, SourceError> {
    source.fetch(progress)?.open(progress)
}

impl LocalModel {
    /// Checks configuration, tokenizer, and that all weights are there, without reading them.
    ///
    /// # Errors
    /// As [`LocalModel::open`].
    pub fn check(&self) -> Result<(), SourceError> {
        let (config, _) = self.shape()?;
        Ok(Weights::check(&self.path, &config)?)
    }

    /// Configuration and tokenizer, which fit together.
    pub(super) fn shape(&self) -> Result<(LlamaConfig, Tokenizer), SourceError> {
        let mut config = LlamaConfig::load(&self.path)?;
        config.add_generation_eos(&self.path)?;
        let tokenizer = Tokenizer::load(&self.path)?;
        if tokenizer.vocab_size() > config.vocab_size {
            return Err(SourceError::TokenizerTooLarge {
                path: self.path.clone(),
                tokens: tokenizer.vocab_size(),
                rows: config.vocab_size,
            });
        }
        Ok((config, tokenizer))
    }

    /// Refuses weights that are larger as they are stored than the memory that there is.
    pub(super) fn fits(&self, available_bytes: Option<u64>) -> Result<(), SourceError> {
        let bytes = |path: &Path| path.metadata().map_or(0, |file| file.len());
        let needed_bytes = match self.path.is_dir() {
            false => bytes(&self.path),
            true => {
                let entries = std::fs::read_dir(&self.path)
                    .into_iter()
                    .flatten()
                    .flatten();
                // Other files of weights beside them are not read.
                let ours = |name: &str| name.starts_with("model") && name.ends_with(".safetensors");
                let weights = entries.filter(|entry| entry.file_name().to_str().is_some_and(ours));
                weights.map(|entry| bytes(&entry.path())).sum()
            }
        };
        match available_bytes {
            Some(available_bytes) if available_bytes < needed_bytes => Err(SourceError::TooLarge {
                path: self.path.clone(),
                needed_bytes,
                available_bytes,
            }),
            _ => Ok(()),
        }
    }

    /// sha256 of its files, as [`Model::identity`] defines it.
    pub(super) fn identity(&self, progress: OnProgress<'_>) -> Result<String, SourceError> {
        match self.checked {
            Some(sha256) => Ok(sha256.to_owned()),
            None => identity(&self.path, progress),
        }
    }

    /// Reads the model into memory: configuration, tokenizer, weights; and hashes its files.
    pub fn open(&self, progress: OnProgress<'_>) -> Result<Model, SourceError> {
        let (config, tokenizer) = self.shape()?;
        let weights = Weights::load(&self.path, &config)?;
        let identity = self.identity(progress)?;
        Ok(Model {
            config,
            weights,
            tokenizer,
            identity,
            origin: self.origin.clone(),
        })
    }
}

impl Model {
    /// Writes the model as a Hugging Face folder: weights as `dtype`, `config.json`, tokenizer and
    /// `generation_config.json`, in the layout that transformers reads and writes.
    pub fn save_hf(&self, folder: &Path, dtype: DType) -> Result<(), SourceError> {
        save_hf(folder, &self.config, &self.tokenizer, &self.weights, dtype)
    }
}

/// Writes the parts of a model as a Hugging Face folder: see [`Model::save_hf`].
pub(super) fn save_hf(
    folder: &Path,
    config: &LlamaConfig,
    tokenizer: &Tokenizer,
    weights: &Weights,
    dtype: DType,
) -> Result<(), SourceError> {
    // config.json comes last of all, as the sign that the folder is whole.
    tokenizer.save_hf(folder)?;
    config.save_generation_config(folder)?;
    weights.save_hf(folder, config, dtype)?;
    Ok(())
}

/// Files of a Hugging Face folder that are read beside the weights.
const CONFIGURATION: [&str; 5] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];

/// Those that are read in place of `tokenizer.json` where it is not there.
const SENTENCE_PIECE: [&str; 2] = ["tokenizer.model", "added_tokens.json"];

/// sha256 of a model's files, as [`Model::identity`] defines it.
pub fn identity(path: &Path, progress: OnProgress<'_>) -> Result<String, SourceError> {
    if !path.is_dir() {
        return sha256_of(path, progress);
    }
    let mut files = weight_files(path)?;
    let names = match path.join("tokenizer.json").exists() {
        true => CONFIGURATION.iter().chain(&[]),
        false => CONFIGURATION.iter().chain(&SENTENCE_PIECE),
    };
    for name in names {
        let file = path.join(name);
        if file.exists() {
            files.push(file);
        }
    }
    files.sort();
    let mut all = Sha256::new();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let line = format!("{}  {name}\n", sha256_of(&file, progress)?);
        all.update(line.as_bytes());
    }
    Ok(crate::digest::hex(&all.finalize()))
}

/// sha256 of a file, in hexadecimal.
fn sha256_of(path: &Path, progress: OnProgress<'_>) -> Result<String, SourceError> {
    let io = |source| SourceError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(io)?;
    let total = file.metadata().map_err(io)?.len();
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        let read = file.read(&mut buffer).map_err(io)?;
        if read == 0 {
            return Ok(crate::digest::hex(&hash.finalize()));
        }
        hash.update(&buffer[..read]);
        done += read as u64;
        progress(Progress {
            task: format!(
                "checking {}",
                path.file_name().unwrap_or_default().to_string_lossy()
            ),
            done,
            total: Some(total),
        });
    }
}
