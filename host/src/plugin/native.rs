//! Plugins as dynamic libraries, over the native ABI. Trusted code: nothing here confines it.

use std::{
    ffi::c_void,
    mem::{offset_of, size_of},
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use libloading::{Library, Symbol};
use pacos_plugin::{
    self as plain, Error, HttpRequest, Prompt, Request,
    native::{
        ABI_MAJOR, Buffer, Bytes, HostTable, MAGIC, PluginTable, SYMBOL, Status, function,
        host_function,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{runtime::Handle, sync::Semaphore};

use super::{CallError, HostCalls, Instance, LoadError, NoCalls, Refusal, Stage, contract};
use crate::models::{BoxFuture, Stop};

/// Calls into libraries that may run at once: each holds a thread until it returns.
const THREADS: usize = 16;

fn threads() -> &'static Arc<Semaphore> {
    static THREADS_FREE: OnceLock<Arc<Semaphore>> = OnceLock::new();
    THREADS_FREE.get_or_init(|| Arc::new(Semaphore::new(THREADS)))
}

/// A library, loaded for the rest of the process: its thread-locals and atexit handlers make
/// unloading unsound.
#[derive(Clone, Copy)]
pub(super) struct NativePlugin {
    table: &'static PluginTable,
}

impl NativePlugin {
    /// Loads a library and checks its table. `path` should be a private copy whose bytes have
    /// been hashed, so that what was checked is what runs.
    pub(super) fn load(name: &str, path: &Path) -> Result<(Self, Stage), LoadError> {
        let not_library = |found: String| LoadError::NotLibrary {
            name: name.to_owned(),
            found,
        };
        // SAFETY: initialisers of the library run here; the recipe declared it trusted and
        // pinned its bytes.
        let library = unsafe { Library::new(path) }.map_err(|e| not_library(e.to_string()))?;
        let library = Box::leak(Box::new(library));
        // SAFETY: the ABI gives the symbol this type; a library that breaks it was trusted.
        let entry: Symbol<'static, unsafe extern "C" fn() -> *const PluginTable> =
            unsafe { library.get(SYMBOL.as_bytes()) }
                .map_err(|_| not_library(format!("it exports no symbol `{SYMBOL}`")))?;
        // SAFETY: as above; the function takes nothing.
        let table = unsafe { entry() };
        if table.is_null() {
            return Err(not_library(format!("`{SYMBOL}` returned null")));
        }
        // SAFETY: every version of the table begins with magic, major, minor and size; they are
        // read one by one before the table is taken to be as long as ours.
        let (magic, major, size) = unsafe {
            let start = table.cast::<u8>();
            (
                start
                    .add(offset_of!(PluginTable, magic))
                    .cast::<[u8; 8]>()
                    .read_unaligned(),
                start
                    .add(offset_of!(PluginTable, abi_major))
                    .cast::<u32>()
                    .read_unaligned(),
                start
                    .add(offset_of!(PluginTable, size))
                    .cast::<usize>()
                    .read_unaligned(),
            )
        };
        if magic != MAGIC {
            return Err(not_library(
                "its table does not begin with the magic".into(),
            ));
        }
        if major != ABI_MAJOR {
            return Err(not_library(format!(
                "it speaks native ABI {major}, this host {ABI_MAJOR}; rebuild it with this release's `pacos-plugin`"
            )));
        }
        if size < size_of::<PluginTable>() {
            return Err(not_library(format!(
                "its table has {size} bytes, {} are needed",
                size_of::<PluginTable>()
            )));
        }
        // SAFETY: the table is as long as ours, and its `contract` points at a static string.
        let interface = unsafe { (&raw const (*table).contract).read_unaligned().as_slice() };
        let interface = String::from_utf8_lossy(interface).into_owned();
        let stage = contract::stage_among(name, &[interface])?;
        for (name, offset) in [
            ("create", offset_of!(PluginTable, create)),
            ("call", offset_of!(PluginTable, call)),
            ("destroy", offset_of!(PluginTable, destroy)),
        ] {
            // SAFETY: the field lies in the table. As a number it may be null, which a function
            // may not.
            let function = unsafe {
                let field = table.cast::<u8>().add(offset);
                field.cast::<usize>().read_unaligned()
            };
            if function == 0 {
                return Err(not_library(format!("its table has no `{name}`")));
            }
        }
        // SAFETY: magic, major and size say that it is a table of this ABI, its functions are
        // there, and the library is never unloaded.
        let table = unsafe { &*table };
        Ok((NativePlugin { table }, stage))
    }

    /// Makes an instance.
    pub(super) fn instantiate(self) -> Result<NativeInstance, CallError> {
        // SAFETY: `create` takes nothing and belongs to a checked table.
        let instance = unsafe { (self.table.create)() };
        if instance.is_null() {
            return Err(CallError::Trap("it made no instance".into()));
        }
        Ok(NativeInstance(Arc::new(Mutex::new(Raw {
            table: self.table,
            instance,
        }))))
    }
}

/// The library's own pointer. Calls are made one at a time, from whichever thread.
struct Raw {
    table: &'static PluginTable,
    instance: *mut c_void,
}

// SAFETY: the ABI asks for one call at a time an instance, not for one thread; the mutex around
// it sees to that.
unsafe impl Send for Raw {}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: `instance` came from `create` of the same table and is given back once.
        unsafe { (self.table.destroy)(self.instance) }
    }
}

