//! Pacos's training engine on a card: whether it is right, and how fast it is.
//!
//! `pacos-gpu-checks RESULTS [PART [--OPTION VALUE..]..]` runs the parts named (all of them when none is)
//! and writes a file to RESULTS as each one ends. `pacos-gpu-checks table RESULTS` prints everything found
//! there, the files of `torch_peer.py` included, as one table.
//!
//! Built without the feature `cuda`, it checks the processor's operations at small shapes: so that these
//! checks are themselves seen to work where there is no card.

#[cfg(feature = "cuda")]
mod card;
#[cfg(not(feature = "cuda"))]
#[path = "card_disabled.rs"]
mod card;
mod operations;
mod options;
mod peak;
mod random;
mod report;
mod rows;
mod run;
mod shapes;
mod speed;
mod steps;
mod table;
mod timed;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use pacos_engine::trainer::ComputeDevice;

use options::Part;
use report::Report;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// True when every part ran and every value kept its bound.
fn run() -> Result<bool> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((first, [folder])) if first == "table" => {
            table::print(Path::new(folder))?;
            Ok(true)
        }
        Some((folder, parts)) if !folder.starts_with('-') => {
            run_parts(Path::new(folder), options::parts(parts)?)
        }
        _ => bail!(
            "usage: pacos-gpu-checks RESULTS [operations] [steps] [speed {}] | pacos-gpu-checks table RESULTS",
            options::SPEED_USAGE
        ),
    }
}

fn run_parts(folder: &Path, parts: Vec<Part>) -> Result<bool> {
    std::fs::create_dir_all(folder)?;
    let device = card::open()?;
    let mut good = true;
    for part in parts {
        let mut report = Report::new(part.section(), part.file());
        report.noted("computed on", &card::named(&device));
        let began = std::time::Instant::now();
        // One part's failure must not cost the others their time on the card.
        if let Err(error) = run_part(&part, &device, folder, &mut report) {
            let error = without_backtrace(&format!("{error:#}"));
            eprintln!("{}: {error}", part.section());
            report.failed(&error);
        }
        report.measured(
            "this part took",
            began.elapsed().as_secs_f64(),
            "s",
            serde_json::Value::Null,
        );
        good &= report.kept_its_bounds();
        report.save(folder)?;
    }
    Ok(good)
}

fn run_part(part: &Part, device: &ComputeDevice, folder: &Path, report: &mut Report) -> Result<()> {
    match part {
        Part::Operations => operations::run(device, report),
        Part::Steps => steps::run(device, folder, report),
        Part::Speed(options) => speed::run(device, options, report),
    }
}

/// candle may add a backtrace to its errors, which helps nobody here.
fn without_backtrace(error: &str) -> String {
    let lines = error
        .lines()
        .take_while(|line| !line.trim_start().starts_with("0: "));
    lines.collect::<Vec<_>>().join(" ")
}
