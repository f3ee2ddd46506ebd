//! `pacos report`.

use std::path::PathBuf;

use clap::Args;

use super::{Failed, recorded};
use crate::stages::report::{self, Report};

/// Write one page that says what a run came to, finished or not.
///
/// The run may be going on meanwhile. The page needs nothing beside it and loads nothing.
#[derive(Args)]
pub(super) struct ReportArgs {
    /// Directory of the run, or its manifest [default: the newest under runs]
    run: Option<PathBuf>,
    /// Print everything that the page says as JSON, and write no page
    #[arg(long, conflicts_with = "out")]
    json: bool,
    /// Where to write the page [default: report.html in the run's directory]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn report(args: ReportArgs) -> Result<(), Failed> {
    let (dir, ledger) = recorded::open(args.run.as_deref())?;
    let disk = |error: anyhow::Error| Failed::Other(error, 5);
    let report = Report::read(&ledger).map_err(|error| disk(error.into()))?;
    if args.json {
        println!("{}", serde_json::json!(report));
        return Ok(());
    }
    let path = args.out.unwrap_or_else(|| dir.join(report::FILE));
    report::write_page(&report, &path).map_err(|error| disk(error.into()))?;
    println!("{}", path.display());
    for line in summary(&report) {
        println!("{line}");
    }
    Ok(())
}

/// The first five things to know: what is missing, and the result in words.
fn summary(report: &Report) -> Vec<String> {
    let headline = &report.headline;
    let unfinished = (!headline.missing.is_empty()).then(|| {
        format!(
            "Not finished; still to come: {}.",
            headline.missing.join("; ")
        )
    });
    unfinished
        .into_iter()
        .chain(headline.sentences.iter().cloned())
        .chain(headline.cautions.iter().cloned())
        .take(5)
        .map(|line| format!("  {line}"))
        .collect()
}
