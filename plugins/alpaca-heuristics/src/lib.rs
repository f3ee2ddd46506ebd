//! `alpaca-heuristics`: rules of thumb that tell a usable task from the rest, without a model.
//!
//! # Modes
//!
//! `alpaca-2023` applies Stanford Alpaca's five filters (`generate_instruction.py`, 2023) as
//! they were, in their order, to the instruction alone. Words are what Python's `str.split()`
//! yields, `\b` and `\w` are those of Python's `re`. An empty instruction is too short, so the
//! original's look at its first character never fails. It has no other keys.
//!
//! `strict` (the default) applies the same five, with thresholds to choose, and then looks for
//! the defects that people found in Alpaca's data: empty answers, merged tasks, markers for "no
//! input", image links, refusals, loops, stray characters and the like.
//!
//! Of a conversation, the first user message is taken for the instruction and the last assistant
//! message for the output.
//!
//! # Configuration
//!
//! | Key | Default | Meaning |
//! | --- | --- | --- |
//! | `mode` | `"strict"` | `"strict"` or `"alpaca-2023"`; all other keys are for `strict` |
//! | `min_words`, `max_words` | 4, 150 | words of an instruction that is kept |
//! | `blocked_phrases` | Alpaca's list and its plurals | whole words and phrases, in any case, that an instruction must not have |
//! | `ascii_start` | true | whether an instruction must begin with an ASCII character; false for other scripts |
//! | `min_output_words` | 1 | fewest words of an output; labels have one |
//! | `max_repeats` | 5 | how often a line of three words or more may stand in an output, and a sequence of words come back to back |
//! | `refusals` | built in | phrases which, in the first 160 characters of an output, are a refusal |
//! | `attachment_phrases` | built in | phrases of an instruction that point at what no text has |
//! | `skip` | `[]` | codes of checks to leave out |
//!
//! # Verdict codes, in the order of the checks
//!
//! | Code | Mode | The record is dropped because |
//! | --- | --- | --- |
//! | `too-short`, `too-long` | both | of its instruction's number of words |
//! | `needs-other-media` | both | the instruction has a blocked word |
//! | `asks-for-program` | both | the instruction begins with "Write a program": whether to write or to run it is unclear (in `strict` in any case) |
//! | `starts-with-punctuation` | both | of the instruction's first character |
//! | `not-ascii-start` | both | of the instruction's first character |
//! | `merged-task` | `strict` | a field contains the beginning of another task |
//! | `control-character` | `strict` | a field has a control character other than tab and line ends, or U+FFFD |
//! | `no-input-marker` | `strict` | a marker such as `<noinput>` stands in its text. An input that is nothing but a marker is *edited* to the empty input, under the same code |
//! | `placeholder-input` | `strict` | instruction or input has a blank to be filled in, such as `[insert text]` |
//! | `web-input` | `strict` | the input is a web address |
//! | `needs-attachment` | `strict` | the instruction points at a link or an attachment |
//! | `empty-output`, `output-too-short` | `strict` | of its output's number of words |
//! | `placeholder-output` | `strict` | the output is "N/A" or the like |
//! | `image-link` | `strict` | the output shows an image |
//! | `refusal` | `strict` | the output declines |
//! | `output-repeats-input`, `output-repeats-instruction` | `strict` | the output is the same text, but for whitespace |
//! | `repeated-line`, `repetition-loop` | `strict` | the output says the same again and again |
//!
//! Every verdict has the score `words` (of the instruction); in `strict` also `input_words` and
//! `output_words`.

mod answer;
mod config;
mod fields;
mod instruction;
mod phrases;
mod python_text;
mod repetition;
mod rules;
mod wording;

use pacos_plugin::{
    Candidate, Description, Diagnostic, Error, Filter, Host, Payload, Plugin, Task, Verdict,
};

pub use config::{Config, Mode};
use fields::{Fields, Text};
use rules::Rules;

