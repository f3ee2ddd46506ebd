//! `pacos verify`.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::Args;

use super::{Failed, ManifestArgs, progress, recorded};
use crate::{
    counted::counted,
    plugin,
    stages::{
        self,
        lock::{self, Difference, Lock, LockError, VerifyError},
        plan::set_missing_keys_aside,
    },
};

/// Say whether a recipe still resolves to what was run, and a run still holds what it made.
///
/// What a run resolved to is in its pacos.lock. Given the run's directory, its ledger and dataset
/// are checked too; given a manifest and somebody's lock, the manifest alone is. Keys are not
/// needed, and nothing is asked of a model.
#[derive(Args)]
pub(super) struct VerifyArgs {
    /// Directory of a run, or a manifest
    #[arg(value_name = "RUN|MANIFEST")]
    what: PathBuf,
    /// A lock, or the directory of a run that has one [default: that of the run itself]
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
    /// The recipe of the run [default: where the lock says it was]
    #[arg(long)]
    manifest: Option<PathBuf>,
    /// Another value for a key of the manifest [default: what the lock says was set so]
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Fetch no plugin: what is not on this machine is an error
    #[arg(long)]
    offline: bool,
    /// Print the differences as JSON
    #[arg(long)]
    json: bool,
}

impl From<LockError> for Failed {
    fn from(error: LockError) -> Self {
        Failed::Other(error.into(), 5)
    }
}

impl From<VerifyError> for Failed {
    fn from(error: VerifyError) -> Self {
        Failed::Other(error.into(), 5)
    }
}

pub(super) async fn verify(args: VerifyArgs) -> Result<(), Failed> {
    // What is asked here is what files hold, not whether they look as before.
    plugin::read_every_file();
    let given = args.lock.as_ref().map(|path| match path.is_dir() {
        true => path.join(lock::FILE),
        false => path.clone(),
    });
    // With a lock beside it, a manifest stands for itself; alone, for the run of it.
    let run = match given.is_some() && args.what.is_file() {
        true => None,
        false => Some(recorded::dir_of(&args.what)?),
    };
    let locked = match (&given, &run) {
        (Some(path), _) => Lock::read(path)?,
        (None, Some(dir)) => Lock::of_run(dir)?,
        (None, None) => unreachable!("without a lock there is a run"),
    };
    let manifest = match (&args.manifest, &run) {
        (Some(manifest), _) => manifest.clone(),
        (None, _) if args.what.is_file() => args.what.clone(),
        (None, dir) => manifest_of(&locked, dir.as_deref())?,
    };
    let manifest = ManifestArgs {
        manifest,
        set: match args.set.is_empty() {
            true => locked.recipe.overrides.clone(),
            false => args.set,
        },
        offline: args.offline,
    };
    let mut recipe = manifest.load()?;
    // They change nothing of what there is to compare.
    let _ = set_missing_keys_aside(&mut recipe);
    let prepared = stages::prepare_with(recipe, &mut progress::fetching_plugins()).await?;
    let today = Lock::of(&prepared, run.as_deref())?;
    let resolved = locked.differences(&today);
    let own = match &run {
        Some(dir) => lock::own_files(dir, &locked)?,
        None => Vec::new(),
    };
    let (resolves, holds) = (resolved.is_empty(), own.is_empty());
    let differences = [resolved, own].concat();
    let name = &manifest.manifest;
    tell(name, run.as_deref(), &locked, &differences, args.json);
    match (run, holds, resolves) {
        (Some(dir), false, _) => {
            let message = anyhow!("{} does not hold what the run made", dir.display());
            Err(Failed::Other(message, 5))
        }
        (_, _, false) => {
            let message = anyhow!("{} does not resolve to what the lock says", name.display());
            Err(Failed::Other(message, 2))
        }
        _ => Ok(()),
    }
}

/// Where a run's recipe was, as seen from here.
fn manifest_of(locked: &Lock, dir: Option<&Path>) -> Result<PathBuf, Failed> {
    let path = dir.unwrap_or(Path::new("")).join(&locked.recipe.manifest);
    if path.is_file() {
        return Ok(path);
    }
    let message = format!(
        "the lock says that the recipe was {}, and that is not there; name it with --manifest",
        path.display()
    );
    Err(Failed::Other(anyhow!(message), 2))
}

fn tell(
    manifest: &Path,
    run: Option<&Path>,
    locked: &Lock,
    differences: &[Difference],
    json: bool,
) {
    if json {
        println!("{}", serde_json::json!(differences));
        return;
    }
    for difference in differences {
        println!("{difference}");
    }
    if differences.is_empty() {
        println!(
            "{}: resolves to what the lock says: {}, {}, {}",
            manifest.display(),
            counted(locked.plugins.len(), "plugin", "plugins"),
            counted(locked.models.len(), "model", "models"),
            counted(locked.seeds.tasks, "seed task", "seed tasks")
        );
        if let Some(dir) = run {
            println!(
                "{}: the ledger is sound, and {} what it gives",
                dir.display(),
                counted(
                    locked.dataset.len(),
                    "file of the dataset is",
                    "files of the dataset are"
                )
            );
        }
    }
}
