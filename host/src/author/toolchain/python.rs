//! Python, by componentize-py: the interpreter and the plugin in one component.

use std::{path::Path, process::Command};

use super::{
    BuildError, Found, Missing, place, run,
    tools::{first_of, kept, scratch, version},
    world,
};
use crate::author::{Language, Project};

/// Its components differ from release to release, and so does what Python code has to say.
const COMPONENTIZE_PY: &str = "0.25.1";

pub(super) fn build(project: &Project, output: &Path) -> Result<(), BuildError> {
    let tool = componentize_py()?;
    let scratch = scratch()?;
    let written = scratch.path().join("plugin.wasm");
    let mut command = Command::new(&tool);
    command.current_dir(&project.folder);
    // The caller's own environment is no part of the plugin.
    command.env_remove("VIRTUAL_ENV").env_remove("PYTHONPATH");
    // The interpreter's clock, randomness and files would be the host's closed ones; without
    // them nobody has to wonder.
    command.args([
        "-q",
        "-d",
        "pacos/wit",
        "-w",
        &world(project),
        "componentize",
        "plugin",
    ]);
    command
        .args(["--stub-wasi", "-p", "src", "-p", "pacos", "-o"])
        .arg(&written);
    run("componentize-py", &mut command)?;
    place("componentize-py", &written, output)
}

/// The command: one in PATH of the right version, or one of our own.
fn componentize_py() -> Result<std::path::PathBuf, BuildError> {
    let in_path = version("componentize-py", "--version");
    if in_path.is_some_and(|version| version.ends_with(COMPONENTIZE_PY)) {
        return Ok("componentize-py".into());
    }
    let name = format!("componentize-py-{COMPONENTIZE_PY}");
    let environment = kept(Language::Python, &name, |folder| {
        let python = python()?;
        eprintln!(
            "fetching componentize-py {COMPONENTIZE_PY} into {}, once",
            folder.display()
        );
        run(
            "python3 -m venv",
            Command::new(python).args(["-m", "venv"]).arg(folder),
        )?;
        let requirement = format!("componentize-py=={COMPONENTIZE_PY}");
        let mut pip = Command::new(program(folder, "python"));
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            &requirement,
        ]);
        run("pip install componentize-py", &mut pip)
    })?;
    Ok(program(&environment, "componentize-py"))
}

fn program(environment: &Path, name: &str) -> std::path::PathBuf {
    match cfg!(windows) {
        true => environment.join("Scripts").join(format!("{name}.exe")),
        false => environment.join("bin").join(name),
    }
}

/// A Python that can make the environment.
fn python() -> Result<&'static str, BuildError> {
    const SCRIPT: &str = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))";
    let found = first_of(&["python3", "python"], "--version");
    let able = |(program, _): &(&'static str, String)| {
        let asked = Command::new(program).args(["-c", SCRIPT]).output();
        asked.is_ok_and(|output| output.status.success())
    };
    match found.as_ref().filter(|found| able(found)) {
        Some((program, _)) => Ok(program),
        None => Err(BuildError::Missing {
            language: Language::Python,
            missing: vec![Missing {
                tool: "Python 3.10 or later, with the modules venv and ensurepip".into(),
                found: match &found {
                    Some((_, version)) => format!("{version}, too old or without one of them"),
                    None => Found(None).to_string(),
                },
                install: "apt-get install python3 python3-venv   # as root".into(),
            }],
        }),
    }
}
