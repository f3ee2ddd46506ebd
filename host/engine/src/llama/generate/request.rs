//! What can be asked of a model and what comes back.

use std::collections::BTreeMap;

use crate::llama::tokenizer::{ChatMessage, TokenizerError};

/// Text, tokens or a conversation to continue.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// A text, encoded with the special tokens that the model wants around every text.
    Text(String),
    /// Tokens, taken as they are.
    Tokens(Vec<u32>),
    /// A conversation, laid out by the model's chat template; the assistant answers.
    Chat(Vec<ChatMessage>),
}

/// What a completion must look like.
#[derive(Debug, Clone, PartialEq)]
pub enum Constraint {
    /// A JSON value that the schema accepts. Unless the schema says otherwise under `x-guidance`, the
    /// JSON is on one line, with ", " and ": " between its parts: small models lose themselves in
    /// free white space.
    JsonSchema(serde_json::Value),
    /// A text that the regular expression (Rust syntax) matches as a whole.
    Regex(String),
    /// A text of the grammar, in llguidance's variant of Lark.
    Lark(String),
}

/// A request for one completion.
///
/// Sampling goes in this order: `repetition_penalty`, `logit_bias`, constraint, `temperature`, `top_k`, `top_p`,
/// `min_p`.
#[derive(Debug, Clone, PartialEq)]
pub struct CompletionRequest {
    /// What to continue.
    pub prompt: Prompt,
    /// Most tokens to generate, the end token included; up to the context's end where absent, or as many as
    /// the engine's limit on keys and values leaves room for.
    pub max_tokens: Option<usize>,
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f32,
    /// Keep the likeliest tokens that together reach this probability (Holtzman et al., arXiv 1904.09751).
    pub top_p: f32,
    /// Keep this many likeliest tokens.
    pub top_k: Option<usize>,
    /// Keep tokens at least this likely relative to the likeliest (Nguyen et al., arXiv 2407.01082).
    pub min_p: f32,
    /// Divides the positive logits, and multiplies the negative ones, of tokens that the prompt or the answer
    /// holds already; 1 changes nothing (Keskar et al., arXiv 1909.05858, section 4.1, with the sign
    /// treated as transformers does).
    pub repetition_penalty: f32,
    /// Texts that end the completion; neither they nor what follows is returned.
    pub stop: Vec<String>,
    /// Seed of this request's own random numbers.
    pub seed: u64,
    /// Added to the logits of tokens.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Return log probabilities, with this many of the likeliest tokens at each place.
    pub logprobs: Option<usize>,
    /// What the completion must look like.
    pub constraint: Option<Constraint>,
}

impl CompletionRequest {
    /// A request with temperature 1, seed 0 and nothing else set.
    pub fn new(prompt: Prompt) -> Self {
        Self {
            prompt,
            max_tokens: None,
            temperature: 1.0,
            top_p: 1.0,
            top_k: None,
            min_p: 0.0,
            repetition_penalty: 1.0,
            stop: Vec::new(),
            seed: 0,
            logit_bias: BTreeMap::new(),
            logprobs: None,
            constraint: None,
        }
    }

    /// Every value that is out of its range.
    pub(super) fn problems(&self, vocab_size: usize) -> Vec<String> {
        let mut problems = Vec::new();
        let mut expect = |ok: bool, text: String| {
            if !ok {
                problems.push(text);
            }
        };
        expect(
            self.temperature.is_finite() && self.temperature >= 0.0,
            format!("temperature is {}, expected 0 or more", self.temperature),
        );
        expect(
            self.top_p > 0.0 && self.top_p <= 1.0,
            format!("top_p is {}, expected above 0 and at most 1", self.top_p),
        );
        expect(
            (0.0..=1.0).contains(&self.min_p),
            format!("min_p is {}, expected 0 to 1", self.min_p),
        );
        expect(
            self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0,
            format!(
                "repetition_penalty is {}, expected above 0",
                self.repetition_penalty
            ),
        );
        expect(
            self.top_k != Some(0),
            "top_k is 0, expected 1 or more".to_owned(),
        );
        expect(
            self.max_tokens != Some(0),
            "max_tokens is 0, expected 1 or more".to_owned(),
        );
        expect(
            self.stop.iter().all(|text| !text.is_empty()),
            "stop holds an empty text".to_owned(),
        );
        for (token, bias) in &self.logit_bias {
            expect(
                (*token as usize) < vocab_size && !bias.is_nan(),
                format!(
                    "logit_bias of token {token} is {bias}, expected a number for a token below {vocab_size}"
                ),
            );
        }
        problems
    }
}

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model's end token, a stop text, or the end of what the constraint allows.
    Stop,
    /// `max_tokens` or the context's end.
    Length,
}

