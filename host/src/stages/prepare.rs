//! Everything that can be known wrong before work begins, found before work begins.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use pacos_plugin::{Severity, Task};
use sha2::{Digest, Sha256};

use crate::{
    manifest::{self, Model, PluginSource, Problem, Problems, Provider, Recipe, Seeds},
    models::{OpenAiProvider, Served},
    plugin::{Loaded, Stage, capability, source},
    servers::{Server, Servers},
    stages::{FetchProgress, models::Models, run::roles_of, seeds},
};

/// The seed tasks inside the binary.
pub(super) const BUNDLED_SEEDS: &str = include_str!("../../../manifests/seeds/tasks.jsonl");
/// The evaluation tasks inside the binary.
pub(super) const BUNDLED_EVALUATION: &str =
    include_str!("../../../manifests/evaluation/tasks.jsonl");

/// The seed tasks inside the binary.
#[must_use]
pub fn bundled_seeds() -> Vec<Task> {
    seeds::parse(BUNDLED_SEEDS, "seeds").expect("the bundled seeds are tasks")
}

/// A recipe whose parts have all been found, checked and loaded.
pub struct Prepared {
    /// The recipe.
    pub recipe: Arc<Recipe>,
    /// Its seed tasks.
    pub seeds: Vec<Task>,
    /// Its evaluation tasks, if it evaluates.
    pub evaluation: Vec<Task>,
    /// Its generator.
    pub generator: Loaded,
    /// Its filters, in order.
    pub filters: Vec<Loaded>,
    /// Its evaluators, in order.
    pub evaluators: Vec<Loaded>,
    /// Its models.
    pub models: Models,
}

/// Loads and checks everything that a recipe names, short of asking or opening a model. Plugins
/// that are on another machine and not yet on this one are fetched.
///
/// # Errors
/// All problems at once, each at its line of the manifest.
pub async fn prepare(recipe: Recipe) -> Result<Prepared, Problems> {
    prepare_with(recipe, &mut |_| {}).await
}

/// [`prepare`], with somebody who is told how plugins come.
///
/// # Errors
/// As [`prepare`].
pub async fn prepare_with(
    recipe: Recipe,
    fetching: FetchProgress<'_>,
) -> Result<Prepared, Problems> {
    let mut problems = Problems::new();
    let seeds = tasks(
        &recipe,
        &recipe.seeds,
        "seeds",
        BUNDLED_SEEDS,
        &mut problems,
    );
    let evaluation = recipe.evaluation.as_ref().map_or(Vec::new(), |evaluation| {
        tasks(
            &recipe,
            &evaluation.tasks,
            "evaluation",
            BUNDLED_EVALUATION,
            &mut problems,
        )
    });
    for (number, task) in (1..).zip(&evaluation) {
        if task.output.trim().is_empty() {
            problems.push(Problem::at(
                &recipe.document,
                "evaluation".to_owned(),
                format!(
                    "evaluation task {number}, \"{:.60}\", has no reference answer to compare with: write its \"output\"",
                    task.instruction
                ),
            ));
        }
    }
    let generator = plugin(
        &recipe,
        &recipe.generator.plugin,
        Stage::Generator,
        fetching,
        &mut problems,
    )
    .await;
    let mut filters = Vec::new();
    for filter in &recipe.filters {
        filters.extend(plugin(&recipe, filter, Stage::Filter, fetching, &mut problems).await);
    }
    let mut evaluators = Vec::new();
    for evaluator in &recipe.evaluators {
        let loaded = plugin(
            &recipe,
            evaluator,
            Stage::Evaluator,
            fetching,
            &mut problems,
        );
        evaluators.extend(loaded.await);
    }
    let mut remote = Vec::new();
    for model in used_models(&recipe) {
        remote.extend(remote_model(&recipe, model, &mut problems));
    }
    let servers = servers(&recipe, &mut problems);
    match (generator, servers) {
        (Some(generator), Some(servers)) if !problems.has_errors() => {
            let recipe = Arc::new(recipe);
            Ok(Prepared {
                models: Models::new(recipe.clone(), remote, servers),
                recipe,
                seeds,
                evaluation,
                generator,
                filters,
                evaluators,
            })
        }
        _ => Err(problems),
    }
}

