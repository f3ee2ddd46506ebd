//! The plugin's table of the manifest.

use std::collections::BTreeMap;

use pacos_plugin::{Diagnostic, schemars::JsonSchema};
use serde::Deserialize;

use crate::strict::TOPICS;

/// GPT-2's end-of-text token, which also ends a text for `text-davinci-003`.
const END_OF_TEXT: u32 = 50256;

/// How the teacher is asked, and how its replies are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(crate = "pacos_plugin::schemars")]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Structured output from a chat model, with the original's defects mended.
    #[default]
    Strict,
    /// As Stanford Alpaca did it in March 2023.
    #[serde(rename = "alpaca-2023")]
    Alpaca2023,
}

impl Mode {
    /// The name that the manifest uses.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Strict => "strict",
            Mode::Alpaca2023 => "alpaca-2023",
        }
    }
}

/// Most characters of each field; 0 is no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(crate = "pacos_plugin::schemars")]
#[serde(deny_unknown_fields, default)]
pub struct MaxChars {
    /// Of the instruction.
    pub instruction: u32,
    /// Of the input.
    pub input: u32,
    /// Of the output.
    pub output: u32,
}

impl Default for MaxChars {
    /// Twice and more what the teacher is asked for in words, so that only a reply that runs
    /// away comes near.
    fn default() -> Self {
        MaxChars {
            instruction: 400,
            input: 1200,
            output: 1600,
        }
    }
}

/// The configuration; the [crate's page](crate) has it as a table.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[schemars(crate = "pacos_plugin::schemars")]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How to ask and to read.
    pub mode: Mode,
    /// Tasks that one request asks for.
    pub tasks_per_request: u32,
    /// Tasks that one request shows.
    pub demonstrations: u32,
    /// How many of them are accepted examples rather than seeds.
    pub examples_from_accepted: u32,
    /// Requests that one unit sends.
    pub requests_per_unit: u32,
    /// Sampling temperature, 0 to 2.
    pub temperature: f64,
    /// Nucleus sampling, above 0 and at most 1.
    pub top_p: f64,
    /// Longest reply, in tokens.
    pub max_tokens: Option<u32>,
    /// `alpaca-2023`: the text before the demonstrations.
    pub preamble: Option<String>,
    /// `alpaca-2023`: bias by token number.
    pub logit_bias: Option<BTreeMap<u32, f64>>,
    /// `strict`: subjects to draw from.
    pub topics: Option<Vec<String>>,
    /// `strict`: most characters of each field.
    pub max_chars: Option<MaxChars>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            mode: Mode::default(),
            tasks_per_request: 20,
            demonstrations: 3,
            examples_from_accepted: 0,
            requests_per_unit: 1,
            temperature: 1.0,
            top_p: 1.0,
            max_tokens: None,
            preamble: None,
            logit_bias: None,
            topics: None,
            max_chars: None,
        }
    }
}

impl Config {
    pub(crate) fn logit_bias(&self) -> BTreeMap<u32, f64> {
        let original = || BTreeMap::from([(END_OF_TEXT, -100.0)]);
        self.logit_bias.clone().unwrap_or_else(original)
    }

    pub(crate) fn topics(&self) -> Vec<&str> {
        match &self.topics {
            Some(topics) => topics.iter().map(String::as_str).collect(),
            None => TOPICS.to_vec(),
        }
    }

    pub(crate) fn max_chars(&self) -> MaxChars {
        self.max_chars.unwrap_or_default()
    }

    /// Everything that is wrong, at once.
    pub(crate) fn problems(&self) -> Vec<Diagnostic> {
        let mut problems = self.values_out_of_range();
        problems.extend(match self.mode {
            Mode::Strict => self.wrong_in_strict(),
            Mode::Alpaca2023 => self.wrong_in_alpaca_2023(),
        });
        problems
    }

    fn values_out_of_range(&self) -> Vec<Diagnostic> {
        let mut problems = Vec::new();
        let mut require = |holds: bool, key: &str, expected: &str, found: String, help: &str| {
            if !holds {
                let message = format!("expected {expected}, found {found}");
                problems.push(Diagnostic::error(key, message).help(help));
            }
        };
        let Config {
            tasks_per_request: tasks,
            demonstrations: shown,
            examples_from_accepted: accepted,
            requests_per_unit: requests,
            temperature,
            top_p,
            max_tokens,
            ..
        } = *self;
        require(
            (1..=100).contains(&tasks),
            "tasks_per_request",
            "1 to 100",
            tasks.to_string(),
            "tasks_per_request = 20",
        );
        require(
            shown <= 8,
            "demonstrations",
            "0 to 8",
            shown.to_string(),
            "demonstrations = 3",
        );
        require(
            accepted <= shown,
            "examples_from_accepted",
            &format!("at most `demonstrations`, which is {shown}"),
            accepted.to_string(),
            "examples_from_accepted = 0",
        );
        require(
            (1..=64).contains(&requests),
            "requests_per_unit",
            "1 to 64",
            requests.to_string(),
            "requests_per_unit = 1",
        );
        require(
            (0.0..=2.0).contains(&temperature),
            "temperature",
            "0 to 2",
            temperature.to_string(),
            "temperature = 1.0",
        );
        require(
            top_p > 0.0 && top_p <= 1.0,
            "top_p",
            "above 0 and at most 1",
            top_p.to_string(),
            "top_p = 1.0",
        );
        require(
            max_tokens.is_none_or(|tokens| tokens >= 16),
            "max_tokens",
            "16 or more",
            max_tokens.unwrap_or_default().to_string(),
            "max_tokens = 3072",
        );
        problems
    }

