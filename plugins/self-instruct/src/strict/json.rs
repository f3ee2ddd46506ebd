//! Finding JSON objects in a text that may hold more, or less, than JSON.

use std::ops::Range;

use serde_json::{Map, Value};

/// The fields of a task.
pub(super) const FIELDS: [&str; 3] = ["instruction", "input", "output"];

/// What was found at a place.
pub(super) enum Found {
    /// A whole object: a task, if its fields are right.
    Object(Map<String, Value>),
    /// The beginning of a task that breaks off at the end of the text.
    Cut,
    /// The beginning of a task that breaks the syntax, with what the JSON reader says.
    Malformed(String),
}

/// The objects of `text` in order, with their bytes. Prose, code fences and whatever the objects
/// are wrapped in are passed over; where the wrapping is cut, what is whole in it still counts.
pub(super) fn objects(text: &str) -> Vec<(Found, Range<usize>)> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(brace) = text[from..].find('{') {
        let start = from + brace;
        let inside = start + 1;
        let next = text[inside..].find('{').map_or(text.len(), |n| inside + n);
        from = match object_at(&text[start..]) {
            Ok((object, length)) => {
                let end = start + length;
                let is_task = FIELDS.iter().any(|field| object.contains_key(*field));
                if is_task || next >= end {
                    found.push((Found::Object(object), start..end));
                    end
                } else {
                    next
                }
            }
            Err(error) => {
                // What fails before its first field wraps the tasks, or is prose.
                if text[start..next].contains("\"instruction\"") {
                    let problem = if error.is_eof() {
                        Found::Cut
                    } else {
                        Found::Malformed(error.to_string())
                    };
                    found.push((problem, start..next));
                }
                next
            }
        };
    }
    found
}

/// The object that `text` begins with, and its length in bytes.
fn object_at(text: &str) -> serde_json::Result<(Map<String, Value>, usize)> {
    let mut objects = serde_json::Deserializer::from_str(text).into_iter();
    match objects.next() {
        Some(object) => object.map(|object| (object, objects.byte_offset())),
        None => Ok((Map::new(), text.len())),
    }
}
