//! The native ABI: the same contract in a dynamic library.
//!
//! A library exports one symbol, `pacos_plugin`, that returns a [`PluginTable`]. Arguments and
//! results travel as [postcard](https://postcard.jamesmunns.com/wire-format) of the contract's
//! records, field by field in the order of the WIT package: borrowed bytes in, a [`Buffer`] with
//! its own `release` out. Panics end at the boundary and come back as a status.
//!
//! A library is trusted code: nothing here confines it. `include/pacos_plugin.h` says the same
//! in C.

use std::{
    ffi::c_void,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr, slice,
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Error, Evaluator, Example, Filter, Generator, Host, HttpRequest, HttpResponse, Level,
    Likelihood, ModelDescription, Plugin, Prompt, Reply, Request, configure,
};

/// The first eight bytes of every table.
pub const MAGIC: [u8; 8] = *b"pacosplg";
/// Changes when a table or an encoding changes its meaning: other majors are refused.
pub const ABI_MAJOR: u32 = 1;
/// Grows when something is appended to a table, or a function of the host to its list: one that a
/// host does not know is refused as `unknown-function`.
pub const ABI_MINOR: u32 = 1;
/// The symbol that a library exports: `const PluginTable *pacos_plugin(void)`.
pub const SYMBOL: &str = "pacos_plugin";

/// What a call came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    /// The buffer holds the result.
    Ok = 0,
    /// The buffer holds an [`Error`].
    Error = 1,
    /// The buffer holds the message of a panic, UTF-8; the instance must not be used again.
    Panic = 2,
    /// The function is unknown, or its arguments could not be read; the buffer says which, UTF-8.
    Malformed = 3,
}

impl Status {
    /// The status behind a number, if it is one.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        [Self::Ok, Self::Error, Self::Panic, Self::Malformed]
            .into_iter()
            .find(|status| *status as i32 == number)
    }
}

/// Functions of a plugin, with the tuple of arguments and the result of each.
pub mod function {
    /// `()` to `Description`.
    pub const DESCRIBE: u32 = 0;
    /// `(config: string)` to `list<diagnostic>`.
    pub const CONFIGURE: u32 = 1;
    /// `(seeds: list<task>)` to `()`.
    pub const START: u32 = 2;
    /// `(unit)` to `proposals`; generators.
    pub const GENERATE: u32 = 16;
    /// `(history: list<judged>)` to `()`; filters.
    pub const RESTORE: u32 = 32;
    /// `(batch: list<candidate>)` to `list<verdict>`; filters.
    pub const JUDGE: u32 = 33;
    /// `(item)` to `list<judgement>`; evaluators.
    pub const JUDGE_ITEM: u32 = 48;
    /// `(judgements: list<judgement>)` to `list<metric>`; evaluators.
    pub const SUMMARISE: u32 = 49;
}

/// Functions of the host, with the tuple of arguments and the result of each.
pub mod host_function {
    /// `(role)` to `model-description`.
    pub const DESCRIBE_MODEL: u32 = 0;
    /// `(role, list<request>)` to `list<result<reply, error>>`.
    pub const COMPLETE_MANY: u32 = 1;
    /// `(role, text)` to `u32`.
    pub const COUNT_TOKENS: u32 = 2;
    /// `(role, prompt, answer)` to `likelihood`.
    pub const LOG_LIKELIHOOD: u32 = 3;
    /// `(start, count)` to `list<example>`.
    pub const ACCEPTED: u32 = 4;
    /// `(level, message)` to `()`.
    pub const LOG: u32 = 5;
    /// `(done, total)` to `()`.
    pub const PROGRESS: u32 = 6;
    /// `(list<http-request>)` to `list<result<http-response, error>>`; since 1.1.
    pub const FETCH_MANY: u32 = 7;
}

/// Borrowed bytes, valid until the call returns.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Bytes {
    /// First byte; may be dangling where `len` is 0.
    pub ptr: *const u8,
    /// How many.
    pub len: usize,
}

