//! What a case may expect: the shapes that [`lines`](super::lines) writes, with every key free to
//! be left out. A key or a word that no plugin can ever say is a mistake in the case.

use pacos_plugin::{Diagnostic, Severity};
use serde_json::{Value, json};

use super::lines::{Misread, known_keys, shown};

const FAILURE: &[&str] = &["error", "message"];
const VERDICT: &[&str] = &[
    "decision", "code", "message", "scores", "nearest", "payload",
];
const NEAREST: &[&str] = &["seed", "unit", "n", "score"];
const PAYLOAD: &[&str] = &["instruction", "input", "output", "messages"];
const PROPOSALS: &[&str] = &["candidates", "rejects", "requests"];
const CANDIDATE: &[&str] = &[
    "instruction",
    "input",
    "output",
    "messages",
    "attributes",
    "parents",
    "place",
];
const REJECT: &[&str] = &["code", "message", "place"];
const JUDGEMENT: &[&str] = &[
    "item",
    "first",
    "second",
    "outcome",
    "flipped",
    "scores",
    "attributes",
];
const METRIC: &[&str] = &["name", "value", "standard_error", "n", "attributes"];
const DIAGNOSTIC: &[&str] = &["severity", "path", "message", "help"];

type Read = Result<Value, Misread>;

fn is_failure(value: &Value) -> bool {
    value.get("error").is_some()
}

fn table(value: &Value, known: &[&str]) -> Result<(), Misread> {
    if !value.is_object() {
        return Err(format!("expected a table, found {}", shown(value)));
    }
    known_keys(value, known)
}

fn below(value: &Value, key: &str, known: &[&str]) -> Result<(), Misread> {
    match value.get(key) {
        Some(inner) => table(inner, known).map_err(|error| format!("{key}: {error}")),
        None => Ok(()),
    }
}

fn each(value: &Value, key: &str, known: &[&str]) -> Result<(), Misread> {
    let Some(inner) = value.get(key) else {
        return Ok(());
    };
    let Some(items) = inner.as_array() else {
        return Err(format!("{key}: expected a list, found {}", shown(inner)));
    };
    for (number, item) in (1..).zip(items) {
        table(item, known).map_err(|error| format!("{key} {number}: {error}"))?;
    }
    Ok(())
}

fn one_of(value: &Value, key: &str, words: &[&str]) -> Result<(), Misread> {
    match value.get(key) {
        Some(word) if !words.iter().any(|known| word == known) => Err(format!(
            "{key} is {}, expected one of {}",
            shown(word),
            words.join(", ")
        )),
        _ => Ok(()),
    }
}

pub(super) fn verdict(value: &Value, _number: usize) -> Read {
    if is_failure(value) {
        table(value, FAILURE)?;
        return Ok(value.clone());
    }
    table(value, VERDICT)?;
    one_of(value, "decision", &["keep", "drop", "edit"])?;
    below(value, "nearest", NEAREST)?;
    below(value, "payload", PAYLOAD)?;
    Ok(value.clone())
}

pub(super) fn proposals(value: &Value, _number: usize) -> Read {
    if is_failure(value) {
        table(value, FAILURE)?;
        return Ok(value.clone());
    }
    table(value, PROPOSALS)?;
    each(value, "candidates", CANDIDATE)?;
    each(value, "rejects", REJECT)?;
    Ok(value.clone())
}

pub(super) fn judgements(value: &Value, _number: usize) -> Read {
    if is_failure(value) {
        table(value, FAILURE)?;
        return Ok(value.clone());
    }
    let Some(judgements) = value.as_array() else {
        return Err(format!(
            "expected a list of judgements, found {}",
            shown(value)
        ));
    };
    for (number, judgement) in (1..).zip(judgements) {
        let outcomes = ["first", "second", "tie", "unparsed", "refused"];
        table(judgement, JUDGEMENT)
            .and_then(|()| one_of(judgement, "outcome", &outcomes))
            .map_err(|error| format!("judgement {number}: {error}"))?;
    }
    Ok(value.clone())
}

pub(super) fn metric(value: &Value, _number: usize) -> Read {
    table(value, METRIC)?;
    match value.get("name") {
        Some(Value::String(_)) => Ok(value.clone()),
        _ => Err("it has no `name`".into()),
    }
}

pub(super) fn diagnostic(value: &Value, _number: usize) -> Read {
    table(value, DIAGNOSTIC)?;
    one_of(value, "severity", &["error", "warning"])?;
    Ok(value.clone())
}

/// A diagnostic in the words of a case.
pub(super) fn of_diagnostic(diagnostic: &Diagnostic) -> Value {
    let severity = match diagnostic.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    json!({
        "severity": severity,
        "path": diagnostic.path,
        "message": diagnostic.message,
        "help": diagnostic.help,
    })
}
