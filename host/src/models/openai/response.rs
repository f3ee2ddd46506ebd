//! From a body to a reply. Servers differ in everything but the outline, so the body is read as
//! JSON of unknown shape and asked for what it has.

use std::cmp::Ordering;

use pacos_plugin::{Alternative, FinishReason, Reply, Request, TokenLogprob, Usage};
use serde_json::{Value, error::Category};

use super::{
    Failure,
    failure::{self, Target, Words, quoted},
};

/// Reads a body as JSON: a byte order mark is skipped, and bytes that are no UTF-8 (a server that
/// cuts characters at token edges) are replaced.
pub(super) fn parse(body: &[u8]) -> Result<Value, serde_json::Error> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    match std::str::from_utf8(body) {
        Ok(text) => serde_json::from_str(text),
        Err(_) => serde_json::from_str(&String::from_utf8_lossy(body)),
    }
}

/// Reads the body of a reply with status 200. Reasoning that comes beside the text
/// (`reasoning_content`) is not part of it.
pub(super) fn read(target: &Target, request: &Request, body: &[u8]) -> Result<Reply, Failure> {
    let value = parse(body).map_err(|error| not_json(target, body, &error))?;
    let choice = match value["choices"].as_array().map(Vec::as_slice) {
        Some(choices @ [first, ..]) => {
            let zeroth = choices.iter().find(|choice| choice["index"] == 0);
            zeroth.unwrap_or(first)
        }
        _ => {
            return Err(match Words::find(&value) {
                Some(words) => failure::of_words(target, &words),
                None => no_choices(target, body),
            });
        }
    };
    if let Some(words) = Words::find(choice).filter(|_| choice["error"] != Value::Null) {
        return Err(failure::of_words(target, &words));
    }
    let message = &choice["message"];
    let text = [&message["content"], &choice["text"]];
    let text = text.iter().find_map(|text| content(text));
    let refusal = message["refusal"].as_str().filter(|said| !said.is_empty());
    let usage = usage(&value["usage"]);
    let mut finish_reason = finish_reason(&choice["finish_reason"]);
    let text = match (text, refusal) {
        (Some(text), _) if !text.is_empty() => text,
        (_, Some(refusal)) => {
            finish_reason = Some(FinishReason::ContentFilter);
            refusal.to_owned()
        }
        (Some(text), None) => text,
        (None, None) if message.is_object() || choice.get("text").is_some() => String::new(),
        (None, None) => return Err(no_choices(target, body)),
    };
    let logprobs = match request.logprobs {
        Some(_) => logprobs(&choice["logprobs"]),
        None => Vec::new(),
    };
    Ok(Reply {
        finish_reason: finish_reason.unwrap_or_else(|| inferred(request, usage)),
        text,
        usage,
        logprobs,
    })
}

/// Whether a list of models has the model; a list that cannot be read says nothing.
pub(super) fn listed(target: &Target, body: &[u8]) -> Result<(), Failure> {
    let value = parse(body).map_err(|error| not_json(target, body, &error))?;
    let entries = match (&value["data"], &value["models"], &value) {
        (Value::Array(entries), _, _) | (_, Value::Array(entries), _) => entries,
        (_, _, Value::Array(entries)) => entries,
        _ => return Ok(()),
    };
    // llama.cpp lists its file and answers to any name; a list of several pages is not whole.
    let open = value["has_more"] == true || entries.iter().any(|e| e["owned_by"] == "llamacpp");
    let name = |entry: &Value| {
        let names = [&entry["id"], &entry["name"], &entry["model"], entry];
        names
            .iter()
            .find_map(|name| name.as_str())
            .map(str::to_owned)
    };
    let names: Vec<String> = entries.iter().filter_map(name).collect();
    let wanted = target.model.as_str();
    let same = |name: &String| {
        let bare = name.strip_prefix("models/").unwrap_or(name);
        bare == wanted || bare.strip_suffix(":latest") == Some(wanted) || name == wanted
    };
    if open || names.is_empty() || names.iter().any(same) {
        return Ok(());
    }
    let shown: Vec<&str> = names.iter().take(8).map(String::as_str).collect();
    let more = match names.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Err(Failure::fatal(
        "unknown-model",
        format!(
            "{} does not list a model {wanted:?}; it lists {}{more}; write one of those as \
             `models.{}.model`",
            target.base_url,
            shown.join(", "),
            target.table,
        ),
    ))
}

fn not_json(target: &Target, body: &[u8], error: &serde_json::Error) -> Failure {
    let base_url = &target.base_url;
    let text = String::from_utf8_lossy(body);
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() {
        return Failure::passing(
            "not-json",
            format!("{base_url} answered 200 with an empty body, where JSON was expected"),
        );
    }
    if error.classify() == Category::Eof {
        return Failure::passing(
            "cut-body",
            format!(
                "the reply of {base_url} ends in the middle, after {} bytes",
                body.len()
            ),
        );
    }
    let start: String = text.chars().take(120).collect();
    Failure::passing(
        "not-json",
        format!(
            "{base_url} answered 200 with something that is not JSON: {}; is a proxy in between, \
             or is `models.{}.base_url` the address of a page?",
            quoted(&start),
            target.table,
        ),
    )
}