impl Bytes {
    /// Lends a slice.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Bytes {
            ptr: bytes.as_ptr(),
            len: bytes.len(),
        }
    }

    /// The bytes lent.
    ///
    /// # Safety
    /// `ptr` must be valid for reads of `len` bytes for `'a`, unless `len` is 0.
    #[must_use]
    pub unsafe fn as_slice<'a>(self) -> &'a [u8] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: the caller upholds this function's contract, which is `from_raw_parts`'s.
        unsafe { slice::from_raw_parts(self.ptr, self.len) }
    }
}

/// Owned bytes, given back by calling their own `release` once.
#[repr(C)]
pub struct Buffer {
    /// First byte.
    pub ptr: *mut u8,
    /// How many are meant.
    pub len: usize,
    /// How many were allocated; for `release` alone.
    pub capacity: usize,
    /// Frees the bytes; absent in an empty buffer.
    pub release: Option<unsafe extern "C" fn(*mut Buffer)>,
}

impl Buffer {
    /// A buffer that owns nothing, to be filled by a call.
    #[must_use]
    pub const fn empty() -> Self {
        Buffer {
            ptr: ptr::null_mut(),
            len: 0,
            capacity: 0,
            release: None,
        }
    }

    /// Hands over a vector.
    #[must_use]
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let mut bytes = std::mem::ManuallyDrop::new(bytes);
        Buffer {
            ptr: bytes.as_mut_ptr(),
            len: bytes.len(),
            capacity: bytes.capacity(),
            release: Some(release_vec),
        }
    }

    /// The bytes it holds.
    ///
    /// # Safety
    /// The buffer must have been filled by a side that keeps this ABI, and not yet released.
    #[must_use]
    pub unsafe fn as_slice(&self) -> &[u8] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: by this function's contract `ptr` is valid for `len` bytes while `self` lives.
        unsafe { slice::from_raw_parts(self.ptr, self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            // SAFETY: whoever filled the buffer supplied `release` for exactly this buffer, and
            // `take` makes sure that it runs once.
            unsafe { release(self) }
        }
    }
}

unsafe extern "C" fn release_vec(buffer: *mut Buffer) {
    // SAFETY: only `Buffer::from_vec` names this function, so the parts are a vector's own, and
    // the ABI has `release` called once.
    unsafe {
        let buffer = &mut *buffer;
        drop(Vec::from_raw_parts(buffer.ptr, buffer.len, buffer.capacity));
        buffer.ptr = ptr::null_mut();
        buffer.len = 0;
    }
}

/// What the host lends a plugin for the length of one call. Usable from the calling thread only.
#[repr(C)]
pub struct HostTable {
    /// Size of this table in bytes; what lies beyond it is absent.
    pub size: usize,
    /// Passed back to `call`.
    pub context: *const c_void,
    /// Calls a [`host_function`]; returns a [`Status`].
    pub call: unsafe extern "C" fn(*const c_void, u32, Bytes, *mut Buffer) -> i32,
}

/// What a library exports.
#[repr(C)]
pub struct PluginTable {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`ABI_MAJOR`] of the library.
    pub abi_major: u32,
    /// [`ABI_MINOR`] of the library.
    pub abi_minor: u32,
    /// Size of this table in bytes; what lies beyond it is absent.
    pub size: usize,
    /// The interface it implements, UTF-8, such as `pacos:plugin/filter@0.1.1`.
    pub contract: Bytes,
    /// Makes an instance, not yet configured. Never null.
    pub create: unsafe extern "C" fn() -> *mut c_void,
    /// Calls a [`function`] of an instance; returns a [`Status`]. One call at a time an instance.
    pub call: unsafe extern "C" fn(*mut c_void, *const HostTable, u32, Bytes, *mut Buffer) -> i32,
    /// Ends an instance.
    pub destroy: unsafe extern "C" fn(*mut c_void),
}

// SAFETY: a table is immutable and its pointers lead to statics and functions.
unsafe impl Sync for PluginTable {}

/// One instance: empty until it is configured.
struct Slot<P>(Option<P>);

type Outcome = Result<Vec<u8>, Failure>;

enum Failure {
    Error(Error),
    Malformed(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Error(error)
    }
}

