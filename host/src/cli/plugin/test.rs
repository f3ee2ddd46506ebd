//! `pacos plugin test`.

use std::path::PathBuf;

use clap::Args;

use super::build::{carrier, shown};
use crate::{
    author::{self, Carrier, Project},
    cli::Failed,
    kit,
    manifest::{Plugin, PluginSource},
};

#[derive(Args)]
pub(super) struct TestArgs {
    /// The project's folder
    #[arg(value_name = "DIR", default_value = ".")]
    project: PathBuf,
    /// Test it as a dynamic library; Rust and C only
    #[arg(long)]
    native: bool,
}

pub(super) async fn test(args: &TestArgs) -> Result<(), Failed> {
    let project = Project::open(&args.project)?;
    let carrier = carrier(args.native);
    author::run_own_tests(&project)?;
    let file = match author::fresh(&project, carrier) {
        true => project.output(carrier),
        false => author::build(&project, carrier)?,
    };
    let plugin = Plugin {
        native: carrier == Carrier::Library,
        ..Plugin::alone(PluginSource::File(file.clone()))
    };
    let cases = project.cases();
    let report = kit::run_cases(&plugin, &cases)
        .await
        .map_err(|error| Failed::Other(error.into(), 4))?;
    for case in &report.failed {
        println!("failed: {}", case.name);
        for difference in &case.differences {
            println!("    {difference}");
        }
    }
    let all = report.passed + report.failed.len();
    println!(
        "{} of {all} cases passed, on {}",
        report.passed,
        shown(&file).display()
    );
    if report.failed.is_empty() {
        return Ok(());
    }
    let message = format!(
        "{} of the {all} cases in {} failed, see above: change the plugin or what the case expects",
        report.failed.len(),
        shown(&cases).display()
    );
    Err(Failed::Other(anyhow::Error::msg(message), 4))
}
