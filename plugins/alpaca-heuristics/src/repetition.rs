//! Outputs that go round in circles, as small models' do.

use std::collections::BTreeMap;

use crate::{config::Config, fields::Fields, python_text::words};

/// Shorter lines repeat in good answers: `end`, `</li>`, a chorus of one word.
const FEWEST_WORDS_OF_A_LINE: usize = 3;

/// Longest sequence of words that is looked for.
const LONGEST_SEQUENCE: usize = 24;

pub(crate) fn repeated_line(fields: &Fields, config: &Config) -> Option<String> {
    let mut counts = BTreeMap::new();
    let lines = fields.output.lines().map(str::trim);
    for line in lines.filter(|line| words(line).count() >= FEWEST_WORDS_OF_A_LINE) {
        *counts.entry(line).or_insert(0) += 1;
    }
    let (line, count) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    (count > config.max_repeats)
        .then(|| format!("the output has the line \"{line}\" {count} times"))
}

/// A sequence of words that comes back to back. One without a letter does not count: rows of
/// numbers and rules of tables are good answers.
pub(crate) fn loops(fields: &Fields, config: &Config) -> Option<String> {
    let words: Vec<String> = words(fields.output).map(str::to_lowercase).collect();
    (1..=LONGEST_SEQUENCE).find_map(|length| {
        let mut equal = 0;
        for end in length..words.len() {
            equal = if words[end] == words[end - length] {
                equal + 1
            } else {
                0
            };
            let times = equal / length + 1;
            if times > config.max_repeats {
                let sequence = words[end + 1 - length..=end].join(" ");
                if sequence.contains(char::is_alphabetic) {
                    return Some(format!(
                        "the output says \"{sequence}\" {times} times in a row or more"
                    ));
                }
            }
        }
        None
    })
}
