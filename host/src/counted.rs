//! Numbers of things, as sentences have them.

use std::fmt;

/// `1 line`, `2 lines`.
pub(crate) fn counted<N>(number: N, one: &str, many: &str) -> String
where
    N: fmt::Display + PartialEq + From<u8>,
{
    let name = if number == N::from(1) { one } else { many };
    format!("{number} {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural() {
        assert_eq!(counted(1, "reply", "replies"), "1 reply");
        assert_eq!(counted(0_usize, "reply", "replies"), "0 replies");
        assert_eq!(counted(2_u64, "reply", "replies"), "2 replies");
    }
}
