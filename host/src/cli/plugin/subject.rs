//! A plugin by itself, outside of any recipe: which one, configured how, given what.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, anyhow};
use clap::Args;
use pacos_plugin::{Severity, Task};
use serde_json::Value;

use super::{load_plugin, source_of};
use crate::{
    cli::Failed,
    kit::{lines, script::Replies},
    manifest::{Limits, Plugin, PluginSource},
    plugin::{LoadError, Loaded},
    stages,
};

/// The command is wrong.
pub(super) const USAGE: u8 = 2;
/// The plugin is wrong.
pub(super) const PLUGIN: u8 = 4;

/// The plugin and its configuration.
#[derive(Args)]
pub(super) struct SubjectArgs {
    /// Name of a bundled plugin, or path of a component or a dynamic library
    plugin: String,
    /// The plugin's own table, as TOML: --config 'words = 3'
    #[arg(long, value_name = "TOML")]
    config: Option<String>,
    /// A value of that table, such as words=3; can be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The file is a dynamic library, and may do anything that you may do
    #[arg(long)]
    trust_native: bool,
}

impl SubjectArgs {
    /// As if it had been written on a command line of its own.
    pub(super) fn of(plugin: &str, config: Option<String>, trust_native: bool) -> Self {
        SubjectArgs {
            plugin: plugin.to_owned(),
            config,
            set: Vec::new(),
            trust_native,
        }
    }

    /// Loads the plugin and has it look at its configuration: warnings are told, errors end it.
    pub(super) async fn load(&self) -> Result<Loaded, Failed> {
        let loaded = self.load_as_it_is().await?;
        accepts(&loaded).await?;
        Ok(loaded)
    }

    /// The same, with so much time for one call.
    pub(super) async fn load_within(&self, compute: Duration) -> Result<Loaded, Failed> {
        let limits = Limits {
            compute,
            ..Limits::default()
        };
        let loaded = self.load_limited(&self.plugin, limits).await?;
        accepts(&loaded).await?;
        Ok(loaded)
    }

    /// Loads the plugin, whatever it thinks of its configuration.
    pub(super) async fn load_as_it_is(&self) -> Result<Loaded, Failed> {
        self.load_other(&self.plugin).await
    }

    /// Loads another plugin under the same configuration.
    pub(super) async fn load_other(&self, plugin: &str) -> Result<Loaded, Failed> {
        self.load_limited(plugin, Limits::default()).await
    }

    async fn load_limited(&self, plugin: &str, limits: Limits) -> Result<Loaded, Failed> {
        let source = source_of(plugin)?;
        let plugin = Plugin {
            native: self.trust_native
                && matches!(&source, PluginSource::File(path) if path.extension() != Some("wasm".as_ref())),
            config: self.table()?,
            limits,
            ..Plugin::alone(source)
        };
        load_plugin(plugin).await?.map_err(|error| {
            let here = match &error {
                LoadError::NotComponent { found, .. } if found.contains("dynamic library") => {
                    " (here: --trust-native)"
                }
                _ => "",
            };
            Failed::Other(anyhow!("{error}{here}"), PLUGIN)
        })
    }

    /// What `--config` and `--set` come to.
    fn table(&self) -> Result<Value, Failed> {
        let wrong = |error: anyhow::Error| Failed::Other(error, USAGE);
        let mut table: toml::Table = match &self.config {
            Some(text) => toml::from_str(text)
                .map_err(|error| wrong(anyhow!("--config is not TOML: {}", error.message())))?,
            None => toml::Table::new(),
        };
        for text in &self.set {
            merge(&mut table, setting(text).map_err(wrong)?);
        }
        serde_json::to_value(table)
            .context("--config has a value that JSON has not")
            .map_err(wrong)
    }
}

