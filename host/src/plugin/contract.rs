//! The contract of a component, read from its bytes before anything is compiled.

use std::fmt;

use wasmparser::{Encoding, Parser, Payload};

use super::LoadError;

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

    /// The name of the interface, with the version that this host serves.
    #[must_use]
    pub fn interface(self) -> &'static str {
        match self {
            Stage::Generator => "pacos:plugin/generator@0.1.0",
            Stage::Filter => "pacos:plugin/filter@0.1.0",
            Stage::Evaluator => "pacos:plugin/evaluator@0.1.0",
        }
    }

    /// The stage whose interface this is, if it is one that this host serves.
    #[must_use]
    pub fn from_interface(interface: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|stage| stage.interface() == interface)
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

/// Reads which stage a component implements.
pub(super) fn stage_of_component(name: &str, bytes: &[u8]) -> Result<Stage, LoadError> {
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
    let mut exports = Vec::new();
    // Depth 0 is the component itself; what modules inside it export is their own affair.
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(|e| not_component(format!("it is damaged: {e}")))? {
            Payload::Version {
                encoding: Encoding::Module,
                ..
            } if depth == 0 => {
                return Err(not_component(
                    "it is a core module, as `wasm32-unknown-unknown` makes them".into(),
                ));
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    let export =
                        export.map_err(|e| not_component(format!("it is damaged: {e}")))?;
                    exports.push(export.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    stage_among(name, &exports)
}

/// Picks the stage out of the interfaces that a plugin names.
pub(super) fn stage_among(name: &str, interfaces: &[String]) -> Result<Stage, LoadError> {
    if let Some(stage) = interfaces.iter().find_map(|i| Stage::from_interface(i)) {
        return Ok(stage);
    }
    let served = Stage::ALL.map(Stage::interface).join(", ");
    let other = interfaces.iter().find(|i| i.starts_with("pacos:plugin/"));
    Err(LoadError::Contract {
        name: name.to_owned(),
        found: if interfaces.is_empty() {
            "nothing".to_owned()
        } else {
            interfaces.join(", ")
        },
        expected: served,
        advice: match other {
            Some(_) => "To use it: take the release of Pacos that serves its contract, or the release of the plugin that speaks this one. To build it for this host: depend on `pacos-plugin` 0.1".to_owned(),
            None => "It is no Pacos plugin: an author ends it with `pacos_plugin::export!(…)`".to_owned(),
        },
    })
}
