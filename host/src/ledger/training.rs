//! Optimizer steps and losses.

use std::path::Path;

use rusqlite::{OptionalExtension, params};

use super::{
    Ledger, LedgerError,
    column::{int, uint},
};

/// One optimizer step of the trainer.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingStep {
    /// Counted from 1.
    pub step: u64,
    /// Mean cross-entropy over the label tokens, in nats.
    pub loss: f64,
    /// Learning rate of the update.
    pub learning_rate: f64,
    /// Global norm before clipping.
    pub grad_norm: f64,
    /// Tokens of the step's rows.
    pub tokens: u64,
    /// Tokens that the loss is over.
    pub label_tokens: u64,
    /// Wall time.
    pub seconds: f64,
}

/// One measurement on the held-out examples.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldOutRecord {
    /// Steps made before it.
    pub step: u64,
    /// Mean cross-entropy over the label tokens, in nats.
    pub loss: f64,
}

impl Ledger {
    /// Records an optimizer step; one that is made again after a kill replaces itself.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub async fn record_step(&self, step: TrainingStep) -> Result<(), LedgerError> {
        self.write("recording a training step", move |c| {
            c.prepare_cached("INSERT OR REPLACE INTO step_ VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
                .execute(params![
                    int(step.step),
                    step.loss,
                    step.learning_rate,
                    step.grad_norm,
                    int(step.tokens),
                    int(step.label_tokens),
                    step.seconds
                ])
                .map(drop)
        })
        .await
    }

    /// Records a measurement on the held-out examples.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub async fn record_held_out(&self, measured: HeldOutRecord) -> Result<(), LedgerError> {
        self.write("recording a held-out loss", move |c| {
            c.prepare_cached("INSERT OR REPLACE INTO held_out_ VALUES (?1, ?2)")?
                .execute(params![int(measured.step), measured.loss])
                .map(drop)
        })
        .await
    }

    /// How many optimizer steps were made.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub fn steps(&self) -> Result<u64, LedgerError> {
        self.read("counting training steps", |c| {
            c.query_row("SELECT count(*) FROM step_", [], |r| r.get(0))
        })
        .map(uint)
    }

    /// Held-out loss at the first and at the last measurement.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub fn held_out(&self) -> Result<Option<(f64, f64)>, LedgerError> {
        let losses: Vec<f64> = self.read("reading held-out losses", |c| {
            c.prepare("SELECT loss FROM held_out_ ORDER BY step")?
                .query_map([], |r| r.get(0))?
                .collect()
        })?;
        Ok(match losses.as_slice() {
            [first, .., last] => Some((*first, *last)),
            _ => None,
        })
    }

    /// Takes over steps and losses of another run whose training is finished with this
    /// fingerprint. Says whether there were any.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub async fn import_training(
        &self,
        other: &Path,
        fingerprint: &str,
    ) -> Result<bool, LedgerError> {
        let reader = super::open_reader(other)?;
        let error = LedgerError::sqlite("reading the other run's training");
        let finished = reader
            .query_row(
                "SELECT 1 FROM stage_ WHERE name = 'train' AND finished AND fingerprint = ?1",
                [fingerprint],
                |_| Ok(()),
            )
            .optional()
            .map_err(&error)?;
        if finished.is_none() {
            return Ok(false);
        }
        let steps: Vec<TrainingStep> = reader
            .prepare("SELECT step, loss, learning_rate, grad_norm, tokens, label_tokens, seconds FROM step_")
            .and_then(|mut query| {
                query
                    .query_map([], |r| {
                        Ok(TrainingStep {
                            step: uint(r.get(0)?),
                            loss: r.get(1)?,
                            learning_rate: r.get(2)?,
                            grad_norm: r.get(3)?,
                            tokens: uint(r.get(4)?),
                            label_tokens: uint(r.get(5)?),
                            seconds: r.get(6)?,
                        })
                    })?
                    .collect()
            })
            .map_err(&error)?;
        let held_out: Vec<HeldOutRecord> = reader
            .prepare("SELECT step, loss FROM held_out_")
            .and_then(|mut query| {
                query
                    .query_map([], |r| {
                        Ok(HeldOutRecord {
                            step: uint(r.get(0)?),
                            loss: r.get(1)?,
                        })
                    })?
                    .collect()
            })
            .map_err(&error)?;
        let files: Option<String> = reader
            .query_row(
                "SELECT value FROM meta_ WHERE key = 'student_files'",
                [],
                |r| r.get(0),
            )
            .optional()
            .map_err(&error)?;
        drop(reader);
        if let Some(files) = files {
            self.set_meta("student_files", files).await?;
        }
        for step in steps {
            self.record_step(step).await?;
        }
        for measured in held_out {
            self.record_held_out(measured).await?;
        }
        Ok(true)
    }
}
