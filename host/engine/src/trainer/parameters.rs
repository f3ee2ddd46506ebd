//! One flat buffer of numbers on a device, with the names and shapes of a model's tensors.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use half::bf16;
use serde::{Deserialize, Serialize};

use super::rounding::{join, split};
use super::transfer;
use crate::llama::{LlamaConfig, Weights};

/// How the numbers of a set are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NumberFormat {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits; what is written is rounded to the nearest.
    Bf16,
    /// 32 bits in two halves: the nearest bf16, which products read, and what it lacks.
    Split,
}

impl NumberFormat {
    /// Bytes of one number.
    pub fn bytes(self) -> u64 {
        match self {
            Self::F32 | Self::Split => 4,
            Self::Bf16 => 2,
        }
    }

    /// candle's name for the part that products read.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 | Self::Split => DType::BF16,
        }
    }
}

/// Name, shape and place of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterSpec {
    /// Hugging Face name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Rows first: `[out_features, in_features]`, or `[features]`.
    pub shape: Vec<usize>,
    /// Where its elements lie in the flat buffer.
    pub range: Range<usize>,
}

/// Names, shapes and places of many tensors, one after another without gaps.
///
/// A model's are in the order of [`LlamaConfig::tensor_shapes`], which puts the query, key and value
/// projections of a layer side by side, and the gate and up projections: each group is one matrix for
/// the engine. Clones share one table.
#[derive(Debug, Clone)]
pub struct Layout {
    table: Arc<Table>,
}

#[derive(Debug)]
struct Table {
    specs: Vec<ParameterSpec>,
    by_name: HashMap<String, usize>,
    count: usize,
}

impl Layout {
    /// That of a model's weights.
    pub fn of_model(config: &LlamaConfig) -> Self {
        Self::of_shapes(config.tensor_shapes())
    }

    /// That of tensors of these names and shapes in this order.
    pub fn of_shapes(shapes: impl IntoIterator<Item = (String, Vec<usize>)>) -> Self {
        let mut count = 0;
        let specs: Vec<ParameterSpec> = shapes
            .into_iter()
            .map(|(name, shape)| {
                let start = count;
                count += shape.iter().product::<usize>();
                ParameterSpec {
                    name,
                    shape,
                    range: start..count,
                }
            })
            .collect();
        let names = specs.iter().enumerate();
        let by_name = names.map(|(i, spec)| (spec.name.clone(), i)).collect();
        Self {
            table: Arc::new(Table {
                specs,
                by_name,
                count,
            }),
        }
    }

    /// That of some neighbouring values by themselves: this one again for all of them, or else one tensor
    /// that has no name in the model.
    pub fn of_part(&self, range: &Range<usize>) -> Self {
        if *range == (0..self.count()) {
            return self.clone();
        }
        Self::of_shapes([(format!("{}..{}", range.start, range.end), vec![range.len()])])
    }

    /// All tensors.
    pub fn specs(&self) -> &[ParameterSpec] {
        &self.table.specs
    }

    /// The tensor `name`.
    pub fn spec(&self, name: &str) -> Option<&ParameterSpec> {
        let index = *self.table.by_name.get(name)?;
        Some(&self.table.specs[index])
    }

    /// How many values there are in all tensors.
    pub fn count(&self) -> usize {
        self.table.count
    }
}

/// Values of many tensors (weights, gradients or a moment of Adam) in one buffer of a device.
#[derive(Debug)]
pub struct ParameterSet {
    layout: Layout,
    data: Tensor,
    /// Of [`NumberFormat::Split`]: what `data` lacks, i16.
    rest: Option<Tensor>,
}

impl ParameterSet {
    /// All zeros.
    ///
    /// # Errors
    /// candle's, if the device has not so much memory.
    pub fn zeros(layout: &Layout, format: NumberFormat, device: &Device) -> Result<Self> {
        let count = layout.count();
        // Cards have no memory of no size.
        let zeros = |dtype| Tensor::zeros(count.max(1), dtype, device)?.narrow(0, 0, count);
        Ok(Self {
            layout: layout.clone(),
            data: zeros(format.dtype())?,
            rest: match format {
                NumberFormat::Split => Some(zeros(DType::I16)?),
                NumberFormat::F32 | NumberFormat::Bf16 => None,
            },
        })
    }

    /// Copies a model's weights; each tensor of `weights` is freed as soon as it has been copied.
    ///
    /// # Errors
    /// candle's, if a tensor is missing elements or cannot become f32. Loading has checked names and shapes.
    pub fn from_weights(
        config: &LlamaConfig,
        weights: Weights,
        format: NumberFormat,
        device: &Device,
    ) -> Result<Self> {
        let mut set = Self::zeros(&Layout::of_model(config), format, device)?;
        for (name, tensor) in weights.tensors {
            let Some(range) = set.range(&name) else {
                candle_core::bail!("{name} is no tensor of this configuration");
            };
            if tensor.elem_count() != range.len() {
                candle_core::bail!(
                    "{name} has {} elements, expected {}",
                    tensor.elem_count(),
                    range.len()
                );
            }
            if format == NumberFormat::F32 && device.is_cpu() {
                let values = tensor.to_dtype(DType::F32)?.flatten_all()?.contiguous()?;
                set.data.slice_set(&values, 0, range.start)?;
            } else {
                let values = tensor.flatten_all()?.to_dtype(DType::F32)?;
                set.write(range.start, &values.to_vec1()?)?;
            }
        }
        Ok(set)
    }

