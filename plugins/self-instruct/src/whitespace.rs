//! Whitespace as Python counts it, in `str.split()`, `str.strip()` and `\s`.

/// Unicode's `White_Space` and the four information separators that Python adds to it.
pub(crate) fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.strip()`.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(is_python_space)
}

/// Every run of whitespace as one space, none at the ends.
pub(crate) fn collapse(text: &str) -> String {
    let words: Vec<&str> = text
        .split(is_python_space)
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_of_python_are_whitespace() {
        assert_eq!(strip("\u{1c}\u{1f}\u{85} a b\u{a0}\u{3000}"), "a b");
        assert_eq!(strip("\u{200b}a"), "\u{200b}a", "zero width is no space");
        assert_eq!(collapse(" a\r\n\u{2009}b\u{1d}c "), "a b c");
    }
}
