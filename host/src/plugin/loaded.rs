//! A plugin of a recipe, loaded: found, checked, described, ready to make instances.

use std::{io::Write, path::Path, sync::Arc, time::Duration};

use pacos_plugin as plain;
use sha2::{Digest, Sha256};

use super::{
    CallError, HostCalls, LoadError, Stage, contract,
    native::NativePlugin,
    places::Places,
    source,
    usage::{Meter, Metered},
    wasm::{self, Contents, FileState, WasmPlugin},
};
use crate::{
    manifest::{Plugin, PluginSource},
    models::BoxFuture,
};

/// The components inside the binary, by name.
pub const BUNDLED: [(&str, &[u8]); 4] = [
    (
        "self-instruct",
        include_bytes!("../../../plugins/components/self-instruct.wasm"),
    ),
    (
        "alpaca-heuristics",
        include_bytes!("../../../plugins/components/alpaca-heuristics.wasm"),
    ),
    (
        "rouge-l",
        include_bytes!("../../../plugins/components/rouge-l.wasm"),
    ),
    (
        "pairwise-judge",
        include_bytes!("../../../plugins/components/pairwise-judge.wasm"),
    ),
];

/// One instance of a plugin, whatever carries it. Calls come one at a time; after an error that
/// is not the plugin's own the instance is not used again. `patience` multiplies the compute
/// limit of a component; a library has none.
pub trait Instance: Send {
    /// What the plugin says of itself.
    fn describe(&mut self) -> BoxFuture<'_, Result<plain::Description, CallError>>;

    /// Hands over the configuration, as JSON.
    fn configure<'a>(
        &'a mut self,
        config: &'a str,
    ) -> BoxFuture<'a, Result<Vec<plain::Diagnostic>, CallError>>;

    /// Hands over the seeds. Evaluators have none.
    fn start<'a>(&'a mut self, seeds: &'a [plain::Task]) -> BoxFuture<'a, Result<(), CallError>>;

    /// Generators: one unit.
    fn generate(
        &mut self,
        unit: plain::Unit,
        calls: Arc<dyn HostCalls>,
        patience: u32,
    ) -> BoxFuture<'_, Result<plain::Proposals, CallError>>;

    /// Filters: the state after these verdicts.
    fn restore(&mut self, history: Vec<plain::Judged>) -> BoxFuture<'_, Result<(), CallError>>;

    /// Filters: one batch.
    fn judge_batch(
        &mut self,
        batch: Vec<plain::Candidate>,
        calls: Arc<dyn HostCalls>,
        patience: u32,
    ) -> BoxFuture<'_, Result<Vec<plain::Verdict>, CallError>>;

    /// Evaluators: one item.
    fn judge_item(
        &mut self,
        item: plain::Item,
        calls: Arc<dyn HostCalls>,
        patience: u32,
    ) -> BoxFuture<'_, Result<Vec<plain::Judgement>, CallError>>;

    /// Evaluators: all judgements.
    fn summarise(
        &mut self,
        judgements: Vec<plain::Judgement>,
    ) -> BoxFuture<'_, Result<Vec<plain::Metric>, CallError>>;

    /// Time that the last call computed, where the carrier knows it, and bytes of linear memory
    /// taken so far.
    fn reading(&self) -> (Option<Duration>, u64) {
        (None, 0)
    }
}

/// A plugin of a recipe.
pub struct Loaded {
    /// What the plugin says of itself.
    pub description: plain::Description,
    /// What it is for.
    pub stage: Stage,
    /// Of the file, lower-case hexadecimal.
    pub sha256: String,
    /// Of the file, in bytes.
    pub size: u64,
    /// How the recipe uses it.
    pub recipe: Plugin,
    /// What its calls come to, in all instances.
    pub meter: Meter,
    places: Arc<Places>,
    config: String,
    carrier: Carrier,
}

enum Carrier {
    Wasm(WasmPlugin),
    Native(NativePlugin),
    /// Wrong on purpose, to show that the conformance kit sees it.
    #[cfg(test)]
    Mutant(Box<dyn Fn() -> Box<dyn Instance> + Send + Sync>),
}

impl Loaded {
    /// Finds, checks and loads a plugin, and asks what it is.
    ///
    /// # Errors
    /// Whatever keeps it from being used, before any of its code has a model to ask.
    pub async fn load(plugin: &Plugin) -> Result<Self, LoadError> {
        let name = name(&plugin.source);
        let state = state(plugin);
        let unchanged = state
            .as_ref()
            .and_then(|state| unchanged(&name, plugin, state));
        let Found {
            sha256,
            size,
            stage,
            carrier,
        } = match unchanged {
            Some(found) => found,
            None => read(&name, plugin, state)?,
        };
        let mut loaded = Loaded {
            description: plain::Description::new(name.clone(), ""),
            stage,
            sha256,
            size,
            recipe: plugin.clone(),
            meter: Meter::default(),
            places: Places::new(plugin.limits.all_memory_bytes as u64),
            config: plugin.config.to_string(),
            carrier,
        };
        let failed = |call| move |error| LoadError::Call { name, call, error };
        let described = async { loaded.bare().await?.describe().await };
        loaded.description = described.await.map_err(failed("describe"))?;
        Ok(loaded)
    }

