//! Constrained decoding: which tokens may come next, by llguidance.

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use super::request::{Constraint, GenerateError};
use crate::llama::tokenizer::Tokenizer;

/// Turns constraints into matchers over one model's tokens.
pub(super) struct ConstraintCompiler {
    factory: ParserFactory,
}

impl ConstraintCompiler {
    /// `vocab_size` is the model's, which may have rows without a token; they are never allowed.
    pub(super) fn new(
        tokenizer: &Tokenizer,
        vocab_size: usize,
        eos_token_ids: &[u32],
    ) -> Result<Self, String> {
        let eos = *eos_token_ids.first().ok_or(
            "the model's configuration names no end token, without which no constrained text can end",
        )?;
        let words: Vec<Vec<u8>> = (0..vocab_size as u32)
            .map(|id| {
                let bytes = tokenizer.token_bytes(id);
                if tokenizer.is_special(id) {
                    // llguidance marks special tokens so that no text can spell them.
                    [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat()
                } else {
                    bytes.to_vec()
                }
            })
            .collect();
        let trie = TokTrie::from(&TokRxInfo::new(vocab_size as u32, eos), &words);
        let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&tokens).map_err(|e| e.to_string())?;
        factory.quiet();
        Ok(Self { factory })
    }

    pub(super) fn compile(&self, constraint: &Constraint) -> Result<Matcher, GenerateError> {
        let grammar = match constraint {
            Constraint::JsonSchema(schema) => {
                TopLevelGrammar::from_json_schema(on_one_line(schema.clone()))
            }
            Constraint::Regex(pattern) => TopLevelGrammar::from_regex(pattern),
            Constraint::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
        };
        let matcher = Matcher::new(self.factory.create_parser(grammar));
        match matcher.get_error() {
            Some(reason) => Err(GenerateError::Constraint(reason)),
            None => Ok(matcher),
        }
    }
}

fn on_one_line(mut schema: Value) -> Value {
    if let Value::Object(map) = &mut schema {
        map.entry("x-guidance").or_insert_with(|| {
            json!({
                "whitespace_flexible": false,
                "item_separator": ", ",
                "key_separator": ": ",
            })
        });
    }
    schema
}
