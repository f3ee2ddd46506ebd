//! `pacos plugin fetch`.

use std::path::PathBuf;

use serde::Serialize;

use crate::{
    cli::{Failed, ManifestArgs, progress},
    manifest::{Plugin, PluginSource, Remote},
    plugin::{
        LoadError, Loaded,
        source::{self, SourceError},
    },
    stages::source_name,
};

/// One plugin that is on this machine now.
#[derive(Serialize)]
struct Told {
    /// Where it stands in the recipe; absent for a source by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    name: String,
    version: String,
    contract: &'static str,
    sha256: String,
    size: u64,
    source: String,
    /// What a tag stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    resolved: Option<String>,
    /// Where it is kept; absent for what is no copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<PathBuf>,
    /// Whether the recipe has to say `sha256` and does not.
    unpinned: bool,
}

pub(super) async fn fetch(wanted: &[String], json: bool) -> Result<(), Failed> {
    let mut plugins = Vec::new();
    for wanted in wanted {
        plugins.extend(plugins_of(wanted)?);
    }
    let mut failures = Vec::new();
    for plugin in plugins {
        match one(plugin).await {
            Ok(told) if json => println!("{}", serde_json::json!(told)),
            Ok(told) => print!("{}", for_people(&told)),
            Err(error) => failures.push(error.to_string()),
        }
    }
    match failures.is_empty() {
        true => Ok(()),
        false => Err(Failed::Other(
            anyhow::anyhow!(failures.join("\nerror: ")),
            4,
        )),
    }
}

/// A source stands for itself, anything else for the recipe of that name.
fn plugins_of(wanted: &str) -> Result<Vec<Plugin>, Failed> {
    if Remote::is_meant(wanted) {
        return Ok(vec![Plugin::alone(super::source_of(wanted)?)]);
    }
    let manifest = ManifestArgs {
        manifest: PathBuf::from(wanted),
        set: Vec::new(),
        offline: false,
    };
    let recipe = manifest.load()?;
    let mut plugins = vec![recipe.generator.plugin];
    plugins.extend(recipe.filters);
    plugins.extend(recipe.evaluators);
    Ok(plugins)
}

async fn one(mut plugin: Plugin) -> Result<Told, LoadError> {
    let mut fetched = None;
    let mut unpinned = false;
    if let PluginSource::Remote(remote) = &plugin.source {
        let pin = plugin.sha256.as_deref();
        let came = source::fetch(remote, pin, &mut progress::fetching_plugins()).await?;
        unpinned = pin.is_none() && !source::is_pinned(remote);
        plugin.sha256 = Some(came.sha256.clone());
        fetched = Some(came);
    }
    let loaded = Loaded::load(&plugin).await?;
    Ok(Told {
        place: (!plugin.path.is_empty()).then(|| plugin.path.clone()),
        name: loaded.description.name.clone(),
        version: loaded.description.version.clone(),
        contract: loaded.stage.interface(),
        sha256: loaded.sha256.clone(),
        size: loaded.size,
        source: source_name(&plugin.source),
        resolved: fetched.as_ref().and_then(|it| it.resolved.clone()),
        kept: fetched.map(|it| it.path),
        unpinned,
    })
}

fn for_people(told: &Told) -> String {
    let mut text = match &told.place {
        Some(place) => format!("{place}: {} {}\n", told.name, told.version),
        None => format!("{} {}\n", told.name, told.version),
    };
    let mut line = |name: &str, value: &str| text.push_str(&format!("  {name:<9} {value}\n"));
    line("from", &told.source);
    if let Some(resolved) = &told.resolved {
        line("which is", resolved);
    }
    line("sha256", &told.sha256);
    line("size", &format!("{} bytes", told.size));
    if told.unpinned {
        let place = told.place.as_deref().unwrap_or("the plugin's table");
        line(
            "write",
            &format!("sha256 = \"{}\"  (in {place})", told.sha256),
        );
    }
    text
}

impl From<SourceError> for Failed {
    fn from(error: SourceError) -> Self {
        Failed::Other(error.into(), 4)
    }
}
