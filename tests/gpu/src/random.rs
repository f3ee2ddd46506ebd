//! Random inputs. Never zeros: they hide elements that nothing wrote, and a card runs faster on them.

use anyhow::Result;
use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng, rngs::StdRng};
use rand_distr::StandardNormal;

/// Standard normal numbers as an f32 tensor of the host, the same for the same seed.
pub fn normal(seed: u64, shape: &[usize]) -> Result<Tensor> {
    let random = StdRng::seed_from_u64(seed);
    let values: Vec<f32> = random
        .sample_iter(StandardNormal)
        .take(shape.iter().product())
        .collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// `count` indices below `limit`.
pub fn indices(seed: u64, count: usize, limit: u32) -> Vec<u32> {
    let mut random = StdRng::seed_from_u64(seed);
    (0..count).map(|_| random.random_range(0..limit)).collect()
}
