//! Plugins as WASM components, on wasmtime.

mod backtrace;
mod bindings;
mod bounds;
mod compiled;
mod convert;
mod denied;
mod imports;
mod known;
mod said;
mod time;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use pacos_plugin as plain;
use wasmtime::{
    Config, Engine, Store, Trap, UpdateDeadline, WasmBacktraceDetails,
    component::{Component, HasSelf, Linker, ResourceTable},
};
use wasmtime_wasi::{
    I32Exit, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView,
    p2::bindings::{
        cli::environment,
        clocks::monotonic_clock,
        filesystem::preopens,
        sockets::{tcp_create_socket, udp_create_socket},
    },
    random::Deterministic,
};

pub use self::known::read_every_file;
pub(super) use self::known::{Contents, FileState};
use self::{
    bindings::{
        evaluator::{EvaluatorPlugin, EvaluatorPluginPre},
        filter::{FilterPlugin, FilterPluginPre},
        generator::{GeneratorPlugin, GeneratorPluginPre},
        guest::pacos::plugin::{accepted, http, log, models},
    },
    bounds::{Bounds, OutOfBounds},
    compiled::CompiledComponents,
    convert::all,
    denied::{Denied, HasDenied, Sought},
    said::Said,
    time::{ComputeClock, HasSleepless, Sleepless, StoppedTime},
};
use super::{CallError, HostCalls, LoadError, NoCalls, Stage};
use crate::{manifest::Limits, models::BoxFuture};

/// How often a running guest looks at its clock. A guest yields to its siblings as often.
const TICK: Duration = Duration::from_millis(10);

/// One engine a process: compiled code is shared, and one thread ticks for all.
fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let mut config = Config::new();
        // Calls suspend a guest on its own stack; the component model's own async is not used,
        // and costs on every call where it is on.
        config
            .epoch_interruption(true)
            .concurrency_support(false)
            .wasm_backtrace_details(WasmBacktraceDetails::Enable);
        let engine = Engine::new(&config).expect("the configuration holds for every machine");
        let ticker = engine.weak();
        std::thread::Builder::new()
            .name("wasm-clock".into())
            .spawn(move || {
                while let Some(engine) = ticker.upgrade() {
                    engine.increment_epoch();
                    drop(engine);
                    std::thread::sleep(TICK);
                }
            })
            .expect("a thread can be started");
        engine
    })
}

/// What a store holds: a closed WASI, the limits, the host's side of the call under way.
pub(super) struct State {
    wasi: WasiCtx,
    table: ResourceTable,
    bounds: Bounds,
    pub(super) calls: Arc<dyn HostCalls>,
    /// What the guest logged last as an error in the call under way. A panic's message comes so.
    pub(super) last_error: Option<String>,
    stdout: Said,
    stderr: Said,
    /// Whether a unit, a batch or an item is under way, and not the guest's own beginning.
    working: bool,
    sought: Sought,
    clock: ComputeClock,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

/// The compute limit was reached. Travels through wasmtime as the cause of a trap.
#[derive(Debug, thiserror::Error)]
#[error("out of compute time")]
struct OutOfTime {
    limit: Duration,
    patience: u32,
}

fn not_started(name: &str, error: &wasmtime::Error) -> LoadError {
    LoadError::Start {
        name: name.to_owned(),
        message: format!("{error:#}"),
    }
}

/// A compiled component, ready to make instances.
pub(super) struct WasmPlugin {
    pre: Pre,
    limits: Limits,
}

enum Pre {
    Generator(GeneratorPluginPre<State>),
    Filter(FilterPluginPre<State>),
    Evaluator(EvaluatorPluginPre<State>),
}

enum Exports {
    Generator(GeneratorPlugin),
    Filter(FilterPlugin),
    Evaluator(EvaluatorPlugin),
}

/// What a component may import: the host's side of the contract, and a closed WASI. The latter,
/// which takes a third of a millisecond to put together, only for one that asks for it.
fn linker(component: &Component) -> wasmtime::Result<&'static Linker<State>> {
    static LINKERS: [OnceLock<Linker<State>>; 2] = [OnceLock::new(), OnceLock::new()];
    let wanted = component.component_type();
    let wasi = wanted
        .imports(engine())
        .any(|(name, _)| name.starts_with("wasi:"));
    let made = &LINKERS[usize::from(wasi)];
    if let Some(linker) = made.get() {
        return Ok(linker);
    }
    let mut linker = Linker::<State>::new(engine());
    if wasi {
        add_closed_wasi(&mut linker)?;
    }
    models::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
    http::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
    log::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
    accepted::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
    Ok(made.get_or_init(|| linker))
}

