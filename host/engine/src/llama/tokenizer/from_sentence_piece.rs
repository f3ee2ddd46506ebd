//! A Hugging Face `tokenizer.json` from SentencePiece's own file, `tokenizer.model`.
//!
//! The file is a protocol buffer: `ModelProto` in
//! <https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto>. Only BPE models
//! that leave texts as they are are read, which those of LLaMA 1 and 2 are.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::TokenizerError;
use super::document::{NORMAL, UNKNOWN, document, sentence_piece};

/// What the file says that a tokenizer needs.
#[derive(Debug, Default, PartialEq)]
struct ModelProto {
    pieces: Vec<Piece>,
    trainer: TrainerSpec,
    normalizer: NormalizerSpec,
}

#[derive(Debug, PartialEq)]
struct Piece {
    text: String,
    score: f32,
    kind: i64,
}

#[derive(Debug, PartialEq)]
struct TrainerSpec {
    model_type: i64,
    bos_id: i64,
    eos_id: i64,
    unk_id: i64,
    pad_id: i64,
}

#[derive(Debug, PartialEq)]
struct NormalizerSpec {
    has_charsmap: bool,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
}

// The values that the format gives to fields that are not written.
impl Default for TrainerSpec {
    fn default() -> Self {
        Self {
            model_type: 1,
            unk_id: 0,
            bos_id: 1,
            eos_id: 2,
            pad_id: -1,
        }
    }
}

impl Default for NormalizerSpec {
    fn default() -> Self {
        Self {
            has_charsmap: false,
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
        }
    }
}

/// `TrainerSpec.ModelType`.
const MODEL_TYPES: [&str; 4] = ["unigram", "BPE", "word", "char"];
const BPE: i64 = 2;

/// The contents of `tokenizer.json`, and of `tokenizer_config.json` with what was missing in it.
///
/// `added` are the tokens of `added_tokens.json`, which follow those of the file.
pub(super) fn rebuild(
    path: &Path,
    bytes: &[u8],
    added: &Map<String, Value>,
    mut config: Map<String, Value>,
) -> Result<(Value, Map<String, Value>), TokenizerError> {
    let unusable = |reason: String| TokenizerError::Unusable {
        path: path.to_owned(),
        reason,
    };
    let model = ModelProto::read(bytes).map_err(|reason| {
        unusable(format!(
            "it is no model of SentencePiece, or is damaged: {reason}"
        ))
    })?;
    model.check().map_err(unusable)?;
    let mut tokens: Vec<String> = model.pieces.iter().map(|p| p.text.clone()).collect();
    let mut types: Vec<i64> = model.pieces.iter().map(|p| p.kind).collect();
    let mut scores: Vec<f32> = model.pieces.iter().map(|p| p.score).collect();
    let mut later: Vec<(i64, &String)> = Vec::new();
    for (token, id) in added {
        let id = id
            .as_i64()
            .ok_or_else(|| unusable(format!("added_tokens.json has no number for \"{token}\"")))?;
        later.push((id, token));
    }
    later.sort_unstable();
    for (id, token) in later {
        let next = tokens.len() as i64;
        match id {
            id if id < next => {}
            id if id == next => {
                tokens.push(token.clone());
                types.push(UNKNOWN);
                scores.push(0.0);
            }
            _ => {
                return Err(unusable(format!(
                    "added_tokens.json gives \"{token}\" the number {id}, where {next} is the next"
                )));
            }
        }
    }
    let named = |id: i64| tokens.get(usize::try_from(id).ok()?).cloned();
    let bos = named(model.trainer.bos_id);
    let adds_bos = config.get("add_bos_token").and_then(Value::as_bool);
    let first = bos.as_deref().filter(|_| adds_bos.unwrap_or(true));
    let first = first.map(|token| (model.trainer.bos_id, token));
    let prefix = model.normalizer.add_dummy_prefix;
    let unknown = usize::try_from(model.trainer.unk_id).ok();
    let parts = sentence_piece(&tokens, &types, &scores, unknown, prefix);
    let json = document(&tokens, &types, parts, first);
    let special = [
        ("bos_token", model.trainer.bos_id),
        ("eos_token", model.trainer.eos_id),
        ("unk_token", model.trainer.unk_id),
        ("pad_token", model.trainer.pad_id),
    ];
    for (name, id) in special {
        if let Some(token) = named(id) {
            config.entry(name).or_insert(json!(token));
        }
    }
    // The class named there reads `tokenizer.model`, which is not written again.
    let fast = json!("PreTrainedTokenizerFast");
    config.insert("tokenizer_class".to_owned(), fast);
    Ok((json, config))
}

