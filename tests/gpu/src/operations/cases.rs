//! The operations but for AdamW, each with the inputs that a training step gives it.

use anyhow::Result;
use candle_core::Tensor;
use pacos_engine::trainer::operations::{
    AttentionSaved, Operations, Output, RmsNormSaved, Rotation,
};

use super::inputs::Inputs;
use super::{Sizes, Work};
use crate::rows;

/// One use of an operation, or of a pair that belongs together.
pub struct Case {
    /// For the report.
    pub name: &'static str,
    /// Makes the inputs.
    pub prepare: Prepare,
}

/// Forward results that a backward pass reads are made by the operations given.
type Prepare = fn(&mut Inputs<'_>, &dyn Operations, Sizes) -> Result<Prepared>;

/// An operation that is ready to be called, again and again.
pub struct Prepared {
    /// The call alone.
    pub call: Call,
    /// What it writes.
    pub written: Vec<Written>,
    /// What it has to do.
    pub work: Work,
}

type Call = Box<dyn Fn(&dyn Operations) -> candle_core::Result<()>>;

/// A result.
pub struct Written {
    /// For the report.
    pub name: &'static str,
    /// The whole buffer.
    pub tensor: Tensor,
    /// The most that it may be wrong.
    pub bounds: Bounds,
}

/// Largest error over largest value.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// With all numbers in f32.
    pub f32: f64,
    /// With weights, activations and gradients in bf16.
    pub bf16: f64,
}

/// Nothing is rounded.
const EXACT: Bounds = Bounds {
    f32: 0.0,
    bf16: 0.0,
};
/// Sums in f32 in another order; in bf16 the result is rounded once, by 2⁻⁸ of itself at most.
const ROUNDED: Bounds = Bounds {
    f32: 1e-5,
    bf16: 4e-3,
};
/// What was rounded before is added or multiplied, and rounded again.
const ROUNDED_TWICE: Bounds = Bounds {
    f32: 1e-5,
    bf16: 1e-2,
};
/// Attention's probabilities are rounded to bf16 between its two products, and again in its gradients.
const ATTENTION: Bounds = Bounds {
    f32: 2e-5,
    bf16: 1e-2,
};
const ATTENTION_BACKWARD: Bounds = Bounds {
    f32: 2e-5,
    bf16: 2e-2,
};
/// The result stays in f32 whatever the format of its inputs.
const SINGLE: Bounds = Bounds {
    f32: 1e-5,
    bf16: 1e-4,
};

/// All cases.
pub const CASES: &[Case] = &[
    Case {
        name: "product, forward (x Wᵀ)",
        prepare: product_forward,
    },
    Case {
        name: "product, input gradient (dy W)",
        prepare: product_input_gradient,
    },
    Case {
        name: "product, weight gradient (+= dyᵀ x)",
        prepare: product_weight_gradient,
    },
    Case {
        name: "product, of adapters into columns (+= s a bᵀ)",
        prepare: product_into_columns,
    },
    Case {
        name: "zero and copy",
        prepare: zero_and_copy,
    },
    Case {
        name: "rows gathered",
        prepare: gather,
    },
    Case {
        name: "rows scattered and added",
        prepare: scatter,
    },
    Case {
        name: "RMSNorm",
        prepare: rms_norm,
    },
    Case {
        name: "RMSNorm, backward",
        prepare: rms_norm_backward,
    },
    Case {
        name: "heads split and turned",
        prepare: split_heads,
    },
    Case {
        name: "heads merged and turned back",
        prepare: merge_heads,
    },
    Case {
        name: "attention",
        prepare: attention,
    },
    Case {
        name: "attention, backward",
        prepare: attention_backward,
    },
    Case {
        name: "products of heads",
        prepare: head_products,
    },
    Case {
        name: "SwiGLU",
        prepare: swiglu,
    },
    Case {
        name: "SwiGLU, backward",
        prepare: swiglu_backward,
    },
    Case {
        name: "cross-entropy",
        prepare: cross_entropy,
    },
    Case {
        name: "cross-entropy and its gradient",
        prepare: cross_entropy_gradient,
    },
    Case {
        name: "sum of squares, sum, clipping factor",
        prepare: norms,
    },
];

fn written(name: &'static str, tensor: &Tensor, bounds: Bounds) -> Written {
    Written {
        name,
        tensor: tensor.clone(),
        bounds,
    }
}

