//! `pacos check`.

use clap::Args;

use super::{Failed, ManifestArgs, progress};
use crate::{
    counted::counted,
    manifest::Provider,
    stages::{self, source_name},
};

/// Find everything that is wrong with a recipe, without starting or spending anything.
#[derive(Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    manifest: ManifestArgs,
    /// Ask the servers too: is each there, does it know the model?
    #[arg(long)]
    online: bool,
    /// Print the resolved recipe as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn check(args: CheckArgs) -> Result<(), Failed> {
    let recipe = args.manifest.load()?;
    let prepared = stages::prepare_with(recipe, &mut progress::fetching_plugins()).await?;
    if args.online {
        prepared.probe().await?;
    }
    if args.json {
        println!("{}", prepared.recipe.resolved());
        return Ok(());
    }
    println!("{}: nothing wrong", args.manifest.manifest.display());
    println!(
        "  seeds       {}",
        counted(prepared.seeds.len(), "task", "tasks")
    );
    let plugins = std::iter::once(&prepared.generator)
        .chain(&prepared.filters)
        .chain(&prepared.evaluators);
    for plugin in plugins {
        println!(
            "  {:<11} {}, {}, sha256 {:.12}",
            plugin.stage.to_string(),
            plugin.title(),
            source_name(&plugin.recipe.source),
            plugin.sha256
        );
    }
    for (role, name) in &prepared.recipe.roles {
        let model = &prepared.recipe.models[name];
        let what = match &model.provider {
            Provider::OpenAi(openai) => format!("{} at {}", openai.model, openai.base_url),
            Provider::Local(local) => format!("{}, on this machine", local.model),
        };
        println!("  {role:<11} {name}: {what}");
    }
    Ok(())
}
