//! Prompt prefixes that many rows begin with: computed once in a micro-batch, for all of its rows.
//!
//! What a row's later tokens see of its first ones are their keys and values, and these are the same
//! in every row that begins alike. So a prefix is laid down once, each row's queries attend to it,
//! and its keys' and values' gradients gather from all of them: the same mathematics with fewer
//! tokens ("Accelerating Direct Preference Optimization with Prefix Sharing", arXiv 2410.20305, does
//! so for pairs of answers).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::template::Row;

/// Fewest tokens worth sharing: each row pays for it with products of its own in every head.
const SHORTEST: usize = 8;

/// The prefixes that a run's rows share, at most one for each form of the prompt.
///
/// They are part of how the arithmetic is done, so they go into checkpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SharedPrefixes(Vec<Vec<u32>>);

impl SharedPrefixes {
    /// The longest beginning that the rows of each form of the prompt have in common, where it is
    /// worth sharing. It ends before any row's first label: what predicts a label is the row's own.
    pub fn of(rows: &[Row]) -> Self {
        let mut common: BTreeMap<usize, (usize, &[u32])> = BTreeMap::new();
        for row in rows {
            let prompt = &row.input_ids[..may_be_shared(row)];
            let (count, prefix) = common.entry(row.form).or_insert((0, prompt));
            let same = prefix.iter().zip(prompt).take_while(|(a, b)| a == b);
            *prefix = &prefix[..same.count()];
            *count += 1;
        }
        let worth = |(count, prefix): &(usize, &[u32])| *count > 1 && prefix.len() >= SHORTEST;
        Self(
            common
                .into_values()
                .filter(worth)
                .map(|(_, prefix)| prefix.to_vec())
                .collect(),
        )
    }

    /// No prefix: every row is computed whole.
    pub fn none() -> Self {
        Self::default()
    }

    /// The tokens of each prefix.
    pub fn tokens(&self) -> impl Iterator<Item = &[u32]> {
        self.0.iter().map(Vec::as_slice)
    }

    /// The longest prefix that a row begins with, if there is one.
    pub(super) fn of_row(&self, row: &Row) -> Option<&[u32]> {
        let prompt = &row.input_ids[..may_be_shared(row)];
        self.tokens()
            .filter(|prefix| prompt.starts_with(prefix))
            .max_by_key(|prefix| prefix.len())
    }
}

/// Tokens from which no label is predicted, at a row's beginning.
fn may_be_shared(row: &Row) -> usize {
    let first_label = row.label_mask.iter().position(|label| *label);
    first_label.unwrap_or(0).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::testing::{alike_rows, tiny_rows};

    fn row(form: usize, input_ids: Vec<u32>, first_label: usize) -> Row {
        Row {
            example: 0,
            form,
            label_mask: (0..input_ids.len()).map(|i| i >= first_label).collect(),
            input_ids,
        }
    }

    fn lengths(prefixes: &SharedPrefixes) -> Vec<usize> {
        prefixes.tokens().map(<[u32]>::len).collect()
    }

    #[test]
    fn each_form_of_the_prompt_has_its_longest_common_beginning() {
        let prefixes = SharedPrefixes::of(&alike_rows(20, 1));
        assert_eq!(lengths(&prefixes), [9, 12]);
        for row in alike_rows(20, 1) {
            let prefix = prefixes.of_row(&row).unwrap();
            assert_eq!(prefix.len(), [9, 12][row.form]);
        }
        // Rows that begin in different ways share nothing, and neither does one row alone.
        assert_eq!(
            SharedPrefixes::of(&tiny_rows(20, 1)),
            SharedPrefixes::none()
        );
        assert_eq!(
            SharedPrefixes::of(&alike_rows(2, 1)),
            SharedPrefixes::none()
        );
    }

    #[test]
    fn a_prefix_ends_before_what_predicts_a_label() {
        let same: Vec<u32> = (0..20).collect();
        let rows = [row(0, same.clone(), 12), row(0, same.clone(), 18)];
        // Token 11 predicts the first row's first label.
        assert_eq!(lengths(&SharedPrefixes::of(&rows)), [11]);
        let prefixes = SharedPrefixes::of(&rows);
        assert_eq!(prefixes.of_row(&row(0, same.clone(), 11)), None);
        let early = [row(0, same.clone(), 9), row(0, same, 9)];
        assert_eq!(lengths(&SharedPrefixes::of(&early)), [8]);
    }

    #[test]
    fn short_beginnings_are_not_worth_it() {
        let rows = [
            row(0, vec![1, 2, 3, 4, 5, 6, 7, 8, 9], 8),
            row(0, vec![1, 2, 3, 4, 5, 6, 7, 10, 11], 8),
        ];
        assert_eq!(SharedPrefixes::of(&rows), SharedPrefixes::none());
    }
}
