//! Plugins: finding, checking, loading, calling.

mod calls;
pub(crate) mod capability;
mod codes;
mod contract;
mod error;
mod judging;
mod loaded;
mod native;
mod places;
pub mod source;
mod usage;
mod wasm;

pub use calls::{HostCalls, NoCalls, Refusal};
pub(crate) use codes::{check_rejects, is_kebab_case};
pub use contract::Stage;
pub use error::{CallError, LoadError};
pub(crate) use judging::check as check_verdicts;
pub use judging::{Judging, Surroundings, batch_limit};
pub use loaded::{BUNDLED, Instance, Loaded};
pub use usage::{Meter, Usage};
pub use wasm::read_every_file;