/// Looks at a record; a sentence says what is wrong with it.
type Check = fn(&Fields, &Rules) -> Option<String>;

/// Codes and checks, in the order in which they are made.
const CHECKS: [(&str, Check); 21] = [
    ("too-short", instruction::too_short),
    ("too-long", instruction::too_long),
    ("needs-other-media", instruction::needs_other_media),
    ("asks-for-program", instruction::asks_for_program),
    (
        "starts-with-punctuation",
        instruction::starts_with_punctuation,
    ),
    ("not-ascii-start", instruction::not_ascii_start),
    ("merged-task", wording::merged_task),
    ("control-character", wording::control_character),
    (NO_INPUT_MARKER, wording::no_input_marker),
    ("placeholder-input", wording::placeholder_input),
    ("web-input", wording::web_input),
    ("needs-attachment", wording::needs_attachment),
    ("empty-output", answer::empty),
    ("output-too-short", answer::too_short),
    ("placeholder-output", answer::placeholder),
    ("image-link", answer::image_link),
    ("refusal", answer::refusal),
    ("output-repeats-input", answer::repeats_input),
    ("output-repeats-instruction", answer::repeats_instruction),
    ("repeated-line", repetition::repeated_line),
    ("repetition-loop", repetition::loops),
];

/// How many of [`CHECKS`] are Stanford's.
const OF_2023: usize = 6;

const NO_INPUT_MARKER: &str = "no-input-marker";

/// The filter.
pub struct AlpacaHeuristics {
    rules: Rules,
}

impl Plugin for AlpacaHeuristics {
    type Config = Config;

    fn describe() -> Description {
        Description::new("alpaca-heuristics", env!("CARGO_PKG_VERSION"))
    }

    fn configure(config: Config) -> Result<Self, Vec<Diagnostic>> {
        let codes = CHECKS.map(|(code, _)| code);
        let problems = config.problems(&codes);
        if problems.is_empty() {
            Ok(AlpacaHeuristics {
                rules: Rules::new(config.resolved()),
            })
        } else {
            Err(problems)
        }
    }
}

impl Filter for AlpacaHeuristics {
    fn judge(&mut self, batch: Vec<Candidate>, _host: &dyn Host) -> Result<Vec<Verdict>, Error> {
        Ok(batch.iter().map(|c| self.verdict(&c.payload)).collect())
    }
}

impl AlpacaHeuristics {
    fn verdict(&self, payload: &Payload) -> Verdict {
        let mut fields = Fields::of(payload);
        let strict = self.rules.config.mode == Mode::Strict;
        let marker = fields.input.text;
        let mend = strict && self.makes(NO_INPUT_MARKER) && wording::is_no_input_marker(marker);
        if mend {
            fields.input = Text::from("");
        }
        let checks = if strict {
            &CHECKS[..]
        } else {
            &CHECKS[..OF_2023]
        };
        let found = checks
            .iter()
            .filter(|(code, _)| self.makes(code))
            .find_map(|(code, check)| Some((code, check(&fields, &self.rules)?)));
        let verdict = match found {
            Some((code, message)) => Verdict::drop(*code, message),
            None if mend => {
                let message = format!("the input \"{marker}\" says that there is none");
                let task = Task::new(fields.instruction.text, "", fields.output.text);
                Verdict::edit(Payload::Task(task), NO_INPUT_MARKER, message)
            }
            None => Verdict::keep(),
        };
        let verdict = verdict.score("words", fields.instruction.words.len() as f64);
        if !strict {
            return verdict;
        }
        verdict
            .score("input_words", fields.input.words.len() as f64)
            .score("output_words", fields.output.words.len() as f64)
    }

    fn makes(&self, code: &str) -> bool {
        !self.rules.config.skip.iter().any(|skipped| skipped == code)
    }
}

pacos_plugin::export!(filter AlpacaHeuristics);