fn bytes(tensors: &[&Tensor]) -> f64 {
    let each = tensors
        .iter()
        .map(|tensor| tensor.elem_count() * tensor.dtype().size_in_bytes());
    each.sum::<usize>() as f64
}

fn product_work(m: usize, n: usize, k: usize) -> Work {
    Work::Operations(2.0 * m as f64 * n as f64 * k as f64)
}

fn product_forward(inputs: &mut Inputs<'_>, _: &dyn Operations, s: Sizes) -> Result<Prepared> {
    let x = inputs.normal(&[s.tokens, s.hidden])?;
    let weight = inputs.normal(&[s.inner, s.hidden])?;
    let y = inputs.normal(&[s.tokens, s.inner])?;
    Ok(Prepared {
        written: vec![written("y", &y, ROUNDED)],
        work: product_work(s.tokens, s.inner, s.hidden),
        call: Box::new(move |o| o.matmul(Output::set(&y), &x, &weight.t()?)),
    })
}

fn product_input_gradient(
    inputs: &mut Inputs<'_>,
    _: &dyn Operations,
    s: Sizes,
) -> Result<Prepared> {
    let dy = inputs.normal(&[s.tokens, s.inner])?;
    let weight = inputs.normal(&[s.inner, s.hidden])?;
    let dx = inputs.normal(&[s.tokens, s.hidden])?;
    Ok(Prepared {
        written: vec![written("dx", &dx, ROUNDED)],
        work: product_work(s.tokens, s.hidden, s.inner),
        call: Box::new(move |o| o.matmul(Output::set(&dx), &dy, &weight)),
    })
}

fn product_weight_gradient(
    inputs: &mut Inputs<'_>,
    _: &dyn Operations,
    s: Sizes,
) -> Result<Prepared> {
    let dy = inputs.normal(&[s.tokens, s.inner])?;
    let x = inputs.normal(&[s.tokens, s.hidden])?;
    let dw = inputs.normal(&[s.inner, s.hidden])?;
    Ok(Prepared {
        written: vec![written("dW", &dw, ROUNDED)],
        work: product_work(s.inner, s.hidden, s.tokens),
        call: Box::new(move |o| o.matmul(Output::add(&dw), &dy.t()?, &x)),
    })
}

fn product_into_columns(inputs: &mut Inputs<'_>, _: &dyn Operations, s: Sizes) -> Result<Prepared> {
    const RANK: usize = 16;
    let low = inputs.normal(&[s.tokens, RANK])?;
    let up = inputs.normal(&[s.hidden, RANK])?;
    let y = inputs.normal(&[s.tokens, s.hidden + s.inner])?;
    let columns = s.inner..s.inner + s.hidden;
    Ok(Prepared {
        written: vec![written("y", &y, ROUNDED)],
        work: Work::Little,
        call: Box::new(move |o| {
            let out = Output::add(&y).columns(columns.clone()).times(0.5);
            o.matmul(out, &low, &up.t()?)
        }),
    })
}

fn zero_and_copy(inputs: &mut Inputs<'_>, _: &dyn Operations, s: Sizes) -> Result<Prepared> {
    let x = inputs.normal(&[s.tokens, s.hidden])?;
    let copied = inputs.normal(&[s.tokens, s.hidden])?;
    let zeroed = inputs.normal(&[s.tokens, s.hidden])?;
    Ok(Prepared {
        written: vec![
            written("copied", &copied, EXACT),
            written("zeroed", &zeroed, EXACT),
        ],
        work: Work::Bytes(bytes(&[&x, &copied, &zeroed])),
        call: Box::new(move |o| {
            o.copy(&copied, &x)?;
            o.zero(&zeroed)
        }),
    })
}

/// Rows of a table that is larger than a micro-batch.
const TABLE: usize = 3001;

fn gather(inputs: &mut Inputs<'_>, _: &dyn Operations, s: Sizes) -> Result<Prepared> {
    let table = inputs.normal(&[TABLE, s.hidden])?;
    let ids = inputs.indices(1, s.tokens, TABLE)?;
    let out = inputs.normal(&[s.tokens, s.hidden])?;
    Ok(Prepared {
        written: vec![written("rows", &out, EXACT)],
        work: Work::Bytes(2.0 * bytes(&[&out])),
        call: Box::new(move |o| o.gather_rows(&out, &table, &ids)),
    })
}

