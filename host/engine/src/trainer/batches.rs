//! Which rows belong to which optimizer step, and how a step is cut into micro-batches.

use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::config::TrainConfig;
use super::micro_batch::{MicroBatch, Segment};
use super::prefixes::SharedPrefixes;
use super::template::Row;

/// The stream of random numbers that chooses held-out examples; epochs use the streams from 0.
const HELD_OUT_STREAM: u64 = u64::MAX;

/// Membership of optimizer steps.
///
/// Every epoch is a fresh permutation of all rows, a function of seed and epoch alone, cut into
/// steps of `batch_size`. The last step of an epoch holds what is left and is a full optimizer step,
/// scaled by its own labels, as in transformers since 4.46 (`dataloader_drop_last = False`). So
/// 52,002 examples at 128 make 407 steps an epoch, where the Trainer of 2023 made 406 and carried
/// the rest over. A step never spans two epochs.
#[derive(Debug, Clone)]
pub struct Batches {
    rows: usize,
    batch_size: usize,
    seed: u64,
    total_steps: u64,
    /// The epoch last asked for and its permutation.
    order: Option<(u64, Vec<usize>)>,
}

impl Batches {
    /// Steps over `rows` rows; there must be at least one.
    pub fn new(config: &TrainConfig, rows: usize) -> Self {
        Self {
            rows,
            batch_size: config.batch_size,
            seed: config.seed,
            total_steps: total_steps(config, rows),
            order: None,
        }
    }

    /// Optimizer steps of the whole run.
    pub fn total_steps(&self) -> u64 {
        self.total_steps
    }

    /// Optimizer steps of one pass over the rows.
    pub fn steps_per_epoch(&self) -> u64 {
        steps_per_epoch(self.batch_size, self.rows)
    }

    /// Rows of the step with index `step`, counted from 0, in their random order.
    pub fn step(&mut self, step: u64) -> Vec<usize> {
        let epoch = step / self.steps_per_epoch();
        let start = (step % self.steps_per_epoch()) as usize * self.batch_size;
        let end = (start + self.batch_size).min(self.rows);
        let order = match self.order.take() {
            Some((cached, order)) if cached == epoch => order,
            _ => permutation(self.rows, self.seed, epoch),
        };
        let members = order[start..end].to_vec();
        self.order = Some((epoch, order));
        members
    }
}

/// Optimizer steps of one pass over `rows` rows.
pub fn steps_per_epoch(batch_size: usize, rows: usize) -> u64 {
    rows.div_ceil(batch_size) as u64
}

/// Optimizer steps of a run over `rows` rows.
pub fn total_steps(config: &TrainConfig, rows: usize) -> u64 {
    config
        .max_steps
        .unwrap_or(config.epochs * steps_per_epoch(config.batch_size, rows))
}

/// Indices of the examples to train on and of those held out, each ascending.
///
/// `round(eval_fraction × examples)` examples are held out, at least one if the fraction is not
/// zero, never all. The choice depends on the seed and on the number of examples only.
pub fn split_held_out(examples: usize, config: &TrainConfig) -> (Vec<usize>, Vec<usize>) {
    let mut held_out = (config.eval_fraction * examples as f64).round() as usize;
    if config.eval_fraction > 0.0 {
        held_out = held_out.max(1);
    }
    let held_out = held_out.min(examples.saturating_sub(1));
    let order = permutation(examples, config.seed, HELD_OUT_STREAM);
    let (held_out, train) = order.split_at(held_out);
    let sorted = |indices: &[usize]| {
        let mut indices = indices.to_vec();
        indices.sort_unstable();
        indices
    };
    (sorted(train), sorted(held_out))
}

/// A random order of `0..count` by Fisher and Yates' shuffle over ChaCha8.
///
/// Written here rather than taken from a library, because a resumed run must find the same order
/// under any version of one.
fn permutation(count: usize, seed: u64, stream: u64) -> Vec<usize> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(stream);
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last, below(&mut random, last as u64 + 1) as usize);
    }
    order
}

