//! `y = x W^T` for weights packed once, any number of rows.

use rayon::prelude::*;

use super::{Instructions, multiply_add};

/// Outputs that one panel computes together: two AVX-512 registers.
const PANEL: usize = 32;

/// Rows whose inputs should stay in the first-level cache while a panel passes by.
const ROWS: usize = 8;

/// Panels that one task takes at least; fewer are not worth another thread's wake-up.
const PANELS_PER_TASK: usize = 3;

/// The weights of `PANEL` outputs for one input; aligned so that no load crosses a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Slab([f32; PANEL]);

/// A weight matrix `[outputs, inputs]`, stored as panels of 32 outputs, inputs outermost.
pub(in super::super) struct PackedMatrix {
    outputs: usize,
    inputs: usize,
    slabs: Vec<Slab>,
}

impl PackedMatrix {
    /// Packs matrices `[outputs, inputs]` that share their inputs, one under the other.
    pub(in super::super) fn pack(inputs: usize, matrices: &[&[f32]]) -> Self {
        let rows: Vec<&[f32]> = matrices
            .iter()
            .flat_map(|matrix| matrix.chunks_exact(inputs))
            .collect();
        let panels = rows.len().div_ceil(PANEL);
        let mut slabs = vec![Slab([0.0; PANEL]); panels * inputs];
        slabs
            .par_chunks_mut(inputs)
            .zip(rows.par_chunks(PANEL))
            .for_each(|(panel, rows)| {
                for (lane, row) in rows.iter().enumerate() {
                    for (slab, weight) in panel.iter_mut().zip(*row) {
                        slab.0[lane] = *weight;
                    }
                }
            });
        Self {
            outputs: rows.len(),
            inputs,
            slabs,
        }
    }

    /// Computes `y[r, o] = sum over i of x[r, i] * w[o, i]` for every row of `x` (`[rows, inputs]`).
    ///
    /// # Panics
    /// If `x` is no whole number of rows, or `y` is not `[rows, outputs]`.
    pub(in super::super) fn multiply(&self, x: &[f32], y: &mut [f32], with: Instructions) {
        let rows = x.len() / self.inputs;
        assert_eq!(x.len(), rows * self.inputs, "x is [rows, inputs]");
        assert_eq!(y.len(), rows * self.outputs, "y is [rows, outputs]");
        let panels = self.slabs.len() / self.inputs;
        let tasks = (rayon::current_num_threads() * 4)
            .min(panels / PANELS_PER_TASK)
            .max(1);
        let per_task = panels.div_ceil(tasks);
        // Each task owns a band of columns: one slice of every row of y.
        let mut bands: Vec<Vec<&mut [f32]>> = (0..panels.div_ceil(per_task))
            .map(|_| Vec::with_capacity(rows))
            .collect();
        for row in y.chunks_exact_mut(self.outputs) {
            for (band, part) in bands.iter_mut().zip(row.chunks_mut(per_task * PANEL)) {
                band.push(part);
            }
        }
        bands
            .into_par_iter()
            .zip(self.slabs.par_chunks(per_task * self.inputs))
            .for_each(|(mut band, slabs)| {
                for (number, panel) in slabs.chunks_exact(self.inputs).enumerate() {
                    for (x, band) in x.chunks(ROWS * self.inputs).zip(band.chunks_mut(ROWS)) {
                        panel_rows(panel, x, band, number * PANEL, with);
                    }
                }
            });
    }
}

/// One panel times up to `ROWS` rows of x, written to columns `first..` of the band.
fn panel_rows(
    panel: &[Slab],
    x: &[f32],
    band: &mut [&mut [f32]],
    first: usize,
    with: Instructions,
) {
    let inputs = panel.len();
    // As many rows at once as leave all their sums in registers.
    let most = match with {
        Instructions::Avx512 => 8,
        Instructions::Avx2 | Instructions::Portable => 2,
    };
    let mut row = 0;
    while row < band.len() {
        let (here, out) = (&x[row * inputs..], &mut band[row..]);
        row += match out.len().min(most) {
            8.. => store::<8>(tile(panel, here, with), out, first),
            4.. => store::<4>(tile(panel, here, with), out, first),
            2.. => store::<2>(tile(panel, here, with), out, first),
            _ => store::<1>(tile(panel, here, with), out, first),
        };
    }
}

fn store<const R: usize>(sums: [Slab; R], band: &mut [&mut [f32]], first: usize) -> usize {
    for (row, sums) in band.iter_mut().zip(&sums) {
        let end = row.len().min(first + PANEL);
        row[first..end].copy_from_slice(&sums.0[..end - first]);
    }
    R
}

