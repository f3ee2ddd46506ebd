//! A filter twice: as an Extism plugin, JSON in and JSON out, and as a component of ours.
//!
//! ```text
//! tests/peers/build                # the guest and this program; says how to start it
//! ```
//!
//! A clock starts with the host's `Vec<Candidate>` and stops with its `Vec<Verdict>`. Both sides
//! run once a round, in turn, in one process; what can be compared on a machine that does other
//! things as well is the ratio within a round.

#[path = "../../../../host/benches/plugins/records.rs"]
mod records;
mod sides;
mod table;

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use alpaca_heuristics::AlpacaHeuristics;
use anyhow::{Context, Result, anyhow, ensure};
use extism::Plugin;
use keep_all::KeepAll;
use pacos_plugin::{Candidate, Decision, Filter, Payload, Task, Verdict, testing::ScriptedHost};
use tokio::runtime::Runtime;

use records::records;
use sides::{Component, ExtismPlugin, judge_component, judge_extism};

/// The filter whose starts are measured.
const HEURISTICS: &str = "alpaca-heuristics";
const FUNCTION: &str = "alpaca_heuristics";
const BATCH: usize = 256;
/// Records of a batch that [`HEURISTICS`] does not keep as they are.
const DEFECTS: usize = 4;
/// Rounds of a comparison of calls, and of starts.
const ROUNDS: usize = 400;
const STARTS: usize = 200;
/// Processes started for each side.
const PROCESSES: usize = 20;
/// Calls with one record in a round: one call is as short as what disturbs it.
const SINGLE_CALLS: usize = 64;
/// First rounds, which do not count.
const WARM_UP: usize = 20;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [guest] => measure(Path::new(guest)),
        ["start", side, guest, cache] => {
            let time = start(side, Path::new(guest), Path::new(cache))?;
            println!("{}", time.as_secs_f64());
            Ok(())
        }
        _ => anyhow::bail!("expected the path of the Extism guest; tests/peers/build makes it"),
    }
}

fn measure(guest: &Path) -> Result<()> {
    let runtime = Runtime::new()?;
    let component = Component::file(HEURISTICS);
    let folder = tempfile::tempdir()?;
    let cache = sides::extism_cache(folder.path())?;
    let extism = ExtismPlugin::new(guest, &cache, component.limits());
    for (name, file) in [("component", component.path()), ("guest", guest)] {
        let about = std::fs::metadata(file).with_context(|| file.display().to_string())?;
        println!("{name}: {} bytes", about.len());
    }

    println!("\n{}", table::CALLS);
    calls::<AlpacaHeuristics>(HEURISTICS, BATCH - DEFECTS, &runtime, &extism)?;
    calls::<KeepAll>("keep-all", BATCH, &runtime, &extism)?;
    println!("\n{}", table::STARTS);
    starts(&runtime, &component, &extism)?;
    processes(guest, &cache)
}

/// Records that some filter minds.
fn with_defects(mut batch: Vec<Candidate>) -> Vec<Candidate> {
    let defects: [Task; DEFECTS] = [
        Task::new("Sing", "", "La la la."),
        Task::new(
            "Explain how bread is made",
            "<noinput>",
            "Flour, water and time.",
        ),
        Task::new("Name the capital of France", "", ""),
        Task::new("Draw a map of the river", "", "Here it is."),
    ];
    for (candidate, task) in batch.iter_mut().zip(defects) {
        candidate.payload = Payload::Task(task);
    }
    batch
}

/// Calls of an instance that is at work already; beside them the same code as a function of this
/// program, which is the floor, and what JSON costs the host.
fn calls<P: Filter>(
    name: &str,
    kept: usize,
    runtime: &Runtime,
    extism: &ExtismPlugin,
) -> Result<()> {
    let host = ScriptedHost::new();
    let config = serde_json::from_str("{}")?;
    let mut plain = P::configure(config).map_err(|problems| anyhow!("{problems:?}"))?;
    let mut instance = Component::file(name).instance(runtime)?;
    let mut plugin = extism.start()?;
    let mut plainly = |batch| {
        plain
            .judge(batch, &host)
            .map_err(|e| anyhow!("{}", e.message))
    };
    let mut by_component = |batch| judge_component(runtime, &mut *instance, batch);
    let function = name.replace('-', "_");
    let mut by_extism = |batch| judge_extism(&mut plugin, &function, batch);

    // All must say the same, of records that pass and of some that do not.
    let batch = with_defects(records(BATCH));
    let verdicts = plainly(batch.clone())?;
    ensure!(
        verdicts == by_component(batch.clone())?,
        "{name}: the component differs"
    );
    ensure!(
        verdicts == by_extism(batch)?,
        "{name}: the Extism plugin differs"
    );
    let found = verdicts
        .iter()
        .filter(|v| v.decision == Decision::Keep)
        .count();
    ensure!(
        found == kept,
        "{name}: {found} of {BATCH} kept, expected {kept}"
    );

    for (size, repeats) in [(BATCH, 1), (1, SINGLE_CALLS)] {
        let records = records(size);
        let reply = serde_json::to_vec(&plainly(records.clone())?)?;
        let times = interleave(
            ROUNDS,
            [
                &mut || repeat(repeats, &records, &mut plainly),
                &mut || repeat(repeats, &records, &mut by_component),
                &mut || repeat(repeats, &records, &mut by_extism),
                &mut || repeat(repeats, &records, |batch| json_in_the_host(&batch, &reply)),
            ],
        )?;
        table::calls(&format!("{name}, batch of {size}"), &times);
    }
    Ok(())
}

