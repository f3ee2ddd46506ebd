//! The arithmetic of one decoder layer and of the head, forward and backward, on slices of f32.
//!
//! Each file is one operation with its gradient. Activations are row-major `[tokens, features]`;
//! queries, keys and values are `[heads, tokens, head_dim]`. Every sum has a fixed order, whatever
//! the number of threads or the width of the vectors, so a run is repeatable to the bit.

mod adamw;
mod attention;
mod cross_entropy;
mod dropout;
mod matmul;
pub(super) mod matmul_bf16;
mod rms_norm;
mod rope;
mod rows;
mod swiglu;
mod vector;

pub(super) use adamw::{adamw, adamw_bf16};
pub(super) use attention::{
    AttentionSaved, AttentionShape, attention_backward, attention_forward, head_products,
};
pub(super) use cross_entropy::cross_entropy;
pub(super) use dropout::{Mask, dropout, dropout_backward};
pub(super) use matmul::{Matrix, MatrixMut, instructions, matmul};
pub(super) use rms_norm::{rms_norm_backward, rms_norm_forward, rms_norm_weight_gradient};
pub(super) use rope::{Angles, merge_heads, split_heads};
pub(super) use rows::{gather_rows, scatter_add_rows};
pub(super) use swiglu::{swiglu_backward, swiglu_forward};
pub(super) use vector::sum_of_squares;

/// Fewest rows given to one thread: below this, waking a thread costs more than the work.
const ROWS_PER_TASK: usize = 16;
