//! The plugin's table of the manifest.

use pacos_plugin::{Diagnostic, schemars::JsonSchema};
use serde::Deserialize;

use crate::{answer::REFUSALS, instruction::BLOCKED_2023, wording::ATTACHMENT_PHRASES};

/// Which checks are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(crate = "pacos_plugin::schemars")]
pub enum Mode {
    /// Alpaca's five and the checks of the answer.
    #[default]
    #[serde(rename = "strict")]
    Strict,
    /// Alpaca's five as they were in March 2023.
    #[serde(rename = "alpaca-2023")]
    Alpaca2023,
}

/// The configuration; the [crate's page](crate) has it as a table.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[schemars(crate = "pacos_plugin::schemars")]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Which checks are made.
    pub mode: Mode,
    /// Fewest words of an instruction.
    pub min_words: usize,
    /// Most words of an instruction.
    pub max_words: usize,
    /// Phrases that an instruction must not have, in lower case.
    pub blocked_phrases: Vec<String>,
    /// Whether an instruction must begin with an ASCII character.
    pub ascii_start: bool,
    /// Fewest words of an output.
    pub min_output_words: usize,
    /// How often an output may say the same.
    pub max_repeats: usize,
    /// Phrases of a refusal, in lower case, with straight apostrophes.
    pub refusals: Vec<String>,
    /// Phrases that point at an attachment or a link, in lower case.
    pub attachment_phrases: Vec<String>,
    /// Codes of checks to leave out.
    pub skip: Vec<String>,
}

/// Alpaca's list has these words in the singular only.
const MISSING_PLURALS: [&str; 3] = ["videos", "flowcharts", "diagrams"];

impl Default for Config {
    fn default() -> Self {
        let owned = |phrases: &[&str]| phrases.iter().map(|p| (*p).to_owned()).collect();
        Config {
            mode: Mode::default(),
            min_words: 4,
            max_words: 150,
            blocked_phrases: owned(&[&BLOCKED_2023[..], &MISSING_PLURALS[..]].concat()),
            ascii_start: true,
            min_output_words: 1,
            max_repeats: 5,
            refusals: owned(&REFUSALS),
            attachment_phrases: owned(&ATTACHMENT_PHRASES),
            skip: Vec::new(),
        }
    }
}

impl Config {
    /// Everything that is wrong, at once; `codes` are those of the checks.
    pub(crate) fn problems(&self, codes: &[&str]) -> Vec<Diagnostic> {
        let mut problems = Vec::new();
        let defaults = Config {
            mode: self.mode,
            ..Config::default()
        };
        if self.mode == Mode::Alpaca2023 && *self != defaults {
            let message = "alpaca-2023 has Stanford's thresholds, and other keys would change them";
            let help = "remove the other keys, or mode = \"strict\"";
            return vec![Diagnostic::error("mode", message).help(help)];
        }
        if self.min_words > self.max_words {
            let message = format!(
                "no instruction has at least {} and at most {} words",
                self.min_words, self.max_words
            );
            problems.push(Diagnostic::error("min_words", message).help("min_words = 4"));
        }
        if self.max_repeats == 0 {
            let message = "0 repeats would drop every output";
            problems.push(Diagnostic::error("max_repeats", message).help("max_repeats = 5"));
        }
        for (key, phrases) in [
            ("blocked_phrases", &self.blocked_phrases),
            ("refusals", &self.refusals),
            ("attachment_phrases", &self.attachment_phrases),
        ] {
            for phrase in phrases {
                if let Some((message, help)) = unusable(phrase) {
                    problems.push(Diagnostic::error(key, message).help(help));
                }
            }
        }
        for code in &self.skip {
            if !codes.contains(&code.as_str()) {
                let message = format!("there is no check \"{code}\"");
                let help = format!("one of {}", codes.join(", "));
                problems.push(Diagnostic::error("skip", message).help(help));
            }
        }
        problems
    }

    /// The configuration with what the mode decides filled in.
    pub(crate) fn resolved(mut self) -> Self {
        if self.mode == Mode::Alpaca2023 {
            self.blocked_phrases = BLOCKED_2023.map(str::to_owned).to_vec();
        }
        self
    }
}

fn unusable(phrase: &str) -> Option<(String, String)> {
    if phrase.trim().is_empty() {
        return Some(("a phrase has no text".into(), "remove it".into()));
    }
    let lower = phrase.to_lowercase();
    (lower != phrase).then(|| {
        let message = format!("\"{phrase}\" would never be found: phrases are in lower case");
        (message, format!("\"{lower}\""))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_reported_at_once() {
        let config = Config {
            min_words: 9,
            max_words: 8,
            max_repeats: 0,
            blocked_phrases: vec!["Image".into()],
            refusals: vec![" ".into()],
            skip: vec!["too-shrot".into()],
            ..Config::default()
        };
        let problems = config.problems(&["too-short"]);
        let keys: Vec<&str> = problems.iter().map(|p| p.path.as_str()).collect();
        assert_eq!(
            keys,
            [
                "min_words",
                "max_repeats",
                "blocked_phrases",
                "refusals",
                "skip"
            ]
        );
        assert_eq!(problems[2].help.as_deref(), Some("\"image\""));
        assert_eq!(problems[4].help.as_deref(), Some("one of too-short"));
    }

    #[test]
    fn alpaca_2023_takes_no_thresholds() {
        let config = Config {
            mode: Mode::Alpaca2023,
            min_words: 3,
            ..Config::default()
        };
        assert_eq!(config.problems(&[])[0].path, "mode");
    }
}
