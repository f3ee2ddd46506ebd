//! Continuous batching: the thread that decodes all running requests together.
//!
//! Each turn feeds one token of every sequence that is generating, and a share of the prompts of those
//! that are not there yet. Requests enter and leave between turns (Yu et al., Orca, OSDI 2022).

use std::collections::{BTreeSet, VecDeque};
use std::sync::mpsc::{Receiver, TryRecvError};

use llguidance::Matcher;
use rayon::prelude::*;
use tokio::sync::{mpsc::UnboundedSender, oneshot};

use super::engine::EngineOptions;
use super::forward::{Decoder, KvCache, Step};
use super::kernel::{Instructions, log_sum_exp};
use super::prefix::{Ended, WORTH_SHARING, common};
use super::request::{
    Completion, CompletionRequest, FinishReason, GenerateError, LogLikelihood, TokenLogProb,
};
use super::sampler::{Sampler, penalize, top};
use super::text::AnswerText;
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
            shared_tokens: self.shared_tokens,
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
    /// Every token known so far, fed or not.
    all: Vec<u32>,
}

impl Sequence {
    /// Whether more of its prompt is waiting than one token.
    fn is_reading(&self) -> bool {
        self.pending.len() > 1
    }

    /// Tokens that may come from another sequence's cache: not those whose logits are wanted.
    fn shareable(&self) -> &[u32] {
        match &self.work {
            Work::Complete(writing) => &self.all[..writing.prompt_tokens - 1],
            Work::Score { prompt, .. } => &self.all[..prompt - 1],
        }
    }

    /// Goes on from a copy of the first `positions` tokens' keys and values.
    fn share(&mut self, cache: KvCache, positions: usize) {
        let new = positions - self.cache.positions();
        self.pending.drain(..new);
        self.cache = cache;
        if let Work::Complete(writing) = &mut self.work {
            writing.shared_tokens += new;
        }
    }

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
                    self.all.push(token);
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
    let mut ended = Ended::new(options.shared_prefix_tokens);
    loop {
        for sequence in active.extract_if(.., |sequence| sequence.is_abandoned()) {
            ended.keep(sequence.all, sequence.cache);
        }
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
        if options.shared_prefix_tokens > 0 {
            share_prefixes(&mut active, &ended);
        }
        turn(decoder, &mut active, options, &model);
    }
}

/// Gives each sequence that is reading its prompt the longest beginning that another one has computed.
fn share_prefixes(active: &mut [Sequence], ended: &Ended) {
    for reader in 0..active.len() {
        if !active[reader].is_reading() || should_wait(active, reader) {
            continue;
        }
        let wanted = active[reader].shareable();
        let enough = active[reader].cache.positions() + WORTH_SHARING;
        let running = active
            .iter()
            .enumerate()
            .filter(|(number, _)| *number != reader)
            .map(|(_, other)| {
                let fed = &other.all[..other.cache.positions()];
                (common(fed, wanted), &other.cache)
            });
        let best = running.chain(ended.best(wanted));
        let best = best.max_by_key(|(length, _)| *length);
        if let Some((length, cache)) = best.filter(|(length, _)| *length >= enough) {
            let copy = cache.prefix(length);
            active[reader].share(copy, length);
        }
    }
}

/// Whether an earlier sequence is about to compute what this one could share.
fn should_wait(active: &[Sequence], number: usize) -> bool {
    let wanted = active[number].shareable();
    let enough = active[number].cache.positions() + WORTH_SHARING;
    active[..number].iter().any(|other| {
        let length = common(&other.all, wanted);
        other.is_reading() && length >= enough && other.cache.positions() < length
    })
}

/// Feeds every sequence its share of tokens and lets it act on the logits.
fn turn(
    decoder: &Decoder,
    active: &mut [Sequence],
    options: &EngineOptions,
    model: &ModelFacts<'_>,
) {
    // One token each for those that generate; what is left of the chunk goes to prompts, oldest first.
    let mut budget = options.prefill_chunk;
    let sharing = options.shared_prefix_tokens > 0;
    let fed: Vec<usize> = active
        .iter()
        .enumerate()
        .map(|(number, sequence)| match sequence.pending.len() {
            0 | 1 => sequence.pending.len(),
            _ if sharing && should_wait(active, number) => 0,
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
