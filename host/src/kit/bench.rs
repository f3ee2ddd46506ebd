//! How fast a plugin is at honest work, alone or beside another.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use pacos_plugin::{
    Answer, Candidate, CandidateId, HttpRequest, HttpResponse, Item, Payload, Request, Task,
};

use super::{
    KitError, lines,
    script::{self, Replies, ScriptedCalls, reply},
};
use crate::{
    plugin::{CallError, Instance, Loaded, Stage},
    seed, stages,
};

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Records in one call to a filter.
    pub batch: usize,
    /// Records, units or items of one round.
    pub records: usize,
    /// Rounds, after one that is not counted.
    pub rounds: usize,
}

/// Numbers of several rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Half of the rounds are below it.
    pub median: f64,
    /// A quarter of the rounds are below it.
    pub lower: f64,
    /// A quarter of the rounds are above it.
    pub upper: f64,
}

impl Spread {
    /// The quartiles, each between the two nearest rounds.
    ///
    /// # Panics
    /// When there are no values.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let place = part * (values.len() - 1) as f64;
            let (below, above) = (
                values[place.floor() as usize],
                values[place.ceil() as usize],
            );
            below + (above - below) * place.fract()
        };
        Spread {
            median: at(0.5),
            lower: at(0.25),
            upper: at(0.75),
        }
    }
}

/// Bytes that a plugin takes to work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Linear memory of one instance of a component, at its highest.
    OfInstance(u64),
    /// By how much the resident memory of this process grew: all that is known of a library.
    OfProcess(u64),
}

/// What was measured of one plugin.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Seconds to make an instance, configure it and hand it the seeds.
    pub instance: Spread,
    /// Seconds a record, a unit or an item.
    pub record: Spread,
    /// Seconds a record of every round, in the order in which they were run.
    pub rounds: Vec<f64>,
    /// Memory of the work, where it is known.
    pub memory: Option<Memory>,
}

/// The rounds of the second plugin by those of the first, run in turn.
#[must_use]
pub fn ratio(first: &Measured, second: &Measured) -> Spread {
    let pairs = first.rounds.iter().zip(&second.rounds);
    Spread::of(pairs.map(|(first, second)| second / first).collect())
}

/// Mean bytes of a record's texts.
#[must_use]
pub fn record_bytes(work: Work) -> usize {
    let bytes = |task: Task| task.instruction.len() + task.input.len() + task.output.len();
    (0..work.records).map(task).map(bytes).sum::<usize>() / work.records.max(1)
}

/// Resident memory of this process, where the system tells.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// Measures plugins of one stage on the same work, round by round in turn.
///
/// # Errors
/// When a plugin breaks over it.
pub async fn measure(
    plugins: &[&Loaded],
    seeds: &[Task],
    work: Work,
) -> Result<Vec<Measured>, KitError> {
    let mut instances = Vec::new();
    let mut rounds = vec![Vec::with_capacity(work.rounds); plugins.len()];
    let mut memory = Vec::new();
    for plugin in plugins {
        let before = resident();
        instances.push(instance_seconds(plugin, seeds, work.rounds).await?);
        // The round that is not counted.
        round(plugin, seeds, work).await?;
        let grown = resident().zip(before);
        memory.push(match plugin.meter.take().memory {
            0 => grown.map(|(after, before)| Memory::OfProcess(after.saturating_sub(before))),
            bytes => Some(Memory::OfInstance(bytes)),
        });
    }
    for number in 0..work.rounds {
        for place in 0..plugins.len() {
            // Who comes first changes, so that what drifts falls on all alike.
            let place = (place + number) % plugins.len();
            rounds[place].push(round(plugins[place], seeds, work).await?);
        }
    }
    let measured = instances.into_iter().zip(rounds).zip(memory);
    Ok(measured
        .map(|((instance, rounds), memory)| Measured {
            instance,
            record: Spread::of(rounds.clone()),
            rounds,
            memory,
        })
        .collect())
}

fn broke(plugin: &Loaded) -> impl Fn(CallError) -> KitError {
    let plugin = plugin.title();
    move |error| KitError::Broke {
        plugin: plugin.clone(),
        error,
    }
}

async fn instance_seconds(
    plugin: &Loaded,
    seeds: &[Task],
    count: usize,
) -> Result<Spread, KitError> {
    let mut seconds = Vec::with_capacity(count);
    for _ in 0..count {
        let begun = Instant::now();
        plugin.instance(seeds).await.map_err(broke(plugin))?;
        seconds.push(begun.elapsed().as_secs_f64());
    }
    Ok(Spread::of(seconds))
}

/// One round on a fresh instance, in seconds a record. Making the instance, the records and the
/// replies is not counted; handing them over is.
async fn round(plugin: &Loaded, seeds: &[Task], work: Work) -> Result<f64, KitError> {
    let mut instance = plugin.instance(seeds).await.map_err(broke(plugin))?;
    let replies = Arc::new(Replies::Made {
        model: answer,
        server: response,
    });
    let calls = || Arc::new(ScriptedCalls::new(plugin, &replies));
    let taken = match plugin.stage {
        Stage::Filter => {
            let records: Vec<Candidate> = (0..work.records).map(candidate).collect();
            filter_round(&mut *instance, records, work.batch, calls).await
        }
        Stage::Generator => generator_round(&mut *instance, work.records, calls).await,
        Stage::Evaluator => {
            let items = (0..work.records).map(item).collect();
            evaluator_round(&mut *instance, items, calls).await
        }
    };
    let taken = taken.map_err(broke(plugin))?;
    Ok(taken.as_secs_f64() / work.records as f64)
}

