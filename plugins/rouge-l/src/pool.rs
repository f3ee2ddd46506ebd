//! The texts to compare with, and the search for the nearest.

use crate::{lcs::Pattern, tokens::Vocabulary};

/// The nearest text of a pool: the first that attains the highest score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Nearest {
    pub(crate) index: usize,
    pub(crate) score: f64,
}

/// Texts as token numbers, indexed by token.
#[derive(Default)]
pub(crate) struct Pool {
    vocabulary: Vocabulary,
    texts: Vec<Box<[u32]>>,
    /// For each token, the texts that have it, with their lengths, which decide in most cases.
    postings: Vec<Vec<Posting>>,
    /// For each text, the number of the last search that met it.
    met: Vec<u64>,
    searches: u64,
    pattern: Pattern,
}

#[derive(Clone, Copy)]
struct Posting {
    text: u32,
    length: u32,
}

impl Pool {
    /// The tokens of `text`; new words get new numbers.
    pub(crate) fn tokens(&mut self, text: &str) -> Vec<u32> {
        let tokens = self.vocabulary.tokens(text);
        self.postings.resize(self.vocabulary.len(), Vec::new());
        tokens
    }

    /// Adds a text of this pool's tokens.
    pub(crate) fn push(&mut self, tokens: &[u32]) {
        let posting = Posting {
            text: self.texts.len() as u32,
            length: tokens.len() as u32,
        };
        for (token, _) in counted(tokens) {
            self.postings[token as usize].push(posting);
        }
        self.texts.push(tokens.into());
        self.met.push(0);
    }

    /// The text nearest to `tokens`, or none in an empty pool.
    ///
    /// Texts are met through the words they share, rarest word first. A text met only at the
    /// k-th word shares none of the words before, so its common subsequence is at most as long as
    /// what is left of `tokens` from there on: once that cannot beat the best, neither can any
    /// text not yet met.
    pub(crate) fn nearest(&mut self, tokens: &[u32]) -> Option<Nearest> {
        if self.texts.is_empty() {
            return None;
        }
        let mut words = counted(tokens);
        words.sort_by_key(|&(token, _)| self.postings[token as usize].len());
        self.pattern.set(tokens, self.vocabulary.len());
        self.searches += 1;
        let mut best = Nearest {
            index: 0,
            score: 0.0,
        };
        let mut left = tokens.len();
        for (token, count) in words {
            // The best that a text can do with `left` common words is to have no others.
            if f_measure(tokens.len(), left, left) < best.score {
                break;
            }
            let mut lengths = Lengths::worth_comparing(tokens.len(), left, best.score);
            for &Posting { text, length } in &self.postings[token as usize] {
                if !lengths.contain(length as usize) {
                    continue;
                }
                let met = &mut self.met[text as usize];
                if *met == self.searches {
                    continue;
                }
                *met = self.searches;
                let index = text as usize;
                let lcs = self.pattern.lcs(&self.texts[index]);
                let score = f_measure(tokens.len(), length as usize, lcs);
                if score > best.score || (score == best.score && index < best.index) {
                    best = Nearest { index, score };
                    lengths = Lengths::worth_comparing(tokens.len(), left, best.score);
                }
            }
            left -= count;
        }
        Some(best)
    }
}

/// Lengths of texts which, with at most `left` words in common, can still reach `score`.
struct Lengths {
    fewest: usize,
    most: usize,
}

impl Lengths {
    fn worth_comparing(pattern: usize, left: usize, score: f64) -> Self {
        // F rises with the length as long as every word can be common, and falls from there on.
        let reaches = |length: &usize| f_measure(pattern, *length, left.min(*length)) >= score;
        let fewest = (1..=left).find(reaches).unwrap_or(left + 1);
        // 2 · left / (pattern + length) >= score; one more for what rounding may hide.
        let most = (2.0 * left as f64 / score) as usize;
        Lengths {
            fewest,
            most: most.saturating_sub(pattern).saturating_add(1),
        }
    }

    fn contain(&self, length: usize) -> bool {
        (self.fewest..=self.most).contains(&length)
    }
}

/// F as `rouge_score` computes it, operation for operation; it is the same with the sides
/// exchanged.
fn f_measure(target: usize, prediction: usize, lcs: usize) -> f64 {
    if lcs == 0 {
        return 0.0;
    }
    let precision = lcs as f64 / prediction as f64;
    let recall = lcs as f64 / target as f64;
    2.0 * precision * recall / (precision + recall)
}

/// The distinct tokens, each with how often it stands in `tokens`.
fn counted(tokens: &[u32]) -> Vec<(u32, usize)> {
    let mut sorted = tokens.to_vec();
    sorted.sort_unstable();
    let groups = sorted.chunk_by(|one, other| one == other);
    groups.map(|group| (group[0], group.len())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lcs::tests::{naive, numbers};

    #[test]
    fn scores_at_the_edge_are_those_of_rouge_score() {
        // Printed by rouge_score 0.1.2 for texts of these lengths.
        for (target, prediction, lcs, score) in [
            (10, 10, 7, 0.7),
            (9, 11, 7, 0.7000000000000001),
            (1, 1, 1, 1.0),
            (3, 3, 0, 0.0),
        ] {
            assert_eq!(f_measure(target, prediction, lcs), score);
            assert_eq!(f_measure(prediction, target, lcs), score);
        }
    }

    /// Every text compared, in order.
    fn exhaustive(texts: &[Vec<u32>], tokens: &[u32]) -> Option<Nearest> {
        let mut best: Option<Nearest> = None;
        for (index, text) in texts.iter().enumerate() {
            let score = f_measure(tokens.len(), text.len(), naive(tokens, text));
            if best.is_none_or(|best| score > best.score) {
                best = Some(Nearest { index, score });
            }
        }
        best
    }

    #[test]
    fn the_search_finds_what_comparing_with_every_text_finds() {
        for seed in 0..40 {
            let mut below = numbers(seed);
            let vocabulary = [3, 12, 60, 400][seed as usize % 4];
            let mut pool = Pool::default();
            let mut texts = Vec::new();
            for _ in 0..150 {
                let length = below(if seed % 5 == 0 { 90 } else { 14 });
                // The lesser of two draws: low numbers are frequent, as words are.
                let text: String = (0..length)
                    .map(|_| format!("w{} ", below(vocabulary).min(below(vocabulary))))
                    .collect();
                let tokens = pool.tokens(&text);
                assert_eq!(pool.nearest(&tokens), exhaustive(&texts, &tokens), "{text}");
                pool.push(&tokens);
                texts.push(tokens);
            }
        }
    }
}
