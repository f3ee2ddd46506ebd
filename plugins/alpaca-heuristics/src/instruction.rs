//! Stanford's five filters of the instruction; the first counts as two.

use crate::{config::Mode, fields::Fields, rules::Rules};

/// What Stanford's script took for a sign of other media than text.
pub(crate) const BLOCKED_2023: [&str; 18] = [
    "image",
    "images",
    "graph",
    "graphs",
    "picture",
    "pictures",
    "file",
    "files",
    "map",
    "maps",
    "draw",
    "plot",
    "go to",
    "video",
    "audio",
    "music",
    "flowchart",
    "diagram",
];

const PROGRAM: &str = "Write a program";

pub(crate) fn too_short(fields: &Fields, rules: &Rules) -> Option<String> {
    let (count, wanted) = (fields.instruction.words.len(), rules.config.min_words);
    (count < wanted).then(|| format!("{count} words in the instruction, at least {wanted} wanted"))
}

pub(crate) fn too_long(fields: &Fields, rules: &Rules) -> Option<String> {
    let (count, allowed) = (fields.instruction.words.len(), rules.config.max_words);
    (count > allowed).then(|| format!("{count} words in the instruction, at most {allowed} wanted"))
}

pub(crate) fn needs_other_media(fields: &Fields, rules: &Rules) -> Option<String> {
    let phrase = rules.blocked.as_words(&fields.instruction)?;
    Some(format!("the instruction has \"{phrase}\""))
}

pub(crate) fn asks_for_program(fields: &Fields, rules: &Rules) -> Option<String> {
    let beginning = fields.instruction.text.get(..PROGRAM.len())?;
    let asks = match rules.config.mode {
        Mode::Alpaca2023 => beginning == PROGRAM,
        Mode::Strict => beginning.eq_ignore_ascii_case(PROGRAM),
    };
    asks.then(|| format!("the instruction begins with \"{beginning}\""))
}

pub(crate) fn starts_with_punctuation(fields: &Fields, _: &Rules) -> Option<String> {
    let first = fields.instruction.text.chars().next()?;
    first
        .is_ascii_punctuation()
        .then(|| format!("the instruction begins with '{first}'"))
}

pub(crate) fn not_ascii_start(fields: &Fields, rules: &Rules) -> Option<String> {
    let first = fields.instruction.text.chars().next()?;
    (rules.config.ascii_start && !first.is_ascii()).then(|| {
        format!(
            "the instruction begins with '{first}' (U+{:04X})",
            first as u32
        )
    })
}
