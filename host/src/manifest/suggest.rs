//! "Did you mean": the known name nearest to a misspelt one.

/// The candidate that `word` most likely stands for, if any is near enough.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let word = plain(word);
    // One slip in a short word, up to three in a long one: further apart, a guess misleads.
    let allowed = (word.chars().count() / 3).clamp(1, 3);
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let known = plain(candidate);
        let abbreviated = word.len() >= 3 && (known.starts_with(&word) || word.starts_with(&known));
        let distance = match edit_distance(&word, &known) {
            distance if distance <= allowed => distance,
            _ if abbreviated => allowed + 1,
            _ => continue,
        };
        if best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Case and the choice of separator are never what tells two names apart.
fn plain(word: &str) -> String {
    word.chars()
        .map(|c| if c == '-' || c == ' ' { '_' } else { c })
        .flat_map(char::to_lowercase)
        .collect()
}

/// Optimal string alignment distance: insertions, deletions, substitutions and swaps of
/// neighbours, no part edited twice.
fn edit_distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let substituted = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = substituted.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_of_textbook_pairs() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("ca", "abc"), 3);
        assert_eq!(edit_distance("form", "from"), 1);
        assert_eq!(edit_distance("", "seed"), 4);
    }

    #[test]
    fn slips_find_their_word_and_strangers_do_not() {
        let keys = ["temperature", "top_p", "max_tokens", "max_units"];
        assert_eq!(nearest("temprature", keys), Some("temperature"));
        assert_eq!(nearest("Max-Tokens", keys), Some("max_tokens"));
        assert_eq!(nearest("temp", keys), Some("temperature"));
        assert_eq!(nearest("learning_rate", keys), None);
    }
}
