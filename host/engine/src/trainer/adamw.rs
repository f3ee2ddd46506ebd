//! AdamW (Loshchilov and Hutter, arXiv 1711.05101): its state, and the numbers of each update.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::config::TrainConfig;
use super::operations::{AdamWNumbers, AdamWTensors, Operations, RandomBits};
use super::parameters::{Layout, NumberFormat, ParameterSet};

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
#[derive(Debug)]
pub struct AdamW {
    /// Constants of the update.
    pub constants: AdamWConstants,
    /// Updates made so far.
    pub updates: u64,
    /// Which parameters are updated; of the others there are no moments.
    pub own: Range<usize>,
    /// Moving average of their gradient.
    pub m: ParameterSet,
    /// Moving average of their squared gradient.
    pub v: ParameterSet,
}

impl AdamW {
    /// Zero moments for all of `parameters`, kept in a format.
    ///
    /// # Errors
    /// candle's, if the device has not so much memory.
    pub fn new(
        constants: AdamWConstants,
        parameters: &ParameterSet,
        moments: NumberFormat,
    ) -> Result<Self> {
        Self::of_part(constants, parameters, moments, 0..parameters.count())
    }

    /// Zero moments for the part `own` of `parameters`, which alone is updated.
    ///
    /// # Errors
    /// candle's, if the device has not so much memory.
    pub fn of_part(
        constants: AdamWConstants,
        parameters: &ParameterSet,
        moments: NumberFormat,
        own: Range<usize>,
    ) -> Result<Self> {
        let layout = parameters.layout().of_part(&own);
        let zeros = || ParameterSet::zeros(&layout, moments, parameters.data().device());
        Ok(Self {
            constants,
            updates: 0,
            own,
            m: zeros()?,
            v: zeros()?,
        })
    }

    /// One update of the own parameters with the gradients times `gradient_factor`, one number on their
    /// device (see [`Operations::clip_factor`]). Where that is not finite, nothing changes.
    ///
    /// Matrices decay, normalisation weights do not, as transformers' Trainer groups parameters.
    ///
    /// # Errors
    /// candle's.
    pub fn update(
        &mut self,
        operations: &dyn Operations,
        parameters: &mut ParameterSet,
        gradients: &ParameterSet,
        learning_rate: f64,
        gradient_factor: &Tensor,
    ) -> Result<()> {
        self.updates += 1;
        let c = self.constants;
        let correction1 = 1.0 - c.beta1.powf(self.updates as f64);
        let correction2 = 1.0 - c.beta2.powf(self.updates as f64);
        let numbers = AdamWNumbers {
            decay: 1.0,
            one_minus_beta1: (1.0 - c.beta1) as f32,
            beta2: c.beta2 as f32,
            one_minus_beta2: (1.0 - c.beta2) as f32,
            step_size: (learning_rate / correction1) as f32,
            inverse_root_correction: (1.0 / correction2.sqrt()) as f32,
            epsilon: c.epsilon as f32,
            random: RandomBits {
                key: self.updates as u32,
                first: 0,
            },
        };
        let decay = (1.0 - learning_rate * c.weight_decay) as f32;
        let own = &self.own;
        for (range, decays) in self.stretches(parameters.layout()) {
            let range = range.start.max(own.start)..range.end.min(own.end);
            if range.is_empty() {
                continue;
            }
            let stretch = |set: &ParameterSet| set.view(range.clone(), &[range.len()]);
            let kept = range.start - own.start..range.end - own.start;
            let moment = |set: &ParameterSet| set.view(kept.clone(), &[kept.len()]);
            let rest = parameters.rest(range.clone())?;
            let state = AdamWTensors {
                weights: &stretch(parameters)?,
                rest: rest.as_ref(),
                gradients: &stretch(gradients)?,
                m: &moment(&self.m)?,
                v: &moment(&self.v)?,
                gradient_factor,
            };
            let numbers = AdamWNumbers {
                decay: if decays { decay } else { 1.0 },
                random: RandomBits {
                    first: range.start as u64,
                    ..numbers.random
                },
                ..numbers
            };
            operations.adamw(state, numbers)?;
        }
        Ok(())
    }

    /// Neighbouring parameters that are updated alike, and whether they decay.
    fn stretches(&self, layout: &Layout) -> Vec<(Range<usize>, bool)> {
        let mut stretches: Vec<(Range<usize>, bool)> = Vec::new();
        for spec in layout.specs() {
            let decays = self.constants.weight_decay != 0.0 && spec.shape.len() >= 2;
            match stretches.last_mut() {
                Some((range, same)) if *same == decays => range.end = spec.range.end,
                _ => stretches.push((spec.range.clone(), decays)),
            }
        }
        stretches
    }
}

