//! What candle does on a CUDA card: whether its operations are right, and how fast they are.
//!
//! `pacos-gpu-checks RESULTS [SECTION..]` runs the sections named (all of them when none is) and writes
//! `RESULTS/SECTION.json` as each one ends. `pacos-gpu-checks table RESULTS` prints everything found
//! there, the files of `torch_peer.py` included, as one table.
//!
//! Without the feature `cuda` only the section `parity` exists, and it runs on the CPU.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "cuda_disabled.rs"]
mod cuda;
mod parity;
mod random;
mod report;
mod table;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use candle_core::Device;

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

/// True when every section ran and every value kept its bound.
fn run() -> Result<bool> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((first, [folder])) if first == "table" => {
            table::print(Path::new(folder))?;
            Ok(true)
        }
        Some((folder, sections)) => run_sections(Path::new(folder), sections),
        None => {
            bail!("usage: pacos-gpu-checks RESULTS [SECTION..] | pacos-gpu-checks table RESULTS")
        }
    }
}

fn run_sections(folder: &Path, wanted: &[String]) -> Result<bool> {
    std::fs::create_dir_all(folder)?;
    let device = cuda::device()?;
    let known = [vec![("parity", parity::run as Section)], cuda::sections()].concat();
    for name in wanted {
        if !known.iter().any(|(section, _)| section == name) {
            let names: Vec<_> = known.iter().map(|(section, _)| *section).collect();
            bail!(
                "no section is called {name}; this build has {}",
                names.join(", ")
            );
        }
    }
    let mut good = true;
    for (name, section) in known {
        if !wanted.is_empty() && !wanted.iter().any(|section| section == name) {
            continue;
        }
        let mut report = Report::new(name);
        // One section's failure must not cost the others their time on the card.
        if let Err(error) = section(&device, &mut report) {
            eprintln!("{name}: {error:#}");
            report.failed(&format!("{error:#}"));
        }
        good &= report.kept_its_bounds();
        report.save(folder)?;
    }
    Ok(good)
}

/// One group of checks: it adds its rows to the report.
pub type Section = fn(&Device, &mut Report) -> Result<()>;
