//! Rotary position embedding, together with the change of layout that attention needs.

use std::ops::Range;

use rayon::prelude::*;

use super::vector::vectorised;

/// Copies columns `columns` of `rows` (`[tokens, width]`) to `heads` (`[heads, tokens, head_dim]`);
/// with angles, turns every head to its token's position.
pub(in crate::trainer) fn split_heads(
    heads: &mut [f32],
    rows: &[f32],
    width: usize,
    columns: Range<usize>,
    head_dim: usize,
    angles: Option<Angles<'_>>,
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
                if let Some(angles) = angles {
                    let (cos, sin) = angles.of(token, head_dim);
                    rotate(out, cos, sin);
                }
            }
        });
}

/// The reverse of [`split_heads`]: copies `heads` to columns `columns` of `rows`; with
/// angles, turns every head back, which is also how a gradient goes through the rotation.
pub(in crate::trainer) fn merge_heads(
    rows: &mut [f32],
    heads: &[f32],
    width: usize,
    columns: Range<usize>,
    head_dim: usize,
    angles: Option<Angles<'_>>,
) {
    let tokens = rows.len() / width;
    rows.par_chunks_exact_mut(width)
        .with_min_len(super::ROWS_PER_TASK)
        .enumerate()
        .for_each(|(token, row)| {
            for (head, out) in row[columns.clone()].chunks_exact_mut(head_dim).enumerate() {
                let from = (head * tokens + token) * head_dim;
                out.copy_from_slice(&heads[from..from + head_dim]);
                if let Some(angles) = angles {
                    let (cos, sin) = angles.of(token, head_dim);
                    rotate_back(out, cos, sin);
                }
            }
        });
}

/// Cosines and sines of every position (`[positions, head_dim / 2]`), and each token's position.
#[derive(Clone, Copy)]
pub(in crate::trainer) struct Angles<'a> {
    pub cos: &'a [f32],
    pub sin: &'a [f32],
    pub positions: &'a [u32],
}

impl<'a> Angles<'a> {
    fn of(self, token: usize, head_dim: usize) -> (&'a [f32], &'a [f32]) {
        let half = head_dim / 2;
        let start = self.positions[token] as usize * half;
        (
            &self.cos[start..start + half],
            &self.sin[start..start + half],
        )
    }
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
