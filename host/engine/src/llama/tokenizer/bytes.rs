//! The bytes behind every token, which constrained decoding and exact text output need.

use std::collections::HashMap;

use serde_json::Value;

/// Bytes and specialness of every token id, or why the tokenizer's kind is unknown.
pub(super) fn table(
    inner: &tokenizers::Tokenizer,
    json: &str,
) -> Result<(Vec<Vec<u8>>, Vec<bool>), String> {
    let json: Value = serde_json::from_str(json).map_err(|e| e.to_string())?;
    let decoder = json.get("decoder").unwrap_or(&Value::Null);
    let spelling = if mentions(decoder, "ByteLevel") {
        Spelling::ByteLevel(byte_of_char())
    } else if mentions(decoder, "ByteFallback") {
        Spelling::SentencePiece
    } else {
        return Err(
            "its decoder is neither byte-level nor SentencePiece with byte fallback, the two kinds of the LLaMA family"
                .to_owned(),
        );
    };
    let size = inner
        .get_vocab(true)
        .values()
        .max()
        .map_or(0, |id| *id as usize + 1);
    let added = inner.get_added_tokens_decoder();
    let mut bytes = vec![Vec::new(); size];
    let mut special = vec![false; size];
    for (token, id) in inner.get_vocab(true) {
        let place = id as usize;
        match added.get(&id) {
            Some(token) => {
                bytes[place] = token.content.clone().into_bytes();
                special[place] = token.special;
            }
            None => bytes[place] = spelling.bytes(&token),
        }
    }
    Ok((bytes, special))
}

fn mentions(decoder: &Value, kind: &str) -> bool {
    match decoder {
        Value::Object(map) => {
            map.get("type").and_then(Value::as_str) == Some(kind)
                || map.get("decoders").is_some_and(|list| mentions(list, kind))
        }
        Value::Array(list) => list.iter().any(|part| mentions(part, kind)),
        _ => false,
    }
}

enum Spelling {
    ByteLevel(HashMap<char, u8>),
    SentencePiece,
}

impl Spelling {
    fn bytes(&self, token: &str) -> Vec<u8> {
        match self {
            Self::ByteLevel(table) => token
                .chars()
                .map(|c| table.get(&c).copied())
                .collect::<Option<Vec<u8>>>()
                .unwrap_or_else(|| token.as_bytes().to_vec()),
            Self::SentencePiece => match byte_token(token) {
                Some(byte) => vec![byte],
                None => token.replace('\u{2581}', " ").into_bytes(),
            },
        }
    }
}

/// The byte of a SentencePiece fallback token such as `<0x0A>`.
fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// GPT-2's printable alphabet for bytes, inverted: printable Latin-1 stands for itself, the 68 other
/// bytes for the characters from U+0100 on, in order.
fn byte_of_char() -> HashMap<char, u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100;
    (0..=255u8)
        .map(|byte| {
            let c = if printable(byte) {
                char::from(byte)
            } else {
                next += 1;
                char::from_u32(next - 1).expect("U+0100 to U+0143 are characters")
            };
            (c, byte)
        })
        .collect()
}
