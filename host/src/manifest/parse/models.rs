//! `[models.NAME]` and `[roles]`.

use std::collections::{BTreeMap, BTreeSet};

use super::{beside_manifest, choice, is_table, variable};
use crate::manifest::{
    Endpoint, Field, Local, Model, OpenAi, Price, Provider, Sampling,
    reader::{Key, Table, Zero, key},
    secrets::Secret,
    suggest::nearest,
    tree::Value,
};

/// OpenAI's own server.
const OPENAI: &str = "https://api.openai.com/v1";

const EMBEDDED: [&str; 1] = ["smollm2-135m-instruct"];

pub(super) const PRICE_EXAMPLE: &str =
    "`price = { input = 0.4, output = 1.6, as_of = \"2026-01-31\" }`";

/// What every model may say, then what only `provider = "openai"` may.
const MODEL: &[Key] = &[
    key("provider", "\"openai\""),
    key("model", "\"gpt-4.1-mini\""),
    key(
        "price",
        "{ input = 0.4, output = 1.6, as_of = \"2026-01-31\" }",
    ),
    key("max_concurrency", "16"),
    key("context_length", "8192"),
    key("terms", "\"see https://example.com/terms\""),
    key("base_url", "\"http://localhost:8000/v1\""),
    key("api_key_env", "\"OPENAI_API_KEY\""),
    key("endpoint", "\"chat\""),
    key("timeout", "\"120s\""),
    key("max_attempts", "8"),
    key("requests_per_minute", "500"),
    key("tokens_per_minute", "200_000"),
    key("unsupported", "[\"logit_bias\"]"),
    key("extra_body", "{ reasoning_effort = \"low\" }"),
];

const LOCAL: &[Key] = &[
    key("provider", "\"local\""),
    key("model", "\"embedded:smollm2-135m-instruct\""),
    key("max_concurrency", "16"),
    key("context_length", "8192"),
    key("terms", "\"Apache-2.0\""),
    key("sampling", "{ top_k = 40, min_p = 0.05 }"),
];

const SAMPLING: &[Key] = &[
    key("temperature", "0.7"),
    key("top_p", "0.9"),
    key("top_k", "40"),
    key("min_p", "0.05"),
    key("repetition_penalty", "1.1"),
];

const PRICE: &[Key] = &[
    key("input", "0.4"),
    key("output", "1.6"),
    key("as_of", "\"2026-01-31\""),
];

const ROLES: &[Key] = &[
    key("teacher", "\"NAME\""),
    key("judge", "\"NAME\""),
    key("student", "\"NAME\""),
];

/// All models that are sound.
pub(super) fn models(root: &Table<'_>, secrets: &[Secret]) -> BTreeMap<String, Model> {
    let Some(tables) = root.table("models", &[]) else {
        return BTreeMap::new();
    };
    let mut models = BTreeMap::new();
    for (name, entry) in tables.entries() {
        let path = tables.below(name);
        let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if !name.chars().all(bare) || name.is_empty() {
            let plain = name.replace(|c| !bare(c), "-");
            tables.reader.report_place(
                &path,
                entry.key,
                format!("`{name}` cannot be the name of a model: letters, digits, - and _ only"),
                format!("write `[models.{plain}]`; the server's name for it goes into `model`"),
            );
            continue;
        }
        if !is_table(&entry.node.value) {
            let found = entry.node.value.kind();
            tables.reader.report_place(
                &path,
                entry.key,
                format!("`models.{name}` is {found}, expected a table"),
                format!("write `[models.{name}]` and under it `provider` and `model`"),
            );
            continue;
        }
        let local = entry
            .node
            .find("provider")
            .is_some_and(|found| matches!(&found.node.value, Value::String(it) if it == "local"));
        let keys = if local { LOCAL } else { MODEL };
        let table = Table::open(tables.reader, path, &entry.node, keys);
        if let Some(model) = table.and_then(|table| model(&table, name, secrets)) {
            models.insert(name.clone(), model);
        }
    }
    models
}

