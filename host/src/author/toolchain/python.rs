//! Python, by componentize-py: the interpreter and the plugin in one component.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

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
fn componentize_py() -> Result<PathBuf, BuildError> {
    let in_path = version("componentize-py", "--version");
    if in_path.is_some_and(|version| version.ends_with(COMPONENTIZE_PY)) {
        return Ok("componentize-py".into());
    }
    let missing = Missing {
        tool: "Python 3.10 or later, with the modules venv and ensurepip".into(),
        found: match first_of(&PYTHONS, "--version") {
            Some((_, version)) => format!("{version}, too old or without one of them"),
            None => Found(None).to_string(),
        },
        install: "apt-get install python3 python3-venv   # as root".into(),
    };
    let requirement = format!("componentize-py=={COMPONENTIZE_PY}");
    let environment = environment(Language::Python, &requirement, missing)?;
    Ok(program(&environment, "componentize-py"))
}

const PYTHONS: [&str; 2] = ["python3", "python"];

/// A virtual environment of our own with one package of PyPI, `NAME==VERSION`. `missing` is what
/// to say where there is no Python to make it with.
pub(super) fn environment(
    language: Language,
    requirement: &str,
    missing: Missing,
) -> Result<PathBuf, BuildError> {
    const SCRIPT: &str = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))";
    kept(language, &requirement.replace("==", "-"), |folder| {
        let able = |program: &&str| {
            let asked = Command::new(program).args(["-c", SCRIPT]).output();
            asked.is_ok_and(|output| output.status.success())
        };
        let Some(python) = PYTHONS.into_iter().find(|program| able(program)) else {
            return Err(BuildError::Missing {
                language,
                missing: vec![missing],
            });
        };
        eprintln!("fetching {requirement} into {}, once", folder.display());
        run(
            "python3 -m venv",
            Command::new(python).args(["-m", "venv"]).arg(folder),
        )?;
        let mut pip = Command::new(program(folder, "python"));
        pip.args(["-m", "pip", "install", "--quiet"]);
        pip.args(["--disable-pip-version-check", requirement]);
        run(&format!("pip install {requirement}"), &mut pip)
    })
}

/// A command of a virtual environment.
pub(super) fn program(environment: &Path, name: &str) -> PathBuf {
    match cfg!(windows) {
        true => environment.join("Scripts").join(format!("{name}.exe")),
        false => environment.join("bin").join(name),
    }
}
