//! `pacos plugin bench`.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use clap::Args;
use serde_json::{Value, json};

use super::subject::{self, PLUGIN, SubjectArgs, USAGE};
use crate::{
    cli::Failed,
    counted::counted,
    kit::bench::{self, Measured, Memory, Spread, Work},
    plugin::{Loaded, Stage},
    stages,
};

/// Measure how fast a plugin is, alone or beside another
///
/// The work is honest: the plugin is configured and seeded as in a recipe, the records are as long
/// as bundled tasks, and models answer at once from a script. Rounds are run on fresh instances;
/// with --compare the two plugins take turns, and the ratio is that of neighbouring rounds.
/// Numbers are medians, with the quartiles in brackets.
#[derive(Args)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    subject: SubjectArgs,
    /// Another plugin of the same kind, under the same configuration
    #[arg(long, value_name = "PLUGIN")]
    compare: Option<String>,
    /// Records in one call to a filter
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Records, units or items of one round
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    records: u32,
    /// Rounds that are counted
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seed tasks, as JSON Lines; those inside this binary if absent
    #[arg(long, value_name = "FILE")]
    seeds: Option<PathBuf>,
    /// Print the numbers as JSON
    #[arg(long)]
    json: bool,
}

/// A plugin, and how long it took to load.
struct Subject {
    loaded: Loaded,
    load: Duration,
    /// Once more, with what the first time left behind.
    load_again: Duration,
}

pub(super) async fn bench(args: BenchArgs) -> Result<(), Failed> {
    let seeds = match &args.seeds {
        Some(_) => subject::seeds(args.seeds.as_deref())?,
        None => stages::bundled_seeds(),
    };
    let work = Work {
        batch: args.batch as usize,
        records: args.records as usize,
        rounds: args.rounds as usize,
    };
    let mut subjects = vec![load(&args.subject, None).await?];
    if let Some(other) = &args.compare {
        subjects.push(load(&args.subject, Some(other)).await?);
    }
    let stage = subjects[0].loaded.stage;
    if let Some(other) = subjects.iter().find(|other| other.loaded.stage != stage) {
        let text = format!(
            "{} is a {stage}, and {} a {}: the same work is wanted of both",
            subjects[0].loaded.title(),
            other.loaded.title(),
            other.loaded.stage
        );
        return Err(Failed::Other(anyhow!(text), USAGE));
    }
    let work = Work {
        batch: match subjects[0].loaded.description.batch_limit as usize {
            0 => work.batch,
            limit => work.batch.min(limit),
        },
        ..work
    };
    let plugins: Vec<&Loaded> = subjects.iter().map(|subject| &subject.loaded).collect();
    let measured = bench::measure(&plugins, &seeds, work)
        .await
        .map_err(|error| Failed::Other(error.into(), PLUGIN))?;
    if args.json {
        print_json(&subjects, &measured, work);
    } else {
        print(&subjects, &measured, work, seeds.len());
    }
    Ok(())
}

async fn load(args: &SubjectArgs, other: Option<&str>) -> Result<Subject, Failed> {
    let load = async || match other {
        None => args.load_as_it_is().await,
        Some(other) => args.load_other(other).await,
    };
    let begun = Instant::now();
    let loaded = load().await?;
    let first = begun.elapsed();
    subject::accepts(&loaded).await?;
    let begun = Instant::now();
    let loaded = load().await?;
    Ok(Subject {
        loaded,
        load: first,
        load_again: begun.elapsed(),
    })
}

/// What is counted.
fn unit_of_work(stage: Stage) -> &'static str {
    match stage {
        Stage::Filter => "record",
        Stage::Generator => "unit",
        Stage::Evaluator => "item",
    }
}

