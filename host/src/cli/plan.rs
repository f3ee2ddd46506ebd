//! `pacos plan`.

use std::path::PathBuf;

use clap::Args;

use super::{Failed, ManifestArgs, progress};
use crate::{
    stages::{
        self,
        plan::{ForecastError, forecast, set_missing_keys_aside},
    },
    trainer::Room,
};

/// Say what a run would ask, cost, train and evaluate, without asking or spending anything.
///
/// No key is needed, and no model is fetched or opened: a student's config.json is enough. Where
/// the run has begun, its own figures are used.
#[derive(Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    manifest: ManifestArgs,
    /// Directory of the run, if it has begun [default: runs/NAME, after the recipe]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Plan the training for a card sold with so many GB of memory, whether this machine has one or not
    #[arg(long, value_name = "GB", value_parser = clap::value_parser!(u64).range(1..=1024))]
    card: Option<u64>,
    /// Print the plan as JSON
    #[arg(long)]
    json: bool,
}

impl From<ForecastError> for Failed {
    fn from(error: ForecastError) -> Self {
        Failed::Other(error.into(), 2)
    }
}

pub(super) async fn plan(args: PlanArgs) -> Result<(), Failed> {
    let mut recipe = args.manifest.load()?;
    let missing_keys = set_missing_keys_aside(&mut recipe);
    let dir = args
        .dir
        .unwrap_or_else(|| PathBuf::from("runs").join(&recipe.name));
    let prepared = stages::prepare_with(recipe, &mut progress::fetching_plugins()).await?;
    let mut forecast = forecast(&prepared, Some(&dir), args.card.map(Room::card)).await?;
    forecast.obstacles.extend(missing_keys);
    if args.json {
        println!("{}", serde_json::json!(forecast));
    } else {
        print!("{forecast}");
    }
    Ok(())
}