/// One instance of a library's plugin.
pub(super) struct NativeInstance(Arc<Mutex<Raw>>);

/// What `HostTable::context` points at while a call is under way.
struct Context {
    calls: Arc<dyn HostCalls>,
    runtime: Handle,
    stopped: Mutex<Option<Arc<Stop>>>,
}

impl NativeInstance {
    fn call<'a, T: DeserializeOwned + Send + 'static>(
        &'a self,
        number: u32,
        arguments: Result<Vec<u8>, postcard::Error>,
        calls: Arc<dyn HostCalls>,
    ) -> BoxFuture<'a, Result<T, CallError>> {
        Box::pin(async move {
            let input = arguments.map_err(|e| CallError::Invalid(e.to_string()))?;
            let permit = threads().clone().acquire_owned().await;
            let raw = self.0.clone();
            let context = Context {
                calls,
                runtime: Handle::current(),
                stopped: Mutex::new(None),
            };
            let called = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                let raw = raw.lock().unwrap_or_else(PoisonError::into_inner);
                run(&raw, number, &input, &context)
            });
            match called.await {
                Ok(result) => result,
                Err(error) => Err(CallError::Trap(error.to_string())),
            }
        })
    }
}

fn run<T: DeserializeOwned>(
    raw: &Raw,
    number: u32,
    input: &[u8],
    context: &Context,
) -> Result<T, CallError> {
    let host = HostTable {
        size: size_of::<HostTable>(),
        context: (&raw const *context).cast(),
        call: host_call,
    };
    let mut output = Buffer::empty();
    // SAFETY: the instance is alive and locked; `host`, `input` and `output` outlive the call.
    let status = unsafe {
        (raw.table.call)(
            raw.instance,
            &raw const host,
            number,
            Bytes::new(input),
            &raw mut output,
        )
    };
    let stopped = context
        .stopped
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    if let Some(stop) = stopped {
        return Err(CallError::Stopped(stop));
    }
    // SAFETY: the library filled the buffer just now.
    let bytes = unsafe { output.as_slice() };
    let invalid = |e: postcard::Error| CallError::Invalid(format!("encoding: {e}"));
    match Status::from_number(status) {
        Some(Status::Ok) => postcard::from_bytes(bytes).map_err(invalid),
        Some(Status::Error) => Err(match postcard::from_bytes(bytes) {
            Ok(error) => CallError::Plugin(error),
            Err(e) => invalid(e),
        }),
        Some(Status::Panic) => Err(CallError::Trap(format!(
            "panic: {}",
            String::from_utf8_lossy(bytes)
        ))),
        Some(Status::Malformed) => Err(CallError::Invalid(
            String::from_utf8_lossy(bytes).into_owned(),
        )),
        None => Err(CallError::Invalid(format!("status {status}"))),
    }
}

/// What a library calls. Runs on the thread of the call, which may block.
unsafe extern "C" fn host_call(
    context: *const c_void,
    number: u32,
    input: Bytes,
    output: *mut Buffer,
) -> i32 {
    // SAFETY: the table was made by `run`, whose context outlives the call; the ABI makes
    // `input` and `output` valid until this function returns.
    let (context, input, output) =
        unsafe { (&*context.cast::<Context>(), input.as_slice(), &mut *output) };
    let (status, bytes) = match serve(context, number, input) {
        Ok(bytes) => (Status::Ok, bytes),
        Err(error) => (
            Status::Error,
            postcard::to_stdvec(&error).unwrap_or_default(),
        ),
    };
    *output = Buffer::from_vec(bytes);
    status as i32
}