fn model(table: &Table<'_>, name: &str, secrets: &[Secret]) -> Option<Model> {
    let provider = table.string("provider");
    table.refuse_unknown_unless(|unknown| {
        misplaced_sampling(table, provider, unknown)
            .or_else(|| special_key(table, provider, unknown))
    });
    let mut names = table.entries().map(|(name, _)| name);
    if provider.is_none() && names.any(|name| special_key(table, provider, name).is_some()) {
        // Not a model but the first half of its name: what it lacks stands in the other half.
        return None;
    }
    table.require(&["provider", "model"]);
    let price = table.table("price", PRICE).map(|table| price(&table));
    let max_concurrency = table.whole32("max_concurrency", 1).unwrap_or(16) as usize;
    let context_length = table.whole32("context_length", 1);
    let terms = table.string("terms").map(str::to_owned);
    let provider = match provider? {
        "openai" => Provider::OpenAi(openai(table, secrets)?),
        "local" => Provider::Local(local(table)?),
        other => {
            let help = match other.to_lowercase().as_str() {
                "vllm" | "ollama" | "llama.cpp" | "llamacpp" | "lmstudio" | "openrouter" => {
                    format!(
                        "{other} speaks OpenAI's API: write `provider = \"openai\"` and its address as `base_url`"
                    )
                }
                _ => choice(other, ["openai", "local"].into_iter()),
            };
            table.problem("provider", format!("there is no provider `{other}`"), help);
            return None;
        }
    };
    let price = match price {
        Some(price) => Some(price?),
        None => None,
    };
    Some(Model {
        name: name.to_owned(),
        provider,
        price,
        max_concurrency,
        context_length,
        terms,
    })
}

/// Keys that are known elsewhere, and tables that a dot in the model's name made.
fn special_key(
    table: &Table<'_>,
    provider: Option<&str>,
    unknown: &str,
) -> Option<(String, String)> {
    if provider == Some("local") && MODEL.iter().any(|key| key.name == unknown) {
        let message = match unknown {
            "price" => "a local model costs nothing, so it takes no `price`".to_owned(),
            _ => format!("`{unknown}` is for `provider = \"openai\"`, and this model is local"),
        };
        return Some((message, format!("take `{unknown}` out")));
    }
    let dotted = table.get(unknown).is_some_and(|node| is_table(&node.value));
    let known = MODEL.iter().chain(LOCAL).map(|key| key.name);
    let likely_typo = nearest(unknown, known).is_some();
    if dotted && !likely_typo {
        let own = table.path.rsplit('.').next().unwrap_or_default();
        return Some((
            format!("`{unknown}` is no key of a model"),
            format!(
                "a dot in a table's name begins a table inside it: write `[models.{own}-{unknown}]`"
            ),
        ));
    }
    None
}

/// How answers are sampled, said in a place where it means nothing.
fn misplaced_sampling(
    table: &Table<'_>,
    provider: Option<&str>,
    unknown: &str,
) -> Option<(String, String)> {
    let is_setting = SAMPLING.iter().any(|key| key.name == unknown);
    match provider {
        Some("local") if is_setting => {
            let value = table.get(unknown).map(|node| node.value.shown());
            Some((
                format!("`{unknown}` stands alone, expected it in the table `sampling`"),
                format!(
                    "write `sampling = {{ {unknown} = {} }}`",
                    value.unwrap_or_default()
                ),
            ))
        }
        None if unknown == "sampling" => Some((
            "`sampling` is for `provider = \"local\"`, and this model has no provider".to_owned(),
            "write `provider = \"local\"` if it runs on this machine".to_owned(),
        )),
        Some("openai") if is_setting || unknown == "sampling" => Some((
            format!("`{unknown}` is for `provider = \"local\"`, and this model is a server's"),
            "what plugins do not ask for goes into `extra_body`, in the server's own names, such as \
             `extra_body = { top_k = 40 }`"
                .to_owned(),
        )),
        _ => None,
    }
}

fn sampling_of(table: &Table<'_>) -> Sampling {
    table.refuse_unknown();
    let share = |name, zero| {
        table.number(name, zero).filter(|number| {
            if *number > 1.0 {
                let message = format!("`{name}` is {number}, expected at most 1");
                table.bad_value(name, message);
            }
            *number <= 1.0
        })
    };
    Sampling {
        temperature: table.number("temperature", Zero::Allowed),
        top_p: share("top_p", Zero::Refused),
        top_k: table.whole32("top_k", 1),
        min_p: share("min_p", Zero::Allowed),
        repetition_penalty: table.number("repetition_penalty", Zero::Refused),
    }
}

