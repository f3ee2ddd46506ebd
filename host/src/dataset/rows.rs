//! The examples with their provenance, read from the ledger page by page.

use std::collections::{HashMap, VecDeque};

use pacos_plugin::{Message, Origin, Payload, Place, Task};
use rusqlite::{Connection, params};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::AboutModel;
use crate::ledger::{Ledger, LedgerError};

/// Examples of one page: some megabytes, and few enough statements.
const PAGE: i64 = 4096;

/// One example.
pub(super) struct Row {
    pub(super) unit: i64,
    pub(super) n: i64,
    pub(super) payload: Payload,
    pub(super) parents: Vec<String>,
    pub(super) attributes: Value,
    pub(super) verdicts: Vec<RowVerdict>,
    pub(super) source: Option<Source>,
}

/// What one filter said.
#[derive(Serialize)]
pub(super) struct RowVerdict {
    plugin: String,
    decision: String,
    code: String,
    scores: Value,
    nearest: Option<Nearest>,
}

#[derive(Serialize)]
struct Nearest {
    origin: String,
    score: Value,
}

/// The reply that an example was read from, and where in it.
#[derive(Serialize)]
pub(super) struct Source {
    pub(super) model: Option<String>,
    pub(super) request_key: Option<String>,
    pub(super) ordinal: u32,
    pub(super) start: u32,
    pub(super) end: u32,
}

/// A row of `dataset.jsonl`.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    id: String,
    #[serde(flatten)]
    payload: LinePayload<'a>,
    parents: &'a [String],
    attributes: &'a Value,
    verdicts: &'a [RowVerdict],
    edited: bool,
    source: Option<&'a Source>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum LinePayload<'a> {
    Task(&'a Task),
    Chat { messages: &'a [Message] },
}

impl Row {
    /// Unit and place in it: the name of a candidate everywhere in the dataset.
    pub(super) fn id(&self) -> String {
        format!("{}-{}", self.unit, self.n)
    }

    /// Whether a filter changed what the generator proposed.
    pub(super) fn edited(&self) -> bool {
        self.verdicts
            .iter()
            .any(|verdict| verdict.decision == "edit")
    }

    /// The example in Alpaca's three fields, if it fits them: a conversation does when it is one
    /// question and one answer.
    pub(super) fn task(&self) -> Option<Task> {
        match &self.payload {
            Payload::Task(task) => Some(task.clone()),
            Payload::Chat(messages) => match messages.as_slice() {
                [user, assistant] if user.role == "user" && assistant.role == "assistant" => {
                    Some(Task::new(&*user.content, "", &*assistant.content))
                }
                _ => None,
            },
        }
    }

    pub(super) fn line(&self) -> Line<'_> {
        Line {
            id: self.id(),
            payload: match &self.payload {
                Payload::Task(task) => LinePayload::Task(task),
                Payload::Chat(messages) => LinePayload::Chat { messages },
            },
            parents: &self.parents,
            attributes: &self.attributes,
            verdicts: &self.verdicts,
            edited: self.edited(),
            source: self.source.as_ref(),
        }
    }
}

/// Reads examples in order.
pub(super) struct Rows<'a> {
    ledger: &'a Ledger,
    models: HashMap<&'a str, &'a str>,
    filters: Vec<u32>,
    /// Position of the next example.
    next: i64,
}

impl<'a> Rows<'a> {
    pub(super) fn new(ledger: &'a Ledger, models: &'a [AboutModel]) -> Result<Self, LedgerError> {
        let filters = ledger.read("reading which filters there were", |c| {
            c.prepare("SELECT DISTINCT filter FROM verdict_ ORDER BY filter")?
                .query_map([], |r| r.get(0))?
                .collect()
        })?;
        Ok(Rows {
            ledger,
            models: models
                .iter()
                .filter_map(|model| Some((model.identity.as_deref()?, model.model.as_str())))
                .collect(),
            filters,
            next: 0,
        })
    }

    /// The next examples; none at the end.
    pub(super) fn next_page(&mut self) -> Result<Vec<Row>, LedgerError> {
        let first = self.next;
        let (examples, mut verdicts) = self.ledger.read("reading examples", |c| {
            let examples = examples(c, first)?;
            let last = examples.last().map_or(first, |example| example.position);
            let verdicts = self
                .filters
                .iter()
                .map(|filter| verdicts(c, *filter, first, last))
                .collect::<rusqlite::Result<Vec<_>>>()?;
            Ok((examples, verdicts))
        })?;
        if let Some(last) = examples.last() {
            self.next = last.position + 1;
        }
        examples
            .into_iter()
            .map(|example| {
                // Both lists are in order of position, and a filter may have said nothing.
                let said = verdicts
                    .iter_mut()
                    .filter_map(|list| {
                        list.pop_front_if(|verdict| verdict.position == example.position)
                    })
                    .map(RawVerdict::row)
                    .collect::<Result<_, _>>()?;
                example.row(said, &self.models)
            })
            .collect()
    }
}

