//! Checks of the output.

use std::borrow::Cow;

use crate::{
    fields::{Fields, Text},
    python_text::strip,
    rules::Rules,
};

/// What models say when they decline.
pub(crate) const REFUSALS: [&str; 18] = [
    "as an ai language model",
    "as an ai assistant",
    "as an ai model",
    "as an ai, i",
    "as a language model",
    "as a large language model",
    "i'm sorry, but i can",
    "i am sorry, but i can",
    "i'm sorry, but as",
    "sorry, i can't",
    "sorry, i cannot",
    "i cannot fulfill",
    "i can't fulfill",
    "i cannot assist",
    "i can't assist",
    "i can't help with",
    "i'm unable to",
    "i am unable to",
];

/// A refusal comes first; further on, the same words are often part of a story.
const REFUSAL_WITHIN: usize = 160;

pub(crate) fn empty(fields: &Fields, _: &Rules) -> Option<String> {
    fields
        .output
        .words
        .is_empty()
        .then(|| "the output has no text".into())
}

pub(crate) fn too_short(fields: &Fields, rules: &Rules) -> Option<String> {
    let (count, wanted) = (fields.output.words.len(), rules.config.min_output_words);
    (count < wanted).then(|| format!("{count} words in the output, at least {wanted} wanted"))
}

pub(crate) fn placeholder(fields: &Fields, _: &Rules) -> Option<String> {
    let output = strip(fields.output.text);
    let bare = output.trim_matches(['<', '>', '[', ']', '(', ')', '.']);
    let placeholders = [
        "",
        "n/a",
        "n.a",
        "not applicable",
        "no output",
        "nooutput",
        "no response",
        "output",
        "tbd",
        "todo",
        "placeholder",
        "noinput",
        "no input",
    ];
    let mut placeholders = placeholders.iter();
    placeholders
        .any(|placeholder| bare.eq_ignore_ascii_case(placeholder))
        .then(|| format!("the output is \"{output}\""))
}

pub(crate) fn image_link(fields: &Fields, rules: &Rules) -> Option<String> {
    if !fields.output.has("!<=/") {
        return None;
    }
    let output = fields.output.text;
    let markdown = output.match_indices('!').any(|(at, _)| {
        let mut lines = output[at + 1..].lines();
        let line = lines.next().unwrap_or_default();
        line.starts_with('[') && line.contains("](")
    });
    let sign = match markdown {
        true => "![...](...)",
        false => rules.images.anywhere(output)?,
    };
    Some(format!("the output has {sign}"))
}

pub(crate) fn refusal(fields: &Fields, rules: &Rules) -> Option<String> {
    let phrase = rules.refusals.anywhere(&beginning(fields.output.text))?;
    Some(format!("the output begins with \"{phrase}\""))
}

/// Where a refusal would be, with straight apostrophes, and what is not ASCII in lower case.
fn beginning(output: &str) -> Cow<'_, str> {
    let bytes = output.as_bytes();
    let first = &bytes[..bytes.len().min(REFUSAL_WITHIN)];
    if first.is_ascii() {
        return output[..first.len()].into();
    }
    let characters = output.chars().take(REFUSAL_WITHIN);
    characters
        .flat_map(char::to_lowercase)
        .map(|c| if c == '\u{2019}' { '\'' } else { c })
        .collect()
}

pub(crate) fn repeats_input(fields: &Fields, _: &Rules) -> Option<String> {
    same(&fields.output, &fields.input).then(|| "the output is the input again".into())
}

pub(crate) fn repeats_instruction(fields: &Fields, _: &Rules) -> Option<String> {
    same(&fields.output, &fields.instruction).then(|| "the output is the instruction again".into())
}

/// Equal but for whitespace, and not empty. Case counts: capitalising a headline is a task.
fn same(one: &Text, other: &Text) -> bool {
    !one.words.is_empty() && one.words == other.words
}
