//! A teacher that speaks the Alpaca recipe: tasks by the thousand, each a pure function of the
//! request, with a share of everything that goes wrong in a model's replies.

use serde_json::{Map, Value, json};

use crate::{
    Action, Recorded, Reply, Script,
    action::tokens,
    words::{
        ACTIONS, ADJECTIVES, CONSTRAINTS, FAVOURITES, FLAVOURS, NOUNS, READINGS, SENTENCES,
        SETTINGS, TEXTS,
    },
};

/// The teacher with [`Faults::default`] and seed 0.
pub fn alpaca_teacher() -> AlpacaTeacher {
    AlpacaTeacher {
        seed: 0,
        model: "scripted-teacher".into(),
        tasks: 8,
        faults: Faults::default(),
    }
}

/// Answers self-instruct prompts with tasks: `###`-separated text where a completion is asked,
/// `{"tasks": [{instruction, input, output}, ...]}` where such a schema is sent or the prompt
/// shows such JSON. Another schema gets a value that satisfies it, any other conversation a short text.
#[derive(Debug, Clone)]
pub struct AlpacaTeacher {
    /// Another seed is another teacher: every reply differs.
    pub seed: u64,
    /// What `GET /models` lists.
    pub model: String,
    /// Tasks in a JSON reply, where the schema sets no other bounds.
    pub tasks: usize,
    /// What goes wrong, and how often.
    pub faults: Faults,
}

/// Shares between 0 and 1. The first three are shares of replies, the others of tasks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// Replies without any text.
    pub empty: f64,
    /// Replies that stop in the middle, with `finish_reason` `length`.
    pub length_cut: f64,
    /// Replies that are nothing but `###`, where `###`-separated text is asked for.
    pub hash_flood: f64,
    /// Tasks whose block or object does not have the form asked for.
    pub malformed: f64,
    /// Tasks that differ by a word or two from those of other replies.
    pub near_duplicate: f64,
    /// Instructions of three words or fewer.
    pub too_short: f64,
    /// Outputs with `###` headings inside.
    pub heading: f64,
    /// Instructions that a text model cannot follow, such as drawing.
    pub impossible: f64,
}

impl Faults {
    /// A teacher that never errs.
    pub const NONE: Faults = Faults {
        empty: 0.0,
        length_cut: 0.0,
        hash_flood: 0.0,
        malformed: 0.0,
        near_duplicate: 0.0,
        too_short: 0.0,
        heading: 0.0,
        impossible: 0.0,
    };
}

impl Default for Faults {
    fn default() -> Self {
        Faults {
            empty: 0.02,
            length_cut: 0.05,
            hash_flood: 0.02,
            malformed: 0.05,
            near_duplicate: 0.10,
            too_short: 0.05,
            heading: 0.03,
            impossible: 0.04,
        }
    }
}

