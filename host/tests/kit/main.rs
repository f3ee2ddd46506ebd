//! The author's kit, on real plugins.

mod cases;

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