fn serve(context: &Context, number: u32, input: &[u8]) -> Result<Vec<u8>, Error> {
    let calls = &context.calls;
    match number {
        host_function::DESCRIBE_MODEL => {
            let role: String = read(input)?;
            write(&context.told(calls.describe_model(&role))?)
        }
        host_function::COMPLETE_MANY => {
            let (role, requests): (String, Vec<Request>) = read(input)?;
            let replies = context
                .runtime
                .block_on(calls.complete_many(&role, requests));
            write(&context.told(replies)?)
        }
        host_function::COUNT_TOKENS => {
            let (role, text): (String, String) = read(input)?;
            write(&context.told(calls.count_tokens(&role, &text))?)
        }
        host_function::LOG_LIKELIHOOD => {
            let (role, prompt, answer): (String, Prompt, String) = read(input)?;
            let likelihood = context
                .runtime
                .block_on(calls.log_likelihood(&role, &prompt, &answer));
            write(&context.told(likelihood)?)
        }
        host_function::FETCH_MANY => {
            let (requests,): (Vec<HttpRequest>,) = read(input)?;
            let responses = context.runtime.block_on(calls.fetch_many(requests));
            write(&context.told(responses)?)
        }
        host_function::ACCEPTED => {
            let (start, count) = read(input)?;
            write(&context.told(calls.accepted(start, count))?)
        }
        host_function::LOG => {
            let (level, message): (plain::Level, String) = read(input)?;
            calls.log(level, &message);
            write(&())
        }
        host_function::PROGRESS => {
            let (done, total) = read(input)?;
            calls.progress(done, total);
            write(&())
        }
        other => Err(Error::new(
            "unknown-function",
            format!("this host has no function {other}"),
        )),
    }
}

impl Context {
    /// Turns a stop into an error for the library, and remembers it for `run`.
    fn told<T>(&self, result: Result<T, Refusal>) -> Result<T, Error> {
        result.map_err(|refusal| match refusal {
            Refusal::Error(error) => error,
            Refusal::Stop(stop) => {
                let error = Error::new("stopped", stop.to_string());
                *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = Some(stop);
                error
            }
        })
    }
}

fn read<T: DeserializeOwned>(input: &[u8]) -> Result<T, Error> {
    postcard::from_bytes(input).map_err(|e| Error::new("malformed-arguments", e.to_string()))
}

fn write<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    postcard::to_stdvec(value).map_err(|e| Error::new("malformed-result", e.to_string()))
}

fn no_calls() -> Arc<dyn HostCalls> {
    Arc::new(NoCalls)
}

impl Instance for NativeInstance {
    fn describe(&mut self) -> BoxFuture<'_, Result<plain::Description, CallError>> {
        self.call(function::DESCRIBE, postcard::to_stdvec(&()), no_calls())
    }

    fn configure<'a>(
        &'a mut self,
        config: &'a str,
    ) -> BoxFuture<'a, Result<Vec<plain::Diagnostic>, CallError>> {
        self.call(function::CONFIGURE, postcard::to_stdvec(config), no_calls())
    }

    fn start<'a>(&'a mut self, seeds: &'a [plain::Task]) -> BoxFuture<'a, Result<(), CallError>> {
        self.call(function::START, postcard::to_stdvec(seeds), no_calls())
    }

    fn generate(
        &mut self,
        unit: plain::Unit,
        calls: Arc<dyn HostCalls>,
        _patience: u32,
    ) -> BoxFuture<'_, Result<plain::Proposals, CallError>> {
        self.call(function::GENERATE, postcard::to_stdvec(&unit), calls)
    }

    fn restore(&mut self, history: Vec<plain::Judged>) -> BoxFuture<'_, Result<(), CallError>> {
        self.call(function::RESTORE, postcard::to_stdvec(&history), no_calls())
    }

    fn judge_batch(
        &mut self,
        batch: Vec<plain::Candidate>,
        calls: Arc<dyn HostCalls>,
        _patience: u32,
    ) -> BoxFuture<'_, Result<Vec<plain::Verdict>, CallError>> {
        self.call(function::JUDGE, postcard::to_stdvec(&batch), calls)
    }

    fn judge_item(
        &mut self,
        item: plain::Item,
        calls: Arc<dyn HostCalls>,
        _patience: u32,
    ) -> BoxFuture<'_, Result<Vec<plain::Judgement>, CallError>> {
        self.call(function::JUDGE_ITEM, postcard::to_stdvec(&item), calls)
    }

    fn summarise(
        &mut self,
        judgements: Vec<plain::Judgement>,
    ) -> BoxFuture<'_, Result<Vec<plain::Metric>, CallError>> {
        self.call(
            function::SUMMARISE,
            postcard::to_stdvec(&judgements),
            no_calls(),
        )
    }
}
