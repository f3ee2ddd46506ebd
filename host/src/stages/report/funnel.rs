//! From what the generator read in the replies to the examples, with samples of what was lost.

use std::collections::BTreeMap;

use rusqlite::{Connection, Row};
use serde::Serialize;

use super::{Excerpt, count, rows, text};

/// Samples of each reason.
const SAMPLES: usize = 3;
/// Reasons told apart in one step, the commonest first. A plugin may make up a code for every
/// candidate; the page must not grow with it.
const REASONS: usize = 24;
/// Characters of a text in a sample.
const TEXT: usize = 400;
/// Bytes of a passage in a reply.
const PASSAGE: usize = 600;
/// Characters of a message or a code.
const MESSAGE: usize = 240;

/// What became of everything that the generator read.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Funnel {
    /// Candidates that have been through the filters.
    pub candidates: u64,
    /// Passages that the generator could not use, reason by reason.
    pub rejects: Vec<RejectReason>,
    /// All of them, beyond the reasons listed too.
    pub rejected: u64,
    /// The filters, in order.
    pub steps: Vec<FunnelStep>,
    /// Examples.
    pub examples: u64,
    /// Units that the generator ended.
    pub units: u64,
    /// Units that came after the target was reached, or that wait for the filters.
    pub surplus: u64,
    /// Units that failed for good.
    pub failed_units: Vec<FailedUnits>,
}

impl Funnel {
    /// Candidates and rejects.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.candidates + self.rejected
    }

    /// Units that failed for good.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed_units.iter().map(|failed| failed.units).sum()
    }
}

/// What the generator could not use, for one reason.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RejectReason {
    /// The reason.
    pub code: Excerpt,
    /// How many.
    pub count: u64,
    /// Some of them.
    pub samples: Vec<RejectSample>,
}

/// A passage that the generator could not use.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RejectSample {
    /// The unit.
    pub unit: u64,
    /// Its number in the unit.
    pub n: u64,
    /// Why, for a person.
    pub message: Excerpt,
    /// The passage of the reply, where the generator says which.
    pub passage: Option<Excerpt>,
}

/// One filter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FunnelStep {
    /// Place of the filter in the manifest, from 0.
    pub filter: u64,
    /// Its name.
    pub plugin: String,
    /// Candidates that it saw.
    pub seen: u64,
    /// Candidates that it passed on, edited or not.
    pub kept: u64,
    /// Of these, candidates that it edited.
    pub edited: u64,
    /// Everything that was dropped, edited or put aside, reason by reason.
    pub reasons: Vec<Reason>,
    /// Reasons beyond those listed, and how many candidates they took.
    pub other_reasons: u64,
    /// Candidates under them.
    pub other_count: u64,
}

/// What a filter did to candidates for one reason.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reason {
    /// `drop`, `edit`, `quarantine`.
    pub decision: String,
    /// The reason.
    pub code: Excerpt,
    /// How many.
    pub count: u64,
    /// Some of them.
    pub samples: Vec<DropSample>,
}

/// A candidate that a filter did not keep as it was.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DropSample {
    /// `UNIT-N`.
    pub candidate: String,
    /// The task; of a conversation what the user says first.
    pub instruction: Excerpt,
    /// The task's input, where it has one.
    pub input: Option<Excerpt>,
    /// The answer; of a conversation the last that the assistant says.
    pub output: Excerpt,
    /// Why, for a person.
    pub message: Excerpt,
    /// What it came nearest to.
    pub nearest: Option<Neighbour>,
}

/// The nearest neighbour of a candidate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Neighbour {
    /// `seed-N` or `UNIT-N`.
    pub id: String,
    /// How near.
    pub score: f64,
    /// What it says.
    pub instruction: Excerpt,
}

/// Units that failed for one reason.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FailedUnits {
    /// The reason.
    pub code: Excerpt,
    /// How many.
    pub units: u64,
    /// One of the messages.
    pub message: Excerpt,
}

