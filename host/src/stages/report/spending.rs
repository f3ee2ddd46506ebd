//! Tokens, requests, money and time.

use rusqlite::Connection;
use serde::Serialize;

use super::{Excerpt, count, rows};

/// What the run took.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Spending {
    /// Time by stage.
    pub stages: Vec<StageTime>,
    /// Requests, tokens and money by stage and model.
    pub rows: Vec<SpendingRow>,
    /// Failed and unknown attempts, by reason.
    pub failures: Vec<FailedAttempts>,
    /// US dollars in all.
    pub usd: f64,
    /// Seconds in all stages.
    pub seconds: f64,
}

/// One stage of the recipe.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageTime {
    /// Its name.
    pub stage: String,
    /// Whether nothing is left to do in it.
    pub finished: bool,
    /// Over all resumptions.
    pub seconds: f64,
    /// Tokens a second: trained on in `train`, written in replies elsewhere. `None` where the
    /// stage asked nothing.
    pub tokens_per_second: Option<f64>,
}

/// What one stage asked of one model. Tokens and money are what is charged: the worst case unless
/// an attempt was answered or refused.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SpendingRow {
    /// Place in the manifest.
    pub stage: String,
    /// Name in the manifest.
    pub model: String,
    /// Attempts.
    pub attempts: u64,
    /// With a reply.
    pub answered: u64,
    /// Without.
    pub failed: u64,
    /// Perhaps with a reply that was lost.
    pub unknown: u64,
    /// Prompt tokens.
    pub prompt_tokens: u64,
    /// Reply tokens.
    pub completion_tokens: u64,
    /// US dollars.
    pub usd: f64,
    /// US dollars by the number of examples, where there are any.
    pub usd_per_example: Option<f64>,
}

/// Attempts that came to nothing for one reason.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FailedAttempts {
    /// `failed`, `unknown`.
    pub state: String,
    /// The reason.
    pub code: Excerpt,
    /// How many.
    pub attempts: u64,
}

pub(super) fn read(c: &Connection) -> rusqlite::Result<Spending> {
    // What the generator asks carries the generator's name, and happens in the stage `generate`.
    let sql = "SELECT name, finished, seconds,
                      CASE name WHEN 'train' THEN (SELECT sum(tokens) FROM training)
                      ELSE (SELECT sum(completion_tokens) FROM attempts
                            WHERE state = 'answered' AND attempts.stage =
                                  CASE name WHEN 'generate' THEN 'generator' ELSE name END)
                      END,
                      CASE name WHEN 'train' THEN (SELECT sum(seconds) FROM training)
                      ELSE seconds END
               FROM stages
               ORDER BY CASE name WHEN 'generate' THEN 0 WHEN 'train' THEN 1 ELSE 2 END, name";
    let stages = rows(c, sql, [], |r| {
        let stage: String = r.get(0)?;
        let (tokens, seconds): (Option<f64>, Option<f64>) = (r.get(3)?, r.get(4)?);
        let tokens_per_second = tokens
            .zip(seconds)
            .filter(|(tokens, seconds)| *tokens > 0.0 && *seconds > 0.0)
            .map(|(tokens, seconds)| tokens / seconds);
        Ok(StageTime {
            finished: r.get(1)?,
            seconds: r.get(2)?,
            tokens_per_second,
            stage,
        })
    })?;
    let sql = "SELECT stage, model, attempts, answered, failed, unknown, prompt_tokens,
                      completion_tokens, usd, usd / (SELECT nullif(count(*), 0) FROM examples)
               FROM spending ORDER BY stage, model";
    let spent = rows(c, sql, [], |r| {
        Ok(SpendingRow {
            stage: r.get(0)?,
            model: r.get(1)?,
            attempts: count(r, 2)?,
            answered: count(r, 3)?,
            failed: count(r, 4)?,
            unknown: count(r, 5)?,
            prompt_tokens: count(r, 6)?,
            completion_tokens: count(r, 7)?,
            usd: r.get(8)?,
            usd_per_example: r.get(9)?,
        })
    })?;
    let sql = "SELECT state, coalesce(failure_code, 'cut off'), count(*) FROM attempts
               WHERE state IN ('failed', 'unknown') GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT 30";
    let failures = rows(c, sql, [], |r| {
        Ok(FailedAttempts {
            state: r.get(0)?,
            code: Excerpt::of(&r.get::<_, String>(1)?, 120),
            attempts: count(r, 2)?,
        })
    })?;
    Ok(Spending {
        usd: spent.iter().map(|row| row.usd).sum(),
        seconds: stages.iter().map(|stage| stage.seconds).sum(),
        stages,
        rows: spent,
        failures,
    })
}