/// A generated token and its log probability under the model, before bias, constraint and temperature.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogProb {
    /// The token.
    pub token: u32,
    /// Natural logarithm of its probability.
    pub log_prob: f64,
    /// The likeliest tokens at this place with theirs, likeliest first.
    pub top: Vec<(u32, f64)>,
}

/// One completion.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// The text, without special tokens and stop texts. Bytes that are no UTF-8 become U+FFFD.
    pub text: String,
    /// The tokens generated, the end token included.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt whose keys and values another request had computed. It depends on what else was
    /// asked; the answer does not.
    pub shared_tokens: usize,
    /// Tokens generated, the end token included.
    pub completion_tokens: usize,
    /// One entry a generated token, where asked for.
    pub logprobs: Option<Vec<TokenLogProb>>,
}

/// How likely a model finds an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogLikelihood {
    /// Sum of the natural logarithms of the answer's token probabilities.
    pub sum_log_prob: f64,
    /// Number of answer tokens.
    pub tokens: usize,
}

/// Why a model cannot answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GenerateError {
    /// Parameters out of range.
    #[error("the request cannot be run: {}", .0.join("; "))]
    Request(Vec<String>),
    /// The tokenizer refused the prompt.
    #[error("the prompt cannot be encoded: {0}")]
    Prompt(String),
    /// Nothing to continue.
    #[error("the prompt has no tokens; give at least one")]
    EmptyPrompt,
    /// A token that the model does not know.
    #[error("token {token} is outside the model's vocabulary of {vocab_size}")]
    UnknownToken {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// More tokens than the model can attend to.
    #[error("the request needs {prompt} tokens of prompt and {answer} of answer, {} in all; this model's context holds {context}; shorten the prompt or lower max_tokens", prompt + answer)]
    TooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens of the answer: those given, or `max_tokens`, or one.
        answer: usize,
        /// Tokens that fit.
        context: usize,
    },
    /// Keys and values for which the engine may never use so much memory.
    #[error(
        "the request needs {needed} bytes for the keys and values of {tokens} tokens; this engine may use {allowed} (kv_cache_bytes); shorten the prompt, lower max_tokens or raise the limit"
    )]
    TooLarge {
        /// Tokens whose keys and values the request needs: all but the last.
        tokens: usize,
        /// Bytes that they take, in whole pages.
        needed: u64,
        /// Bytes that the engine may use.
        allowed: u64,
    },
    /// The model computed NaN or infinity. Not the request's fault.
    #[error(
        "the model's logits after token {position} (counted from 0) are not finite: its weights hold numbers that are not finite, or the arithmetic overflowed; check the model's files, and convert or train it again"
    )]
    NotFinite {
        /// Which of the prompt's and answer's tokens, counted from 0.
        position: usize,
    },
    /// The constraint cannot be compiled, or cannot be followed.
    #[error("the constraint cannot be used: {0}")]
    Constraint(String),
    /// The model's weights cannot be arranged for inference.
    #[error("the model cannot be started: {0}")]
    Start(String),
    /// The decoding thread has ended.
    #[error("the model's decoding thread has ended; open the model again")]
    Stopped,
}

impl From<TokenizerError> for GenerateError {
    fn from(error: TokenizerError) -> Self {
        Self::Prompt(error.to_string())
    }
}
