//! Write generators, filters and evaluators for Pacos.
//!
//! A plugin is a type that implements [`Plugin`] and one of [`Generator`], [`Filter`] and
//! [`Evaluator`], and one [`export!`] line. The same source builds as a WASM component and as
//! a dynamic library; the recipe's manifest names the file.
//!
//! ```
//! use pacos_plugin::{Candidate, Description, Diagnostic, Error, Filter, Host, Payload, Plugin, Verdict};
//!
//! /// Drops answers that are too short to teach anything.
//! struct MinimumAnswer {
//!     config: Config,
//! }
//!
//! #[derive(serde::Deserialize, pacos_plugin::schemars::JsonSchema)]
//! #[serde(deny_unknown_fields, default)]
//! #[schemars(crate = "pacos_plugin::schemars")]
//! struct Config {
//!     /// Fewest words that an answer may have.
//!     words: usize,
//! }
//!
//! impl Default for Config {
//!     fn default() -> Self {
//!         Config { words: 3 }
//!     }
//! }
//!
//! impl Plugin for MinimumAnswer {
//!     type Config = Config;
//!
//!     fn describe() -> Description {
//!         Description::new("minimum-answer", "0.1.0")
//!     }
//!
//!     fn configure(config: Config) -> Result<Self, Vec<Diagnostic>> {
//!         if config.words == 0 {
//!             return Err(vec![Diagnostic::error("words", "0 words would keep everything").help("words = 3")]);
//!         }
//!         Ok(MinimumAnswer { config })
//!     }
//! }
//!
//! impl Filter for MinimumAnswer {
//!     fn judge(&mut self, batch: Vec<Candidate>, _host: &dyn Host) -> Result<Vec<Verdict>, Error> {
//!         Ok(batch.iter().map(|candidate| {
//!             let Payload::Task(task) = &candidate.payload else {
//!                 return Verdict::keep();
//!             };
//!             let words = task.output.split_whitespace().count();
//!             if words < self.config.words {
//!                 Verdict::drop("answer-too-short", format!("{words} words, {} wanted", self.config.words))
//!             } else {
//!                 Verdict::keep()
//!             }
//!             .score("words", words as f64)
//!         }).collect())
//!     }
//! }
//!
//! pacos_plugin::export!(filter MinimumAnswer);
//! # fn main() {}
//! ```
//!
//! A plugin has no files, no network of its own, no environment, no clock and no randomness but
//! the seeds that it is handed; what it may use of the world is in [`Host`]. Code is
//! straight-line: a call to a model or a server returns with the reply, and the host does the
//! waiting, retrying and recording.

#[doc(hidden)]
pub mod bindings;
#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod component;
mod configure;
mod export;
mod host;
pub mod native;
mod stage;
pub mod testing;
mod types;

pub use host::Host;
pub use schemars;
pub use stage::{Evaluator, Filter, Generator, Plugin};
pub use types::*;

/// The contract that this crate speaks: the version of the WIT package `pacos:plugin`.
pub const CONTRACT: &str = "0.1.1";

/// The README's plugin is compiled as a test, so that it cannot rot.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
