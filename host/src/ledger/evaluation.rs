//! Log-likelihoods, answers, judgements and metrics.

use std::collections::BTreeSet;

use pacos_plugin::{Error, Judgement, Metric};
use rusqlite::params;
use serde::Serialize;

use super::{
    Ledger, LedgerError,
    column::{int, json, parse, uint},
};

/// How likely a model finds one reference answer.
#[derive(Debug, Clone, PartialEq)]
pub struct LikelihoodRecord {
    /// Which evaluation task, from 0.
    pub item: u64,
    /// `student.base` or `student`.
    pub model: String,
    /// `chat` or `alpaca`.
    pub template: String,
    /// Sum over the answer's tokens, natural logarithm.
    pub log_likelihood: f64,
    /// Tokens of the answer.
    pub tokens: u64,
}

/// One model in one template, over the whole evaluation set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Likelihoods {
    /// `student.base` or `student`.
    pub model: String,
    /// `chat` or `alpaca`.
    pub template: String,
    /// Mean log-likelihood of a token of the reference answers, in nats.
    pub per_token: f64,
    /// Tokens of all reference answers.
    pub tokens: u64,
}

/// What became of one model's answer to one evaluation task.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerRecord {
    /// Which evaluation task, from 0.
    pub item: u64,
    /// `student.base`, `student`, `teacher`.
    pub model: String,
    /// The text and why it ended; or why there is none.
    pub outcome: Result<(String, String), Error>,
}

/// What one evaluator made of one task.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemRecord {
    /// Place of the evaluator in the recipe.
    pub evaluator: u32,
    /// Which evaluation task, from 0.
    pub item: u64,
    /// Its judgements; or why there are none.
    pub outcome: Result<Vec<Judgement>, Error>,
    /// From its beginning to its end, waiting included.
    pub seconds: f64,
}

