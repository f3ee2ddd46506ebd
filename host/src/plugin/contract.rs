//! The contract of a component, read from its bytes before anything is compiled.

use std::{cmp::Ordering, fmt};

use wasmparser::{Chunk, Encoding, Parser, Payload};

use super::LoadError;

/// Contracts that this host serves. What came with a later one of the same track is only added, so
/// that one host serves them all: in a component, wasmtime finds an interface under any version of
/// its track.
const SERVED: [&str; 2] = ["0.1.0", pacos_plugin::CONTRACT];

/// What a plugin is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// `pacos:plugin/generator`
    Generator,
    /// `pacos:plugin/filter`
    Filter,
    /// `pacos:plugin/evaluator`
    Evaluator,
}

impl Stage {
    const ALL: [Stage; 3] = [Stage::Generator, Stage::Filter, Stage::Evaluator];

    /// The name of the interface, with the newest version that this host serves.
    #[must_use]
    pub fn interface(self) -> &'static str {
        match self {
            Stage::Generator => "pacos:plugin/generator@0.1.1",
            Stage::Filter => "pacos:plugin/filter@0.1.1",
            Stage::Evaluator => "pacos:plugin/evaluator@0.1.1",
        }
    }

    /// The stage whose interface this is, if it is one that this host serves.
    #[must_use]
    pub fn from_interface(interface: &str) -> Option<Self> {
        let (name, version) = interface.split_once('@')?;
        let stage = Self::ALL.into_iter().find(|stage| {
            let own = stage.interface().split_once('@');
            own.is_some_and(|(own, _)| own == name)
        });
        stage.filter(|_| SERVED.contains(&version))
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Generator => "generator",
            Stage::Filter => "filter",
            Stage::Evaluator => "evaluator",
        })
    }
}

/// Reads the names of what a component exports.
pub(super) fn interfaces_of_component(name: &str, bytes: &[u8]) -> Result<Vec<String>, LoadError> {
    let not_component = |found: String| LoadError::NotComponent {
        name: name.to_owned(),
        found,
    };
    if bytes.is_empty() {
        return Err(not_component("the file is empty".into()));
    }
    if bytes.starts_with(b"\x7fELF") {
        return Err(not_component(
            "it is a dynamic library; a recipe that trusts it says trust = \"native\" and its sha256"
                .into(),
        ));
    }
    if !bytes.starts_with(b"\0asm") {
        return Err(not_component("it does not begin with \\0asm".into()));
    }
    let damaged = |error: &dyn fmt::Display| not_component(format!("it is damaged: {error}"));
    let mut exports = Vec::new();
    let mut parser = Parser::new(0);
    let mut rest = bytes;
    loop {
        let chunk = parser.parse(rest, true).map_err(|e| damaged(&e))?;
        let Chunk::Parsed { consumed, payload } = chunk else {
            unreachable!("there is no more data than this");
        };
        rest = &rest[consumed..];
        match payload {
            Payload::Version {
                encoding: Encoding::Module,
                ..
            } => {
                return Err(not_component(
                    "it is a core module, as `wasm32-unknown-unknown` makes them".into(),
                ));
            }
            // What is inside is its own affair, and most of the file.
            Payload::ModuleSection {
                unchecked_range: inside,
                ..
            }
            | Payload::ComponentSection {
                unchecked_range: inside,
                ..
            } => {
                rest = rest
                    .get(inside.len()..)
                    .ok_or_else(|| damaged(&"unexpected end-of-file"))?;
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    let export = export.map_err(|e| damaged(&e))?;
                    exports.push(export.name.name.to_owned());
                }
            }
            Payload::End(_) => return Ok(exports),
            _ => {}
        }
    }
}

/// Picks the stage out of the interfaces that a plugin names.
pub(super) fn stage_among(name: &str, interfaces: &[String]) -> Result<Stage, LoadError> {
    if let Some(stage) = interfaces.iter().find_map(|i| Stage::from_interface(i)) {
        return Ok(stage);
    }
    Err(LoadError::Contract {
        name: name.to_owned(),
        found: match interfaces {
            [] => "nothing".to_owned(),
            some => some.join(", "),
        },
        expected: Stage::ALL.map(Stage::interface).join(", "),
        advice: advice(interfaces),
    })
}

/// What the user, and the author, of a plugin of another contract can do: one sentence each.
fn advice(interfaces: &[String]) -> String {
    let Some((_, version)) = interfaces
        .iter()
        .find_map(|interface| interface.strip_prefix("pacos:plugin/")?.split_once('@'))
    else {
        return "It is no Pacos plugin: an author ends it with `pacos_plugin::export!(…)`"
            .to_owned();
    };
    let ours = pacos_plugin::CONTRACT;
    match numbers(version).cmp(&numbers(ours)) {
        Ordering::Greater => format!(
            "It was built for contract {version}, which is newer than this host's {ours}. \
             Who uses it: take a newer release of Pacos, or an older release of the plugin. \
             Who wrote it: a build with a `pacos-plugin` of contract {ours} also runs on hosts of this age"
        ),
        Ordering::Less => format!(
            "It was built for contract {version}, which is older than this host's {ours} and no longer served. \
             Who uses it: take a newer release of the plugin, or an older release of Pacos. \
             Who wrote it: build it again with a `pacos-plugin` of contract {ours}"
        ),
        Ordering::Equal => format!(
            "It has contract {ours}, but none of the stages of it. \
             Who uses it: ask its author for a generator, a filter or an evaluator. \
             Who wrote it: end it with `pacos_plugin::export!(…)`"
        ),
    }
}

/// The numbers of a version, for their order; what is no number comes first.
fn numbers(version: &str) -> Vec<Option<u64>> {
    version.split('.').map(|part| part.parse().ok()).collect()
}
