//! What the ledger records, as typed reads and writes. All SQL of the run's first half is here.

use std::path::Path;

use pacos_plugin::{
    Candidate, CandidateId, Decision, Error, Judged, Payload, Place, Proposals, Reject, Reply,
    Verdict,
};
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Serialize, de::DeserializeOwned};

use super::{Ledger, LedgerError};

/// Hash of a canonical request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestKey(pub [u8; 32]);

/// What a request came to, once and for all.
#[derive(Debug, Clone, PartialEq)]
pub enum RecordedOutcome {
    /// A reply.
    Answered(Reply),
    /// A failure that no further attempt will mend.
    Failed(Error),
}

/// How one attempt ended.
#[derive(Debug, Clone)]
pub struct AttemptEnd {
    /// State after it.
    pub state: AttemptState,
    /// HTTP status, where there was one.
    pub status: Option<u16>,
    /// The body as it came.
    pub body: Vec<u8>,
    /// What went wrong, if something did.
    pub failure: Option<Error>,
    /// Seconds from sending to the end.
    pub seconds: f64,
    /// What it is charged.
    pub charge: Charge,
    /// What the request has come to with it; `None` leaves the request open.
    pub outcome: Option<RecordedOutcome>,
}

/// State of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptState {
    /// A reply came.
    Answered,
    /// It failed, and the server said so.
    Failed,
    /// Nobody knows whether the server did the work.
    Unknown,
}

impl AttemptState {
    fn as_str(self) -> &'static str {
        match self {
            AttemptState::Answered => "answered",
            AttemptState::Failed => "failed",
            AttemptState::Unknown => "unknown",
        }
    }
}

/// Tokens and money.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Charge {
    /// Prompt tokens.
    pub prompt_tokens: u64,
    /// Reply tokens.
    pub completion_tokens: u64,
    /// US dollars.
    pub usd: f64,
}

/// What a run has spent so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spent {
    /// Attempts, failed ones included.
    pub requests: u64,
    /// Prompt and reply together.
    pub tokens: u64,
    /// US dollars.
    pub usd: f64,
}

/// A generator's unit, as recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct UnitRecord {
    /// What it proposed and rejected; or why it failed.
    pub outcome: Result<Proposals, Error>,
}

/// What one filter said of one candidate.
#[derive(Debug, Clone)]
pub struct VerdictRecord {
    /// Place of the filter in the recipe.
    pub filter: u32,
    /// Its name.
    pub plugin: String,
    /// The candidate, in the form that this filter saw.
    pub id: CandidateId,
    /// What it said; or the error under which the record was put aside.
    pub verdict: Result<Verdict, Error>,
}

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

/// A unit that has been through every filter.
#[derive(Debug, Clone)]
pub struct Consumed {
    /// Which.
    pub unit: u64,
    /// All verdicts on its candidates.
    pub verdicts: Vec<VerdictRecord>,
    /// What every filter kept, in the form that it left them.
    pub accepted: Vec<(CandidateId, Payload)>,
    /// Accepted in the run up to and with this unit.
    pub accepted_total: u64,
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("records have string keys and finite shapes")
}

/// Reads a JSON column, or says that the ledger is damaged.
fn parse<T: DeserializeOwned>(text: &str) -> Result<T, LedgerError> {
    serde_json::from_str(text).map_err(|e| LedgerError::Damaged(format!("{e}: {text:.80}")))
}

fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn uint(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

impl Ledger {
    /// A value under a name.
    ///
    /// # Errors
    /// What SQLite reports, here and below.
    pub fn meta(&self, key: &str) -> Result<Option<String>, LedgerError> {
        self.read("reading the run's description", |c| {
            c.query_row("SELECT value FROM meta_ WHERE key = ?1", [key], |r| {
                r.get(0)
            })
            .optional()
        })
    }

    /// Sets a value under a name.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `meta`")]
    pub async fn set_meta(&self, key: &'static str, value: String) -> Result<(), LedgerError> {
        self.write("writing the run's description", move |c| {
            c.execute(
                "INSERT INTO meta_ VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = excluded.value",
                params![key, value],
            )
            .map(drop)
        })
        .await
    }

    /// Marks a stage as done, adding to the time it took.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `meta`")]
    pub async fn set_stage(
        &self,
        name: &'static str,
        fingerprint: String,
        finished: bool,
        seconds: f64,
    ) -> Result<(), LedgerError> {
        self.write("writing a stage's state", move |c| {
            c.execute(
                "INSERT INTO stage_ VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET
                 fingerprint = excluded.fingerprint, finished = excluded.finished, seconds = seconds + excluded.seconds",
                params![name, fingerprint, finished, seconds],
            )
            .map(drop)
        })
        .await
    }

    /// Fingerprint of a stage and whether it is finished, if it was ever begun.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `meta`")]
    pub fn stage(&self, name: &str) -> Result<Option<(String, bool)>, LedgerError> {
        self.read("reading a stage's state", |c| {
            c.query_row(
                "SELECT fingerprint, finished FROM stage_ WHERE name = ?1",
                [name],
                |r| Ok((r.get(0)?, r.get(1)?)),
            )
            .optional()
        })
    }

    /// The request recorded as number `ordinal` of a place, if any.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `meta`")]
    pub fn call(
        &self,
        stage: &str,
        place: &str,
        ordinal: u32,
    ) -> Result<Option<RequestKey>, LedgerError> {
        self.read("looking up a request", |c| {
            c.prepare_cached(
                "SELECT key FROM call_ WHERE stage = ?1 AND place = ?2 AND ordinal = ?3",
            )?
            .query_row(params![stage, place, ordinal], |r| r.get(0))
            .optional()
        })
        .map(|key| key.map(RequestKey))
    }

    /// How many requests a stage has made.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `meta`")]
    pub fn calls_of(&self, stage: &str) -> Result<u64, LedgerError> {
        self.read("counting requests", |c| {
            c.query_row(
                "SELECT count(*) FROM call_ WHERE stage = ?1",
                [stage],
                |r| r.get(0),
            )
        })
        .map(uint)
    }

    /// What a request came to, if it came to anything yet.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `meta`")]
    pub fn outcome(&self, key: RequestKey) -> Result<Option<RecordedOutcome>, LedgerError> {
        let row: Option<(Option<String>, Option<String>)> =
            self.read("looking up a reply", |c| {
                c.prepare_cached("SELECT reply, failure FROM request_ WHERE key = ?1")?
                    .query_row([key.0], |r| Ok((r.get(0)?, r.get(1)?)))
                    .optional()
            })?;
        Ok(match row {
            Some((Some(reply), _)) => Some(RecordedOutcome::Answered(parse(&reply)?)),
            Some((None, Some(failure))) => Some(RecordedOutcome::Failed(parse(&failure)?)),
            _ => None,
        })
    }

    /// Records that a place asks this request.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `meta`")]
    pub async fn ask(&self, ask: Ask) -> Result<(), LedgerError> {
        self.write("recording a request", move |c| {
            c.prepare_cached(
                "INSERT INTO request_ (key, model, identity, body) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO NOTHING",
            )?
            .execute(params![ask.key.0, ask.model, ask.identity, ask.body])?;
            c.prepare_cached("INSERT INTO call_ VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING")?
                .execute(params![ask.stage, ask.place, ask.ordinal, ask.key.0])
                .map(drop)
        })
        .await
    }

    /// Records that a request is about to be sent, at its worst case. Returns the attempt.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `meta`")]
    pub async fn begin_attempt(
        &self,
        key: RequestKey,
        stage: String,
        worst: Charge,
    ) -> Result<i64, LedgerError> {
        let (sender, id) = std::sync::mpsc::channel();
        self.write("recording that a request is sent", move |c| {
            c.prepare_cached(
                "INSERT INTO attempt_ (key, stage, state, sent_at, prompt_tokens, completion_tokens, usd)
                 VALUES (?1, ?2, 'sent', ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                key.0,
                stage,
                now(),
                int(worst.prompt_tokens),
                int(worst.completion_tokens),
                worst.usd
            ])?;
            let _ = sender.send(c.last_insert_rowid());
            Ok(())
        })
        .await?;
        id.recv()
            .map_err(|_| LedgerError::Damaged("an attempt was written without a number".into()))
    }

    /// Records how an attempt ended, and what its request has come to.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `meta`")]
    pub async fn end_attempt(
        &self,
        id: i64,
        key: RequestKey,
        end: AttemptEnd,
    ) -> Result<(), LedgerError> {
        self.write("recording a reply", move |c| {
            c.prepare_cached(
                "UPDATE attempt_ SET state = ?2, status = ?3, body = ?4, failure = ?5, seconds = ?6,
                 prompt_tokens = ?7, completion_tokens = ?8, usd = ?9 WHERE id = ?1",
            )?
            .execute(params![
                id,
                end.state.as_str(),
                end.status,
                end.body,
                end.failure.as_ref().map(json),
                end.seconds,
                int(end.charge.prompt_tokens),
                int(end.charge.completion_tokens),
                end.charge.usd
            ])?;
            let (outcome, reply, failure) = match &end.outcome {
                Some(RecordedOutcome::Answered(reply)) => ("answered", Some(json(reply)), None),
                Some(RecordedOutcome::Failed(error)) => ("failed", None, Some(json(error))),
                None => return Ok(()),
            };
            c.prepare_cached(
                "UPDATE request_ SET outcome = ?2, reply = ?3, failure = ?4 WHERE key = ?1",
            )?
            .execute(params![key.0, outcome, reply, failure])
            .map(drop)
        })
        .await
    }

    /// Takes over the recorded replies of another run. They cost nothing here, and what they
    /// cost there is not counted against this run's budget.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `meta`")]
    pub async fn import_replies(&self, other: &Path) -> Result<(), LedgerError> {
        let rows = {
            let other = super::open_reader(other)?;
            let error = LedgerError::sqlite("reading the other run's replies");
            let mut select = other
                .prepare(
                    "SELECT key, model, identity, body, reply FROM request_ WHERE outcome = 'answered'",
                )
                .map_err(&error)?;
            select
                .query_map([], |r| {
                    Ok((
                        r.get::<_, [u8; 32]>(0)?,
                        r.get::<_, String>(1)?,
                        r.get::<_, String>(2)?,
                        r.get::<_, String>(3)?,
                        r.get::<_, String>(4)?,
                    ))
                })
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(&error)?
        };
        self.write("taking over replies", move |c| {
            for (key, model, identity, body, reply) in rows {
                c.prepare_cached(
                    "INSERT INTO request_ (key, model, identity, body, outcome, reply)
                     VALUES (?1, ?2, ?3, ?4, 'answered', ?5) ON CONFLICT DO NOTHING",
                )?
                .execute(params![key, model, identity, body, reply])?;
            }
            Ok(())
        })
        .await
    }

    /// What the run has spent so far, unknown attempts at their worst case.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `meta`")]
    pub fn spent(&self) -> Result<Spent, LedgerError> {
        self.read("adding up what was spent", |c| {
            c.query_row(
                "SELECT count(*), coalesce(sum(prompt_tokens + completion_tokens), 0), coalesce(sum(usd), 0.0)
                 FROM attempt_",
                [],
                |r| {
                    Ok(Spent {
                        requests: uint(r.get(0)?),
                        tokens: uint(r.get(1)?),
                        usd: r.get(2)?,
                    })
                },
            )
        })
    }

    /// Records a generator's unit.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `meta`")]
    pub async fn record_unit(
        &self,
        unit: u64,
        record: UnitRecord,
        seconds: f64,
    ) -> Result<(), LedgerError> {
        self.write("recording a unit", move |c| {
            let error = record.outcome.as_ref().err();
            c.prepare_cached("INSERT INTO unit_ VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![
                    int(unit),
                    error.map(|e| &e.code),
                    error.map(|e| &e.message),
                    seconds
                ])?;
            let Ok(proposals) = &record.outcome else {
                return Ok(());
            };
            for (n, candidate) in (0_u32..).zip(&proposals.candidates) {
                c.prepare_cached("INSERT INTO candidate_ VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
                    .execute(params![
                        int(unit),
                        n,
                        json(&candidate.payload),
                        json(&candidate.attributes),
                        json(&candidate.parents),
                        candidate.place.as_ref().map(json)
                    ])?;
            }
            for (n, reject) in (0_u32..).zip(&proposals.rejects) {
                c.prepare_cached("INSERT INTO reject_ VALUES (?1, ?2, ?3, ?4, ?5)")?
                    .execute(params![
                        int(unit),
                        n,
                        reject.code,
                        reject.message,
                        reject.place.as_ref().map(json)
                    ])?;
            }
            Ok(())
        })
        .await
    }

    /// A unit as it was recorded, if it was.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `meta`")]
    pub fn unit(&self, unit: u64) -> Result<Option<UnitRecord>, LedgerError> {
        let unit = int(unit);
        let error: Option<(Option<String>, Option<String>)> = self.read("reading a unit", |c| {
            c.query_row(
                "SELECT error_code, error FROM unit_ WHERE unit = ?1",
                [unit],
                |r| Ok((r.get(0)?, r.get(1)?)),
            )
            .optional()
        })?;
        match error {
            None => return Ok(None),
            Some((Some(code), message)) => {
                return Ok(Some(UnitRecord {
                    outcome: Err(Error::new(code, message.unwrap_or_default())),
                }));
            }
            Some((None, _)) => {}
        }
        let candidates = self.read("reading candidates", |c| {
            c.prepare_cached(
                "SELECT payload, attributes, parents, place FROM candidate_ WHERE unit = ?1 ORDER BY n",
            )?
            .query_map([unit], |r| {
                Ok((
                    r.get::<_, String>(0)?,
                    r.get::<_, String>(1)?,
                    r.get::<_, String>(2)?,
                    r.get::<_, Option<String>>(3)?,
                ))
            })?
            .collect::<Result<Vec<_>, _>>()
        })?;
        let candidates = candidates
            .into_iter()
            .map(|(payload, attributes, parents, place)| {
                Ok(pacos_plugin::Proposal {
                    payload: parse(&payload)?,
                    attributes: parse(&attributes)?,
                    parents: parse(&parents)?,
                    place: place.as_deref().map(parse::<Place>).transpose()?,
                })
            })
            .collect::<Result<Vec<_>, LedgerError>>()?;
        let rejects = self.read("reading rejects", |c| {
            c.prepare_cached("SELECT code, message, place FROM reject_ WHERE unit = ?1 ORDER BY n")?
                .query_map([unit], |r| {
                    Ok((r.get(0)?, r.get(1)?, r.get::<_, Option<String>>(2)?))
                })?
                .collect::<Result<Vec<(String, String, Option<String>)>, _>>()
        })?;
        let rejects = rejects
            .into_iter()
            .map(|(code, message, place)| {
                Ok(Reject {
                    code,
                    message,
                    place: place.as_deref().map(parse::<Place>).transpose()?,
                })
            })
            .collect::<Result<Vec<_>, LedgerError>>()?;
        Ok(Some(UnitRecord {
            outcome: Ok(Proposals {
                candidates,
                rejects,
            }),
        }))
    }

    /// Records that a unit has been through the filters, all at once.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `meta`")]
    pub async fn record_consumed(&self, consumed: Consumed) -> Result<(), LedgerError> {
        self.write("recording verdicts", move |c| {
            for record in &consumed.verdicts {
                write_verdict(c, record)?;
            }
            let before = consumed.accepted_total - consumed.accepted.len() as u64;
            for (position, (id, payload)) in (before..).zip(&consumed.accepted) {
                c.prepare_cached("INSERT INTO example_ VALUES (?1, ?2, ?3, ?4)")?
                    .execute(params![int(position), int(id.unit), id.n, json(payload)])?;
            }
            c.prepare_cached("INSERT INTO consumed_ VALUES (?1, ?2)")?
                .execute(params![int(consumed.unit), int(consumed.accepted_total)])
                .map(drop)
        })
        .await
    }

    /// For each unit that has been through the filters, in order: what was accepted up to and
    /// with it.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `meta`")]
    pub fn consumed(&self) -> Result<Vec<u64>, LedgerError> {
        self.read("reading progress", |c| {
            c.prepare("SELECT accepted FROM consumed_ ORDER BY unit")?
                .query_map([], |r| r.get(0).map(uint))?
                .collect()
        })
    }

    /// Every accepted example, in order.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `meta`")]
    pub fn examples(&self) -> Result<Vec<(CandidateId, Payload)>, LedgerError> {
        let rows = self.read("reading examples", |c| {
            c.prepare("SELECT unit, n, payload FROM example_ ORDER BY position")?
                .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
                .collect::<Result<Vec<(i64, u32, String)>, _>>()
        })?;
        rows.into_iter()
            .map(|(unit, n, payload)| {
                let id = CandidateId {
                    unit: uint(unit),
                    n,
                };
                Ok((id, parse(&payload)?))
            })
            .collect()
    }

    /// Everything that one filter has said, in order, with the candidates as it saw them.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `meta`")]
    pub fn history(&self, filter: u32) -> Result<Vec<Judged>, LedgerError> {
        // A filter sees a candidate as the last filter before it left it.
        let rows = self.read("reading verdicts", |c| {
            c.prepare(
                "SELECT v.unit, v.n,
                        coalesce((SELECT e.payload FROM verdict_ e
                                  WHERE e.unit = v.unit AND e.n = v.n AND e.filter < v.filter
                                    AND e.decision = 'edit' ORDER BY e.filter DESC LIMIT 1),
                                 c.payload),
                        c.attributes, c.parents,
                        v.decision, v.code, v.message, v.scores, v.nearest, v.payload
                 FROM verdict_ v JOIN candidate_ c ON c.unit = v.unit AND c.n = v.n
                 WHERE v.filter = ?1 AND v.decision <> 'quarantine'
                 ORDER BY v.unit, v.n",
            )?
            .query_map([filter], |r| {
                Ok(HistoryRow {
                    unit: r.get(0)?,
                    n: r.get(1)?,
                    seen: r.get(2)?,
                    attributes: r.get(3)?,
                    parents: r.get(4)?,
                    decision: r.get(5)?,
                    code: r.get(6)?,
                    message: r.get(7)?,
                    scores: r.get(8)?,
                    nearest: r.get(9)?,
                    left: r.get(10)?,
                })
            })?
            .collect::<Result<Vec<_>, _>>()
        })?;
        rows.into_iter().map(HistoryRow::judged).collect()
    }

    /// The commonest fates of what was proposed from unit `first` on, for a message.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `meta`")]
    pub fn reasons(&self, first: u64) -> Result<String, LedgerError> {
        self.read("counting reasons", |c| {
            c.prepare(
                "SELECT code, count(*) FROM (
                   SELECT code FROM verdict_ WHERE unit >= ?1 AND decision IN ('drop', 'quarantine')
                   UNION ALL SELECT code FROM reject_ WHERE unit >= ?1
                   UNION ALL SELECT error_code FROM unit_ WHERE unit >= ?1 AND error_code IS NOT NULL)
                 GROUP BY code ORDER BY 2 DESC, 1 LIMIT 5",
            )?
            .query_map([int(first)], |r| {
                Ok(format!("{} {}", r.get::<_, i64>(1)?, r.get::<_, String>(0)?))
            })?
            .collect::<Result<Vec<_>, _>>()
        })
        .map(|reasons| match reasons.as_slice() {
            [] => "no candidates at all".to_owned(),
            reasons => reasons.join(", "),
        })
    }

    /// Records an optimizer step; one that is made again after a kill replaces itself.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `meta`")]
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
    #[allow(clippy::missing_errors_doc, reason = "said once, at `meta`")]
    pub async fn record_held_out(&self, measured: HeldOutRecord) -> Result<(), LedgerError> {
        self.write("recording a held-out loss", move |c| {
            c.prepare_cached("INSERT OR REPLACE INTO held_out_ VALUES (?1, ?2)")?
                .execute(params![int(measured.step), measured.loss])
                .map(drop)
        })
        .await
    }

    /// How many optimizer steps were made.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `meta`")]
    pub fn steps(&self) -> Result<u64, LedgerError> {
        self.read("counting training steps", |c| {
            c.query_row("SELECT count(*) FROM step_", [], |r| r.get(0))
        })
        .map(uint)
    }

    /// Held-out loss at the first and at the last measurement.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `meta`")]
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

    /// How many records were put aside because they break a filter.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `meta`")]
    pub fn quarantined(&self) -> Result<u64, LedgerError> {
        self.read("counting quarantined records", |c| {
            c.query_row(
                "SELECT count(*) FROM verdict_ WHERE decision = 'quarantine'",
                [],
                |r| r.get(0),
            )
        })
        .map(uint)
    }
}