impl Ledger {
    /// Records how likely a model finds a reference answer.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub async fn record_likelihood(&self, record: LikelihoodRecord) -> Result<(), LedgerError> {
        self.write("recording a log-likelihood", move |c| {
            c.prepare_cached("INSERT OR REPLACE INTO likelihood_ VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![
                    int(record.item),
                    record.model,
                    record.template,
                    record.log_likelihood,
                    int(record.tokens)
                ])
                .map(drop)
        })
        .await
    }

    /// The reference answers that were scored under a model in a template.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub fn likelihoods_of(
        &self,
        model: &str,
        template: &str,
    ) -> Result<BTreeSet<u64>, LedgerError> {
        self.read("reading log-likelihoods", |c| {
            c.prepare("SELECT item FROM likelihood_ WHERE model = ?1 AND template = ?2")?
                .query_map([model, template], |r| r.get(0).map(uint))?
                .collect()
        })
    }

    /// Mean log-likelihood of a reference token, by model and template.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub fn likelihoods(&self) -> Result<Vec<Likelihoods>, LedgerError> {
        self.read("adding up log-likelihoods", |c| {
            c.prepare(
                "SELECT model, template, sum(log_likelihood) / sum(tokens), sum(tokens)
                 FROM likelihood_ GROUP BY model, template ORDER BY model DESC, template DESC",
            )?
            .query_map([], |r| {
                Ok(Likelihoods {
                    model: r.get(0)?,
                    template: r.get(1)?,
                    per_token: r.get(2)?,
                    tokens: uint(r.get(3)?),
                })
            })?
            .collect()
        })
    }

    /// Records an answer, or that there is none.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub async fn record_answer(&self, record: AnswerRecord) -> Result<(), LedgerError> {
        self.write("recording an answer", move |c| {
            let answer = record.outcome.as_ref().ok();
            let error = record.outcome.as_ref().err();
            c.prepare_cached("INSERT INTO answer_ VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
                .execute(params![
                    int(record.item),
                    record.model,
                    answer.map(|(text, _)| text),
                    answer.map(|(_, finish_reason)| finish_reason),
                    error.map(|e| &e.code),
                    error.map(|e| &e.message)
                ])
                .map(drop)
        })
        .await
    }

    /// Every answer, by task and model.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub fn answers(&self) -> Result<Vec<AnswerRecord>, LedgerError> {
        self.read("reading answers", |c| {
            c.prepare(
                "SELECT item, model, text, finish_reason, error_code, error FROM answer_
                 ORDER BY item, model",
            )?
            .query_map([], |r| {
                let error: Option<String> = r.get(4)?;
                Ok(AnswerRecord {
                    item: uint(r.get(0)?),
                    model: r.get(1)?,
                    outcome: match error {
                        Some(code) => Err(Error::new(code, r.get::<_, String>(5)?)),
                        None => Ok((r.get(2)?, r.get(3)?)),
                    },
                })
            })?
            .collect()
        })
    }

    /// Records that an evaluator has been through a task, and what it made of it.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub async fn record_item(&self, record: ItemRecord) -> Result<(), LedgerError> {
        self.write("recording judgements", move |c| {
            let error = record.outcome.as_ref().err();
            // One that failed for want of money may be judged after all.
            c.prepare_cached(
                "DELETE FROM item_ WHERE evaluator = ?1 AND item = ?2 AND error_code IS NOT NULL",
            )?
            .execute(params![record.evaluator, int(record.item)])?;
            c.prepare_cached("INSERT INTO item_ VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![
                    record.evaluator,
                    int(record.item),
                    error.map(|e| &e.code),
                    error.map(|e| &e.message),
                    record.seconds
                ])?;
            for (n, judgement) in (0_u32..).zip(record.outcome.iter().flatten()) {
                c.prepare_cached("INSERT INTO judgement_ VALUES (?1, ?2, ?3, ?4)")?
                    .execute(params![
                        record.evaluator,
                        int(record.item),
                        n,
                        json(judgement)
                    ])?;
            }
            Ok(())
        })
        .await
    }

    /// The tasks that an evaluator has been through.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub fn items_of(&self, evaluator: u32) -> Result<BTreeSet<u64>, LedgerError> {
        self.read("reading judged tasks", |c| {
            c.prepare("SELECT item FROM item_ WHERE evaluator = ?1")?
                .query_map([evaluator], |r| r.get(0).map(uint))?
                .collect()
        })
    }

    /// The tasks that an evaluator could not judge for this reason.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub fn items_failed_with(
        &self,
        evaluator: u32,
        code: &str,
    ) -> Result<BTreeSet<u64>, LedgerError> {
        self.read("reading tasks that were not judged", |c| {
            c.prepare("SELECT item FROM item_ WHERE evaluator = ?1 AND error_code = ?2")?
                .query_map(params![evaluator, code], |r| r.get(0).map(uint))?
                .collect()
        })
    }

    /// How many tasks an evaluator could not judge, and why it could not judge the last of them.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub fn failed_items(&self, evaluator: u32) -> Result<(u64, Option<String>), LedgerError> {
        self.read("counting tasks that were not judged", |c| {
            c.query_row(
                "SELECT count(*), (SELECT error FROM item_ WHERE evaluator = ?1 AND error IS NOT NULL
                                   ORDER BY item DESC LIMIT 1)
                 FROM item_ WHERE evaluator = ?1 AND error_code IS NOT NULL",
                [evaluator],
                |r| Ok((uint(r.get(0)?), r.get(1)?)),
            )
        })
    }

    /// How many of an evaluator's judgements name no winner because they could not be read, and how
    /// many there are.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub fn unparsed(&self, evaluator: u32) -> Result<(u64, u64), LedgerError> {
        self.read("counting judgements", |c| {
            c.query_row(
                "SELECT coalesce(sum(outcome = 'Unparsed'), 0), count(*)
                 FROM judgements WHERE evaluator = ?1",
                [evaluator],
                |r| Ok((uint(r.get(0)?), uint(r.get(1)?))),
            )
        })
    }

    /// Everything that one evaluator judged, in the order of tasks.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub fn judgements_of(&self, evaluator: u32) -> Result<Vec<Judgement>, LedgerError> {
        let rows: Vec<String> = self.read("reading judgements", |c| {
            c.prepare("SELECT judgement FROM judgement_ WHERE evaluator = ?1 ORDER BY item, n")?
                .query_map([evaluator], |r| r.get(0))?
                .collect()
        })?;
        rows.iter().map(|row| parse(row)).collect()
    }

    /// Records what an evaluator made of all its judgements, in the place of what it said before.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub async fn record_metrics(
        &self,
        evaluator: u32,
        metrics: Vec<Metric>,
    ) -> Result<(), LedgerError> {
        self.write("recording metrics", move |c| {
            c.execute("DELETE FROM metric_ WHERE evaluator = ?1", [evaluator])?;
            for (n, metric) in (0_u32..).zip(&metrics) {
                c.prepare_cached("INSERT INTO metric_ VALUES (?1, ?2, ?3)")?
                    .execute(params![evaluator, n, json(metric)])?;
            }
            Ok(())
        })
        .await
    }

    /// All metrics, by evaluator, in the order in which it gave them.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub fn metrics(&self) -> Result<Vec<(u32, Metric)>, LedgerError> {
        let rows: Vec<(u32, String)> = self.read("reading metrics", |c| {
            c.prepare("SELECT evaluator, metric FROM metric_ ORDER BY evaluator, n")?
                .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?
                .collect()
        })?;
        rows.iter()
            .map(|(evaluator, row)| Ok((*evaluator, parse(row)?)))
            .collect()
    }
}
