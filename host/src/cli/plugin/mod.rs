//! `pacos plugin`.

mod build;
mod check;
mod inspect;
mod new;
mod run;
mod stats;
mod subject;
mod test;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Failed;
use crate::{
    manifest::{Plugin, PluginSource},
    plugin::{BUNDLED, Loaded},
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
    Stats(stats::StatsArgs),
}

pub(super) async fn plugin(args: PluginArgs) -> Result<(), Failed> {
    match args.command {
        PluginCommand::New(args) => new::new(&args),
        PluginCommand::Build(args) => build::build(&args),
        PluginCommand::Test(args) => test::test(&args).await,
        PluginCommand::Check(args) => check::check(args).await,
        PluginCommand::Run(args) => run::run(args).await,
        PluginCommand::List => list().await,
        PluginCommand::Inspect { plugin, json } => inspect::inspect(&plugin, json).await,
        PluginCommand::Stats(args) => stats::stats(&args),
    }
}

async fn list() -> Result<(), Failed> {
    for (name, _) in BUNDLED {
        let loaded = load(name).await?;
        println!("{:<20} {:<10} {}", name, loaded.stage, loaded.title());
    }
    Ok(())
}

/// Loads a bundled plugin by its name, or a file by its path, as it comes.
async fn load(name: &str) -> Result<Loaded, Failed> {
    Loaded::load(&Plugin::alone(source(name)))
        .await
        .map_err(|error| Failed::Other(error.into(), 4))
}

fn source(name: &str) -> PluginSource {
    if name.contains(['/', '.']) {
        PluginSource::File(PathBuf::from(name))
    } else {
        PluginSource::Bundled(name.to_owned())
    }
}