#[inline]
fn tile<const R: usize>(panel: &[Slab], x: &[f32], with: Instructions) -> [Slab; R] {
    assert!(x.len() >= R * panel.len(), "x holds R whole rows");
    match with {
        // SAFETY: `Instructions::Avx512` is made only where the processor has AVX-512F, and the
        // assertion above is the length that `tile_avx512` asks for.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 => unsafe { tile_avx512(panel, x) },
        // SAFETY: `Instructions::Avx2` is made only where the processor has AVX2 and FMA.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2 => unsafe { tile_avx2(panel, x) },
        _ => tile_of::<R, false>(panel, x),
    }
}

#[inline(always)]
fn tile_of<const R: usize, const FMA: bool>(panel: &[Slab], x: &[f32]) -> [Slab; R] {
    let inputs = panel.len();
    let mut sums = [Slab([0.0; PANEL]); R];
    for (i, weights) in panel.iter().enumerate() {
        for (r, sums) in sums.iter_mut().enumerate() {
            let x = x[r * inputs + i];
            for (sum, weight) in sums.0.iter_mut().zip(&weights.0) {
                *sum = multiply_add::<FMA>(x, *weight, *sum);
            }
        }
    }
    sums
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn tile_avx2<const R: usize>(panel: &[Slab], x: &[f32]) -> [Slab; R] {
    tile_of::<R, true>(panel, x)
}

/// Intrinsics rather than the loop above: the compiler keeps these sums in registers at every
/// optimisation level.
///
/// # Safety
/// `x` holds at least `R * panel.len()` numbers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn tile_avx512<const R: usize>(panel: &[Slab], x: &[f32]) -> [Slab; R] {
    use std::arch::x86_64::{
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };
    let inputs = panel.len();
    let mut low = [_mm512_setzero_ps(); R];
    let mut high = [_mm512_setzero_ps(); R];
    for (i, weights) in panel.iter().enumerate() {
        // SAFETY: a slab is 32 numbers, so both halves of 16 lie inside it.
        let (a, b) = unsafe {
            (
                _mm512_loadu_ps(weights.0.as_ptr()),
                _mm512_loadu_ps(weights.0.as_ptr().add(16)),
            )
        };
        for r in 0..R {
            // SAFETY: r < R and i < panel.len(), so the index is below R * panel.len(), which the
            // caller promises is within x.
            let x = _mm512_set1_ps(unsafe { *x.get_unchecked(r * inputs + i) });
            low[r] = _mm512_fmadd_ps(x, a, low[r]);
            high[r] = _mm512_fmadd_ps(x, b, high[r]);
        }
    }
    let mut sums = [Slab([0.0; PANEL]); R];
    for r in 0..R {
        // SAFETY: a slab is 32 numbers, so both halves of 16 lie inside it.
        unsafe {
            _mm512_storeu_ps(sums[r].0.as_mut_ptr(), low[r]);
            _mm512_storeu_ps(sums[r].0.as_mut_ptr().add(16), high[r]);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    #[test]
    fn agrees_with_double_precision_at_odd_sizes() {
        for (rows, outputs, inputs) in [(1, 1, 1), (3, 33, 17), (11, 100, 70), (16, 64, 48)] {
            let (w, x) = (numbers(outputs * inputs, 1), numbers(rows * inputs, 2));
            let packed = PackedMatrix::pack(inputs, &[&w]);
            for with in Instructions::available() {
                let mut y = vec![0.0; rows * outputs];
                packed.multiply(&x, &mut y, with);
                for r in 0..rows {
                    for o in 0..outputs {
                        let exact: f64 = (0..inputs)
                            .map(|i| f64::from(x[r * inputs + i]) * f64::from(w[o * inputs + i]))
                            .sum();
                        let found = f64::from(y[r * outputs + o]);
                        assert!((found - exact).abs() < 1e-4, "{with:?} {found} {exact}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_is_the_same_to_the_bit_in_any_company() {
        let (outputs, inputs, rows) = (200, 96, 23);
        let (w, x) = (numbers(outputs * inputs, 3), numbers(rows * inputs, 4));
        let packed = PackedMatrix::pack(inputs, &[&w]);
        for with in Instructions::available() {
            let mut together = vec![0.0; rows * outputs];
            packed.multiply(&x, &mut together, with);
            for count in 1..rows {
                let mut fewer = vec![0.0; count * outputs];
                packed.multiply(&x[..count * inputs], &mut fewer, with);
                assert_eq!(fewer, together[..count * outputs], "{with:?}, {count} rows");
            }
        }
    }

    #[test]
    fn both_vector_widths_agree_to_the_bit() {
        let (outputs, inputs, rows) = (70, 130, 5);
        let (w, x) = (numbers(outputs * inputs, 5), numbers(rows * inputs, 6));
        let packed = PackedMatrix::pack(inputs, &[&w]);
        let results: Vec<Vec<f32>> = Instructions::available()
            .into_iter()
            .filter(|with| *with != Instructions::Portable)
            .map(|with| {
                let mut y = vec![0.0; rows * outputs];
                packed.multiply(&x, &mut y, with);
                y
            })
            .collect();
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
