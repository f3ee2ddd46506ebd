//! From a request of the contract to the JSON that goes over the wire.

use pacos_plugin::{Format, Prompt, Request};
use reqwest::Url;
use serde_json::{Map, Value, json};

use super::{Failure, failure::Target, strict};
use crate::manifest::{Endpoint, Field, OpenAi};

/// The body of `request`. Fields that the manifest calls unsupported are left out; `extra_body`
/// has the last word.
///
/// # Errors
/// A request that this endpoint cannot carry, with what to change in the manifest.
pub(super) fn body(
    target: &Target,
    settings: &OpenAi,
    request: &Request,
) -> Result<Value, Failure> {
    let takes = |field| !settings.unsupported.contains(&field);
    let mut body = Map::new();
    let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
    set("model", json!(settings.model));
    match (&request.prompt, settings.endpoint) {
        (Prompt::Chat(messages), Endpoint::Chat) => {
            let messages: Vec<Value> = messages
                .iter()
                .map(|message| json!({"role": message.role, "content": message.content}))
                .collect();
            set("messages", json!(messages));
        }
        (Prompt::Completion(prompt), Endpoint::Completions) => {
            set("prompt", json!(prompt));
        }
        (Prompt::Completion(_), Endpoint::Chat) => {
            return Err(wrong_endpoint(
                target,
                "raw text to be continued",
                "completions",
            ));
        }
        (Prompt::Chat(_), Endpoint::Completions) => {
            return Err(wrong_endpoint(target, "a conversation", "chat"));
        }
    }
    if let Some(temperature) = request.temperature.filter(|_| takes(Field::Temperature)) {
        set("temperature", number(target, "temperature", temperature)?);
    }
    if let Some(top_p) = request.top_p.filter(|_| takes(Field::TopP)) {
        set("top_p", number(target, "top_p", top_p)?);
    }
    if let Some(tokens) = request.max_tokens {
        let name = if takes(Field::MaxTokens) {
            "max_tokens"
        } else {
            "max_completion_tokens"
        };
        set(name, json!(tokens));
    }
    if !request.stop.is_empty() && takes(Field::Stop) {
        set("stop", json!(request.stop));
    }
    if !request.logit_bias.is_empty() && takes(Field::LogitBias) {
        let mut biases = Map::new();
        for entry in &request.logit_bias {
            let bias = number(target, "logit_bias", entry.bias)?;
            biases.insert(entry.token.to_string(), whole(entry.bias).unwrap_or(bias));
        }
        set("logit_bias", Value::Object(biases));
    }
    if let Some(seed) = request.seed.filter(|_| takes(Field::Seed)) {
        set("seed", json!(seed));
    }
    if let Some(alternatives) = request.logprobs.filter(|_| takes(Field::Logprobs)) {
        match settings.endpoint {
            Endpoint::Chat => {
                set("logprobs", json!(true));
                set("top_logprobs", json!(alternatives));
            }
            Endpoint::Completions => {
                set("logprobs", json!(alternatives));
            }
        }
    }
    if let Some(format) = &request.format {
        set(
            "response_format",
            response_format(target, settings, format)?,
        );
    }
    for (name, value) in &settings.extra_body {
        set(name, value.clone());
    }
    Ok(Value::Object(body))
}

fn wrong_endpoint(target: &Target, asked: &str, endpoint: &str) -> Failure {
    Failure::refused(
        "unsupported",
        format!(
            "model `{table}` was asked with {asked}, which {path} does not take; write `endpoint \
             = \"{endpoint}\"` in [models.{table}] if the server has that endpoint, or give the \
             role to another model",
            table = target.table,
            path = target.path,
        ),
    )
}

fn response_format(target: &Target, settings: &OpenAi, format: &Format) -> Result<Value, Failure> {
    let table = &target.table;
    let refuse = |message: String| Err(Failure::refused("unsupported", message));
    let schema = match format {
        Format::Grammar(_) => {
            return refuse(format!(
                "model `{table}` cannot keep to a grammar: the API has no field for one; ask for \
                 a JSON Schema, or give the role to a model with `provider = \"local\"`"
            ));
        }
        Format::JsonSchema(_) if settings.endpoint == Endpoint::Completions => {
            return refuse(format!(
                "model `{table}` cannot keep to a JSON Schema at {}; write `endpoint = \"chat\"` \
                 in [models.{table}], or set the plugin to a mode that needs no schema",
                target.path,
            ));
        }
        Format::JsonSchema(_) if settings.unsupported.contains(&Field::JsonSchema) => {
            return refuse(format!(
                "model `{table}` cannot keep to a JSON Schema: `models.{table}.unsupported` says \
                 so; set the plugin to a mode that needs no schema, or give the role to another \
                 model"
            ));
        }
        Format::JsonSchema(schema) => schema,
    };
    let schema: Value = serde_json::from_str(schema).map_err(|error| {
        Failure::refused(
            "invalid-request",
            format!("the JSON Schema for a reply of model `{table}` is not JSON: {error}"),
        )
    })?;
    let name = schema_name(&schema);
    let url = Url::parse(&settings.base_url).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
    let (strict, schema) = if !strict::keeps_to_the_guide(host) {
        (true, schema)
    } else if let Some(subset) = strict::subset(&schema, &settings.model) {
        (true, subset)
    } else {
        // Unconstrained, the schema is still shown to the model.
        (false, schema)
    };
    Ok(json!({
        "type": "json_schema",
        "json_schema": {"name": name, "strict": strict, "schema": schema},
    }))
}

/// The API wants a name of letters, digits, `_` and `-`, 64 at most.
fn schema_name(schema: &Value) -> String {
    let title = schema["title"].as_str().unwrap_or_default();
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let name: String = title
        .chars()
        .map(|c| if allowed(c) { c } else { '_' })
        .take(64)
        .collect();
    if name.is_empty() {
        "reply".into()
    } else {
        name
    }
}

fn number(target: &Target, name: &str, value: f64) -> Result<Value, Failure> {
    match serde_json::Number::from_f64(value) {
        Some(number) => Ok(Value::Number(number)),
        None => Err(Failure::refused(
            "invalid-request",
            format!(
                "`{name}` of a request to model `{}` is {value}, which is not a finite number",
                target.table
            ),
        )),
    }
}

/// Biases are whole numbers in the recipe and in the API's examples; some servers read no others.
fn whole(value: f64) -> Option<Value> {
    (value.fract() == 0.0 && value.abs() < 1e15).then(|| json!(value as i64))
}
