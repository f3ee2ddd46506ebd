//! Pacos: the Alpaca recipe as a framework. The host runtime.

pub mod author;
pub mod cache;
pub mod cli;
mod counted;
pub mod dataset;
pub mod fault;
pub mod kit;
pub mod ledger;
pub mod manifest;
pub mod models;
pub mod plugin;
pub mod seed;
pub mod serve;
pub mod servers;
pub mod stages;

pub use pacos_engine::{download, llama, trainer};