fn read<T: DeserializeOwned>(input: &[u8]) -> Result<T, Failure> {
    postcard::from_bytes(input).map_err(|e| Failure::Malformed(format!("arguments: {e}")))
}

fn write<T: Serialize>(value: &T) -> Outcome {
    postcard::to_stdvec(value).map_err(|e| Failure::Malformed(format!("result: {e}")))
}

impl<P: Plugin> Slot<P> {
    fn get(&mut self) -> Result<&mut P, Failure> {
        self.0.as_mut().ok_or_else(|| {
            Failure::Error(Error::new(
                "not-configured",
                "the host called a stage before `configure` succeeded",
            ))
        })
    }

    /// What every plugin answers; `None` where the function is a stage's own.
    fn common(&mut self, function: u32, input: &[u8]) -> Option<Outcome> {
        match function {
            function::DESCRIBE => Some(write(&configure::description::<P>())),
            function::CONFIGURE => Some(read(input).and_then(|config: String| {
                write(&match configure::configure::<P>(&config) {
                    Ok(plugin) => {
                        let warnings = plugin.warnings();
                        self.0 = Some(plugin);
                        warnings
                    }
                    Err(diagnostics) => diagnostics,
                })
            })),
            _ => None,
        }
    }
}

macro_rules! stage_table {
    (
        $table:ident, $trait:ident, $interface:literal,
        |$plugin:ident, $host:ident, $input:ident| { $($function:path => $call:expr,)* }
    ) => {
        #[doc = concat!("The table of a plugin of `", $interface, "`. Used through [`export!`](crate::export).")]
        #[must_use]
        pub const fn $table<P: $trait>() -> PluginTable {
            fn dispatch<P: $trait>(
                slot: &mut Slot<P>,
                $host: &LibraryHost<'_>,
                function: u32,
                $input: &[u8],
            ) -> Outcome {
                if let Some(outcome) = slot.common(function, $input) {
                    return outcome;
                }
                match function {
                    $($function => {
                        let $plugin = slot.get()?;
                        $call
                    })*
                    other => Err(Failure::Malformed(format!("no function {other}"))),
                }
            }

            unsafe extern "C" fn create<P: $trait>() -> *mut c_void {
                Box::into_raw(Box::new(Slot::<P>(None))).cast()
            }

            unsafe extern "C" fn call<P: $trait>(
                instance: *mut c_void,
                host: *const HostTable,
                function: u32,
                input: Bytes,
                output: *mut Buffer,
            ) -> i32 {
                // SAFETY: the ABI passes what `create` returned, and one call at a time; `host`,
                // `input` and `output` are valid until this function returns.
                let (slot, host, input, output) = unsafe {
                    (
                        &mut *instance.cast::<Slot<P>>(),
                        LibraryHost(&*host),
                        input.as_slice(),
                        &mut *output,
                    )
                };
                guarded(output, || dispatch(slot, &host, function, input))
            }

            unsafe extern "C" fn destroy<P: $trait>(instance: *mut c_void) {
                // SAFETY: the ABI passes what `create` returned, once.
                let slot = unsafe { Box::from_raw(instance.cast::<Slot<P>>()) };
                // A panic in the plugin's own `drop` must not cross the boundary.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(slot)));
            }

            PluginTable {
                magic: MAGIC,
                abi_major: ABI_MAJOR,
                abi_minor: ABI_MINOR,
                size: size_of::<PluginTable>(),
                contract: Bytes {
                    ptr: $interface.as_ptr(),
                    len: $interface.len(),
                },
                create: create::<P>,
                call: call::<P>,
                destroy: destroy::<P>,
            }
        }
    };
}

stage_table!(generator_table, Generator, "pacos:plugin/generator@0.1.1", |plugin, host, input| {
    function::START => write(&plugin.start(read(input)?)?),
    function::GENERATE => write(&plugin.generate(read(input)?, host)?),
});

stage_table!(filter_table, Filter, "pacos:plugin/filter@0.1.1", |plugin, host, input| {
    function::START => write(&plugin.start(read(input)?)?),
    function::RESTORE => write(&plugin.restore(read(input)?)?),
    function::JUDGE => write(&plugin.judge(read(input)?, host)?),
});