fn add_closed_wasi(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    linker.allow_shadowing(true);
    monotonic_clock::add_to_linker::<_, HasSleepless>(linker, |state: &mut State| {
        Sleepless(&mut state.table)
    })?;
    environment::add_to_linker::<_, HasDenied>(linker, |state| Denied(state))?;
    preopens::add_to_linker::<_, HasDenied>(linker, |state| Denied(state))?;
    tcp_create_socket::add_to_linker::<_, HasDenied>(linker, |state| Denied(state))?;
    udp_create_socket::add_to_linker::<_, HasDenied>(linker, |state| Denied(state))?;
    linker.allow_shadowing(false);
    Ok(())
}

/// What was compiled on earlier starts.
fn compiled() -> Option<&'static CompiledComponents> {
    static COMPILED: OnceLock<Option<CompiledComponents>> = OnceLock::new();
    COMPILED.get_or_init(CompiledComponents::open).as_ref()
}

/// Compiles a component, or finds what was compiled on an earlier start.
fn compile(sha256: &str, bytes: &[u8]) -> wasmtime::Result<Component> {
    match compiled() {
        Some(compiled) => compiled.component(engine(), sha256, bytes),
        None => Component::new(engine(), bytes),
    }
}

/// What is in a file that is as it was when it was last read, if its compiled form is kept.
pub(super) fn unchanged(state: &FileState) -> Option<(Contents, Component)> {
    let compiled = compiled()?;
    let contents = known::recall(compiled.folder(), state)?;
    let component = compiled.kept(engine(), &contents.sha256)?;
    Some((contents, component))
}

/// Keeps what was read in a file.
pub(super) fn remember(state: FileState, contents: Contents) {
    if let Some(compiled) = compiled()
        && let Err(error) = known::remember(compiled.folder(), state, contents)
    {
        tracing::debug!("{}: {error}", compiled.folder().display());
    }
}

impl WasmPlugin {
    /// Compiles and links a component whose contract has been read already. `sha256` is that of
    /// `bytes`.
    pub(super) fn load(
        name: &str,
        sha256: &str,
        bytes: &[u8],
        stage: Stage,
        limits: Limits,
    ) -> Result<Self, LoadError> {
        let component = compile(sha256, bytes).map_err(|error| not_started(name, &error))?;
        WasmPlugin::link(name, &component, stage, limits)
    }

    /// Links a component that is compiled already.
    pub(super) fn link(
        name: &str,
        component: &Component,
        stage: Stage,
        limits: Limits,
    ) -> Result<Self, LoadError> {
        let failed = |error: wasmtime::Error| not_started(name, &error);
        let linker = linker(component).map_err(failed)?;
        let pre = linker.instantiate_pre(component).map_err(failed)?;
        let pre = match stage {
            Stage::Generator => GeneratorPluginPre::new(pre).map(Pre::Generator),
            Stage::Filter => FilterPluginPre::new(pre).map(Pre::Filter),
            Stage::Evaluator => EvaluatorPluginPre::new(pre).map(Pre::Evaluator),
        }
        .map_err(failed)?;
        Ok(WasmPlugin { pre, limits })
    }

