//! The conformance kit: what the contract asks of every plugin, put to the test on the engine
//! that recipes run on.
//!
//! Each check has a name, a sentence of what it means and an outcome; a check that fails says the
//! first counterexample. Models are scripted: their replies are a function of the request.

mod about;
mod corpus;
mod evaluator;
mod filter;
mod generator;
mod golden;
#[cfg(test)]
mod mutants;

use pacos_plugin::Task;

use crate::plugin::{Loaded, Stage};

/// Something that the contract asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    /// Kebab-case, the stage first.
    pub name: &'static str,
    /// What holds for a plugin that passes it.
    pub meaning: &'static str,
}

impl Check {
    const fn new(name: &'static str, meaning: &'static str) -> Self {
        Check { name, meaning }
    }
}

/// What came of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// No counterexample was found.
    Passed,
    /// The first counterexample.
    Failed(String),
    /// Why the check says nothing of this plugin.
    Skipped(String),
}

/// What the kit found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Every check that concerns the plugin's stage, in order.
    pub checks: Vec<(Check, Outcome)>,
    /// Bundled plugins only: their golden cases by name, and what differed.
    pub golden: Vec<(String, Outcome)>,
}

impl Report {
    /// How many checks and golden cases failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.outcomes()
            .filter(|outcome| matches!(outcome, Outcome::Failed(_)))
            .count()
    }

    /// How many passed.
    #[must_use]
    pub fn passed(&self) -> usize {
        self.outcomes()
            .filter(|outcome| **outcome == Outcome::Passed)
            .count()
    }

    fn outcomes(&self) -> impl Iterator<Item = &Outcome> {
        let checks = self.checks.iter().map(|(_, outcome)| outcome);
        checks.chain(self.golden.iter().map(|(_, outcome)| outcome))
    }

    fn add(&mut self, check: Check, result: Result<(), String>) {
        let outcome = match result {
            Ok(()) => Outcome::Passed,
            Err(counterexample) => Outcome::Failed(counterexample),
        };
        self.checks.push((check, outcome));
    }

    fn skip(&mut self, check: Check, why: impl Into<String>) {
        self.checks.push((check, Outcome::Skipped(why.into())));
    }

    fn skip_all(&mut self, checks: &[Check], why: &str) {
        for check in checks {
            self.skip(*check, why);
        }
    }
}

/// Every check that a plugin of this stage is put to.
#[must_use]
pub fn checks(stage: Stage) -> Vec<Check> {
    let of_stage = match stage {
        Stage::Generator => &generator::CHECKS[..],
        Stage::Filter => &filter::CHECKS[..],
        Stage::Evaluator => &evaluator::CHECKS[..],
    };
    [&about::CHECKS[..], of_stage].concat()
}

/// Seeds that no plugin has reason to refuse.
#[must_use]
pub fn plain_seeds() -> Vec<Task> {
    corpus::seeds()
}

/// Puts a plugin to the test, under the configuration that it was loaded with. The golden cases
/// of a bundled plugin have configurations of their own, which `plugin` has afterwards.
pub async fn check(plugin: &mut Loaded, seeds: &[Task]) -> Report {
    let mut report = Report::default();
    let usable = about::check(plugin, &mut report).await;
    match (plugin.stage, usable) {
        (Stage::Generator, true) => generator::check(plugin, seeds, &mut report).await,
        (Stage::Filter, true) => filter::check(plugin, seeds, &mut report).await,
        (Stage::Evaluator, true) => evaluator::check(plugin, &mut report).await,
        (stage, false) => {
            let of_stage = &checks(stage)[about::CHECKS.len()..];
            report.skip_all(of_stage, "the configuration was not accepted");
        }
    }
    golden::check(plugin, &mut report).await;
    report
}
