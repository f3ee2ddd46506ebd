//! Requests, their attempts, and what they came to.

use std::path::Path;

use pacos_plugin::{Error, Reply};
use rusqlite::{OptionalExtension, params};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Ledger, LedgerError,
    column::{int, json, parse, uint},
};

/// Hash of a canonical request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestKey(pub [u8; 32]);

/// What a request came to, once and for all. A model's reply, or a server's response.
#[derive(Debug, Clone, PartialEq)]
pub enum RecordedOutcome<T = Reply> {
    /// An answer.
    Answered(T),
    /// A failure that no further attempt will mend.
    Failed(Error),
}

/// How one attempt ended.
#[derive(Debug, Clone)]
pub struct AttemptEnd<T = Reply> {
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
    pub outcome: Option<RecordedOutcome<T>>,
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
    /// Name of the model in the manifest, or the capability `http:SERVER`.
    pub model: String,
    /// What identifies the model, or the server's name.
    pub identity: String,
    /// The canonical request.
    pub body: String,
}

impl Ledger {
    /// The request recorded as number `ordinal` of a place, if any.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
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
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
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
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub fn outcome<T: DeserializeOwned>(
        &self,
        key: RequestKey,
    ) -> Result<Option<RecordedOutcome<T>>, LedgerError> {
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
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
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
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
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
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub async fn end_attempt<T: Serialize + Send + 'static>(
        &self,
        id: i64,
        key: RequestKey,
        end: AttemptEnd<T>,
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
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
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
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub fn spent(&self) -> Result<Spent, LedgerError> {
        self.sum_of_attempts("", ())
    }

    /// What the attempts of one stage came to.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub fn spent_by(&self, stage: &str) -> Result<Spent, LedgerError> {
        self.sum_of_attempts("WHERE stage = ?1", [stage])
    }

    fn sum_of_attempts(
        &self,
        condition: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<Spent, LedgerError> {
        let sql = format!(
            "SELECT count(*), coalesce(sum(prompt_tokens + completion_tokens), 0), coalesce(sum(usd), 0.0)
             FROM attempt_ {condition}"
        );
        self.read("adding up what was spent", |c| {
            c.query_row(&sql, parameters, |r| {
                Ok(Spent {
                    requests: uint(r.get(0)?),
                    tokens: uint(r.get(1)?),
                    usd: r.get(2)?,
                })
            })
        })
    }
}

/// Seconds since 1970. For people who read the ledger; nothing is decided by it.
fn now() -> f64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0.0, |time| time.as_secs_f64())
}
