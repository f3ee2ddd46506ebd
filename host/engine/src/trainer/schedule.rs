//! The learning rate of every step.

use std::f64::consts::PI;

use super::config::{LrScheduler, TrainConfig};

/// Learning rates over a run of known length.
///
/// Same formulas as `get_cosine_schedule_with_warmup`, `get_linear_schedule_with_warmup` and
/// `get_constant_schedule_with_warmup` in transformers' `optimization.py`. With a warm-up the first
/// step has learning rate 0, as it has there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    shape: LrScheduler,
    peak: f64,
    warmup_steps: u64,
    total_steps: u64,
}

impl Schedule {
    /// The schedule of a run of `total_steps` optimizer steps.
    pub fn new(config: &TrainConfig, total_steps: u64) -> Self {
        Self {
            shape: config.lr_scheduler,
            peak: config.learning_rate,
            warmup_steps: warmup_steps(config.warmup_ratio, total_steps),
            total_steps,
        }
    }

    /// Steps during which the learning rate rises.
    pub fn warmup_steps(&self) -> u64 {
        self.warmup_steps
    }

    /// Learning rate of the step with index `step`, counted from 0.
    pub fn learning_rate(&self, step: u64) -> f64 {
        self.peak * self.factor(step)
    }

    fn factor(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return step as f64 / self.warmup_steps.max(1) as f64;
        }
        let after_warmup = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = (step - self.warmup_steps) as f64 / after_warmup;
        match self.shape {
            LrScheduler::Cosine => (0.5 * (1.0 + (PI * progress).cos())).max(0.0),
            LrScheduler::Linear => (1.0 - progress).max(0.0),
            LrScheduler::Constant => 1.0,
        }
    }
}

/// `ceil(warmup_ratio × total_steps)`, as `TrainingArguments.get_warmup_steps` rounds.
pub fn warmup_steps(warmup_ratio: f64, total_steps: u64) -> u64 {
    (warmup_ratio * total_steps as f64).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(shape: LrScheduler, ratio: f64, total: u64) -> Vec<f64> {
        let config = TrainConfig {
            lr_scheduler: shape,
            warmup_ratio: ratio,
            learning_rate: 2e-5,
            ..TrainConfig::default()
        };
        let schedule = Schedule::new(&config, total);
        (0..total).map(|s| schedule.learning_rate(s)).collect()
    }

    #[test]
    fn warmup_is_rounded_up() {
        assert_eq!(warmup_steps(0.03, 1221), 37);
        assert_eq!(warmup_steps(0.03, 16), 1);
        assert_eq!(warmup_steps(0.0, 16), 0);
    }

    /// Expected values: torch's `LambdaLR` over transformers 5.23's functions, printed with 17 digits.
    #[test]
    fn rates_equal_those_of_transformers() {
        let cosine = rates(LrScheduler::Cosine, 0.2, 10);
        let linear = rates(LrScheduler::Linear, 0.2, 10);
        for (got, want) in cosine.iter().zip(COSINE).chain(linear.iter().zip(LINEAR)) {
            assert!((got - want).abs() < 1e-19, "{got} {want}");
        }
        assert_eq!(
            rates(LrScheduler::Constant, 0.2, 4),
            [0.0, 2e-5, 2e-5, 2e-5]
        );
    }

    const COSINE: [f64; 10] = [
        0.0,
        1e-05,
        2e-05,
        1.9238795325112867e-05,
        1.7071067811865477e-05,
        1.3826834323650899e-05,
        1e-05,
        6.173165676349103e-06,
        2.9289321881345257e-06,
        7.612046748871327e-07,
    ];
    const LINEAR: [f64; 10] = [
        0.0,
        1e-05,
        2e-05,
        1.7500000000000002e-05,
        1.5000000000000002e-05,
        1.25e-05,
        1e-05,
        7.500000000000001e-06,
        5e-06,
        2.5e-06,
    ];
}