/// Has a plugin look at its configuration: warnings are told, errors end it.
pub(super) async fn accepts(loaded: &Loaded) -> Result<(), Failed> {
    let said = loaded.diagnose().await.map_err(|error| {
        let text = format!("{} broke over its configuration: {error}", loaded.title());
        Failed::Other(anyhow!(text), PLUGIN)
    })?;
    let mut errors = Vec::new();
    for diagnostic in said {
        let help = diagnostic.help.map(|help| format!(": write {help}"));
        let text = format!(
            "config `{}`: {}{}",
            diagnostic.path,
            diagnostic.message,
            help.unwrap_or_default()
        );
        match diagnostic.severity {
            Severity::Error => errors.push(text),
            Severity::Warning => eprintln!("warning: {text}"),
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    let text = format!("{}: {}", loaded.title(), errors.join("; "));
    Err(Failed::Other(anyhow!(text), USAGE))
}

/// `KEY=VALUE` as a table; what is no TOML value is a text, so that words need no quotes.
fn setting(text: &str) -> anyhow::Result<toml::Table> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| anyhow!("--set {text}: expected KEY=VALUE, such as words=3"))?;
    toml::from_str(text).or_else(|_| {
        let value = toml::Value::from(value);
        toml::from_str(&format!("{key} = {value}"))
            .map_err(|_| anyhow!("--set {text}: `{key}` is not a key of TOML"))
    })
}

fn merge(table: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (table.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(over)) => merge(below, over),
            (_, value) => {
                table.insert(key, value);
            }
        }
    }
}

/// Reads seed tasks; `bundled` is the name of those inside the binary.
pub(super) fn seeds(path: Option<&Path>) -> Result<Vec<Task>, Failed> {
    let Some(path) = path else {
        return Ok(Vec::new());
    };
    let read = match path.to_str() {
        Some("bundled") => Ok(stages::bundled_seeds()),
        _ => stages::load_seeds(path),
    };
    read.map_err(|error| Failed::Other(error.into(), USAGE))
}

/// Reads what the models of a script say, one reply a line.
pub(super) fn replies(path: Option<&Path>) -> Result<std::sync::Arc<Replies>, Failed> {
    let Some(path) = path else {
        return Ok(Replies::in_order([]));
    };
    let text = std::fs::read_to_string(path).map_err(|source| {
        let path = PathBuf::from(path);
        Failed::Other(crate::kit::KitError::Read { path, source }.into(), USAGE)
    })?;
    let mut answers = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let answer = lines::parse(line).and_then(|value| lines::answer(&value));
        answers.push(answer.map_err(|error| {
            Failed::Other(anyhow!("{}:{number}: {error}", path.display()), USAGE)
        })?);
    }
    Ok(Replies::in_order(answers))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(config: Option<&str>, set: &[&str]) -> Result<Value, String> {
        let args = SubjectArgs {
            plugin: "rouge-l".into(),
            config: config.map(Into::into),
            set: set.iter().map(|&text| text.into()).collect(),
            trust_native: false,
        };
        args.table().map_err(|failed| match failed {
            Failed::Other(error, _) => error.to_string(),
            Failed::Manifest(_) => "of a manifest".into(),
        })
    }

    #[test]
    fn settings_are_laid_over_the_table() {
        assert_eq!(
            table(
                Some("words = 3\nmax = { a = 1, b = 2 }"),
                &["max.a=9", "mode=alpaca-2023", "skip=[\"x\"]"]
            ),
            Ok(serde_json::json!({
                "words": 3, "max": { "a": 9, "b": 2 }, "mode": "alpaca-2023", "skip": ["x"]
            }))
        );
    }

    #[test]
    fn what_is_no_setting_is_refused() {
        assert_eq!(
            table(None, &["words"]).unwrap_err(),
            "--set words: expected KEY=VALUE, such as words=3"
        );
        assert_eq!(
            table(None, &["a b=3"]).unwrap_err(),
            "--set a b=3: `a b` is not a key of TOML"
        );
        assert!(
            table(Some("words"), &[])
                .unwrap_err()
                .starts_with("--config is not TOML: ")
        );
    }
}
