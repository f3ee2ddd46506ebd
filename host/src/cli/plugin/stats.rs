//! `pacos plugin stats`.

use std::path::PathBuf;

use clap::Args;

use crate::{
    cli::{Failed, recorded},
    counted::counted,
    plugin::Usage,
};

/// Say what each plugin of a run did: calls, records, time, memory, failures
#[derive(Args)]
pub(super) struct StatsArgs {
    /// Directory of the run, or its manifest [default: the newest under runs]
    run: Option<PathBuf>,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn stats(args: &StatsArgs) -> Result<(), Failed> {
    let (dir, ledger) = recorded::open(args.run.as_deref())?;
    let plugins = ledger
        .usage()
        .map_err(|error| Failed::Other(error.into(), 5))?;
    if args.json {
        let rows: Vec<_> = plugins
            .iter()
            .map(|(stage, plugin, usage)| {
                serde_json::json!({
                    "stage": stage,
                    "plugin": plugin,
                    "calls": usage.calls,
                    "records": usage.records,
                    "seconds": usage.seconds,
                    "memory_bytes": usage.memory,
                    "traps": usage.traps,
                    "timeouts": usage.timeouts,
                    "invalid": usage.invalid,
                    "errors": usage.errors,
                })
            })
            .collect();
        println!("{}", serde_json::json!(rows));
        return Ok(());
    }
    if plugins.is_empty() {
        println!(
            "No plugin has been called in {} since counting began.",
            dir.display()
        );
        return Ok(());
    }
    println!(
        "{:<13} {:<26} {:>8} {:>9} {:>10} {:>11} {:>9}  failures",
        "place", "plugin", "calls", "records", "seconds", "us/record", "memory"
    );
    for (stage, plugin, usage) in &plugins {
        println!("{}", row(stage, plugin, usage));
    }
    Ok(())
}

fn row(stage: &str, plugin: &str, usage: &Usage) -> String {
    let each = match usage.records {
        0 => "-".to_owned(),
        records => format!("{:.1}", usage.seconds * 1e6 / records as f64),
    };
    let memory = match usage.memory {
        0 => "-".to_owned(),
        bytes => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
    };
    let failures: Vec<String> = [
        (usage.traps, "trap", "traps"),
        (usage.timeouts, "time-out", "time-outs"),
        (usage.invalid, "invalid answer", "invalid answers"),
        (usage.errors, "error", "errors"),
    ]
    .into_iter()
    .filter(|(count, ..)| *count > 0)
    .map(|(count, one, many)| counted(count, one, many))
    .collect();
    let failures = match failures.is_empty() {
        true => "none".to_owned(),
        false => failures.join(", "),
    };
    format!(
        "{stage:<13} {plugin:<26} {:>8} {:>9} {:>10.3} {each:>11} {memory:>9}  {failures}",
        usage.calls, usage.records, usage.seconds
    )
}