stage_table!(evaluator_table, Evaluator, "pacos:plugin/evaluator@0.1.1", |plugin, host, input| {
    function::JUDGE_ITEM => write(&plugin.judge(read(input)?, host)?),
    function::SUMMARISE => write(&plugin.summarise(read(input)?)?),
});

/// Runs a call so that a panic ends here, and fills the output.
fn guarded(output: &mut Buffer, call: impl FnOnce() -> Outcome) -> i32 {
    let (status, bytes) = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(bytes)) => (Status::Ok, bytes),
        Ok(Err(Failure::Error(error))) => match postcard::to_stdvec(&error) {
            Ok(bytes) => (Status::Error, bytes),
            Err(e) => (Status::Malformed, e.to_string().into_bytes()),
        },
        Ok(Err(Failure::Malformed(message))) => (Status::Malformed, message.into_bytes()),
        Err(panic) => (Status::Panic, panic_message(panic.as_ref()).into_bytes()),
    };
    *output = Buffer::from_vec(bytes);
    status as i32
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(message), _) => (*message).to_owned(),
        (_, Some(message)) => message.clone(),
        _ => "panic without a message".to_owned(),
    }
}

/// The host, seen from inside a library.
struct LibraryHost<'a>(&'a HostTable);

impl LibraryHost<'_> {
    fn call<T: DeserializeOwned>(
        &self,
        function: u32,
        arguments: &impl Serialize,
    ) -> Result<T, Error> {
        let broken = |what: String| Error::new("host-broke-contract", what);
        let input = postcard::to_stdvec(arguments).map_err(|e| broken(e.to_string()))?;
        let mut output = Buffer::empty();
        // SAFETY: the table is the host's own and lives as long as this call; `input` and
        // `output` outlive it.
        let status = unsafe {
            (self.0.call)(
                self.0.context,
                function,
                Bytes::new(&input),
                &raw mut output,
            )
        };
        // SAFETY: the host filled the buffer just now.
        let bytes = unsafe { output.as_slice() };
        match Status::from_number(status) {
            Some(Status::Ok) => {
                postcard::from_bytes(bytes).map_err(|e| broken(format!("result: {e}")))
            }
            Some(Status::Error) => {
                Err(postcard::from_bytes(bytes).unwrap_or_else(|e| broken(format!("error: {e}"))))
            }
            _ => Err(broken(format!(
                "status {status}: {}",
                String::from_utf8_lossy(bytes)
            ))),
        }
    }
}

impl Host for LibraryHost<'_> {
    fn describe_model(&self, role: &str) -> Result<ModelDescription, Error> {
        self.call(host_function::DESCRIBE_MODEL, &(role,))
    }

    fn complete_many(
        &self,
        role: &str,
        requests: &[Request],
    ) -> Result<Vec<Result<Reply, Error>>, Error> {
        self.call(host_function::COMPLETE_MANY, &(role, requests))
    }

    fn count_tokens(&self, role: &str, text: &str) -> Result<u32, Error> {
        self.call(host_function::COUNT_TOKENS, &(role, text))
    }

    fn log_likelihood(
        &self,
        role: &str,
        prompt: &Prompt,
        answer: &str,
    ) -> Result<Likelihood, Error> {
        self.call(host_function::LOG_LIKELIHOOD, &(role, prompt, answer))
    }

    fn fetch_many(
        &self,
        requests: &[HttpRequest],
    ) -> Result<Vec<Result<HttpResponse, Error>>, Error> {
        self.call(host_function::FETCH_MANY, &(requests,))
    }

    fn accepted(&self, start: u64, count: u32) -> Vec<Example> {
        self.call(host_function::ACCEPTED, &(start, count))
            .unwrap_or_default()
    }

    fn log(&self, level: Level, message: &str) {
        // Nothing can be done in a plugin about a log that the host would not take.
        let _: Result<(), Error> = self.call(host_function::LOG, &(level, message));
    }

    fn progress(&self, done: u64, total: u64) {
        let _: Result<(), Error> = self.call(host_function::PROGRESS, &(done, total));
    }
}
