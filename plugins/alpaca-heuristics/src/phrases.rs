//! Many phrases, looked for in one pass over a text.
//!
//! Measured against the crate `aho-corasick`: in a component that took a third longer for each record
//! and half as long again to start, and made it larger by a third.

use std::borrow::Cow;

use crate::{
    fields::Text,
    python_text::{folded, is_word},
};

/// Phrases in lower case, by their first byte, so that most places of a text are passed at a glance.
pub(crate) struct Phrases {
    phrases: Vec<String>,
    /// By a byte, an ASCII letter in either case: places in the list, in their order.
    beginning_with: Vec<Vec<usize>>,
}

impl Phrases {
    /// None of the phrases is empty.
    pub(crate) fn new<P: Into<String>>(phrases: impl IntoIterator<Item = P>) -> Self {
        let phrases: Vec<String> = phrases.into_iter().map(Into::into).collect();
        let mut beginning_with = vec![Vec::new(); 256];
        for (place, phrase) in phrases.iter().enumerate() {
            let first = phrase.as_bytes()[0];
            beginning_with[usize::from(first)].push(place);
            if first.is_ascii_lowercase() {
                beginning_with[usize::from(first.to_ascii_uppercase())].push(place);
            }
        }
        Phrases {
            phrases,
            beginning_with,
        }
    }

    /// The first of the phrases, in their own order, that stands anywhere in the text. An ASCII
    /// letter is found in either case.
    pub(crate) fn anywhere(&self, text: &str) -> Option<&str> {
        self.first(text, 0..text.len(), |_| true)
    }

    /// The first of the phrases, in their own order, for which
    /// `re.search(r"\b(PHRASE)\b", text, re.IGNORECASE)` finds something.
    pub(crate) fn as_words(&self, text: &Text) -> Option<&str> {
        if let Cow::Owned(folded) = folded(text.text) {
            return self.as_words(&Text::from(&folded));
        }
        let borders = text.borders.iter().copied();
        self.first(text.text, borders, |end| {
            !text.text[end..].chars().next().is_some_and(is_word)
        })
    }

    /// Of the phrases that begin at one of the places and end where they may.
    fn first(
        &self,
        text: &str,
        starts: impl Iterator<Item = usize>,
        may_end: impl Fn(usize) -> bool,
    ) -> Option<&str> {
        let bytes = text.as_bytes();
        let mut first = self.phrases.len();
        for start in starts {
            let places = &self.beginning_with[usize::from(bytes[start])];
            let found = places.iter().find(|&&place| {
                let phrase = self.phrases[place].as_bytes();
                let there = bytes.get(start..start + phrase.len());
                there.is_some_and(|there| there.eq_ignore_ascii_case(phrase))
                    && may_end(start + phrase.len())
            });
            first = found.map_or(first, |&place| place.min(first));
        }
        self.phrases.get(first).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stands(text: &str, phrase: &str) -> bool {
        Phrases::new([phrase]).as_words(&Text::from(text)).is_some()
    }

    #[test]
    fn phrases_are_whole_words_in_any_case() {
        for (text, phrase, found) in [
            ("Describe the Image.", "image", true),
            ("Explain imagery", "image", false),
            ("two images", "image", false),
            ("image_file", "image", false),
            ("image-file", "image", true),
            ("the preimage image", "image", true),
            ("Go to bed", "go to", true),
            ("go  to bed", "go to", false),
            ("ergo to", "go to", false),
            ("IMAGE", "image", true),
        ] {
            assert_eq!(stands(text, phrase), found, "{text}: {phrase}");
        }
    }

    // Expectations printed by CPython 3.11's `re`.
    #[test]
    fn letters_and_word_borders_beyond_ascii_are_pythons() {
        for (text, phrase, found) in [
            ("an \u{130}mage", "image", true),
            ("an \u{131}mage", "image", true),
            ("file\u{17f}", "files", true),
            ("図map図", "map", false),
            ("、map。", "map", true),
            ("mape\u{301}", "map", false),
            ("map\u{301}", "map", true),
            ("map\u{93e}", "map", true),
            ("map\u{24b6}", "map", true),
            ("map²", "map", false),
            ("map\u{200d}", "map", true),
        ] {
            assert_eq!(stands(text, phrase), found, "{text}: {phrase}");
        }
    }

    #[test]
    fn of_several_phrases_the_first_of_the_list_is_found() {
        let phrases = Phrases::new(["link below", "the link", "this link", "the", "link"]);
        assert_eq!(
            phrases.as_words(&Text::from("See the link below.")),
            Some("link below")
        );
        assert_eq!(phrases.as_words(&Text::from("THE LINK")), Some("the link"));
        assert_eq!(phrases.as_words(&Text::from("linking the")), Some("the"));
        assert_eq!(phrases.as_words(&Text::from("thelink belows")), None);
        assert_eq!(phrases.anywhere("thelink belows"), Some("link below"));
        assert_eq!(phrases.anywhere("the lin"), Some("the"));
        assert_eq!(phrases.anywhere(""), None);
    }
}