/// What an Extism host does before and after a call: the batch to JSON, verdicts from JSON.
fn json_in_the_host(batch: &[Candidate], reply: &[u8]) -> Result<Vec<Verdict>> {
    std::hint::black_box(serde_json::to_vec(batch)?);
    Ok(serde_json::from_slice(reply)?)
}

/// Starts within a process, with compiled code in each side's cache.
fn starts(runtime: &Runtime, component: &Component, extism: &ExtismPlugin) -> Result<()> {
    let records = records(1);
    let times = interleave(
        STARTS,
        [
            &mut || {
                let batch = records.clone();
                let begun = Instant::now();
                let mut instance = component.instance(runtime)?;
                judge_component(runtime, &mut *instance, batch)?;
                Ok(begun.elapsed())
            },
            &mut || {
                let batch = records.clone();
                let begun = Instant::now();
                let mut plugin = extism.start()?;
                judge_extism(&mut plugin, FUNCTION, batch)?;
                Ok(begun.elapsed())
            },
        ],
    )?;
    table::start("file to first verdict, same process", &times[0], &times[1]);

    let loaded = component.load(runtime)?;
    let compiled = extism.compile()?;
    let times = interleave(
        STARTS,
        [
            &mut || {
                let batch = records.clone();
                let begun = Instant::now();
                let mut instance = runtime.block_on(loaded.instance(&[]))?;
                judge_component(runtime, &mut *instance, batch)?;
                Ok(begun.elapsed())
            },
            &mut || {
                let batch = records.clone();
                let begun = Instant::now();
                let mut plugin = Plugin::new_from_compiled(&compiled)?;
                judge_extism(&mut plugin, FUNCTION, batch)?;
                Ok(begun.elapsed())
            },
        ],
    )?;
    table::start("further instance to first verdict", &times[0], &times[1]);
    Ok(())
}

/// The first start of a process, timed inside it, with compiled code in each side's cache.
fn processes(guest: &Path, cache: &Path) -> Result<()> {
    let program = env::current_exe()?;
    let child = |side: &'static str| {
        let program: &PathBuf = &program;
        move || {
            let mut command = Command::new(program);
            let output = command
                .args(["start", side])
                .args([guest, cache])
                .output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "start {side}: {said}");
            let seconds = String::from_utf8(output.stdout)?.trim().parse()?;
            Ok(Duration::from_secs_f64(seconds))
        }
    };
    let times = interleave(PROCESSES, [&mut child("component"), &mut child("extism")])?;
    table::start("file to first verdict, new process", &times[0], &times[1]);
    Ok(())
}

/// From a file to the verdict of one record.
fn start(side: &str, guest: &Path, cache: &Path) -> Result<Duration> {
    let batch = records(1);
    let component = Component::file(HEURISTICS);
    if side == "extism" {
        let extism = ExtismPlugin::new(guest, cache, &component.limits());
        let begun = Instant::now();
        judge_extism(&mut extism.start()?, FUNCTION, batch)?;
        return Ok(begun.elapsed());
    }
    // A host has its threads before it has plugins.
    let runtime = Runtime::new()?;
    let begun = Instant::now();
    let mut instance = component.instance(&runtime)?;
    judge_component(&runtime, &mut *instance, batch)?;
    Ok(begun.elapsed())
}

/// The mean of some calls, each with the same records; making them does not count.
fn repeat(
    times: usize,
    records: &[Candidate],
    mut judge: impl FnMut(Vec<Candidate>) -> Result<Vec<Verdict>>,
) -> Result<Duration> {
    let batches: Vec<Vec<Candidate>> = (0..times).map(|_| records.to_vec()).collect();
    let mut answers = Vec::with_capacity(times);
    let begun = Instant::now();
    for batch in batches {
        answers.push(judge(batch)?);
    }
    let elapsed = begun.elapsed();
    ensure!(
        answers
            .iter()
            .all(|verdicts| verdicts.len() == records.len())
    );
    Ok(elapsed / times as u32)
}

/// Runs every side once a round; gives microseconds.
fn interleave<const N: usize>(
    rounds: usize,
    mut sides: [&mut dyn FnMut() -> Result<Duration>; N],
) -> Result<[Vec<f64>; N]> {
    let mut times = [const { Vec::new() }; N];
    // Processes have nothing to warm up but the machine's file cache.
    let warm_up = WARM_UP.min(rounds / 10);
    for round in 0..warm_up + rounds {
        for (side, times) in sides.iter_mut().zip(&mut times) {
            let time = side()?;
            if round >= warm_up {
                times.push(time.as_secs_f64() * 1e6);
            }
        }
    }
    Ok(times)
}