fn scatter(inputs: &mut Inputs<'_>, _: &dyn Operations, s: Sizes) -> Result<Prepared> {
    let table = inputs.normal(&[TABLE, s.hidden])?;
    // Few enough that many come more than once, as tokens of a text do.
    let ids = inputs.indices(2, s.tokens, s.tokens.min(TABLE) / 2)?;
    let rows = inputs.normal(&[s.tokens, s.hidden])?;
    Ok(Prepared {
        written: vec![written("table", &table, ROUNDED_TWICE)],
        work: Work::Bytes(3.0 * bytes(&[&rows])),
        call: Box::new(move |o| o.scatter_add_rows(&table, &ids, &rows)),
    })
}

const EPSILON: f64 = 1e-5;

fn rms_norm(inputs: &mut Inputs<'_>, _: &dyn Operations, s: Sizes) -> Result<Prepared> {
    let x = inputs.normal(&[s.tokens, s.hidden])?;
    let weight = inputs.normal(&[s.hidden])?;
    let y = inputs.normal(&[s.tokens, s.hidden])?;
    let rstd = inputs.single(&[s.tokens])?;
    Ok(Prepared {
        written: vec![written("y", &y, ROUNDED), written("rstd", &rstd, SINGLE)],
        work: Work::Bytes(bytes(&[&x, &y])),
        call: Box::new(move |o| o.rms_norm(&y, &rstd, &x, &weight, EPSILON)),
    })
}

fn rms_norm_backward(
    inputs: &mut Inputs<'_>,
    operations: &dyn Operations,
    s: Sizes,
) -> Result<Prepared> {
    let x = inputs.normal(&[s.tokens, s.hidden])?;
    let weight = inputs.normal(&[s.hidden])?;
    let y = inputs.normal(&[s.tokens, s.hidden])?;
    let rstd = inputs.single(&[s.tokens])?;
    operations.rms_norm(&y, &rstd, &x, &weight, EPSILON)?;
    let dy = inputs.normal(&[s.tokens, s.hidden])?;
    let dx = inputs.normal(&[s.tokens, s.hidden])?;
    let d_weight = inputs.normal(&[s.hidden])?;
    Ok(Prepared {
        written: vec![
            written("dx", &dx, ROUNDED_TWICE),
            written("d weight", &d_weight, ROUNDED_TWICE),
        ],
        work: Work::Bytes(bytes(&[&x, &dy, &dx, &dx])),
        call: Box::new(move |o| {
            let saved = RmsNormSaved {
                x: &x,
                weight: &weight,
                rstd: &rstd,
            };
            o.rms_norm_backward(&dx, Some(&d_weight), &dy, saved)
        }),
    })
}

/// Cosines, sines and each token's position.
fn angles(inputs: &mut Inputs<'_>, s: Sizes) -> Result<[Tensor; 3]> {
    let positions = 2 * crate::shapes::LONGEST;
    let cos = inputs.single(&[positions, s.head_dim / 2])?;
    let sin = inputs.single(&[positions, s.head_dim / 2])?;
    Ok([cos, sin, inputs.indices(3, s.tokens, positions)?])
}

fn split_heads(inputs: &mut Inputs<'_>, _: &dyn Operations, s: Sizes) -> Result<Prepared> {
    let (queries, keys) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
    let rows = inputs.normal(&[s.tokens, queries + 2 * keys])?;
    let q = inputs.normal(&[s.heads, s.tokens, s.head_dim])?;
    let k = inputs.normal(&[s.kv_heads, s.tokens, s.head_dim])?;
    let v = inputs.normal(&[s.kv_heads, s.tokens, s.head_dim])?;
    let [cos, sin, positions] = angles(inputs, s)?;
    Ok(Prepared {
        written: vec![
            written("q", &q, ROUNDED),
            written("k", &k, ROUNDED),
            written("v", &v, EXACT),
        ],
        work: Work::Bytes(2.0 * bytes(&[&rows])),
        call: Box::new(move |o| {
            let rotation = Some(Rotation {
                cos: &cos,
                sin: &sin,
                positions: &positions,
            });
            o.split_heads(&q, &rows, 0..queries, rotation)?;
            o.split_heads(&k, &rows, queries..queries + keys, rotation)?;
            o.split_heads(&v, &rows, queries + keys..queries + 2 * keys, None)
        }),
    })
}

