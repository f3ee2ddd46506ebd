//! What the run was made from: recipe, models, plugins, licences.

use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;

use super::{Excerpt, rows, text};

/// Characters of a manifest.
const MANIFEST: usize = 60_000;

/// What the run was made from.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Origin {
    /// Name of the recipe.
    pub recipe: Option<String>,
    /// Licence of the dataset, as the recipe states it.
    pub license: Option<String>,
    /// The seed tasks, in a phrase.
    pub seeds: Option<String>,
    /// Every model that a role names.
    pub models: Vec<Model>,
    /// Every plugin.
    pub plugins: Vec<Plugin>,
    /// The resolved manifest.
    pub manifest: Option<Excerpt>,
    /// What the manifest asks for.
    pub plan: Plan,
}

impl Origin {
    /// The model that has a role; `student.base` is the model that `student` was trained from,
    /// where the recipe names no other.
    #[must_use]
    pub fn model(&self, role: &str) -> Option<&Model> {
        let named = |role: &str| {
            let mut models = self.models.iter();
            models.find(|model| model.roles.iter().any(|name| name == role))
        };
        named(role).or_else(|| named(role.strip_suffix(".base")?))
    }

    /// The model that taught, where it is the one that was trained: the same entry of the
    /// manifest, or another with the same identity.
    #[must_use]
    pub fn learns_from_itself(&self) -> Option<&Model> {
        self.same("teacher", "student.base")
    }

    /// The judge, where it is the model that was trained.
    #[must_use]
    pub fn judges_itself(&self) -> Option<&Model> {
        self.same("judge", "student.base")
    }

    fn same(&self, role: &str, other: &str) -> Option<&Model> {
        let (one, two) = (self.model(role)?, self.model(other)?);
        let same = std::ptr::eq(one, two)
            || matches!((&one.identity, &two.identity), (Some(a), Some(b)) if a == b);
        same.then_some(one)
    }
}

/// A model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Model {
    /// Name in the manifest.
    pub name: String,
    /// Roles that name it.
    pub roles: Vec<String>,
    /// `openai`, `local`.
    pub provider: String,
    /// The provider's name for it.
    pub model: String,
    /// What identifies it in the ledger's requests.
    pub identity: Option<String>,
    /// Licence or terms, as the recipe states them.
    pub terms: Option<String>,
}

/// A plugin.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plugin {
    /// Place in the manifest.
    pub stage: String,
    /// Name and version.
    pub plugin: String,
    /// Hash of its file, in hex.
    pub sha256: String,
}

/// What the manifest asks for, as far as it can be read.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Plan {
    /// Examples wanted.
    pub target: Option<u64>,
    /// Whether a student is to be trained; `None` where there is no manifest.
    pub trains: Option<bool>,
    /// Whether there are evaluation tasks.
    pub evaluates: Option<bool>,
    /// Evaluators.
    pub evaluators: Option<u64>,
}

impl Plan {
    /// From the manifest as text: TOML, or JSON.
    fn of(manifest: &str) -> Self {
        let table = toml::from_str::<serde_json::Value>(manifest)
            .or_else(|_| serde_json::from_str::<serde_json::Value>(manifest));
        let Ok(table) = table else {
            return Plan::default();
        };
        Plan {
            target: table.pointer("/dataset/target").and_then(|v| v.as_u64()),
            trains: Some(table.get("trainer").is_some()),
            evaluates: Some(table.get("evaluation").is_some()),
            evaluators: Some(
                table
                    .get("evaluators")
                    .and_then(|evaluators| evaluators.as_array())
                    .map_or(0, |evaluators| evaluators.len() as u64),
            ),
        }
    }
}

pub(super) fn read(c: &Connection) -> rusqlite::Result<Origin> {
    let recipe: Option<[Option<String>; 4]> = c
        .query_row(
            "SELECT name, license, seeds, manifest FROM recipe",
            [],
            |r| Ok([r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?]),
        )
        .optional()?;
    let [name, license, seeds, manifest] = recipe.unwrap_or_default();
    let sql = "SELECT name, roles, provider, model, identity, terms FROM models";
    let models = rows(c, sql, [], |r| {
        Ok(Model {
            name: text(r, 0)?,
            roles: serde_json::from_str(&text(r, 1)?).unwrap_or_default(),
            provider: text(r, 2)?,
            model: text(r, 3)?,
            identity: r.get(4)?,
            terms: r.get(5)?,
        })
    })?;
    let plugins = rows(c, "SELECT stage, plugin, sha256 FROM plugins", [], |r| {
        Ok(Plugin {
            stage: text(r, 0)?,
            plugin: text(r, 1)?,
            sha256: text(r, 2)?,
        })
    })?;
    Ok(Origin {
        plan: manifest.as_deref().map(Plan::of).unwrap_or_default(),
        manifest: manifest.map(|text| Excerpt::of(&text, MANIFEST)),
        recipe: name,
        license,
        seeds,
        models,
        plugins,
    })
}