fn openai(table: &Table<'_>, secrets: &[Secret]) -> Option<OpenAi> {
    let model = table.string("model");
    let base_url = base_url(table);
    let api_key_env = variable(table, "api_key_env");
    let key_was_written = secrets.iter().any(|secret| {
        let below = secret.path.strip_prefix(&table.path);
        below.is_some_and(|below| below.starts_with('.'))
    });
    let own_server = base_url.as_deref() == Some(OPENAI);
    if own_server && !table.has("api_key_env") && !key_was_written {
        table.require(&["api_key_env"]);
    }
    let endpoint = match table.string("endpoint") {
        None | Some("chat") => Endpoint::Chat,
        Some("completions") => Endpoint::Completions,
        Some(other) => {
            let help = choice(other, ["chat", "completions"].into_iter());
            table.problem("endpoint", format!("there is no endpoint `{other}`"), help);
            Endpoint::Chat
        }
    };
    let unsupported = table
        .strings("unsupported")
        .into_iter()
        .filter_map(|(path, name)| {
            let field = Field::ALL.into_iter().find(|field| field.name() == name);
            if field.is_none() {
                let help = choice(name, Field::ALL.iter().map(|field| field.name()));
                table.problem(&path, format!("there is no request field `{name}`"), help);
            }
            field
        })
        .collect();
    let extra_body = extra_body(table);
    let timeout = table.duration("timeout");
    let max_attempts = table.whole32("max_attempts", 1).unwrap_or(8);
    let requests_per_minute = table.whole32("requests_per_minute", 1);
    let tokens_per_minute = table.whole32("tokens_per_minute", 1);
    Some(OpenAi {
        model: model?.to_owned(),
        base_url: base_url?,
        api_key_env,
        endpoint,
        timeout: timeout.unwrap_or(std::time::Duration::from_secs(120)),
        max_attempts,
        requests_per_minute,
        tokens_per_minute,
        unsupported,
        extra_body,
    })
}

fn base_url(table: &Table<'_>) -> Option<String> {
    if !table.has("base_url") {
        return Some(OPENAI.to_owned());
    }
    let written = table.string("base_url")?;
    let url = written.trim_end_matches('/');
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"));
    if rest.is_none_or(|rest| rest.is_empty() || rest.contains(char::is_whitespace)) {
        table.bad_value(
            "base_url",
            format!("`base_url` is {written:?}, expected an address that begins with http:// or https://"),
        );
        return None;
    }
    for tail in ["/chat/completions", "/completions"] {
        if let Some(base) = url.strip_suffix(tail) {
            table.problem(
                "base_url",
                format!("`base_url` ends with `{tail}`, which is added to it"),
                format!("write `base_url = \"{base}\"`"),
            );
            return None;
        }
    }
    Some(url.to_owned())
}

fn extra_body(table: &Table<'_>) -> serde_json::Map<String, serde_json::Value> {
    let Some(serde_json::Value::Object(fields)) = table.json("extra_body") else {
        return serde_json::Map::new();
    };
    for name in ["model", "messages", "prompt", "stream", "n"] {
        if fields.contains_key(name) {
            table.problem(
                &format!("extra_body.{name}"),
                format!("`extra_body` cannot set `{name}`: every request sets it itself"),
                format!("take `{name}` out of `extra_body`"),
            );
        }
    }
    fields
}

fn price(table: &Table<'_>) -> Option<Price> {
    table.refuse_unknown();
    table.require(&["input", "output", "as_of"]);
    let input = table.number("input", Zero::Allowed);
    let output = table.number("output", Zero::Allowed);
    let as_of = match table.get("as_of").map(|node| &node.value) {
        Some(Value::Date(date)) => Some(date.as_str()),
        _ => table.string("as_of"),
    };
    let as_of = as_of.filter(|date| {
        let sound = is_date(date);
        if !sound {
            let message = format!("`as_of` is {date:?}, expected a date, YYYY-MM-DD");
            table.bad_value("as_of", message);
        }
        sound
    });
    Some(Price {
        input: input?,
        output: output?,
        as_of: as_of?.to_owned(),
    })
}

/// TOML's own dates are those of RFC 3339.
fn is_date(text: &str) -> bool {
    text.parse::<toml::value::Datetime>()
        .is_ok_and(|date| date.date.is_some() && date.time.is_none() && date.offset.is_none())
}

fn local(table: &Table<'_>) -> Option<Local> {
    let sampling = table.table("sampling", SAMPLING);
    let sampling = sampling.map_or_else(Sampling::default, |table| sampling_of(&table));
    let model = local_source(table)?;
    Some(Local { model, sampling })
}

