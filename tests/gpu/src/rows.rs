//! Made-up rows with the lengths and the prompts of Alpaca's; their tokens are drawn one by one.

use pacos_engine::trainer::Row;
use pacos_engine::trainer::micro_batch::Segment;
use rand::{Rng, SeedableRng, rngs::StdRng};
use rand_distr::LogNormal;

use crate::shapes::LONGEST;

/// Tokens of the two constant beginnings of Alpaca's prompts under LLaMA's tokenizer: without an input,
/// and with one.
const PREFIXES: [usize; 2] = [35, 46];
/// The part of Alpaca's examples that have an input.
const WITH_INPUT: f64 = 0.4;
/// Median of the tokens of a row.
const MEDIAN: f64 = 110.0;
/// With it the mean is 128 (`torch_peer.py` draws the same).
const SIGMA: f64 = 0.555;
/// Part of the tokens that are labels.
const LABELS: f64 = 0.45;

/// So many rows with ids below `vocabulary`, the same for the same seed.
pub fn alpaca_like(seed: u64, count: usize, vocabulary: usize) -> Vec<Row> {
    let mut random = StdRng::seed_from_u64(seed);
    let vocabulary = vocabulary as u32;
    let prefixes = PREFIXES.map(|length| ids(&mut random, length, vocabulary));
    let lengths = LogNormal::new(MEDIAN.ln(), SIGMA).expect("sigma is finite");
    (0..count)
        .map(|example| {
            let form = usize::from(random.random_bool(WITH_INPUT));
            let mut input_ids = prefixes[form].clone();
            // Something of its own in the prompt and in the answer.
            let shortest = input_ids.len() + 6;
            let length = (random.sample(lengths).round() as usize).clamp(shortest, LONGEST);
            let own = length - input_ids.len();
            input_ids.extend(ids(&mut random, own, vocabulary));
            let labels = ((LABELS * length as f64) as usize).min(own - 3);
            Row {
                example,
                form,
                input_ids,
                label_mask: (0..length).map(|i| i >= length - labels).collect(),
            }
        })
        .collect()
}

/// Low ids come more often, as in a text: so there is something to learn, 1.6 nats of a token's, and
/// embeddings are read and written more than once.
fn ids(random: &mut StdRng, count: usize, vocabulary: u32) -> Vec<u32> {
    let mut id = || {
        let part = random.random::<f64>().powi(4);
        (part * f64::from(vocabulary)) as u32
    };
    (0..count).map(|_| id()).collect()
}

/// Segments of exactly so many tokens (at least 128): each prefix with rows behind it, and rows without one.
pub fn segments(seed: u64, tokens: usize) -> Vec<Segment> {
    let rows = alpaca_like(seed, tokens / 64 + 8, 100);
    let lengths: Vec<usize> = rows.iter().map(|row| row.input_ids.len()).collect();
    let mut lengths = lengths.into_iter().cycle();
    let mut segments: Vec<Segment> = Vec::new();
    let mut end = 0;
    let mut lay = |length: usize, prefix: std::ops::Range<usize>, row| {
        segments.push(Segment {
            tokens: end..end + length,
            prefix,
            row,
        });
        end += length;
        end
    };
    let mut row = 0;
    let thirds = [tokens / 3, 2 * tokens / 3, tokens];
    let mut at = 0;
    for (third, limit) in thirds.into_iter().enumerate() {
        let prefix = match PREFIXES.get(third) {
            Some(&length) if at + length < limit => {
                let start = at;
                at = lay(length, 0..0, None);
                start..at
            }
            _ => 0..0,
        };
        while at < limit {
            let whole = lengths.next().expect("the rows come again and again");
            let own = (whole - prefix.len()).min(limit - at);
            at = lay(own, prefix.clone(), Some(row));
            row += 1;
        }
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;
    use pacos_engine::trainer::prefixes::SharedPrefixes;

    #[test]
    fn rows_are_as_long_as_alpacas_and_begin_as_they_do() {
        let rows = alpaca_like(1, 20_000, 32_000);
        let mut lengths: Vec<usize> = rows.iter().map(|row| row.input_ids.len()).collect();
        lengths.sort_unstable();
        assert!(
            (108..=112).contains(&lengths[10_000]),
            "{}",
            lengths[10_000]
        );
        let mean = lengths.iter().sum::<usize>() as f64 / 20_000.0;
        assert!((126.0..130.0).contains(&mean), "{mean}");
        assert!(lengths[19_999] <= LONGEST);
        assert!(rows.iter().all(|row| row.label_tokens() > 0));
        let prefixes = SharedPrefixes::of(&rows);
        let shared: Vec<usize> = prefixes.tokens().map(<[u32]>::len).collect();
        assert_eq!(shared, PREFIXES);
    }

    #[test]
    fn segments_fill_their_tokens_without_gaps() {
        for tokens in [128, 149, 517, 8192] {
            let mut end = 0;
            let mut with_prefix = 0;
            for segment in segments(3, tokens) {
                assert_eq!(segment.tokens.start, end);
                assert!(segment.tokens.end > end && segment.prefix.end <= end);
                end = segment.tokens.end;
                with_prefix += usize::from(!segment.prefix.is_empty());
            }
            assert_eq!(end, tokens);
            assert!(with_prefix > 0, "{tokens}");
        }
    }
}