/// Samples are spread over the run, and the same each time: ordered by a permutation of the units.
const SPREAD: &str = "unit * 7919 % 10007, unit, n";

pub(super) fn read(c: &Connection) -> rusqlite::Result<Funnel> {
    let mut funnel = Funnel::default();
    let mut steps: BTreeMap<u64, FunnelStep> = BTreeMap::new();
    let lines = rows(
        c,
        "SELECT step, stage, what, code, count FROM funnel ORDER BY step, count DESC, what, code",
        [],
        |r| {
            let texts: [String; 3] = [r.get(1)?, r.get(2)?, r.get(3)?];
            Ok((count(r, 0)?, texts, count(r, 4)?))
        },
    )?;
    let mut rejects = reject_samples(c)?;
    let mut drops = drop_samples(c)?;
    for (step, [stage, what, code], count) in lines {
        match (stage.as_str(), what.as_str()) {
            ("candidates", "proposed") => funnel.candidates = count,
            ("examples", "accepted") => funnel.examples = count,
            ("generator", "reject") if step == 0 => {
                funnel.rejected += count;
                if funnel.rejects.len() < REASONS {
                    funnel.rejects.push(RejectReason {
                        samples: rejects.remove(&code).unwrap_or_default(),
                        code: Excerpt::of(&code, MESSAGE),
                        count,
                    });
                }
            }
            (plugin, decision) => {
                let filter = step.saturating_sub(1);
                let step = steps.entry(filter).or_insert_with(|| FunnelStep {
                    filter,
                    plugin: plugin.to_owned(),
                    seen: 0,
                    kept: 0,
                    edited: 0,
                    reasons: Vec::new(),
                    other_reasons: 0,
                    other_count: 0,
                });
                step.seen += count;
                if decision == "keep" || decision == "edit" {
                    step.kept += count;
                }
                match decision {
                    "keep" => continue,
                    "edit" => step.edited += count,
                    _ => {}
                }
                if step.reasons.len() < REASONS {
                    let key = (filter, decision.to_owned(), code.clone());
                    step.reasons.push(Reason {
                        decision: decision.to_owned(),
                        samples: drops.remove(&key).unwrap_or_default(),
                        code: Excerpt::of(&code, MESSAGE),
                        count,
                    });
                } else {
                    step.other_reasons += 1;
                    step.other_count += count;
                }
            }
        }
    }
    funnel.steps = steps.into_values().collect();
    (funnel.units, funnel.surplus) = c.query_row(
        "SELECT count(*), coalesce(sum(surplus), 0) FROM units",
        [],
        |r| Ok((count(r, 0)?, count(r, 1)?)),
    )?;
    funnel.failed_units = failed_units(c)?;
    Ok(funnel)
}

fn failed_units(c: &Connection) -> rusqlite::Result<Vec<FailedUnits>> {
    let sql = "SELECT error_code, count(*), min(error) FROM units WHERE error_code IS NOT NULL
               GROUP BY error_code ORDER BY count(*) DESC, error_code";
    rows(c, sql, [], |r| {
        Ok(FailedUnits {
            code: excerpt(r, 0, MESSAGE)?,
            units: count(r, 1)?,
            message: excerpt(r, 2, MESSAGE)?,
        })
    })
}

