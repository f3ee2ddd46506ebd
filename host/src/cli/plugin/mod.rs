//! `pacos plugin`.

mod fetch;
mod inspect;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Failed, progress};
use crate::{
    manifest::{Plugin, PluginSource, Remote, RemoteError},
    plugin::{BUNDLED, Loaded, source},
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
    /// Fetch the plugins of a recipe, so that a run needs no network for them
    Fetch {
        /// Manifests, and sources by themselves: https://… or oci://…
        #[arg(required = true, value_name = "MANIFEST|SOURCE")]
        wanted: Vec<String>,
        /// Print a line of JSON for each
        #[arg(long)]
        json: bool,
    },
    /// Say what a plugin is: stage, capabilities, configuration, sha256
    Inspect {
        /// Name of a bundled plugin, path of a component, or where one is: https://… or oci://…
        plugin: String,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn plugin(args: PluginArgs) -> Result<(), Failed> {
    match args.command {
        PluginCommand::List => list().await,
        PluginCommand::Fetch { wanted, json } => fetch::fetch(&wanted, json).await,
        PluginCommand::Inspect { plugin, json } => inspect::inspect(&plugin, json).await,
    }
}

async fn list() -> Result<(), Failed> {
    for (name, _) in BUNDLED {
        let loaded = load(name).await?;
        println!("{:<20} {:<10} {}", name, loaded.stage, loaded.title());
    }
    Ok(())
}

/// Loads a bundled plugin by its name, a file by its path, or what is at a source today, as it
/// comes.
async fn load(name: &str) -> Result<Loaded, Failed> {
    let mut plugin = Plugin::alone(source_of(name)?);
    if let PluginSource::Remote(remote) = &plugin.source {
        let fetched = source::fetch(remote, None, &mut progress::fetching_plugins()).await?;
        plugin.sha256 = Some(fetched.sha256);
    }
    Loaded::load(&plugin)
        .await
        .map_err(|error| Failed::Other(error.into(), 4))
}

/// What a word of the command line names.
fn source_of(text: &str) -> Result<PluginSource, Failed> {
    Ok(if Remote::is_meant(text) {
        let wrong = |error: RemoteError| Failed::Other(error.into(), 2);
        PluginSource::Remote(text.parse().map_err(wrong)?)
    } else if text.contains(['/', '.']) {
        PluginSource::File(PathBuf::from(text))
    } else {
        PluginSource::Bundled(text.to_owned())
    })
}
