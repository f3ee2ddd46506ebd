//! The two sides, as their users would have them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Result;
use extism::{CompiledPlugin, Manifest, Plugin, PluginBuilder, Wasm, convert::Json};
use pacos::{
    manifest::{Limits, Plugin as RecipePlugin, PluginSource},
    plugin::{Instance, Loaded, NoCalls},
};
use pacos_plugin::{Candidate, Verdict};
use tokio::runtime::Runtime;

/// Of linear memory.
const PAGE: usize = 64 << 10;

/// A component as it is committed, with the limits that a recipe has unless it says otherwise.
pub struct Component(RecipePlugin);

impl Component {
    /// Read from its file, like a plugin of a user's.
    pub fn file(name: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
        let place = match name {
            "keep-all" => "tests/plugins/components",
            _ => "plugins/components",
        };
        let file = root.join(place).join(name).with_extension("wasm");
        Component(RecipePlugin::alone(PluginSource::File(file)))
    }

    pub fn path(&self) -> &Path {
        match &self.0.source {
            PluginSource::File(file) => file,
            PluginSource::Bundled(name) => Path::new(name),
            PluginSource::Remote(_) => unreachable!("components are taken from files here"),
        }
    }

    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    pub fn load(&self, runtime: &Runtime) -> Result<Loaded> {
        Ok(runtime.block_on(Loaded::load(&self.0))?)
    }

    /// From the file to an instance at work.
    pub fn instance(&self, runtime: &Runtime) -> Result<Box<dyn Instance>> {
        runtime.block_on(async { Ok(Loaded::load(&self.0).await?.instance(&[]).await?) })
    }
}

/// The same filters for Extism, with the same bounds of memory and of time.
pub struct ExtismPlugin {
    manifest: Manifest,
    cache: PathBuf,
}

impl ExtismPlugin {
    pub fn new(guest: &Path, cache: &Path, limits: &Limits) -> Self {
        let pages = u32::try_from(limits.memory_bytes / PAGE).unwrap_or(u32::MAX);
        let manifest = Manifest::new([Wasm::file(guest)])
            .with_memory_max(pages)
            .with_timeout(limits.compute);
        ExtismPlugin {
            manifest,
            cache: cache.to_owned(),
        }
    }

    /// Reads the file and compiles it, or finds it in the cache.
    pub fn compile(&self) -> Result<CompiledPlugin> {
        PluginBuilder::new(&self.manifest)
            .with_cache_config(&self.cache)
            .compile()
    }

    /// From the file to a plugin. Extism makes the instance on the first call.
    pub fn start(&self) -> Result<Plugin> {
        Plugin::new_from_compiled(&self.compile()?)
    }
}

/// Writes the configuration of wasmtime's own cache, which is the one that Extism has.
pub fn extism_cache(folder: &Path) -> Result<PathBuf> {
    let file = folder.join("cache.toml");
    let compiled = folder.join("compiled");
    fs::write(&file, format!("[cache]\ndirectory = {compiled:?}\n"))?;
    Ok(file)
}

pub fn judge_component(
    runtime: &Runtime,
    instance: &mut dyn Instance,
    batch: Vec<Candidate>,
) -> Result<Vec<Verdict>> {
    Ok(runtime.block_on(instance.judge_batch(batch, Arc::new(NoCalls), 1))?)
}

/// `function`: the filter's name in the guest.
pub fn judge_extism(
    plugin: &mut Plugin,
    function: &str,
    batch: Vec<Candidate>,
) -> Result<Vec<Verdict>> {
    let Json(verdicts) = plugin.call(function, Json(batch))?;
    Ok(verdicts)
}
