//! Rust, by cargo. Which toolchain makes components is for `plugins/toolchain` to say.

use std::{
    env::{self, consts},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    BuildError, Carrier, Found, Missing, io_error, place, printed_by, run,
    tools::{scratch, version},
};
use crate::author::{Language, Project, embedded::TOOLCHAIN};

const INSTALL_RUST: &str =
    "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh   # or see https://rustup.rs";

pub(super) fn build(project: &Project, carrier: Carrier, output: &Path) -> Result<(), BuildError> {
    let mut missing = missing_rust();
    if carrier == Carrier::Component && version("bash", "--version").is_none() {
        missing.push(Missing {
            tool: "bash, which runs the script that chooses the toolchain".into(),
            found: Found(None).to_string(),
            install: "apt-get install bash   # as root; on Windows, Git for Windows brings it"
                .into(),
        });
    }
    refuse_if(missing)?;
    let target_dir = target_dir(project);
    let library = library_name(project)?;
    let (what, written) = match carrier {
        Carrier::Component => {
            let target = component(project, &target_dir)?;
            let file = format!("{library}.wasm");
            (
                "cargo rustc",
                target_dir.join(target).join("component").join(file),
            )
        }
        Carrier::Library => {
            let mut cargo = cargo(project, &target_dir);
            run(
                "cargo build",
                cargo
                    .args(["build", "--release", "--lib", "--target-dir"])
                    .arg(&target_dir),
            )?;
            let file = format!("{}{library}{}", consts::DLL_PREFIX, consts::DLL_SUFFIX);
            ("cargo build", target_dir.join("release").join(file))
        }
    };
    place(what, &written, output)
}

pub(super) fn test(project: &Project) -> Result<(), BuildError> {
    refuse_if(missing_rust())?;
    let target_dir = target_dir(project);
    let mut cargo = cargo(project, &target_dir);
    run(
        "cargo test",
        cargo.args(["test", "--target-dir"]).arg(&target_dir),
    )
}

fn refuse_if(missing: Vec<Missing>) -> Result<(), BuildError> {
    if missing.is_empty() {
        return Ok(());
    }
    Err(BuildError::Missing {
        language: Language::Rust,
        missing,
    })
}

fn missing_rust() -> Vec<Missing> {
    ["cargo", "rustc"]
        .into_iter()
        .filter(|tool| version(tool, "--version").is_none())
        .map(|tool| Missing {
            tool: tool.into(),
            found: Found(None).to_string(),
            install: INSTALL_RUST.into(),
        })
        .collect()
}

fn target_dir(project: &Project) -> PathBuf {
    let given = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    // Relative to where the command was given, as cargo reads it.
    let given = given.and_then(|folder| std::path::absolute(folder).ok());
    given.unwrap_or_else(|| project.folder.join("target"))
}

/// Cargo in the project's folder, without what would change where and for what it builds.
fn cargo(project: &Project, target_dir: &Path) -> Command {
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(&project.folder)
        .env_remove("CARGO_BUILD_TARGET");
    cargo.env("CARGO_TARGET_DIR", target_dir);
    cargo
}

/// Builds the component; returns the target whose folder it is in.
fn component(project: &Project, target_dir: &Path) -> Result<String, BuildError> {
    fs::create_dir_all(target_dir).map_err(io_error("make the folder", target_dir))?;
    let scratch = scratch()?;
    let script = scratch.path().join("toolchain");
    fs::write(&script, TOOLCHAIN).map_err(io_error("write", &script))?;
    let chosen = printed_by(
        "choosing a toolchain for components",
        Command::new("bash")
            .arg(&script)
            .arg(target_dir)
            .current_dir(&project.folder),
    )?;
    let mut target = String::new();
    let mut cargo = cargo(project, target_dir);
    // Only cdylib, whatever else the crate asks for: beside an rlib cargo does no link-time
    // optimization.
    cargo.args([
        "rustc",
        "--profile",
        "component",
        "--lib",
        "--crate-type",
        "cdylib",
    ]);
    cargo.arg("--target-dir").arg(target_dir);
    for line in chosen.lines() {
        match line.split_once(' ') {
            Some(("target", triple)) => {
                target = triple.to_owned();
                cargo.args(["--target", triple]);
            }
            Some(("env", pair)) => {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                cargo.env(name, value);
            }
            Some(("option", option)) => {
                cargo.arg(option);
            }
            _ => {}
        }
    }
    run("cargo rustc", &mut cargo)?;
    Ok(target)
}

/// The stem that cargo gives to the library's files.
fn library_name(project: &Project) -> Result<String, BuildError> {
    let path = project.folder.join("Cargo.toml");
    let text = fs::read_to_string(&path).map_err(io_error("read", &path))?;
    let wrong = |message: String| BuildError::Project {
        path: path.clone(),
        message,
    };
    let manifest: toml::Table = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let name = |table: &str| manifest.get(table)?.get("name")?.as_str();
    let name = name("lib").or_else(|| name("package"));
    let name = name.ok_or_else(|| wrong("expected a `name` below [package]; found none".into()))?;
    Ok(name.replace('-', "_"))
}
