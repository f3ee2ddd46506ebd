//! A Hugging Face `tokenizer.json` from the vocabulary that a GGUF file carries.

use serde_json::{Map, Value, json};

use super::TokenizerError;
use super::document::{Parts, UNKNOWN, document, sentence_piece, vocabulary};
use crate::llama::gguf::GgufFile;

/// Llama 3's splitting pattern, as its `tokenizer.json` states it.
pub(in crate::llama) const LLAMA3_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What llama.cpp's converters have called it.
const LLAMA3_NAMES: [&str; 3] = ["llama-bpe", "llama3", "llama-v3"];

/// The contents of `tokenizer.json` and `tokenizer_config.json`.
pub(super) fn rebuild(file: &GgufFile) -> Result<(Value, Map<String, Value>), TokenizerError> {
    let unusable = |reason: String| TokenizerError::Unusable {
        path: file.path().to_owned(),
        reason,
    };
    let tokens = file
        .strings("tokenizer.ggml.tokens")
        .ok_or_else(|| unusable("the file has no list tokenizer.ggml.tokens".to_owned()))?;
    let types = file
        .integers("tokenizer.ggml.token_type")
        .unwrap_or_else(|| vec![1; tokens.len()]);
    if types.len() != tokens.len() {
        return Err(unusable(format!(
            "tokenizer.ggml.token_type has {} entries for {} tokens",
            types.len(),
            tokens.len()
        )));
    }
    let kind = file.string("tokenizer.ggml.model").unwrap_or_default();
    let pre = file
        .string("tokenizer.ggml.pre")
        .unwrap_or_else(|| "default".to_owned());
    let parts = match kind.as_str() {
        "gpt2" => byte_level(file, &tokens, &pre),
        "llama" => {
            let scores = file.floats("tokenizer.ggml.scores");
            let prefix = file.boolean("tokenizer.ggml.add_space_prefix");
            scores
                .filter(|scores| scores.len() == tokens.len())
                .map(|scores| {
                    let unknown = types.iter().position(|kind| *kind == UNKNOWN);
                    sentence_piece(&tokens, &types, &scores, unknown, prefix.unwrap_or(true))
                })
                .ok_or_else(|| {
                    "the list tokenizer.ggml.scores is missing or of another length than the tokens"
                        .to_owned()
                })
        }
        other => Err(format!(
            "tokenizer.ggml.model is \"{other}\", expected \"gpt2\" or \"llama\""
        )),
    }
    .map_err(unusable)?;

    let named = |key: &str| {
        file.integer(key)
            .and_then(|id| Some((id, tokens.get(usize::try_from(id).ok()?)?.clone())))
    };
    let bos = named("tokenizer.ggml.bos_token_id");
    // Where the file is silent, llama.cpp begins every text of these two kinds with the first token.
    let starts_with_bos = file
        .boolean("tokenizer.ggml.add_bos_token")
        .unwrap_or(kind == "llama" || LLAMA3_NAMES.contains(&pre.as_str()));
    let first = bos.as_ref().filter(|_| starts_with_bos);
    let first = first.map(|(id, token)| (*id, token.as_str()));
    let json = document(&tokens, &types, parts, first);

    let mut config = Map::new();
    config.insert(
        "tokenizer_class".to_owned(),
        json!("PreTrainedTokenizerFast"),
    );
    config.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
    if let Some(length) = file.integer("llama.context_length") {
        config.insert("model_max_length".to_owned(), json!(length));
    }
    for (name, key) in [
        ("bos_token", "tokenizer.ggml.bos_token_id"),
        ("eos_token", "tokenizer.ggml.eos_token_id"),
        ("unk_token", "tokenizer.ggml.unknown_token_id"),
        ("pad_token", "tokenizer.ggml.padding_token_id"),
    ] {
        if let Some((_, token)) = named(key) {
            config.insert(name.to_owned(), json!(token));
        }
    }
    Ok((json, config))
}

fn byte_level(file: &GgufFile, tokens: &[String], pre: &str) -> Result<Parts, String> {
    let level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let (pre_tokenizer, ignore_merges) = match pre {
        "smollm" => (
            json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, level(true)]}),
            false,
        ),
        "gpt-2" => (level(true), false),
        name if LLAMA3_NAMES.contains(&name) => (
            json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": LLAMA3_PATTERN}, "behavior": "Isolated", "invert": false},
                level(false),
            ]}),
            true,
        ),
        other => {
            return Err(format!(
                "tokenizer.ggml.pre is \"{other}\", expected \"smollm\", \"gpt-2\" or \"llama-bpe\"; use the model's Hugging Face folder instead"
            ));
        }
    };
    let merges = file
        .strings("tokenizer.ggml.merges")
        .ok_or("the file has no list tokenizer.ggml.merges")?;
    let merges = merges
        .iter()
        .map(|merge| {
            merge
                .split_once(' ')
                .map(|(left, right)| json!([left, right]))
                .ok_or_else(|| format!("the merge \"{merge}\" is not two tokens"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Parts {
        normalizer: Value::Null,
        pre_tokenizer,
        decoder: level(true),
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": ignore_merges,
            "vocab": vocabulary(tokens),
            "merges": merges,
        }),
    })
}
