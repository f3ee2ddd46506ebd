//! Examples to token rows, with the loss on the answer only.

use super::config::TemplateName;
use crate::llama::{LlamaConfig, Tokenizer, TokenizerError};

/// The prompt of an example with an input: a fact of the Alpaca format, which every model tuned on
/// it expects to the letter (`PROMPT_DICT` in stanford_alpaca's `train.py`).
const ALPACA_WITH_INPUT: [&str; 3] = [
    "Below is an instruction that describes a task, paired with an input that provides further context. \
     Write a response that appropriately completes the request.\n\n### Instruction:\n",
    "\n\n### Input:\n",
    "\n\n### Response:",
];

/// The prompt of an example without input, from the same place.
const ALPACA_WITHOUT_INPUT: [&str; 2] = [
    "Below is an instruction that describes a task. \
     Write a response that appropriately completes the request.\n\n### Instruction:\n",
    "\n\n### Response:",
];

/// One tokenised example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Index of the example that it was made from.
    pub example: usize,
    /// Prompt, answer and end token.
    pub input_ids: Vec<u32>,
    /// For each token, whether the model is trained to predict it.
    pub label_mask: Vec<bool>,
}

impl Row {
    /// Tokens that the model is trained to predict. The first token is never one: nothing precedes it.
    pub fn label_tokens(&self) -> usize {
        self.label_mask
            .iter()
            .skip(1)
            .filter(|label| **label)
            .count()
    }

    /// Tokens that the model must read for that: all before the last label.
    pub fn input_tokens(&self) -> usize {
        self.label_mask
            .iter()
            .rposition(|label| *label)
            .unwrap_or(0)
    }
}

/// The texts of one example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExampleText<'a> {
    /// What is to be done.
    pub instruction: &'a str,
    /// What it is to be done with; empty for none.
    pub input: &'a str,
    /// The answer to learn.
    pub output: &'a str,
}

impl TemplateName {
    /// The prompt of an example, up to where the answer begins.
    ///
    /// An input of no characters selects the template without one; an input of blanks does not.
    pub fn prompt(self, instruction: &str, input: &str) -> String {
        match self {
            Self::Alpaca if input.is_empty() => {
                let [before, after] = ALPACA_WITHOUT_INPUT;
                format!("{before}{instruction}{after}")
            }
            Self::Alpaca => {
                let [before, between, after] = ALPACA_WITH_INPUT;
                format!("{before}{instruction}{between}{input}{after}")
            }
        }
    }
}

/// What the trainer needs of a tokenizer.
pub trait Encode {
    /// Why a text cannot be encoded.
    type Error;

    /// Ids of a text, with the special tokens in front that the model's own tokenizer puts there.
    fn encode(&self, text: &str) -> Result<Vec<u32>, Self::Error>;

    /// The token that ends an answer.
    fn eos_token_id(&self) -> u32;
}

/// The student's own tokenizer.
#[derive(Clone, Copy)]
pub struct StudentTokenizer<'a> {
    tokenizer: &'a Tokenizer,
    eos_token_id: u32,
}

impl<'a> StudentTokenizer<'a> {
    /// Takes the end token that the tokenizer names, or else the first of the model's configuration;
    /// nothing if neither names one.
    pub fn new(tokenizer: &'a Tokenizer, config: &LlamaConfig) -> Option<Self> {
        let named = tokenizer.special_token("eos_token");
        let eos_token_id = named
            .and_then(|token| tokenizer.token_id(token))
            .or_else(|| config.eos_token_ids.first().copied())?;
        Some(Self {
            tokenizer,
            eos_token_id,
        })
    }
}

impl Encode for StudentTokenizer<'_> {
    type Error = TokenizerError;

    fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.tokenizer.encode(text, true)
    }

    fn eos_token_id(&self) -> u32 {
        self.eos_token_id
    }
}

/// All rows of a dataset, and what a person should know about them before training.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenizedDataset {
    /// Rows with at least one label, in the order of the examples.
    pub rows: Vec<Row>,
    /// Examples that lost their end, the end token included, to `max_seq_len`.
    pub truncated: Vec<usize>,
    /// Examples whose prompt alone fills `max_seq_len`: nothing is left to learn, so no row is made.
    pub fully_masked: Vec<usize>,
}

impl TokenizedDataset {
    /// A sentence for each thing that a person should know, none if all is well.
    pub fn warnings(&self, max_seq_len: usize) -> Vec<String> {
        let examples = self.rows.len() + self.fully_masked.len();
        let mut warnings = Vec::new();
        if !self.truncated.is_empty() {
            warnings.push(format!(
                "{} of {examples} examples are longer than max_seq_len ({max_seq_len} tokens) and lose their end, \
                 so the model is not shown where those answers stop",
                self.truncated.len()
            ));
        }
        if !self.fully_masked.is_empty() {
            warnings.push(format!(
                "{} of {examples} examples have a prompt that fills max_seq_len ({max_seq_len} tokens) and are left out",
                self.fully_masked.len()
            ));
        }
        warnings
    }
}

