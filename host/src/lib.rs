//! Pacos: the Alpaca recipe as a framework. The host runtime.

pub mod manifest;
pub mod models;
pub mod plugin;
