//! `pacos plugin check`.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use serde_json::json;

use super::subject::{self, PLUGIN, SubjectArgs};
use crate::{
    cli::Failed,
    kit::conformance::{self, Outcome, Report},
    plugin::Loaded,
};

/// Put a plugin to the test: everything that the contract asks of its kind
///
/// Each check that fails says the first counterexample; the exit code then is 4. Models are
/// scripted, and nothing is spent. A bundled plugin has golden cases of its own besides.
#[derive(Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    subject: SubjectArgs,
    /// Seed tasks to start with, as JSON Lines; `bundled` are those inside this binary
    #[arg(long, value_name = "FILE")]
    seeds: Option<PathBuf>,
    /// Print the outcomes as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn check(args: CheckArgs) -> Result<(), Failed> {
    let seeds = match &args.seeds {
        Some(_) => subject::seeds(args.seeds.as_deref())?,
        None => conformance::plain_seeds(),
    };
    let mut loaded = args.subject.load_as_it_is().await?;
    let report = conformance::check(&mut loaded, &seeds).await;
    if args.json {
        print_json(&loaded, &report);
    } else {
        print(&loaded, &report);
    }
    match report.failed() {
        0 => Ok(()),
        1 => Err(Failed::Other(
            anyhow!("{} fails 1 check", loaded.title()),
            PLUGIN,
        )),
        failed => Err(Failed::Other(
            anyhow!("{} fails {failed} checks", loaded.title()),
            PLUGIN,
        )),
    }
}

fn print(loaded: &Loaded, report: &Report) {
    println!("{}, {}", loaded.title(), loaded.stage.interface());
    for (check, outcome) in &report.checks {
        let (word, detail) = told(outcome);
        println!("{word:<7} {:<26} {}", check.name, check.meaning);
        if let Some(detail) = detail {
            println!("        {:<26} {detail}", "");
        }
    }
    for (case, outcome) in &report.golden {
        let (word, detail) = told(outcome);
        println!("{word:<7} {:<26} {case}", "golden");
        if let Some(detail) = detail {
            println!("        {:<26} {detail}", "");
        }
    }
    println!("{} passed, {} failed", report.passed(), report.failed());
}

fn told(outcome: &Outcome) -> (&'static str, Option<&str>) {
    match outcome {
        Outcome::Passed => ("passed", None),
        Outcome::Failed(counterexample) => ("FAILED", Some(counterexample)),
        Outcome::Skipped(why) => ("skipped", Some(why)),
    }
}

fn print_json(loaded: &Loaded, report: &Report) {
    let checks = report.checks.iter().map(|(check, outcome)| {
        let (word, detail) = told(outcome);
        json!({ "check": check.name, "meaning": check.meaning, "outcome": word.to_lowercase(), "detail": detail })
    });
    let golden = report.golden.iter().map(|(case, outcome)| {
        let (word, detail) = told(outcome);
        json!({ "golden": case, "outcome": word.to_lowercase(), "detail": detail })
    });
    let text = json!({
        "plugin": loaded.title(),
        "contract": loaded.stage.interface(),
        "sha256": loaded.sha256,
        "checks": checks.chain(golden).collect::<Vec<_>>(),
        "passed": report.passed(),
        "failed": report.failed(),
    });
    println!("{text}");
}
