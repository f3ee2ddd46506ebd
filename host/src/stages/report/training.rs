//! The student's training.

use rusqlite::Connection;
use serde::Serialize;

use super::{count, rows};

/// Most points that a curve is drawn with.
const POINTS: u64 = 400;

/// How training went.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Training {
    /// Optimizer steps made.
    pub steps: u64,
    /// Tokens put through the model.
    pub tokens: u64,
    /// Tokens that the loss was taken on.
    pub label_tokens: u64,
    /// Time of the steps.
    pub seconds: f64,
    /// Loss of the first step, in nats a token.
    pub first_loss: f64,
    /// Loss of the last step.
    pub last_loss: f64,
    /// Loss on held-out examples, the earliest first; step 0 is before training.
    pub held_out: Vec<HeldOut>,
    /// Steps that one point of the curve stands for.
    pub steps_per_point: u64,
    /// The curve.
    pub curve: Vec<TrainingPoint>,
}

impl Training {
    /// Tokens put through the model in a second.
    #[must_use]
    pub fn tokens_per_second(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.tokens as f64 / self.seconds)
    }
}

/// One measurement on the held-out examples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct HeldOut {
    /// Steps made before it.
    pub step: u64,
    /// In nats a token.
    pub loss: f64,
}

/// One point of the curve: the last of its steps, and means over them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TrainingPoint {
    /// The last of its steps.
    pub step: u64,
    /// Mean over the steps' label tokens, in nats.
    pub loss: f64,
    /// Largest global gradient norm of its steps, before clipping.
    pub grad_norm: f64,
}

pub(super) fn read(c: &Connection) -> rusqlite::Result<Option<Training>> {
    let held_out = rows(
        c,
        "SELECT step, loss FROM held_out ORDER BY step",
        [],
        |r| {
            Ok(HeldOut {
                step: count(r, 0)?,
                loss: r.get(1)?,
            })
        },
    )?;
    let (steps, tokens, label_tokens, seconds): (u64, u64, u64, f64) = c.query_row(
        "SELECT count(*), coalesce(sum(tokens), 0), coalesce(sum(label_tokens), 0),
                coalesce(sum(seconds), 0.0)
         FROM training",
        [],
        |r| Ok((count(r, 0)?, count(r, 1)?, count(r, 2)?, r.get(3)?)),
    )?;
    if steps == 0 && held_out.is_empty() {
        return Ok(None);
    }
    let end = |order: &str| {
        let sql = format!("SELECT loss FROM training ORDER BY step {order} LIMIT 1");
        let loss = rows(c, &sql, [], |r| r.get(0))?;
        Ok::<f64, rusqlite::Error>(loss.first().copied().unwrap_or(f64::NAN))
    };
    let steps_per_point = steps.div_ceil(POINTS).max(1);
    let sql = "SELECT max(step), sum(loss * label_tokens) / sum(label_tokens), max(grad_norm)
               FROM training WHERE label_tokens > 0 GROUP BY (step - 1) / ?1 ORDER BY 1";
    let curve = rows(
        c,
        sql,
        [i64::try_from(steps_per_point).unwrap_or(i64::MAX)],
        |r| {
            Ok(TrainingPoint {
                step: count(r, 0)?,
                loss: r.get::<_, Option<f64>>(1)?.unwrap_or(f64::NAN),
                grad_norm: r.get(2)?,
            })
        },
    )?;
    Ok(Some(Training {
        steps,
        tokens,
        label_tokens,
        seconds,
        first_loss: end("ASC")?,
        last_loss: end("DESC")?,
        held_out,
        steps_per_point,
        curve,
    }))
}
