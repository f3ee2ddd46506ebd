//! Text to numbered words, as `rouge_score` 0.1.2 cuts it without a stemmer.

use std::collections::BTreeMap;

/// Words and their numbers, in the order in which they were first met.
#[derive(Default)]
pub(crate) struct Vocabulary {
    /// A tree, because the standard hash map would bring a source of randomness into the component.
    numbers: BTreeMap<Box<str>, u32>,
}

impl Vocabulary {
    /// The tokens of `text`, as numbers.
    pub(crate) fn tokens(&mut self, text: &str) -> Vec<u32> {
        let lower = text.to_lowercase();
        let not_of_a_word = |c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit());
        let words = lower.split(not_of_a_word).filter(|word| !word.is_empty());
        words.map(|word| self.number(word)).collect()
    }

    /// How many words there are.
    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }

    fn number(&mut self, word: &str) -> u32 {
        if let Some(number) = self.numbers.get(word) {
            return *number;
        }
        let number = self.numbers.len() as u32;
        self.numbers.insert(word.into(), number);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Token counts and repetitions as printed by rouge_score 0.1.2.
    #[test]
    fn tokens_are_runs_of_lower_case_letters_and_digits() {
        let mut vocabulary = Vocabulary::default();
        for (text, numbers) in [
            ("Sort, then SORT again!", &[0, 1, 0, 2][..]),
            ("don't_stop 4.5", &[3, 4, 5, 6, 7][..]),
            ("naïve café", &[8, 9, 10][..]),
            ("\u{212a}elvin", &[11][..]),
            ("\u{130}stanbul", &[12, 13][..]),
            ("写一首诗 ١٢", &[][..]),
            ("", &[][..]),
        ] {
            assert_eq!(vocabulary.tokens(text), numbers, "{text}");
        }
        assert_eq!(vocabulary.len(), 14);
    }
}