/// A request with the place that asks it.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Stage: `generator`, `filters.1`, `evaluators.0`.
    pub stage: String,
    /// Unit, record or item.
    pub place: String,
    /// Which of the place's requests.
    pub ordinal: u32,
    /// Hash of `body`.
    pub key: RequestKey,
    /// Name of the model in the manifest.
    pub model: String,
    /// What identifies the model.
    pub identity: String,
    /// The canonical request.
    pub body: String,
}

struct HistoryRow {
    unit: i64,
    n: u32,
    seen: String,
    attributes: String,
    parents: String,
    decision: String,
    code: String,
    message: String,
    scores: String,
    nearest: Option<String>,
    left: Option<String>,
}

impl HistoryRow {
    fn judged(self) -> Result<Judged, LedgerError> {
        let payload: Payload = parse(&self.seen)?;
        let decision = match (self.decision.as_str(), self.left) {
            ("keep", _) => Decision::Keep,
            ("drop", _) => Decision::Drop,
            ("edit", Some(left)) => Decision::Edit(parse(&left)?),
            (other, _) => return Err(LedgerError::Damaged(format!("decision `{other}`"))),
        };
        Ok(Judged {
            candidate: Candidate {
                id: CandidateId {
                    unit: uint(self.unit),
                    n: self.n,
                },
                seed: crate::seed::of_content(&payload),
                payload,
                attributes: parse(&self.attributes)?,
                parents: parse(&self.parents)?,
            },
            verdict: Verdict {
                decision,
                code: self.code,
                message: self.message,
                scores: parse(&self.scores)?,
                nearest: self.nearest.as_deref().map(parse).transpose()?,
            },
        })
    }
}

fn write_verdict(c: &Connection, record: &VerdictRecord) -> rusqlite::Result<()> {
    let (decision, code, message, scores, nearest, payload) = match &record.verdict {
        Ok(verdict) => {
            let (decision, payload) = match &verdict.decision {
                Decision::Keep => ("keep", None),
                Decision::Drop => ("drop", None),
                Decision::Edit(payload) => ("edit", Some(json(payload))),
            };
            (
                decision,
                &verdict.code,
                &verdict.message,
                json(&verdict.scores),
                verdict.nearest.as_ref().map(json),
                payload,
            )
        }
        Err(error) => (
            "quarantine",
            &error.code,
            &error.message,
            "[]".to_owned(),
            None,
            None,
        ),
    };
    c.prepare_cached("INSERT INTO verdict_ VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?
        .execute(params![
            int(record.id.unit),
            record.id.n,
            record.filter,
            record.plugin,
            decision,
            code,
            message,
            scores,
            nearest,
            payload
        ])
        .map(drop)
}

/// Seconds since 1970. For people who read the ledger; nothing is decided by it.
fn now() -> f64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0.0, |time| time.as_secs_f64())
}
