//! From a document to a checked recipe, section by section.

mod models;
mod plugins;
mod servers;

use std::{collections::BTreeMap, path::PathBuf};

use super::{
    Budget, Checks, Dataset, Document, Evaluation, Model, Problem, Problems, Provider, Recipe,
    Seeds,
    reader::{Key, Reader, Table, Zero, key, long_key},
    secrets::Secret,
    suggest::nearest,
    tree::Value,
};

const RECIPE: &[Key] = &[
    key("name", "\"my recipe\""),
    key("seed", "42"),
    long_key(
        "seeds",
        "`[seeds]` and under it `bundled = true` or `file = \"seeds.jsonl\"`",
    ),
    long_key(
        "models",
        "`[models.NAME]` and under it `provider` and `model`",
    ),
    long_key("roles", "`[roles]` and under it `teacher = \"NAME\"`"),
    long_key(
        "generator",
        "`[generator]` and under it `plugin = \"self-instruct\"`",
    ),
    long_key(
        "filters",
        "`[[filters]]` and under it `plugin = \"rouge-l\"`, once for each filter",
    ),
    long_key("dataset", "`[dataset]` and under it `target = 64`"),
    long_key("trainer", "`[trainer]` and under it `epochs = 3`"),
    long_key("evaluation", "`[evaluation]` and under it `bundled = true`"),
    long_key(
        "evaluators",
        "`[[evaluators]]` and under it `plugin = \"pairwise-judge\"`, once for each evaluator",
    ),
    long_key(
        "servers",
        "`[[servers]]` and under it `name = \"wiki.example.com\"`, once for each server of which \
         there is more to say than its name",
    ),
    long_key("budget", "`[budget]` and under it `usd = 20.0`"),
];

const SEEDS: &[Key] = &[key("bundled", "true"), key("file", "\"seeds.jsonl\"")];

const DATASET: &[Key] = &[
    key("target", "64"),
    key("max_units", "1000"),
    key("patience", "50"),
    key("max_quarantined", "20"),
    key("license", "\"cc-by-nc-4.0\""),
    key("expected_yield", "0.5"),
];

const EVALUATION: &[Key] = &[
    key("bundled", "true"),
    key("file", "\"tasks.jsonl\""),
    key("limit", "24"),
    key("max_tokens", "256"),
];

const BUDGET: &[Key] = &[
    key("usd", "20.0"),
    key("tokens", "5_000_000"),
    key("requests", "10_000"),
];

/// The name of an environment variable.
fn variable(table: &Table<'_>, key: &str) -> Option<String> {
    let name = table.string(key)?;
    let sound = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit());
    if !sound {
        let message = format!("`{key}` is {name:?}, expected the name of an environment variable");
        table.bad_value(key, message);
    }
    sound.then(|| name.to_owned())
}

/// Checks all of a document.
pub(super) fn recipe(
    document: &Document,
    secrets: &[Secret],
    checks: &Checks<'_>,
) -> Result<Recipe, Problems> {
    let reader = Reader::new(document);
    report_secrets(&reader, secrets);
    let recipe = sections(&reader, secrets, checks);
    let mut problems: Problems = reader
        .into_problems()
        .into_iter()
        .filter(|problem| !is_echo_of_secret(document, problem, secrets))
        .collect();
    match recipe {
        Some(recipe) if problems.is_empty() => Ok(recipe),
        _ => {
            if problems.is_empty() {
                problems.push(Problem::of_file(
                    document.name(),
                    "the manifest is incomplete",
                ));
            }
            Err(problems)
        }
    }
}

