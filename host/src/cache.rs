//! The folder for what can be had again: fetched plugins, compiled components, tools.

use std::{env, path::PathBuf};

/// `PACOS_CACHE`, or `pacos` in the folder where this user's programs keep such things:
/// `$XDG_CACHE_HOME`, or `~/.cache`. None where there is no home folder.
#[must_use]
pub fn folder() -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty());
    set("PACOS_CACHE").map(PathBuf::from).or_else(|| {
        let caches = set("XDG_CACHE_HOME").map(PathBuf::from);
        let caches = caches.or_else(|| Some(env::home_dir()?.join(".cache")))?;
        Some(caches.join("pacos"))
    })
}
