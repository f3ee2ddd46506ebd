//! Fields of a request that this server does not have: which are passed over, and which refused.
//!
//! A field that would change the answer and is not understood must not be passed over in silence. The names
//! are those of OpenAI's interface and of the servers that speak it: vLLM, llama.cpp, Ollama.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::http::Refusal;

/// What a request or one of its messages holds beside the fields that are understood.
pub(super) type Others = BTreeMap<String, Value>;

/// They concern accounts, bills, caches and queues, and no answer.
const PASSED_OVER: [&str; 13] = [
    "cache_prompt",
    "keep_alive",
    "metadata",
    "priority",
    "prompt_cache_key",
    "prompt_cache_retention",
    "request_id",
    "safety_identifier",
    "service_tier",
    "store",
    "timings_per_token",
    "user",
    // There are no tools, since those are refused.
    "parallel_tool_calls",
];

/// Values that ask for what happens anyway.
fn is_neutral(name: &str, value: &Value) -> bool {
    let one_of = |neutral: &[Value]| neutral.iter().any(|it| it == value);
    let number = |neutral: f64| value.as_f64() == Some(neutral);
    match name {
        "tool_choice" | "function_call" => one_of(&[json!("none"), json!("auto")]),
        "modalities" => one_of(&[json!(["text"])]),
        "verbosity" => one_of(&[json!("medium")]),
        "reasoning_effort" => one_of(&[json!("none")]),
        "typical_p" | "typ_p" | "tfs_z" | "repeat_penalty" | "length_penalty" => number(1.0),
        "min_tokens" | "mirostat" | "top_a" | "xtc_probability" | "dry_multiplier"
        | "dynatemp_range" | "n_keep" | "n_probs" | "prompt_logprobs" => number(0.0),
        "ignore_eos"
        | "use_beam_search"
        | "early_stopping"
        | "include_stop_str_in_output"
        | "continue_final_message"
        | "return_token_ids"
        | "return_tokens_as_token_ids" => one_of(&[json!(false)]),
        "skip_special_tokens"
        | "spaces_between_special_tokens"
        | "add_generation_prompt"
        | "detokenize" => one_of(&[json!(true)]),
        _ => false,
    }
}

/// Absent in other words.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// What there is in place of a field of other servers.
fn instead(name: &str) -> Option<&'static str> {
    Some(match name {
        "repeat_penalty" => "repetition_penalty",
        "n_predict" | "num_predict" | "max_new_tokens" | "max_output_tokens" => "max_tokens",
        "guided_json" | "json_schema" | "structured_outputs" => {
            "response_format with a \"json_schema\""
        }
        "guided_regex" | "guided_choice" => {
            "response_format with a \"json_schema\" that has \"pattern\" or \"enum\""
        }
        _ => return None,
    })
}

/// Refuses the first field of a request that is neither understood nor without effect.
pub(super) fn refuse_unknown(others: &Others) -> Result<(), Refusal> {
    let unknown = others.iter().find(|(name, value)| {
        !is_nothing(value) && !PASSED_OVER.contains(&name.as_str()) && !is_neutral(name, value)
    });
    let Some((name, value)) = unknown else {
        return Ok(());
    };
    // With another value it would have been fine: say the value, where it is short.
    let shown = Some(value.to_string()).filter(|text| text.len() <= 40);
    let shown = shown.map_or_else(String::new, |text| format!(" (here {text})"));
    let next = match instead(name) {
        Some(ours) => format!("there is {ours}"),
        None => "leave it out".to_owned(),
    };
    Err(Refusal::bad(
        "unknown_parameter",
        format!(
            "this server does not do what the field `{name}` asks for{shown}, and does not pass it over, since it may change the answer; {next}"
        ),
    ))
}

/// The same for a message. `name` is for templates of several speakers, which LLaMA's are not.
pub(super) fn refuse_unknown_in_message(others: &Others) -> Result<(), Refusal> {
    let unknown = others
        .iter()
        .find(|(name, value)| !is_nothing(value) && *name != "name");
    match unknown {
        None => Ok(()),
        Some((name, _)) => Err(Refusal::bad(
            "unknown_parameter",
            format!("a message holds the field `{name}`; this model reads role and content alone"),
        )),
    }
}
