//! `self-instruct`: asks a teacher for new tasks in the manner of the seed tasks.
//!
//! One unit is one request (or `requests_per_unit` of them). Each request shows the teacher a
//! few tasks drawn at random, asks for more, and reads the reply into candidates. Whatever in a
//! reply is no task is a reject with a code, a sentence and its bytes in the reply.
//!
//! The method is Self-Instruct's (Wang et al., 2022, arXiv:2212.10560) in the form that Stanford
//! Alpaca gave it (Taori et al., 2023).
//!
//! # Modes
//!
//! `strict` (the default) asks a chat model in few words and reads JSON, constrained to a
//! schema where the model can be. It mends what was wrong with the original: tasks cut by a
//! stop string, a `###` in an answer that loses every task after it, two tasks merged into one,
//! markers for "no input" left as text, empty answers, copies of what was shown. A model that
//! only continues text is asked the same in one prompt.
//!
//! `alpaca-2023` sends the request that Stanford sent to `text-davinci-003` and reads the reply
//! as Stanford's script did, defects included: at most `tasks_per_request` less
//! `demonstrations` less one tasks come back, because numbering goes on from the demonstrations
//! and stops before the number asked for; the stop string `20.` cuts an answer that says "in
//! 2020."; a `###` inside an answer shifts the count, and every later task is lost; only the
//! spelling `<noinput>` stands for an empty input; labels are counted and not read. It needs a
//! model that completes text. One thing differs: the words of the preamble are this project's,
//! with the same requirements in the same shape (its list counts 1, 2, 3, 2, 3, 4, 5, 6, 7, as
//! the original's does). Who wants the original's bytes sets `preamble` to the contents of
//! Stanford's `prompt.txt`, final line break included.
//!
//! # Configuration
//!
//! | Key | Default | Meaning |
//! | --- | --- | --- |
//! | `mode` | `"strict"` | `"strict"` or `"alpaca-2023"` |
//! | `tasks_per_request` | 20 | how many tasks one request asks for; small models do better with 1 to 4 |
//! | `demonstrations` | 3 | how many tasks are shown, 0 to 8; drawn without replacement |
//! | `examples_from_accepted` | 0 | how many of them are accepted examples, once there are as many (Self-Instruct: 2 of 8); `strict` only |
//! | `requests_per_unit` | 1 | requests sent at once for one unit |
//! | `temperature`, `top_p` | 1.0, 1.0 | sampling |
//! | `max_tokens` | 3072 in `alpaca-2023`; in `strict` 256 for each task, within the model's context | longest reply |
//! | `preamble` | built in | `alpaca-2023`: what stands before the demonstrations; `{tasks_per_request}` in it becomes the number |
//! | `logit_bias` | `{ 50256 = -100 }` | `alpaca-2023`: keeps GPT-2's end-of-text token from being generated. Token numbers belong to a tokenizer: set `{}` for a model with another one |
//! | `topics` | 48 subjects | `strict`: each request names a few of these at random; `[]` names none |
//! | `max_chars` | 400, 1200, 1600 | `strict`: most characters of `instruction`, `input` and `output`, in the schema and in the reading; 0 is no bound. Some servers refuse `maxLength` in a schema: set all three to 0 there |
//!
//! The teacher is whatever model the recipe gives the role `teacher`; the capability
//! `models:teacher` must be granted.
//!
//! # Reject codes
//!
//! | Code | Mode | Meaning |
//! | --- | --- | --- |
//! | `request-failed` | both | one of several requests of a unit brought no reply |
//! | `cut-by-length` | both | the reply ended at its token limit inside this task |
//! | `empty-block` | `alpaca-2023` | nothing between two `###` |
//! | `wrong-number` | `alpaca-2023` | three fields under another number than the count of blocks wants |
//! | `wrong-field-count` | `alpaca-2023` | not exactly three fields under the wanted number |
//! | `empty-reply` | `strict` | the reply has no text |
//! | `no-json` | `strict` | the reply has no JSON object |
//! | `malformed-json` | `strict` | a task whose JSON breaks off or breaks the syntax |
//! | `not-a-task` | `strict` | JSON without the fields of a task |
//! | `missing-field`, `field-not-text` | `strict` | a field that is absent, or a list or an object |
//! | `empty-instruction`, `empty-output` | `strict` | a field without text |
//! | `too-many-characters` | `strict` | a field at or past its bound of `max_chars`, so probably cut |
//! | `merged-task` | `strict` | a field that contains the beginning of another task |
//! | `copied-demonstration` | `strict` | the instruction of a task that was shown |
//!
//! Candidates carry the attribute `mode`, their place in the reply, and what was shown as
//! parents.

