//! `pacos plugin`.

mod bench;
mod build;
mod check;
mod diff;
mod fetch;
mod inspect;
mod new;
mod run;
mod stats;
mod subject;
mod test;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Failed, progress};
use crate::{
    manifest::{Plugin, PluginSource, Remote, RemoteError},
    plugin::{BUNDLED, LoadError, Loaded, source},
};

/// Write, build, test and look at plugins.
#[derive(Args)]
pub(super) struct PluginArgs {
    #[command(subcommand)]
    command: PluginCommand,
}

#[derive(Subcommand)]
enum PluginCommand {
    /// Write a project of a plugin, which builds and passes its own tests at once
    New(new::NewArgs),
    /// Build the plugin of a project, as a component or as a dynamic library
    Build(build::BuildArgs),
    /// Build what has changed, and run the tests of a project on the engine that recipes run on
    Test(test::TestArgs),
    Check(check::CheckArgs),
    Run(run::RunArgs),
    Bench(bench::BenchArgs),
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
        /// Name of a bundled plugin, path of a component or a dynamic library, or where a component
        /// is: https://… or oci://…
        plugin: String,
        /// The file is a dynamic library, and may do anything that you may do
        #[arg(long)]
        trust_native: bool,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    Stats(stats::StatsArgs),
    Diff(diff::DiffArgs),
}

pub(super) async fn plugin(args: PluginArgs) -> Result<(), Failed> {
    match args.command {
        PluginCommand::New(args) => new::new(&args),
        PluginCommand::Build(args) => build::build(&args),
        PluginCommand::Test(args) => test::test(&args).await,
        PluginCommand::Check(args) => check::check(args).await,
        PluginCommand::Run(args) => run::run(args).await,
        PluginCommand::Bench(args) => bench::bench(args).await,
        PluginCommand::List => list().await,
        PluginCommand::Fetch { wanted, json } => fetch::fetch(&wanted, json).await,
        PluginCommand::Inspect {
            plugin,
            trust_native,
            json,
        } => inspect::inspect(&plugin, trust_native, json).await,
        PluginCommand::Stats(args) => stats::stats(&args),
        PluginCommand::Diff(args) => diff::diff(args).await,
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
    load_plugin(Plugin::alone(source_of(name)?))
        .await?
        .map_err(|error| Failed::Other(error.into(), 4))
}

/// Loads a plugin; what is elsewhere is fetched as it is there today. The outer error is that it
/// could not be fetched.
async fn load_plugin(mut plugin: Plugin) -> Result<Result<Loaded, LoadError>, Failed> {
    if let PluginSource::Remote(remote) = &plugin.source {
        let fetched = source::fetch(remote, None, &mut progress::fetching_plugins()).await?;
        plugin.sha256 = Some(fetched.sha256);
    }
    Ok(Loaded::load(&plugin).await)
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