/// What gradients of norm `norm` are multiplied by, as in `torch.nn.utils.clip_grad_norm_`:
/// `max_grad_norm / (norm + 1e-6)`, at most 1. A `max_grad_norm` of 0 turns clipping off. For a norm that
/// is not finite there is no factor: it is no number.
pub fn clip_factor(norm: f64, max_grad_norm: f64) -> f32 {
    if !norm.is_finite() {
        f32::NAN
    } else if max_grad_norm == 0.0 {
        1.0
    } else {
        (max_grad_norm / (norm + 1e-6)).min(1.0) as f32
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::trainer::config::TrainDtype;
    use crate::trainer::operations::{ComposedOperations, CpuOperations};
    use crate::trainer::testing::{tiny_config, tiny_parameters, values};

    /// Three updates of one weight by hand-sized gradients; expected values from
    /// `torch.optim.AdamW([tensor(0.5)], lr=0.1, weight_decay=0.1)` with gradients 1, -2, 0.5.
    #[test]
    fn updates_equal_those_of_pytorch() {
        let device = Device::Cpu;
        let constants = AdamWConstants {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.1,
        };
        let each: [&dyn Operations; 2] =
            [&CpuOperations::new(TrainDtype::F32), &ComposedOperations];
        for operations in each {
            let mut weights = ParameterSet::zeros(
                &Layout::of_model(&tiny_config(true)),
                NumberFormat::F32,
                &device,
            )
            .unwrap();
            let mut gradients = weights.zeros_in(NumberFormat::F32).unwrap();
            let mut adamw = AdamW::new(constants, &weights, NumberFormat::F32).unwrap();
            let factor = Tensor::ones(1, DType::F32, &device).unwrap();
            let norm = weights.range("model.norm.weight").unwrap().start;
            for start in [0, norm] {
                weights.write(start, &[0.5]).unwrap();
            }
            for (gradient, want, want_undecayed) in PYTORCH {
                for start in [0, norm] {
                    gradients.write(start, &[gradient]).unwrap();
                }
                adamw
                    .update(operations, &mut weights, &gradients, 0.1, &factor)
                    .unwrap();
                let [decayed, beside] = weights.read(0..2).unwrap()[..] else {
                    unreachable!("two were read");
                };
                assert!((decayed - want).abs() < 1e-6, "{decayed}");
                let undecayed = weights.read(norm..norm + 1).unwrap()[0];
                assert!((undecayed - want_undecayed).abs() < 1e-6, "{undecayed}");
                assert_eq!(beside, 0.0, "a weight without gradient stays");
            }
        }
    }

    /// Gradient, then the weight with decay 0.1 and with none.
    const PYTORCH: [(f32, f32, f32); 3] = [
        (1.0, 0.395, 0.4),
        (-2.0, 0.427_660_35, 0.436_610_34),
        (0.5, 0.437_052_8, 0.450_279_4),
    ];

    #[test]
    fn parts_updated_apart_give_the_whole() {
        let model = tiny_config(false);
        let operations = CpuOperations::new(TrainDtype::F32);
        let constants = AdamWConstants::from(&TrainConfig {
            weight_decay: 0.1,
            ..TrainConfig::default()
        });
        let factor = Tensor::ones(1, DType::F32, &Device::Cpu).unwrap();
        let updated = |parts: &[Range<usize>]| {
            let mut weights = tiny_parameters(&model, 3);
            let gradients = [tiny_parameters(&model, 4), tiny_parameters(&model, 5)];
            for own in parts {
                let format = NumberFormat::F32;
                let mut adamw = AdamW::of_part(constants, &weights, format, own.clone()).unwrap();
                assert_eq!(adamw.m.count(), own.len());
                for gradients in &gradients {
                    adamw
                        .update(&operations, &mut weights, gradients, 0.1, &factor)
                        .unwrap();
                }
            }
            values(&weights)
        };
        let count = Layout::of_model(&model).count();
        let whole = updated(&[0..count]);
        // Borders within matrices and within norms, and a part without anything.
        let norm = tiny_parameters(&model, 3)
            .range("model.layers.0.input_layernorm.weight")
            .unwrap();
        let border = norm.start + 5;
        assert_eq!(
            updated(&[0..7, 7..border, border..count, count..count]),
            whole
        );
        assert_ne!(updated(&[0..7]), whole);
    }

    #[test]
    fn clipping_follows_pytorch() {
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert!((clip_factor(4.0, 1.0) - 0.249_999_94).abs() < 1e-8);
        assert_eq!(clip_factor(4.0, 0.0), 1.0);
        for norm in [f64::NAN, f64::INFINITY] {
            assert!(clip_factor(norm, 1.0).is_nan() && clip_factor(norm, 0.0).is_nan());
        }
    }
}
