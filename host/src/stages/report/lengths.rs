//! How many words the examples have.

use rusqlite::Connection;
use serde::Serialize;

use super::{count, rows};

/// Lengths of the examples that are tasks, in words.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lengths {
    /// Examples that are tasks.
    pub tasks: u64,
    /// Examples that are conversations, which are not counted here.
    pub conversations: u64,
    /// Of the tasks, those with an input.
    pub with_input: u64,
    /// Instruction, input (where there is one), output.
    pub fields: Vec<Length>,
}

/// The lengths of one field.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Length {
    /// `instruction`, `input`, `output`.
    pub field: &'static str,
    /// Half of the texts have no more words.
    pub median: u64,
    /// One in twenty has no more words.
    pub p5: u64,
    /// One in twenty has more words.
    pub p95: u64,
    /// The longest.
    pub longest: u64,
    /// Every length in words, with how many texts have it.
    #[serde(skip)]
    pub counts: Vec<(u64, u64)>,
}

/// Words of a text in SQL: what stands between runs of white space. Three replacements make one
/// space of every run: pairs of two characters that occur in no text mark the spaces, and where one
/// pair follows another they cancel out.
fn words(column: &str) -> String {
    let marks = "char(1) || char(2)";
    let spaced = format!(
        "trim(replace(replace(replace({column}, char(10), ' '), char(13), ' '), char(9), ' '))"
    );
    let single = format!(
        "replace(replace(replace({spaced}, ' ', {marks}), char(2) || char(1), ''), {marks}, ' ')"
    );
    format!(
        "CASE WHEN {spaced} = '' THEN 0
              ELSE 1 + length({single}) - length(replace({single}, ' ', '')) END"
    )
}

pub(super) fn read(c: &Connection) -> rusqlite::Result<Option<Lengths>> {
    let (tasks, conversations, with_input): (u64, u64, u64) = c.query_row(
        "SELECT count(instruction), count(*) - count(instruction), count(nullif(input, ''))
         FROM examples",
        [],
        |r| Ok((count(r, 0)?, count(r, 1)?, count(r, 2)?)),
    )?;
    if tasks == 0 {
        return Ok(None);
    }
    let mut fields = Vec::new();
    for field in ["instruction", "input", "output"] {
        let sql = format!(
            "SELECT {} AS words, count(*) FROM examples
             WHERE instruction IS NOT NULL AND ('{field}' <> 'input' OR input <> '')
             GROUP BY words ORDER BY words",
            words(field)
        );
        let counts = rows(c, &sql, [], |r| Ok((count(r, 0)?, count(r, 1)?)))?;
        if !counts.is_empty() {
            fields.push(Length {
                field,
                median: quantile(&counts, 0.5),
                p5: quantile(&counts, 0.05),
                p95: quantile(&counts, 0.95),
                longest: counts.last().map_or(0, |(words, _)| *words),
                counts,
            });
        }
    }
    Ok(Some(Lengths {
        tasks,
        conversations,
        with_input,
        fields,
    }))
}

/// The least length that at least `share` of the texts do not exceed.
fn quantile(counts: &[(u64, u64)], share: f64) -> u64 {
    let all: u64 = counts.iter().map(|(_, texts)| texts).sum();
    let rank = (share * all as f64).ceil().max(1.0) as u64;
    let mut seen = 0;
    for (words, texts) in counts {
        seen += texts;
        if seen >= rank {
            return *words;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_as_people_count_them() {
        let c = Connection::open_in_memory().unwrap();
        for (text, expected) in [
            ("", 0),
            (" \n\t ", 0),
            ("one", 1),
            ("  one   two\n\n three\tfour ", 4),
            ("ein Wort, zwei Wörter", 4),
        ] {
            let sql = format!("SELECT {} FROM (SELECT ?1 AS t)", words("t"));
            let found: i64 = c.query_row(&sql, [text], |r| r.get(0)).unwrap();
            assert_eq!(found, expected, "{text:?}");
        }
    }

    #[test]
    fn quantiles_are_lengths_that_occur() {
        let counts = [(1, 5), (10, 90), (200, 5)];
        assert_eq!(quantile(&counts, 0.05), 1);
        assert_eq!(quantile(&counts, 0.5), 10);
        assert_eq!(quantile(&counts, 0.95), 10);
        assert_eq!(quantile(&counts, 1.0), 200);
    }
}
