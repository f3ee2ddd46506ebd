//! From a TOML manifest to a checked recipe.

mod recipe;

pub use recipe::*;
