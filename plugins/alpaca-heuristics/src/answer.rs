//! Checks of the output.

use crate::{
    config::Config,
    fields::Fields,
    python_text::{strip, words},
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

pub(crate) fn empty(fields: &Fields, _: &Config) -> Option<String> {
    strip(fields.output)
        .is_empty()
        .then(|| "the output has no text".into())
}

pub(crate) fn too_short(fields: &Fields, config: &Config) -> Option<String> {
    let (count, wanted) = (words(fields.output).count(), config.min_output_words);
    (count < wanted).then(|| format!("{count} words in the output, at least {wanted} wanted"))
}

pub(crate) fn placeholder(fields: &Fields, _: &Config) -> Option<String> {
    let output = strip(fields.output);
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
    placeholders
        .contains(&bare.to_lowercase().as_str())
        .then(|| format!("the output is \"{output}\""))
}

pub(crate) fn image_link(fields: &Fields, _: &Config) -> Option<String> {
    let output = fields.output.to_lowercase();
    let markdown = output.match_indices("![").any(|(at, _)| {
        let line = output[at..].lines().next().unwrap_or_default();
        line.contains("](")
    });
    let sign = if markdown {
        "![...](...)"
    } else {
        let signs = ["<img", "img src=", "data:image/"];
        signs.into_iter().find(|sign| output.contains(sign))?
    };
    Some(format!("the output has {sign}"))
}

pub(crate) fn refusal(fields: &Fields, config: &Config) -> Option<String> {
    let beginning: String = fields
        .output
        .chars()
        .take(REFUSAL_WITHIN)
        .flat_map(char::to_lowercase)
        .map(|c| if c == '\u{2019}' { '\'' } else { c })
        .collect();
    let mut phrases = config.refusals.iter();
    let phrase = phrases.find(|phrase| beginning.contains(phrase.as_str()))?;
    Some(format!("the output begins with \"{phrase}\""))
}

pub(crate) fn repeats_input(fields: &Fields, _: &Config) -> Option<String> {
    same(fields.output, fields.input).then(|| "the output is the input again".into())
}

pub(crate) fn repeats_instruction(fields: &Fields, _: &Config) -> Option<String> {
    same(fields.output, fields.instruction).then(|| "the output is the instruction again".into())
}

/// Equal but for whitespace, and not empty. Case counts: capitalising a headline is a task.
fn same(one: &str, other: &str) -> bool {
    words(one).next().is_some() && words(one).eq(words(other))
}
