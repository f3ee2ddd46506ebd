//! What an earlier part of the run tells of the rest.

use std::{collections::BTreeMap, path::Path};

use pacos_plugin::{CandidateId, Payload};
use rusqlite::Connection;
use serde::Serialize;

use super::models::KnownModels;
use crate::{
    ledger::{Ledger, LedgerError},
    stages::Prepared,
};

/// What the attempts of one stage were charged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Charged {
    /// Requests that were sent at least once.
    pub requests: f64,
    /// Their prompts.
    pub prompt_tokens: f64,
    /// Their replies.
    pub reply_tokens: f64,
    /// US dollars.
    pub usd: f64,
}

/// A run so far.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    /// Units that have been through the filters.
    pub units: u64,
    /// Examples that came of them.
    pub examples: Vec<(CandidateId, Payload)>,
    /// Requests of a unit, on average; those of units that are surplus so far count too.
    pub requests_a_unit: f64,
    /// What was charged, by stage.
    pub charged: BTreeMap<String, Charged>,
    /// Seconds of generation, where it was not cut off.
    pub seconds: Option<f64>,
    /// Tokens a second of the training so far.
    pub training_speed: Option<f64>,
}

/// Reads the run in `dir`. The second value says why it cannot be used, where there is one.
pub(super) fn measured(
    prepared: &Prepared,
    models: &KnownModels,
    dir: &Path,
) -> (Option<Measured>, Option<String>) {
    let path = dir.join("ledger.sqlite");
    if !path.exists() {
        return (None, None);
    }
    let shown = dir.display();
    let read = Ledger::open_to_read(&path).and_then(|ledger| {
        let difference = difference(prepared, models, &ledger)?;
        Ok((read(&ledger)?, difference))
    });
    match read {
        Ok((measured, None)) => (Some(measured).filter(|m| m.units > 0), None),
        Ok((_, Some(difference))) => {
            let sentence = format!(
                "{shown} holds a run of another recipe ({difference} differs), so its figures are not used; `pacos run` needs another --dir, or --fork NEW"
            );
            (None, Some(sentence))
        }
        Err(error) => {
            let sentence = format!("the figures of {shown} are not used: {error}");
            (None, Some(sentence))
        }
    }
}

/// The first thing in which the recorded run is another than this recipe, as far as can be known
/// without opening a model.
fn difference(
    prepared: &Prepared,
    models: &KnownModels,
    ledger: &Ledger,
) -> Result<Option<String>, LedgerError> {
    let Some(recorded) = ledger.meta("fingerprint")? else {
        return Ok(None);
    };
    let recorded: BTreeMap<String, String> = serde_json::from_str(&recorded)
        .map_err(|error| LedgerError::Damaged(format!("fingerprint: {error}")))?;
    let mut here = prepared.generation_fingerprint(|_| None);
    for role in models.roles() {
        let key = format!("roles.{role}");
        let identity = models.of_role(role).and_then(|model| model.identity());
        match (identity, recorded.get(&key)) {
            (Some(identity), Some(_)) => here.insert(key, identity),
            // A local model's identity is a hash of its files.
            (_, Some(as_recorded)) => here.insert(key, as_recorded.clone()),
            (_, None) => None,
        };
    }
    let mut keys = recorded.keys().chain(here.keys());
    Ok(keys
        .find(|key| recorded.get(*key) != here.get(*key))
        .cloned())
}

fn read(ledger: &Ledger) -> Result<Measured, LedgerError> {
    let number = |sql: &'static str| {
        ledger.read("measuring the run so far", |c| {
            c.query_row(sql, [], |row| row.get::<_, Option<f64>>(0))
        })
    };
    let ended = number("SELECT count(*) FROM units")?.unwrap_or(0.0);
    let requests = number(
        "SELECT count(*) FROM requests
         WHERE stage = 'generator' AND place IN (SELECT CAST(unit AS TEXT) FROM units)",
    )?;
    Ok(Measured {
        units: ledger.consumed()?.len() as u64,
        examples: ledger.examples()?,
        requests_a_unit: requests.unwrap_or(0.0) / ended.max(1.0),
        charged: ledger.read("adding up what was charged", charged)?,
        seconds: number("SELECT max(seconds) FROM stages WHERE name = 'generate' AND seconds > 0")?,
        training_speed: number("SELECT sum(tokens) / nullif(sum(seconds), 0) FROM training")?,
    })
}

fn charged(connection: &Connection) -> rusqlite::Result<BTreeMap<String, Charged>> {
    let mut query = connection.prepare(
        "SELECT stage, count(DISTINCT key), sum(prompt_tokens), sum(completion_tokens), sum(usd)
         FROM attempts GROUP BY stage",
    )?;
    let rows = query.query_map([], |row| {
        let charged = Charged {
            requests: row.get(1)?,
            prompt_tokens: row.get(2)?,
            reply_tokens: row.get(3)?,
            usd: row.get(4)?,
        };
        Ok((row.get(0)?, charged))
    })?;
    rows.collect()
}
