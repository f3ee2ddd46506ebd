//! From a prepared recipe to what it resolved to.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Component, Path, PathBuf},
};

use pacos_engine::digest::hex;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Lock, LockError, LockedModel, LockedPlugin, LockedRecipe, LockedTasks, VERSION};
use crate::{
    dataset::Exported,
    download,
    llama::{FileIdentity, ModelFiles, ModelSource},
    manifest::{Model, PluginSource, Provider, Recipe, Seeds},
    plugin::{Loaded, Stage, source},
    stages::{
        Prepared,
        prepare::{BUNDLED_EVALUATION, BUNDLED_SEEDS},
    },
};

/// Keys of a model's table that say how it is asked and not what it answers, and those that the
/// lock says elsewhere.
const NOT_SETTINGS_OF_MODELS: [&str; 11] = [
    "provider",
    "model",
    "base_url",
    "api_key_env",
    "timeout",
    "max_attempts",
    "requests_per_minute",
    "tokens_per_minute",
    "max_concurrency",
    "price",
    "terms",
];

impl Lock {
    /// What a recipe resolved to, on this machine, now. `dir` is the run's directory, where there
    /// is one.
    ///
    /// # Errors
    /// When tasks or a model's files can no longer be read.
    pub fn of(prepared: &Prepared, dir: Option<&Path>) -> Result<Self, LockError> {
        let recipe = &*prepared.recipe;
        let published = recipe.published();
        let plugins = std::iter::once(&prepared.generator)
            .chain(&prepared.filters)
            .chain(&prepared.evaluators);
        let evaluation = recipe.evaluation.as_ref().map(|evaluation| {
            let count = prepared.evaluation.len();
            let told = &published["evaluation"];
            tasks(&evaluation.tasks, told, BUNDLED_EVALUATION, count)
        });
        Ok(Lock {
            version: VERSION,
            pacos: env!("CARGO_PKG_VERSION").to_owned(),
            contract: version_of(Stage::Filter.interface()).to_owned(),
            recipe: LockedRecipe {
                name: recipe.name.clone(),
                manifest: manifest_from(dir, recipe),
                sha256: sha256(recipe.document.text().as_bytes()),
                seed: recipe.seed,
                overrides: recipe.document.overrides().to_vec(),
                settings: settings(published.clone()),
            },
            seeds: tasks(
                &recipe.seeds,
                &published["seeds"],
                BUNDLED_SEEDS,
                prepared.seeds.len(),
            )?,
            evaluation: evaluation.transpose()?,
            plugins: plugins
                .map(|loaded| (loaded.recipe.path.clone(), plugin(loaded, &published)))
                .collect(),
            models: models(recipe, &published)?,
            dataset: BTreeMap::new(),
        })
    }

    /// Adds the files of a dataset.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn add_dataset(&mut self, exported: &Exported) -> Result<(), LockError> {
        self.dataset = files(&exported.files)?;
        Ok(())
    }
}

/// Files by their names.
pub(super) fn files(paths: &[PathBuf]) -> Result<BTreeMap<String, FileIdentity>, LockError> {
    let identity = |path: &PathBuf| {
        Ok(FileIdentity {
            size: fs::metadata(path)?.len(),
            sha256: Some(download::sha256_of(path)?),
        })
    };
    let named = paths.iter().map(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let file = identity(path).map_err(cannot_read(path))?;
        Ok((name.into_owned(), file))
    });
    named.collect()
}

