//! Text to tokens and back, over the `tokenizers` crate, from Hugging Face folders and GGUF files.

mod bytes;
mod chat;
mod document;
mod from_gguf;
mod from_sentence_piece;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

pub use chat::ChatMessage;
pub(super) use from_gguf::LLAMA3_PATTERN;

use super::durable;
use super::gguf::{GgufError, GgufFile};

/// Why a tokenizer cannot be loaded, used or written.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// "read", "write", "create" or "remove".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A GGUF file is none, or is damaged.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The folder has no tokenizer.
    #[error(
        "{} holds neither tokenizer.json nor tokenizer.model; expected a Hugging Face model folder",
        folder.display()
    )]
    NoTokenizer {
        /// The model's folder.
        folder: PathBuf,
    },
    /// The tokenizer's data cannot be understood.
    #[error("the tokenizer in {} cannot be used: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong or unknown.
        reason: String,
    },
    /// A text could not be encoded or tokens decoded.
    #[error("the tokenizer cannot {action}: {reason}")]
    Coding {
        /// "encode this text" or "decode these tokens".
        action: &'static str,
        /// The library's words.
        reason: String,
    },
    /// The model was not made for chat.
    #[error(
        "this model has no chat template; ask it with a plain prompt, or name an instruction-tuned model"
    )]
    NoChatTemplate,
    /// The chat template failed on these messages.
    #[error("the model's chat template refuses these messages: {0}")]
    ChatTemplate(String),
}

/// A tokenizer with its special tokens and chat template.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The text of `tokenizer.json`, kept so that saving gives back what was read.
    json: String,
    /// The contents of `tokenizer_config.json`.
    config: Map<String, Value>,
    chat_template: Option<String>,
    token_bytes: Vec<Vec<u8>>,
    special: Vec<bool>,
}

impl Tokenizer {
    /// Loads the tokenizer of a Hugging Face folder or rebuilds that of a GGUF file.
    pub fn load(path: &Path) -> Result<Self, TokenizerError> {
        if path.is_dir() {
            Self::from_hf(path)
        } else {
            Self::from_gguf(&GgufFile::open(path)?)
        }
    }

