//! What is asked of generators.

use std::sync::Arc;

use pacos_plugin::{Example, Origin, Proposals, Task, Unit};

use super::{Check, Report, corpus};
use crate::{
    kit::{
        compare::differences,
        lines,
        script::{Asked, Replies, ScriptedCalls},
    },
    plugin::{CallError, Instance, Loaded, is_kebab_case},
};

const ANY_REPLY: Check = Check::new(
    "generator-any-reply",
    "No reply of a model breaks it: empty, cut, in any script, or no reply at all.",
);
const ANY_SEEDS: Check = Check::new(
    "generator-any-seeds",
    "No seeds, or odd ones, are refused with an error or taken; they break nothing.",
);
const REPEATABLE: Check = Check::new(
    "generator-repeatable",
    "The same unit on a fresh instance asks the same and proposes the same.",
);
const ORDER: Check = Check::new(
    "generator-order",
    "A unit asks and proposes the same whatever units came before it.",
);
const PLACES: Check = Check::new(
    "generator-places",
    "Every place lies within a reply of its unit, on whole characters.",
);
const PARENTS: Check = Check::new(
    "generator-parents",
    "Parents are seeds, or accepted examples that the unit may see.",
);
const CODES: Check = Check::new("generator-codes", "Codes of rejects are kebab-case.");
const ACCEPTED: Check = Check::new(
    "generator-accepted",
    "It reads no accepted example beyond those that the unit may see.",
);
const ROLES: Check = Check::new(
    "generator-roles",
    "It asks no model and no server whose capability it does not declare.",
);

pub(super) const CHECKS: [Check; 9] = [
    ANY_REPLY, ANY_SEEDS, REPEATABLE, ORDER, PLACES, PARENTS, CODES, ACCEPTED, ROLES,
];

/// Units of the checks; odd ones may read accepted examples.
const UNITS: u64 = 32;

/// Accepted examples that the odd units may read.
const ACCEPTED_EXAMPLES: usize = 6;

struct Subject<'a> {
    plugin: &'a Loaded,
    seeds: &'a [Task],
    replies: Arc<Replies>,
}

/// What came of one unit.
struct Done {
    unit: Unit,
    proposals: Result<Proposals, CallError>,
    asked: Vec<Asked>,
    denied: Vec<String>,
    reads: Vec<(u64, u32)>,
}

fn unit(index: u64) -> (Unit, Vec<Example>) {
    let accepted = corpus::accepted(match index % 2 {
        0 => 0,
        _ => ACCEPTED_EXAMPLES,
    });
    let mut unit = lines::unit_number(index);
    unit.accepted = accepted.len() as u64;
    (unit, accepted)
}

impl Subject<'_> {
    async fn instance(&self) -> Result<Box<dyn Instance>, String> {
        let instance = self.plugin.instance(self.seeds).await;
        instance.map_err(|error| format!("a fresh instance: {error}"))
    }

    async fn generate(&self, instance: &mut dyn Instance, index: u64) -> Done {
        let (unit, accepted) = unit(index);
        let calls = ScriptedCalls::new(self.plugin, &self.replies).with_accepted(accepted);
        let calls = Arc::new(calls);
        let proposals = instance.generate(unit, calls.clone(), 1).await;
        Done {
            unit,
            proposals,
            asked: calls.asked(),
            denied: calls.denied(),
            reads: calls.reads(),
        }
    }
}

pub(super) async fn check(plugin: &Loaded, seeds: &[Task], report: &mut Report) {
    let subject = Subject {
        plugin,
        seeds,
        replies: corpus::replies(),
    };
    let mut units = Vec::new();
    for index in 0..UNITS {
        match subject.instance().await {
            Ok(mut instance) => units.push(subject.generate(&mut *instance, index).await),
            Err(error) => {
                report.add(ANY_REPLY, Err(error));
                report.skip_all(
                    &CHECKS[1..],
                    "it does not start with these seeds; give --seeds",
                );
                return;
            }
        }
    }
    report.add(ANY_REPLY, any_reply(&units));
    report.add(ANY_SEEDS, any_seeds(&subject).await);
    report.add(REPEATABLE, repeatable(&subject, &units).await);
    report.add(ORDER, order(&subject, &units).await);
    report.add(PLACES, first(&units, places));
    report.add(PARENTS, first(&units, |done| parents(done, seeds)));
    report.add(CODES, first(&units, codes));
    report.add(ACCEPTED, first(&units, accepted));
    report.add(
        ROLES,
        first(&units, |done| match done.denied.first() {
            Some(capability) => Err(format!("it uses `{capability}` and does not declare it")),
            None => Ok(()),
        }),
    );
}

/// The first unit with something wrong.
fn first(units: &[Done], wrong: impl Fn(&Done) -> Result<(), String>) -> Result<(), String> {
    units.iter().try_for_each(|done| {
        wrong(done).map_err(|error| format!("unit {}: {error}", done.unit.index))
    })
}

fn any_reply(units: &[Done]) -> Result<(), String> {
    first(units, |done| match &done.proposals {
        // To say that a reply cannot be used is an answer.
        Ok(_) | Err(CallError::Plugin(_)) => Ok(()),
        Err(error) => Err(error.to_string()),
    })
}

