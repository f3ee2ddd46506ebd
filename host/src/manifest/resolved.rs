//! A recipe written out in full: every default filled in, every override applied.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{
    Evaluation, Generator, Limits, Model, Plugin, PluginSource, Provider, Recipe, Seeds, Server,
    duration,
};

impl Recipe {
    /// The recipe in the manifest's own words, with every default filled in: for fingerprints,
    /// which may take single tables of it, and for the report. Paths are relative to the manifest's
    /// folder where they lie below it, so that a moved project is the same recipe. Keys stand in a
    /// fixed order; what is absent and has no default is left out.
    pub fn resolved(&self) -> Value {
        let mut recipe = Map::new();
        recipe.insert("name".into(), self.name.clone().into());
        recipe.insert("seed".into(), self.seed.into());
        recipe.insert("seeds".into(), tasks(self, &self.seeds).into());
        let models: Map<_, _> = self
            .models
            .values()
            .map(|one| (one.name.clone(), model(self, one).into()))
            .collect();
        recipe.insert("models".into(), models.into());
        recipe.insert("roles".into(), json!(self.roles));
        recipe.insert("generator".into(), generator(self, &self.generator).into());
        recipe.insert("filters".into(), plugins(self, &self.filters));
        recipe.insert("dataset".into(), without_nulls(json!(self.dataset)));
        put(&mut recipe, "trainer", self.trainer.as_ref().map(sorted));
        let evaluation = self.evaluation.as_ref();
        put(
            &mut recipe,
            "evaluation",
            evaluation.map(|it| evaluation_table(self, it)),
        );
        recipe.insert("evaluators".into(), plugins(self, &self.evaluators));
        if !self.servers.is_empty() {
            recipe.insert("servers".into(), self.servers.iter().map(server).collect());
        }
        recipe.insert("budget".into(), without_nulls(json!(self.budget)));
        recipe.into()
    }

    /// [`Recipe::resolved`] for others to read: of a path from the root of this machine only the
    /// last part is left, as it says nothing to them and too much about its owner.
    pub fn published(&self) -> Value {
        let mut recipe = self.resolved();
        for stage in ["seeds", "evaluation", "generator"] {
            shorten(&mut recipe[stage]);
        }
        for stages in ["filters", "evaluators", "models"] {
            match &mut recipe[stages] {
                Value::Array(tables) => tables.iter_mut().for_each(shorten),
                Value::Object(tables) => tables.values_mut().for_each(shorten),
                _ => {}
            }
        }
        without_nulls(recipe)
    }

    /// [`Recipe::published`] as TOML.
    pub fn published_toml(&self) -> String {
        toml::to_string(&self.published())
            .expect("a resolved recipe holds only what TOML can: it was read from TOML")
    }

    /// [`Recipe::resolved`] as TOML: a manifest that gives the same recipe.
    pub fn toml(&self) -> String {
        toml::to_string(&self.resolved())
            .expect("a resolved recipe holds only what TOML can: it was read from TOML")
    }
}

/// Leaves the last part of the path that a table of the manifest names.
fn shorten(table: &mut Value) {
    for key in ["file", "model", "plugin"] {
        let Some(Value::String(text)) = table.get_mut(key) else {
            continue;
        };
        let path = Path::new(text.as_str());
        if let (true, Some(name)) = (path.has_root(), path.file_name()) {
            *text = name.to_string_lossy().into_owned();
        }
    }
}

fn put(table: &mut Map<String, Value>, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        table.insert(key.into(), value.into());
    }
}

fn tasks(recipe: &Recipe, tasks: &Seeds) -> Map<String, Value> {
    let mut table = Map::new();
    match tasks {
        Seeds::Bundled => table.insert("bundled".into(), true.into()),
        Seeds::File(path) => table.insert("file".into(), written(recipe, path).into()),
    };
    table
}

/// A path as the manifest would write it.
fn written(recipe: &Recipe, path: &Path) -> String {
    let folder = recipe.document.folder();
    let short = path.strip_prefix(folder).unwrap_or(path);
    // On every system alike; the systems that write \ read / as well.
    short.display().to_string().replace('\\', "/")
}

