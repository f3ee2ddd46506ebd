//! Outputs that go round in circles, as small models' do.

use std::{borrow::Cow, collections::BTreeMap};

use crate::{fields::Fields, python_text::words, rules::Rules};

/// Shorter lines repeat in good answers: `end`, `</li>`, a chorus of one word.
const FEWEST_WORDS_OF_A_LINE: usize = 3;

/// Longest sequence of words that is looked for.
const LONGEST_SEQUENCE: usize = 24;

pub(crate) fn repeated_line(fields: &Fields, rules: &Rules) -> Option<String> {
    let lines = fields.output.text.lines().map(str::trim);
    // Too few to be too many.
    lines.clone().nth(rules.config.max_repeats)?;
    let mut counts = BTreeMap::new();
    for line in lines.filter(|line| words(line).nth(FEWEST_WORDS_OF_A_LINE - 1).is_some()) {
        *counts.entry(line).or_insert(0) += 1;
    }
    let (line, count) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    (count > rules.config.max_repeats)
        .then(|| format!("the output has the line \"{line}\" {count} times"))
}

/// A sequence of words that comes back to back. One without a letter does not count: rows of
/// numbers and rules of tables are good answers.
pub(crate) fn loops(fields: &Fields, rules: &Rules) -> Option<String> {
    let max_repeats = rules.config.max_repeats;
    let lower = (!fields.output.text.is_ascii()).then(|| fields.output.text.to_lowercase());
    let all: Cow<[&str]> = match &lower {
        Some(lower) => words(lower).collect(),
        None => fields.output.words.as_slice().into(),
    };
    let comes_back = |end: usize, length| all[end].eq_ignore_ascii_case(all[end - length]);
    (1..=LONGEST_SEQUENCE).find_map(|length| {
        // Words in a row, each equal to the one `length` before it, which are too many. Of so many
        // places in a row, one is looked at here: in most texts that is all.
        let row = length.saturating_mul(max_repeats);
        let mut places = (length.saturating_add(row - 1)..all.len()).step_by(row);
        if !places.any(|end| comes_back(end, length)) {
            return None;
        }
        let mut equal = 0;
        for end in length..all.len() {
            equal = if comes_back(end, length) {
                equal + 1
            } else {
                0
            };
            if equal >= row {
                let sequence = all[end + 1 - length..=end].join(" ").to_ascii_lowercase();
                if sequence.contains(char::is_alphabetic) {
                    let times = equal / length + 1;
                    return Some(format!(
                        "the output says \"{sequence}\" {times} times in a row or more"
                    ));
                }
            }
        }
        None
    })
}