impl Script for AlpacaTeacher {
    fn action(&self, request: &Recorded) -> Action {
        if request.method == "GET" && request.path.ends_with("/models") {
            return Action::Models(vec![self.model.clone()]);
        }
        if request.method != "POST" || !request.path.ends_with("/completions") {
            return Action::status(404, r#"{"detail":"Not Found"}"#);
        }
        Action::Reply(self.reply(request))
    }
}

impl AlpacaTeacher {
    fn reply(&self, request: &Recorded) -> Reply {
        let mut dice = Dice(request.identity ^ self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let schema = &request.body["response_format"]["json_schema"]["schema"];
        let prompt = request.prompt();
        let text = if schema.is_object() {
            let mut value = self.value(schema, &mut dice);
            if dice.chance(self.faults.empty) {
                value = Value::Null;
            }
            match value {
                Value::Null => String::new(),
                value => value.to_string(),
            }
        } else if let Some(first) = open_number(&prompt) {
            self.alpaca(first, &mut dice)
        } else if prompt.contains("{\"tasks\": [{\"instruction\"") {
            let tasks = asked_for(&prompt).unwrap_or(self.tasks);
            self.value(&task_schema(tasks), &mut dice).to_string()
        } else {
            answer(pick(&mut dice, &NOUNS), 2, &mut dice)
        };
        finish(text, request, self.faults.length_cut, &mut dice)
    }

    /// The continuation of a prompt that ends in `{first}. Instruction:`.
    fn alpaca(&self, first: u32, dice: &mut Dice) -> String {
        if dice.chance(self.faults.empty) {
            return String::new();
        }
        if dice.chance(self.faults.hash_flood) {
            return "\n###".repeat(200);
        }
        // One block more than can be wanted: the stop sequences end the reply, as they did
        // for the model that the recipe was written for.
        let mut text = String::new();
        for number in first..=20 {
            let malformed = dice.chance(self.faults.malformed);
            let task = self.task(dice);
            if number > first {
                let separator = if malformed && dice.chance(0.3) {
                    "##"
                } else {
                    "###"
                };
                text += &format!("\n{separator}\n{number}. Instruction:");
            }
            let input = if task.input.is_empty() {
                "<noinput>"
            } else {
                &task.input
            };
            let (mut label, mut block) = ("Output", number);
            if malformed {
                match dice.below(3) {
                    0 => label = "Answer",
                    1 => block += 1,
                    _ => label = "output",
                }
            }
            text += &format!(
                " {}\n{number}. Input:\n{input}\n{block}. {label}:\n{}",
                task.instruction, task.output
            );
        }
        text
    }

    /// A value that satisfies a JSON Schema, with tasks where it asks for tasks.
    fn value(&self, schema: &Value, dice: &mut Dice) -> Value {
        if let Some(constant) = schema.get("const") {
            return constant.clone();
        }
        if let Some(choices) = schema["enum"].as_array().filter(|c| !c.is_empty()) {
            return choices[dice.below(choices.len())].clone();
        }
        let kind = match &schema["type"] {
            Value::Array(kinds) => kinds.first().and_then(Value::as_str),
            kind => kind.as_str(),
        };
        match kind {
            Some("array") => {
                let bound = |key: &str| schema[key].as_u64().map(|n| n as usize);
                let least = bound("minItems").unwrap_or(1);
                let most = bound("maxItems").unwrap_or(least.max(self.tasks));
                let count = self.tasks.clamp(least, most.max(least));
                (0..count)
                    .map(|_| self.value(&schema["items"], dice))
                    .collect()
            }
            Some("string") => json!(answer(pick(dice, &NOUNS), 1, dice)),
            Some("integer") => {
                let least = schema["minimum"].as_i64().unwrap_or(1);
                let most = schema["maximum"].as_i64().unwrap_or(least + 9).max(least);
                json!(least + dice.below((most - least + 1) as usize) as i64)
            }
            Some("number") => json!(dice.below(100) as f64 / 100.0),
            Some("boolean") => json!(dice.chance(0.5)),
            Some("null") => Value::Null,
            _ => self.object(schema, dice),
        }
    }

    fn object(&self, schema: &Value, dice: &mut Dice) -> Value {
        let Some(properties) = schema["properties"].as_object() else {
            return json!({});
        };
        let mut task = properties
            .contains_key("instruction")
            .then(|| self.task(dice));
        let mut object = Map::new();
        for (name, property) in properties {
            let text = task.as_mut().and_then(|task| match name.as_str() {
                "instruction" => Some(std::mem::take(&mut task.instruction)),
                "input" => Some(std::mem::take(&mut task.input)),
                "output" => Some(std::mem::take(&mut task.output)),
                _ => None,
            });
            let value = match text {
                Some(text) => json!(text),
                None => self.value(property, dice),
            };
            object.insert(name.clone(), value);
        }
        if task.is_some() && dice.chance(self.faults.malformed) {
            object.shift_remove("output");
        }
        Value::Object(object)
    }

    fn task(&self, dice: &mut Dice) -> Task {
        let thing = pick(dice, &NOUNS);
        let sentences = 1 + dice.below(3);
        let mut output = answer(thing, sentences, dice);
        if dice.chance(self.faults.heading) {
            output = format!("### Summary\n{output}\n### Details\nSee above.");
        }
        let instruction = if dice.chance(self.faults.too_short) {
            format!("Describe {}s.", thing)
        } else if dice.chance(self.faults.impossible) {
            let adjective = pick(dice, &ADJECTIVES);
            let setting = pick(dice, &SETTINGS);
            format!("Draw a picture of the {adjective} {thing} {setting}.")
        } else if dice.chance(self.faults.near_duplicate) {
            pick(dice, &FAVOURITES).replace("{}", pick(dice, &FLAVOURS))
        } else {
            return Task::new(thing, output, dice);
        };
        Task {
            instruction,
            input: String::new(),
            output,
        }
    }
}

struct Task {
    instruction: String,
    input: String,
    output: String,
}

impl Task {
    fn new(thing: &str, output: String, dice: &mut Dice) -> Self {
        let with_input = dice.chance(0.4);
        let action = if with_input {
            format!("{} {}", pick(dice, &READINGS), pick(dice, &TEXTS))
        } else {
            pick(dice, &ACTIONS).to_owned()
        };
        let adjective = pick(dice, &ADJECTIVES);
        let article = match adjective.as_bytes()[0] {
            b'a' | b'e' | b'i' | b'o' | b'u' => "an",
            _ => "a",
        };
        let setting = pick(dice, &SETTINGS);
        let constraint = pick(dice, &CONSTRAINTS);
        let input = if with_input {
            answer(thing, 3, dice)
        } else {
            String::new()
        };
        Task {
            instruction: format!("{action} {article} {adjective} {thing} {setting}, {constraint}."),
            input,
            output,
        }
    }
}

fn answer(thing: &str, sentences: usize, dice: &mut Dice) -> String {
    let sentences: Vec<String> = (0..sentences)
        .map(|_| pick(dice, &SENTENCES).replace("{}", thing))
        .collect();
    sentences.join(" ")
}

/// The number of the block that a self-instruct prompt leaves open.
fn open_number(prompt: &str) -> Option<u32> {
    let rest = prompt.trim_end().strip_suffix(". Instruction:")?;
    let digits = rest.len() - rest.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    rest[rest.len() - digits..].parse().ok()
}

/// The number in the last "Write 5 tasks" or "Write 5 more tasks" of a prompt.
fn asked_for(prompt: &str) -> Option<usize> {
    let (_, rest) = prompt.rsplit_once("Write ")?;
    let mut words = rest.split_whitespace();
    let number = words.next()?.parse().ok()?;
    let word = words.find(|word| *word != "more")?;
    word.starts_with("task").then_some(number)
}

/// What a prompt asks for that shows the form of the reply and sends no schema.
fn task_schema(tasks: usize) -> Value {
    json!({"properties": {"tasks": {
        "type": "array", "minItems": tasks, "maxItems": tasks,
        "items": {"properties": {
            "instruction": {"type": "string"},
            "input": {"type": "string"},
            "output": {"type": "string"},
        }},
    }}})
}

/// Ends the text as a server does: at the first stop sequence, at `max_tokens`, or, for a share
/// of the replies, somewhere in between as if the tokens had run out.
fn finish(mut text: String, request: &Recorded, length_cut: f64, dice: &mut Dice) -> Reply {
    let stops: Vec<&str> = match &request.body["stop"] {
        Value::String(stop) => vec![stop],
        Value::Array(stops) => stops.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let mut reason = "stop";
    let found = stops.iter().filter(|stop| !stop.is_empty());
    if let Some(end) = found.filter_map(|stop| text.find(stop)).min() {
        text.truncate(end);
    }
    let most = ["max_tokens", "max_completion_tokens"]
        .iter()
        .find_map(|key| request.body[key].as_u64());
    let most = most.map_or(usize::MAX, |most| (most as usize).saturating_mul(4));
    let mut end = text.len().min(most);
    if dice.chance(length_cut) {
        end = end.min(text.len() * (25 + dice.below(65)) / 100);
    }
    if end < text.len() {
        text.truncate(text.floor_char_boundary(end));
        reason = "length";
        debug_assert!(tokens(&text) <= most.div_ceil(4));
    }
    Reply::new(text).finish_reason(reason)
}

/// SplitMix64: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn chance(&mut self, share: f64) -> bool {
        ((self.next() >> 11) as f64) < share * (1u64 << 53) as f64
    }
}

fn pick<'a>(dice: &mut Dice, list: &[&'a str]) -> &'a str {
    list[dice.below(list.len())]
}
