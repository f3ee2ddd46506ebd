//! Where the numbers come from that operations are called with.

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};

use crate::random;

/// Gives a case its tensors, one after another.
pub struct Inputs<'a> {
    device: &'a Device,
    format: DType,
    source: Source<'a>,
}

enum Source<'a> {
    /// Numbers of the host, made by the first who asks and given to the next as they are: in f32, of
    /// values that bf16 has.
    Kept {
        made: &'a mut Vec<Tensor>,
        next: usize,
    },
    /// Made by the device itself, for inputs so large that the host would be slow.
    Made,
}

impl<'a> Inputs<'a> {
    /// The same numbers for all that use one list.
    pub fn kept(made: &'a mut Vec<Tensor>, device: &'a Device, format: DType) -> Self {
        let source = Source::Kept { made, next: 0 };
        Self {
            device,
            format,
            source,
        }
    }

    /// Any numbers.
    pub fn made(device: &'a Device, format: DType) -> Self {
        let source = Source::Made;
        Self {
            device,
            format,
            source,
        }
    }

    /// The device that all tensors lie on.
    pub fn device(&self) -> &Device {
        self.device
    }

    /// Normal numbers in the format of weights and activations.
    pub fn normal(&mut self, shape: &[usize]) -> Result<Tensor> {
        let format = self.format;
        self.in_format(shape, format)
    }

    /// Normal numbers in f32, whatever the format of weights and activations.
    pub fn single(&mut self, shape: &[usize]) -> Result<Tensor> {
        self.in_format(shape, DType::F32)
    }

    fn in_format(&mut self, shape: &[usize], format: DType) -> Result<Tensor> {
        let Source::Kept { made, next } = &mut self.source else {
            let normal = Tensor::randn(0_f32, 1.0, shape, self.device)?;
            return Ok(normal.to_dtype(format)?);
        };
        if *next == made.len() {
            let exact = random::normal(*next as u64, shape)?;
            made.push(exact.to_dtype(DType::BF16)?.to_dtype(DType::F32)?);
        }
        let values = &made[*next];
        *next += 1;
        ensure!(
            values.dims() == shape,
            "a case asks for the same shapes every time"
        );
        // A copy: operations write in place.
        let rounded = values.copy()?.to_dtype(format)?;
        Ok(rounded.to_device(self.device)?)
    }

    /// Indices below a limit, the same for the same seed.
    pub fn indices(&self, seed: u64, count: usize, limit: usize) -> Result<Tensor> {
        let values = random::indices(seed, count, limit as u32);
        Ok(Tensor::from_vec(values, count, self.device)?)
    }

    /// One f64.
    pub fn double(&self, value: f64) -> Result<Tensor> {
        Ok(Tensor::from_slice(&[value], 1, self.device)?)
    }
}
