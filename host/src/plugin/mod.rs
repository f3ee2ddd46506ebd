//! Plugins: finding, checking, loading, calling.

mod calls;
mod contract;
mod error;
mod loaded;
mod native;
pub mod source;
mod wasm;

pub use calls::{HostCalls, NoCalls, Refusal};
pub use contract::Stage;
pub use error::{CallError, LoadError};
pub(crate) use loaded::hex;
pub use loaded::{BUNDLED, Instance, Loaded};