fn cannot_read(path: &Path) -> impl Fn(io::Error) -> LockError {
    move |source| LockError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn version_of(interface: &str) -> &str {
    interface.split_once('@').map_or("", |(_, version)| version)
}

fn tasks(
    source: &Seeds,
    published: &Value,
    bundled: &str,
    count: usize,
) -> Result<LockedTasks, LockError> {
    let (source, sha256) = match source {
        Seeds::Bundled => ("bundled".to_owned(), sha256(bundled.as_bytes())),
        Seeds::File(path) => (
            published["file"].as_str().unwrap_or_default().to_owned(),
            download::sha256_of(path).map_err(cannot_read(path))?,
        ),
    };
    Ok(LockedTasks {
        source,
        sha256,
        tasks: count,
    })
}

fn plugin(loaded: &Loaded, published: &Value) -> LockedPlugin {
    let table =
        loaded
            .recipe
            .path
            .split('.')
            .fold(published, |table, key| match key.parse::<usize>() {
                Ok(index) => &table[index],
                Err(_) => &table[key],
            });
    let resolved = match &loaded.recipe.source {
        PluginSource::Remote(remote) => source::resolved(remote),
        PluginSource::Bundled(_) | PluginSource::File(_) => None,
    };
    LockedPlugin {
        source: table["plugin"].as_str().unwrap_or_default().to_owned(),
        resolved,
        sha256: loaded.sha256.clone(),
        size: loaded.size,
        name: loaded.description.name.clone(),
        version: loaded.description.version.clone(),
        contract: loaded.stage.interface().to_owned(),
        config_sha256: sha256(table["config"].to_string().as_bytes()),
    }
}

fn models(recipe: &Recipe, published: &Value) -> Result<BTreeMap<String, LockedModel>, LockError> {
    let mut models = BTreeMap::new();
    for model in recipe.models.values() {
        let named = recipe.roles.iter().filter(|(_, name)| **name == model.name);
        let roles: Vec<String> = named.map(|(role, _)| role.clone()).collect();
        if !roles.is_empty() {
            let told = &published["models"][&model.name];
            models.insert(model.name.clone(), locked_model(model, roles, told)?);
        }
    }
    Ok(models)
}

fn locked_model(
    model: &Model,
    roles: Vec<String>,
    published: &Value,
) -> Result<LockedModel, LockError> {
    let text = |key: &str| published[key].as_str().map(str::to_owned);
    let there = match &model.provider {
        // A source that cannot be read is reported where it is opened.
        Provider::Local(local) => match local.model.parse::<ModelSource>() {
            Ok(source) => source.files_without_fetching()?,
            Err(_) => ModelFiles::default(),
        },
        Provider::OpenAi(_) => ModelFiles::default(),
    };
    Ok(LockedModel {
        roles,
        provider: text("provider").unwrap_or_default(),
        model: text("model").unwrap_or_default(),
        base_url: text("base_url"),
        revision: there.revision,
        files: there.files,
    })
}

/// The settings of a published recipe by their dotted paths.
fn settings(mut published: Value) -> BTreeMap<String, toml::Value> {
    let remove = |table: &mut Value, keys: &[&str]| {
        if let Some(fields) = table.as_object_mut() {
            fields.retain(|key, _| !keys.contains(&key.as_str()));
        }
    };
    remove(&mut published, &["name", "seed", "seeds", "roles"]);
    remove(&mut published["evaluation"], &["file", "bundled"]);
    remove(&mut published["generator"], &["plugin", "sha256"]);
    for stage in ["filters", "evaluators"] {
        for table in published[stage].as_array_mut().into_iter().flatten() {
            remove(table, &["plugin", "sha256"]);
        }
    }
    if let Some(models) = published["models"].as_object_mut() {
        for table in models.values_mut() {
            remove(table, &NOT_SETTINGS_OF_MODELS);
        }
    }
    let mut settings = BTreeMap::new();
    flatten("", &published, &mut settings);
    settings
}

fn flatten(path: &str, value: &Value, settings: &mut BTreeMap<String, toml::Value>) {
    let below = |key: &str| match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    };
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                flatten(&below(key), value, settings);
            }
        }
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            for (index, item) in items.iter().enumerate() {
                flatten(&below(&index.to_string()), item, settings);
            }
        }
        leaf => {
            // TOML has no null, and a recipe that was TOML has none either.
            if let Ok(leaf) = toml::Value::try_from(leaf) {
                settings.insert(path.to_owned(), leaf);
            }
        }
    }
}

/// The manifest's path as seen from the run's directory.
fn manifest_from(dir: Option<&Path>, recipe: &Recipe) -> String {
    let path = Path::new(recipe.document.name());
    let name = || {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let whole = |path: &Path| fs::canonicalize(path).ok();
    let seen = dir
        .and_then(whole)
        .zip(whole(path))
        .and_then(|(dir, path)| relative(&dir, &path));
    seen.map_or_else(name, |path| path.to_string_lossy().replace('\\', "/"))
}

/// `path` from inside `dir`, both from the root, if more than the root is common to both.
fn relative(dir: &Path, path: &Path) -> Option<PathBuf> {
    let parts = |path: &Path| -> Vec<_> {
        path.components()
            .map(|c| c.as_os_str().to_owned())
            .collect()
    };
    let (from, to) = (parts(dir), parts(path));
    let common = from
        .iter()
        .zip(&to)
        .take_while(|(one, other)| one == other)
        .count();
    let roots = dir
        .components()
        .take_while(|part| !matches!(part, Component::Normal(_)))
        .count();
    if common <= roots {
        return None;
    }
    let up = from[common..].iter().map(|_| PathBuf::from(".."));
    Some(up.chain(to[common..].iter().map(PathBuf::from)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_named_as_the_run_sees_it() {
        let seen = |dir: &str, path: &str| relative(Path::new(dir), Path::new(path));
        let is = |text: &str| Some(PathBuf::from(text));
        assert_eq!(seen("/a/runs/x", "/a/m/r.toml"), is("../../m/r.toml"));
        assert_eq!(seen("/a/b", "/a/b/r.toml"), is("r.toml"));
        assert_eq!(seen("/a/b", "/c/r.toml"), None);
    }

    #[test]
    fn settings_are_what_can_change_a_result() {
        let settings = settings(serde_json::json!({
            "name": "n", "seed": 1, "seeds": {"bundled": true}, "roles": {"teacher": "t"},
            "models": {"t": {"provider": "openai", "timeout": "9s", "endpoint": "chat"}},
            "generator": {"plugin": "p", "grant": ["models:teacher"], "config": {"mode": "strict"}},
            "filters": [{"plugin": "q", "limits": {"memory_mb": 64}, "config": {}}],
            "dataset": {"target": 10},
        }));
        let shown: Vec<String> = settings.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            shown,
            [
                "dataset.target=10",
                "filters.0.limits.memory_mb=64",
                "generator.config.mode=\"strict\"",
                "generator.grant=[\"models:teacher\"]",
                "models.t.endpoint=\"chat\"",
            ]
        );
    }
}