    /// Makes an instance in a store of its own.
    pub(super) async fn instantiate(&self) -> Result<WasmInstance, CallError> {
        let clock = ComputeClock::new(self.limits.compute);
        let stdout = Said::new(plain::Level::Info);
        let stderr = Said::new(plain::Level::Warn);
        let state = State {
            wasi: WasiCtxBuilder::new()
                .stdout(stdout.clone())
                .stderr(stderr.clone())
                .wall_clock(StoppedTime)
                .monotonic_clock(StoppedTime)
                .secure_random(Deterministic::new(b"pacos".to_vec()))
                .insecure_random(Deterministic::new(b"pacos".to_vec()))
                .insecure_random_seed(0)
                .build(),
            table: ResourceTable::new(),
            bounds: Bounds::new(self.limits.memory_bytes, self.limits.table_elements),
            calls: Arc::new(NoCalls),
            last_error: None,
            stdout,
            stderr,
            working: false,
            sought: Sought::new(),
            clock: clock.clone(),
        };
        let mut store = Store::new(engine(), state);
        store.limiter(|state| &mut state.bounds);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|context| match context.data().clock.passed() {
            Some((limit, patience)) => Err(OutOfTime { limit, patience }.into()),
            None => Ok(UpdateDeadline::Yield(1)),
        });
        // Texts, lists, and what they cost in the host's memory. A guest can name one piece of its
        // memory many times over, so its memory limit does not bound this.
        store.set_hostcall_fuel(self.limits.output_bytes);
        let exports = clock
            .count(async {
                match &self.pre {
                    Pre::Generator(pre) => pre
                        .instantiate_async(&mut store)
                        .await
                        .map(Exports::Generator),
                    Pre::Filter(pre) => {
                        pre.instantiate_async(&mut store).await.map(Exports::Filter)
                    }
                    Pre::Evaluator(pre) => pre
                        .instantiate_async(&mut store)
                        .await
                        .map(Exports::Evaluator),
                }
            })
            .await
            .map_err(|error| broken(&store, &error))?;
        Ok(WasmInstance {
            store,
            exports,
            compute: self.limits.compute,
        })
    }
}

/// One instance of a component. After any error but the plugin's own it must be dropped.
pub(super) struct WasmInstance {
    store: Store<State>,
    exports: Exports,
    compute: Duration,
}

/// Longest part of a guest's own words in a message, in characters.
const MOST_LAST_WORDS: usize = 1000;

/// Reads what a trap was caused by.
fn broken(store: &Store<State>, error: &wasmtime::Error) -> CallError {
    if let Some(&OutOfTime { limit, patience }) = error.downcast_ref() {
        return CallError::Timeout {
            limit,
            patience,
            places: backtrace::places(error),
        };
    }
    if let Some(stop) = error.downcast_ref::<imports::Stopped>() {
        return CallError::Stopped(stop.0.clone());
    }
    if let Some(out) = error.downcast_ref::<OutOfBounds>() {
        return CallError::Trap(out.to_string() + &backtrace::places(error));
    }
    let cause = error.root_cause().to_string();
    // Wasmtime's type for this is private.
    if cause.contains("fuel allocated for hostcalls has been exhausted") {
        return CallError::Invalid(format!(
            "it hands over more than {} MiB in one call",
            store.hostcall_fuel() >> 20
        ));
    }
    if error.is::<I32Exit>() {
        return CallError::Trap(last_words(store.data()));
    }
    if !error.is::<Trap>() {
        // The guest's code did nothing wrong; what it handed over cannot be read: a text that is
        // no UTF-8, a list that reaches beyond its memory.
        return CallError::Invalid(cause);
    }
    let message = match error.downcast_ref() {
        Some(Trap::UnreachableCodeReached) => last_words(store.data()),
        Some(Trap::StackOverflow) => "it ran out of stack".to_owned(),
        Some(Trap::MemoryOutOfBounds) => {
            "it reached outside its memory, as a stack that is too deep does".to_owned()
        }
        _ => cause,
    };
    CallError::Trap(message + &backtrace::places(error))
}