mod alpaca_2023;
mod ask;
mod config;
mod demonstrations;
mod reading;
mod sample;
mod strict;
mod whitespace;

use pacos_plugin::{
    Description, Diagnostic, Error, Generator, Host, Level, ModelDescription, Plugin, Proposals,
    Request, Task, Unit,
};

pub use config::{Config, MaxChars, Mode};
use demonstrations::Demonstration;
use sample::SplitMix64;

/// The role that is asked.
const ROLE: &str = "teacher";

/// The generator.
pub struct SelfInstruct {
    config: Config,
    seeds: Vec<Task>,
    /// Whether the person who runs this knows of what the model cannot do.
    told: bool,
}

impl Plugin for SelfInstruct {
    type Config = Config;

    fn describe() -> Description {
        Description::new("self-instruct", env!("CARGO_PKG_VERSION")).capability("models:teacher")
    }

    fn configure(config: Config) -> Result<Self, Vec<Diagnostic>> {
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(SelfInstruct {
            config,
            seeds: Vec::new(),
            told: false,
        })
    }
}

impl Generator for SelfInstruct {
    fn start(&mut self, seeds: Vec<Task>) -> Result<(), Error> {
        let wanted = self.config.demonstrations as usize;
        if seeds.len() < wanted {
            return Err(Error::new(
                "too-few-seeds",
                format!(
                    "each request shows {wanted} seed tasks and the seed file has {}: add seeds, or lower `demonstrations`",
                    seeds.len()
                ),
            ));
        }
        self.seeds = seeds;
        Ok(())
    }

    fn generate(&mut self, unit: Unit, host: &dyn Host) -> Result<Proposals, Error> {
        let model = host.describe_model(ROLE)?;
        self.tell_once(&model, host);
        let mut random = SplitMix64::new(unit.seed);
        let mut shown = Vec::new();
        let mut requests = Vec::new();
        for _ in 0..self.config.requests_per_unit {
            let demonstrations =
                demonstrations::draw(&self.config, &self.seeds, &unit, &mut random, host);
            requests.push(self.request(&demonstrations, &model, &mut random)?);
            shown.push(demonstrations);
        }
        let mut proposals = Proposals {
            candidates: Vec::new(),
            rejects: Vec::new(),
        };
        for (answer, shown) in ask::ask(host, requests)?.into_iter().zip(&shown) {
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) if self.config.requests_per_unit == 1 => return Err(error),
                Err(error) => {
                    proposals.rejects.push(ask::failed(&error));
                    continue;
                }
            };
            let mode = self.config.mode;
            let reading = match mode {
                Mode::Alpaca2023 => alpaca_2023::read(&answer.reply, shown.len()),
                Mode::Strict => strict::read(&answer.reply, shown, self.config.max_chars()),
            };
            reading.append_to(&mut proposals, answer.ordinal, mode, shown);
        }
        Ok(proposals)
    }
}

impl SelfInstruct {
    fn request(
        &self,
        demonstrations: &[Demonstration],
        model: &ModelDescription,
        random: &mut SplitMix64,
    ) -> Result<Request, Error> {
        match self.config.mode {
            Mode::Alpaca2023 => alpaca_2023::request(&self.config, demonstrations, model),
            Mode::Strict => strict::request(&self.config, demonstrations, model, random),
        }
    }

    fn tell_once(&mut self, model: &ModelDescription, host: &dyn Host) {
        if self.told {
            return;
        }
        self.told = true;
        let biased = self.config.mode == Mode::Alpaca2023 && !self.config.logit_bias().is_empty();
        if biased && !model.logit_bias {
            host.log(
                Level::Warn,
                &format!(
                    "{} takes no logit_bias, so it may end its reply before all tasks are written; set logit_bias = {{}} to ask without",
                    model.model
                ),
            );
        }
    }
}

pacos_plugin::export!(generator SelfInstruct);