/// A uniform number from 0 to below `limit` (Lemire, arXiv 1805.10941).
fn below(random: &mut ChaCha8Rng, limit: u64) -> u64 {
    let threshold = limit.wrapping_neg() % limit;
    loop {
        let product = u128::from(random.next_u64()) * u128::from(limit);
        if product as u64 >= threshold {
            return (product >> 64) as u64;
        }
    }
}

/// Divides the rows of a step among ranks, so that each has about as many tokens to compute.
///
/// Longest first, each to the rank with the fewest so far (Graham, 1969), the lowest of equals; each rank
/// has its rows in the order of `members`. Tokens of a shared prefix count for nothing, for a
/// micro-batch computes them once. With fewer rows than ranks some have none.
pub fn shares(
    rows: &[Row],
    members: &[usize],
    prefixes: &SharedPrefixes,
    ranks: usize,
) -> Vec<Vec<usize>> {
    let tokens = |at: usize| {
        let row = &rows[members[at]];
        row.input_tokens() - prefixes.of_row(row).map_or(0, <[u32]>::len)
    };
    let mut longest_first: Vec<usize> = (0..members.len()).collect();
    longest_first.sort_by_key(|&at| std::cmp::Reverse(tokens(at)));
    let mut loads = vec![0; ranks];
    let mut places: Vec<Vec<usize>> = vec![Vec::new(); ranks];
    for at in longest_first {
        let least = (0..ranks)
            .min_by_key(|&rank| loads[rank])
            .expect("there is at least one rank");
        loads[least] += tokens(at);
        places[least].push(at);
    }
    for places in &mut places {
        places.sort_unstable();
    }
    let share = |places: Vec<usize>| places.into_iter().map(|at| members[at]).collect();
    places.into_iter().map(share).collect()
}

/// Lays the rows `members` end to end in micro-batches of at most `capacity` tokens.
///
/// Longest first, each into the first micro-batch with room (first-fit decreasing), one that has the
/// row's prefix before others; ties keep their order, so the split is a function of the members, the
/// capacity and the prefixes. A prefix is laid down, and counted, once in a micro-batch. What follows
/// a row's last label is left out, and so is that label itself as an input: nothing is predicted
/// from it.
///
/// # Panics
/// If a row is longer than `capacity`; [`TrainConfig::validate`] and truncation rule that out.
pub fn pack(
    rows: &[Row],
    members: &[usize],
    capacity: usize,
    prefixes: &SharedPrefixes,
) -> Vec<MicroBatch> {
    let mut members = members.to_vec();
    members.sort_by_key(|&row| std::cmp::Reverse(rows[row].input_tokens()));
    let mut batches: Vec<MicroBatch> = Vec::new();
    // Where the prefixes lie in each micro-batch.
    let mut laid: Vec<Vec<(&[u32], Range<usize>)>> = Vec::new();
    for index in members {
        let row = &rows[index];
        let length = row.input_tokens();
        assert!(
            length <= capacity,
            "rows are cut at max_seq_len, which fits a micro-batch"
        );
        if length == 0 {
            continue;
        }
        let prefix = prefixes.of_row(row).unwrap_or_default();
        let own = length - prefix.len();
        let there = |place: usize| laid[place].iter().find(|(tokens, _)| *tokens == prefix);
        let fits =
            |place: usize, tokens: usize| batches[place].input_ids.len() + tokens <= capacity;
        let sharing = (0..batches.len()).find(|&at| there(at).is_some() && fits(at, own));
        let other = || (0..batches.len()).find(|&at| there(at).is_none() && fits(at, length));
        let place = sharing.or_else(other).unwrap_or(batches.len());
        if place == batches.len() {
            batches.push(MicroBatch::default());
            laid.push(Vec::new());
        }
        let batch = &mut batches[place];
        let known = laid[place].iter().find(|(tokens, _)| *tokens == prefix);
        let prefix_range = match known {
            Some((_, range)) => range.clone(),
            None if prefix.is_empty() => 0..0,
            None => {
                let range = batch.lay(prefix, 0..0, None);
                laid[place].push((prefix, range.clone()));
                range
            }
        };
        let tokens = batch.lay(
            &row.input_ids[prefix.len()..length],
            prefix_range,
            Some(index),
        );
        assert!(
            row.label_mask[..=prefix.len()].iter().all(|label| !label) || prefix.is_empty(),
            "nothing is predicted from a shared prefix"
        );
        for position in prefix.len()..length {
            if row.label_mask[position + 1] {
                batch
                    .label_positions
                    .push(tokens.start + position - prefix.len());
                batch.targets.push(row.input_ids[position + 1]);
            }
        }
    }
    batches
}

