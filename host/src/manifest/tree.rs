//! A manifest as a tree of values, each of which knows where it was written.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

/// A stretch of bytes in the manifest's text, or in one of the overrides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub source: Source,
    pub start: usize,
    pub end: usize,
}

/// What a [`Place`] counts its bytes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// The file.
    Text,
    /// `--set`, by index.
    Override(usize),
}

/// A value and its place; a table's place is its header, where it has one.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub place: Place,
    pub value: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    String(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    /// As TOML writes it.
    Date(String),
    Array(Vec<Node>),
    Table(BTreeMap<String, Entry>),
}

/// A key of a table with its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: Place,
    pub node: Node,
}

/// Where a TOML fragment stands in its source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    pub source: Source,
    pub offset: usize,
}

impl Origin {
    pub(super) fn place(&self, span: std::ops::Range<usize>) -> Place {
        Place {
            source: self.source,
            start: self.offset + span.start,
            end: self.offset + span.end,
        }
    }
}

impl Value {
    /// With its article, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::String(_) => "a string",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Boolean(_) => "a boolean",
            Value::Date(_) => "a date",
            Value::Array(_) => "an array",
            Value::Table(_) => "a table",
        }
    }

    /// A scalar as it would stand in a message.
    pub(super) fn shown(&self) -> String {
        match self {
            Value::String(text) => format!("{text:?}"),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Boolean(flag) => flag.to_string(),
            Value::Date(date) => date.clone(),
            Value::Array(_) | Value::Table(_) => self.kind().to_owned(),
        }
    }
}

impl Node {
    /// The entries of a table.
    pub(super) fn table(&self) -> Option<&BTreeMap<String, Entry>> {
        match &self.value {
            Value::Table(entries) => Some(entries),
            _ => None,
        }
    }

    /// Follows a dotted path; a segment may hold dots itself where a quoted key does.
    pub(super) fn find(&self, path: &str) -> Option<Found<'_>> {
        let whole = Found {
            key: None,
            node: self,
        };
        if path.is_empty() {
            return Some(whole);
        }
        let ends = path
            .match_indices('.')
            .map(|(at, _)| at)
            .chain([path.len()]);
        for end in ends {
            let (segment, rest) = (
                &path[..end],
                path[end..].strip_prefix('.').unwrap_or_default(),
            );
            let step = match &self.value {
                Value::Table(entries) => entries.get(segment).map(|entry| Found {
                    key: Some(entry.key),
                    node: &entry.node,
                }),
                Value::Array(items) => segment
                    .parse::<usize>()
                    .ok()
                    .and_then(|index| items.get(index))
                    .map(|node| Found { key: None, node }),
                _ => None,
            };
            let found = step.and_then(|step| match rest {
                "" => Some(step),
                rest => step.node.find(rest),
            });
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// As JSON. Places of numbers that JSON cannot hold (`nan`, `inf`) go to `unfit`.
    pub(super) fn to_json(&self, unfit: &mut Vec<Place>) -> serde_json::Value {
        match &self.value {
            Value::String(text) | Value::Date(text) => text.as_str().into(),
            Value::Integer(number) => (*number).into(),
            Value::Float(number) => {
                if !number.is_finite() {
                    unfit.push(self.place);
                }
                (*number).into()
            }
            Value::Boolean(flag) => (*flag).into(),
            Value::Array(items) => items.iter().map(|item| item.to_json(unfit)).collect(),
            Value::Table(entries) => entries
                .iter()
                .map(|(key, entry)| (key.clone(), entry.node.to_json(unfit)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }
}

/// What a path leads to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found<'a> {
    /// Where its key is written; absent for the root and for elements of arrays.
    pub key: Option<Place>,
    pub node: &'a Node,
}

/// Takes over the parser's tree. Places of integers beyond 64 bits go to `unfit`.
pub(super) fn from_toml(
    value: &DeValue<'_>,
    span: std::ops::Range<usize>,
    origin: Origin,
    unfit: &mut Vec<Place>,
) -> Node {
    let place = origin.place(span);
    let value = match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => {
            let number = i64::from_str_radix(number.as_str(), number.radix());
            Value::Integer(number.unwrap_or_else(|_| {
                unfit.push(place);
                0
            }))
        }
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or_else(|_| {
            unfit.push(place);
            0.0
        })),
        DeValue::Boolean(flag) => Value::Boolean(*flag),
        DeValue::Datetime(date) => Value::Date(date.to_string()),
        DeValue::Array(items) => Value::Array(
            items
                .iter()
                .map(|item| from_toml(item.get_ref(), item.span(), origin, unfit))
                .collect(),
        ),
        DeValue::Table(entries) => Value::Table(table_from_toml(entries, origin, unfit)),
    };
    Node { place, value }
}

/// The entries of a table of the parser's tree.
pub(super) fn table_from_toml(
    entries: &DeTable<'_>,
    origin: Origin,
    unfit: &mut Vec<Place>,
) -> BTreeMap<String, Entry> {
    entries
        .iter()
        .map(|(key, value)| {
            let entry = Entry {
                key: origin.place(key.span()),
                node: from_toml(value.get_ref(), value.span(), origin, unfit),
            };
            (key.get_ref().to_string(), entry)
        })
        .collect()
}
