//! Units, candidates, verdicts and examples.

use pacos_plugin::{
    Candidate, CandidateId, Decision, Error, Judged, Payload, Place, Proposals, Reject, Verdict,
};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    Ledger, LedgerError,
    column::{int, json, parse, uint},
};

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

impl Ledger {
    /// Why the last record was put aside; empty where none was.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub fn last_quarantine(&self) -> Result<String, LedgerError> {
        self.read("looking up why a record was put aside", |c| {
            c.query_row(
                "SELECT message FROM verdict_ WHERE decision = 'quarantine'
                 ORDER BY unit DESC, n DESC LIMIT 1",
                [],
                |r| r.get(0),
            )
            .optional()
        })
        .map(Option::unwrap_or_default)
    }

    /// Records a generator's unit.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
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
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
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
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
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

    /// The candidates that a filter put aside with this code, in order, as it saw them.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub fn put_aside(&self, filter: u32, code: &str) -> Result<Vec<Candidate>, LedgerError> {
        let rows: Vec<CandidateRow> = self.read("reading what was put aside", |c| {
            c.prepare(&format!(
                "SELECT v.unit, v.n, {SEEN}, c.attributes, c.parents
                 FROM verdict_ v JOIN candidate_ c ON c.unit = v.unit AND c.n = v.n
                 WHERE v.filter = ?1 AND v.decision = 'quarantine' AND v.code = ?2
                 ORDER BY v.unit, v.n"
            ))?
            .query_map(params![filter, code], CandidateRow::read)?
            .collect()
        })?;
        rows.into_iter().map(CandidateRow::candidate).collect()
    }

    /// Records what filters say, after all, of candidates that were put aside. What is accepted
    /// of them comes after everything that was accepted before.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub async fn record_late(
        &self,
        verdicts: Vec<VerdictRecord>,
        accepted: Vec<(CandidateId, Payload)>,
    ) -> Result<(), LedgerError> {
        self.write("recording verdicts", move |c| {
            for record in &verdicts {
                c.prepare_cached(
                    "DELETE FROM verdict_
                     WHERE filter = ?1 AND unit = ?2 AND n = ?3 AND decision = 'quarantine'",
                )?
                .execute(params![
                    record.filter,
                    int(record.id.unit),
                    record.id.n
                ])?;
                write_verdict(c, record)?;
            }
            for (id, payload) in &accepted {
                c.prepare_cached("INSERT INTO example_ SELECT count(*), ?1, ?2, ?3 FROM example_")?
                    .execute(params![int(id.unit), id.n, json(payload)])?;
            }
            Ok(())
        })
        .await
    }

    /// How many examples are accepted.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub fn accepted(&self) -> Result<u64, LedgerError> {
        self.read("counting examples", |c| {
            c.query_row("SELECT count(*) FROM example_", [], |r| r.get(0))
        })
        .map(uint)
    }

    /// For each unit that has been through the filters, in order: what was accepted up to and
    /// with it.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub fn consumed(&self) -> Result<Vec<u64>, LedgerError> {
        self.read("reading progress", |c| {
            c.prepare("SELECT accepted FROM consumed_ ORDER BY unit")?
                .query_map([], |r| r.get(0).map(uint))?
                .collect()
        })
    }

    /// Every accepted example, in order.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
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

    /// Everything that was proposed, as the generator left it, in the order of units. Units beyond
    /// the target are left out.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub fn candidates(&self) -> Result<Vec<Candidate>, LedgerError> {
        let rows: Vec<CandidateRow> = self.read("reading candidates", |c| {
            c.prepare(
                "SELECT unit, n, payload, attributes, parents
                 FROM candidate_ JOIN consumed_ USING (unit) ORDER BY unit, n",
            )?
            .query_map([], CandidateRow::read)?
            .collect()
        })?;
        rows.into_iter().map(CandidateRow::candidate).collect()
    }

    /// Everything that one filter has said, in order, with the candidates as it saw them.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub fn history(&self, filter: u32) -> Result<Vec<Judged>, LedgerError> {
        let rows = self.read("reading verdicts", |c| {
            c.prepare(&format!(
                "SELECT v.unit, v.n, {SEEN}, c.attributes, c.parents,
                        v.decision, v.code, v.message, v.scores, v.nearest, v.payload
                 FROM verdict_ v JOIN candidate_ c ON c.unit = v.unit AND c.n = v.n
                 WHERE v.filter = ?1 AND v.decision <> 'quarantine'
                 ORDER BY v.unit, v.n",
            ))?
            .query_map([filter], |r| {
                Ok(HistoryRow {
                    candidate: CandidateRow::read(r)?,
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
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
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

    /// How many records were put aside because they break a filter.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
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

/// The payload of candidate `c` as the filter of verdict `v` saw it: as the last filter before it
/// left it.
const SEEN: &str = "coalesce((SELECT e.payload FROM verdict_ e
                              WHERE e.unit = v.unit AND e.n = v.n AND e.filter < v.filter
                                AND e.decision = 'edit' ORDER BY e.filter DESC LIMIT 1),
                             c.payload)";

struct CandidateRow {
    unit: i64,
    n: u32,
    payload: String,
    attributes: String,
    parents: String,
}

impl CandidateRow {
    /// Reads the first columns of a row.
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(CandidateRow {
            unit: row.get(0)?,
            n: row.get(1)?,
            payload: row.get(2)?,
            attributes: row.get(3)?,
            parents: row.get(4)?,
        })
    }

    fn candidate(self) -> Result<Candidate, LedgerError> {
        let payload: Payload = parse(&self.payload)?;
        Ok(Candidate {
            id: CandidateId {
                unit: uint(self.unit),
                n: self.n,
            },
            seed: crate::seed::of_content(&payload),
            payload,
            attributes: parse(&self.attributes)?,
            parents: parse(&self.parents)?,
        })
    }
}

struct HistoryRow {
    candidate: CandidateRow,
    decision: String,
    code: String,
    message: String,
    scores: String,
    nearest: Option<String>,
    left: Option<String>,
}

impl HistoryRow {
    fn judged(self) -> Result<Judged, LedgerError> {
        let decision = match (self.decision.as_str(), self.left) {
            ("keep", _) => Decision::Keep,
            ("drop", _) => Decision::Drop,
            ("edit", Some(left)) => Decision::Edit(parse(&left)?),
            (other, _) => return Err(LedgerError::Damaged(format!("decision `{other}`"))),
        };
        Ok(Judged {
            candidate: self.candidate.candidate()?,
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