impl ModelProto {
    /// Refuses what the built tokenizer would do in another way.
    fn check(&self) -> Result<(), String> {
        let other = "; load it once with transformers' AutoTokenizer and save_pretrained";
        if self.trainer.model_type != BPE {
            let kind = usize::try_from(self.trainer.model_type - 1).ok();
            let kind = kind.and_then(|kind| MODEL_TYPES.get(kind));
            return Err(format!(
                "it is a model of kind {}, expected BPE{other}",
                kind.unwrap_or(&"unknown")
            ));
        }
        if self.normalizer.has_charsmap || self.normalizer.remove_extra_whitespaces {
            return Err(format!(
                "it changes texts before it cuts them, expected one that leaves them as they are{other}"
            ));
        }
        Ok(())
    }

    fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut model = Self::default();
        for field in fields(bytes) {
            match field? {
                (1, Field::Bytes(piece)) => model.pieces.push(Piece::read(piece)?),
                (2, Field::Bytes(spec)) => model.trainer = TrainerSpec::read(spec)?,
                (3, Field::Bytes(spec)) => model.normalizer = NormalizerSpec::read(spec)?,
                _ => {}
            }
        }
        match model.pieces.is_empty() {
            true => Err("it has no pieces".to_owned()),
            false => Ok(model),
        }
    }
}

impl Piece {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut piece = Self {
            text: String::new(),
            score: 0.0,
            kind: NORMAL,
        };
        for field in fields(bytes) {
            match field? {
                (1, Field::Bytes(text)) => {
                    piece.text = std::str::from_utf8(text)
                        .map_err(|_| "a piece is no UTF-8".to_owned())?
                        .to_owned();
                }
                (2, Field::Fixed32(bits)) => piece.score = f32::from_bits(bits),
                (3, Field::Number(kind)) => piece.kind = kind,
                _ => {}
            }
        }
        Ok(piece)
    }
}

impl TrainerSpec {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut spec = Self::default();
        for field in fields(bytes) {
            match field? {
                (3, Field::Number(value)) => spec.model_type = value,
                (40, Field::Number(id)) => spec.unk_id = id,
                (41, Field::Number(id)) => spec.bos_id = id,
                (42, Field::Number(id)) => spec.eos_id = id,
                (43, Field::Number(id)) => spec.pad_id = id,
                _ => {}
            }
        }
        Ok(spec)
    }
}

impl NormalizerSpec {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut spec = Self::default();
        for field in fields(bytes) {
            match field? {
                (2, Field::Bytes(map)) => spec.has_charsmap = !map.is_empty(),
                (3, Field::Number(value)) => spec.add_dummy_prefix = value != 0,
                (4, Field::Number(value)) => spec.remove_extra_whitespaces = value != 0,
                _ => {}
            }
        }
        Ok(spec)
    }
}

/// A field of a protocol buffer: <https://protobuf.dev/programming-guides/encoding/>.
enum Field<'a> {
    Number(i64),
    Fixed64,
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// The numbered fields of a message, in their order.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = Result<(u64, Field<'_>), String>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = next_field(&mut rest);
        if field.is_none() {
            rest = &[];
        }
        Some(field.ok_or_else(|| "it ends within a field".to_owned()))
    })
}

fn next_field<'a>(rest: &mut &'a [u8]) -> Option<(u64, Field<'a>)> {
    let key = varint(rest)?;
    let field = match key & 7 {
        0 => Field::Number(varint(rest)?.cast_signed()),
        1 => {
            rest.split_off(..8)?;
            Field::Fixed64
        }
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            Field::Bytes(rest.split_off(..length)?)
        }
        5 => Field::Fixed32(u32::from_le_bytes(rest.split_off(..4)?.try_into().ok()?)),
        _ => return None,
    };
    Some((key >> 3, field))
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *rest.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