async fn filter_round(
    instance: &mut dyn Instance,
    records: Vec<Candidate>,
    batch: usize,
    calls: impl Fn() -> Arc<ScriptedCalls>,
) -> Result<Duration, CallError> {
    let batches: Vec<Vec<Candidate>> = records.chunks(batch).map(<[_]>::to_vec).collect();
    let begun = Instant::now();
    for batch in batches {
        let expected = batch.len();
        let verdicts = instance.judge_batch(batch, calls(), 1).await?;
        crate::plugin::check_verdicts(&verdicts, expected)?;
    }
    Ok(begun.elapsed())
}

async fn generator_round(
    instance: &mut dyn Instance,
    units: usize,
    calls: impl Fn() -> Arc<ScriptedCalls>,
) -> Result<Duration, CallError> {
    let begun = Instant::now();
    for index in 0..units {
        let unit = lines::unit_number(index as u64);
        instance.generate(unit, calls(), 1).await?;
    }
    Ok(begun.elapsed())
}

async fn evaluator_round(
    instance: &mut dyn Instance,
    items: Vec<Item>,
    calls: impl Fn() -> Arc<ScriptedCalls>,
) -> Result<Duration, CallError> {
    let begun = Instant::now();
    for item in items {
        let index = item.index;
        let judgements = instance.judge_item(item, calls(), 1).await?;
        stages::check_judgements(&judgements, index)?;
    }
    Ok(begun.elapsed())
}

/// A task that no seed is: the beginning of one bundled seed's instruction, the end of another's,
/// and the texts of a third.
fn task(index: usize) -> Task {
    use std::sync::OnceLock;
    static SEEDS: OnceLock<Vec<Task>> = OnceLock::new();
    let seeds = SEEDS.get_or_init(stages::bundled_seeds);
    let drawn = |salt| {
        let number = seed::derive(0, salt, index as u64) % seeds.len() as u64;
        &seeds[usize::try_from(number).expect("a remainder of a length fits")]
    };
    let words = |task: &Task| -> Vec<String> {
        task.instruction
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    let (mut instruction, end) = (words(drawn("beginning")), words(drawn("end")));
    instruction.truncate(instruction.len().div_ceil(2));
    instruction.extend_from_slice(&end[end.len() / 2..]);
    let texts = drawn("texts");
    Task::new(instruction.join(" "), &*texts.input, &*texts.output)
}

fn candidate(index: usize) -> Candidate {
    let payload = Payload::Task(task(index));
    Candidate {
        id: CandidateId {
            unit: (index / 20) as u64,
            n: u32::try_from(index % 20).expect("less than twenty"),
        },
        seed: seed::of_content(&payload),
        payload,
        attributes: Vec::new(),
        parents: Vec::new(),
    }
}

fn item(index: usize) -> Item {
    let other = task(index + 1).output;
    let answer = |model: &str, text: &str| Answer {
        model: model.into(),
        text: text.into(),
    };
    let task = task(index);
    Item {
        index: index as u64,
        seed: seed::of_content(&task),
        answers: vec![
            answer("student", &format!("{} Indeed.", task.output)),
            answer("student.base", &other),
            answer("teacher", &task.output),
        ],
        task,
    }
}

/// Twenty tasks for a generator, which also name a winner for an evaluator.
fn response(_request: &HttpRequest) -> script::Response {
    Ok(HttpResponse {
        status: 200,
        headers: Vec::new(),
        body: b"{}".to_vec(),
    })
}

fn answer(_role: &str, _request: &Request, _number: usize) -> script::Answer {
    use std::sync::OnceLock;
    static TASKS: OnceLock<String> = OnceLock::new();
    let text = TASKS.get_or_init(|| {
        let tasks: Vec<Task> = (0..20).map(task).collect();
        serde_json::json!({ "tasks": tasks, "winner": "A" }).to_string()
    });
    Ok(reply(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_the_nearest_rounds() {
        let spread = Spread::of(vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!(
            (spread.lower, spread.median, spread.upper),
            (1.75, 2.5, 3.25)
        );
        let one = Spread::of(vec![7.0]);
        assert_eq!((one.lower, one.median, one.upper), (7.0, 7.0, 7.0));
    }

    #[test]
    fn the_ratio_is_that_of_rounds_run_in_turn() {
        let measured = |rounds: &[f64]| Measured {
            instance: Spread::of(vec![0.0]),
            record: Spread::of(rounds.to_vec()),
            rounds: rounds.to_vec(),
            memory: None,
        };
        // Both slow down alike: the ratio stays.
        let (first, second) = (measured(&[1.0, 2.0, 4.0]), measured(&[3.0, 6.0, 12.0]));
        let ratio = ratio(&first, &second);
        assert_eq!((ratio.lower, ratio.median, ratio.upper), (3.0, 3.0, 3.0));
    }

    #[test]
    fn records_of_the_benchmark_differ_and_have_the_size_of_tasks() {
        let work = Work {
            batch: 256,
            records: 1024,
            rounds: 1,
        };
        let bytes = record_bytes(work);
        assert!((100..1_000).contains(&bytes), "{bytes}");
        assert_ne!(task(0), task(1));
    }
}
