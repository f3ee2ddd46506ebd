//! The data of the contract as people write and read it: in the cases of a plugin's tests, and in
//! JSON Lines. What goes in is read here, what comes out is written here; both are JSON values.

use pacos_plugin::{
    Answer, Attribute, Candidate, CandidateId, Decision, Error, Example, FinishReason, HttpHeader,
    HttpResponse, Item, Judgement, Message, Metric, Origin, Outcome, Payload, Place, Proposals,
    Score, Task, Unit, Verdict,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::script::Scripted;
use crate::{plugin::CallError, seed};

/// What the randomness of a unit derives from: a recipe's `seed` where it has none.
const SEED: u64 = 42;

/// Why a value is not what was wanted, for a person.
pub type Misread = String;

fn from_json<T: DeserializeOwned>(value: &Value, what: &str) -> Result<T, Misread> {
    if !value.is_object() {
        return Err(format!("expected {what}, found {}", shown(value)));
    }
    T::deserialize(value).map_err(|error| format!("not {what}: {error}"))
}

/// Reads a line of JSON.
///
/// # Errors
/// What is not JSON.
pub fn parse(line: &str) -> Result<Value, Misread> {
    serde_json::from_str(line).map_err(|error| {
        let message = error.to_string();
        // Of one line, the line's number within itself says nothing.
        let message = message.split(" at line ").next().unwrap_or_default();
        format!("not JSON: {message} at column {}", error.column())
    })
}

/// A value in few words.
pub(super) fn shown(value: &Value) -> String {
    const MOST: usize = 160;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Refuses keys that nobody reads: a test with a misspelt key would pass for the wrong reason.
pub(super) fn known_keys(value: &Value, known: &[&str]) -> Result<(), Misread> {
    let unknown = value
        .as_object()
        .and_then(|object| object.keys().find(|key| !known.contains(&key.as_str())));
    match unknown {
        Some(key) => Err(format!(
            "unknown key `{key}`, expected one of {}",
            known.join(", ")
        )),
        None => Ok(()),
    }
}

/// Keys of [`candidate`].
pub(super) const CANDIDATE: &[&str] = &[
    "instruction",
    "input",
    "output",
    "messages",
    "attributes",
    "unit",
    "n",
    "seed",
];
/// Keys of [`unit`].
pub(super) const UNIT: &[&str] = &["unit", "seed", "accepted"];
/// Keys of [`item`].
pub(super) const ITEM: &[&str] = &["instruction", "input", "output", "answers", "index", "seed"];
/// Keys of [`task`].
pub(super) const TASK: &[&str] = &["instruction", "input", "output"];
/// Keys of [`answer`].
pub(super) const ANSWER: &[&str] = &[
    "text",
    "finish_reason",
    "status",
    "headers",
    "body",
    "error",
    "message",
    "retryable",
];

#[derive(Deserialize)]
struct RecordLine {
    instruction: Option<String>,
    input: Option<String>,
    output: Option<String>,
    messages: Option<Vec<MessageLine>>,
    #[serde(default)]
    attributes: Map<String, Value>,
    unit: Option<u64>,
    n: Option<u32>,
    seed: Option<u64>,
}

#[derive(Deserialize)]
struct MessageLine {
    role: String,
    content: String,
}

impl RecordLine {
    fn payload(&mut self) -> Result<Payload, Misread> {
        if let Some(messages) = self.messages.take() {
            if self.instruction.is_some() {
                return Err("either `instruction` or `messages`, not both".into());
            }
            let message = |line: MessageLine| Message {
                role: line.role,
                content: line.content,
            };
            return Ok(Payload::Chat(messages.into_iter().map(message).collect()));
        }
        let (Some(instruction), Some(output)) = (self.instruction.take(), self.output.take())
        else {
            return Err(
                "expected `instruction` and `output`, or `messages`; an empty text is written \"\""
                    .into(),
            );
        };
        Ok(Payload::Task(Task {
            instruction,
            input: self.input.take().unwrap_or_default(),
            output,
        }))
    }
}

/// Reads a task: `instruction`, `input` (may be absent), `output`.
///
/// # Errors
/// What is not as it should be.
pub fn task(value: &Value) -> Result<Task, Misread> {
    let mut line: RecordLine = from_json(value, "a task, {instruction = \"…\", output = \"…\"}")?;
    match line.payload()? {
        Payload::Task(task) => Ok(task),
        Payload::Chat(_) => Err("expected a task, found `messages`".into()),
    }
}

/// Reads a candidate: the fields of a task, or `messages`; `attributes`, and `unit` and `n`, which
/// are otherwise 0 and `number`, and `seed`, which otherwise derives from the content.
///
/// # Errors
/// What is not as it should be.
pub fn candidate(value: &Value, number: usize) -> Result<Candidate, Misread> {
    let mut line: RecordLine = from_json(value, "a record, {instruction = \"…\", output = \"…\"}")?;
    let payload = line.payload()?;
    Ok(Candidate {
        id: CandidateId {
            unit: line.unit.unwrap_or(0),
            n: match line.n {
                Some(n) => n,
                None => u32::try_from(number).map_err(|_| "too many records".to_owned())?,
            },
        },
        seed: line.seed.unwrap_or_else(|| seed::of_content(&payload)),
        payload,
        attributes: attributes_in(line.attributes)?,
        parents: Vec::new(),
    })
}

fn attributes_in(attributes: Map<String, Value>) -> Result<Vec<Attribute>, Misread> {
    let attribute = |(name, value)| match value {
        Value::String(value) => Ok(Attribute { name, value }),
        other => Err(format!(
            "attribute `{name}`: expected a text, found {}",
            shown(&other)
        )),
    };
    attributes.into_iter().map(attribute).collect()
}

/// Reads a unit: `unit`, its index; `accepted`, the examples that it may read; `seed`, which
/// otherwise derives from the index as in a recipe without a `seed` of its own.
///
/// # Errors
/// What is not as it should be.
pub fn unit(value: &Value) -> Result<(Unit, Vec<Example>), Misread> {
    #[derive(Deserialize)]
    struct Line {
        unit: u64,
        seed: Option<u64>,
        #[serde(default)]
        accepted: Vec<Value>,
    }
    let line: Line = from_json(value, "a unit, {unit = 0}")?;
    let examples: Vec<Example> = (0..)
        .zip(&line.accepted)
        .map(|(n, value)| {
            let candidate = candidate(value, n).map_err(|e| format!("accepted {}: {e}", n + 1))?;
            Ok(Example {
                id: candidate.id,
                payload: candidate.payload,
            })
        })
        .collect::<Result<_, Misread>>()?;
    let mut unit = unit_number(line.unit);
    unit.seed = line.seed.unwrap_or(unit.seed);
    unit.accepted = examples.len() as u64;
    Ok((unit, examples))
}

/// A unit by its index alone, with nothing accepted before it.
#[must_use]
pub fn unit_number(index: u64) -> Unit {
    Unit {
        index,
        seed: seed::derive(SEED, "unit", index),
        accepted: 0,
    }
}

/// Reads an item: the fields of a task and `answers`, texts by the names of models.
///
/// # Errors
/// What is not as it should be.
pub fn item(value: &Value, number: usize) -> Result<Item, Misread> {
    #[derive(Deserialize)]
    struct Line {
        answers: Option<Map<String, Value>>,
        index: Option<u64>,
        seed: Option<u64>,
    }
    let task = task(value)?;
    let line: Line = from_json(value, "a task with answers")?;
    let answers = line
        .answers
        .ok_or("expected `answers`, such as {\"student\": \"…\", \"student.base\": \"…\"}")?;
    let answer = |(model, text)| match text {
        Value::String(text) => Ok(Answer { model, text }),
        other => Err(format!(
            "the answer of `{model}`: expected a text, found {}",
            shown(&other)
        )),
    };
    Ok(Item {
        index: line.index.unwrap_or(number as u64),
        seed: line.seed.unwrap_or_else(|| seed::of_content(&task)),
        task,
        answers: answers.into_iter().map(answer).collect::<Result<_, _>>()?,
    })
}

/// Reads a line of a script: what a model says, a text, or `text` with a `finish_reason`; what a
/// server says, `status` with `headers` and `body`; or `error` with a `message`.
///
/// # Errors
/// What is not as it should be.
pub fn answer(value: &Value) -> Result<Scripted, Misread> {
    #[derive(Deserialize)]
    struct Line {
        text: Option<String>,
        finish_reason: Option<String>,
        status: Option<u16>,
        #[serde(default)]
        headers: Map<String, Value>,
        #[serde(default)]
        body: String,
        error: Option<String>,
        #[serde(default)]
        message: String,
        #[serde(default)]
        retryable: bool,
    }
    if let Value::String(text) = value {
        return Ok(Scripted::Reply(super::script::reply(text)));
    }
    let what = "a text, {text = \"…\"}, {status = 200, body = \"…\"} or {error = \"…\"}";
    let line: Line = from_json(value, what)?;
    match (line.text, line.status, line.error) {
        (Some(text), None, None) => {
            let mut reply = super::script::reply(text);
            reply.finish_reason = match line.finish_reason.as_deref() {
                None | Some("stop") => FinishReason::Stop,
                Some("length") => FinishReason::Length,
                Some("content-filter") => FinishReason::ContentFilter,
                Some("other") => FinishReason::Other,
                Some(other) => {
                    return Err(format!(
                        "finish_reason \"{other}\", expected stop, length, content-filter or other"
                    ));
                }
            };
            Ok(Scripted::Reply(reply))
        }
        (None, Some(status), None) => {
            let header = |(name, value): (String, Value)| match value {
                Value::String(value) => Ok(HttpHeader { name, value }),
                other => Err(format!(
                    "the header `{name}`: expected a text, found {}",
                    shown(&other)
                )),
            };
            Ok(Scripted::Response(HttpResponse {
                status,
                headers: line
                    .headers
                    .into_iter()
                    .map(header)
                    .collect::<Result<_, _>>()?,
                body: line.body.into_bytes(),
            }))
        }
        (None, None, Some(code)) => Ok(Scripted::Failure(Error {
            code,
            message: line.message,
            retryable: line.retryable,
        })),
        _ => Err("a reply has one of `text`, `status` and `error`".into()),
    }
}

// What comes out.

fn attributes(attributes: &[Attribute]) -> Value {
    let pairs = attributes.iter();
    pairs
        .map(|a| (a.name.clone(), Value::from(a.value.clone())))
        .collect::<Map<_, _>>()
        .into()
}

fn scores(scores: &[Score]) -> Value {
    let pairs = scores.iter();
    pairs
        .map(|score| (score.name.clone(), Value::from(score.value)))
        .collect::<Map<_, _>>()
        .into()
}

fn origin(origin: &Origin) -> Map<String, Value> {
    let fields = match origin {
        Origin::Seed(line) => vec![("seed", json!(line))],
        Origin::Candidate(id) => vec![("unit", json!(id.unit)), ("n", json!(id.n))],
    };
    let fields = fields.into_iter();
    fields.map(|(key, value)| (key.to_owned(), value)).collect()
}

fn place(place: Option<Place>) -> Value {
    place.map_or(
        Value::Null,
        |place| json!({ "ordinal": place.ordinal, "start": place.start, "end": place.end }),
    )
}

/// Writes a task or a conversation, in the shape in which [`candidate`] reads it.
#[must_use]
pub fn payload(payload: &Payload) -> Value {
    match payload {
        Payload::Task(task) => json!({
            "instruction": task.instruction,
            "input": task.input,
            "output": task.output,
        }),
        Payload::Chat(messages) => {
            let message = |m: &Message| json!({ "role": m.role, "content": m.content });
            json!({ "messages": messages.iter().map(message).collect::<Vec<_>>() })
        }
    }
}

/// Writes a verdict. `payload` is the edited record; it and `nearest` are null where there is none.
#[must_use]
pub fn verdict(verdict: &Verdict) -> Value {
    let (decision, edited) = match &verdict.decision {
        Decision::Keep => ("keep", Value::Null),
        Decision::Drop => ("drop", Value::Null),
        Decision::Edit(edited) => ("edit", payload(edited)),
    };
    let nearest = verdict.nearest.as_ref().map(|nearest| {
        let mut fields = origin(&nearest.origin);
        fields.insert("score".into(), nearest.score.into());
        fields
    });
    json!({
        "decision": decision,
        "code": verdict.code,
        "message": verdict.message,
        "scores": scores(&verdict.scores),
        "nearest": nearest,
        "payload": edited,
    })
}

/// Writes what a unit brought, and how many requests it made.
#[must_use]
pub fn proposals(proposals: &Proposals, requests: usize) -> Value {
    let candidates = proposals.candidates.iter().map(|proposal| {
        let mut fields = payload(&proposal.payload);
        fields["attributes"] = attributes(&proposal.attributes);
        fields["parents"] = proposal.parents.iter().map(origin).collect();
        fields["place"] = place(proposal.place);
        fields
    });
    let rejects = proposals.rejects.iter().map(|reject| {
        json!({ "code": reject.code, "message": reject.message, "place": place(reject.place) })
    });
    json!({
        "candidates": candidates.collect::<Vec<_>>(),
        "rejects": rejects.collect::<Vec<_>>(),
        "requests": requests,
    })
}

/// Writes a judgement.
#[must_use]
pub fn judgement(judgement: &Judgement) -> Value {
    let outcome = match judgement.outcome {
        Outcome::First => "first",
        Outcome::Second => "second",
        Outcome::Tie => "tie",
        Outcome::Unparsed => "unparsed",
        Outcome::Refused => "refused",
    };
    json!({
        "item": judgement.item,
        "first": judgement.first,
        "second": judgement.second,
        "outcome": outcome,
        "flipped": judgement.flipped,
        "scores": scores(&judgement.scores),
        "attributes": attributes(&judgement.attributes),
    })
}

/// Writes a metric.
#[must_use]
pub fn metric(metric: &Metric) -> Value {
    json!({
        "name": metric.name,
        "value": metric.value,
        "standard_error": metric.standard_error,
        "n": metric.n,
        "attributes": attributes(&metric.attributes),
    })
}

/// Writes why a call brought nothing.
#[must_use]
pub fn failure(error: &CallError) -> Value {
    let message = match error {
        CallError::Plugin(error) => error.message.clone(),
        other => other.to_string(),
    };
    json!({ "error": error.code(), "message": message })
}
