//! Rows of the embedding matrix, gathered and scattered back.

/// `out[t] = table[ids[t]]`; `width` is the length of a row.
pub(in crate::trainer) fn embedding_forward(
    out: &mut [f32],
    ids: &[u32],
    table: &[f32],
    width: usize,
) {
    for (row, &id) in out.chunks_exact_mut(width).zip(ids) {
        let start = id as usize * width;
        row.copy_from_slice(&table[start..start + width]);
    }
}

/// `d_table[ids[t]] += d_out[t]`, token after token, so repeated ids add up in a fixed order.
pub(in crate::trainer) fn embedding_backward(
    d_table: &mut [f32],
    ids: &[u32],
    d_out: &[f32],
    width: usize,
) {
    for (row, &id) in d_out.chunks_exact(width).zip(ids) {
        let start = id as usize * width;
        for (sum, x) in d_table[start..start + width].iter_mut().zip(row) {
            *sum += x;
        }
    }
}
