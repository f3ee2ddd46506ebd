//! `pacos plugin build`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use pacos_engine::digest::hex;
use sha2::{Digest, Sha256};

use crate::{
    author::{self, BuildError, Carrier, Project, ProjectError},
    cli::Failed,
};

#[derive(Args)]
pub(super) struct BuildArgs {
    /// The project's folder
    #[arg(value_name = "DIR", default_value = ".")]
    project: PathBuf,
    /// Build a dynamic library for this machine, which recipes have to trust; Rust and C only
    #[arg(long)]
    native: bool,
}

impl From<ProjectError> for Failed {
    fn from(error: ProjectError) -> Self {
        Failed::Other(error.into(), 2)
    }
}

impl From<BuildError> for Failed {
    fn from(error: BuildError) -> Self {
        let code = match error {
            BuildError::Io { .. } => 5,
            BuildError::NoLibrary(_) | BuildError::Project { .. } => 2,
            BuildError::Missing { .. } | BuildError::Tool { .. } | BuildError::NoOutput { .. } => 4,
        };
        Failed::Other(error.into(), code)
    }
}

/// What `--native` chooses.
pub(super) fn carrier(native: bool) -> Carrier {
    match native {
        true => Carrier::Library,
        false => Carrier::Component,
    }
}

pub(super) fn build(args: &BuildArgs) -> Result<(), Failed> {
    let project = Project::open(&args.project)?;
    let file = author::build(&project, carrier(args.native))?;
    let bytes = fs::read(&file).map_err(|source| BuildError::Io {
        doing: format!("read {}", file.display()),
        source,
    })?;
    println!("built {}: {}", shown(&file).display(), size(bytes.len()));
    println!("sha256 {}", hex(&Sha256::digest(&bytes)));
    Ok(())
}

/// The file as seen from this folder, where it is below it.
pub(super) fn shown(file: &Path) -> &Path {
    let here = std::env::current_dir().and_then(|here| here.canonicalize());
    here.ok()
        .and_then(|here| file.strip_prefix(here).ok())
        .unwrap_or(file)
}

fn size(bytes: usize) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{} KB", bytes / 1000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}
