//! Tools: which are here, and those that are fetched once and kept.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{BuildError, Missing, io_error};
use crate::{author::Language, cache};

/// What a program prints when it is asked for its version, if it is there and works.
pub(super) fn version(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program)
        .arg(argument)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(text)
}

/// The first of these programs that is there and works, with its version.
pub(super) fn first_of(
    programs: &[&'static str],
    argument: &str,
) -> Option<(&'static str, String)> {
    programs
        .iter()
        .find_map(|program| Some((*program, version(program, argument)?)))
}

/// Whether a tool has been fetched already.
pub(super) fn is_kept(name: &str) -> bool {
    cache::folder().is_some_and(|cache| cache.join("tools").join(name).join(COMPLETE).is_file())
}

/// Marks a folder that has been filled to its end.
const COMPLETE: &str = ".complete";

/// Where a tool is kept: a folder of the cache that is filled once, by whoever comes first.
pub(super) fn kept(
    language: Language,
    name: &str,
    fill: impl FnOnce(&Path) -> Result<(), BuildError>,
) -> Result<PathBuf, BuildError> {
    let Some(tools) = cache::folder().map(|cache| cache.join("tools")) else {
        return Err(BuildError::Missing {
            language,
            missing: vec![Missing {
                tool: "a folder for tools".into(),
                found: "neither PACOS_CACHE nor XDG_CACHE_HOME nor a home folder".into(),
                install: "export PACOS_CACHE=DIR".into(),
            }],
        });
    };
    let folder = tools.join(name);
    let complete = folder.join(COMPLETE);
    if complete.is_file() {
        return Ok(folder);
    }
    fs::create_dir_all(&tools).map_err(io_error("make the folder", &tools))?;
    let lock = tools.join(format!("{name}.lock"));
    let locked = File::create(&lock).map_err(io_error("write", &lock))?;
    // Let go of when the file is closed, at the end of this function or of the process.
    locked.lock().map_err(io_error("lock", &lock))?;
    if !complete.is_file() {
        // Whatever lies there is of a fill that did not come to its end.
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(io_error("remove", &folder))?;
        }
        fs::create_dir(&folder).map_err(io_error("make the folder", &folder))?;
        fill(&folder)?;
        fs::write(&complete, "").map_err(io_error("write", &complete))?;
    }
    Ok(folder)
}

/// A folder below the temporary one that is gone when the value is.
pub(super) fn scratch() -> Result<tempfile::TempDir, BuildError> {
    tempfile::Builder::new()
        .prefix("pacos-build-")
        .tempdir()
        .map_err(io_error("make a folder in", &env::temp_dir()))
}