impl MicroBatch {
    /// Appends a segment behind the tokens `prefix`, and says where it lies.
    fn lay(&mut self, ids: &[u32], prefix: Range<usize>, row: Option<usize>) -> Range<usize> {
        let tokens = self.input_ids.len()..self.input_ids.len() + ids.len();
        let first = prefix.len() as u32;
        self.input_ids.extend(ids);
        self.positions.extend(first..first + ids.len() as u32);
        self.segments.push(Segment {
            tokens: tokens.clone(),
            prefix,
            row,
        });
        tokens
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::trainer::testing::{alike_rows, tiny_rows};

    fn config(batch_size: usize) -> TrainConfig {
        TrainConfig {
            batch_size,
            epochs: 3,
            ..TrainConfig::default()
        }
    }

    #[test]
    fn every_epoch_visits_every_row_once_in_another_order() {
        let mut batches = Batches::new(&config(4), 10);
        assert_eq!((batches.steps_per_epoch(), batches.total_steps()), (3, 9));
        let epoch = |batches: &mut Batches, e: u64| -> Vec<usize> {
            (3 * e..3 * e + 3).flat_map(|s| batches.step(s)).collect()
        };
        let first = epoch(&mut batches, 0);
        let second = epoch(&mut batches, 1);
        for order in [&first, &second] {
            assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 10);
        }
        assert_ne!(first, second);
        assert_eq!(batches.step(2).len(), 2, "the last step holds what is left");
    }

    #[test]
    fn a_step_is_the_same_whatever_was_asked_before() {
        let mut walked = Batches::new(&config(4), 10);
        let all: Vec<_> = (0..9).map(|s| walked.step(s)).collect();
        let mut jumped = Batches::new(&config(4), 10);
        assert_eq!(jumped.step(7), all[7]);
        assert_eq!(jumped.step(1), all[1]);
        let other_seed = TrainConfig {
            seed: 43,
            ..config(4)
        };
        assert_ne!(Batches::new(&other_seed, 10).step(0), all[0]);
    }

    #[test]
    fn the_published_recipe_has_1221_steps() {
        assert_eq!(total_steps(&TrainConfig::default(), 52_002), 1221);
        let short = TrainConfig {
            max_steps: Some(16),
            ..TrainConfig::default()
        };
        assert_eq!(total_steps(&short, 52_002), 16);
    }

    #[test]
    fn held_out_examples_are_apart_and_repeatable() {
        let config = TrainConfig {
            eval_fraction: 0.1,
            ..TrainConfig::default()
        };
        let (train, held_out) = split_held_out(64, &config);
        assert_eq!((train.len(), held_out.len()), (58, 6));
        let all: BTreeSet<_> = train.iter().chain(&held_out).collect();
        assert_eq!(all.len(), 64);
        assert_eq!(split_held_out(64, &config), (train, held_out));
        assert_eq!(split_held_out(3, &config).1.len(), 1);
        assert_eq!(split_held_out(1, &config).1.len(), 0);
        assert_eq!(split_held_out(64, &TrainConfig::default()).1.len(), 0);
    }