/// Where a local model comes from.
fn local_source(table: &Table<'_>) -> Option<String> {
    let written = table.string("model")?;
    if let Some(name) = written.strip_prefix("embedded:") {
        if !EMBEDDED.contains(&name) {
            let known = EMBEDDED.map(|name| format!("write `model = \"embedded:{name}\"`"));
            let known = known.join(", or ");
            let message = format!("there is no embedded model `{name}`");
            table.problem("model", message, known);
            return None;
        }
        return Some(written.to_owned());
    }
    if let Some(name) = written.strip_prefix("hf:") {
        if !is_hub_name(name) {
            let message = format!(
                "`hf:` is followed by `{name}`, expected OWNER/NAME or OWNER/NAME@REVISION"
            );
            table.problem(
                "model",
                message,
                "write `model = \"hf:huggyllama/llama-7b\"`",
            );
            return None;
        }
        return Some(written.to_owned());
    }
    let path = beside_manifest(table, written);
    if path.exists() {
        return Some(path.display().to_string());
    }
    let help = if is_hub_name(written) && !written.ends_with(".gguf") {
        format!("write `model = \"hf:{written}\"` for the model of that name on Hugging Face's hub")
    } else {
        "write the path of a Hugging Face folder or a GGUF file, relative to the manifest's folder; \
         or `hf:OWNER/NAME`; or `embedded:smollm2-135m-instruct`"
            .to_owned()
    };
    table.problem(
        "model",
        format!("there is no file or folder {}", path.display()),
        help,
    );
    None
}

/// `OWNER/NAME` in the letters that the hub allows, and a revision after `@` if there is one.
fn is_hub_name(text: &str) -> bool {
    let part = |part: &str| {
        !["", ".", ".."].contains(&part)
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    let (name, revision) = match text.split_once('@') {
        Some((name, revision)) => (name, Some(revision)),
        None => (text, None),
    };
    let parts = name.split_once('/');
    parts.is_some_and(|(owner, name)| part(owner) && part(name))
        && revision.is_none_or(|revision| !revision.is_empty())
}

/// The roles of a recipe.
pub(super) struct Roles {
    /// Those whose models are sound, for the recipe.
    pub names: BTreeMap<String, String>,
    /// Those that the manifest writes, sound or not: what is wrong with a model is said once.
    pub written: BTreeSet<&'static str>,
}

impl Roles {
    /// What plugins may be granted.
    pub(super) fn grantable(&self) -> Vec<&'static str> {
        let mut roles: Vec<&'static str> = self.written.iter().copied().collect();
        if self.written.contains("student") {
            roles.push("student.base");
        }
        roles
    }
}

/// Reads `[roles]` against the models that the manifest writes.
pub(super) fn roles(root: &Table<'_>, models: &BTreeMap<String, Model>) -> Roles {
    let mut roles = Roles {
        names: BTreeMap::new(),
        written: BTreeSet::new(),
    };
    let Some(table) = root.table("roles", ROLES) else {
        return roles;
    };
    let derived = "`student.base` is the student before training; it follows from `student`";
    table.refuse_unknown_unless(|unknown| {
        (unknown == "student.base").then(|| (derived.to_owned(), "take this line out".to_owned()))
    });
    let written_models: Vec<&str> = root
        .get("models")
        .and_then(|node| node.table())
        .into_iter()
        .flat_map(|entries| entries.keys().map(String::as_str))
        .collect();
    for role in ["teacher", "judge", "student"] {
        let Some(node) = table.get(role) else {
            continue;
        };
        roles.written.insert(role);
        if role == "student" && node.find("base").is_some() {
            let help = "write `student = \"NAME\"` alone";
            table.problem("student.base", derived, help);
            continue;
        }
        let Some(name) = table.string(role) else {
            continue;
        };
        if !written_models.contains(&name) {
            let help = match written_models.as_slice() {
                [] => format!("write `[models.{name}]` and under it `provider` and `model`"),
                known => choice(name, known.iter().copied()),
            };
            let message =
                format!("`{role}` is the model `{name}`, but there is no `[models.{name}]`");
            table.problem(role, message, help);
            continue;
        }
        let Some(model) = models.get(name) else {
            continue;
        };
        if role == "student" && !matches!(model.provider, Provider::Local(_)) {
            let message = format!(
                "the student must be a model that runs here, and `{name}` is behind a server"
            );
            let help = "name a `[models.NAME]` with `provider = \"local\"`; a recipe without \
                        `[trainer]` needs no student";
            table.problem(role, message, help);
            continue;
        }
        roles.names.insert(role.to_owned(), name.to_owned());
    }
    roles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_days_of_the_calendar() {
        assert!(is_date("2026-01-31"));
        for bad in [
            "2026-02-30",
            "31.01.2026",
            "2026-1-31",
            "2026-01-31T10:00:00Z",
            "today",
        ] {
            assert!(!is_date(bad), "{bad}");
        }
    }
}
