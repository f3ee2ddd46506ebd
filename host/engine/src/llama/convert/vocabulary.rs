//! A Hugging Face tokenizer as the vocabulary of a GGUF file: the way back of
//! `tokenizer/from_gguf.rs`.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::gguf_writer::Value;
use crate::llama::{LlamaConfig, Tokenizer, tokenizer::LLAMA3_PATTERN};

/// GGUF's token types.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// The metadata of a tokenizer.
///
/// # Errors
/// What llama.cpp has no name for.
pub(super) fn metadata(
    tokenizer: &Tokenizer,
    config: &LlamaConfig,
) -> Result<Vec<(String, Value)>, String> {
    let json: Json = serde_json::from_str(tokenizer.json()).map_err(|e| e.to_string())?;
    let model = &json["model"];
    if model["type"] != "BPE" {
        return Err(format!(
            "its kind is {}, expected \"BPE\": llama.cpp knows it under other names",
            model["type"]
        ));
    }
    let pieces = model["byte_fallback"] == true;
    let tokens = tokens(&json, config.vocab_size, pieces)?;
    let merges = merges(model)?;
    let mut entries: Vec<(String, Value)> = Vec::new();
    let mut put = |key: &str, value: Value| {
        entries.push((format!("tokenizer.{key}"), value));
    };
    let kind = if pieces { "llama" } else { "gpt2" };
    put("ggml.model", Value::String(kind.to_owned()));
    if pieces {
        put("ggml.pre", Value::String("default".to_owned()));
        put("ggml.scores", Value::F32s(scores(&tokens, &merges)));
        put(
            "ggml.add_space_prefix",
            Value::Bool(adds_space(tokenizer).unwrap_or(true)),
        );
    } else {
        let pre = splitting(&json["pre_tokenizer"])?;
        put("ggml.pre", Value::String(pre.to_owned()));
        let merges = merges.iter().map(|(left, right)| format!("{left} {right}"));
        put("ggml.merges", Value::Strings(merges.collect()));
    }
    let (names, types) = tokens.into_iter().unzip();
    put("ggml.tokens", Value::Strings(names));
    put("ggml.token_type", Value::I32s(types));
    let begins = tokenizer.encode("a", true).ok().and_then(|ids| {
        let first = ids.first().copied();
        first.filter(|_| tokenizer.encode("a", false).is_ok_and(|bare| bare != ids))
    });
    put(
        "ggml.add_bos_token",
        Value::Bool(begins.is_some() && begins == config.bos_token_id),
    );
    let ends = config.eos_token_ids.iter().copied();
    let ends = [
        "ggml.eos_token_id",
        "ggml.eot_token_id",
        "ggml.eom_token_id",
    ]
    .into_iter()
    .zip(ends);
    ends.for_each(|(key, id)| put(key, Value::U32(id)));
    let named = |name: &str| tokenizer.token_id(tokenizer.special_token(name)?);
    for (key, id) in [
        ("ggml.bos_token_id", config.bos_token_id),
        ("ggml.padding_token_id", config.pad_token_id),
        ("ggml.unknown_token_id", named("unk_token")),
    ] {
        if let Some(id) = id {
            put(key, Value::U32(id));
        }
    }
    if let Some(template) = tokenizer.chat_template() {
        put("chat_template", Value::String(template.to_owned()));
    }
    Ok(entries)
}

/// Every token with its type, one for each row of the embedding matrix.
fn tokens(json: &Json, rows: usize, pieces: bool) -> Result<Vec<(String, i32)>, String> {
    let mut tokens: Vec<Option<(String, i32)>> = vec![None; rows];
    let mut place = |id: &Json, token: &str, kind: i32| {
        let row = id.as_u64().and_then(|id| tokens.get_mut(id as usize));
        let row = row.ok_or_else(|| format!("the token {token:?} has the id {id}, of {rows}"))?;
        *row = Some((token.to_owned(), kind));
        Ok::<(), String>(())
    };
    let vocabulary = json["model"]["vocab"].as_object();
    let vocabulary = vocabulary.ok_or("it has no vocabulary")?;
    let unknown = json["model"]["unk_token"].as_str();
    for (token, id) in vocabulary {
        let is_byte =
            pieces && token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
        let kind = match is_byte {
            true => BYTE,
            false if Some(token.as_str()) == unknown => UNKNOWN,
            false => NORMAL,
        };
        place(id, token, kind)?;
    }
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let token = added["content"].as_str().unwrap_or_default();
        let kind = match added["special"] == true {
            true if Some(token) == unknown => UNKNOWN,
            true => CONTROL,
            false => USER_DEFINED,
        };
        place(&added["id"], token, kind)?;
    }
    let tokens = tokens.into_iter().enumerate();
    Ok(tokens
        .map(|(id, token)| token.unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED)))
        .collect())
}

/// Pairs, in the order of the file.
fn merges(model: &Json) -> Result<Vec<(String, String)>, String> {
    let merges = model["merges"].as_array().ok_or("it has no merges")?;
    let pair = |merge: &Json| {
        let parts = match merge {
            Json::String(text) => text.split_once(' '),
            Json::Array(parts) => match parts.as_slice() {
                [left, right] => left.as_str().zip(right.as_str()),
                _ => None,
            },
            _ => None,
        };
        let (left, right) = parts.ok_or_else(|| format!("the merge {merge} is not two tokens"))?;
        Ok((left.to_owned(), right.to_owned()))
    };
    merges.iter().map(pair).collect()
}

/// SentencePiece joins whatever gives the highest score first: so a token's score follows from the
/// first merge that makes it. What no merge makes is never a result, and its score is never looked at.
fn scores(tokens: &[(String, i32)], merges: &[(String, String)]) -> Vec<f32> {
    let mut ranks: HashMap<String, usize> = HashMap::new();
    for (rank, (left, right)) in merges.iter().enumerate() {
        ranks.entry(format!("{left}{right}")).or_insert(rank);
    }
    let last = merges.len();
    tokens
        .iter()
        .map(|(token, kind)| match *kind {
            NORMAL => -(ranks.get(token).copied().unwrap_or(last) as f32),
            _ => 0.0,
        })
        .collect()
}

/// What llama.cpp calls the way in which a byte-level tokenizer splits texts before it merges.
fn splitting(pre_tokenizer: &Json) -> Result<&'static str, String> {
    let steps = match pre_tokenizer["type"].as_str() {
        Some("Sequence") => pre_tokenizer["pretokenizers"]
            .as_array()
            .cloned()
            .unwrap_or_default(),
        _ => vec![pre_tokenizer.clone()],
    };
    let kinds: Vec<&str> = steps
        .iter()
        .map(|step| step["type"].as_str().unwrap_or_default())
        .collect();
    match kinds.as_slice() {
        ["ByteLevel"] if steps[0]["use_regex"] != false => Ok("gpt-2"),
        ["Digits", "ByteLevel"] if steps[0]["individual_digits"] == true => Ok("smollm"),
        ["Split", "ByteLevel"] if steps[0]["pattern"]["Regex"] == LLAMA3_PATTERN => Ok("llama-bpe"),
        _ => Err(format!(
            "it splits texts by {}, a way that has no name here; known are those of GPT-2, SmolLM \
             and Llama 3, and SentencePiece's. Use llama.cpp's own converter on the folder",
            kinds.join(", ")
        )),
    }
}

/// Whether a space goes before every text.
fn adds_space(tokenizer: &Tokenizer) -> Option<bool> {
    let ids = tokenizer.encode("a", false).ok()?;
    let first = tokenizer.token(*ids.first()?)?;
    Some(first.starts_with('\u{2581}'))
}
