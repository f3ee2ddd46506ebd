//! Continuous batching: the thread that decodes all running requests together.
//!
//! Each turn feeds one token of every sequence that is generating, and a share of the prompts of those
//! that are not there yet. Requests enter and leave between turns (Yu et al., Orca, OSDI 2022).

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, TryRecvError};

use llguidance::Matcher;
use rayon::prelude::*;
use tokio::sync::oneshot;

use super::engine::EngineOptions;
use super::forward::{Decoder, KvCache, Step};
use super::kernel::{Instructions, log_sum_exp};
use super::request::{
    Completion, CompletionRequest, FinishReason, GenerateError, LogLikelihood, TokenLogProb,
};
use super::sampler::{Sampler, top};
use crate::llama::tokenizer::Tokenizer;

/// A checked request on its way to the decoding thread.
pub(super) struct Job {
    /// All tokens known beforehand: the prompt, and the answer where it is to be scored.
    pub tokens: Vec<u32>,
    pub work: Work,
}

pub(super) enum Work {
    Complete(Box<Writing>),
    Score {
        prompt: usize,
        sum_log_prob: f64,
        reply: Option<oneshot::Sender<LogLikelihood>>,
    },
}

/// A completion being written.
pub(super) struct Writing {
    prompt_tokens: usize,
    max_tokens: usize,
    sampler: Sampler,
    logit_bias: Vec<(u32, f32)>,
    matcher: Option<Matcher>,
    stop: Vec<Vec<u8>>,
    top_logprobs: Option<usize>,
    text: Vec<u8>,
    generated: Vec<u32>,
    logprobs: Vec<TokenLogProb>,
    reply: Option<oneshot::Sender<Result<Completion, GenerateError>>>,
}

impl Writing {
    pub(super) fn new(
        request: &CompletionRequest,
        prompt_tokens: usize,
        max_tokens: usize,
        matcher: Option<Matcher>,
        reply: oneshot::Sender<Result<Completion, GenerateError>>,
    ) -> Self {
        Self {
            prompt_tokens,
            max_tokens,
            sampler: Sampler::new(request),
            logit_bias: request.logit_bias.iter().map(|(t, b)| (*t, *b)).collect(),
            matcher,
            stop: request
                .stop
                .iter()
                .map(|s| s.clone().into_bytes())
                .collect(),
            top_logprobs: request.logprobs,
            text: Vec::new(),
            generated: Vec::new(),
            logprobs: Vec::new(),
            reply: Some(reply),
        }
    }