fn tasks(
    recipe: &Recipe,
    source: &Seeds,
    table: &str,
    bundled: &str,
    problems: &mut Problems,
) -> Vec<Task> {
    let loaded = match source {
        Seeds::Bundled => seeds::parse(bundled, table),
        Seeds::File(path) => seeds::load(path),
    };
    loaded.unwrap_or_else(|error| {
        problems.push(Problem::at(
            &recipe.document,
            format!("{table}.file"),
            error.to_string(),
        ));
        Vec::new()
    })
}

/// Loads one plugin and has it look at its configuration.
async fn plugin(
    recipe: &Recipe,
    plugin: &manifest::Plugin,
    stage: Stage,
    fetching: FetchProgress<'_>,
    problems: &mut Problems,
) -> Option<Loaded> {
    let at = |key: &str, message: String| {
        Problem::at(&recipe.document, format!("{}.{key}", plugin.path), message)
    };
    if let Err(error) = source::bring(plugin, fetching).await {
        let mut problem = at("plugin", error.to_string());
        problem.help = error.line_to_write().map(|line| format!("write `{line}`"));
        problems.push(problem);
        return None;
    }
    let loaded = match Loaded::load(plugin).await {
        Ok(loaded) => loaded,
        Err(error) => {
            problems.push(at("plugin", error.to_string()));
            return None;
        }
    };
    if loaded.stage != stage {
        problems.push(at(
            "plugin",
            format!("{} is a {}, not a {stage}", loaded.title(), loaded.stage),
        ));
    }
    let declared = &loaded.description.capabilities;
    for wanted in declared {
        let mut granted = plugin.grant.iter();
        if !granted.any(|granted| capability::covers(wanted, granted)) {
            problems.push(
                at(
                    "grant",
                    format!("{} wants the capability `{wanted}`", loaded.title()),
                )
                .help(capability::grant(wanted)),
            );
        }
    }
    for granted in &plugin.grant {
        let mut wanted = declared.iter();
        if !wanted.any(|wanted| capability::covers(wanted, granted)) {
            problems.push(
                at(
                    "grant",
                    format!(
                        "{} does not want the capability `{granted}`",
                        loaded.title()
                    ),
                )
                .help(match declared.as_slice() {
                    [] => "it wants none: take `grant` out".to_owned(),
                    wanted => format!("it wants {}", wanted.join(", ")),
                }),
            );
        }
    }
    match loaded.diagnose().await {
        Ok(diagnostics) => {
            let table = format!("{}.config", plugin.path);
            for diagnostic in diagnostics {
                let problem = Problem::from_diagnostic(&recipe.document, &table, &diagnostic);
                if diagnostic.severity == Severity::Warning {
                    tracing::warn!("{}: {}", table, diagnostic.message);
                }
                problems.push(problem);
            }
        }
        Err(error) => problems.push(at(
            "config",
            format!("{} broke over its configuration: {error}", loaded.title()),
        )),
    }
    Some(loaded)
}

/// The models that some role names.
fn used_models(recipe: &Recipe) -> impl Iterator<Item = &Model> {
    recipe
        .models
        .values()
        .filter(|model| recipe.roles.values().any(|name| *name == model.name))
}

fn remote_model(recipe: &Recipe, model: &Model, problems: &mut Problems) -> Option<Served> {
    let Provider::OpenAi(settings) = &model.provider else {
        return None;
    };
    let table = format!("models.{}", model.name);
    let key = match &settings.api_key_env {
        None => None,
        Some(variable) => {
            let instead = ", or another model: manifests/local.toml needs no key";
            Some(key(recipe, &table, variable, instead, problems)?)
        }
    };
    match OpenAiProvider::new(model, settings, key) {
        Ok(provider) => Some(Served {
            name: model.name.clone(),
            provider: Arc::new(provider),
            price: model.price.clone(),
            max_concurrency: model.max_concurrency,
            max_attempts: settings.max_attempts,
            requests_per_minute: settings.requests_per_minute,
            tokens_per_minute: settings.tokens_per_minute,
        }),
        Err(error) => {
            problems.push(Problem::at(&recipe.document, table, error.to_string()));
            None
        }
    }
}