    #[test]
    fn micro_batches_hold_every_label_once_and_stay_small() {
        for rows in [tiny_rows(30, 5), alike_rows(30, 5)] {
            let prefixes = SharedPrefixes::of(&rows);
            let members: Vec<usize> = (0..30).rev().collect();
            let batches = pack(&rows, &members, 32, &prefixes);
            let mut seen = BTreeSet::new();
            let mut labels = 0;
            for batch in &batches {
                assert!(batch.input_ids.len() <= 32);
                assert_eq!(batch.positions.len(), batch.input_ids.len());
                assert_eq!(batch.targets.len(), batch.label_positions.len());
                labels += batch.targets.len();
                let mut end = 0;
                for segment in &batch.segments {
                    assert_eq!(segment.tokens.start, end);
                    end = segment.tokens.end;
                    let Some(row) = segment.row else {
                        let predicts = |p: &usize| segment.tokens.contains(p);
                        assert!(!batch.label_positions.iter().any(predicts));
                        continue;
                    };
                    assert!(seen.insert(row));
                    let places: Vec<usize> = segment
                        .prefix
                        .clone()
                        .chain(segment.tokens.clone())
                        .collect();
                    let ids: Vec<u32> = places.iter().map(|&at| batch.input_ids[at]).collect();
                    assert_eq!(ids, rows[row].input_ids[..ids.len()]);
                    let positions: Vec<u32> =
                        places.iter().map(|&at| batch.positions[at]).collect();
                    assert_eq!(positions, (0..ids.len() as u32).collect::<Vec<_>>());
                }
                assert_eq!(end, batch.input_ids.len());
            }
            assert_eq!(seen.len(), 30);
            assert_eq!(labels, rows.iter().map(Row::label_tokens).sum::<usize>());
            assert_eq!(pack(&rows, &members, 32, &prefixes), batches);
        }
    }

    #[test]
    fn ranks_share_a_step_evenly() {
        let rows = alike_rows(64, 9);
        let members: Vec<usize> = (0..64).rev().collect();
        for prefixes in [SharedPrefixes::none(), SharedPrefixes::of(&rows)] {
            assert_eq!(shares(&rows, &members, &prefixes, 1), [members.clone()]);
            for ranks in [2, 3, 8] {
                let shares = shares(&rows, &members, &prefixes, ranks);
                let all: BTreeSet<usize> = shares.iter().flatten().copied().collect();
                assert_eq!((all.len(), shares.iter().flatten().count()), (64, 64));
                let tokens = |share: &Vec<usize>| -> usize {
                    let own = |row: &Row| {
                        row.input_tokens() - prefixes.of_row(row).map_or(0, <[u32]>::len)
                    };
                    share.iter().map(|&row| own(&rows[row])).sum()
                };
                let loads: Vec<usize> = shares.iter().map(tokens).collect();
                let (least, most) = (loads.iter().min(), loads.iter().max());
                // A share exceeds another by one row at most; the longest has 32 tokens.
                assert!(most.unwrap() - least.unwrap() <= 32, "{loads:?}");
                assert!(*most.unwrap() < 2 * least.unwrap(), "{loads:?}");
                for share in &shares {
                    assert!(
                        share.is_sorted_by(|a, b| a > b),
                        "as in the step: {share:?}"
                    );
                }
            }
        }
        let few = shares(&rows, &members[..2], &SharedPrefixes::none(), 3);
        assert_eq!(few.iter().map(Vec::len).sum::<usize>(), 2);
        assert!(few.iter().any(Vec::is_empty));
    }

    #[test]
    fn more_rows_fit_where_a_prefix_is_counted_once() {
        let rows = alike_rows(40, 6);
        let members: Vec<usize> = (0..40).collect();
        let whole = pack(&rows, &members, 64, &SharedPrefixes::none());
        let shared = pack(&rows, &members, 64, &SharedPrefixes::of(&rows));
        let tokens = |batches: &[MicroBatch]| -> usize {
            batches.iter().map(|batch| batch.input_ids.len()).sum()
        };
        let of_rows: usize = rows.iter().map(Row::input_tokens).sum();
        assert_eq!(tokens(&whole), of_rows);
        // Each micro-batch has each prefix at most once, and every further use of it is saved.
        let (mut used, mut laid) = (0, 0);
        for batch in &shared {
            let prefixes = batch.segments.iter().filter(|s| s.row.is_none());
            assert!((1..=2).contains(&prefixes.clone().count()));
            laid += prefixes.map(|s| s.tokens.len()).sum::<usize>();
            used += batch.segments.iter().map(|s| s.prefix.len()).sum::<usize>();
        }
        assert_eq!(tokens(&shared), of_rows - used + laid);
        assert!(
            shared.len() < whole.len(),
            "{} {}",
            shared.len(),
            whole.len()
        );
    }
}
