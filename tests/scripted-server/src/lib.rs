//! An OpenAI-compatible server for tests.
//!
//! It answers by what a request says, never by when it arrives: a [`Script`] is a pure function
//! of the [`Recorded`] request, whose only memory is how often the very same request came
//! before. So a run that is killed, resumed or run at another concurrency meets the same
//! teacher. On cue it misbehaves as real servers do: error statuses, connections cut in the
//! middle of a body, silence, pages of HTML. Every request is recorded, so that a test can count
//! what was sent.
//!
//! ```
//! use scripted_server::{Action, Server};
//!
//! let server = Server::start(|_: &scripted_server::Recorded| Action::reply("Hello.")).unwrap();
//! assert!(server.base_url().starts_with("http://127.0.0.1:"));
//! assert!(server.requests().is_empty());
//! ```

mod action;
mod http;
mod server;
mod teacher;
mod words;

pub use action::{Action, Reply, Script, failing_first};
pub use server::{Recorded, Server};
pub use teacher::{AlpacaTeacher, Faults, alpaca_teacher};