struct RawExample {
    position: i64,
    unit: i64,
    n: i64,
    payload: String,
    attributes: String,
    parents: String,
    place: Option<String>,
    key: Option<String>,
    model: Option<String>,
    identity: Option<String>,
}

fn examples(c: &Connection, first: i64) -> rusqlite::Result<Vec<RawExample>> {
    c.prepare_cached(
        "SELECT e.position, e.unit, e.n, e.payload, c.attributes, c.parents, c.place,
                hex(k.key), q.model, q.identity
         FROM example_ e
         JOIN candidate_ c ON c.unit = e.unit AND c.n = e.n
         LEFT JOIN call_ k ON k.stage = 'generator' AND k.place = CAST(e.unit AS TEXT)
                          AND k.ordinal = json_extract(c.place, '$.ordinal')
         LEFT JOIN request_ q ON q.key = k.key
         WHERE e.position >= ?1 ORDER BY e.position LIMIT ?2",
    )?
    .query_map(params![first, PAGE], |r| {
        Ok(RawExample {
            position: r.get(0)?,
            unit: r.get(1)?,
            n: r.get(2)?,
            payload: r.get(3)?,
            attributes: r.get(4)?,
            parents: r.get(5)?,
            place: r.get(6)?,
            key: r.get(7)?,
            model: r.get(8)?,
            identity: r.get(9)?,
        })
    })?
    .collect()
}

impl RawExample {
    fn row(
        self,
        verdicts: Vec<RowVerdict>,
        models: &HashMap<&str, &str>,
    ) -> Result<Row, LedgerError> {
        let place: Option<Place> = self.place.as_deref().map(parse).transpose()?;
        let (name, identity) = (self.model, self.identity);
        let source = place.map(|place| Source {
            model: identity
                .and_then(|identity| models.get(identity.as_str()))
                .map(|model| (*model).to_owned())
                // A reply taken over from another run: its name there is all that is known.
                .or(name),
            request_key: self.key.filter(|key| !key.is_empty()),
            ordinal: place.ordinal,
            start: place.start,
            end: place.end,
        });
        Ok(Row {
            unit: self.unit,
            n: self.n,
            payload: parse(&self.payload)?,
            parents: parse::<Vec<Origin>>(&self.parents)?
                .iter()
                .map(name_of)
                .collect(),
            attributes: parse(&self.attributes)?,
            verdicts,
            source,
        })
    }
}

struct RawVerdict {
    position: i64,
    plugin: String,
    decision: String,
    code: String,
    scores: String,
    nearest: Option<String>,
}

fn verdicts(
    c: &Connection,
    filter: u32,
    first: i64,
    last: i64,
) -> rusqlite::Result<VecDeque<RawVerdict>> {
    c.prepare_cached(
        "SELECT e.position, v.plugin, v.decision, v.code, v.scores, v.nearest
         FROM example_ e JOIN verdict_ v ON v.filter = ?1 AND v.unit = e.unit AND v.n = e.n
         WHERE e.position BETWEEN ?2 AND ?3 ORDER BY e.position",
    )?
    .query_map(params![filter, first, last], |r| {
        Ok(RawVerdict {
            position: r.get(0)?,
            plugin: r.get(1)?,
            decision: r.get(2)?,
            code: r.get(3)?,
            scores: r.get(4)?,
            nearest: r.get(5)?,
        })
    })?
    .collect()
}

impl RawVerdict {
    fn row(self) -> Result<RowVerdict, LedgerError> {
        /// As recorded; a figure that is no number was recorded as null.
        #[derive(serde::Deserialize)]
        struct Recorded {
            origin: Origin,
            score: Value,
        }
        let nearest: Option<Recorded> = self.nearest.as_deref().map(parse).transpose()?;
        Ok(RowVerdict {
            plugin: self.plugin,
            decision: self.decision,
            code: self.code,
            scores: parse(&self.scores)?,
            nearest: nearest.map(|nearest| Nearest {
                origin: name_of(&nearest.origin),
                score: nearest.score,
            }),
        })
    }
}

/// `seed-3` or the `id` of a candidate.
fn name_of(origin: &Origin) -> String {
    match origin {
        Origin::Seed(line) => format!("seed-{line}"),
        Origin::Candidate(id) => format!("{}-{}", id.unit, id.n),
    }
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, LedgerError> {
    serde_json::from_str(text).map_err(|e| LedgerError::Damaged(format!("{e}: {text:.80}")))
}
