//! A generator that breaks the contract in the way its configuration says, for tests of the host.

#[path = "../../hostile/src/crime.rs"]
mod crime;
#[path = "../../hostile/src/outside.rs"]
mod outside;

use crime::{Config, Crime};
use pacos_plugin::{
    Description, Diagnostic, Error, Generator, Host, Payload, Place, Plugin, Proposal, Proposals,
    Request, Task, Unit,
};

/// The generator: one request a unit, one candidate a line of the reply.
pub struct HostileGenerator {
    config: Config,
    /// Units that this instance has done: what no request may depend on.
    done: u64,
}

impl Plugin for HostileGenerator {
    type Config = Config;

    fn describe() -> Description {
        Description::new("hostile-generator", "0.1.0").capability("models:teacher")
    }

    fn configure(config: Config) -> Result<Self, Vec<Diagnostic>> {
        match config.crime {
            Crime::TooFewVerdicts
            | Crime::TooManyVerdicts
            | Crime::NanScore
            | Crime::InfiniteScore => Err(vec![Diagnostic::error(
                "crime",
                "a generator gives no verdicts",
            )]),
            _ => Ok(HostileGenerator { config, done: 0 }),
        }
    }
}

impl Generator for HostileGenerator {
    fn start(&mut self, _seeds: Vec<Task>) -> Result<(), Error> {
        Ok(())
    }

    fn generate(&mut self, unit: Unit, host: &dyn Host) -> Result<Proposals, Error> {
        self.done += 1;
        let prompt = match self.config.crime {
            Crime::NotDeterministic => format!("Unit {} asks, call {}", unit.index, self.done),
            _ => format!("Unit {} asks", unit.index),
        };
        match self.config.crime {
            Crime::ManyRequests => {
                let requests = vec![Request::completion(prompt.clone()); self.config.requests];
                host.complete_many("teacher", &requests)?;
            }
            Crime::Spends => {
                for n in 0..self.config.requests {
                    host.complete("teacher", &Request::completion(format!("{prompt} {n}")))?;
                }
            }
            _ => {}
        }
        let reply = host.complete("teacher", &Request::completion(prompt))?;
        // After the reply is paid for: the crimes that cost most to forget.
        let told = self.config.crime.commit(host);
        assert!(
            self.config.crime != Crime::Poison || unit.index != 3,
            "poisoned by unit 3"
        );
        let texts = match self.config.crime {
            Crime::HugeOutput => vec!["x".repeat(self.config.megabytes << 20)],
            Crime::AmplifiedOutput => crime::amplified(self.config.megabytes),
            _ if !told.is_empty() => vec![told],
            _ => reply.text.lines().map(str::to_owned).collect(),
        };
        let place = Place {
            ordinal: 0,
            start: 0,
            end: u32::try_from(reply.text.len()).unwrap_or(u32::MAX),
        };
        let candidates = texts.into_iter().map(|text| Proposal {
            payload: Payload::Task(Task::new(text, "", "An answer.")),
            attributes: Vec::new(),
            parents: Vec::new(),
            place: Some(place),
        });
        Ok(Proposals {
            candidates: candidates.collect(),
            rejects: Vec::new(),
        })
    }
}

pacos_plugin::export!(generator HostileGenerator);
