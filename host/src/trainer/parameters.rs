//! One flat buffer of f32 numbers with the names and shapes of a model's tensors.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

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

/// Values of all trainable tensors (weights, gradients or a moment of Adam), in the order of
/// [`LlamaConfig::tensor_shapes`], one after another without gaps.
///
/// That order puts the query, key and value projections of a layer side by side, and the gate and
/// up projections: each group is one matrix for the engine.
#[derive(Debug, Clone)]
pub struct ParameterSet {
    table: Arc<Table>,
    data: Vec<f32>,
}

#[derive(Debug)]
struct Table {
    specs: Vec<ParameterSpec>,
    by_name: HashMap<String, usize>,
}

impl ParameterSet {
    /// All zeros, in the shape of a model.
    pub fn zeros(config: &LlamaConfig) -> Self {
        let mut end = 0;
        let specs: Vec<ParameterSpec> = config
            .tensor_shapes()
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
        Self {
            table: Arc::new(Table { specs, by_name }),
            data: vec![0.0; end],
        }
    }

    /// Copies a model's weights; each tensor of `weights` is freed as soon as it has been copied.
    ///
    /// # Errors
    /// candle's, if a tensor is missing elements or cannot become f32. Loading has checked names and shapes.
    pub fn from_weights(config: &LlamaConfig, weights: Weights) -> candle_core::Result<Self> {
        let mut set = Self::zeros(config);
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
            let values = tensor
                .to_dtype(DType::F32)?
                .flatten_all()?
                .to_vec1::<f32>()?;
            set.data[range].copy_from_slice(&values);
        }
        Ok(set)
    }

    /// The values as named tensors.
    pub fn into_weights(self) -> Weights {
        let tensors = self
            .specs()
            .iter()
            .map(|spec| {
                let values = self.data[spec.range.clone()].to_vec();
                let tensor = Tensor::from_vec(values, spec.shape.as_slice(), &Device::Cpu)
                    .expect("a range has as many elements as its shape says");
                (spec.name.clone(), tensor)
            })
            .collect();
        Weights { tensors }
    }

    /// All zeros, in the shape of `self`.
    pub fn zeros_like(&self) -> Self {
        Self {
            table: Arc::clone(&self.table),
            data: vec![0.0; self.data.len()],
        }
    }

    /// Names, shapes and places of the tensors.
    pub fn specs(&self) -> &[ParameterSpec] {
        &self.table.specs
    }

    /// Place of the tensor `name`.
    pub fn range(&self, name: &str) -> Option<Range<usize>> {
        let index = *self.table.by_name.get(name)?;
        Some(self.table.specs[index].range.clone())
    }

    /// Elements of the tensor `name`, row by row.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        Some(&self.data[self.range(name)?])
    }

    /// All elements.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// All elements, to change.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }
}