    /// The values in f32 as named tensors of the host, which share the set's buffer where it is such a
    /// one.
    ///
    /// # Errors
    /// candle's.
    pub fn into_weights(self) -> Result<Weights> {
        let shared = self.data.device().is_cpu() && self.format() == NumberFormat::F32;
        let tensors = self
            .specs()
            .iter()
            .map(|spec| {
                let tensor = if shared {
                    self.tensor(spec)?
                } else {
                    let values = self.read(spec.range.clone())?;
                    Tensor::from_vec(values, spec.shape.as_slice(), &Device::Cpu)?
                };
                Ok((spec.name.clone(), tensor))
            })
            .collect::<Result<_>>()?;
        Ok(Weights { tensors })
    }

    /// All zeros, laid out as `self` and on its device, in another format.
    ///
    /// # Errors
    /// candle's, if the device has not so much memory.
    pub fn zeros_in(&self, format: NumberFormat) -> Result<Self> {
        Self::zeros(&self.layout, format, self.data.device())
    }

    /// How the numbers are kept.
    pub fn format(&self) -> NumberFormat {
        match (&self.rest, self.data.dtype()) {
            (Some(_), _) => NumberFormat::Split,
            (None, DType::BF16) => NumberFormat::Bf16,
            (None, _) => NumberFormat::F32,
        }
    }

    /// Names, shapes and places of the tensors.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The tensors.
    pub fn specs(&self) -> &[ParameterSpec] {
        self.layout.specs()
    }

    /// How many values there are.
    pub fn count(&self) -> usize {
        self.layout.count()
    }

    /// Place of the tensor `name`.
    pub fn range(&self, name: &str) -> Option<Range<usize>> {
        Some(self.layout.spec(name)?.range.clone())
    }

    /// The tensor `name`, where there is one; it shares the set's buffer.
    ///
    /// # Errors
    /// candle's.
    pub fn get(&self, name: &str) -> Result<Option<Tensor>> {
        let spec = self.layout.spec(name);
        spec.map(|spec| self.tensor(spec)).transpose()
    }

    /// One of the tensors, which shares the set's buffer.
    ///
    /// # Errors
    /// candle's, if `spec` is not of this set.
    pub fn tensor(&self, spec: &ParameterSpec) -> Result<Tensor> {
        self.view(spec.range.clone(), &spec.shape)
    }

    /// Some neighbouring values in a shape, sharing the set's buffer.
    ///
    /// # Errors
    /// candle's, if there are not so many values in the range.
    pub fn view(&self, range: Range<usize>, shape: &[usize]) -> Result<Tensor> {
        self.data
            .narrow(0, range.start, range.len())?
            .reshape(shape)
    }

    /// All values, in one dimension; of split numbers, the part that products read.
    pub fn data(&self) -> &Tensor {
        &self.data
    }

    /// Of split numbers, what neighbouring values lack in the part that products read.
    ///
    /// # Errors
    /// candle's, if there are not so many values in the range.
    pub fn rest(&self, range: Range<usize>) -> Result<Option<Tensor>> {
        let part = |rest: &Tensor| rest.narrow(0, range.start, range.len());
        self.rest.as_ref().map(part).transpose()
    }

    /// Copies some values to the host.
    ///
    /// # Errors
    /// candle's, if there are not so many.
    pub fn read(&self, range: Range<usize>) -> Result<Vec<f32>> {
        let Some(rest) = &self.rest else {
            return transfer::read_f32(&self.data, range);
        };
        let values = transfer::read::<bf16>(&self.data, range.clone())?;
        let rest = transfer::read::<i16>(rest, range)?;
        let whole = values.into_iter().zip(rest);
        Ok(whole.map(|(x, rest)| join(x, rest)).collect())
    }

    /// Copies values from the host, to the places from `start` on.
    ///
    /// # Errors
    /// candle's, if there are not so many places.
    pub fn write(&mut self, start: usize, values: &[f32]) -> Result<()> {
        match self.format() {
            NumberFormat::F32 => transfer::write(&self.data, start, values),
            NumberFormat::Bf16 => {
                let rounded: Vec<bf16> = values.iter().map(|x| bf16::from_f32(*x)).collect();
                transfer::write(&self.data, start, &rounded)
            }
            NumberFormat::Split => {
                let halves = values.iter().map(|x| split(*x));
                let (high, low): (Vec<bf16>, Vec<i16>) = halves.unzip();
                if let Some(rest) = &self.rest {
                    transfer::write(rest, start, &low)?;
                }
                transfer::write(&self.data, start, &high)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_as_their_format_keeps_them() {
        let shapes = [("a".to_owned(), vec![2, 2]), ("b".to_owned(), vec![3])];
        let layout = Layout::of_shapes(shapes);
        let values = [0.1, -2.7, 1e-9, 3.0e5, 0.0, -0.33, 7.7];
        let kept = |format| {
            let mut set = ParameterSet::zeros(&layout, format, &Device::Cpu).unwrap();
            set.write(0, &values[..2]).unwrap();
            set.write(2, &values[2..]).unwrap();
            assert_eq!(set.format(), format);
            assert_eq!(set.zeros_in(format).unwrap().format(), format);
            let weights = set.into_weights().unwrap();
            let numbers = |name| weights.tensors[name].flatten_all().unwrap();
            let mut all = numbers("a").to_vec1::<f32>().unwrap();
            all.extend(numbers("b").to_vec1::<f32>().unwrap());
            all
        };
        assert_eq!(kept(NumberFormat::F32), values);
        assert_eq!(kept(NumberFormat::Split), values);
        let rounded = values.map(|x| bf16::from_f32(x).to_f32());
        assert_eq!(kept(NumberFormat::Bf16), rounded);
        assert_ne!(rounded, values);
    }
}
