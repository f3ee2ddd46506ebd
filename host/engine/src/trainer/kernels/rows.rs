//! Rows of a table, gathered and scattered back: the embedding, and the tokens that have a label.

/// `out[t] = table[ids[t]]`; `width` is the length of a row.
pub(in crate::trainer) fn gather_rows(out: &mut [f32], ids: &[u32], table: &[f32], width: usize) {
    for (row, &id) in out.chunks_exact_mut(width).zip(ids) {
        let start = id as usize * width;
        row.copy_from_slice(&table[start..start + width]);
    }
}

/// `table[ids[t]] += rows[t]`, row after row, so repeated ids add up in a fixed order.
pub(in crate::trainer) fn scatter_add_rows(
    table: &mut [f32],
    ids: &[u32],
    rows: &[f32],
    width: usize,
) {
    for (row, &id) in rows.chunks_exact(width).zip(ids) {
        let start = id as usize * width;
        for (sum, x) in table[start..start + width].iter_mut().zip(row) {
            *sum += x;
        }
    }
}