/// What the recipe says of servers, with their keys.
fn servers(recipe: &Recipe, problems: &mut Problems) -> Option<Servers> {
    let mut known = BTreeMap::new();
    for (number, server) in recipe.servers.iter().enumerate() {
        let table = format!("servers.{number}");
        let mut found = Server {
            private: server.private,
            key: None,
        };
        if let Some(variable) = &server.api_key_env {
            let key = key(recipe, &table, variable, "", problems)?;
            match found.with_key(&key) {
                Ok(with_key) => found = with_key,
                Err(_) => {
                    let path = format!("{table}.api_key_env");
                    let message = format!(
                        "the key in {variable} holds characters that cannot stand in an HTTP header"
                    );
                    let problem = Problem::at(&recipe.document, path, message);
                    problems.push(problem.help("set it again, without line breaks"));
                    return None;
                }
            }
        }
        known.insert(server.name.clone(), found);
    }
    match Servers::new(known) {
        Ok(servers) => Some(servers),
        Err(error) => {
            let message = format!("the HTTP client does not start: {error}");
            problems.push(Problem::of_file(recipe.document.name(), message));
            None
        }
    }
}

/// The key that a table's `api_key_env` names.
fn key(
    recipe: &Recipe,
    table: &str,
    variable: &str,
    instead: &str,
    problems: &mut Problems,
) -> Option<String> {
    match std::env::var(variable) {
        Ok(key) if !key.trim().is_empty() => Some(key),
        _ => {
            let path = format!("{table}.api_key_env");
            let message = format!("the environment variable {variable} is not set");
            let problem = Problem::at(&recipe.document, path, message);
            problems.push(problem.help(format!("export {variable}=YOUR_KEY{instead}")));
            None
        }
    }
}

impl Prepared {
    /// Asks every server whether it is there and knows its model. Spends nothing.
    ///
    /// # Errors
    /// All that do not, each at its line of the manifest.
    pub async fn probe(&self) -> Result<(), Problems> {
        let mut problems = Problems::new();
        for served in self.models.remote() {
            if let Err(failure) = served.provider.probe().await {
                let path = format!("models.{}", served.name);
                problems.push(Problem::at(
                    &self.recipe.document,
                    path,
                    failure.to_string(),
                ));
            }
        }
        problems.into_result()
    }

    /// The plugins that make the dataset.
    pub(super) fn generation(&self) -> impl Iterator<Item = &Loaded> {
        std::iter::once(&self.generator).chain(&self.filters)
    }

    /// What the dataset depends on: another value of any of these makes another run. `identity`
    /// says who exactly the model behind a role is, where that is known.
    pub(super) fn generation_fingerprint<'a>(
        &self,
        identity: impl Fn(&str) -> Option<&'a str>,
    ) -> BTreeMap<String, String> {
        let recipe = &self.recipe;
        let mut parts = BTreeMap::from([
            ("seed".to_owned(), recipe.seed.to_string()),
            ("window".to_owned(), recipe.generator.window.to_string()),
            ("seeds".to_owned(), hash(&self.seeds)),
        ]);
        for plugin in self.generation() {
            let path = &plugin.recipe.path;
            parts.insert(format!("{path}.plugin"), plugin.title());
            parts.insert(format!("{path}.sha256"), plugin.sha256.clone());
            parts.insert(format!("{path}.config"), plugin.recipe.config.to_string());
        }
        for role in roles_of(self.generation()) {
            if let Some(identity) = identity(&role) {
                parts.insert(format!("roles.{role}"), identity.to_owned());
            }
        }
        parts
    }
}

pub(super) fn hash(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_vec(value).unwrap_or_default();
    pacos_engine::digest::hex(&Sha256::digest(&text))
}

/// Names a plugin's source for people.
#[must_use]
pub fn source_name(source: &PluginSource) -> String {
    match source {
        PluginSource::Bundled(name) => format!("{name} (bundled)"),
        PluginSource::File(path) => Path::display(path).to_string(),
        PluginSource::Remote(remote) => remote.to_string(),
    }
}