async fn any_seeds(subject: &Subject<'_>) -> Result<(), String> {
    let odd = corpus::evaluation();
    for (name, seeds) in [
        ("no seeds", &[][..]),
        ("one seed", &odd[..1]),
        ("odd seeds", &odd[..]),
    ] {
        match subject.plugin.instance(seeds).await {
            Ok(mut instance) => {
                let done = subject.generate(&mut *instance, 0).await;
                any_reply(&[done]).map_err(|error| format!("{name}: {error}"))?;
            }
            Err(CallError::Plugin(_)) => {}
            Err(error) => return Err(format!("{name}: {error}")),
        }
    }
    Ok(())
}

/// What differs between the same unit done twice.
fn same(expected: &Done, actual: &Done) -> Result<(), String> {
    let index = expected.unit.index;
    if expected.asked != actual.asked {
        let differ = expected
            .asked
            .iter()
            .zip(&actual.asked)
            .position(|(a, b)| a != b);
        let number = differ.unwrap_or(expected.asked.len().min(actual.asked.len()));
        return Err(format!("unit {index}: request {} differs", number + 1));
    }
    let written = |done: &Done| match &done.proposals {
        Ok(proposals) => lines::proposals(proposals, done.asked.len()),
        Err(error) => lines::failure(error),
    };
    match differences(&written(expected), &written(actual)) {
        found if found.is_empty() => Ok(()),
        found => Err(format!("unit {index}: {}", found.join("; "))),
    }
}

async fn repeatable(subject: &Subject<'_>, units: &[Done]) -> Result<(), String> {
    for done in units {
        let mut instance = subject.instance().await?;
        same(
            done,
            &subject.generate(&mut *instance, done.unit.index).await,
        )?;
    }
    Ok(())
}

async fn order(subject: &Subject<'_>, units: &[Done]) -> Result<(), String> {
    let forwards: Vec<&Done> = units.iter().collect();
    let backwards: Vec<&Done> = units.iter().rev().collect();
    for (name, units) in [("in order", forwards), ("in the reverse order", backwards)] {
        let mut instance = subject.instance().await?;
        for done in units {
            let again = subject.generate(&mut *instance, done.unit.index).await;
            same(done, &again).map_err(|error| format!("{name} on one instance: {error}"))?;
            if !matches!(again.proposals, Ok(_) | Err(CallError::Plugin(_))) {
                // What broke is not used again.
                instance = subject.instance().await?;
            }
        }
    }
    Ok(())
}

fn places(done: &Done) -> Result<(), String> {
    let Ok(proposals) = &done.proposals else {
        return Ok(());
    };
    let of_candidates = proposals.candidates.iter().map(|c| c.place);
    let of_rejects = proposals.rejects.iter().map(|r| r.place);
    for place in of_candidates.chain(of_rejects).flatten() {
        let Some(asked) = done.asked.get(place.ordinal as usize) else {
            let asked = done.asked.len();
            return Err(format!(
                "a place in reply {}, of {asked} requests",
                place.ordinal
            ));
        };
        let text = match asked {
            Asked::Model(role, request) => {
                corpus::answer(role, request, place.ordinal as usize).map(|reply| reply.text)
            }
            Asked::Server(request) => {
                corpus::response(request).map(|response| response.text().into_owned())
            }
        };
        let text = match text {
            Ok(text) => text,
            Err(_) => {
                return Err(format!(
                    "a place in request {}, which failed",
                    place.ordinal
                ));
            }
        };
        let (start, end) = (place.start as usize, place.end as usize);
        if text.get(start..end).is_none() {
            let length = text.len();
            return Err(format!(
                "bytes {start}..{end} of reply {} are not whole characters of its {length} bytes",
                place.ordinal
            ));
        }
    }
    Ok(())
}

fn parents(done: &Done, seeds: &[Task]) -> Result<(), String> {
    let Ok(proposals) = &done.proposals else {
        return Ok(());
    };
    let (_, accepted) = unit(done.unit.index);
    for parent in proposals.candidates.iter().flat_map(|c| &c.parents) {
        let known = match parent {
            Origin::Seed(line) => (*line as usize) < seeds.len(),
            Origin::Candidate(id) => accepted.iter().any(|example| example.id == *id),
        };
        if !known {
            return Err(format!("the parent {parent:?} is not there"));
        }
    }
    Ok(())
}

fn codes(done: &Done) -> Result<(), String> {
    let Ok(proposals) = &done.proposals else {
        return Ok(());
    };
    let mut codes = proposals.rejects.iter().map(|reject| &reject.code);
    match codes.find(|code| !is_kebab_case(code)) {
        Some(code) => Err(format!("a reject has the code \"{code}\"")),
        None => Ok(()),
    }
}

fn accepted(done: &Done) -> Result<(), String> {
    let visible = done.unit.accepted;
    match done.reads.iter().find(|(start, _)| *start > visible) {
        Some((start, _)) => Err(format!(
            "it reads from example {start} on, and may see {visible}"
        )),
        None => Ok(()),
    }
}
