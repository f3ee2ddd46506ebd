//! JavaScript, by componentize-js: the engine and the plugin in one component.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    BuildError, Found, Missing, io_error, place, run,
    tools::{is_kept, kept, scratch, version},
    world,
};
use crate::author::{Language, Project};

/// Its components differ from release to release, and so does what JavaScript code has to say.
const COMPONENTIZE_JS: &str = "0.23.0";

/// What componentize-js is called from: its command line has no way to take all features away.
const SCRIPT: &str = include_str!("componentize.mjs");

/// The oldest release of Node that componentize-js starts on.
const OLDEST_NODE: u32 = 20;

pub(super) fn build(project: &Project, output: &Path) -> Result<(), BuildError> {
    let tools = componentize_js()?;
    let scratch = scratch()?;
    let written = scratch.path().join("plugin.wasm");
    let script = tools.join("componentize.mjs");
    fs::write(&script, SCRIPT).map_err(io_error("write", &script))?;
    let mut node = Command::new("node");
    node.current_dir(&project.folder).arg(&script);
    node.arg(project.folder.join("src/plugin.js"));
    node.arg(project.folder.join("pacos/wit"));
    node.arg(world(project)).arg(&written);
    run("componentize-js", &mut node)?;
    place("componentize-js", &written, output)
}

fn componentize_js() -> Result<PathBuf, BuildError> {
    let name = format!("componentize-js-{COMPONENTIZE_JS}");
    let missing = missing(&name);
    if !missing.is_empty() {
        return Err(BuildError::Missing {
            language: Language::JavaScript,
            missing,
        });
    }
    kept(Language::JavaScript, &name, |folder| {
        eprintln!(
            "fetching componentize-js {COMPONENTIZE_JS} into {}, once",
            folder.display()
        );
        let manifest = folder.join("package.json");
        fs::write(&manifest, "{ \"private\": true, \"type\": \"module\" }\n")
            .map_err(io_error("write", &manifest))?;
        let mut npm = Command::new("npm");
        npm.current_dir(folder);
        npm.args(["install", "--ignore-scripts", "--no-fund", "--no-audit"]);
        npm.args(["--loglevel", "error"]);
        npm.arg(format!(
            "@bytecodealliance/componentize-js@{COMPONENTIZE_JS}"
        ));
        run("npm install componentize-js", &mut npm)
    })
}

/// Npm is needed once only, to fetch the tool of this name.
fn missing(tool: &str) -> Vec<Missing> {
    let found = version("node", "--version");
    let major = |version: &String| {
        let digits = version.trim_start_matches('v').split('.').next()?;
        digits.parse::<u32>().ok()
    };
    let mut missing = Vec::new();
    if found.as_ref().and_then(major) < Some(OLDEST_NODE) {
        missing.push(Missing {
            tool: format!("Node {OLDEST_NODE} or later"),
            found: Found(found.as_deref()).to_string(),
            install: "apt-get install nodejs   # as root; or see https://nodejs.org/en/download"
                .into(),
        });
    }
    if !is_kept(tool) && version("npm", "--version").is_none() {
        missing.push(Missing {
            tool: "npm".into(),
            found: Found(None).to_string(),
            install: "apt-get install npm   # as root; or see https://nodejs.org/en/download"
                .into(),
        });
    }
    missing
}
