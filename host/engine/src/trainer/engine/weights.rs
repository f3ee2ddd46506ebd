//! A model's tensors as the layers use them: views, no copies.

use std::ops::Range;

use candle_core::{Result, Tensor};

use crate::llama::LlamaConfig;
use crate::trainer::lora::{Adapters, Target};
use crate::trainer::parameters::ParameterSet;
use crate::trainer::student::Student;

/// All tensors of a model, or their gradients, where what is not trained has none: `T` is a tensor or
/// an option of one.
pub(super) struct ModelTensors<T> {
    pub embedding: T,
    pub layers: Vec<LayerTensors<T>>,
    pub final_norm: T,
    /// The embedding again, where the two are tied.
    pub head: T,
}

/// The tensors of one decoder layer.
pub(super) struct LayerTensors<T> {
    pub input_norm: T,
    /// Query, key and value as one matrix.
    pub qkv: Projection<T>,
    pub o: Projection<T>,
    pub post_norm: T,
    /// Gate and up as one matrix.
    pub gate_up: Projection<T>,
    pub down: Projection<T>,
}

/// A matrix `[out, in]`, and what is added to some of its rows.
pub(super) struct Projection<T> {
    pub weight: T,
    pub adapters: Vec<Adapter>,
}

/// A product of low rank that is added to a matrix (LoRA, Hu et al., arXiv 2106.09685).
pub(super) struct Adapter {
    /// Which of the projection's outputs it adds to.
    pub outputs: Range<usize>,
    /// `[rank, in]`.
    pub a: Tensor,
    /// `[out, rank]`.
    pub b: Tensor,
    /// What the product is multiplied by.
    pub scale: f32,
    /// Which of all matrices that could be adapted it belongs to.
    pub matrix: u32,
}

impl ModelTensors<Tensor> {
    /// The weights that a student computes with.
    pub fn weights(config: &LlamaConfig, student: &Student) -> Result<Self> {
        let base = &student.base;
        let adapters = student.adapters.as_ref().map(|a| (a, &a.values));
        gather(config, base, adapters, &|range, shape| {
            base.view(range, shape)
        })
    }
}

impl ModelTensors<Option<Tensor>> {
    /// Where the gradients of what is trained go; they are laid out as [`Student::trained`].
    pub fn gradients(
        config: &LlamaConfig,
        student: &Student,
        gradients: &ParameterSet,
    ) -> Result<Self> {
        let base = &student.base;
        match &student.adapters {
            None => gather(config, base, None, &|range, shape| {
                gradients.view(range, shape).map(Some)
            }),
            Some(adapters) => gather(config, base, Some((adapters, gradients)), &|_, _| Ok(None)),
        }
    }
}

/// Gives a part of the base model in a shape.
type View<'a, T> = dyn Fn(Range<usize>, &[usize]) -> Result<T> + 'a;

/// Lays out a model's tensors: `view` gives a part of the base model in a shape, `adapters` are their
/// places and the values to view.
fn gather<T: Clone>(
    config: &LlamaConfig,
    base: &ParameterSet,
    adapters: Option<(&Adapters, &ParameterSet)>,
    view: &View<'_, T>,
) -> Result<ModelTensors<T>> {
    let range = |name: &str| {
        base.range(name)
            .expect("a parameter set holds every tensor of its configuration")
    };
    let hidden = config.hidden_size;
    let table = |name: &str| view(range(name), &[config.vocab_size, hidden]);
    let norm = |name: &str| view(range(name), &[hidden]);
    let projection = |layer: usize, targets: &[Target]| -> Result<Projection<T>> {
        let whole = joined(targets.iter().map(|t| range(&t.weight_name(layer))));
        let inputs = targets[0].shape(config)[1];
        let weight = view(whole.clone(), &[whole.len() / inputs, inputs])?;
        let mut found = Vec::new();
        let mut outputs = 0..0;
        for target in targets {
            outputs = outputs.end..outputs.end + target.shape(config)[0];
            let Some((adapters, values)) = adapters else {
                continue;
            };
            if let Some((a, b)) = adapters.of(values, layer, *target)? {
                let (outputs, scale) = (outputs.clone(), adapters.scale());
                found.push(Adapter {
                    outputs,
                    a,
                    b,
                    scale,
                    matrix: target.matrix(layer),
                });
            }
        }
        Ok(Projection {
            weight,
            adapters: found,
        })
    };
    let embedding = table("model.embed_tokens.weight")?;
    Ok(ModelTensors {
        layers: (0..config.num_hidden_layers)
            .map(|layer| {
                let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
                Ok(LayerTensors {
                    input_norm: norm(&name("input_layernorm"))?,
                    qkv: projection(layer, &[Target::Q, Target::K, Target::V])?,
                    o: projection(layer, &[Target::O])?,
                    post_norm: norm(&name("post_attention_layernorm"))?,
                    gate_up: projection(layer, &[Target::Gate, Target::Up])?,
                    down: projection(layer, &[Target::Down])?,
                })
            })
            .collect::<Result<_>>()?,
        final_norm: norm("model.norm.weight")?,
        head: if config.tie_word_embeddings {
            embedding.clone()
        } else {
            table("lm_head.weight")?
        },
        embedding,
    })
}

/// One range over neighbours.
fn joined(mut ranges: impl Iterator<Item = Range<usize>>) -> Range<usize> {
    let first = ranges.next().expect("there is a projection");
    ranges.fold(first, |whole, next| {
        assert_eq!(
            whole.end, next.start,
            "projections that are multiplied together lie side by side"
        );
        whole.start..next.end
    })
}