    fn wrong_in_strict(&self) -> Vec<Diagnostic> {
        let mut problems = Vec::new();
        if self.preamble.is_some() {
            problems.push(of_the_other_mode("preamble", Mode::Alpaca2023));
        }
        if self.logit_bias.is_some() {
            problems.push(of_the_other_mode("logit_bias", Mode::Alpaca2023));
        }
        if self.topics().iter().any(|topic| topic.trim().is_empty()) {
            let message = "a topic has no text";
            problems.push(Diagnostic::error("topics", message).help("remove it"));
        }
        problems
    }

    fn wrong_in_alpaca_2023(&self) -> Vec<Diagnostic> {
        let mut problems = Vec::new();
        if self.topics.is_some() {
            problems.push(of_the_other_mode("topics", Mode::Strict));
        }
        if self.max_chars.is_some() {
            problems.push(of_the_other_mode("max_chars", Mode::Strict));
        }
        if self.examples_from_accepted > 0 {
            problems.push(of_the_other_mode("examples_from_accepted", Mode::Strict));
        }
        if self.demonstrations == 0 {
            let message = "alpaca-2023 needs a demonstration to continue from, found 0";
            problems.push(Diagnostic::error("demonstrations", message).help("demonstrations = 3"));
        }
        if self.tasks_per_request <= self.demonstrations + 1 {
            let message = format!(
                "numbering goes on from the {} demonstrations and stops before {}, so no task could come back",
                self.demonstrations, self.tasks_per_request
            );
            let help = "tasks_per_request = 20";
            problems.push(Diagnostic::error("tasks_per_request", message).help(help));
        }
        let biases = self.logit_bias();
        if let Some((token, bias)) = biases
            .iter()
            .find(|(_, bias)| !(-100.0..=100.0).contains(*bias))
        {
            let message = format!("expected -100 to 100, found {bias}");
            problems.push(Diagnostic::error(format!("logit_bias.{token}"), message));
        }
        problems
    }
}

fn of_the_other_mode(key: &str, mode: Mode) -> Diagnostic {
    let message = format!("has a meaning in mode \"{}\" only", mode.name());
    let help = format!("remove it, or mode = \"{}\"", mode.name());
    Diagnostic::error(key, message).help(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(config: &Config) -> Vec<String> {
        config.problems().into_iter().map(|p| p.path).collect()
    }

    #[test]
    fn defaults_are_sound_in_both_modes() {
        for mode in [Mode::Strict, Mode::Alpaca2023] {
            let config = Config {
                mode,
                ..Config::default()
            };
            assert_eq!(keys(&config), [""; 0]);
        }
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let config = Config {
            tasks_per_request: 0,
            demonstrations: 9,
            examples_from_accepted: 10,
            requests_per_unit: 0,
            temperature: f64::NAN,
            top_p: 0.0,
            max_tokens: Some(1),
            preamble: Some(String::new()),
            ..Config::default()
        };
        assert_eq!(
            keys(&config),
            [
                "tasks_per_request",
                "demonstrations",
                "examples_from_accepted",
                "requests_per_unit",
                "temperature",
                "top_p",
                "max_tokens",
                "preamble",
            ]
        );
    }

    #[test]
    fn a_key_of_the_other_mode_is_refused_with_the_remedy() {
        let config = Config {
            mode: Mode::Alpaca2023,
            topics: Some(vec!["bees".into()]),
            ..Config::default()
        };
        let problem = &config.problems()[0];
        assert_eq!(problem.path, "topics");
        assert_eq!(
            problem.help.as_deref(),
            Some("remove it, or mode = \"strict\"")
        );
    }

    #[test]
    fn a_number_that_stops_the_reply_at_once_is_refused() {
        let config = Config {
            mode: Mode::Alpaca2023,
            tasks_per_request: 4,
            ..Config::default()
        };
        assert_eq!(keys(&config), ["tasks_per_request"]);
    }
}
