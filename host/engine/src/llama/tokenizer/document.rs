//! A Hugging Face `tokenizer.json`, put together from a vocabulary that came in another form.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

/// Types of tokens, with the same numbers in GGUF
/// (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>) and in SentencePiece's models.
pub(super) const NORMAL: i64 = 1;
pub(super) const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const UNUSED: i64 = 5;
const BYTE: i64 = 6;

/// How texts become tokens and tokens texts, as `tokenizer.json` says it.
pub(super) struct Parts {
    pub normalizer: Value,
    pub pre_tokenizer: Value,
    pub decoder: Value,
    pub model: Value,
}

/// The whole of `tokenizer.json`; `first` is the token that begins every text, if there is one.
pub(super) fn document(
    tokens: &[String],
    types: &[i64],
    parts: Parts,
    first: Option<(i64, &str)>,
) -> Value {
    let added: Vec<Value> = tokens
        .iter()
        .zip(types)
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
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer,
        "post_processor": begins_with(first),
        "decoder": parts.decoder,
        "model": parts.model,
    })
}

fn begins_with(first: Option<(i64, &str)>) -> Value {
    let Some((id, token)) = first else {
        return Value::Null;
    };
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

/// SentencePiece's BPE: the order of merges is that of the scores of their results.
pub(super) fn sentence_piece(
    tokens: &[String],
    types: &[i64],
    scores: &[f32],
    unknown: Option<usize>,
    prefix: bool,
) -> Parts {
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
    let unknown = unknown.and_then(|id| tokens.get(id));
    let space = "\u{2581}";
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": space});
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
    Parts {
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
    }
}

pub(super) fn vocabulary(tokens: &[String]) -> Map<String, Value> {
    tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (token.clone(), json!(id)))
        .collect()
}
