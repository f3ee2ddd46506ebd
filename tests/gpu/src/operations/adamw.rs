//! AdamW's update, which must be the twin's to the last bit: rounding at random is only exact on average
//! if every implementation takes the same random bits, and a resumed run must go on as it would have.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use half::bf16;
use pacos_engine::trainer::operations::{
    AdamWNumbers, AdamWTensors, ComposedOperations, Operations, RandomBits,
};
use pacos_engine::trainer::parameters::{Layout, NumberFormat, ParameterSet};
use pacos_engine::trainer::{ComputeDevice, DeviceKind};

use super::Work;
use crate::peak::Peak;
use crate::random;
use crate::report::Report;

/// How weights, gradients and moments are kept.
#[derive(Debug, Clone, Copy)]
struct Kept {
    name: &'static str,
    weights: NumberFormat,
    gradients: DType,
    moments: DType,
}

const ALL_F32: Kept = Kept {
    name: "all f32",
    weights: NumberFormat::F32,
    gradients: DType::F32,
    moments: DType::F32,
};
const EXACT_MOMENTS: Kept = Kept {
    name: "weights in two halves, moments f32",
    weights: NumberFormat::Split,
    gradients: DType::BF16,
    moments: DType::F32,
};
const ROUNDED_MOMENTS: Kept = Kept {
    name: "weights in two halves, moments bf16 rounded at random",
    weights: NumberFormat::Split,
    gradients: DType::BF16,
    moments: DType::BF16,
};

/// Stretches that begin where a vector of 16 bytes does, and where none does.
const STARTS: [usize; 2] = [0, 3];
const COUNT: usize = 100_003;

/// One row for each way of keeping numbers, and one for a gradient whose norm is not finite.
pub fn check(
    operations: &dyn Operations,
    device: &ComputeDevice,
    report: &mut Report,
) -> Result<()> {
    let ways: &[Kept] = match device.kind {
        DeviceKind::Cpu => &[ALL_F32],
        DeviceKind::Cuda => &[ALL_F32, EXACT_MOMENTS, ROUNDED_MOMENTS],
    };
    halves_come_back(device, report)?;
    let cases = STARTS
        .iter()
        .flat_map(|start| ways.iter().map(move |kept| (*start, *kept)));
    for (start, kept) in cases {
        for factor in [0.7, f32::NAN] {
            let [own, twin] = [
                (operations, &device.handle),
                (&ComposedOperations, &Device::Cpu),
            ]
            .map(|(operations, device)| -> Result<Vec<u64>> {
                let state = State::new(kept, start + COUNT, device)?;
                for update in 1..=3 {
                    state.update(operations, start, COUNT, factor, update)?;
                }
                state.bits()
            });
            let (own, twin) = (own?, twin?);
            let different = own.iter().zip(&twin).filter(|(a, b)| a != b).count();
            let what = if factor.is_nan() {
                ", norm not finite"
            } else {
                ""
            };
            let name = format!("AdamW, {} from number {start} on{what}", kept.name);
            report.bounded(&name, different as f64, 0.0, "numbers differ");
        }
    }
    Ok(())
}

/// Numbers go to a part of a buffer on the device and come back from a part of it, in every format.
fn halves_come_back(device: &ComputeDevice, report: &mut Report) -> Result<()> {
    let layout = Layout::of_shapes([("numbers".to_owned(), vec![COUNT])]);
    let numbers: Vec<f32> = random::normal(6, &[COUNT])?.to_vec1()?;
    for format in [NumberFormat::F32, NumberFormat::Split] {
        let mut set = ParameterSet::zeros(&layout, format, &device.handle)?;
        let (first, second) = numbers.split_at(COUNT / 3);
        set.write(first.len(), second)?;
        set.write(0, first)?;
        let mut back = set.read(0..COUNT / 2)?;
        back.extend(set.read(COUNT / 2..COUNT)?);
        let different = numbers.iter().zip(&back).filter(|(a, b)| a != b).count();
        let name = format!("numbers to the device and back, {format:?}");
        report.bounded(&name, different as f64, 0.0, "numbers differ");
    }
    Ok(())
}

