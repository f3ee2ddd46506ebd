//! What one run takes over from another.

use std::path::Path;

use rusqlite::{Connection, params_from_iter, types::Value};

use super::{
    Ledger, LedgerError,
    column::{int, uint},
};

/// What belongs to the units before number `?1`, in an order in which it can be written.
const GENERATION: [(&str, &str); 8] = [
    (
        "request_",
        "key IN (SELECT key FROM call_ WHERE (stage = 'generator' OR stage LIKE 'filters.%')
                 AND CAST(place AS INTEGER) < ?1)",
    ),
    (
        "call_",
        "(stage = 'generator' OR stage LIKE 'filters.%') AND CAST(place AS INTEGER) < ?1",
    ),
    ("unit_", "unit < ?1"),
    ("candidate_", "unit < ?1"),
    ("reject_", "unit < ?1"),
    ("verdict_", "unit < ?1"),
    ("consumed_", "unit < ?1"),
    ("example_", "unit < ?1"),
];

impl Ledger {
    /// Takes over what another run generated, for a run whose generation has the same
    /// fingerprint: its units in order, up to the one that reaches `target`. Nothing of it costs
    /// anything here. Does nothing where this run has units of its own, or the other run
    /// generated otherwise.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub async fn import_generation(&self, other: &Path, target: u64) -> Result<(), LedgerError> {
        if !self.consumed()?.is_empty() {
            return Ok(());
        }
        let fingerprint = self.meta("fingerprint")?;
        let rows = {
            let other = super::open_reader(other)?;
            let read = |c: &Connection| -> rusqlite::Result<Vec<(String, Vec<Value>)>> {
                let theirs: Option<String> = c.query_row(
                    "SELECT max(value) FROM meta_ WHERE key = 'fingerprint'",
                    [],
                    |r| r.get(0),
                )?;
                if theirs.is_none() || theirs != fingerprint {
                    return Ok(Vec::new());
                }
                let units = units(c, target)?;
                let mut rows = Vec::new();
                for (table, condition) in GENERATION {
                    let values = match table {
                        // Examples that were accepted late may lie beyond those that stay behind.
                        "example_" => "row_number() OVER (ORDER BY position) - 1, unit, n, payload",
                        _ => "*",
                    };
                    let mut select =
                        c.prepare(&format!("SELECT {values} FROM {table} WHERE {condition}"))?;
                    let columns = select.column_count();
                    let places = vec!["?"; columns].join(", ");
                    // Replies may be here already.
                    let insert = format!("INSERT OR IGNORE INTO {table} VALUES ({places})");
                    let mut found = select.query([int(units)])?;
                    while let Some(row) = found.next()? {
                        let values = (0..columns).map(|column| row.get(column));
                        rows.push((insert.clone(), values.collect::<Result<_, _>>()?));
                    }
                }
                Ok(rows)
            };
            read(&other).map_err(LedgerError::sqlite("reading what the other run generated"))?
        };
        self.write("taking over what was generated", move |c| {
            for (insert, values) in rows {
                c.prepare_cached(&insert)?
                    .execute(params_from_iter(values))?;
            }
            Ok(())
        })
        .await
    }
}

/// How many units from the first on lead to `target` examples, or as far as they go.
fn units(c: &Connection, target: u64) -> rusqlite::Result<u64> {
    let mut consumed = c.prepare("SELECT accepted FROM consumed_ ORDER BY unit")?;
    let mut totals = consumed.query_map([], |r| r.get(0).map(uint))?;
    let (mut units, mut total) = (0, 0);
    while total < target
        && let Some(next) = totals.next()
    {
        (units, total) = (units + 1, next?);
    }
    Ok(units)
}

#[cfg(test)]
mod tests {
    use pacos_plugin::{CandidateId, Error, Payload, Proposal, Proposals, Task, Verdict};

    use super::*;
    use crate::ledger::{Consumed, UnitRecord, VerdictRecord};

    fn payload(id: CandidateId) -> Payload {
        Payload::Task(Task::new(format!("{}.{}", id.unit, id.n), "", ""))
    }

    fn verdict(id: CandidateId, verdict: Result<Verdict, Error>) -> VerdictRecord {
        VerdictRecord {
            filter: 0,
            plugin: "facts 0.1.0".into(),
            id,
            verdict,
        }
    }

    /// A unit whose candidates are kept, but for those whose numbers are in `aside`.
    async fn unit(ledger: &Ledger, unit: u64, candidates: u32, aside: &[u32], total: u64) {
        let ids: Vec<_> = (0..candidates).map(|n| CandidateId { unit, n }).collect();
        let proposal = |id: &CandidateId| Proposal {
            payload: payload(*id),
            attributes: Vec::new(),
            parents: Vec::new(),
            place: None,
        };
        let outcome = Ok(Proposals {
            candidates: ids.iter().map(proposal).collect(),
            rejects: Vec::new(),
        });
        let recorded = ledger.record_unit(unit, UnitRecord { outcome }, 0.0);
        recorded.await.unwrap();
        let kept = ids.iter().filter(|id| !aside.contains(&id.n));
        let consumed = Consumed {
            unit,
            verdicts: ids
                .iter()
                .map(|id| {
                    let spent = Err(Error::new("budget", "it is spent"));
                    let kept = !aside.contains(&id.n);
                    verdict(*id, if kept { Ok(Verdict::keep()) } else { spent })
                })
                .collect(),
            accepted: kept.map(|id| (*id, payload(*id))).collect(),
            accepted_total: total,
        };
        ledger.record_consumed(consumed).await.unwrap();
    }

    #[tokio::test]
    async fn what_was_accepted_late_is_taken_over_without_gaps() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old.sqlite"), dir.path().join("new.sqlite"));
        let ledger = Ledger::open(&old).unwrap();
        ledger.set_meta("fingerprint", "{}".into()).await.unwrap();
        unit(&ledger, 0, 2, &[1], 1).await;
        unit(&ledger, 1, 2, &[], 3).await;
        let aside = ledger.put_aside(0, "budget").unwrap();
        assert_eq!(aside.len(), 1);
        let late = aside[0].id;
        assert_eq!(late, CandidateId { unit: 0, n: 1 });
        let verdicts = vec![verdict(late, Ok(Verdict::keep()))];
        let accepted = vec![(late, aside[0].payload.clone())];
        ledger.record_late(verdicts, accepted).await.unwrap();
        let order = |ledger: &Ledger| -> Vec<(u64, u32)> {
            let examples = ledger.examples().unwrap().into_iter();
            examples.map(|(id, _)| (id.unit, id.n)).collect()
        };
        assert_eq!(order(&ledger), [(0, 0), (1, 0), (1, 1), (0, 1)]);
        assert!(ledger.put_aside(0, "budget").unwrap().is_empty());
        assert_eq!(ledger.quarantined().unwrap(), 0);
        assert_eq!(ledger.history(0).unwrap().len(), 4);

        let fork = Ledger::open(&new).unwrap();
        fork.set_meta("fingerprint", "{}".into()).await.unwrap();
        fork.import_generation(&old, 1).await.unwrap();
        assert_eq!(order(&fork), [(0, 0), (0, 1)]);
        // The next unit's examples find their places free.
        unit(&fork, 1, 2, &[], 4).await;
        assert_eq!(order(&fork), [(0, 0), (0, 1), (1, 0), (1, 1)]);
    }
}
