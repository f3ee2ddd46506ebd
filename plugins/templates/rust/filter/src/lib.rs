//! A filter that drops answers too short to teach anything.

use pacos_plugin::{
    Candidate, Description, Diagnostic, Error, Filter, Host, Payload, Plugin, Verdict,
    schemars::JsonSchema,
};
use serde::Deserialize;

/// The filter.
pub struct MinimumAnswer {
    config: Config,
}

/// The plugin's own table of the manifest.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "pacos_plugin::schemars")]
pub struct Config {
    /// Fewest words that an answer may have.
    words: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config { words: 3 }
    }
}

impl Plugin for MinimumAnswer {
    type Config = Config;

    fn describe() -> Description {
        Description::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
    }

    fn configure(config: Config) -> Result<Self, Vec<Diagnostic>> {
        if config.words == 0 {
            let problem = Diagnostic::error("words", "0 words would keep everything");
            return Err(vec![problem.help("words = 3")]);
        }
        Ok(MinimumAnswer { config })
    }
}

impl Filter for MinimumAnswer {
    fn judge(&mut self, batch: Vec<Candidate>, _host: &dyn Host) -> Result<Vec<Verdict>, Error> {
        let wanted = self.config.words;
        let verdict = |candidate: &Candidate| {
            let words = answer(&candidate.payload).split_whitespace().count();
            let verdict = if words < wanted {
                Verdict::drop("answer-too-short", format!("{words} of {wanted} words"))
            } else {
                Verdict::keep()
            };
            verdict.score("words", words as f64)
        };
        Ok(batch.iter().map(verdict).collect())
    }
}

/// What the model is to learn to say.
fn answer(payload: &Payload) -> &str {
    match payload {
        Payload::Task(task) => &task.output,
        Payload::Chat(messages) => messages
            .iter()
            .rfind(|message| message.role == "assistant")
            .map_or("", |message| &message.content),
    }
}

pacos_plugin::export!(filter MinimumAnswer);

#[cfg(test)]
mod tests {
    use pacos_plugin::{CandidateId, Decision, Task, testing::ScriptedHost};

    use super::*;

    #[test]
    fn a_short_answer_is_dropped_and_says_how_short_it_is() {
        let candidate = Candidate {
            id: CandidateId { unit: 0, n: 0 },
            payload: Payload::Task(Task::new("Name a colour.", "", "Blue.")),
            attributes: Vec::new(),
            parents: Vec::new(),
            seed: 0,
        };
        let mut filter = MinimumAnswer::configure(Config::default()).unwrap();
        let verdicts = filter.judge(vec![candidate], &ScriptedHost::new()).unwrap();
        assert_eq!(verdicts[0].decision, Decision::Drop);
        assert_eq!(verdicts[0].message, "1 of 3 words");
    }
}
