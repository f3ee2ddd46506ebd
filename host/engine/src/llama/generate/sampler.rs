//! From logits to one token.

use std::cmp::Ordering;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::kernel::exp;
use super::request::CompletionRequest;

/// The sampling of one request; its random numbers are its own.
pub(super) struct Sampler {
    temperature: f32,
    top_p: f32,
    top_k: Option<usize>,
    min_p: f32,
    random: ChaCha8Rng,
}

impl Sampler {
    pub(super) fn new(request: &CompletionRequest) -> Self {
        Self {
            temperature: request.temperature,
            top_p: request.top_p,
            top_k: request.top_k,
            min_p: request.min_p,
            random: ChaCha8Rng::seed_from_u64(request.seed),
        }
    }

    /// Chooses a token; those at minus infinity are out. `None` if all are.
    pub(super) fn sample(&mut self, logits: &[f32]) -> Option<u32> {
        let (best, largest) = likeliest(logits)?;
        if self.temperature == 0.0 {
            return Some(best);
        }
        let cut = self.top_k.is_some() || self.top_p < 1.0 || self.min_p > 0.0;
        // Weights relative to the likeliest token.
        let weight = |logit: f32| {
            if logit == f32::NEG_INFINITY {
                0.0
            } else {
                // Without fused operations, so that every processor draws alike from equal logits.
                f64::from(exp::<false>((logit - largest) / self.temperature))
            }
        };
        let weights: Vec<f64> = logits.iter().map(|logit| weight(*logit)).collect();
        let total: f64 = weights.iter().sum();
        let kept: Vec<(u32, f64)> = if cut {
            self.keep(&weights, total)
        } else {
            weights
                .iter()
                .enumerate()
                .map(|(id, w)| (id as u32, *w))
                .collect()
        };
        let total: f64 = kept.iter().map(|(_, w)| w).sum();
        let mut left = self.uniform() * total;
        let mut last = best;
        for (id, weight) in kept {
            if weight > 0.0 {
                last = id;
                left -= weight;
                if left < 0.0 {
                    break;
                }
            }
        }
        Some(last)
    }

    /// The tokens that top_k, top_p and min_p leave, likeliest first.
    fn keep(&self, weights: &[f64], total: f64) -> Vec<(u32, f64)> {
        let order = |a: &(u32, f64), b: &(u32, f64)| {
            b.1.partial_cmp(&a.1)
                .unwrap_or(Ordering::Equal)
                .then(a.0.cmp(&b.0))
        };
        let mut all: Vec<(u32, f64)> = weights
            .iter()
            .enumerate()
            .filter(|(_, w)| **w > 0.0)
            .map(|(id, w)| (id as u32, *w))
            .collect();
        // Only the head of the order matters; sort no more of it than is needed.
        let mut sorted = self.top_k.unwrap_or(128).min(all.len());
        loop {
            if sorted < all.len() {
                all.select_nth_unstable_by(sorted, order);
            }
            all[..sorted].sort_unstable_by(order);
            let head = &all[..sorted];
            let within = self
                .top_k
                .map_or(total, |k| head.iter().take(k).map(|(_, w)| w).sum());
            let largest = head.first().map_or(0.0, |(_, w)| *w);
            let mut sum = 0.0;
            let mut count = 0;
            for (_, weight) in head.iter().take(self.top_k.unwrap_or(usize::MAX)) {
                if count > 0
                    && (sum >= f64::from(self.top_p) * within
                        || *weight < f64::from(self.min_p) * largest)
                {
                    break;
                }
                sum += weight;
                count += 1;
            }
            if count < sorted || sorted == all.len() || self.top_k.is_some() {
                all.truncate(count);
                return all;
            }
            sorted = (sorted * 4).min(all.len());
        }
    }