/// Why a guest gave up, as far as it said: by its log (as pacos-plugin's panic hook does), or on
/// its standard error.
fn last_words(state: &State) -> String {
    let logged = state.last_error.as_deref().map(bounded).unwrap_or_default();
    if logged.starts_with("panicked at ") {
        return format!("it {}", one_line(&logged));
    }
    let written = state.stderr.last_lines();
    match (logged.is_empty(), written.is_empty()) {
        (false, _) => format!("it panicked or aborted; its last error was: {logged}"),
        (true, false) => format!("it gave up, and wrote:\n    {}", written.join("\n    ")),
        (true, true) => "it panicked or aborted".to_owned(),
    }
}

fn bounded(text: &str) -> String {
    let mut words = text.trim().to_owned();
    if let Some((end, _)) = words.char_indices().nth(MOST_LAST_WORDS) {
        words.truncate(end);
        words.push('…');
    }
    words
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// An answer of wasmtime and of the plugin, made one.
fn answer<T, U: From<T>, E: Into<plain::Error>>(
    store: &Store<State>,
    result: wasmtime::Result<Result<T, E>>,
) -> Result<U, CallError> {
    match result {
        Ok(Ok(value)) => Ok(value.into()),
        Ok(Err(error)) => Err(CallError::Plugin(error.into())),
        Err(error) => Err(broken(store, &error)),
    }
}

/// Calls a function that all three worlds have.
macro_rules! in_every_world {
    ($self:ident, |$guest:ident, $store:ident| $call:expr) => {{
        let $store = &mut $self.store;
        match &$self.exports {
            Exports::Generator(exports) => {
                let $guest = exports.pacos_plugin_generator();
                $call
            }
            Exports::Filter(exports) => {
                let $guest = exports.pacos_plugin_filter();
                $call
            }
            Exports::Evaluator(exports) => {
                let $guest = exports.pacos_plugin_evaluator();
                $call
            }
        }
    }};
}

impl WasmInstance {
    fn begin(&mut self, calls: Arc<dyn HostCalls>, patience: u32) -> ComputeClock {
        let state = self.store.data_mut();
        for stream in [&state.stdout, &state.stderr] {
            stream.begin(calls.clone());
        }
        state.calls = calls;
        state.last_error = None;
        state.working = false;
        state.clock.reset(self.compute, patience);
        state.clock.clone()
    }

    fn begin_work(&mut self, calls: Arc<dyn HostCalls>, patience: u32) -> ComputeClock {
        let clock = self.begin(calls, patience);
        self.store.data_mut().working = true;
        clock
    }

    fn wrong_stage() -> CallError {
        CallError::Invalid("this component is of another stage".into())
    }
}

impl super::Instance for WasmInstance {
    fn describe(&mut self) -> BoxFuture<'_, Result<plain::Description, CallError>> {
        let clock = self.begin(Arc::new(NoCalls), 1);
        Box::pin(clock.count(async move {
            let description =
                in_every_world!(self, |guest, store| guest.call_describe(store).await);
            description
                .map(Into::into)
                .map_err(|error| broken(&self.store, &error))
        }))
    }

    fn configure<'a>(
        &'a mut self,
        config: &'a str,
    ) -> BoxFuture<'a, Result<Vec<plain::Diagnostic>, CallError>> {
        let clock = self.begin(Arc::new(NoCalls), 1);
        Box::pin(clock.count(async move {
            let diagnostics = in_every_world!(self, |guest, store| guest
                .call_configure(store, config)
                .await);
            diagnostics
                .map(all)
                .map_err(|error| broken(&self.store, &error))
        }))
    }

    fn start<'a>(&'a mut self, seeds: &'a [plain::Task]) -> BoxFuture<'a, Result<(), CallError>> {
        let clock = self.begin(Arc::new(NoCalls), 1);
        Box::pin(clock.count(async move {
            let seeds = all(seeds.to_vec());
            let result = match &self.exports {
                Exports::Generator(exports) => {
                    let guest = exports.pacos_plugin_generator();
                    guest.call_start(&mut self.store, &seeds).await
                }
                Exports::Filter(exports) => {
                    let guest = exports.pacos_plugin_filter();
                    guest.call_start(&mut self.store, &seeds).await
                }
                Exports::Evaluator(_) => Ok(Ok(())),
            };
            answer(&self.store, result)
        }))
    }

    fn generate(
        &mut self,
        unit: plain::Unit,
        calls: Arc<dyn HostCalls>,
        patience: u32,
    ) -> BoxFuture<'_, Result<plain::Proposals, CallError>> {
        let clock = self.begin_work(calls, patience);
        Box::pin(clock.count(async move {
            let Exports::Generator(exports) = &self.exports else {
                return Err(Self::wrong_stage());
            };
            let guest = exports.pacos_plugin_generator();
            let proposals = guest.call_generate(&mut self.store, unit.into()).await;
            answer(&self.store, proposals)
        }))
    }

    fn restore(&mut self, history: Vec<plain::Judged>) -> BoxFuture<'_, Result<(), CallError>> {
        let clock = self.begin(Arc::new(NoCalls), 1);
        Box::pin(clock.count(async move {
            let Exports::Filter(exports) = &self.exports else {
                return Err(Self::wrong_stage());
            };
            let guest = exports.pacos_plugin_filter();
            let restored = guest.call_restore(&mut self.store, &all(history)).await;
            answer(&self.store, restored)
        }))
    }

    fn judge_batch(
        &mut self,
        batch: Vec<plain::Candidate>,
        calls: Arc<dyn HostCalls>,
        patience: u32,
    ) -> BoxFuture<'_, Result<Vec<plain::Verdict>, CallError>> {
        let clock = self.begin_work(calls, patience);
        Box::pin(clock.count(async move {
            let Exports::Filter(exports) = &self.exports else {
                return Err(Self::wrong_stage());
            };
            let guest = exports.pacos_plugin_filter();
            let verdicts = guest.call_judge(&mut self.store, &all(batch)).await;
            answer(&self.store, verdicts.map(|verdicts| verdicts.map(List)))
        }))
    }

    fn judge_item(
        &mut self,
        item: plain::Item,
        calls: Arc<dyn HostCalls>,
        patience: u32,
    ) -> BoxFuture<'_, Result<Vec<plain::Judgement>, CallError>> {
        let clock = self.begin_work(calls, patience);
        Box::pin(clock.count(async move {
            let Exports::Evaluator(exports) = &self.exports else {
                return Err(Self::wrong_stage());
            };
            let guest = exports.pacos_plugin_evaluator();
            let judgements = guest.call_judge(&mut self.store, &item.into()).await;
            answer(
                &self.store,
                judgements.map(|judgements| judgements.map(List)),
            )
        }))
    }

    fn summarise(
        &mut self,
        judgements: Vec<plain::Judgement>,
    ) -> BoxFuture<'_, Result<Vec<plain::Metric>, CallError>> {
        let clock = self.begin(Arc::new(NoCalls), 1);
        Box::pin(clock.count(async move {
            let Exports::Evaluator(exports) = &self.exports else {
                return Err(Self::wrong_stage());
            };
            let guest = exports.pacos_plugin_evaluator();
            let metrics = guest
                .call_summarise(&mut self.store, &all(judgements))
                .await;
            answer(&self.store, metrics.map(|metrics| metrics.map(List)))
        }))
    }

    fn reading(&self) -> (Option<Duration>, u64) {
        let state = self.store.data();
        (Some(state.clock.spent()), state.bounds.memory() as u64)
    }
}

/// A list on its way from wasmtime's types to the plain ones.
struct List<T>(Vec<T>);

impl<A, B: From<A>> From<List<A>> for Vec<B> {
    fn from(list: List<A>) -> Self {
        all(list.0)
    }
}
