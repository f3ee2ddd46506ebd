//! `rouge-l`: drops a record whose instruction is too near to a seed or to what was kept before.
//!
//! Nearness is ROUGE-L F (Lin, "ROUGE: a package for automatic evaluation of summaries", 2004):
//! with `lcs` the length of the longest common subsequence of the two texts' words,
//! precision `lcs / m`, recall `lcs / n`, F their harmonic mean. A record is dropped when its
//! highest F over the seeds and over everything that this filter kept exceeds `threshold`; Self-Instruct and
//! Alpaca drop above 0.7.
//!
//! Scores are those of the Python package `rouge_score` 0.1.2 (no stemmer), to the last bit: the
//! same tokens and the same floating-point operations in the same order. That matters at the
//! threshold itself: seven common words of 10 and 10 score 0.7 and stay, of 9 and 11 they score
//! 0.7000000000000001 and go.
//!
//! Tokens are the runs of `a` to `z` and `0` to `9` in the lower-cased text. A text in another script
//! has none: its score is 0, and it is never dropped, as in the original.
//!
//! # Configuration
//!
//! | Key | Default | Meaning |
//! | --- | --- | --- |
//! | `threshold` | 0.7 | the highest F that is kept, 0 to 1 |
//! | `field` | `"instruction"` | what is compared: `"instruction"`, `"output"`, or `"instruction-and-input"` |
//!
//! Of a conversation, the first user message is the instruction and the last assistant message
//! the output.
//!
//! # Verdicts
//!
//! `too-similar` for a drop, else `kept`. Both carry the score `rouge_l`, the exact maximum, and as
//! nearest neighbour the first text that attains it (seeds in their order, then records in the
//! order of keeping), even where it is 0; only where there is nothing to compare with do they
//! carry no neighbour.
//!
//! # Speed
//!
//! No text is left out by approximation. An inverted index finds the texts that share a word, rarest words
//! first; a bound from the words not yet looked up says when no other text can come nearer; what
//! remains is compared by a bit-parallel longest common subsequence, 64 words in one step.
//! `cargo run --release -p rouge-l --example throughput` measures it.

mod config;
mod lcs;
mod pool;
mod tokens;

use std::borrow::Cow;

use pacos_plugin::{
    Candidate, Decision, Description, Diagnostic, Error, Filter, Host, Judged, Origin, Payload,
    Plugin, Task, Verdict,
};

pub use config::{Config, Field};
use pool::Pool;

/// The filter.
pub struct RougeL {
    config: Config,
    pool: Pool,
    /// Whose text stands at each place of the pool.
    origins: Vec<Origin>,
}

impl Plugin for RougeL {
    type Config = Config;

    fn describe() -> Description {
        Description::new("rouge-l", env!("CARGO_PKG_VERSION")).stateful()
    }

    fn configure(config: Config) -> Result<Self, Vec<Diagnostic>> {
        if !(0.0..=1.0).contains(&config.threshold) {
            let message = format!("expected 0 to 1, found {}", config.threshold);
            return Err(vec![
                Diagnostic::error("threshold", message).help("threshold = 0.7"),
            ]);
        }
        Ok(RougeL {
            config,
            pool: Pool::default(),
            origins: Vec::new(),
        })
    }
}

impl Filter for RougeL {
    fn start(&mut self, seeds: Vec<Task>) -> Result<(), Error> {
        for (line, seed) in (0..).zip(seeds) {
            self.keep(&Payload::Task(seed), Origin::Seed(line));
        }
        Ok(())
    }

    fn restore(&mut self, history: Vec<Judged>) -> Result<(), Error> {
        for Judged { candidate, verdict } in history {
            if verdict.decision == Decision::Keep {
                self.keep(&candidate.payload, Origin::Candidate(candidate.id));
            }
        }
        Ok(())
    }

    fn judge(&mut self, batch: Vec<Candidate>, _host: &dyn Host) -> Result<Vec<Verdict>, Error> {
        Ok(batch.iter().map(|c| self.verdict(c)).collect())
    }
}

impl RougeL {
    fn verdict(&mut self, candidate: &Candidate) -> Verdict {
        let text = self.config.field.of(&candidate.payload);
        let tokens = self.pool.tokens(&text);
        let nearest = self.pool.nearest(&tokens);
        let score = nearest.map_or(0.0, |nearest| nearest.score);
        let verdict = if score > self.config.threshold {
            let message = format!(
                "ROUGE-L {score:.4}, at most {} wanted",
                self.config.threshold
            );
            Verdict::drop("too-similar", message)
        } else {
            self.pool.push(&tokens);
            self.origins.push(Origin::Candidate(candidate.id));
            Verdict::keep()
        };
        let verdict = verdict.score("rouge_l", score);
        match nearest {
            Some(nearest) => verdict.nearest(self.origins[nearest.index], score),
            None => verdict,
        }
    }

    fn keep(&mut self, payload: &Payload, origin: Origin) {
        let tokens = self.pool.tokens(&self.config.field.of(payload));
        self.pool.push(&tokens);
        self.origins.push(origin);
    }
}

impl Field {
    /// The text that is compared; what a payload does not have is empty.
    fn of(self, payload: &Payload) -> Cow<'_, str> {
        match payload {
            Payload::Task(task) => match self {
                Field::Instruction => Cow::Borrowed(&task.instruction),
                Field::Output => Cow::Borrowed(&task.output),
                Field::InstructionAndInput => {
                    Cow::Owned(format!("{}\n{}", task.instruction, task.input))
                }
            },
            Payload::Chat(messages) => {
                let said_by = |role| messages.iter().filter(move |message| message.role == role);
                let message = match self {
                    Field::Instruction | Field::InstructionAndInput => said_by("user").next(),
                    Field::Output => said_by("assistant").next_back(),
                };
                Cow::Borrowed(message.map_or("", |message| &message.content))
            }
        }
    }
}

pacos_plugin::export!(filter RougeL);
