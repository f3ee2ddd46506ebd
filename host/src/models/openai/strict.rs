//! The part of JSON Schema that OpenAI's strict structured outputs take.
//!
//! Source: "Supported schemas" in OpenAI's guide to structured outputs. What the guide leaves out
//! is refused with status 400 by some models and deployments and taken by others, so that a
//! schema is kept to the guide. Servers of other makers take more, and their constrained decoding
//! is better for it: lengths keep a small model from writing without end.

use serde_json::{Map, Value};

/// Constraints and notes that the guide does not list. Without one a schema takes more, and a
/// plugin reads replies with care anyway.
const UNLISTED: [&str; 17] = [
    "minLength",
    "maxLength",
    "uniqueItems",
    "contains",
    "minContains",
    "maxContains",
    "unevaluatedItems",
    "patternProperties",
    "unevaluatedProperties",
    "propertyNames",
    "minProperties",
    "maxProperties",
    "not",
    "dependentRequired",
    "dependentSchemas",
    "default",
    "examples",
];

/// Constraints that the guide excepts for fine-tuned models.
const FINE_TUNED: [&str; 9] = [
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minItems",
    "maxItems",
];

/// Keywords that shape a reply, and that strict mode has no place for.
const COMPOSITION: [&str; 8] = [
    "allOf",
    "oneOf",
    "if",
    "then",
    "else",
    "prefixItems",
    "dependencies",
    "additionalItems",
];

/// Whether a server is OpenAI's own or Azure's copy of it, which check schemas against the guide.
pub(super) fn keeps_to_the_guide(host: &str) -> bool {
    let of = |domain: &str| {
        host.strip_suffix(domain)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    of("openai.com") || of("openai.azure.com") || of("cognitiveservices.azure.com")
}

/// `schema` without what strict mode does not take, at every level, and with objects closed that
/// say nothing of other properties: a reply to the closed schema is one to the open schema.
///
/// Nothing where strict mode would need a change of meaning: where a property may be absent, an
/// object has arbitrary keys, or for `allOf` and its like.
pub(super) fn subset(schema: &Value, model: &str) -> Option<Value> {
    let mut kept = schema.clone();
    let root = schema["type"] == "object" && schema.get("anyOf").is_none();
    (root && reduce(&mut kept, model.starts_with("ft:"))).then_some(kept)
}

/// Says whether strict mode takes what is left. If not, the rest may be as it was.
fn reduce(schema: &mut Value, fine_tuned: bool) -> bool {
    // `true` takes anything; strict mode wants every type said.
    let Value::Object(fields) = schema else {
        return false;
    };
    fields.retain(|name, _| {
        let name = name.as_str();
        !(UNLISTED.contains(&name) || fine_tuned && FINE_TUNED.contains(&name))
    });
    let mut strict = !COMPOSITION.iter().any(|name| fields.contains_key(*name));
    if is_object(fields) {
        strict &= all_required(fields);
        let others = fields
            .entry("additionalProperties")
            .or_insert(Value::Bool(false));
        strict &= *others == Value::Bool(false);
    }
    for (name, below) in fields.iter_mut() {
        strict &= match (name.as_str(), below) {
            // Names that the author chose, with a schema each.
            ("properties" | "$defs" | "definitions", Value::Object(named)) => {
                each(named.values_mut(), fine_tuned)
            }
            ("anyOf" | "allOf" | "oneOf" | "prefixItems", Value::Array(list)) => {
                each(list.iter_mut(), fine_tuned)
            }
            ("items" | "if" | "then" | "else", below) => reduce(below, fine_tuned),
            ("additionalProperties", below @ Value::Object(_)) => reduce(below, fine_tuned),
            _ => true,
        };
    }
    strict
}

fn each<'a>(mut schemas: impl Iterator<Item = &'a mut Value>, fine_tuned: bool) -> bool {
    schemas.all(|schema| reduce(schema, fine_tuned))
}

fn is_object(fields: &Map<String, Value>) -> bool {
    match fields.get("type") {
        Some(Value::String(name)) => name == "object",
        Some(Value::Array(names)) => names.iter().any(|name| name == "object"),
        _ => fields.contains_key("properties"),
    }
}

/// Not so for an object without properties: its keys are arbitrary, and closed it were only `{}`.
fn all_required(fields: &Map<String, Value>) -> bool {
    let Some(Value::Object(properties)) = fields.get("properties") else {
        return false;
    };
    let required = fields.get("required").and_then(Value::as_array);
    let is_required =
        |name: &String| required.is_some_and(|all| all.iter().any(|one| one == name.as_str()));
    properties.keys().all(is_required)
}