    /// Takes the logits after the last token; returns the next token to feed, or `None` at the end.
    fn advance(&mut self, logits: &mut [f32], model: &ModelFacts<'_>) -> Option<u32> {
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
        let total = self
            .top_logprobs
            .map(|_| log_sum_exp(logits, model.instructions));
        // Rows of the embedding without a token must never be chosen.
        let known = model.tokenizer.vocab_size().min(logits.len());
        let logits = &mut logits[..known];
        let before = self.top_logprobs.zip(total).map(|(count, total)| {
            let top = top(logits, count)
                .into_iter()
                .map(|(token, logit)| (token, f64::from(logit) - total))
                .collect();
            (total, logits.to_vec(), top)
        });
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
        let already = self.text.len();
        if !model.tokenizer.is_special(token) {
            self.text
                .extend_from_slice(model.tokenizer.token_bytes(token));
        }
        if let Some(place) = first_stop(&self.text, already, &self.stop) {
            self.text.truncate(place);
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
        // A text cut by length may end inside a character, of which nothing can be shown.
        if let Err(e) = std::str::from_utf8(&self.text)
            && e.error_len().is_none()
        {
            self.text.truncate(e.valid_up_to());
        }
        // The asker may have gone; then nobody is left to tell.
        let _ = reply.send(Ok(Completion {
            text: String::from_utf8_lossy(&self.text).into_owned(),
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

enum Turn {
    Goes(u32),
    Ends(FinishReason),
}

/// Where the earliest stop text begins that the text holds past `already`, or that crosses it.
fn first_stop(text: &[u8], already: usize, stops: &[Vec<u8>]) -> Option<usize> {
    stops
        .iter()
        .filter_map(|stop| {
            let from = (already + 1).saturating_sub(stop.len());
            text[from..]
                .windows(stop.len())
                .position(|window| window == stop)
                .map(|place| from + place)
        })
        .min()
}

/// What the decoding of every sequence needs to know of the model.
struct ModelFacts<'a> {
    tokenizer: &'a Tokenizer,
    eos_token_ids: &'a [u32],
    vocab_size: usize,
    instructions: Instructions,
}

/// A request with its place in the batch.
struct Sequence {
    cache: KvCache,
    /// Tokens not yet fed.
    pending: VecDeque<u32>,
    work: Work,
    all: Vec<u32>,
}

impl Sequence {
    fn is_abandoned(&self) -> bool {
        match &self.work {
            Work::Complete(writing) => writing.reply.as_ref().is_none_or(|r| r.is_closed()),
            Work::Score { reply, .. } => reply.as_ref().is_none_or(|r| r.is_closed()),
        }
    }

    /// How many of the last of `fed` tokens want logits.
    fn wanted(&self, fed: usize) -> usize {
        let end = self.cache.positions() + fed;
        match &self.work {
            Work::Complete(_) => usize::from(fed == self.pending.len()),
            // The logits at position i speak of the token at i + 1.
            Work::Score { prompt, .. } => {
                end.saturating_sub(self.cache.positions().max(prompt - 1))
            }
        }
    }

    /// Takes the logits of the tokens just fed.
    fn take(&mut self, logits: &mut [f32], model: &ModelFacts<'_>) {
        let positions = self.cache.positions();
        match &mut self.work {
            Work::Complete(writing) => {
                if let Some(token) = writing.advance(logits, model) {
                    self.pending.push_back(token);
                }
            }
            Work::Score {
                prompt,
                sum_log_prob,
                reply,
            } => {
                let rows = logits.len() / model.vocab_size;
                for (row, position) in logits
                    .chunks_exact(model.vocab_size)
                    .zip(positions - rows..positions)
                {
                    let target = self.all[position + 1] as usize;
                    *sum_log_prob += f64::from(row[target]) - log_sum_exp(row, model.instructions);
                }
                if self.pending.is_empty()
                    && let Some(reply) = reply.take()
                {
                    // The asker may have gone; then nobody is left to tell.
                    let _ = reply.send(LogLikelihood {
                        sum_log_prob: *sum_log_prob,
                        tokens: self.all.len() - *prompt,
                    });
                }
            }
        }
    }
}

/// Decodes until every sender is gone. Runs inside the engine's thread pool.
pub(super) fn run(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    eos_token_ids: &[u32],
    vocab_size: usize,
    options: &EngineOptions,
    jobs: &Receiver<Job>,
) {
    let model = ModelFacts {
        tokenizer,
        eos_token_ids,
        vocab_size,
        instructions: decoder.instructions(),
    };
    let mut active: Vec<Sequence> = Vec::with_capacity(options.max_batch);
    loop {
        active.retain(|sequence| !sequence.is_abandoned());
        while active.len() < options.max_batch {
            let job = if active.is_empty() {
                match jobs.recv() {
                    Ok(job) => job,
                    Err(_) => return,
                }
            } else {
                match jobs.try_recv() {
                    Ok(job) => job,
                    Err(TryRecvError::Empty) => break,
                    // Nobody is left to hear an answer.
                    Err(TryRecvError::Disconnected) => return,
                }
            };
            // Of an answer to be scored the last token is only looked for, never fed.
            let fed = match job.work {
                Work::Complete(_) => job.tokens.len(),
                Work::Score { .. } => job.tokens.len() - 1,
            };
            let sequence = Sequence {
                cache: decoder.new_cache(),
                pending: job.tokens[..fed].iter().copied().collect(),
                work: job.work,
                all: job.tokens,
            };
            if !sequence.is_abandoned() {
                active.push(sequence);
            }
        }
        turn(decoder, &mut active, options.prefill_chunk, &model);
    }
}

/// Feeds every sequence its share of tokens and lets it act on the logits.
fn turn(decoder: &Decoder, active: &mut [Sequence], prefill_chunk: usize, model: &ModelFacts<'_>) {
    // One token each for those that generate; what is left of the chunk goes to prompts, oldest first.
    let mut budget = prefill_chunk;
    let fed: Vec<usize> = active
        .iter()
        .map(|sequence| match sequence.pending.len() {
            0 | 1 => sequence.pending.len(),
            waiting => {
                let share = waiting.min(budget);
                budget -= share;
                share
            }
        })
        .collect();
    let wanted: Vec<usize> = active
        .iter()
        .zip(&fed)
        .map(|(sequence, fed)| sequence.wanted(*fed))
        .collect();
    let tokens: Vec<Vec<u32>> = active
        .iter_mut()
        .zip(&fed)
        .map(|(sequence, fed)| sequence.pending.drain(..*fed).collect())
        .collect();
    let mut steps: Vec<Step<'_>> = active
        .iter_mut()
        .zip(&tokens)
        .zip(&wanted)
        .filter(|((_, tokens), _)| !tokens.is_empty())
        .map(|((sequence, tokens), logits)| Step {
            tokens,
            cache: &mut sequence.cache,
            logits: *logits,
        })
        .collect();
    let mut logits = decoder.forward(&mut steps);

    let mut rest = logits.as_mut_slice();
    let mut shares = Vec::with_capacity(active.len());
    for (sequence, rows) in active.iter_mut().zip(wanted) {
        let (share, others) = rest.split_at_mut(rows * model.vocab_size);
        rest = others;
        if rows > 0 {
            shares.push((sequence, share));
        }
    }
    shares
        .into_par_iter()
        .for_each(|(sequence, share)| sequence.take(share, model));
}