/// `None` only where something was reported.
fn sections(reader: &Reader<'_>, secrets: &[Secret], checks: &Checks<'_>) -> Option<Recipe> {
    let document = reader.document;
    let root = Table::root(reader, RECIPE)?;
    root.refuse_unknown();
    root.require(&["seeds", "generator", "dataset"]);

    let file_name = PathBuf::from(document.name());
    let name = root.string("name").map_or_else(
        || {
            let stem = file_name.file_stem().unwrap_or_default();
            stem.to_string_lossy().into_owned()
        },
        str::to_owned,
    );
    // TOML's integers end at i64::MAX, and the resolved recipe is TOML again.
    let seed = root.whole("seed", 0, i64::MAX.unsigned_abs()).unwrap_or(42);
    let seeds = root.table("seeds", SEEDS).and_then(|table| {
        table.refuse_unknown();
        tasks(&table)
    });
    let models = models::models(&root, secrets);
    let roles = models::roles(&root, &models);
    let generator = plugins::generator(&root, &roles);
    let filters = plugins::filters(&root, &roles);
    let dataset = root
        .table("dataset", DATASET)
        .and_then(|table| dataset(&table));
    let trainer = trainer(&root, checks);
    let evaluation = root
        .table("evaluation", EVALUATION)
        .map(|table| evaluation(&table));
    let evaluators = plugins::evaluators(&root, &roles);
    let budget = root
        .table("budget", BUDGET)
        .map_or_else(Budget::default, |table| budget(&table));

    if root.has("trainer") && !roles.written.contains("student") {
        let help = "write `student = \"NAME\"` under `[roles]`, NAME being a `[models.NAME]` with \
                    `provider = \"local\"`; or leave `[trainer]` out";
        root.problem("trainer", "`[trainer]` has no student to train", help);
    }
    if root.has("evaluators") && !root.has("evaluation") {
        root.problem(
            "evaluators",
            "`[[evaluators]]` has no `[evaluation]` that says which tasks to judge",
            root.example("evaluation"),
        );
    }
    let plugins = generator.iter().map(|generator| &generator.plugin);
    let plugins = plugins.chain(&filters).chain(&evaluators);
    let servers = servers::servers(&root, plugins.clone());
    let used: Vec<&str> = roles.names.values().map(String::as_str).collect();
    if budget.usd.is_some() {
        require_prices(reader, &models, &used, "[budget]", "usd");
    }
    for plugin in plugins {
        if plugin.limits.usd.is_some() {
            let granted = plugin.grant.iter();
            let used: Vec<&str> = granted
                .filter_map(|capability| capability.strip_prefix("models:"))
                .filter_map(|role| Some(roles.names.get(role)?.as_str()))
                .collect();
            let table = format!("[{}]", plugin.path);
            require_prices(reader, &models, &used, &table, "limits.usd");
        }
    }

    if let (Some(check), true) = (checks.plugin, reader.has_problems()) {
        let plugins = generator.iter().map(|generator| &generator.plugin);
        for plugin in plugins.chain(&filters).chain(&evaluators) {
            plugins::configured(reader, plugin, check);
        }
    }

    Some(Recipe {
        document: document.clone(),
        name,
        seed,
        seeds: seeds?,
        models,
        roles: roles.names,
        generator: generator?,
        filters,
        dataset: dataset?,
        trainer,
        evaluation: match evaluation {
            Some(evaluation) => Some(evaluation?),
            None => None,
        },
        evaluators,
        servers,
        budget,
    })
}

/// `bundled = true` or `file = "PATH"`.
fn tasks(table: &Table<'_>) -> Option<Seeds> {
    let bundled = table.boolean("bundled");
    if table.has("bundled") && table.has("file") && bundled != Some(false) {
        let message = format!("{} has both `bundled` and `file`", table.title());
        table.problem("file", message, "keep one of the two");
        return None;
    }
    if let Some(file) = table.string("file") {
        return existing_file(table, "file", file, "JSON Lines").map(Seeds::File);
    }
    match bundled {
        Some(true) => Some(Seeds::Bundled),
        None if table.has("bundled") || table.has("file") => None,
        _ => {
            let message = format!("{} does not say where its tasks are", table.title());
            let help = format!(
                "write `bundled = true` for the tasks that come with the program, or {}",
                table.example("file").trim_start_matches("write ")
            );
            let span = table.reader.document.locate(&table.path);
            table.reader.report(
                Problem::spanned(table.reader.document, table.below("file"), span, message)
                    .help(help),
            );
            None
        }
    }
}

/// A path relative to the manifest's folder that must lead to a file.
fn existing_file(table: &Table<'_>, name: &str, written: &str, kind: &str) -> Option<PathBuf> {
    let path = beside_manifest(table, written);
    let shown = path.display();
    if path.is_file() {
        return Some(path);
    }
    let help = "paths are relative to the manifest's folder".to_owned();
    if path.is_dir() {
        table.problem(
            name,
            format!("{shown} is a folder, expected a {kind} file"),
            help,
        );
    } else {
        table.problem(name, format!("there is no file {shown}"), help);
    }
    None
}

