//! From a TOML manifest to a checked recipe.
//!
//! [`Recipe::load`] reads a manifest, lays the command line's overrides over it and checks all of
//! it: the result is a [`Recipe`] with nothing left to doubt, or [`Problems`], which hold
//! everything that is wrong, each with its line and what to write instead. Parts that know more of
//! a table than this module (a plugin of its `config`, the trainer of `[trainer]`) report in the
//! same form through [`Problem::at`] and [`Problem::from_diagnostic`].

mod diagnostic;
mod document;
mod duration;
mod load;
mod overrides;
mod parse;
mod reader;
mod recipe;
mod remote;
mod render;
mod resolved;
mod secrets;
mod serde_check;
mod server;
mod suggest;
mod tree;

pub use diagnostic::{Problem, Problems, Severity};
pub use document::{Document, Span};
pub use load::{Checks, PluginCheck, TableCheck};
pub use recipe::*;
pub use remote::{OciReference, Remote, RemoteError};
pub use serde_check::diagnostics;
pub use server::{ServerName, ServerNameError};
