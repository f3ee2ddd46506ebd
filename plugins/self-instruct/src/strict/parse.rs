//! From a reply to tasks, and why what is left is none.

use pacos_plugin::{FinishReason, Reply, Task};
use serde_json::{Map, Value};

use super::json::{FIELDS, Found, objects};
use crate::{
    config::MaxChars,
    demonstrations::Demonstration,
    reading::Reading,
    whitespace::{collapse, strip},
};

/// Why an object is no task.
struct Problem(&'static str, String);

/// Reads the reply to a prompt that showed `shown`.
pub(crate) fn read(reply: &Reply, shown: &[Demonstration], bounds: MaxChars) -> Reading {
    let text = reply.text.as_str();
    let mut reading = Reading::default();
    if strip(text).is_empty() {
        let message = format!("no text came back ({})", ended(reply.finish_reason));
        reading.reject("empty-reply", message, 0..text.len());
        return reading;
    }
    for (found, bytes) in objects(text) {
        match found {
            Found::Object(object) => match task(&object, shown, bounds) {
                Ok(task) => reading.tasks.push((task, bytes)),
                Err(Problem(code, message)) => reading.reject(code, message, bytes),
            },
            Found::Cut if reply.finish_reason == FinishReason::Length => {
                let message = "the reply reached max_tokens inside this task";
                reading.reject("cut-by-length", message, bytes);
            }
            Found::Cut => {
                let message = "the reply ended inside this task";
                reading.reject("malformed-json", message, bytes);
            }
            Found::Malformed(error) => reading.reject("malformed-json", error, bytes),
        }
    }
    if reading.tasks.is_empty() && reading.unusable.is_empty() {
        let (code, message) = match reply.finish_reason {
            FinishReason::Length => (
                "cut-by-length",
                "the reply reached max_tokens before its first task",
            ),
            _ => ("no-json", "the reply has no JSON object"),
        };
        reading.reject(code, message, 0..text.len());
    }
    reading
}

fn ended(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "the model ended by itself",
        FinishReason::Length => "max_tokens was reached",
        FinishReason::ContentFilter => "a content filter stopped the model",
        FinishReason::Other => "the server gave no reason",
    }
}

fn task(
    object: &Map<String, Value>,
    shown: &[Demonstration],
    bounds: MaxChars,
) -> Result<Task, Problem> {
    if !FIELDS.iter().any(|field| object.contains_key(*field)) {
        let fields: Vec<&str> = object.keys().take(5).map(String::as_str).collect();
        let message = format!("none of the fields of a task, but [{}]", fields.join(", "));
        return Err(Problem("not-a-task", message));
    }
    let instruction = field(object, "instruction", bounds.instruction)?;
    let instruction = collapse(&instruction);
    let input = match object.get("input") {
        Some(_) => field(object, "input", bounds.input)?,
        None => String::new(),
    };
    let input = if means_no_input(&input) {
        ""
    } else {
        strip(&input)
    };
    let output = field(object, "output", bounds.output)?;
    let output = strip(&output);
    if instruction.is_empty() {
        return Err(Problem(
            "empty-instruction",
            "the instruction has no text".into(),
        ));
    }
    if output.is_empty() {
        return Err(Problem("empty-output", "the output has no text".into()));
    }
    for (name, text) in [
        ("instruction", &*instruction),
        ("input", input),
        ("output", output),
    ] {
        if let Some(marker) = beginning_of_another_task(text) {
            let message =
                format!("the {name} goes on with \"{marker}\", which begins another task");
            return Err(Problem("merged-task", message));
        }
    }
    if let Some(number) = shown
        .iter()
        .position(|d| same(&d.task.instruction, &instruction))
    {
        let message = format!(
            "the instruction of demonstration {}: \"{instruction}\"",
            number + 1
        );
        return Err(Problem("copied-demonstration", message));
    }
    Ok(Task::new(instruction, input, output))
}

/// The text of a field. A number or a truth value is text that lost its quotes; `null` is none.
fn field(object: &Map<String, Value>, name: &str, bound: u32) -> Result<String, Problem> {
    let text = match object.get(name) {
        None => return Err(Problem("missing-field", format!("no field `{name}`"))),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) => String::new(),
        Some(plain @ (Value::Number(_) | Value::Bool(_))) => plain.to_string(),
        Some(Value::Array(_)) => return Err(not_text(name, "a list")),
        Some(Value::Object(_)) => return Err(not_text(name, "an object")),
    };
    let characters = text.chars().count();
    // Constrained decoding closes a text at the bound, wherever the sentence is.
    if bound > 0 && characters >= bound as usize {
        let message = format!("{characters} characters in `{name}`, fewer than {bound} wanted");
        return Err(Problem("too-many-characters", message));
    }
    Ok(text)
}

fn not_text(name: &str, found: &str) -> Problem {
    Problem(
        "field-not-text",
        format!("`{name}` is {found}, text wanted"),
    )
}

/// Whether an input says in words that there is none: `<noinput>`, `[No Input]`, `N/A`, ...
fn means_no_input(input: &str) -> bool {
    let letters: String = input
        .chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect();
    let markers = [
        "",
        "noinput",
        "noinputneeded",
        "noinputrequired",
        "noinputnecessary",
        "noinputprovided",
        "none",
        "null",
        "na",
        "nil",
        "notapplicable",
        "empty",
    ];
    // An input can be all signs, such as an operator to be explained.
    let only_signs = letters.is_empty() && !is_brackets_or_quotes(input);
    !only_signs && markers.contains(&letters.as_str())
}

fn is_brackets_or_quotes(text: &str) -> bool {
    strip(text).chars().all(|c| "<>[](){}\"'-".contains(c))
}

/// The first `N. Instruction:`, `N. Input:` or `N. Output:` of `text`.
fn beginning_of_another_task(text: &str) -> Option<&str> {
    let mut from = 0;
    while let Some(found) = text[from..].find('.') {
        let dot = from + found;
        from = dot + 1;
        let digits = text[..dot].len()
            - text[..dot]
                .trim_end_matches(|c: char| c.is_ascii_digit())
                .len();
        let label = text[from..].trim_start();
        let labels = ["Instruction:", "Input:", "Output:"];
        let begins = labels.iter().find(|name| label.starts_with(**name));
        if let (1..=3, Some(name)) = (digits, begins) {
            let end = text.len() - label.len() + name.len();
            return Some(&text[dot - digits..end]);
        }
    }
    None
}

/// Equal but for case and whitespace.
fn same(one: &str, other: &str) -> bool {
    collapse(one).to_lowercase() == collapse(other).to_lowercase()
}

#[cfg(test)]
mod tests;
