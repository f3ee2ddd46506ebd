//! A filter that breaks the contract in the way its configuration says, for tests of the host.

mod crime;
mod outside;

use crime::{Config, Crime};
use pacos_plugin::{
    Candidate, Description, Diagnostic, Error, Filter, Host, Payload, Plugin, Request, Verdict,
};

/// The filter.
pub struct Hostile {
    config: Config,
    /// Candidates that this instance has judged: what no verdict may depend on.
    judged: u64,
}

impl Plugin for Hostile {
    type Config = Config;

    fn describe() -> Description {
        Description::new("hostile", "0.1.0")
    }

    fn configure(config: Config) -> Result<Self, Vec<Diagnostic>> {
        Ok(Hostile { config, judged: 0 })
    }
}

impl Filter for Hostile {
    fn judge(&mut self, batch: Vec<Candidate>, host: &dyn Host) -> Result<Vec<Verdict>, Error> {
        let told = self.config.crime.commit(host);
        let mut verdicts = Vec::with_capacity(batch.len());
        for candidate in &batch {
            verdicts.push(self.verdict(candidate, &told, host)?);
        }
        match self.config.crime {
            Crime::TooFewVerdicts => drop(verdicts.pop()),
            Crime::TooManyVerdicts => verdicts.push(Verdict::keep()),
            Crime::AmplifiedOutput => {
                let texts = crime::amplified(self.config.megabytes).into_iter();
                verdicts = texts.map(|text| Verdict::drop("amplified", text)).collect();
            }
            _ => {}
        }
        Ok(verdicts)
    }
}

impl Hostile {
    fn verdict(
        &mut self,
        candidate: &Candidate,
        told: &str,
        host: &dyn Host,
    ) -> Result<Verdict, Error> {
        self.judged += 1;
        let text = match &candidate.payload {
            Payload::Task(task) => task.instruction.as_str(),
            Payload::Chat(messages) => messages.first().map_or("", |m| m.content.as_str()),
        };
        let words = text.split_whitespace().count() as f64;
        Ok(match self.config.crime {
            Crime::Honest if words < 3.0 => {
                Verdict::drop("too-short", format!("{words} words, 3 wanted")).score("words", words)
            }
            Crime::Poison if text.contains("POISON") => panic!("poisoned by `{text}`"),
            Crime::HugeOutput => {
                Verdict::drop("huge-output", "x".repeat(self.config.megabytes << 20))
            }
            Crime::NotDeterministic => Verdict::keep().score("call", self.judged as f64),
            Crime::NanScore => Verdict::keep().score("words", f64::NAN),
            Crime::InfiniteScore => Verdict::keep().score("words", f64::INFINITY),
            Crime::AsksTeacher => {
                let reply = host.complete("teacher", &Request::completion(text))?;
                Verdict::drop("asked", reply.text)
            }
            _ if told.is_empty() => Verdict::keep().score("words", words),
            _ => Verdict::drop("reached-outside", told),
        })
    }
}

pacos_plugin::export!(filter Hostile);
