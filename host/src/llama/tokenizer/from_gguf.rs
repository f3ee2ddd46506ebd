//! A Hugging Face `tokenizer.json` from the vocabulary that a GGUF file carries.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::TokenizerError;
use crate::llama::gguf::GgufFile;

/// GGUF's token types: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const UNUSED: i64 = 5;
const BYTE: i64 = 6;

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
        "llama" => sentence_piece(file, &tokens, &types),
        other => Err(format!(
            "tokenizer.ggml.model is \"{other}\", expected \"gpt2\" or \"llama\""
        )),
    }
    .map_err(unusable)?;

    let added: Vec<Value> = tokens
        .iter()
        .zip(&types)
        .enumerate()
        .filter(|(_, (_, kind))| matches!(**kind, UNKNOWN | CONTROL | USER_DEFINED | UNUSED))
        .map(|(id, (token, kind))| {
            json!({
                "id": id,
                "content": token,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": *kind != USER_DEFINED,
            })
        })
        .collect();
    let named = |key: &str| {
        file.integer(key)
            .and_then(|id| Some((id, tokens.get(usize::try_from(id).ok()?)?.clone())))
    };
    let bos = named("tokenizer.ggml.bos_token_id");
    // Where the file is silent, llama.cpp begins every text of these two kinds with the first token.
    let starts_with_bos = file
        .boolean("tokenizer.ggml.add_bos_token")
        .unwrap_or(kind == "llama" || LLAMA3_NAMES.contains(&pre.as_str()));
    let post_processor = match &bos {
        Some((id, token)) if starts_with_bos => {
            json!({
                "type": "TemplateProcessing",
                "single": [
                    {"SpecialToken": {"id": token, "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}},
                ],
                "pair": [
                    {"SpecialToken": {"id": token, "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}},
                    {"SpecialToken": {"id": token, "type_id": 1}},
                    {"Sequence": {"id": "B", "type_id": 1}},
                ],
                "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
            })
        }
        _ => Value::Null,
    };
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer,
        "post_processor": post_processor,
        "decoder": parts.decoder,
        "model": parts.model,
    });

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

struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: Value,
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

/// SentencePiece's BPE: the order of merges is that of the scores of their results.
fn sentence_piece(file: &GgufFile, tokens: &[String], types: &[i64]) -> Result<Parts, String> {
    let scores = file
        .floats("tokenizer.ggml.scores")
        .filter(|scores| scores.len() == tokens.len())
        .ok_or("the list tokenizer.ggml.scores is missing or of another length than the tokens")?;
    let mergeable: HashMap<&str, usize> = tokens
        .iter()
        .enumerate()
        .filter(|(id, _)| !matches!(types[*id], UNKNOWN | CONTROL | USER_DEFINED | UNUSED | BYTE))
        .map(|(id, token)| (token.as_str(), id))
        .collect();
    let mut merges: Vec<(usize, usize, usize)> = Vec::new();
    for (token, id) in &mergeable {
        for (split, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(split);
            if let (Some(left), Some(right)) = (mergeable.get(left), mergeable.get(right)) {
                merges.push((*id, *left, *right));
            }
        }
    }
    merges.sort_by(|a, b| scores[b.0].total_cmp(&scores[a.0]).then_with(|| a.cmp(b)));
    let merges: Vec<Value> = merges
        .iter()
        .map(|(_, left, right)| json!([tokens[*left], tokens[*right]]))
        .collect();
    let unknown = types
        .iter()
        .position(|kind| *kind == UNKNOWN)
        .map(|id| tokens[id].clone());
    let space = "\u{2581}";
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": space});
    let prefix = file
        .boolean("tokenizer.ggml.add_space_prefix")
        .unwrap_or(true);
    let (normalizers, strip) = if prefix {
        (
            json!([{"type": "Prepend", "prepend": space}, replace]),
            json!([{"type": "Strip", "content": " ", "start": 1, "stop": 0}]),
        )
    } else {
        (json!([replace]), json!([]))
    };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": space}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    decoders.extend(strip.as_array().into_iter().flatten().cloned());
    Ok(Parts {
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Value::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": unknown,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": true,
            "ignore_merges": false,
            "vocab": vocabulary(tokens),
            "merges": merges,
        }),
    })
}

fn vocabulary(tokens: &[String]) -> Map<String, Value> {
    tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (token.clone(), json!(id)))
        .collect()
}
