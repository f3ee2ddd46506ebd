//! The plugin's table of the manifest.

use pacos_plugin::{Diagnostic, schemars::JsonSchema};
use serde::Deserialize;

/// The configuration; the [crate's page](crate) has it as a table.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[schemars(crate = "pacos_plugin::schemars")]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Names of the models whose answers are compared.
    pub pairs: Vec<[String; 2]>,
    /// Whether the judge is tested on pairs of known order.
    pub calibration: bool,
    /// Longest verdict, in tokens.
    pub max_tokens: u32,
}

impl Default for Config {
    fn default() -> Self {
        let pair = |first: &str, second: &str| [first.to_owned(), second.to_owned()];
        Config {
            pairs: vec![pair("student", "student.base"), pair("student", "teacher")],
            calibration: true,
            max_tokens: 256,
        }
    }
}

impl Config {
    /// Everything that is wrong, at once.
    pub(crate) fn problems(&self) -> Vec<Diagnostic> {
        let mut problems = Vec::new();
        if self.pairs.is_empty() {
            let help = "pairs = [[\"student\", \"student.base\"]]";
            problems.push(Diagnostic::error("pairs", "nothing to compare").help(help));
        }
        for (i, [first, second]) in self.pairs.iter().enumerate() {
            let path = format!("pairs[{i}]");
            if first == second {
                let message = format!("compares {first} with itself");
                problems.push(Diagnostic::error(&path, message).help("name two models"));
            }
            let same =
                |[a, b]: &[String; 2]| (a == first && b == second) || (a == second && b == first);
            if self.pairs[..i].iter().any(same) {
                let message = format!("{first} and {second} are compared already");
                problems.push(Diagnostic::error(path, message).help("remove it"));
            }
        }
        if self.max_tokens < 16 {
            let message = format!("expected 16 or more, found {}", self.max_tokens);
            problems.push(Diagnostic::error("max_tokens", message).help("max_tokens = 256"));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_reported_at_once() {
        let pair = |a: &str, b: &str| [a.to_owned(), b.to_owned()];
        let config = Config {
            pairs: vec![pair("a", "b"), pair("c", "c"), pair("b", "a")],
            max_tokens: 0,
            ..Config::default()
        };
        let problems = config.problems();
        let keys: Vec<&str> = problems.iter().map(|p| p.path.as_str()).collect();
        assert_eq!(keys, ["pairs[1]", "pairs[2]", "max_tokens"]);
        assert!(Config::default().problems().is_empty());
    }
}
