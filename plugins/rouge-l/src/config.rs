//! The plugin's table of the manifest.

use pacos_plugin::schemars::JsonSchema;
use serde::Deserialize;

/// Which text of a record is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(crate = "pacos_plugin::schemars")]
#[serde(rename_all = "kebab-case")]
pub enum Field {
    /// What Self-Instruct and Alpaca compare.
    #[default]
    Instruction,
    /// For answers that should differ.
    Output,
    /// For instructions that are few and inputs that are many.
    InstructionAndInput,
}

/// The configuration; the [crate's page](crate) has it as a table.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[schemars(crate = "pacos_plugin::schemars")]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The highest F that is kept, 0 to 1.
    pub threshold: f64,
    /// Which text is compared.
    pub field: Field,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            threshold: 0.7,
            field: Field::default(),
        }
    }
}
