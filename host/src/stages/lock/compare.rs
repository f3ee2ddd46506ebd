//! Where two locks differ.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::Lock;

/// One thing that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// Its dotted path: `plugins.filters.0.sha256`, `recipe.settings.dataset.target`.
    pub what: String,
    /// What the lock says.
    pub expected: String,
    /// What there is today.
    pub found: String,
    /// What to do.
    pub advice: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: expected {}, found {}; {}",
            self.what, self.expected, self.found, self.advice
        )
    }
}

const NOTHING: &str = "nothing";
const ANEW: &str = "or run it anew in a new directory with `--fork NEW`";

impl Lock {
    /// Where what there is today differs from this lock, sorted. Not compared are the dataset,
    /// which is a run's own; the text of the manifest, whose settings are; and the digest that a
    /// tag stood for, as the component's own hash counts.
    #[must_use]
    pub fn differences(&self, today: &Lock) -> Vec<Difference> {
        let mut differences = Vec::new();
        let (mut expected, mut found) = (self.comparable(), today.comparable());
        for (name, locked) in &self.models {
            let here = today.models.get(name);
            let absent = here.is_some_and(|here| here.files.is_empty());
            if absent && !locked.files.is_empty() {
                // One line, rather than one for each file.
                expected.models.entry(name.clone()).and_modify(|model| {
                    model.files.clear();
                    model.revision = None;
                });
                let at = locked.revision.as_ref();
                differences.push(Difference {
                    what: format!("models.{name}"),
                    expected: match at {
                        Some(revision) => format!("the files of commit {revision}"),
                        None => format!("{} files", locked.files.len()),
                    },
                    found: "none on this machine".to_owned(),
                    advice: format!("fetch it with `pacos model fetch {}`", locked.model),
                });
            }
        }
        for lock in [&mut expected, &mut found] {
            for plugin in lock.plugins.values_mut() {
                // Its settings say more.
                plugin.config_sha256.clear();
            }
        }
        let (expected, found) = (flat(&expected), flat(&found));
        let is_setting = |key: &String| {
            let mut locks = [self, today].into_iter();
            locks.any(|lock| lock.recipe.settings.contains_key(key))
        };
        let keys: BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
        for key in keys {
            let (was, is) = (expected.get(key), found.get(key));
            if was != is {
                let shown =
                    |value: Option<&String>| value.map_or_else(|| NOTHING.to_owned(), Clone::clone);
                differences.push(Difference {
                    what: key.clone(),
                    expected: shown(was),
                    found: shown(is),
                    advice: match is_setting(key) {
                        true => format!("undo the change in the manifest, {ANEW}"),
                        false => self.advice(key),
                    },
                });
            }
        }
        differences.sort_by(|one, other| one.what.cmp(&other.what));
        differences
    }

    fn comparable(&self) -> Lock {
        let mut lock = self.clone();
        lock.contract.clear();
        lock.recipe.manifest.clear();
        lock.recipe.sha256.clear();
        lock.recipe.overrides.clear();
        lock.dataset.clear();
        for plugin in lock.plugins.values_mut() {
            plugin.resolved = None;
        }
        lock
    }

    /// What to do about a difference.
    fn advice(&self, key: &str) -> String {
        let mut parts = key.split('.');
        match parts.next() {
            Some("pacos") => format!("use Pacos {}, or run it anew with this one", self.pacos),
            Some("seeds" | "evaluation") => format!("put the old tasks back, {ANEW}"),
            Some("models") => {
                let name = parts.next().unwrap_or_default();
                let model = self.models.get(name);
                match model.and_then(|model| model.revision.as_ref().map(|at| (model, at))) {
                    Some((model, at)) => {
                        let source = model.model.split('@').next().unwrap_or_default();
                        format!("write model = \"{source}@{at}\" in [models.{name}], {ANEW}")
                    }
                    None => format!("put the old model back, {ANEW}"),
                }
            }
            Some("plugins") => {
                let place = key.trim_start_matches("plugins.");
                let place = place.rsplit_once('.').map_or(place, |(place, _)| place);
                match self.plugins.get(place) {
                    Some(plugin) => format!(
                        "name the plugin of sha256 {} from {} there, {ANEW}",
                        plugin.sha256, plugin.source
                    ),
                    None => format!("take it out, {ANEW}"),
                }
            }
            _ => format!("undo the change in the manifest, {ANEW}"),
        }
    }
}

/// Every value of a lock by its dotted path, as text. Settings have their own dots, and so do the
/// places of plugins.
fn flat(lock: &Lock) -> BTreeMap<String, String> {
    let value = toml::Value::try_from(lock).expect("a lock holds only what TOML can");
    let mut flat = BTreeMap::new();
    descend("", &value, &mut flat);
    flat
}

fn descend(path: &str, value: &toml::Value, flat: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let path = match path {
                    // The user's own words for them.
                    "" | "recipe" | "settings" => key.clone(),
                    path => format!("{path}.{key}"),
                };
                descend(&path, value, flat);
            }
        }
        leaf => {
            flat.insert(path.to_owned(), leaf.to_string());
        }
    }
}