    /// Name and version, for messages: `rouge-l 0.1.0`.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{} {}", self.description.name, self.description.version)
    }

    /// A plugin made in place.
    #[cfg(test)]
    pub(crate) async fn of(
        stage: Stage,
        make: impl Fn() -> Box<dyn Instance> + Send + Sync + 'static,
    ) -> Result<Self, CallError> {
        Ok(Loaded {
            description: make().describe().await?,
            stage,
            sha256: String::new(),
            size: 0,
            recipe: Plugin::alone(PluginSource::Bundled(String::new())),
            meter: Meter::default(),
            places: Places::new(1 << 40),
            config: "{}".into(),
            carrier: Carrier::Mutant(Box::new(make)),
        })
    }

    /// Gives the plugin another configuration, for the instances that are made from now on.
    pub fn configure(&mut self, config: serde_json::Value) {
        self.config = config.to_string();
        self.recipe.config = config;
    }

    /// An instance that has been told nothing.
    pub(crate) async fn bare(&self) -> Result<Box<dyn Instance>, CallError> {
        Ok(match &self.carrier {
            Carrier::Wasm(component) => Box::new(component.instantiate().await?),
            Carrier::Native(library) => Box::new(library.instantiate()?),
            #[cfg(test)]
            Carrier::Mutant(make) => make(),
        })
    }

    /// What the plugin has to say of its configuration.
    ///
    /// # Errors
    /// When the plugin breaks over it.
    pub async fn diagnose(&self) -> Result<Vec<plain::Diagnostic>, CallError> {
        self.bare().await?.configure(&self.config).await
    }

    /// A fresh instance, configured, and started with the seeds if it is no evaluator. Waits
    /// where as many live as `limits.all_memory_mb` holds.
    ///
    /// # Errors
    /// When the plugin breaks, or refuses a configuration that it accepted before.
    pub async fn instance(&self, seeds: &[plain::Task]) -> Result<Box<dyn Instance>, CallError> {
        let mut instance: Box<dyn Instance> = Box::new(Metered {
            // Before there is an instance: it may have to wait.
            place: self.places.take().await,
            instance: self.bare().await?,
            meter: self.meter.clone(),
        });
        let diagnostics = instance.configure(&self.config).await?;
        let error = diagnostics
            .into_iter()
            .find(|d| d.severity == plain::Severity::Error);
        if let Some(error) = error {
            return Err(CallError::Plugin(plain::Error::new(
                "bad-config",
                format!("{}: {}", error.path, error.message),
            )));
        }
        if self.stage != Stage::Evaluator {
            instance.start(seeds).await?;
        }
        Ok(instance)
    }
}

fn name(source: &PluginSource) -> String {
    match source {
        PluginSource::Bundled(name) => name.clone(),
        PluginSource::File(path) => path.display().to_string(),
        PluginSource::Remote(remote) => remote.to_string(),
    }
}

/// What a plugin's source holds.
struct Found {
    sha256: String,
    size: u64,
    stage: Stage,
    carrier: Carrier,
}

/// Of a file that may be taken for what it was. What is pinned is not: a pin is checked by reading.
fn state(plugin: &Plugin) -> Option<FileState> {
    match (&plugin.source, &plugin.sha256) {
        (PluginSource::File(path), None) if !plugin.native => FileState::of(path),
        _ => None,
    }
}

/// A component whose file has not changed since it was last read.
fn unchanged(name: &str, plugin: &Plugin, state: &FileState) -> Option<Found> {
    let (contents, component) = wasm::unchanged(state)?;
    let stage = contract::stage_among(name, &contents.interfaces).ok()?;
    let component = WasmPlugin::link(name, &component, stage, plugin.limits.clone()).ok()?;
    Some(Found {
        sha256: contents.sha256,
        size: contents.size,
        stage,
        carrier: Carrier::Wasm(component),
    })
}

/// A plugin whose bytes are read; `state` is that of its file before.
fn read(name: &str, plugin: &Plugin, state: Option<FileState>) -> Result<Found, LoadError> {
    let bytes = source::read(plugin)?;
    let (sha256, size) = (
        pacos_engine::digest::hex(&Sha256::digest(&*bytes)),
        bytes.len() as u64,
    );
    if let Some(expected) = &plugin.sha256
        && *expected != sha256
    {
        return Err(LoadError::Checksum {
            name: name.to_owned(),
            expected: expected.clone(),
            found: sha256,
        });
    }
    let (carrier, stage) = if plugin.native {
        let (library, stage) = load_library(name, &bytes)?;
        (Carrier::Native(library), stage)
    } else {
        let interfaces = contract::interfaces_of_component(name, &bytes)?;
        let stage = contract::stage_among(name, &interfaces)?;
        let component = WasmPlugin::load(name, &sha256, &bytes, stage, plugin.limits.clone())?;
        if let Some(state) = state {
            let sha256 = sha256.clone();
            let contents = Contents {
                sha256,
                size,
                interfaces,
            };
            wasm::remember(state, contents);
        }
        (Carrier::Wasm(component), stage)
    };
    Ok(Found {
        sha256,
        size,
        stage,
        carrier,
    })
}

/// Loads exactly the bytes that were hashed, from a private copy: the named file may change
/// between the two.
fn load_library(name: &str, bytes: &[u8]) -> Result<(NativePlugin, Stage), LoadError> {
    let read_error = |source| LoadError::Read {
        path: Path::new(name).to_owned(),
        source,
    };
    let mut copy = tempfile::Builder::new()
        .prefix("pacos-plugin-")
        .suffix(std::env::consts::DLL_SUFFIX)
        .tempfile()
        .map_err(read_error)?;
    copy.write_all(bytes).map_err(read_error)?;
    // The loader maps the file; its name is not needed afterwards, and it is removed on drop.
    NativePlugin::load(name, copy.path())
}
