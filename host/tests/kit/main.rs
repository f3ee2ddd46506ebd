//! The author's kit, on real plugins.

mod cases;
mod conformance;

use std::path::{Path, PathBuf};

use pacos::manifest::{Plugin, PluginSource};

fn bundled(name: &str) -> Plugin {
    Plugin::alone(PluginSource::Bundled(name.into()))
}

/// A committed component of `tests/plugins`.
fn component(name: &str) -> PathBuf {
    let components = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/plugins/components");
    components.join(format!("{name}.wasm"))
}

/// The same source as a library: cargo builds it for the tests and puts it beside them.
fn library(name: &str) -> PathBuf {
    let file = format!(
        "{}{}{}",
        std::env::consts::DLL_PREFIX,
        name.replace('-', "_"),
        std::env::consts::DLL_SUFFIX
    );
    std::env::current_exe().unwrap().with_file_name(file)
}
