//! Everything that can be known wrong before work begins, found before work begins.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use pacos_plugin::{Severity, Task};
use sha2::{Digest, Sha256};

use crate::{
    manifest::{self, Model, PluginSource, Problem, Problems, Provider, Recipe, Seeds},
    models::{OpenAiProvider, Served},
    plugin::{Loaded, Stage},
    stages::{models::Models, run::roles_of, seeds},
};

/// The seed tasks inside the binary.
const BUNDLED_SEEDS: &str = include_str!("../../../manifests/seeds/tasks.jsonl");
/// The evaluation tasks inside the binary.
const BUNDLED_EVALUATION: &str = include_str!("../../../manifests/evaluation/tasks.jsonl");

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

/// Loads and checks everything that a recipe names, short of asking or opening a model.
///
/// # Errors
/// All problems at once, each at its line of the manifest.
pub async fn prepare(recipe: Recipe) -> Result<Prepared, Problems> {
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
        &mut problems,
    )
    .await;
    let mut filters = Vec::new();
    for filter in &recipe.filters {
        filters.extend(plugin(&recipe, filter, Stage::Filter, &mut problems).await);
    }
    let mut evaluators = Vec::new();
    for evaluator in &recipe.evaluators {
        evaluators.extend(plugin(&recipe, evaluator, Stage::Evaluator, &mut problems).await);
    }
    let mut remote = Vec::new();
    for model in used_models(&recipe) {
        remote.extend(remote_model(&recipe, model, &mut problems));
    }
    match generator {
        Some(generator) if !problems.has_errors() => {
            let recipe = Arc::new(recipe);
            Ok(Prepared {
                models: Models::new(recipe.clone(), remote),
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
    problems: &mut Problems,
) -> Option<Loaded> {
    let at = |key: &str, message: String| {
        Problem::at(&recipe.document, format!("{}.{key}", plugin.path), message)
    };
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
    for wanted in &loaded.description.capabilities {
        if !plugin.grant.contains(wanted) {
            problems.push(
                at(
                    "grant",
                    format!("{} wants the capability `{wanted}`", loaded.title()),
                )
                .help(format!("grant = [\"{wanted}\"]")),
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
        Some(variable) => match std::env::var(variable) {
            Ok(key) if !key.trim().is_empty() => Some(key),
            _ => {
                problems.push(
                    Problem::at(
                        &recipe.document,
                        format!("{table}.api_key_env"),
                        format!("the environment variable {variable} is not set"),
                    )
                    .help(format!("export {variable}=YOUR_KEY, or another model: manifests/local.toml needs no key")),
                );
                return None;
            }
        },
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
    crate::plugin::hex(&Sha256::digest(&text))
}

/// Names a plugin's source for people.
#[must_use]
pub fn source_name(source: &PluginSource) -> String {
    match source {
        PluginSource::Bundled(name) => format!("{name} (bundled)"),
        PluginSource::File(path) => Path::display(path).to_string(),
    }
}
