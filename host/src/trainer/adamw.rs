//! AdamW (Loshchilov and Hutter, arXiv 1711.05101) in place, with PyTorch's order of operations.

use rayon::prelude::*;

use super::config::TrainConfig;
use super::kernels::{sum_of_squares, vectorised};
use super::parameters::ParameterSet;

/// Elements of one task; fixed, so that sums do not depend on the number of threads.
const CHUNK: usize = 1 << 16;

/// Constants of the update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConstants {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub epsilon: f64,
    /// Fraction of a weight that decays per unit of learning rate.
    pub weight_decay: f64,
}

impl From<&TrainConfig> for AdamWConstants {
    fn from(config: &TrainConfig) -> Self {
        Self {
            beta1: config.adam_beta1,
            beta2: config.adam_beta2,
            epsilon: config.adam_epsilon,
            weight_decay: config.weight_decay,
        }
    }
}

/// Moments of the gradient and the number of updates made.
#[derive(Debug, Clone)]
pub struct AdamW {
    /// Constants of the update.
    pub constants: AdamWConstants,
    /// Updates made so far.
    pub updates: u64,
    /// Moving average of the gradient.
    pub m: ParameterSet,
    /// Moving average of the squared gradient.
    pub v: ParameterSet,
}

/// The numbers of one update, rounded to f32 as PyTorch rounds its scalars.
#[derive(Clone, Copy)]
struct Coefficients {
    gradient_factor: f32,
    decay: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    step_size: f32,
    inverse_root_correction: f32,
    epsilon: f32,
}

impl AdamW {
    /// Zero moments for `parameters`.
    pub fn new(constants: AdamWConstants, parameters: &ParameterSet) -> Self {
        Self {
            constants,
            updates: 0,
            m: parameters.zeros_like(),
            v: parameters.zeros_like(),
        }
    }

    /// One update of all parameters with the gradients times `gradient_factor` (see [`clip_factor`]).
    ///
    /// Matrices decay, normalisation weights do not, as transformers' Trainer groups parameters.
    pub fn update(
        &mut self,
        parameters: &mut ParameterSet,
        gradients: &ParameterSet,
        learning_rate: f64,
        gradient_factor: f32,
    ) {
        self.updates += 1;
        let c = self.constants;
        let correction1 = 1.0 - c.beta1.powf(self.updates as f64);
        let correction2 = 1.0 - c.beta2.powf(self.updates as f64);
        let coefficients = Coefficients {
            gradient_factor,
            decay: 1.0,
            one_minus_beta1: (1.0 - c.beta1) as f32,
            beta2: c.beta2 as f32,
            one_minus_beta2: (1.0 - c.beta2) as f32,
            step_size: (learning_rate / correction1) as f32,
            inverse_root_correction: (1.0 / correction2.sqrt()) as f32,
            epsilon: c.epsilon as f32,
        };
        let decay = (1.0 - learning_rate * c.weight_decay) as f32;
        for spec in self.m.specs().to_vec() {
            let decay = if spec.shape.len() >= 2 { decay } else { 1.0 };
            let coefficients = Coefficients {
                decay,
                ..coefficients
            };
            let range = spec.range;
            parameters.data_mut()[range.clone()]
                .par_chunks_mut(CHUNK)
                .zip(gradients.data()[range.clone()].par_chunks(CHUNK))
                .zip(self.m.data_mut()[range.clone()].par_chunks_mut(CHUNK))
                .zip(self.v.data_mut()[range].par_chunks_mut(CHUNK))
                .for_each(|(((w, g), m), v)| update_chunk(w, g, m, v, coefficients));
        }
    }
}

vectorised! {
    fn update_chunk(w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], c: Coefficients) {
        for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
            let g = g * c.gradient_factor;
            *m += (g - *m) * c.one_minus_beta1;
            *v = *v * c.beta2 + g * g * c.one_minus_beta2;
            let denominator = v.sqrt() * c.inverse_root_correction + c.epsilon;
            *w = *w * c.decay - c.step_size * (*m / denominator);
        }
    }
}

/// Euclidean norm over all elements.
pub fn global_norm(gradients: &ParameterSet) -> f64 {
    let squares: Vec<f64> = gradients
        .data()
        .par_chunks(CHUNK)
        .map(sum_of_squares)
        .collect();
    squares.iter().sum::<f64>().sqrt()
}

/// What gradients of norm `norm` are multiplied by, as in `torch.nn.utils.clip_grad_norm_`:
/// `max_grad_norm / (norm + 1e-6)`, at most 1. A `max_grad_norm` of 0 turns clipping off.
pub fn clip_factor(norm: f64, max_grad_norm: f64) -> f32 {
    if max_grad_norm == 0.0 {
        1.0
    } else {
        (max_grad_norm / (norm + 1e-6)).min(1.0) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::testing::tiny_config;

    /// Three updates of one weight by hand-sized gradients; expected values from
    /// `torch.optim.AdamW([tensor(0.5)], lr=0.1, weight_decay=0.1)` with gradients 1, -2, 0.5.
    #[test]
    fn updates_equal_those_of_pytorch() {
        let mut weights = ParameterSet::zeros(&tiny_config(true));
        let mut gradients = weights.zeros_like();
        let constants = AdamWConstants {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.1,
        };
        let mut adamw = AdamW::new(constants, &weights);
        weights.data_mut()[0] = 0.5;
        let norm = weights.range("model.norm.weight").unwrap().start;
        weights.data_mut()[norm] = 0.5;
        for (gradient, want, want_undecayed) in PYTORCH {
            gradients.data_mut()[0] = gradient;
            gradients.data_mut()[norm] = gradient;
            adamw.update(&mut weights, &gradients, 0.1, 1.0);
            assert!(
                (weights.data()[0] - want).abs() < 1e-6,
                "{}",
                weights.data()[0]
            );
            let undecayed = weights.data()[norm];
            assert!((undecayed - want_undecayed).abs() < 1e-6, "{undecayed}");
        }
        assert_eq!(weights.data()[1], 0.0, "a weight without gradient stays");
    }

    /// Gradient, then the weight with decay 0.1 and with none.
    const PYTORCH: [(f32, f32, f32); 3] = [
        (1.0, 0.395, 0.4),
        (-2.0, 0.427_660_35, 0.436_610_34),
        (0.5, 0.437_052_8, 0.450_279_4),
    ];

    #[test]
    fn clipping_follows_pytorch() {
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert!((clip_factor(4.0, 1.0) - 0.249_999_94).abs() < 1e-8);
        assert_eq!(clip_factor(4.0, 0.0), 1.0);
        let mut set = ParameterSet::zeros(&tiny_config(true));
        set.data_mut()[3] = 3.0;
        *set.data_mut().last_mut().unwrap() = -4.0;
        assert_eq!(global_norm(&set), 5.0);
    }
}
