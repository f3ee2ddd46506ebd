//! Rotary position embedding, together with the change of layout that attention needs.

use std::ops::Range;

use rayon::prelude::*;

use super::vector::vectorised;
use crate::llama::rope::RopeTable;

/// Copies columns `columns` of `rows` (`[tokens, width]`) to `heads` (`[heads, tokens, head_dim]`);
/// with a table, turns every head to its token's position.
pub(in crate::trainer) fn split_heads(
    heads: &mut [f32],
    rows: &[f32],
    width: usize,
    columns: Range<usize>,
    head_dim: usize,
    rotation: Option<(&RopeTable, &[u32])>,
) {
    let tokens = rows.len() / width;
    heads
        .par_chunks_exact_mut(tokens * head_dim)
        .enumerate()
        .for_each(|(head, out)| {
            let start = columns.start + head * head_dim;
            for (token, out) in out.chunks_exact_mut(head_dim).enumerate() {
                let from = token * width + start;
                out.copy_from_slice(&rows[from..from + head_dim]);
                if let Some((table, positions)) = rotation {
                    let (cos, sin) = angle(table, positions[token]);
                    rotate(out, cos, sin);
                }
            }
        });
}

/// The reverse of [`split_heads`]: copies `heads` to columns `columns` of `rows`; with a table,
/// turns every head back, which is also how a gradient goes through the rotation.
pub(in crate::trainer) fn merge_heads(
    rows: &mut [f32],
    heads: &[f32],
    width: usize,
    columns: Range<usize>,
    head_dim: usize,
    rotation: Option<(&RopeTable, &[u32])>,
) {
    let tokens = rows.len() / width;
    rows.par_chunks_exact_mut(width)
        .with_min_len(super::ROWS_PER_TASK)
        .enumerate()
        .for_each(|(token, row)| {
            for (head, out) in row[columns.clone()].chunks_exact_mut(head_dim).enumerate() {
                let from = (head * tokens + token) * head_dim;
                out.copy_from_slice(&heads[from..from + head_dim]);
                if let Some((table, positions)) = rotation {
                    let (cos, sin) = angle(table, positions[token]);
                    rotate_back(out, cos, sin);
                }
            }
        });
}

fn angle(table: &RopeTable, position: u32) -> (&[f32], &[f32]) {
    let half = table.cos().len() / table.positions();
    let row = position as usize * half..(position as usize + 1) * half;
    (&table.cos()[row.clone()], &table.sin()[row])
}

vectorised! {
    fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
        let (first, second) = head.split_at_mut(cos.len());
        for (((a, b), c), s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
        }
    }
}

vectorised! {
    fn rotate_back(head: &mut [f32], cos: &[f32], sin: &[f32]) {
        let (first, second) = head.split_at_mut(cos.len());
        for (((a, b), c), s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            (*a, *b) = (*a * c + *b * s, *b * c - *a * s);
        }
    }
}