/// A path of the manifest as seen from the working directory.
fn beside_manifest(table: &Table<'_>, written: &str) -> PathBuf {
    let plain = written.strip_prefix("./").unwrap_or(written);
    table.reader.document.folder().join(plain)
}

fn dataset(table: &Table<'_>) -> Option<Dataset> {
    table.refuse_unknown();
    table.require(&["target"]);
    let most = i64::MAX.unsigned_abs();
    let target = table.whole("target", 1, most);
    let max_units = table.whole("max_units", 1, most);
    let patience = table.whole("patience", 1, most).unwrap_or(50);
    let max_quarantined = table.whole("max_quarantined", 1, most).unwrap_or(20);
    let license = table.string("license").map(str::to_owned);
    let expected_yield = table.number("expected_yield", Zero::Refused);
    Some(Dataset {
        target: target?,
        max_units,
        patience,
        max_quarantined,
        license,
        expected_yield,
    })
}

/// The table as JSON, after whoever owns it has looked at it.
fn trainer(root: &Table<'_>, checks: &Checks<'_>) -> Option<serde_json::Value> {
    let value = root.json("trainer")?;
    if let Some(check) = checks.trainer {
        for diagnostic in check(&value) {
            let document = root.reader.document;
            root.reader
                .report(Problem::from_diagnostic(document, "trainer", &diagnostic));
        }
    }
    Some(value)
}

fn evaluation(table: &Table<'_>) -> Option<Evaluation> {
    table.refuse_unknown();
    let tasks = tasks(table);
    let limit = table.whole32("limit", 1).map(|limit| limit as usize);
    let max_tokens = table.whole32("max_tokens", 1).unwrap_or(256);
    Some(Evaluation {
        tasks: tasks?,
        limit,
        max_tokens,
    })
}

fn budget(table: &Table<'_>) -> Budget {
    table.refuse_unknown();
    let most = i64::MAX.unsigned_abs();
    Budget {
        usd: table.number("usd", Zero::Refused),
        tokens: table.whole("tokens", 1, most),
        requests: table.whole("requests", 1, most),
    }
}

/// A limit in money can only be kept where every request's price is known.
fn require_prices(
    reader: &Reader<'_>,
    models: &BTreeMap<String, Model>,
    used: &[&str],
    table: &str,
    key: &str,
) {
    for model in models.values() {
        let used = used.contains(&model.name.as_str());
        let paid = matches!(model.provider, Provider::OpenAi(_));
        let path = format!("models.{}", model.name);
        let unpriced = reader.document.locate(&format!("{path}.price")).is_none();
        if used && paid && unpriced {
            let message = format!(
                "`{table}` limits `{key}`, but the price of the model `{}` is unknown",
                model.name
            );
            let help = format!(
                "write {} under `[{path}]`, in US dollars for a million tokens (0 for a server \
                 of your own); or limit `{}` instead of `{key}`",
                models::PRICE_EXAMPLE,
                key.replace("usd", "tokens"),
            );
            reader.report(Problem::at(reader.document, path, message).help(help));
        }
    }
}

fn report_secrets(reader: &Reader<'_>, secrets: &[Secret]) {
    for secret in secrets {
        reader.report_place(
            &secret.path,
            secret.place,
            "this looks like a key or a password, which do not belong in a manifest".to_owned(),
            "write `api_key_env = \"OPENAI_API_KEY\"` in the model's table, and set that variable \
             where you run the program; if anyone else has seen this file, revoke it"
                .to_owned(),
        );
    }
}

/// The stars in a key's place are not worth a second problem.
fn is_echo_of_secret(document: &Document, problem: &Problem, secrets: &[Secret]) -> bool {
    let reported = "this looks like a key";
    !problem.message.starts_with(reported)
        && secrets
            .iter()
            .any(|secret| problem.span.as_ref() == Some(&document.span(secret.place)))
}

/// "did you mean `x`?", or all there is to choose from.
fn choice<'a>(found: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let all = known.clone().collect::<Vec<_>>().join(", ");
    match nearest(found, known) {
        Some(meant) => format!("did you mean `{meant}`? There are: {all}"),
        None => format!("there are: {all}"),
    }
}

/// Whether a value is a table, for what is read as an array of them.
fn is_table(value: &Value) -> bool {
    matches!(value, Value::Table(_))
}