/// The speed of one update of many parameters.
pub fn time(
    operations: &dyn Operations,
    device: &ComputeDevice,
    peak: Option<Peak>,
    report: &mut Report,
) -> Result<()> {
    const MANY: usize = 1 << 24;
    for kept in [ALL_F32, EXACT_MOMENTS, ROUNDED_MOMENTS] {
        let state = State::new(kept, MANY, &device.handle)?;
        let seconds =
            super::seconds_of(&device.handle, || state.update(operations, 0, MANY, 0.7, 1))?;
        let gradients = kept.gradients.size_in_bytes();
        let each = 2 * kept.weights.bytes() as usize + gradients + 4 * kept.moments.size_in_bytes();
        let work = Work::Bytes((each * MANY) as f64);
        work.report(&format!("AdamW, {}", kept.name), seconds, peak, report);
    }
    Ok(())
}

struct State {
    weights: Tensor,
    rest: Option<Tensor>,
    gradients: Tensor,
    m: Tensor,
    v: Tensor,
}

impl State {
    fn new(kept: Kept, count: usize, device: &Device) -> Result<Self> {
        let place = |values: Tensor, dtype| -> Result<Tensor> {
            Ok(values.to_dtype(dtype)?.to_device(device)?)
        };
        let normal =
            |seed, size: f64| -> Result<Tensor> { Ok((random::normal(seed, &[count])? * size)?) };
        let rest = match kept.weights {
            NumberFormat::Split => {
                let low = random::indices(5, count, 1 << 16);
                let low = low.into_iter().map(|bits| bits as u16 as i16).collect();
                Some(Tensor::from_vec::<_, i16>(low, count, device)?)
            }
            NumberFormat::F32 | NumberFormat::Bf16 => None,
        };
        Ok(Self {
            weights: place(normal(1, 0.02)?, kept.weights.dtype())?,
            rest,
            gradients: place(normal(2, 1e-3)?, kept.gradients)?,
            m: place(normal(3, 1e-3)?, kept.moments)?,
            v: place(normal(4, 1e-3)?.sqr()?, kept.moments)?,
        })
    }

    fn update(
        &self,
        operations: &dyn Operations,
        start: usize,
        count: usize,
        factor: f32,
        number: u32,
    ) -> Result<()> {
        let part = |tensor: &Tensor| tensor.narrow(0, start, count);
        let rest = self.rest.as_ref().map(part).transpose()?;
        let factor = Tensor::from_slice(&[factor], 1, self.weights.device())?;
        let state = AdamWTensors {
            weights: &part(&self.weights)?,
            rest: rest.as_ref(),
            gradients: &part(&self.gradients)?,
            m: &part(&self.m)?,
            v: &part(&self.v)?,
            gradient_factor: &factor,
        };
        let numbers = AdamWNumbers {
            decay: 0.9999,
            one_minus_beta1: 0.1,
            beta2: 0.999,
            one_minus_beta2: 0.001,
            step_size: 2e-4,
            inverse_root_correction: 1.5,
            epsilon: 1e-8,
            random: RandomBits {
                key: number,
                // Past 2³², as in a model of that many parameters.
                first: (1 << 32) - 1000,
            },
        };
        Ok(operations.adamw(state, numbers)?)
    }

    /// All numbers that it holds, those around the stretch too.
    fn bits(&self) -> Result<Vec<u64>> {
        let mut bits = Vec::new();
        for tensor in [&self.weights, &self.m, &self.v]
            .into_iter()
            .chain(&self.rest)
        {
            match tensor.dtype() {
                DType::F32 => {
                    let values = tensor.to_vec1::<f32>()?;
                    bits.extend(values.into_iter().map(|x| u64::from(x.to_bits())));
                }
                DType::BF16 => {
                    let values = tensor.to_vec1::<bf16>()?;
                    bits.extend(values.into_iter().map(|x| u64::from(x.to_bits())));
                }
                _ => {
                    let values = tensor.to_vec1::<i16>()?;
                    bits.extend(values.into_iter().map(|x| u64::from(x as u16)));
                }
            }
        }
        Ok(bits)
    }
}
