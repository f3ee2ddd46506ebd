//! Texts that others wrote, cut to a length that a page can bear.

use serde::Serialize;

/// The beginning of a text. Characters that would not show are replaced by U+FFFD.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Excerpt {
    /// What is shown.
    pub text: String,
    /// How many characters were left out after it.
    pub more: u64,
}

impl Excerpt {
    /// The first `limit` characters.
    pub(super) fn of(text: &str, limit: usize) -> Self {
        let mut characters = text.chars();
        let shown = characters.by_ref().take(limit).map(visible).collect();
        Excerpt {
            text: shown,
            more: characters.count() as u64,
        }
    }
}

fn visible(c: char) -> char {
    match c {
        '\n' | '\t' => c,
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_says_how_much_is_missing() {
        assert_eq!(
            Excerpt::of("añb\u{0}c\nd", 4),
            Excerpt {
                text: "añb\u{fffd}".into(),
                more: 3
            }
        );
        assert_eq!(Excerpt::of("a\nb", 3).more, 0);
    }
}
