//! From a TOML manifest to a checked recipe.

mod document;
mod recipe;

pub use document::Document;
pub use recipe::*;
