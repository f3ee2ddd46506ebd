//! What every plugin is asked: what it is, and what it thinks of a configuration.

use pacos_plugin::{Description, Diagnostic, Severity};
use serde_json::{Value, json};

use super::{Check, Report};
use crate::plugin::{CallError, Loaded, capability, is_kebab_case};

const NAME: Check = Check::new(
    "describe-name",
    "The name is kebab-case, and the version is a semantic version.",
);
const CAPABILITIES: Check = Check::new(
    "describe-capabilities",
    "Every capability is one that a recipe can grant: models:ROLE, http:HOST or http:*.",
);
const SCHEMA: Check = Check::new(
    "describe-schema",
    "The schema of the configuration is a JSON Schema of an object.",
);
const STABLE: Check = Check::new(
    "describe-stable",
    "Every instance describes itself in the same way.",
);
const ACCEPTS: Check = Check::new(
    "configure-accepts",
    "The configuration that was given, or {}, brings no error.",
);
const MALFORMED: Check = Check::new(
    "configure-malformed",
    "What is no JSON object brings an error, and does not break the plugin.",
);
const UNKNOWN_KEY: Check = Check::new(
    "configure-unknown-key",
    "A key that the plugin does not know brings a diagnostic: it may be misspelt.",
);
const WRONG_TYPE: Check = Check::new(
    "configure-wrong-type",
    "A value of a wrong type brings an error that names its key.",
);

pub(super) const CHECKS: [Check; 8] = [
    NAME,
    CAPABILITIES,
    SCHEMA,
    STABLE,
    ACCEPTS,
    MALFORMED,
    UNKNOWN_KEY,
    WRONG_TYPE,
];

/// A key that no plugin has.
const STRANGE_KEY: &str = "no_such_key";

/// Makes the checks, and says whether the plugin took its configuration.
pub(super) async fn check(plugin: &Loaded, report: &mut Report) -> bool {
    let about = &plugin.description;
    report.add(NAME, name(about));
    report.add(CAPABILITIES, capabilities(about));
    report.add(SCHEMA, schema(about).map(|_| ()));
    report.add(STABLE, stable(plugin).await);
    let accepted = accepts(plugin).await;
    let usable = accepted.is_ok();
    report.add(ACCEPTS, accepted);
    report.add(MALFORMED, malformed(plugin).await);
    report.add(UNKNOWN_KEY, unknown_key(plugin).await);
    match schema(about) {
        Ok(schema) => report.add(WRONG_TYPE, wrong_type(plugin, &schema).await),
        Err(_) => report.skip(WRONG_TYPE, "the schema is not one of an object"),
    }
    usable
}

fn name(about: &Description) -> Result<(), String> {
    if !is_kebab_case(&about.name) {
        return Err(format!("the name is \"{}\"", about.name));
    }
    if !is_semantic_version(&about.version) {
        let version = &about.version;
        return Err(format!(
            "the version is \"{version}\", expected such as 0.1.0"
        ));
    }
    Ok(())
}

fn is_semantic_version(version: &str) -> bool {
    let numbers = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<&str> = numbers.split('.').collect();
    let number = |text: &&str| {
        !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_digit())
            && (*text == "0" || !text.starts_with('0'))
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-+".contains(c);
    numbers.len() == 3 && numbers.iter().all(number) && version.chars().all(allowed)
}

fn capabilities(about: &Description) -> Result<(), String> {
    for capability in &about.capabilities {
        if !capability::is_known(capability) {
            return Err(format!("it wants `{capability}`"));
        }
        if about
            .capabilities
            .iter()
            .filter(|c| *c == capability)
            .count()
            > 1
        {
            return Err(format!("it wants `{capability}` twice"));
        }
    }
    Ok(())
}

fn schema(about: &Description) -> Result<Value, String> {
    let text = &about.config_schema;
    let schema: Value =
        serde_json::from_str(text).map_err(|error| format!("the schema is not JSON: {error}"))?;
    if schema["type"] != "object" {
        return Err(format!(
            "the schema's \"type\" is {}, expected \"object\"",
            schema["type"]
        ));
    }
    match &schema["properties"] {
        Value::Null | Value::Object(_) => Ok(schema),
        other => Err(format!("the schema's \"properties\" is {other}")),
    }
}

async fn stable(plugin: &Loaded) -> Result<(), String> {
    let described = async { plugin.bare().await?.describe().await };
    match described.await {
        Ok(again) if again == plugin.description => Ok(()),
        Ok(again) => Err(format!(
            "another instance says {again:?}, the first one said {:?}",
            plugin.description
        )),
        Err(error) => Err(format!("another instance: {error}")),
    }
}

async fn diagnose(plugin: &Loaded, config: &str) -> Result<Vec<Diagnostic>, CallError> {
    plugin.bare().await?.configure(config).await
}

fn errors(diagnostics: &[Diagnostic]) -> impl Iterator<Item = &Diagnostic> {
    let mut all = diagnostics.iter();
    std::iter::from_fn(move || all.find(|d| d.severity == Severity::Error))
}

async fn accepts(plugin: &Loaded) -> Result<(), String> {
    let diagnostics = plugin.diagnose().await.map_err(|error| error.to_string())?;
    match errors(&diagnostics).next() {
        None => Ok(()),
        Some(error) => Err(format!(
            "`{}`: {}. Give a configuration with --config or --set",
            error.path, error.message
        )),
    }
}

async fn malformed(plugin: &Loaded) -> Result<(), String> {
    for config in ["", "{", "null", "7", "\"words\""] {
        match diagnose(plugin, config).await {
            Ok(diagnostics) if errors(&diagnostics).next().is_some() => {}
            Ok(_) => return Err(format!("`{config}` brings no error")),
            Err(error) => return Err(format!("`{config}`: {error}")),
        }
    }
    Ok(())
}

/// The configuration with one key set.
fn with_key(plugin: &Loaded, key: &str, value: Value) -> String {
    let mut config = match &plugin.recipe.config {
        Value::Object(config) => config.clone(),
        _ => serde_json::Map::new(),
    };
    config.insert(key.to_owned(), value);
    Value::Object(config).to_string()
}

async fn unknown_key(plugin: &Loaded) -> Result<(), String> {
    let config = with_key(plugin, STRANGE_KEY, json!(1));
    match diagnose(plugin, &config).await {
        Ok(diagnostics) => {
            let named = diagnostics
                .iter()
                .any(|d| d.path.contains(STRANGE_KEY) || d.message.contains(STRANGE_KEY));
            let none = || format!("`{config}` brings no diagnostic that names `{STRANGE_KEY}`");
            named.then_some(()).ok_or_else(none)
        }
        Err(error) => Err(format!("`{config}`: {error}")),
    }
}

/// No type but "anything" has this value.
fn misfit() -> Value {
    json!([[{ "misfit": [[]] }]])
}

async fn wrong_type(plugin: &Loaded, schema: &Value) -> Result<(), String> {
    let Some(properties) = schema["properties"].as_object() else {
        return Ok(());
    };
    for (key, property) in properties {
        let typed = ["type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const"];
        if !typed.iter().any(|word| property.get(word).is_some()) {
            continue;
        }
        let config = with_key(plugin, key, misfit());
        let diagnostics = diagnose(plugin, &config)
            .await
            .map_err(|error| format!("`{config}`: {error}"))?;
        let mut errors = errors(&diagnostics);
        let named = errors.any(|error| {
            let path = error.path.strip_prefix(key.as_str());
            path.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
                || error.message.contains(key.as_str())
        });
        if !named {
            return Err(format!("`{config}` brings no error that names `{key}`"));
        }
    }
    Ok(())
}