fn reject_samples(c: &Connection) -> rusqlite::Result<BTreeMap<String, Vec<RejectSample>>> {
    // Places count bytes, hence the casts.
    let sql = format!(
        "WITH sample AS (
             SELECT unit, n FROM (
                 SELECT unit, n, row_number() OVER (PARTITION BY code ORDER BY {SPREAD}) AS place
                 FROM rejects)
             WHERE place <= {SAMPLES})
         SELECT rejects.code, rejects.unit, rejects.n, rejects.message,
                substr(CAST(requests.reply AS BLOB), rejects.start + 1,
                       max(0, rejects.\"end\" - rejects.start)),
                max(0, rejects.\"end\" - rejects.start)
         FROM sample JOIN rejects USING (unit, n) LEFT JOIN requests
           ON requests.stage = 'generator' AND requests.place = CAST(rejects.unit AS TEXT)
          AND requests.ordinal = rejects.ordinal
         ORDER BY rejects.unit, rejects.n"
    );
    let mut samples: BTreeMap<String, Vec<RejectSample>> = BTreeMap::new();
    for (code, sample) in rows(c, &sql, [], |r| {
        let bytes: Option<Vec<u8>> = r.get(4)?;
        let passage = bytes.filter(|bytes| !bytes.is_empty()).map(|bytes| {
            let text = String::from_utf8_lossy(&bytes);
            Excerpt::of(&text, PASSAGE)
        });
        let sample = RejectSample {
            unit: count(r, 1)?,
            n: count(r, 2)?,
            message: excerpt(r, 3, MESSAGE)?,
            passage,
        };
        Ok((r.get::<_, String>(0)?, sample))
    })? {
        samples.entry(code).or_default().push(sample);
    }
    Ok(samples)
}

type DropKey = (u64, String, String);

fn drop_samples(c: &Connection) -> rusqlite::Result<BTreeMap<DropKey, Vec<DropSample>>> {
    let first = said("user", "ASC");
    let last = said("assistant", "DESC");
    // The inner query names no column that costs more than the row: a neighbour's text is looked up
    // for the samples alone.
    let sql = format!(
        "WITH sample AS (
             SELECT filter, unit, n FROM (
                 SELECT filter, unit, n, row_number() OVER
                     (PARTITION BY filter, decision, code ORDER BY {SPREAD}) AS place
                 FROM verdicts WHERE decision <> 'keep')
             WHERE place <= {SAMPLES})
         SELECT filter, decision, code, unit || '-' || n, coalesce(instruction, {first}), input,
                coalesce(output, {last}), message, nearest_score,
                coalesce('seed-' || nearest_seed, nearest_unit || '-' || nearest_n),
                nearest_instruction
         FROM sample JOIN verdicts USING (filter, unit, n) JOIN candidates USING (unit, n)
         ORDER BY filter, unit, n"
    );
    let mut samples: BTreeMap<DropKey, Vec<DropSample>> = BTreeMap::new();
    for (key, sample) in rows(c, &sql, [], |r| {
        let score: Option<f64> = r.get(8)?;
        let id: Option<String> = r.get(9)?;
        let nearest = match (score, id) {
            (Some(score), Some(id)) => Some(Neighbour {
                id,
                score,
                instruction: excerpt(r, 10, TEXT)?,
            }),
            _ => None,
        };
        let input: Option<String> = r.get(5)?;
        let sample = DropSample {
            candidate: r.get(3)?,
            instruction: excerpt(r, 4, TEXT)?,
            input: input
                .filter(|input| !input.is_empty())
                .map(|input| Excerpt::of(&input, TEXT)),
            output: excerpt(r, 6, TEXT)?,
            message: excerpt(r, 7, MESSAGE)?,
            nearest,
        };
        Ok(((count(r, 0)?, r.get(1)?, r.get(2)?), sample))
    })? {
        samples.entry(key).or_default().push(sample);
    }
    Ok(samples)
}

/// An expression for the first or last thing that a role says in the `payload` of a conversation.
fn said(role: &str, order: &str) -> String {
    format!(
        "(SELECT json_extract(value, '$.content') FROM json_each(payload, '$.Chat')
          WHERE json_extract(value, '$.role') = '{role}' ORDER BY key {order} LIMIT 1)"
    )
}

/// The beginning of a text column; empty where it is NULL.
fn excerpt(row: &Row<'_>, column: usize, limit: usize) -> rusqlite::Result<Excerpt> {
    Ok(Excerpt::of(&text(row, column)?, limit))
}
