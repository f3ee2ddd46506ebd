//! A generator that shows the teacher one seed task and asks for another of its kind.

use pacos_plugin::{
    Description, Diagnostic, Error, FinishReason, Generator, Host, Message, Origin, Payload, Place,
    Plugin, Proposal, Proposals, Reject, Reply, Request, Task, Unit, schemars::JsonSchema,
};
use serde::Deserialize;

/// The role that is asked. Its capability is declared in `describe`; the recipe grants it.
const ROLE: &str = "teacher";

/// The generator.
pub struct Variations {
    config: Config,
    seeds: Vec<Task>,
}

/// The plugin's own table of the manifest.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "pacos_plugin::schemars")]
pub struct Config {
    /// How far the teacher may stray, from 0 to 2.
    temperature: f64,
    /// Longest reply, in tokens.
    max_tokens: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            temperature: 0.7,
            max_tokens: 512,
        }
    }
}

impl Plugin for Variations {
    type Config = Config;

    fn describe() -> Description {
        Description::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
            .capability("models:teacher")
    }

    fn configure(config: Config) -> Result<Self, Vec<Diagnostic>> {
        if !(0.0..=2.0).contains(&config.temperature) {
            let problem = Diagnostic::error("temperature", "expected a number from 0 to 2");
            return Err(vec![problem.help("temperature = 0.7")]);
        }
        Ok(Variations {
            config,
            seeds: Vec::new(),
        })
    }
}

impl Generator for Variations {
    fn start(&mut self, seeds: Vec<Task>) -> Result<(), Error> {
        if seeds.is_empty() {
            return Err(Error::new("no-seeds", "expected at least one seed task"));
        }
        self.seeds = seeds;
        Ok(())
    }

    fn generate(&mut self, unit: Unit, host: &dyn Host) -> Result<Proposals, Error> {
        // The unit's seed is all the randomness there is, so that the unit can be done again.
        let line = (unit.seed % self.seeds.len() as u64) as usize;
        let request = Request {
            temperature: Some(self.config.temperature),
            max_tokens: Some(self.config.max_tokens),
            ..Request::chat(vec![Message::user(prompt(&self.seeds[line]))])
        };
        let reply = host.complete(ROLE, &request)?;
        let place = Some(Place {
            ordinal: 0,
            start: 0,
            end: reply.text.len() as u32,
        });
        let mut proposals = Proposals {
            candidates: Vec::new(),
            rejects: Vec::new(),
        };
        match read(&reply) {
            Ok(task) => proposals.candidates.push(Proposal {
                payload: Payload::Task(task),
                attributes: Vec::new(),
                parents: vec![Origin::Seed(line as u32)],
                place,
            }),
            Err((code, message)) => proposals.rejects.push(Reject {
                code: code.into(),
                message: message.into(),
                place,
            }),
        }
        Ok(proposals)
    }
}

fn prompt(seed: &Task) -> String {
    format!(
        "Write one more task of this kind, about something else. Begin each part with its name, \
         as here, and leave the input empty where none is needed.\n\n\
         Instruction: {}\nInput: {}\nOutput: {}",
        seed.instruction, seed.input, seed.output
    )
}

/// The task in a reply, or the code and the message of a reject.
fn read(reply: &Reply) -> Result<Task, (&'static str, &'static str)> {
    if reply.finish_reason == FinishReason::Length {
        return Err(("cut-off", "the reply ends at its token limit"));
    }
    let parts = reply.text.split_once("Instruction:").and_then(|(_, rest)| {
        let (instruction, rest) = rest.split_once("Input:")?;
        let (input, output) = rest.split_once("Output:")?;
        Some(Task::new(instruction.trim(), input.trim(), output.trim()))
    });
    let Some(task) = parts else {
        let expected = "expected `Instruction:`, `Input:` and `Output:` in this order";
        return Err(("not-a-task", expected));
    };
    if task.instruction.is_empty() || task.output.is_empty() {
        return Err(("empty-field", "the instruction or the output is empty"));
    }
    Ok(task)
}

pacos_plugin::export!(generator Variations);

#[cfg(test)]
mod tests {
    use pacos_plugin::{Prompt, testing::ScriptedHost};

    use super::*;

    #[test]
    fn the_teacher_sees_the_seed() {
        let mut generator = Variations::configure(Config::default()).unwrap();
        let seed = Task::new("Name a colour.", "", "Blue.");
        generator.start(vec![seed]).unwrap();
        let host =
            ScriptedHost::new().reply("Instruction: Name an animal.\nInput:\nOutput: An alpaca.");
        let unit = Unit {
            index: 0,
            seed: 41,
            accepted: 0,
        };

        let proposals = generator.generate(unit, &host).unwrap();

        assert_eq!(proposals.candidates[0].parents, [Origin::Seed(0)]);
        let (role, request) = &host.requests()[0];
        assert_eq!(role, "teacher");
        let Prompt::Chat(messages) = &request.prompt else {
            panic!("expected a chat, found {:?}", request.prompt);
        };
        assert!(messages[0].content.contains("Instruction: Name a colour."));
    }
}
