//! Stanford's five filters of the instruction; the first counts as two.

use crate::{
    config::{Config, Mode},
    fields::Fields,
    python_text::{has_phrase, words},
};

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

pub(crate) fn too_short(fields: &Fields, config: &Config) -> Option<String> {
    let (count, wanted) = (words(fields.instruction).count(), config.min_words);
    (count < wanted).then(|| format!("{count} words in the instruction, at least {wanted} wanted"))
}

pub(crate) fn too_long(fields: &Fields, config: &Config) -> Option<String> {
    let (count, allowed) = (words(fields.instruction).count(), config.max_words);
    (count > allowed).then(|| format!("{count} words in the instruction, at most {allowed} wanted"))
}

pub(crate) fn needs_other_media(fields: &Fields, config: &Config) -> Option<String> {
    let mut phrases = config.blocked_phrases.iter();
    let phrase = phrases.find(|phrase| has_phrase(fields.instruction, phrase))?;
    Some(format!("the instruction has \"{phrase}\""))
}

pub(crate) fn asks_for_program(fields: &Fields, config: &Config) -> Option<String> {
    let beginning = fields.instruction.get(..PROGRAM.len())?;
    let asks = match config.mode {
        Mode::Alpaca2023 => beginning == PROGRAM,
        Mode::Strict => beginning.eq_ignore_ascii_case(PROGRAM),
    };
    asks.then(|| format!("the instruction begins with \"{beginning}\""))
}

pub(crate) fn starts_with_punctuation(fields: &Fields, _: &Config) -> Option<String> {
    let first = fields.instruction.chars().next()?;
    first
        .is_ascii_punctuation()
        .then(|| format!("the instruction begins with '{first}'"))
}

pub(crate) fn not_ascii_start(fields: &Fields, config: &Config) -> Option<String> {
    let first = fields.instruction.chars().next()?;
    (config.ascii_start && !first.is_ascii()).then(|| {
        format!(
            "the instruction begins with '{first}' (U+{:04X})",
            first as u32
        )
    })
}
