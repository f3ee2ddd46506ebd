//! Length of the longest common subsequence, 64 words of one text in one step.
//!
//! Hyyrö, "Bit-parallel LCS-length computation revisited" (AWOCA 2004): bit i of a row is 0 where
//! the length grows at word i of the pattern; a word of the other text turns the row into the
//! next by one addition and three logical operations.

/// A text prepared to be compared with many others.
#[derive(Default)]
pub(crate) struct Pattern {
    length: usize,
    /// Machine words in a row.
    blocks: usize,
    /// For each word number of the vocabulary: 0 where the pattern has it not, else one more
    /// than the place of its row in `places`.
    slots: Vec<u32>,
    /// For each distinct word of the pattern, `blocks` machine words with a bit where it stands.
    places: Vec<u64>,
    tokens: Vec<u32>,
    row: Vec<u64>,
}

impl Pattern {
    /// Takes `tokens` as the pattern, in place of the one before.
    pub(crate) fn set(&mut self, tokens: &[u32], vocabulary: usize) {
        for token in self.tokens.drain(..) {
            self.slots[token as usize] = 0;
        }
        self.slots.resize(vocabulary.max(self.slots.len()), 0);
        self.places.clear();
        self.tokens.extend_from_slice(tokens);
        self.length = tokens.len();
        self.blocks = tokens.len().div_ceil(64);
        for (i, &token) in tokens.iter().enumerate() {
            let slot = &mut self.slots[token as usize];
            if *slot == 0 {
                *slot = (self.places.len() / self.blocks) as u32 + 1;
                self.places.resize(self.places.len() + self.blocks, 0);
            }
            let first = (*slot as usize - 1) * self.blocks;
            self.places[first + i / 64] |= 1 << (i % 64);
        }
    }

    /// The length of the longest common subsequence with `other`.
    pub(crate) fn lcs(&mut self, other: &[u32]) -> usize {
        match self.blocks {
            0 => 0,
            1 => self.lcs_of_one_block(other),
            _ => self.lcs_of_many_blocks(other),
        }
    }

    fn lcs_of_one_block(&self, other: &[u32]) -> usize {
        let mut row = u64::MAX;
        for &token in other {
            let slot = self.slots[token as usize];
            if slot != 0 {
                let common = row & self.places[slot as usize - 1];
                row = row.wrapping_add(common) | (row - common);
            }
        }
        grown(row, self.length)
    }

    fn lcs_of_many_blocks(&mut self, other: &[u32]) -> usize {
        let Pattern {
            blocks,
            slots,
            places,
            row,
            ..
        } = self;
        row.clear();
        row.resize(*blocks, u64::MAX);
        for &token in other {
            let slot = slots[token as usize] as usize;
            if slot == 0 {
                continue;
            }
            let mut carry = false;
            let matches = &places[(slot - 1) * *blocks..slot * *blocks];
            for (word, matches) in row.iter_mut().zip(matches) {
                let common = *word & matches;
                let (sum, over) = word.overflowing_add(common);
                let (sum, over_again) = sum.overflowing_add(u64::from(carry));
                carry = over || over_again;
                *word = sum | (*word - common);
            }
        }
        let lengths = (0..*blocks).map(|block| (self.length - block * 64).min(64));
        let grown = row
            .iter()
            .zip(lengths)
            .map(|(word, length)| grown(*word, length));
        grown.sum()
    }
}

/// Zeros among the lowest `length` bits, 1 to 64 of them.
fn grown(row: u64, length: usize) -> usize {
    (!row << (64 - length)).count_ones() as usize
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The textbook's table.
    pub(crate) fn naive(one: &[u32], other: &[u32]) -> usize {
        let mut row = vec![0; other.len() + 1];
        for a in one {
            let mut diagonal = 0;
            for (j, b) in other.iter().enumerate() {
                let above = row[j + 1];
                row[j + 1] = if a == b {
                    diagonal + 1
                } else {
                    above.max(row[j])
                };
                diagonal = above;
            }
        }
        row[other.len()]
    }

    /// A congruential sequence of numbers below `bound`.
    pub(crate) fn numbers(mut state: u64) -> impl FnMut(u32) -> u32 {
        move |bound| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            ((state >> 33) % u64::from(bound)) as u32
        }
    }

    #[test]
    fn lengths_are_those_of_the_textbook_table() {
        let mut below = numbers(1);
        let mut pattern = Pattern::default();
        for round in 0..4000 {
            let vocabulary = 1 + below(30);
            let longest = if round % 4 == 0 { 300 } else { 40 };
            let mut text = || -> Vec<u32> {
                let length = below(longest);
                (0..length).map(|_| below(vocabulary)).collect()
            };
            let (one, other) = (text(), text());
            pattern.set(&one, vocabulary as usize);
            assert_eq!(
                pattern.lcs(&other),
                naive(&one, &other),
                "{one:?} {other:?}"
            );
        }
    }

    #[test]
    fn lengths_around_the_machine_word_are_right() {
        let mut pattern = Pattern::default();
        for length in [1, 63, 64, 65, 127, 128, 129] {
            let text: Vec<u32> = (0..length).collect();
            pattern.set(&text, 200);
            assert_eq!(pattern.lcs(&text), length as usize);
            assert_eq!(pattern.lcs(&text[1..]), length as usize - 1);
            assert_eq!(pattern.lcs(&[]), 0);
        }
    }
}
