//! One flat buffer of f32 numbers on a device, with the names and shapes of a model's tensors.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use crate::llama::{LlamaConfig, Weights};

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

/// Values of many tensors (weights, gradients or a moment of Adam), one after another without gaps in
/// one buffer of a device.
///
/// A model's are in the order of [`LlamaConfig::tensor_shapes`], which puts the query, key and value
/// projections of a layer side by side, and the gate and up projections: each group is one matrix for
/// the engine.
#[derive(Debug)]
pub struct ParameterSet {
    table: Arc<Table>,
    data: Tensor,
}

#[derive(Debug)]
struct Table {
    specs: Vec<ParameterSpec>,
    by_name: HashMap<String, usize>,
}

impl ParameterSet {
    /// All zeros, in the shape of a model.
    ///
    /// # Errors
    /// candle's, if the device has not so much memory.
    pub fn zeros(config: &LlamaConfig, device: &Device) -> Result<Self> {
        Self::of_shapes(config.tensor_shapes(), device)
    }

    /// All zeros, for tensors of these names and shapes in this order.
    ///
    /// # Errors
    /// candle's, if the device has not so much memory.
    pub fn of_shapes(
        shapes: impl IntoIterator<Item = (String, Vec<usize>)>,
        device: &Device,
    ) -> Result<Self> {
        let mut end = 0;
        let specs: Vec<ParameterSpec> = shapes
            .into_iter()
            .map(|(name, shape)| {
                let start = end;
                end += shape.iter().product::<usize>();
                ParameterSpec {
                    name,
                    shape,
                    range: start..end,
                }
            })
            .collect();
        let by_name = specs
            .iter()
            .enumerate()
            .map(|(i, spec)| (spec.name.clone(), i))
            .collect();
        Ok(Self {
            table: Arc::new(Table { specs, by_name }),
            data: Tensor::zeros(end, DType::F32, device)?,
        })
    }

    /// Copies a model's weights; each tensor of `weights` is freed as soon as it has been copied.
    ///
    /// # Errors
    /// candle's, if a tensor is missing elements or cannot become f32. Loading has checked names and shapes.
    pub fn from_weights(config: &LlamaConfig, weights: Weights, device: &Device) -> Result<Self> {
        let mut set = Self::zeros(config, device)?;
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
            let values = tensor.to_device(device)?.to_dtype(DType::F32)?;
            set.place(range.start, &values.flatten_all()?.contiguous()?)?;
        }
        Ok(set)
    }

    /// The values as named tensors, which share the set's buffer.
    ///
    /// # Errors
    /// candle's.
    pub fn into_weights(self) -> Result<Weights> {
        let tensors = self
            .specs()
            .iter()
            .map(|spec| Ok((spec.name.clone(), self.tensor(spec)?)))
            .collect::<Result<_>>()?;
        Ok(Weights { tensors })
    }

    /// All zeros, in the shape of `self` and on its device.
    ///
    /// # Errors
    /// candle's, if the device has not so much memory.
    pub fn zeros_like(&self) -> Result<Self> {
        Ok(Self {
            table: Arc::clone(&self.table),
            data: self.data.zeros_like()?,
        })
    }

    /// Makes all values zero.
    ///
    /// # Errors
    /// candle's.
    pub fn zero(&mut self) -> Result<()> {
        self.data.zero_set()
    }

    /// Names, shapes and places of the tensors.
    pub fn specs(&self) -> &[ParameterSpec] {
        &self.table.specs
    }

    /// How many values there are.
    pub fn count(&self) -> usize {
        self.data.elem_count()
    }

    /// Place of the tensor `name`.
    pub fn range(&self, name: &str) -> Option<Range<usize>> {
        let index = *self.table.by_name.get(name)?;
        Some(self.table.specs[index].range.clone())
    }

    /// The tensor `name`, where there is one; it shares the set's buffer.
    ///
    /// # Errors
    /// candle's.
    pub fn get(&self, name: &str) -> Result<Option<Tensor>> {
        let index = self.table.by_name.get(name);
        index
            .map(|index| self.tensor(&self.table.specs[*index]))
            .transpose()
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

    /// All values, in one dimension.
    pub fn data(&self) -> &Tensor {
        &self.data
    }

    /// Copies some values to the host.
    ///
    /// # Errors
    /// candle's, if there are not so many.
    pub fn read(&self, range: Range<usize>) -> Result<Vec<f32>> {
        self.data.narrow(0, range.start, range.len())?.to_vec1()
    }

    /// Copies values from the host, to the places from `start` on.
    ///
    /// # Errors
    /// candle's, if there are not so many places.
    pub fn write(&mut self, start: usize, values: &[f32]) -> Result<()> {
        let values = Tensor::from_slice(values, values.len(), self.data.device())?;
        self.place(start, &values)
    }

    fn place(&mut self, start: usize, values: &Tensor) -> Result<()> {
        self.data.slice_set(values, 0, start)
    }
}
