//! What the calls of each plugin came to.

use rusqlite::params;

use super::{
    Ledger, LedgerError,
    column::{int, uint},
};
use crate::plugin::Usage;

impl Ledger {
    /// Adds to what the calls of a plugin came to. `stage` is its place in the recipe.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub async fn add_usage(
        &self,
        stage: String,
        plugin: String,
        usage: Usage,
    ) -> Result<(), LedgerError> {
        self.write("recording a plugin's calls", move |c| {
            c.execute(
                "INSERT INTO plugin_use_ VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
                 ON CONFLICT (stage, plugin) DO UPDATE SET
                     calls = calls + excluded.calls, records = records + excluded.records,
                     traps = traps + excluded.traps, timeouts = timeouts + excluded.timeouts,
                     invalid = invalid + excluded.invalid, errors = errors + excluded.errors,
                     seconds = seconds + excluded.seconds,
                     memory = max(memory, excluded.memory)",
                params![
                    stage,
                    plugin,
                    int(usage.calls),
                    int(usage.records),
                    int(usage.traps),
                    int(usage.timeouts),
                    int(usage.invalid),
                    int(usage.errors),
                    usage.seconds,
                    int(usage.memory)
                ],
            )
            .map(drop)
        })
        .await
    }

    /// What the calls of each plugin came to: its place in the recipe, its name and version, sums.
    /// In the order of the recipe.
    #[allow(clippy::missing_errors_doc, reason = "said once, at `Ledger::meta`")]
    pub fn usage(&self) -> Result<Vec<(String, String, Usage)>, LedgerError> {
        self.read("reading plugins' calls", |c| {
            let mut rows = c.prepare(
                "SELECT stage, plugin, calls, records, traps, timeouts, invalid, errors, seconds,
                        memory
                 FROM plugin_use_
                 ORDER BY CASE WHEN stage = 'generator' THEN 0 WHEN stage LIKE 'filters.%' THEN 1
                               ELSE 2 END,
                          length(stage), stage, plugin",
            )?;
            rows.query_map([], |r| {
                let usage = Usage {
                    calls: uint(r.get(2)?),
                    records: uint(r.get(3)?),
                    traps: uint(r.get(4)?),
                    timeouts: uint(r.get(5)?),
                    invalid: uint(r.get(6)?),
                    errors: uint(r.get(7)?),
                    seconds: r.get(8)?,
                    memory: uint(r.get(9)?),
                };
                Ok((r.get(0)?, r.get(1)?, usage))
            })?
            .collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn uses_add_up_and_come_in_the_order_of_the_recipe() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&dir.path().join("ledger.sqlite")).unwrap();
        let once = Usage {
            calls: 2,
            records: 300,
            traps: 1,
            seconds: 0.5,
            memory: 7,
            ..Usage::default()
        };
        for stage in ["filters.10", "filters.2", "generator", "filters.2"] {
            let added = ledger.add_usage(stage.into(), "p 1.0.0".into(), once.clone());
            added.await.unwrap();
        }
        let usage = ledger.usage().unwrap();
        let stages: Vec<&str> = usage.iter().map(|(stage, ..)| stage.as_str()).collect();
        assert_eq!(stages, ["generator", "filters.2", "filters.10"]);
        let twice = &usage[1].2;
        assert_eq!((twice.calls, twice.records, twice.traps), (4, 600, 2));
        assert_eq!((twice.seconds, twice.memory), (1.0, 7));
    }
}