    /// A number in [0, 1) with 53 random bits.
    fn uniform(&mut self) -> f64 {
        (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Makes tokens that occurred less likely.
pub(super) fn penalize(logits: &mut [f32], seen: impl Iterator<Item = u32>, penalty: f32) {
    for token in seen {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = if *logit > 0.0 {
                *logit / penalty
            } else {
                *logit * penalty
            };
        }
    }
}

/// The likeliest token and its logit; the lowest id among equals.
pub(super) fn likeliest(logits: &[f32]) -> Option<(u32, f32)> {
    let mut best = None;
    let mut largest = f32::NEG_INFINITY;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > largest {
            largest = *logit;
            best = Some(id as u32);
        }
    }
    best.map(|id| (id, largest))
}

/// The `count` likeliest tokens with their logits, likeliest first.
pub(super) fn top(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let mut all: Vec<(u32, f32)> = logits
        .iter()
        .enumerate()
        .map(|(id, logit)| (id as u32, *logit))
        .collect();
    if count < all.len() {
        all.select_nth_unstable_by(count, order);
        all.truncate(count);
    }
    all.sort_unstable_by(order);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llama::generate::Prompt;

    fn sampler(change: impl FnOnce(&mut CompletionRequest)) -> Sampler {
        let mut request = CompletionRequest::new(Prompt::Tokens(vec![0]));
        change(&mut request);
        Sampler::new(&request)
    }

    fn shares(mut sampler: Sampler, logits: &[f32]) -> Vec<f64> {
        const DRAWS: usize = 10_000;
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..DRAWS {
            counts[sampler.sample(logits).unwrap() as usize] += 1.0 / DRAWS as f64;
        }
        counts
    }

    #[test]
    fn temperature_one_gives_the_softmax() {
        let logits = [1.0f32, 2.0, 3.0, f32::NEG_INFINITY];
        let total: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        for (share, logit) in shares(sampler(|_| {}), &logits).iter().zip(logits) {
            assert!((share - f64::from(logit).exp() / total).abs() < 0.015);
        }
    }

    #[test]
    fn temperature_zero_takes_the_likeliest() {
        let mut sampler = sampler(|r| r.temperature = 0.0);
        assert_eq!(sampler.sample(&[0.0, 5.0, 5.0, 1.0]), Some(1));
        assert_eq!(sampler.sample(&[f32::NEG_INFINITY; 3]), None);
    }

    #[test]
    fn top_k_top_p_and_min_p_cut_the_tail() {
        // Probabilities 0.5, 0.25, 0.15, 0.1.
        let logits = [0.5f32, 0.25, 0.15, 0.1].map(f32::ln);
        let kept = |s: Sampler| shares(s, &logits).iter().filter(|s| **s > 0.0).count();
        assert_eq!(kept(sampler(|r| r.top_k = Some(2))), 2);
        assert_eq!(kept(sampler(|r| r.top_p = 0.7)), 2);
        assert_eq!(kept(sampler(|r| r.top_p = 0.76)), 3);
        assert_eq!(kept(sampler(|r| r.min_p = 0.4)), 2);
        let halves = shares(sampler(|r| r.top_k = Some(2)), &logits);
        assert!((halves[0] - 2.0 / 3.0).abs() < 0.015);
    }

    #[test]
    fn top_p_looks_past_the_first_tokens_of_a_flat_distribution() {
        let logits = vec![0.0; 1000];
        let kept = shares(sampler(|r| r.top_p = 0.5), &logits);
        assert!(kept[520..].iter().all(|s| *s == 0.0));
        assert!(kept[400..500].iter().any(|s| *s > 0.0));
    }

    #[test]
    fn a_penalty_makes_seen_tokens_less_likely_whatever_their_sign() {
        // The values of RepetitionPenaltyLogitsProcessor's definition: score < 0 ? score * p : score / p.
        let mut logits = [2.0, -1.0, 0.5, -3.0];
        penalize(&mut logits, [0, 1].into_iter(), 2.0);
        assert_eq!(logits, [1.0, -2.0, 0.5, -3.0]);
        penalize(&mut logits, [99].into_iter(), 2.0);
        assert_eq!(logits, [1.0, -2.0, 0.5, -3.0]);
    }

    /// The tokens that may be drawn, by the plain definitions: sort, cut to k, keep the shortest head that
    /// reaches p of what is left, drop what is below min_p of the likeliest.
    fn plain(logits: &[f32], k: usize, p: f64, min_p: f64) -> Vec<u32> {
        let total: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        let mut all: Vec<(u32, f64)> = logits
            .iter()
            .enumerate()
            .map(|(id, l)| (id as u32, f64::from(*l).exp() / total))
            .collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all.truncate(k);
        let left: f64 = all.iter().map(|(_, share)| share).sum();
        let largest = all[0].1;
        let mut before = 0.0;
        let mut kept = Vec::new();
        for (id, share) in all {
            if before < p * left && share >= min_p * largest {
                kept.push(id);
            }
            before += share;
        }
        kept.sort_unstable();
        kept
    }

    #[test]
    fn cuts_together_leave_what_their_definitions_leave() {
        let logits: Vec<f32> = (0..40).map(|i| ((i * 29 % 41) as f32).sqrt()).collect();
        for (k, p, min_p) in [
            (40, 0.9, 0.0),
            (7, 1.0, 0.0),
            (12, 0.6, 0.0),
            (40, 1.0, 0.3),
            (9, 0.8, 0.7),
        ] {
            let drawn = shares(
                sampler(|r| {
                    r.top_k = Some(k);
                    r.top_p = p;
                    r.min_p = min_p;
                }),
                &logits,
            );
            let drawn: Vec<u32> = (0..40).filter(|id| drawn[*id as usize] > 0.0).collect();
            assert_eq!(
                drawn,
                plain(&logits, k, f64::from(p), f64::from(min_p)),
                "{k} {p} {min_p}"
            );
        }
    }

    #[test]
    fn a_seed_gives_the_same_draws() {
        let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32).collect();
        let draws = |seed| {
            let mut sampler = sampler(|r| r.seed = seed);
            (0..20)
                .map(|_| sampler.sample(&logits).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
    }
}
