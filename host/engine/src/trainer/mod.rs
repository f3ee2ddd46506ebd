//! The trainer: full fine-tuning of a LLaMA-family model, with checkpoints and exact resume.
//!
//! It knows tokens, weights and folders, and nothing of plugins, models by role or ledgers.

pub mod adamw;
#[cfg(test)]
mod autograd;
pub mod batches;
pub mod checkpoint;
pub mod collective;
pub mod config;
pub mod device;
pub mod engine;
pub mod formats;
mod kernels;
pub mod launch;
pub mod lora;
pub mod memory;
pub mod micro_batch;
pub mod operations;
pub mod parameters;
pub mod plan;
pub mod prefixes;
pub mod progress;
pub mod rounding;
pub mod schedule;
pub mod student;
pub mod template;
#[cfg(test)]
pub(crate) mod testing;
pub mod train;
mod transfer;

pub use config::TrainConfig;
pub use device::{ComputeDevice, DeviceError, DeviceKind, DeviceSetting};
pub use plan::{Plan, PlanError, Room, Split, plan};
pub use progress::{HeldOutLoss, StepRecord, TrainObserver};
pub use template::Row;
pub use train::{TrainError, TrainJob, TrainOutcome, train};
