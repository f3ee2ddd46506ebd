//! The bundled plugins keep the contract, whichever carrier they come in.

use std::path::Path;

use pacos::{
    kit::conformance::{self, Outcome, Report},
    manifest::{Plugin, PluginSource},
    plugin::Loaded,
};

use crate::{bundled, component, library};

async fn report(plugin: &Plugin) -> Report {
    let mut loaded = match Loaded::load(plugin).await {
        Ok(loaded) => loaded,
        Err(error) => panic!("{error}"),
    };
    conformance::check(&mut loaded, &conformance::plain_seeds()).await
}

fn trusted(file: &Path) -> Plugin {
    Plugin {
        native: true,
        ..Plugin::alone(PluginSource::File(file.to_owned()))
    }
}

/// What failed, for a person.
fn failures(report: &Report) -> Vec<String> {
    let checks = report.checks.iter();
    let checks = checks.map(|(check, outcome)| (check.name.to_owned(), outcome));
    let golden = report.golden.iter();
    let golden = golden.map(|(case, outcome)| (case.clone(), outcome));
    checks
        .chain(golden)
        .filter_map(|(name, outcome)| match outcome {
            Outcome::Failed(why) => Some(format!("{name}: {why}")),
            _ => None,
        })
        .collect()
}

/// Both carriers pass every check, and skip the same ones.
async fn conforms(name: &str) {
    let as_component = report(&bundled(name)).await;
    let as_library = report(&trusted(&library(name))).await;
    assert_eq!(failures(&as_component), [""; 0], "{name} as a component");
    assert_eq!(failures(&as_library), [""; 0], "{name} as a library");
    assert_eq!(as_component, as_library);
    assert!(as_component.golden.len() >= 5, "{:?}", as_component.golden);
}

#[tokio::test]
async fn self_instruct_conforms_in_both_carriers() {
    conforms("self-instruct").await;
}

#[tokio::test]
async fn alpaca_heuristics_conforms_in_both_carriers() {
    conforms("alpaca-heuristics").await;
}

#[tokio::test]
async fn rouge_l_conforms_in_both_carriers() {
    conforms("rouge-l").await;
}

#[tokio::test]
async fn pairwise_judge_conforms_in_both_carriers() {
    conforms("pairwise-judge").await;
}

#[tokio::test]
async fn a_component_that_breaks_the_contract_is_seen() {
    let plugin = Plugin {
        config: serde_json::json!({ "crime": "nan-score" }),
        ..Plugin::alone(PluginSource::File(component("hostile")))
    };
    let failures = failures(&report(&plugin).await);
    assert!(
        failures[0].starts_with("filter-any-record: empty as instruction: ")
            && failures[0].ends_with("is NaN"),
        "{failures:?}"
    );
}
