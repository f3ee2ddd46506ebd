//! Rotary position embedding (Su et al., arXiv 2104.09864) in Hugging Face's rotate-half layout:
//! element `i` of a head turns with element `i + head_dim / 2`.

use std::f64::consts::PI;

use super::config::{LlamaConfig, RopeScaling};

/// Angular frequency, in radians a token, of each of the `head_dim / 2` pairs.
pub fn inverse_frequencies(head_dim: usize, rope_theta: f64, scaling: RopeScaling) -> Vec<f64> {
    (0..head_dim / 2)
        .map(|pair| rope_theta.powf(-2.0 * pair as f64 / head_dim as f64))
        .map(|frequency| match scaling {
            RopeScaling::None => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let original = original_max_position_embeddings as f64;
                let wavelength = 2.0 * PI / frequency;
                if wavelength < original / high_freq_factor {
                    frequency
                } else if wavelength > original / low_freq_factor {
                    frequency / factor
                } else {
                    let smooth = (original / wavelength - low_freq_factor)
                        / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        })
        .collect()
}

/// Cosines and sines of every position up to a length.
#[derive(Debug, Clone)]
pub struct RopeTable {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// Tables for the positions `0..positions` of a model.
    pub fn new(config: &LlamaConfig, positions: usize) -> Self {
        let frequencies =
            inverse_frequencies(config.head_dim, config.rope_theta, config.rope_scaling);
        let angles: Vec<f32> = (0..positions)
            .flat_map(|position| {
                // transformers multiplies in f32, and parity with it is what the tests measure.
                frequencies
                    .iter()
                    .map(move |frequency| position as f32 * *frequency as f32)
            })
            .collect();
        Self {
            half: config.head_dim / 2,
            cos: angles.iter().map(|a| a.cos()).collect(),
            sin: angles.iter().map(|a| a.sin()).collect(),
        }
    }

    /// Number of positions in the tables.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.half
    }

    /// All cosines, `[positions, head_dim / 2]` row by row.
    pub fn cos(&self) -> &[f32] {
        &self.cos
    }

    /// All sines, `[positions, head_dim / 2]` row by row.
    pub fn sin(&self) -> &[f32] {
        &self.sin
    }

    /// Turns one head (`head_dim` numbers) to `position`, in place.
    ///
    /// # Panics
    /// If `position` is past the table.
    pub fn rotate(&self, head: &mut [f32], position: usize) {
        let row = position * self.half..(position + 1) * self.half;
        let (cos, sin) = (&self.cos[row.clone()], &self.sin[row]);
        let (first, second) = head.split_at_mut(self.half);
        for (((a, b), c), s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_keeps_high_frequencies_and_divides_low_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let plain = inverse_frequencies(128, 500_000.0, RopeScaling::None);
        let scaled = inverse_frequencies(128, 500_000.0, scaling);
        assert_eq!(plain[0], 1.0);
        assert_eq!(scaled[0], plain[0]);
        assert_eq!(scaled[63], plain[63] / 8.0);
        let divisors: Vec<f64> = plain.iter().zip(&scaled).map(|(p, s)| p / s).collect();
        assert!(divisors.windows(2).all(|pair| pair[0] <= pair[1] + 1e-12));
        assert!(divisors.iter().any(|d| *d > 1.01 && *d < 7.99));
    }

    #[test]
    fn rotation_depends_on_distance_alone() {
        let config = crate::llama::test_model::config();
        let table = RopeTable::new(&config, 50);
        let turned = |position| {
            let mut head: Vec<f32> = (0..12).map(|i| (i as f32 * 0.7).sin()).collect();
            table.rotate(&mut head, position);
            head
        };
        let product = |a: usize, b: usize| -> f32 {
            turned(a).iter().zip(turned(b)).map(|(x, y)| x * y).sum()
        };
        assert!((product(3, 10) - product(30, 37)).abs() < 1e-4);
        assert!((product(3, 10) - product(3, 20)).abs() > 1e-2);
    }
}
