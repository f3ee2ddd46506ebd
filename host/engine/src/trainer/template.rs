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
    /// Form of the prompt, as [`TemplateName::form`] counts: rows of one form begin alike.
    pub form: usize,
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
    /// Which form of the template an example takes: for Alpaca's, 0 is without an input, 1 with one.
    pub fn form(self, input: &str) -> usize {
        let Self::Alpaca = self;
        usize::from(!input.is_empty())
    }

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

impl TemplateName {
    /// The template as a chat template, a Jinja program: for one message of a user it renders what
    /// [`prompt`](Self::prompt) makes of that message and no input.
    ///
    /// Text of a system message comes first of all. Later turns follow in the same form, each answer
    /// closed as in training. `begin` is what the tokenizer puts before every text, as servers encode
    /// a rendered template without adding anything; `end` is the end token's written form.
    pub fn chat_template(self, begin: &str, end: &str) -> String {
        let Self::Alpaca = self;
        let [before, response] = ALPACA_WITHOUT_INPUT;
        let (preamble, instruction) = before
            .find("\n\n###")
            .map(|at| before.split_at(at))
            .expect("the prompt has a heading");
        let [begin, end, preamble, instruction, response] =
            [begin, end, preamble, instruction, response].map(jinja_string);
        format!(
            "{{{{- {begin} }}}}
{{%- for message in messages %}}
    {{%- if message['role'] == 'system' and loop.first %}}
        {{{{- message['content'] + '\\n\\n' }}}}
    {{%- endif %}}
{{%- endfor %}}
{{{{- {preamble} }}}}
{{%- for message in messages %}}
    {{%- if message['role'] == 'user' %}}
        {{{{- {instruction} + message['content'] }}}}
    {{%- elif message['role'] == 'assistant' %}}
        {{{{- {response} + message['content'] + {end} }}}}
    {{%- elif message['role'] != 'system' or not loop.first %}}
        {{{{- raise_exception('this model knows a system message at the beginning, user and assistant') }}}}
    {{%- endif %}}
{{%- endfor %}}
{{%- if add_generation_prompt %}}
    {{{{- {response} }}}}
{{%- endif %}}
"
        )
    }
}

/// A string literal of Jinja, on one line.
fn jinja_string(text: &str) -> String {
    let escaped = text
        .replace('\\', "\\\\")
        .replace('\'', "\\'")
        .replace('\n', "\\n");
    format!("'{escaped}'")
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

    /// The template that the student is trained in, as a chat template for its tokenizer.
    ///
    /// # Errors
    /// If the tokenizer encodes nothing at all.
    pub fn chat_template(&self, template: TemplateName) -> Result<String, TokenizerError> {
        let tokenizer = self.tokenizer;
        let alone = tokenizer.encode("#", false)?;
        let whole = tokenizer.encode("#", true)?;
        let added = whole.len().saturating_sub(alone.len());
        // A tokenizer may also add something at the end; only what stands in front counts here.
        let begin: String = match whole.ends_with(&alone) {
            true => whole[..added]
                .iter()
                .filter_map(|id| tokenizer.token(*id))
                .collect(),
            false => String::new(),
        };
        let end = tokenizer.token(self.eos_token_id).unwrap_or_default();
        Ok(template.chat_template(&begin, &end))
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
        form: template.form(text.input),
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
    use crate::llama::{ChatMessage, test_model};

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

    /// The tiny tokenizer, which adds a begin token if asked to, with the chat template of Alpaca.
    fn student(adds_begin: bool) -> Tokenizer {
        let mut json = test_model::tokenizer_json();
        if adds_begin {
            let begin = serde_json::json!({"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}});
            let text = serde_json::json!({"Sequence": {"id": "A", "type_id": 0}});
            json["post_processor"] = serde_json::json!({
                "type": "TemplateProcessing", "single": [begin, text], "pair": [begin, text, text],
                "special_tokens": {"<|endoftext|>": {
                    "id": "<|endoftext|>", "ids": [test_model::END_OF_TEXT], "tokens": ["<|endoftext|>"]}},
            });
        }
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
        };
        write("tokenizer.json", &json.to_string());
        write("tokenizer_config.json", r#"{"eos_token": "<|im_end|>"}"#);
        // The base model's own, which must not outlive training.
        write("chat_template.jinja", test_model::CHAT_TEMPLATE);
        let base = Tokenizer::load(folder.path()).unwrap();
        let template = StudentTokenizer::new(&base, &test_model::config())
            .unwrap()
            .chat_template(TemplateName::Alpaca)
            .unwrap();
        base.with_chat_template(template)
            .save_hf(folder.path())
            .unwrap();
        Tokenizer::load(folder.path()).unwrap()
    }

    #[test]
    fn the_chat_template_asks_as_the_student_was_trained() {
        for instruction in ["Name a colour.", " It's \\ {{ odd }}\n\n", ""] {
            let prompt = TemplateName::Alpaca.prompt(instruction, "");
            let messages = [ChatMessage::new("user", instruction)];
            let plain = student(false);
            assert_eq!(plain.apply_chat_template(&messages, true).unwrap(), prompt);
            let begins = student(true);
            let rendered = begins.apply_chat_template(&messages, true).unwrap();
            assert_eq!(rendered, format!("<|endoftext|>{prompt}"));
            // Servers encode a rendered template as it stands.
            assert_eq!(
                begins.encode(&rendered, false).unwrap(),
                begins.encode(&prompt, true).unwrap()
            );
        }
    }

    #[test]
    fn the_chat_template_continues_a_conversation_in_the_same_form() {
        let messages = [
            ChatMessage::new("system", "Be brief."),
            ChatMessage::new("user", "Name a colour."),
            ChatMessage::new("assistant", "Red"),
            ChatMessage::new("user", "Another."),
        ];
        let student = student(false);
        let first = TemplateName::Alpaca.prompt("Name a colour.", "");
        let both = format!("Be brief.\n\n{first}Red<|im_end|>\n\n### Instruction:\nAnother.");
        assert_eq!(student.apply_chat_template(&messages, false).unwrap(), both);
        assert_eq!(
            student.apply_chat_template(&messages, true).unwrap(),
            format!("{both}\n\n### Response:")
        );
        let tool = [messages[1].clone(), ChatMessage::new("tool", "4")];
        let error = student.apply_chat_template(&tool, true).unwrap_err();
        assert!(error.to_string().contains("user and assistant"), "{error}");
    }

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