/// Tokenises one example as `train.py` does: prompt and answer as one text, end token after it
/// without a blank, right truncation at `max_seq_len`, no loss on as many tokens as the prompt alone has.
///
/// The second value says whether the row was cut.
pub fn tokenize<E: Encode>(
    encoder: &E,
    template: TemplateName,
    example: usize,
    text: ExampleText<'_>,
    max_seq_len: usize,
) -> Result<(Row, bool), E::Error> {
    let prompt = template.prompt(text.instruction, text.input);
    let prompt_tokens = encoder.encode(&prompt)?.len();
    let mut input_ids = encoder.encode(&format!("{prompt}{}", text.output))?;
    input_ids.push(encoder.eos_token_id());
    let truncated = input_ids.len() > max_seq_len;
    input_ids.truncate(max_seq_len);
    let label_mask = (0..input_ids.len()).map(|i| i >= prompt_tokens).collect();
    let row = Row {
        example,
        input_ids,
        label_mask,
    };
    Ok((row, truncated))
}

/// Tokenises all examples.
pub fn tokenize_all<'a, E: Encode>(
    encoder: &E,
    template: TemplateName,
    examples: impl IntoIterator<Item = ExampleText<'a>>,
    max_seq_len: usize,
) -> Result<TokenizedDataset, E::Error> {
    let mut dataset = TokenizedDataset::default();
    for (example, text) in examples.into_iter().enumerate() {
        let (row, truncated) = tokenize(encoder, template, example, text, max_seq_len)?;
        if truncated {
            dataset.truncated.push(example);
        }
        if row.label_tokens() == 0 {
            dataset.fully_masked.push(example);
        } else {
            dataset.rows.push(row);
        }
    }
    Ok(dataset)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// One token a byte behind a begin token, as LLaMA's tokenizer puts one.
    struct Bytes;

    impl Encode for Bytes {
        type Error = Infallible;

        fn encode(&self, text: &str) -> Result<Vec<u32>, Infallible> {
            Ok(std::iter::once(256)
                .chain(text.bytes().map(u32::from))
                .collect())
        }

        fn eos_token_id(&self) -> u32 {
            257
        }
    }

    /// Digests of the two prompts as stanford_alpaca's own `format_map` gives them.
    #[test]
    fn prompts_are_stanfords_to_the_byte() {
        use sha2::{Digest, Sha256};
        let digest = |text: String| -> String {
            Sha256::digest(text.as_bytes())
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect()
        };
        let with = TemplateName::Alpaca.prompt("Add the numbers.", "2 and 3");
        let without = TemplateName::Alpaca.prompt("Name a colour.", "");
        assert_eq!(digest(with), WITH_INPUT_SHA256);
        assert_eq!(digest(without), WITHOUT_INPUT_SHA256);
    }

    const WITH_INPUT_SHA256: &str =
        "ceda9abd22c516d298c751dbc67ac0b59cfbb6818a8b59713caae9f82103c223";
    const WITHOUT_INPUT_SHA256: &str =
        "463cfec7398de0ed8a78d78266c4d15907df20bcc43171918be8f2b45ec96e60";

    fn text<'a>(instruction: &'a str, output: &'a str) -> ExampleText<'a> {
        ExampleText {
            instruction,
            input: "",
            output,
        }
    }

    #[test]
    fn loss_falls_on_the_answer_and_the_end_token_only() {
        let example = text("Name a colour.", "Red");
        let (row, truncated) = tokenize(&Bytes, TemplateName::Alpaca, 7, example, 512).unwrap();
        let Ok(prompt) = Bytes.encode(&TemplateName::Alpaca.prompt("Name a colour.", ""));
        assert!(!truncated);
        assert_eq!(row.example, 7);
        assert_eq!(row.input_ids[..prompt.len()], prompt);
        assert_eq!(
            row.input_ids[prompt.len()..],
            [u32::from(b'R'), u32::from(b'e'), u32::from(b'd'), 257]
        );
        assert!(row.label_mask[..prompt.len()].iter().all(|label| !label));
        assert!(row.label_mask[prompt.len()..].iter().all(|label| *label));
        assert_eq!(row.label_tokens(), 4);
        assert_eq!(row.input_tokens(), row.input_ids.len() - 1);
    }

    #[test]
    fn examples_that_do_not_fit_are_counted() {
        let prompt = TemplateName::Alpaca.prompt("Go.", "").len() + 1;
        let examples = [
            text("Go.", "ok"),
            text("Go.", "far too long"),
            text("Go further.", "no"),
        ];
        let dataset = tokenize_all(&Bytes, TemplateName::Alpaca, examples, prompt + 3).unwrap();
        assert_eq!(dataset.rows.len(), 2);
        assert_eq!(dataset.truncated, [1, 2]);
        assert_eq!(dataset.fully_masked, [2]);
        assert_eq!(dataset.rows[0].input_ids.last(), Some(&257));
        assert_eq!(dataset.rows[1].label_tokens(), 3);
        let warnings = dataset.warnings(prompt + 3);
        assert!(warnings[0].starts_with("2 of 3 examples are longer than max_seq_len"));
        assert!(warnings[1].starts_with("1 of 3 examples have a prompt that fills"));
    }
}
