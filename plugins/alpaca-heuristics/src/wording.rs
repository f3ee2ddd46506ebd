//! Traces that the making of a task left in its text, and inputs that no text has.

use crate::{fields::Fields, python_text::strip, rules::Rules};

/// How instructions point at what does not come with them.
pub(crate) const ATTACHMENT_PHRASES: [&str; 14] = [
    "the attached",
    "attached file",
    "attached document",
    "attached below",
    "the attachment",
    "see attachment",
    "this link",
    "the link",
    "following link",
    "link below",
    "this url",
    "following url",
    "this website",
    "following website",
];

/// Words after an opening bracket that make it a blank to be filled in.
const BLANKS: [&str; 6] = ["insert", "your", "enter", "paste", "placeholder", "attach"];

pub(crate) fn merged_task(fields: &Fields, _: &Rules) -> Option<String> {
    fields.named().into_iter().find_map(|(name, field)| {
        // All labels end with it.
        if !field.has(":") {
            return None;
        }
        let marker = numbered_field(field.text).or_else(|| headed_field(field.text))?;
        Some(format!(
            "the {name} goes on with \"{marker}\", which begins another task"
        ))
    })
}

/// The first `N. Instruction:`, `N. Input:` or `N. Output:` of `text`, in any case.
fn numbered_field(text: &str) -> Option<&str> {
    text.match_indices('.').find_map(|(dot, _)| {
        let number = text[..dot]
            .trim_end_matches(|c: char| c.is_ascii_digit())
            .len();
        if number == dot {
            return None;
        }
        let label = text[dot + 1..].trim_start();
        let length = field_label(label, &["instruction:", "input:", "output:"])?;
        let end = text.len() - label.len() + length;
        Some(&text[number..end])
    })
}

/// The first heading of `text` that names a field, as Alpaca's training template writes them.
fn headed_field(text: &str) -> Option<&str> {
    text.lines().map(str::trim).find(|line| {
        let heading = line.trim_start_matches('#');
        let labels = ["instruction:", "input:", "output:", "response:"];
        heading.len() < line.len() && field_label(heading.trim_start(), &labels).is_some()
    })
}

/// The length of the label that `text` begins with.
fn field_label(text: &str, labels: &[&str]) -> Option<usize> {
    let mut labels = labels.iter();
    labels
        .find(|label| begins_with(text, label))
        .map(|label| label.len())
}

/// Whether a text begins with an ASCII word, in any case.
fn begins_with(text: &str, word: &str) -> bool {
    let beginning = text.get(..word.len());
    beginning.is_some_and(|beginning| beginning.eq_ignore_ascii_case(word))
}

pub(crate) fn control_character(fields: &Fields, _: &Rules) -> Option<String> {
    fields.named().into_iter().find_map(|(name, field)| {
        let found = field.stray?;
        Some(format!("the {name} has U+{:04X}", found as u32))
    })
}

/// Whether the whole text says that there is no input, in any of the usual spellings.
pub(crate) fn is_no_input_marker(text: &str) -> bool {
    let bare = text.trim_matches(|c: char| !c.is_alphanumeric());
    let spellings = [
        "noinput",
        "no input",
        "no-input",
        "no_input",
        "no input needed",
        "no input required",
        "no input necessary",
        "no input provided",
        "n/a",
        "none",
        "null",
        "not applicable",
    ];
    let mut spellings = spellings.iter();
    spellings.any(|spelling| bare.eq_ignore_ascii_case(spelling))
}

pub(crate) fn no_input_marker(fields: &Fields, rules: &Rules) -> Option<String> {
    fields.named().into_iter().find_map(|(name, field)| {
        let bracketed = || rules.no_input_in_brackets.anywhere(field.text);
        let bracketed = field.has("<[({").then(bracketed).flatten();
        let marker = bracketed.or_else(|| rules.no_input.as_words(field))?;
        Some(format!("the {name} has \"{marker}\" in its text"))
    })
}

pub(crate) fn placeholder_input(fields: &Fields, _: &Rules) -> Option<String> {
    // Not in outputs: a letter to be signed `[Your name]` is a fine answer.
    let [instruction, input, _] = fields.named();
    [instruction, input].into_iter().find_map(|(name, field)| {
        if !field.has("[<{") {
            return None;
        }
        let mut brackets = field.text.match_indices(['[', '<', '{']);
        let blank = brackets.find_map(|(at, _)| {
            let inside = &field.text[at + 1..];
            BLANKS.into_iter().find(|blank| begins_with(inside, blank))
        })?;
        Some(format!(
            "the {name} has a blank to be filled in (\"{blank} ...\")"
        ))
    })
}

pub(crate) fn web_input(fields: &Fields, _: &Rules) -> Option<String> {
    let input = strip(fields.input.text);
    let address = ["http://", "https://", "www."]
        .iter()
        .any(|scheme| input.starts_with(scheme));
    (address && !input.contains(char::is_whitespace))
        .then(|| format!("the input is the address {input}"))
}

pub(crate) fn needs_attachment(fields: &Fields, rules: &Rules) -> Option<String> {
    let phrase = rules.attachments.as_words(&fields.instruction)?;
    Some(format!("the instruction points at \"{phrase}\""))
}
