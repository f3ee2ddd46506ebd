//! `pacos plugin`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Failed;
use crate::{
    manifest::{Limits, Plugin, PluginSource},
    plugin::{BUNDLED, Loaded},
};

/// Look at plugins.
#[derive(Args)]
pub(super) struct PluginArgs {
    #[command(subcommand)]
    command: PluginCommand,
}

#[derive(Subcommand)]
enum PluginCommand {
    /// Name the plugins inside this binary
    List,
    /// Say what a plugin is: stage, capabilities, configuration, sha256
    Inspect {
        /// Name of a bundled plugin, or path of a component
        plugin: String,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn plugin(args: PluginArgs) -> Result<(), Failed> {
    match args.command {
        PluginCommand::List => {
            for (name, _) in BUNDLED {
                let loaded = load(name).await?;
                println!("{:<20} {:<10} {}", name, loaded.stage, loaded.title());
            }
        }
        PluginCommand::Inspect { plugin, json } => {
            let loaded = load(&plugin).await?;
            let about = &loaded.description;
            let schema: serde_json::Value =
                serde_json::from_str(&about.config_schema).unwrap_or_default();
            if json {
                let text = serde_json::json!({
                    "name": about.name,
                    "version": about.version,
                    "contract": loaded.stage.interface(),
                    "capabilities": about.capabilities,
                    "stateful": about.stateful,
                    "batch_limit": about.batch_limit,
                    "config_schema": schema,
                    "sha256": loaded.sha256,
                });
                println!("{text}");
                return Ok(());
            }
            println!("{}", loaded.title());
            println!("contract      {}", loaded.stage.interface());
            let capabilities = match about.capabilities.as_slice() {
                [] => "none".to_owned(),
                some => some.join(", "),
            };
            println!("capabilities  {capabilities}");
            println!(
                "stateful      {}",
                if about.stateful { "yes" } else { "no" }
            );
            println!("sha256        {}", loaded.sha256);
            println!("configuration");
            print_properties(&schema);
        }
    }
    Ok(())
}

/// The keys of a configuration with their defaults, from its JSON Schema.
fn print_properties(schema: &serde_json::Value) {
    let Some(properties) = schema["properties"].as_object() else {
        println!("  none");
        return;
    };
    for (key, property) in properties {
        let default = match &property["default"] {
            serde_json::Value::Null => String::new(),
            value => format!(" = {value}"),
        };
        println!("  {key}{default}");
        if let Some(text) = property["description"].as_str() {
            println!("      {}", text.replace('\n', "\n      "));
        }
    }
}

async fn load(name: &str) -> Result<Loaded, Failed> {
    let source = if name.contains(['/', '.']) {
        PluginSource::File(PathBuf::from(name))
    } else {
        PluginSource::Bundled(name.to_owned())
    };
    let plugin = Plugin {
        path: String::new(),
        source,
        sha256: None,
        native: false,
        grant: Vec::new(),
        limits: Limits::default(),
        config: serde_json::json!({}),
    };
    Loaded::load(&plugin)
        .await
        .map_err(|error| Failed::Other(error.into(), 4))
}
