//! The writing of one completion: from each token's logits to the next token, to the text, to the answer.

use std::collections::BTreeSet;

use llguidance::Matcher;
use tokio::sync::{mpsc::UnboundedSender, oneshot};

use super::kernel::{Instructions, log_sum_exp};
use super::request::{Completion, CompletionRequest, FinishReason, GenerateError, TokenLogProb};
use super::sampler::{Sampler, penalize, top};
use super::text::AnswerText;
use crate::llama::tokenizer::Tokenizer;

/// A completion being written.
pub(super) struct Writing {
    prompt_tokens: usize,
    max_tokens: usize,
    sampler: Sampler,
    logit_bias: Vec<(u32, f32)>,
    matcher: Option<Matcher>,
    repetition_penalty: f32,
    /// Tokens that occurred, where there is a penalty on them.
    seen: BTreeSet<u32>,
    top_logprobs: Option<usize>,
    text: AnswerText,
    shared_tokens: usize,
    generated: Vec<u32>,
    logprobs: Vec<TokenLogProb>,
    reply: Option<oneshot::Sender<Result<Completion, GenerateError>>>,
}

impl Writing {
    pub(super) fn new(
        request: &CompletionRequest,
        prompt: &[u32],
        max_tokens: usize,
        matcher: Option<Matcher>,
        listener: Option<UnboundedSender<String>>,
        reply: oneshot::Sender<Result<Completion, GenerateError>>,
    ) -> Self {
        Self {
            prompt_tokens: prompt.len(),
            max_tokens,
            sampler: Sampler::new(request),
            logit_bias: request.logit_bias.iter().map(|(t, b)| (*t, *b)).collect(),
            matcher,
            repetition_penalty: request.repetition_penalty,
            seen: if request.repetition_penalty == 1.0 {
                BTreeSet::new()
            } else {
                prompt.iter().copied().collect()
            },
            top_logprobs: request.logprobs,
            text: AnswerText::new(&request.stop, listener),
            shared_tokens: 0,
            generated: Vec::new(),
            logprobs: Vec::new(),
            reply: Some(reply),
        }
    }

    /// Takes the logits after the last token; returns the next token to feed, or `None` at the end.
    pub(super) fn advance(&mut self, logits: &mut [f32], model: &ModelFacts<'_>) -> Option<u32> {
        match self.next(logits, model) {
            Ok(Turn::Goes(token)) => Some(token),
            Ok(Turn::Ends(reason)) => {
                self.finish(reason);
                None
            }
            Err(error) => {
                if let Some(reply) = self.reply.take() {
                    let _ = reply.send(Err(error));
                }
                None
            }
        }
    }

    fn next(&mut self, logits: &mut [f32], model: &ModelFacts<'_>) -> Result<Turn, GenerateError> {
        // Rows of the embedding without a token must never be chosen.
        let known = model.tokenizer.vocab_size().min(logits.len());
        let read = match self.top_logprobs {
            Some(_) => &logits[..],
            None => &logits[..known],
        };
        if !all_finite(read) {
            return Err(GenerateError::NotFinite {
                position: self.prompt_tokens + self.generated.len() - 1,
            });
        }
        let total = self
            .top_logprobs
            .map(|_| log_sum_exp(logits, model.instructions));
        let logits = &mut logits[..known];
        let before = self.top_logprobs.zip(total).map(|(count, total)| {
            let top = top(logits, count)
                .into_iter()
                .map(|(token, logit)| (token, f64::from(logit) - total))
                .collect();
            (total, logits.to_vec(), top)
        });
        penalize(logits, self.seen.iter().copied(), self.repetition_penalty);
        for (token, bias) in &self.logit_bias {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
        if let Some(matcher) = &mut self.matcher {
            let mask = matcher
                .compute_mask()
                .map_err(|e| GenerateError::Constraint(e.to_string()))?;
            for (id, logit) in logits.iter_mut().enumerate() {
                if !mask.is_allowed(id as u32) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        let Some(token) = self.sampler.sample(logits) else {
            return Err(GenerateError::Constraint(
                "no token of this model continues the text as it must; logit_bias may exclude the needed ones"
                    .to_owned(),
            ));
        };
        self.generated.push(token);
        if self.repetition_penalty != 1.0 {
            self.seen.insert(token);
        }
        if let Some((total, logits, top)) = before {
            self.logprobs.push(TokenLogProb {
                token,
                log_prob: f64::from(logits[token as usize]) - total,
                top,
            });
        }
        if model.eos_token_ids.contains(&token) {
            return Ok(Turn::Ends(FinishReason::Stop));
        }
        if !model.tokenizer.is_special(token) && self.text.push(model.tokenizer.token_bytes(token))
        {
            return Ok(Turn::Ends(FinishReason::Stop));
        }
        if let Some(matcher) = &mut self.matcher {
            matcher
                .consume_token(token)
                .map_err(|e| GenerateError::Constraint(e.to_string()))?;
            if matcher.is_stopped() {
                return if matcher.stop_reason().is_ok() {
                    Ok(Turn::Ends(FinishReason::Stop))
                } else {
                    Err(GenerateError::Constraint(
                        matcher
                            .get_error()
                            .unwrap_or_else(|| matcher.stop_reason().to_string()),
                    ))
                };
            }
        }
        if self.generated.len() >= self.max_tokens {
            return Ok(Turn::Ends(FinishReason::Length));
        }
        Ok(Turn::Goes(token))
    }

    fn finish(&mut self, finish_reason: FinishReason) {
        let Some(reply) = self.reply.take() else {
            return;
        };
        // The asker may have gone; then nobody is left to tell.
        let _ = reply.send(Ok(Completion {
            text: self.text.finish(),
            // One that was computed again may have shared more than its prompt.
            shared_tokens: self.shared_tokens.min(self.prompt_tokens),
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.generated.len(),
            tokens: std::mem::take(&mut self.generated),
            finish_reason,
            logprobs: self
                .top_logprobs
                .map(|_| std::mem::take(&mut self.logprobs)),
        }));
    }
}

impl Writing {
    /// Counts tokens whose keys and values another request had computed.
    pub(super) fn count_shared(&mut self, tokens: usize) {
        self.shared_tokens += tokens;
    }

    /// The request starts again from its first token.
    pub(super) fn forget_shared(&mut self) {
        self.shared_tokens = 0;
    }

    /// Whether it has been answered, or nobody waits for the answer.
    pub(super) fn is_abandoned(&self) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

enum Turn {
    Goes(u32),
    Ends(FinishReason),
}

/// What the decoding of every sequence needs to know of the model.
pub(super) struct ModelFacts<'a> {
    pub tokenizer: &'a Tokenizer,
    pub eos_token_ids: &'a [u32],
    pub vocab_size: usize,
    pub instructions: Instructions,
}

/// Whether no number is NaN or infinite.
pub(super) fn all_finite(numbers: &[f32]) -> bool {
    // Without an early end, so that it is done many numbers at a time.
    numbers
        .iter()
        .fold(true, |finite, number| finite & number.is_finite())
}
