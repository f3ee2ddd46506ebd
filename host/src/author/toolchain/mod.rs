//! Building a project with the tools of its language: finding them, running them, and saying
//! which are not there and how they come.

mod c;
mod javascript;
mod python;
mod rust;
mod tools;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::SystemTime,
};

use super::project::{Language, Project};

/// What a plugin is built as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// A WASM component.
    Component,
    /// A dynamic library for this machine.
    Library,
}

/// A tool that is not on this machine, or not in a version that will do.
#[derive(Debug)]
pub struct Missing {
    /// The tool, with the version wanted.
    pub tool: String,
    /// What there is in its place.
    pub found: String,
    /// The command that installs it.
    pub install: String,
}

/// A project that could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Tools are missing; all of them at once.
    #[error("{}", in_lines(.language, .missing))]
    Missing {
        /// What is to be built.
        language: Language,
        /// What is not there.
        missing: Vec<Missing>,
    },
    /// The language has no such carrier.
    #[error(
        "a plugin in {0} is a component and nothing else: expected no --native. Libraries are built from Rust and C"
    )]
    NoLibrary(Language),
    /// A tool was not content; what it has to say has been printed.
    #[error("{what} failed ({status}), see above")]
    Tool {
        /// What was being done.
        what: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// A tool could not be started, or a file not be read or written.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why not.
        source: io::Error,
    },
    /// A tool says that all is well, and what it should have made is not there.
    #[error("expected {what} to write {}; found no such file", path.display())]
    NoOutput {
        /// What was being done.
        what: String,
        /// The file.
        path: PathBuf,
    },
    /// The project's own files do not fit.
    #[error("{}: {message}", path.display())]
    Project {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

fn in_lines(language: &Language, missing: &[Missing]) -> String {
    let (these, are) = match missing.len() {
        1 => ("a tool", "is"),
        _ => ("tools", "are"),
    };
    let mut text = format!("building a plugin in {language} needs {these} that {are} not here");
    for Missing {
        tool,
        found,
        install,
    } in missing
    {
        text += &format!("\n  expected {tool}; found {found}\n      {install}");
    }
    text
}

/// Builds a project, and returns the plugin's file. What the tools print goes to standard error.
///
/// # Errors
/// When a tool is missing or not content.
pub fn build(project: &Project, carrier: Carrier) -> Result<PathBuf, BuildError> {
    let output = project.output(carrier);
    let folder = project.folder.join("build");
    fs::create_dir_all(&folder).map_err(io_error("make the folder", &folder))?;
    match (project.language, carrier) {
        (Language::Rust, _) => rust::build(project, carrier, &output)?,
        (Language::C, Carrier::Component) => c::build_component(project, &output)?,
        (Language::C, Carrier::Library) => c::build_library(project, &output)?,
        (Language::Python, Carrier::Component) => python::build(project, &output)?,
        (Language::JavaScript, Carrier::Component) => javascript::build(project, &output)?,
        (language, Carrier::Library) => return Err(BuildError::NoLibrary(language)),
    }
    Ok(output)
}

/// Whether the built file is younger than everything that it is built from. Of Rust cargo knows
/// better, and is quick to say so.
#[must_use]
pub fn fresh(project: &Project, carrier: Carrier) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    let Some(built) = modified(&project.output(carrier)) else {
        return false;
    };
    let sources = ["src", "pacos", "plugin.toml"].map(|name| project.folder.join(name));
    project.language != Language::Rust
        && sources
            .iter()
            .all(|source| newest(source).is_some_and(|newest| newest < built))
}

/// When a file, or anything in a folder, was last changed; a file that went away changes its
/// folder. None where that cannot be told.
fn newest(path: &Path) -> Option<SystemTime> {
    let data = path.symlink_metadata().ok()?;
    let mut newest_time = data.modified().ok()?;
    if data.is_dir() {
        for entry in fs::read_dir(path).ok()? {
            newest_time = newest_time.max(newest(&entry.ok()?.path())?);
        }
    }
    Some(newest_time)
}

/// Runs the tests that the language itself has: `cargo test`. The other languages' are the
/// project's cases.
///
/// # Errors
/// As [`build`]; a test that fails is a tool that is not content.
pub fn run_own_tests(project: &Project) -> Result<(), BuildError> {
    match project.language {
        Language::Rust => rust::test(project),
        Language::C | Language::Python | Language::JavaScript => Ok(()),
    }
}

/// The world of the contract that the project's plugin is of.
fn world(project: &Project) -> String {
    format!("{}-plugin", project.kind)
}

/// Runs a command whose words are for the user. What it writes to standard output goes to
/// standard error: ours is for results.
fn run(what: &str, command: &mut Command) -> Result<(), BuildError> {
    let status = command
        .stdout(io::stderr())
        .status()
        .map_err(|source| BuildError::Io {
            doing: format!("start {}", command.get_program().display()),
            source,
        })?;
    match status.success() {
        true => Ok(()),
        false => Err(BuildError::Tool {
            what: what.to_owned(),
            status,
        }),
    }
}

/// Runs a command for what it prints.
fn printed_by(what: &str, command: &mut Command) -> Result<String, BuildError> {
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|source| BuildError::Io {
            doing: format!("start {}", command.get_program().display()),
            source,
        })?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(BuildError::Tool {
            what: what.to_owned(),
            status: output.status,
        }),
    }
}

/// Puts a file that a tool has written where the project's plugin is expected.
fn place(what: &str, written: &Path, output: &Path) -> Result<(), BuildError> {
    if !written.is_file() {
        return Err(BuildError::NoOutput {
            what: what.to_owned(),
            path: written.to_owned(),
        });
    }
    // Under another name first: whoever reads the old file meanwhile keeps it whole.
    let new = output.with_added_extension("new");
    fs::copy(written, &new).map_err(io_error("write", &new))?;
    fs::rename(&new, output).map_err(io_error("write", output))
}

fn io_error<'a>(
    doing: &'a str,
    path: &'a (impl AsRef<Path> + ?Sized),
) -> impl FnOnce(io::Error) -> BuildError + 'a {
    move |source| BuildError::Io {
        doing: format!("{doing} {}", path.as_ref().display()),
        source,
    }
}

/// How a tool that was looked for shows up in a message.
struct Found<'a>(Option<&'a str>);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.unwrap_or("none in PATH"))
    }
}