fn print(subjects: &[Subject], measured: &[Measured], work: Work, seeds: usize) {
    let stage = subjects[0].loaded.stage;
    let unit = unit_of_work(stage);
    let rounds = counted(work.rounds, "round", "rounds");
    let records = counted(work.records, unit, &format!("{unit}s"));
    match stage {
        Stage::Filter => println!(
            "{rounds} of {records} of {} bytes, in batches of {}",
            bench::record_bytes(work),
            work.batch
        ),
        Stage::Generator => println!("{rounds} of {records}, 20 tasks in a reply"),
        Stage::Evaluator => println!("{rounds} of {records}, three answers each"),
    }
    for (subject, measured) in subjects.iter().zip(measured) {
        let carrier = match subject.loaded.recipe.native {
            true => "dynamic library",
            false => "component",
        };
        println!();
        println!("{}, {carrier}", subject.loaded.title());
        println!(
            "  load        {:.2} ms, again {:.2} ms",
            subject.load.as_secs_f64() * 1e3,
            subject.load_again.as_secs_f64() * 1e3
        );
        let instance = in_units(measured.instance, 1e3);
        match stage {
            Stage::Evaluator => println!("  instance    {instance} ms"),
            _ => println!(
                "  instance    {instance} ms, with {}",
                counted(seeds, "seed", "seeds")
            ),
        }
        println!("  a {:<9} {} µs", unit, in_units(measured.record, 1e6));
        let Spread {
            median,
            lower,
            upper,
        } = measured.record;
        println!(
            "  a second    {:.0} {unit}s ({:.0} to {:.0})",
            1.0 / median,
            1.0 / upper,
            1.0 / lower
        );
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        match measured.memory {
            Some(Memory::OfInstance(bytes)) => {
                println!("  memory      {:.1} MiB in an instance", mebibytes(bytes));
            }
            Some(Memory::OfProcess(bytes)) => {
                println!(
                    "  memory      {:.1} MiB more in this process",
                    mebibytes(bytes)
                );
            }
            None => {}
        }
    }
    if let [first, second] = measured {
        let ratio = bench::ratio(first, second);
        println!();
        println!(
            "{} takes {} times as long as {}",
            named(&subjects[1]),
            in_units(ratio, 1.0),
            named(&subjects[0])
        );
    }
}

/// Name, version and file, as two builds of one plugin have the same name.
fn named(subject: &Subject) -> String {
    let source = stages::source_name(&subject.loaded.recipe.source);
    format!("{} [{source}]", subject.loaded.title())
}

fn in_units(spread: Spread, scale: f64) -> String {
    let Spread {
        median,
        lower,
        upper,
    } = spread;
    format!(
        "{:.2} ({:.2} to {:.2})",
        median * scale,
        lower * scale,
        upper * scale
    )
}

fn print_json(subjects: &[Subject], measured: &[Measured], work: Work) {
    let spread = |spread: Spread| json!({ "median": spread.median, "lower": spread.lower, "upper": spread.upper });
    let plugins = subjects.iter().zip(measured).map(|(subject, measured)| {
        let (instance, process) = match measured.memory {
            Some(Memory::OfInstance(bytes)) => (Some(bytes), None),
            Some(Memory::OfProcess(bytes)) => (None, Some(bytes)),
            None => (None, None),
        };
        json!({
            "plugin": subject.loaded.title(),
            "source": stages::source_name(&subject.loaded.recipe.source),
            "sha256": subject.loaded.sha256,
            "load_seconds": subject.load.as_secs_f64(),
            "load_again_seconds": subject.load_again.as_secs_f64(),
            "instance_seconds": spread(measured.instance),
            "record_seconds": spread(measured.record),
            "instance_bytes": instance,
            "process_bytes": process,
        })
    });
    let ratio = match measured {
        [first, second] => spread(bench::ratio(first, second)),
        _ => Value::Null,
    };
    let text = json!({
        "batch": work.batch,
        "records": work.records,
        "rounds": work.rounds,
        "plugins": plugins.collect::<Vec<_>>(),
        "ratio": ratio,
    });
    println!("{text}");
}
