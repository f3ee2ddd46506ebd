//! The tasks that a request shows the teacher.

use pacos_plugin::{Example, Host, Origin, Payload, Task, Unit};

use crate::{config::Config, sample::SplitMix64};

/// A task to show, and where it came from.
pub(crate) struct Demonstration {
    pub(crate) task: Task,
    pub(crate) origin: Origin,
}

/// Draws `demonstrations` tasks: up to `examples_from_accepted` of the examples that the unit
/// may see, and seeds for the rest, in random order.
pub(crate) fn draw(
    config: &Config,
    seeds: &[Task],
    unit: &Unit,
    random: &mut SplitMix64,
    host: &dyn Host,
) -> Vec<Demonstration> {
    let from_accepted = config.examples_from_accepted as usize;
    let mut drawn: Vec<Demonstration> = random
        .sample(unit.accepted, from_accepted)
        .into_iter()
        .flat_map(|index| host.accepted(index, 1))
        .filter_map(accepted)
        .collect();
    let from_seeds = config.demonstrations as usize - drawn.len();
    drawn.extend(
        random
            .sample(seeds.len() as u64, from_seeds)
            .into_iter()
            .map(|index| Demonstration {
                task: seeds[index as usize].clone(),
                origin: Origin::Seed(index as u32),
            }),
    );
    random.shuffle(&mut drawn);
    drawn
}

/// A conversation shows no task in three fields, so only tasks are shown.
fn accepted(example: Example) -> Option<Demonstration> {
    match example.payload {
        Payload::Task(task) => Some(Demonstration {
            task,
            origin: Origin::Candidate(example.id),
        }),
        Payload::Chat(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pacos_plugin::{CandidateId, testing::ScriptedHost};

    fn seeds() -> Vec<Task> {
        (0..9)
            .map(|n| Task::new(format!("Seed {n}"), "", "x"))
            .collect()
    }

    fn unit(seed: u64, accepted: u64) -> Unit {
        Unit {
            index: 0,
            seed,
            accepted,
        }
    }

    fn examples(count: u64) -> Vec<Example> {
        (0..count)
            .map(|unit| Example {
                id: CandidateId { unit, n: 0 },
                payload: Payload::Task(Task::new(format!("Accepted {unit}"), "", "x")),
            })
            .collect()
    }

    fn drawn(config: &Config, seed: u64, accepted: u64) -> Vec<String> {
        let host = ScriptedHost::new().with_accepted(examples(accepted));
        let unit = unit(seed, accepted);
        draw(config, &seeds(), &unit, &mut SplitMix64::new(seed), &host)
            .into_iter()
            .map(|shown| shown.task.instruction)
            .collect()
    }

    #[test]
    fn the_same_seed_shows_the_same_tasks_and_another_seed_others() {
        let config = Config::default();
        assert_eq!(drawn(&config, 1, 0), drawn(&config, 1, 0));
        assert_ne!(drawn(&config, 1, 0), drawn(&config, 2, 0));
    }

    #[test]
    fn accepted_examples_are_shown_when_there_are_any() {
        let config = Config {
            demonstrations: 8,
            examples_from_accepted: 2,
            ..Config::default()
        };
        for (accepted, expected) in [(0, 0), (1, 1), (30, 2)] {
            let shown = drawn(&config, 3, accepted);
            let of_accepted = shown.iter().filter(|s| s.starts_with("Accepted")).count();
            assert_eq!((shown.len(), of_accepted), (8, expected));
        }
    }
}