fn merge_heads(inputs: &mut Inputs<'_>, _: &dyn Operations, s: Sizes) -> Result<Prepared> {
    let (queries, keys) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
    let rows = inputs.normal(&[s.tokens, queries + 2 * keys])?;
    let q = inputs.normal(&[s.heads, s.tokens, s.head_dim])?;
    let k = inputs.normal(&[s.kv_heads, s.tokens, s.head_dim])?;
    let v = inputs.normal(&[s.kv_heads, s.tokens, s.head_dim])?;
    let [cos, sin, positions] = angles(inputs, s)?;
    Ok(Prepared {
        written: vec![written("rows", &rows, ROUNDED)],
        work: Work::Bytes(2.0 * bytes(&[&rows])),
        call: Box::new(move |o| {
            let rotation = Some(Rotation {
                cos: &cos,
                sin: &sin,
                positions: &positions,
            });
            o.merge_heads(&rows, 0..queries, &q, rotation)?;
            o.merge_heads(&rows, queries..queries + keys, &k, rotation)?;
            o.merge_heads(&rows, queries + keys..queries + 2 * keys, &v, None)
        }),
    })
}

/// Pairs of a token and one that it looks at.
fn pairs(s: Sizes) -> f64 {
    let each = rows::segments(4, s.tokens).into_iter().map(|segment| {
        let (own, prefix) = (segment.tokens.len() as f64, segment.prefix.len() as f64);
        own * prefix + own * (own + 1.0) / 2.0
    });
    each.sum()
}

fn attention(inputs: &mut Inputs<'_>, operations: &dyn Operations, s: Sizes) -> Result<Prepared> {
    let q = inputs.normal(&[s.heads, s.tokens, s.head_dim])?;
    let k = inputs.normal(&[s.kv_heads, s.tokens, s.head_dim])?;
    let v = inputs.normal(&[s.kv_heads, s.tokens, s.head_dim])?;
    let out = inputs.normal(&[s.heads, s.tokens, s.head_dim])?;
    let log_sum = inputs.single(&[s.heads, s.tokens])?;
    let segments = rows::segments(4, s.tokens);
    let segments = operations.place_segments(&segments, inputs.device())?;
    let width = (s.heads * s.head_dim) as f64;
    Ok(Prepared {
        written: vec![
            written("out", &out, ATTENTION),
            written("log sum", &log_sum, SINGLE),
        ],
        // Two products.
        work: Work::Operations(2.0 * 2.0 * pairs(s) * width),
        call: Box::new(move |o| o.attention(&out, &log_sum, [&q, &k, &v], &segments)),
    })
}

fn attention_backward(
    inputs: &mut Inputs<'_>,
    operations: &dyn Operations,
    s: Sizes,
) -> Result<Prepared> {
    let queries = [s.heads, s.tokens, s.head_dim];
    let keys = [s.kv_heads, s.tokens, s.head_dim];
    let (q, k, v) = (
        inputs.normal(&queries)?,
        inputs.normal(&keys)?,
        inputs.normal(&keys)?,
    );
    let out = inputs.normal(&queries)?;
    let log_sum = inputs.single(&[s.heads, s.tokens])?;
    let segments = rows::segments(4, s.tokens);
    let segments = operations.place_segments(&segments, inputs.device())?;
    operations.attention(&out, &log_sum, [&q, &k, &v], &segments)?;
    let d_out = inputs.normal(&queries)?;
    // As the layer has them: rows, which are split into heads.
    let width = s.heads * s.head_dim;
    let by_token = |heads: &Tensor| {
        let rows = heads.transpose(0, 1)?.contiguous()?;
        rows.reshape((s.tokens, width))
    };
    let delta = inputs.single(&[s.heads, s.tokens])?;
    operations.head_products(&delta, &by_token(&out)?, &by_token(&d_out)?)?;
    let (d_q, d_k, d_v) = (
        inputs.normal(&queries)?,
        inputs.normal(&keys)?,
        inputs.normal(&keys)?,
    );
    Ok(Prepared {
        written: vec![
            written("dq", &d_q, ATTENTION_BACKWARD),
            written("dk", &d_k, ATTENTION_BACKWARD),
            written("dv", &d_v, ATTENTION_BACKWARD),
        ],
        // Five products.
        work: Work::Operations(5.0 * 2.0 * pairs(s) * width as f64),
        call: Box::new(move |o| {
            let saved = AttentionSaved {
                q: &q,
                k: &k,
                v: &v,
                log_sum: &log_sum,
                delta: &delta,
                d_out: &d_out,
            };
            o.attention_backward([&d_q, &d_k, &d_v], saved, &segments)
        }),
    })
}

