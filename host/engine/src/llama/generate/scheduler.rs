//! Continuous batching: the thread that decodes all running requests together.
//!
//! Each turn feeds one token of every sequence that is generating, and a share of the prompts of those
//! that are not there yet. Requests enter and leave between turns (Yu et al., Orca, OSDI 2022).
//!
//! Pages of keys and values are taken as sequences grow. Where none is free, kept beginnings of ended
//! requests go first; then waiting requests are not admitted; then the youngest running one is put back
//! and computed again later, as vLLM does (Kwon et al., arXiv 2309.06180, section 4.5). The oldest always
//! goes on, since one request alone fits: the engine refuses others.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};

use rayon::prelude::*;

use super::engine::EngineOptions;
use super::forward::{Decoder, Step};
use super::kernel::{PAGE_POSITIONS, PagePool};
use super::prefix::{Ended, WORTH_SHARING, common};
use super::sequence::{Job, Sequence};
use super::writing::ModelFacts;

/// The requests of one engine.
pub(super) struct Scheduler<'a> {
    decoder: &'a Decoder,
    model: ModelFacts<'a>,
    options: &'a EngineOptions,
    pool: &'a Arc<PagePool>,
    /// Counts sequences put back.
    preemptions: &'a AtomicU64,
    /// Those that are decoded, the oldest first.
    active: Vec<Sequence>,
    /// Those that came and have no place yet, or none any more; the oldest first, all younger than the
    /// active ones. They hold no pages.
    waiting: VecDeque<Sequence>,
    ended: Ended,
}

impl<'a> Scheduler<'a> {
    pub(super) fn new(
        decoder: &'a Decoder,
        model: ModelFacts<'a>,
        options: &'a EngineOptions,
        pool: &'a Arc<PagePool>,
        preemptions: &'a AtomicU64,
    ) -> Self {
        Self {
            decoder,
            model,
            options,
            pool,
            preemptions,
            active: Vec::with_capacity(options.max_batch),
            waiting: VecDeque::new(),
            ended: Ended::new(options.shared_prefix_tokens),
        }
    }

    /// Decodes until every sender is gone. Runs inside the engine's thread pool.
    pub(super) fn run(&mut self, jobs: &Receiver<Job>) {
        loop {
            for sequence in self.active.extract_if(.., |s| s.is_abandoned()) {
                self.ended.keep(sequence.all, sequence.cache);
            }
            self.waiting.retain(|sequence| !sequence.is_abandoned());
            while self.active.len() < self.options.max_batch {
                let sequence = match self.waiting.pop_front() {
                    Some(sequence) => sequence,
                    None => {
                        let job = if self.active.is_empty() {
                            jobs.recv().map_err(|_| TryRecvError::Disconnected)
                        } else {
                            jobs.try_recv()
                        };
                        match job {
                            Ok(job) => Sequence::new(job, self.pool),
                            Err(TryRecvError::Empty) => break,
                            // Nobody is left to hear an answer.
                            Err(TryRecvError::Disconnected) => return,
                        }
                    }
                };
                if !sequence.is_abandoned() && !self.admit(sequence) {
                    break;
                }
            }
            if self.shares() {
                for reader in 0..self.active.len() {
                    share_prefix(&mut self.active, reader, &self.ended);
                }
            }
            self.turn();
        }
    }

    fn shares(&self) -> bool {
        self.options.shared_prefix_tokens > 0
    }

    /// Lets a sequence in, if there are pages for the tokens known of all active ones and one more page
    /// for each to write on; the first is let in always. Otherwise it waits.
    fn admit(&mut self, sequence: Sequence) -> bool {
        let number = self.active.len();
        self.active.push(sequence);
        if self.shares() {
            share_prefix(&mut self.active, number, &self.ended);
            let (earlier, new) = self.active.split_at_mut(number);
            let wanted = new[0].shareable();
            let most = earlier.iter().map(|other| common(&other.all, wanted)).max();
            new[0].borrowed = most.unwrap_or(0) / PAGE_POSITIONS;
        }
        if number == 0 {
            return true;
        }
        loop {
            let lacking: usize = self.active.iter().map(Sequence::outstanding_pages).sum();
            if lacking + number <= self.pool.free() {
                return true;
            }
            if !self.ended.drop_oldest() {
                self.put_back_youngest();
                return false;
            }
        }
    }

    /// The youngest active sequence goes back to waiting, before all that wait.
    fn put_back_youngest(&mut self) {
        if let Some(mut sequence) = self.active.pop() {
            sequence.put_back(self.pool);
            self.waiting.push_front(sequence);
        }
    }

    /// How many tokens each active sequence is fed in the coming turn: one each for those that generate;
    /// what is left of the chunk goes to prompts, oldest first.
    fn shares_of_turn(&self) -> Vec<usize> {
        let mut budget = self.options.prefill_chunk;
        let active = &self.active;
        active
            .iter()
            .enumerate()
            .map(|(number, sequence)| match sequence.pending.len() {
                0 | 1 => sequence.pending.len(),
                _ if self.shares() && should_wait(active, number) => 0,
                waiting => {
                    let share = waiting.min(budget);
                    budget -= share;
                    share
                }
            })
            .collect()
    }

    /// Takes the pages that the coming turn writes to, for the oldest sequences first. Those for which
    /// there are none leave the active ones.
    fn make_room(&mut self, fed: &mut Vec<usize>) {
        let mut number = 0;
        while number < self.active.len() {
            if self.active[number].cache.reserve(fed[number]) {
                number += 1;
            } else if !self.ended.drop_oldest() {
                assert!(
                    self.active.len() > 1,
                    "a request that does not fit alone is refused when it is asked"
                );
                self.put_back_youngest();
                self.preemptions.fetch_add(1, Ordering::Relaxed);
            }
        }
        fed.truncate(self.active.len());
    }

    /// Feeds every sequence its share of tokens and lets it act on the logits.
    fn turn(&mut self) {
        let mut fed = self.shares_of_turn();
        self.make_room(&mut fed);
        let (active, model) = (&mut self.active, &self.model);
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
        let mut logits = self.decoder.forward(&mut steps);

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
}

/// Gives a sequence that is reading its prompt the longest beginning that another one has computed.
fn share_prefix(active: &mut [Sequence], reader: usize, ended: &Ended) {
    if !active[reader].is_reading() || should_wait(active, reader) {
        return;
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
        let prefix = cache.prefix(length);
        active[reader].share(prefix, length);
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
