//! What training reports while it runs.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// One optimizer step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Counted from 1.
    pub step: u64,
    /// Passes over the rows when the step was done, such as 0.25.
    pub epoch: f64,
    /// Mean cross-entropy over the step's label tokens, in nats, before the update.
    pub loss: f64,
    /// Learning rate of the update.
    pub learning_rate: f64,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Tokens of the step's rows, prompts included.
    pub tokens: u64,
    /// Tokens that the loss is over.
    pub label_tokens: u64,
    /// Wall time of the step, measurements and checkpoints aside.
    pub seconds: f64,
}

/// One measurement on the held-out rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldOutLoss {
    /// Steps made before it; 0 is the untrained model.
    pub step: u64,
    /// Mean cross-entropy over all label tokens of the held-out rows, in nats.
    pub loss: f64,
    /// Tokens that the loss is over.
    pub label_tokens: u64,
    /// Wall time.
    pub seconds: f64,
}

/// Follows a training run. Every method does nothing unless it is written.
///
/// After a kill, steps since the newest checkpoint are made and reported again, with equal numbers
/// (but for `seconds`): a record is known by its step.
pub trait TrainObserver {
    /// Training begins, after `steps_done` steps of `total_steps`; not 0 when it resumes.
    fn on_start(&mut self, steps_done: u64, total_steps: u64) {
        let _ = (steps_done, total_steps);
    }

    /// A micro-batch is done: `done` of `of` micro-batches of the step with number `step`.
    fn on_micro_batch(&mut self, step: u64, done: usize, of: usize) {
        let _ = (step, done, of);
    }

    /// A step is done.
    fn on_step(&mut self, record: &StepRecord) {
        let _ = record;
    }

    /// The held-out rows were measured.
    fn on_held_out(&mut self, record: &HeldOutLoss) {
        let _ = record;
    }

    /// A checkpoint is on disk.
    fn on_checkpoint(&mut self, step: u64, path: &Path) {
        let _ = (step, path);
    }

    /// Something that a person should know: a damaged checkpoint, another numeric path.
    fn on_notice(&mut self, sentence: &str) {
        let _ = sentence;
    }

    /// A named instant passes: "step:after", "checkpoint:mid-write", "checkpoint:before-rename",
    /// "checkpoint:after-rename".
    ///
    /// A test of crashes may end the process here.
    fn on_point(&mut self, name: &str) {
        let _ = name;
    }
}

/// Follows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl TrainObserver for Unobserved {}