    /// Loads `tokenizer.json`, or rebuilds it from SentencePiece's `tokenizer.model`; with
    /// `tokenizer_config.json` and `chat_template.jinja` where present.
    pub fn from_hf(folder: &Path) -> Result<Self, TokenizerError> {
        let config = read_table(&folder.join("tokenizer_config.json"))?;
        let template = match read_if_present(&folder.join("chat_template.jinja"))? {
            Some(text) => Some(text),
            None => template_of(config.get("chat_template")),
        };
        let path = folder.join("tokenizer.json");
        if let Some(json) = read_if_present(&path)? {
            return Self::from_parts(json, config, template, &path);
        }
        let path = folder.join("tokenizer.model");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(TokenizerError::NoTokenizer {
                    folder: folder.to_owned(),
                });
            }
            Err(source) => {
                return Err(TokenizerError::Io {
                    action: "read",
                    path,
                    source,
                });
            }
        };
        let added = read_table(&folder.join("added_tokens.json"))?;
        let (json, config) = from_sentence_piece::rebuild(&path, &bytes, &added, config)?;
        Self::from_parts(json.to_string(), config, template, &path)
    }

    /// Rebuilds the tokenizer that a GGUF file describes.
    ///
    /// Known kinds: `gpt2` (byte-level BPE) with the pre-tokenisers `smollm`, `gpt-2` and
    /// `llama-bpe`, and `llama` (SentencePiece BPE with byte fallback).
    pub fn from_gguf(file: &GgufFile) -> Result<Self, TokenizerError> {
        let (json, config) = from_gguf::rebuild(file)?;
        let template = file.string("tokenizer.chat_template");
        Self::from_parts(json.to_string(), config, template, file.path())
    }

    fn from_parts(
        json: String,
        config: Map<String, Value>,
        chat_template: Option<String>,
        path: &Path,
    ) -> Result<Self, TokenizerError> {
        let unusable = |reason: String| TokenizerError::Unusable {
            path: path.to_owned(),
            reason,
        };
        let inner: tokenizers::Tokenizer = json.parse().map_err(|e| unusable(format!("{e}")))?;
        let (token_bytes, special) = bytes::table(&inner, &json).map_err(unusable)?;
        Ok(Self {
            inner,
            json,
            config,
            chat_template,
            token_bytes,
            special,
        })
    }

    /// Number of token ids, special ones included. A model's `vocab_size` may be larger (padding rows).
    pub fn vocab_size(&self) -> usize {
        self.token_bytes.len()
    }

    /// Tokens of a text. Special tokens written in the text become themselves;
    /// `add_special_tokens` also adds what the model wants around every text (a first token, mostly).
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizerError> {
        self.inner
            .encode_fast(text, add_special_tokens)
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|e| TokenizerError::Coding {
                action: "encode this text",
                reason: e.to_string(),
            })
    }

    /// Text of tokens, as Hugging Face's `decode` gives it. Bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TokenizerError> {
        self.inner
            .decode(ids, skip_special_tokens)
            .map_err(|e| TokenizerError::Coding {
                action: "decode these tokens",
                reason: e.to_string(),
            })
    }

    /// The bytes that a token stands for; of a special token, its written form. Empty for unknown ids.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.token_bytes.get(id as usize).map_or(&[], Vec::as_slice)
    }

    /// Whether a token is a special one, which text decoding leaves out.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    /// The id of a token in its written form.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The written form of a named special token ("bos_token", "eos_token", "pad_token", "unk_token").
    pub fn special_token(&self, name: &str) -> Option<&str> {
        match self.config.get(name)? {
            Value::String(text) => Some(text),
            Value::Object(added) => added.get("content")?.as_str(),
            _ => None,
        }
    }

    /// The text of the chat template.
    pub(super) fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// The text of `tokenizer.json`.
    pub(super) fn json(&self) -> &str {
        &self.json
    }

    /// Whether the model has a chat template.
    pub fn has_chat_template(&self) -> bool {
        self.chat_template.is_some()
    }

    /// The same tokenizer with another chat template, a Jinja program, in place of its own.
    pub fn with_chat_template(mut self, template: String) -> Self {
        self.chat_template = Some(template);
        self
    }

    /// The written form of a token.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The prompt that the model's chat template makes of messages. With `add_generation_prompt` it ends
    /// where the assistant's answer begins. Encode it without adding special tokens.
    pub fn apply_chat_template(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
    ) -> Result<String, TokenizerError> {
        let template = self
            .chat_template
            .as_deref()
            .ok_or(TokenizerError::NoChatTemplate)?;
        chat::render(self, template, messages, add_generation_prompt)
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json` (with the chat template) so that
    /// transformers' `AutoTokenizer` loads them. A `chat_template.jinja` in the folder is removed:
    /// it would take precedence.
    pub fn save_hf(&self, folder: &Path) -> Result<(), TokenizerError> {
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            durable::write(&path, text.as_bytes()).map_err(|source| TokenizerError::Io {
                action: "write",
                path,
                source,
            })
        };
        std::fs::create_dir_all(folder).map_err(|source| TokenizerError::Io {
            action: "create",
            path: folder.to_owned(),
            source,
        })?;
        let mut config = self.config.clone();
        config
            .entry("tokenizer_class")
            .or_insert_with(|| json!("PreTrainedTokenizerFast"));
        if let Some(template) = &self.chat_template {
            config.insert("chat_template".to_owned(), json!(template));
        }
        // Read by every version of transformers, by vLLM, and by the converters of llama.cpp and
        // Ollama; the newer `chat_template.jinja` is not.
        let second = folder.join("chat_template.jinja");
        match std::fs::remove_file(&second) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(TokenizerError::Io {
                    action: "remove",
                    path: second,
                    source,
                });
            }
            _ => {}
        }
        write("tokenizer.json", &self.json)?;
        write(
            "tokenizer_config.json",
            &format!("{:#}\n", Value::Object(config)),
        )
    }
}

fn read_if_present(path: &Path) -> Result<Option<String>, TokenizerError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TokenizerError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

/// A JSON object, or an empty one where there is no file.
fn read_table(path: &Path) -> Result<Map<String, Value>, TokenizerError> {
    match read_if_present(path)? {
        None => Ok(Map::new()),
        Some(text) => serde_json::from_str(&text).map_err(|e| TokenizerError::Unusable {
            path: path.to_owned(),
            reason: e.to_string(),
        }),
    }
}

/// A chat template is a string, or a list of named ones of which "default" is meant.
fn template_of(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Array(list) => list
            .iter()
            .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))
            .and_then(|entry| entry.get("template")?.as_str())
            .map(str::to_owned),
        _ => None,
    }
}