fn head_products(inputs: &mut Inputs<'_>, _: &dyn Operations, s: Sizes) -> Result<Prepared> {
    let width = s.heads * s.head_dim;
    let a = inputs.normal(&[s.tokens, width])?;
    let b = inputs.normal(&[s.tokens, width])?;
    let products = inputs.single(&[s.heads, s.tokens])?;
    Ok(Prepared {
        written: vec![written("products", &products, SINGLE)],
        work: Work::Bytes(bytes(&[&a, &b])),
        call: Box::new(move |o| o.head_products(&products, &a, &b)),
    })
}

fn swiglu(inputs: &mut Inputs<'_>, _: &dyn Operations, s: Sizes) -> Result<Prepared> {
    let gate_up = inputs.normal(&[s.tokens, 2 * s.inner])?;
    let out = inputs.normal(&[s.tokens, s.inner])?;
    Ok(Prepared {
        written: vec![written("out", &out, ROUNDED)],
        work: Work::Bytes(bytes(&[&gate_up, &out])),
        call: Box::new(move |o| o.swiglu(&out, &gate_up)),
    })
}

fn swiglu_backward(inputs: &mut Inputs<'_>, _: &dyn Operations, s: Sizes) -> Result<Prepared> {
    let gate_up = inputs.normal(&[s.tokens, 2 * s.inner])?;
    let d_out = inputs.normal(&[s.tokens, s.inner])?;
    let d_gate_up = inputs.normal(&[s.tokens, 2 * s.inner])?;
    Ok(Prepared {
        written: vec![written("d gate and up", &d_gate_up, ROUNDED)],
        work: Work::Bytes(bytes(&[&gate_up, &d_out, &d_gate_up])),
        call: Box::new(move |o| o.swiglu_backward(&d_gate_up, &d_out, &gate_up)),
    })
}

/// Wide enough apart that probabilities are no less than the errors allowed.
fn logits(inputs: &mut Inputs<'_>, s: Sizes) -> Result<Tensor> {
    Ok((inputs.normal(&[s.label_rows, s.vocabulary])? * 4.0)?)
}

fn cross_entropy(inputs: &mut Inputs<'_>, _: &dyn Operations, s: Sizes) -> Result<Prepared> {
    let logits = logits(inputs, s)?;
    let targets = inputs.indices(5, s.label_rows, s.vocabulary)?;
    let losses = inputs.single(&[s.label_rows])?;
    Ok(Prepared {
        written: vec![written("losses", &losses, SINGLE)],
        work: Work::Bytes(bytes(&[&logits])),
        call: Box::new(move |o| o.cross_entropy(&losses, &logits, &targets, None)),
    })
}

fn cross_entropy_gradient(
    inputs: &mut Inputs<'_>,
    _: &dyn Operations,
    s: Sizes,
) -> Result<Prepared> {
    let logits = logits(inputs, s)?;
    let targets = inputs.indices(5, s.label_rows, s.vocabulary)?;
    let losses = inputs.single(&[s.label_rows])?;
    Ok(Prepared {
        written: vec![
            written("losses", &losses, SINGLE),
            written("d logits", &logits, ROUNDED),
        ],
        work: Work::Bytes(2.0 * bytes(&[&logits])),
        call: Box::new(move |o| o.cross_entropy(&losses, &logits, &targets, Some(0.25))),
    })
}

fn norms(inputs: &mut Inputs<'_>, _: &dyn Operations, s: Sizes) -> Result<Prepared> {
    let gradients = inputs.normal(&[s.tokens * s.hidden])?;
    let values = inputs.single(&[s.tokens])?;
    let factor = inputs.single(&[1])?;
    let (squares, sum) = (inputs.double(1.0)?, inputs.double(1.0)?);
    Ok(Prepared {
        written: vec![
            written("sum of squares", &squares, SINGLE),
            written("sum", &sum, SINGLE),
            written("factor", &factor, SINGLE),
        ],
        work: Work::Bytes(bytes(&[&gradients])),
        call: Box::new(move |o| {
            o.add_sum_of_squares(&squares, &gradients)?;
            o.add_sum(&sum, &values)?;
            o.clip_factor(&factor, &squares, 1.0)
        }),
    })
}
