//! A plugin project: a folder with a `plugin.toml`, which says what the folder cannot.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::Deserialize;

use super::toolchain::Carrier;
use crate::plugin::Stage;

/// What a project is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Built by cargo, as a component or as a dynamic library.
    Rust,
    /// Built by clang or zig, as a component; by the C compiler, as a dynamic library.
    C,
    /// Built by componentize-py.
    Python,
    /// Built by componentize-js.
    JavaScript,
}

impl Language {
    /// All of them.
    pub const ALL: [Language; 4] = [
        Language::Rust,
        Language::C,
        Language::Python,
        Language::JavaScript,
    ];

    /// As the command line and `plugin.toml` write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Language::Rust => "rust",
            Language::C => "c",
            Language::Python => "python",
            Language::JavaScript => "javascript",
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Language::Rust => "Rust",
            Language::C => "C",
            Language::Python => "Python",
            Language::JavaScript => "JavaScript",
        })
    }
}

/// A language or a kind that there is not.
#[derive(Debug, thiserror::Error)]
#[error("expected {expected}, found `{found}`")]
pub struct UnknownWord {
    expected: &'static str,
    found: String,
}

impl FromStr for Language {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let found = Self::ALL
            .into_iter()
            .find(|language| language.name() == text);
        found.ok_or_else(|| UnknownWord {
            expected: "rust, c, python or javascript",
            found: text.to_owned(),
        })
    }
}

/// The stage that is called so.
///
/// # Errors
/// When none is.
pub fn kind_named(text: &str) -> Result<Stage, UnknownWord> {
    let stages = [Stage::Generator, Stage::Filter, Stage::Evaluator];
    let found = stages.into_iter().find(|stage| stage.to_string() == text);
    found.ok_or_else(|| UnknownWord {
        expected: "generator, filter or evaluator",
        found: text.to_owned(),
    })
}

/// A folder that is no plugin project.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// There is no `plugin.toml`.
    #[error(
        "{} is no plugin project: expected a file plugin.toml in it, as `pacos plugin new` writes one",
        .0.display()
    )]
    NoProject(PathBuf),
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not say what it has to.
    #[error("{}: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

/// A plugin project.
#[derive(Debug)]
pub struct Project {
    /// Its folder, absolute.
    pub folder: PathBuf,
    /// The plugin's name, which is that of the built file.
    pub name: String,
    /// What it is for.
    pub kind: Stage,
    /// What it is written in.
    pub language: Language,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginToml {
    name: String,
    kind: String,
    language: String,
}

impl Project {
    /// Reads the project in a folder.
    ///
    /// # Errors
    /// When there is none, or its `plugin.toml` does not say what it has to.
    pub fn open(folder: &Path) -> Result<Self, ProjectError> {
        let path = folder.join("plugin.toml");
        let read_error = |source| ProjectError::Read {
            path: path.clone(),
            source,
        };
        if !path.is_file() {
            return Err(ProjectError::NoProject(folder.to_owned()));
        }
        let text = fs::read_to_string(&path).map_err(read_error)?;
        let folder = folder.canonicalize().map_err(read_error)?;
        let malformed = |message: String| ProjectError::Malformed {
            path: path.clone(),
            message,
        };
        let words: PluginToml =
            toml::from_str(&text).map_err(|error| malformed(error.to_string()))?;
        if let Some(wrong) = name_problem(&words.name) {
            return Err(malformed(format!("`name` {wrong}")));
        }
        let unknown = |key: &str, error: UnknownWord| malformed(format!("`{key}`: {error}"));
        Ok(Project {
            folder,
            name: words.name,
            kind: kind_named(&words.kind).map_err(|error| unknown("kind", error))?,
            language: words
                .language
                .parse()
                .map_err(|error| unknown("language", error))?,
        })
    }

    /// Where `pacos plugin build` puts the plugin.
    #[must_use]
    pub fn output(&self, carrier: Carrier) -> PathBuf {
        let extension = match carrier {
            Carrier::Component => "wasm",
            Carrier::Library => std::env::consts::DLL_EXTENSION,
        };
        self.folder
            .join("build")
            .join(format!("{}.{extension}", self.name))
    }

    /// The cases that `pacos plugin test` runs.
    #[must_use]
    pub fn cases(&self) -> PathBuf {
        self.folder.join("tests/cases.toml")
    }
}

/// Longest name of a plugin, in bytes.
const LONGEST_NAME: usize = 64;

/// Why a name cannot be a plugin's: it becomes the name of a folder, of a file and of a crate.
pub(super) fn name_problem(name: &str) -> Option<String> {
    let part = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    let begins_well = name.starts_with(|first: char| first.is_ascii_lowercase());
    if !begins_well || !name.split('-').all(part) || name.len() > LONGEST_NAME {
        return Some(format!(
            "is {name:?}: expected small letters, digits and single hyphens, beginning with a \
             letter, at most {LONGEST_NAME} of them, such as \"short-answers\""
        ));
    }
    // Cargo would refuse the crate, or the crate would hide one that it is built from.
    const TAKEN: [&str; 8] = [
        "alloc",
        "core",
        "pacos-plugin",
        "proc-macro",
        "schemars",
        "serde",
        "std",
        "test",
    ];
    let keyword = KEYWORDS.contains(&name);
    (keyword || TAKEN.contains(&name)).then(|| {
        format!("is \"{name}\", which a crate of that name would hide: expected another name")
    })
}

/// Rust's, of those that could be names.
const KEYWORDS: [&str; 50] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate",
    "do", "dyn", "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl",
    "in", "let", "loop", "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref",
    "return", "self", "static", "struct", "super", "trait", "true", "try", "type", "typeof",
    "unsafe", "unsized", "use", "virtual", "where", "while",
];