fn no_choices(target: &Target, body: &[u8]) -> Failure {
    let start: String = String::from_utf8_lossy(body).chars().take(120).collect();
    Failure::passing(
        "no-choices",
        format!(
            "{} answered 200 with JSON that holds no reply: {}; does `models.{}.base_url` lead to \
             an OpenAI-compatible server?",
            target.base_url,
            quoted(&start),
            target.table,
        ),
    )
}

/// A string, or parts of which some hold text.
fn content(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => {
            let text = |part: &Value| match part {
                Value::String(text) => Some(text.clone()),
                part => part["text"].as_str().map(str::to_owned),
            };
            Some(parts.iter().filter_map(text).collect())
        }
        _ => None,
    }
}

fn finish_reason(value: &Value) -> Option<FinishReason> {
    let reason = value.as_str().or_else(|| value["type"].as_str())?;
    Some(match reason.to_ascii_lowercase().as_str() {
        "stop" | "eos" | "eos_token" | "end_turn" | "stop_sequence" => FinishReason::Stop,
        "length" | "max_tokens" | "model_length" => FinishReason::Length,
        "content_filter" | "content-filter" | "safety" => FinishReason::ContentFilter,
        "" => return None,
        _ => FinishReason::Other,
    })
}

/// A server that gives no reason: a reply as long as was allowed was cut.
fn inferred(request: &Request, usage: Option<Usage>) -> FinishReason {
    match (request.max_tokens, usage) {
        (Some(most), Some(usage)) if usage.completion_tokens >= u64::from(most) => {
            FinishReason::Length
        }
        _ => FinishReason::Other,
    }
}

/// Two of prompt, completion and total are enough.
fn usage(value: &Value) -> Option<Usage> {
    let count = |names: [&str; 2]| names.iter().find_map(|name| whole(&value[name]));
    let prompt = count(["prompt_tokens", "input_tokens"]);
    let completion = count(["completion_tokens", "output_tokens"]);
    let total = whole(&value["total_tokens"]);
    let (prompt_tokens, completion_tokens) = match (prompt, completion, total) {
        (Some(prompt), Some(completion), _) => (prompt, completion),
        (Some(prompt), None, Some(total)) => (prompt, total.checked_sub(prompt)?),
        (None, Some(completion), Some(total)) => (total.checked_sub(completion)?, completion),
        _ => return None,
    };
    Some(Usage {
        prompt_tokens,
        completion_tokens,
    })
}

/// A count, also where it is written as `12.0` or `"12"`.
fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64().or_else(|| {
            let number = number.as_f64()?;
            (number >= 0.0 && number.fract() == 0.0 && number < 1e15).then_some(number as u64)
        }),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// The form of chat (`content`, a list of objects) or of completions (lists side by side),
/// whichever came: llama.cpp answers both endpoints in the first. A token without a number
/// (the first of an echoed prompt) is left out.
fn logprobs(value: &Value) -> Vec<TokenLogprob> {
    if let Some(entries) = value["content"].as_array() {
        let read = |entry: &Value| {
            let Alternative { token, logprob } = alternative(entry)?;
            let top = entry["top_logprobs"].as_array();
            let top = top.into_iter().flatten().filter_map(alternative).collect();
            Some(TokenLogprob {
                token,
                logprob,
                top,
            })
        };
        return entries.iter().filter_map(read).collect();
    }
    let tokens = value["tokens"].as_array();
    let tokens = tokens.into_iter().flatten().enumerate();
    let read = |(at, token): (usize, &Value)| {
        let top = &value["top_logprobs"][at];
        let mut alternatives: Vec<Alternative> = match top {
            Value::Object(top) => (top.iter())
                .filter_map(|(token, logprob)| {
                    Some(Alternative {
                        token: token.clone(),
                        logprob: logprob.as_f64()?,
                    })
                })
                .collect(),
            Value::Array(top) => top.iter().filter_map(alternative).collect(),
            _ => Vec::new(),
        };
        // An object has no order of its own.
        alternatives.sort_by(|a, b| {
            let by_logprob = b.logprob.partial_cmp(&a.logprob);
            by_logprob
                .unwrap_or(Ordering::Equal)
                .then_with(|| a.token.cmp(&b.token))
        });
        Some(TokenLogprob {
            token: token.as_str()?.to_owned(),
            logprob: value["token_logprobs"][at].as_f64()?,
            top: alternatives,
        })
    };
    tokens.filter_map(read).collect()
}

fn alternative(entry: &Value) -> Option<Alternative> {
    Some(Alternative {
        token: entry["token"].as_str()?.to_owned(),
        logprob: entry["logprob"].as_f64()?,
    })
}
