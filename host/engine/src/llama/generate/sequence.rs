//! A request on the decoding thread: what is known of it, what has been computed, what is asked of it.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::kernel::{PagePool, log_sum_exp};
use super::kv_cache::KvCache;
use super::request::{GenerateError, LogLikelihood};
use super::writing::{ModelFacts, Writing, all_finite};

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
        reply: Option<oneshot::Sender<Result<LogLikelihood, GenerateError>>>,
    },
}

/// A request with its keys and values.
pub(super) struct Sequence {
    pub cache: KvCache,
    /// Tokens not yet fed.
    pub pending: VecDeque<u32>,
    work: Work,
    /// Every token known so far, fed or not.
    pub all: Vec<u32>,
    /// Pages of its beginning that an earlier sequence was expected to share when this one was admitted.
    pub borrowed: usize,
}

impl Sequence {
    /// A request of which nothing has been computed.
    pub(super) fn new(job: Job, pool: &Arc<PagePool>) -> Self {
        let mut sequence = Self {
            cache: KvCache::new(pool),
            pending: VecDeque::new(),
            work: job.work,
            all: job.tokens,
            borrowed: 0,
        };
        sequence.pending.extend(&sequence.all[..sequence.to_feed()]);
        sequence
    }

    /// How many of the tokens known so far are to be fed: of an answer to be scored the last token is
    /// only looked for.
    fn to_feed(&self) -> usize {
        match self.work {
            Work::Complete(_) => self.all.len(),
            Work::Score { .. } => self.all.len() - 1,
        }
    }

    /// Gives its pages back. What was written stays; its keys and values will be computed again, the same
    /// to the bit.
    pub(super) fn put_back(&mut self, pool: &Arc<PagePool>) {
        self.cache = KvCache::new(pool);
        self.pending = self.all[..self.to_feed()].iter().copied().collect();
        self.borrowed = 0;
        match &mut self.work {
            Work::Complete(writing) => writing.forget_shared(),
            // Summed again in the same order.
            Work::Score { sum_log_prob, .. } => *sum_log_prob = 0.0,
        }
    }

    /// Pages that are still to be taken for the tokens known so far.
    pub(super) fn outstanding_pages(&self) -> usize {
        let lacking = self.cache.lacking(self.pending.len());
        let borrowed = self.borrowed.saturating_sub(self.cache.pages().len());
        lacking.saturating_sub(borrowed)
    }

    /// Whether more of its prompt is waiting than one token.
    pub(super) fn is_reading(&self) -> bool {
        self.pending.len() > 1
    }

    /// Tokens that may come from another sequence's cache: not those whose logits are wanted.
    pub(super) fn shareable(&self) -> &[u32] {
        match &self.work {
            // One that is computed again has part of its answer here.
            Work::Complete(_) => &self.all[..self.all.len() - 1],
            Work::Score { prompt, .. } => &self.all[..prompt - 1],
        }
    }

    /// Goes on from the first `positions` tokens' keys and values that another sequence has computed.
    pub(super) fn share(&mut self, cache: KvCache, positions: usize) {
        let new = positions - self.cache.positions();
        self.pending.drain(..new);
        self.cache = cache;
        if let Work::Complete(writing) = &mut self.work {
            writing.count_shared(new);
        }
    }

    /// Whether it has been answered, or nobody waits for the answer.
    pub(super) fn is_abandoned(&self) -> bool {
        match &self.work {
            Work::Complete(writing) => writing.is_abandoned(),
            Work::Score { reply, .. } => reply.as_ref().is_none_or(|r| r.is_closed()),
        }
    }

    /// How many of the last of `fed` tokens want logits.
    pub(super) fn wanted(&self, fed: usize) -> usize {
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
    pub(super) fn take(&mut self, logits: &mut [f32], model: &ModelFacts<'_>) {
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
                    if !all_finite(row) {
                        if let Some(reply) = reply.take() {
                            let _ = reply.send(Err(GenerateError::NotFinite { position }));
                        }
                        return;
                    }
                    let target = self.all[position + 1] as usize;
                    *sum_log_prob += f64::from(row[target]) - log_sum_exp(row, model.instructions);
                }
                if self.pending.is_empty()
                    && let Some(reply) = reply.take()
                {
                    // The asker may have gone; then nobody is left to tell.
                    let _ = reply.send(Ok(LogLikelihood {
                        sum_log_prob: *sum_log_prob,
                        tokens: self.all.len() - *prompt,
                    }));
                }
            }
        }
    }
}