fn model(recipe: &Recipe, model: &Model) -> Map<String, Value> {
    let mut table = Map::new();
    match &model.provider {
        Provider::OpenAi(openai) => {
            table.insert("provider".into(), "openai".into());
            table.insert("model".into(), openai.model.clone().into());
            table.insert("base_url".into(), openai.base_url.clone().into());
            put(&mut table, "api_key_env", openai.api_key_env.clone());
            table.insert("endpoint".into(), json!(openai.endpoint));
            table.insert("timeout".into(), duration::show(openai.timeout).into());
            table.insert("max_attempts".into(), openai.max_attempts.into());
            put(
                &mut table,
                "requests_per_minute",
                openai.requests_per_minute,
            );
            put(&mut table, "tokens_per_minute", openai.tokens_per_minute);
            table.insert("unsupported".into(), json!(openai.unsupported));
            let extra_body = Value::Object(openai.extra_body.clone());
            table.insert("extra_body".into(), sorted(&extra_body));
        }
        Provider::Local(local) => {
            table.insert("provider".into(), "local".into());
            let hub_or_embedded =
                local.model.starts_with("hf:") || local.model.starts_with("embedded:");
            let name = match hub_or_embedded {
                true => local.model.clone(),
                false => written(recipe, Path::new(&local.model)),
            };
            table.insert("model".into(), name.into());
            put(&mut table, "sampling", local.sampling.written());
        }
    }
    put(
        &mut table,
        "price",
        model.price.as_ref().map(|price| json!(price)),
    );
    table.insert("max_concurrency".into(), model.max_concurrency.into());
    put(&mut table, "context_length", model.context_length);
    put(&mut table, "terms", model.terms.clone());
    table
}

fn server(server: &Server) -> Value {
    let mut table = Map::new();
    table.insert("name".into(), server.name.to_string().into());
    put(&mut table, "api_key_env", server.api_key_env.clone());
    table.insert("private".into(), server.private.into());
    table.into()
}

fn generator(recipe: &Recipe, generator: &Generator) -> Map<String, Value> {
    let mut table = plugin(recipe, &generator.plugin);
    table.insert("window".into(), generator.window.into());
    table
}

fn plugins(recipe: &Recipe, plugins: &[Plugin]) -> Value {
    plugins.iter().map(|one| plugin(recipe, one)).collect()
}

fn plugin(recipe: &Recipe, plugin: &Plugin) -> Map<String, Value> {
    let mut table = Map::new();
    let source = match &plugin.source {
        PluginSource::Bundled(name) => name.clone(),
        PluginSource::File(path) => {
            let path = written(recipe, path);
            // `./` tells a file beside the manifest from a bundled plugin's name.
            if path.contains('/') {
                path
            } else {
                format!("./{path}")
            }
        }
        PluginSource::Remote(remote) => remote.to_string(),
    };
    table.insert("plugin".into(), source.into());
    put(&mut table, "sha256", plugin.sha256.clone());
    put(&mut table, "trust", plugin.native.then_some("native"));
    table.insert("grant".into(), json!(plugin.grant));
    table.insert(
        "limits".into(),
        limits(&plugin.limits, plugin.native).into(),
    );
    table.insert("config".into(), sorted(&plugin.config));
    table
}

fn limits(limits: &Limits, native: bool) -> Map<String, Value> {
    let mut table = Map::new();
    if !native {
        table.insert("memory_mb".into(), (limits.memory_bytes >> 20).into());
        table.insert(
            "all_memory_mb".into(),
            (limits.all_memory_bytes >> 20).into(),
        );
        table.insert(
            "compute_seconds".into(),
            limits.compute.as_secs_f64().into(),
        );
        table.insert("output_mb".into(), (limits.output_bytes >> 20).into());
        table.insert("table_elements".into(), limits.table_elements.into());
    }
    put(&mut table, "requests", limits.requests);
    put(&mut table, "tokens", limits.tokens);
    put(&mut table, "usd", limits.usd);
    table
}

fn evaluation_table(recipe: &Recipe, evaluation: &Evaluation) -> Map<String, Value> {
    let mut table = tasks(recipe, &evaluation.tasks);
    put(&mut table, "limit", evaluation.limit);
    table.insert("max_tokens".into(), evaluation.max_tokens.into());
    table
}

/// The same value whatever order its keys were written in.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(key, _)| *key);
            fields
                .into_iter()
                .map(|(key, value)| (key.clone(), sorted(value)))
                .collect::<Map<_, _>>()
                .into()
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

fn without_nulls(mut value: Value) -> Value {
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    value
}
