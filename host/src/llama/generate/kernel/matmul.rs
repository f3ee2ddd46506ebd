//! `y = x W^T` for weights packed once, any number of rows.

use rayon::prelude::*;

use super::Instructions;
use super::panel::{Block, PANEL, Q4Block, Q8Block, Slab, tile};

/// Rows whose sums stay in registers together.
const ROWS: usize = 8;

/// Inputs of a panel that are unpacked at once: 64 KB, which stay in the second-level cache.
const UNPACKED: usize = 512;

/// Panels that one task takes at least; fewer are not worth another thread's wake-up.
const PANELS_PER_TASK: usize = 3;

/// A matrix `[outputs, inputs]` as it comes, row by row.
#[derive(Debug)]
pub(in crate::llama) enum Stored {
    /// f32 numbers.
    F32(Vec<f32>),
    /// GGUF's blocks of 32 4-bit integers with scale and minimum.
    Q4(Vec<u8>),
    /// GGUF's blocks of 32 8-bit integers with a scale.
    Q8(Vec<u8>),
}

/// A weight matrix `[outputs, inputs]`, stored as panels of 32 outputs, inputs outermost.
pub(in super::super) struct PackedMatrix {
    outputs: usize,
    inputs: usize,
    panels: Panels,
}

enum Panels {
    F32(Vec<Slab>),
    Q4(Vec<Q4Block>),
    Q8(Vec<Q8Block>),
}

impl PackedMatrix {
    /// Packs matrices `[outputs, inputs]` that share their inputs, one under the other.
    ///
    /// Quantized blocks stay as they are where all the matrices have the same kind.
    pub(in super::super) fn pack(inputs: usize, matrices: &[&Stored]) -> Self {
        let all = |bytes: fn(&Stored) -> Option<&[u8]>, size: usize| -> Option<Vec<&[u8]>> {
            let mut rows = Vec::new();
            for matrix in matrices {
                rows.extend(bytes(matrix)?.chunks_exact(inputs / 32 * size));
            }
            Some(rows)
        };
        fn q4(matrix: &Stored) -> Option<&[u8]> {
            match matrix {
                Stored::Q4(bytes) => Some(bytes),
                _ => None,
            }
        }
        fn q8(matrix: &Stored) -> Option<&[u8]> {
            match matrix {
                Stored::Q8(bytes) => Some(bytes),
                _ => None,
            }
        }
        let (outputs, panels) = if let Some(rows) = all(q4, Q4Block::BYTES) {
            let set = |block: &mut Q4Block, lane, row: &[u8], i| {
                block.set(lane, &row[i * Q4Block::BYTES..]);
            };
            (rows.len(), Panels::Q4(pack_rows(inputs, &rows, set)))
        } else if let Some(rows) = all(q8, Q8Block::BYTES) {
            let set = |block: &mut Q8Block, lane, row: &[u8], i| {
                block.set(lane, &row[i * Q8Block::BYTES..]);
            };
            (rows.len(), Panels::Q8(pack_rows(inputs, &rows, set)))
        } else {
            let numbers: Vec<_> = matrices.iter().map(|matrix| matrix.numbers()).collect();
            let rows: Vec<&[f32]> = numbers
                .iter()
                .flat_map(|numbers| numbers.chunks_exact(inputs))
                .collect();
            let set = |slab: &mut Slab, lane: usize, row: &[f32], i: usize| slab.0[lane] = row[i];
            (rows.len(), Panels::F32(pack_rows(inputs, &rows, set)))
        };
        Self {
            outputs,
            inputs,
            panels,
        }
    }

    /// The weights of one output.
    pub(in super::super) fn row(&self, output: usize, row: &mut [f32]) {
        match &self.panels {
            Panels::F32(blocks) => self.row_of(blocks, output, row),
            Panels::Q4(blocks) => self.row_of(blocks, output, row),
            Panels::Q8(blocks) => self.row_of(blocks, output, row),
        }
    }

    fn row_of<B: Block>(&self, blocks: &[B], output: usize, row: &mut [f32]) {
        let length = self.inputs / B::INPUTS;
        let panel = &blocks[output / PANEL * length..][..length];
        for (block, row) in panel.iter().zip(row.chunks_exact_mut(B::INPUTS)) {
            for (input, weight) in row.iter_mut().enumerate() {
                *weight = block.weight(input, output % PANEL);
            }
        }
    }

    /// Computes `y[r, o] = sum over i of x[r, i] * w[o, i]` for every row of `x` (`[rows, inputs]`).
    ///
    /// # Panics
    /// If `x` is no whole number of rows, or `y` is not `[rows, outputs]`.
    pub(in super::super) fn multiply(&self, x: &[f32], y: &mut [f32], with: Instructions) {
        match &self.panels {
            Panels::F32(blocks) => self.multiply_by(blocks, x, y, with),
            Panels::Q4(blocks) => self.multiply_by(blocks, x, y, with),
            Panels::Q8(blocks) => self.multiply_by(blocks, x, y, with),
        }
    }

    fn multiply_by<B: Block>(&self, blocks: &[B], x: &[f32], y: &mut [f32], with: Instructions) {
        let rows = x.len() / self.inputs;
        assert_eq!(x.len(), rows * self.inputs, "x is [rows, inputs]");
        assert_eq!(y.len(), rows * self.outputs, "y is [rows, outputs]");
        let length = self.inputs / B::INPUTS;
        let panels = blocks.len() / length;
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
            .zip(blocks.par_chunks(per_task * length))
            .for_each(|(mut band, blocks)| {
                let mut room = Vec::new();
                for (number, panel) in blocks.chunks_exact(length).enumerate() {
                    let first = number * PANEL;
                    if rows <= ROWS && with == Instructions::Avx512 {
                        straight(panel, x, &mut band, first);
                    } else {
                        unpacked(panel, x, self.inputs, &mut band, first, &mut room, with);
                    }
                }
            });
    }
}

impl Stored {
    /// The weights as f32.
    pub(in super::super) fn numbers(&self) -> std::borrow::Cow<'_, [f32]> {
        let unpack = |numbers: Vec<f32>| std::borrow::Cow::Owned(numbers);
        match self {
            Self::F32(numbers) => numbers.as_slice().into(),
            Self::Q4(bytes) => unpack(numbers_of::<Q4Block>(bytes, Q4Block::BYTES, Q4Block::set)),
            Self::Q8(bytes) => unpack(numbers_of::<Q8Block>(bytes, Q8Block::BYTES, Q8Block::set)),
        }
    }

    /// The same matrix with its rows, of `inputs` weights, in another order: row `i` is what was row `from(i)`.
    pub(in crate::llama) fn with_rows(&self, inputs: usize, from: impl Fn(usize) -> usize) -> Self {
        fn reorder<T: Copy>(all: &[T], width: usize, from: impl Fn(usize) -> usize) -> Vec<T> {
            let mut rows = Vec::with_capacity(all.len());
            for row in 0..all.len() / width {
                rows.extend_from_slice(&all[from(row) * width..][..width]);
            }
            rows
        }
        match self {
            Self::F32(numbers) => Self::F32(reorder(numbers, inputs, from)),
            Self::Q4(bytes) => Self::Q4(reorder(bytes, inputs / 32 * Q4Block::BYTES, from)),
            Self::Q8(bytes) => Self::Q8(reorder(bytes, inputs / 32 * Q8Block::BYTES, from)),
        }
    }
}

fn numbers_of<B: Block>(bytes: &[u8], size: usize, set: fn(&mut B, usize, &[u8])) -> Vec<f32> {
    let mut numbers = Vec::with_capacity(bytes.len() / size * B::INPUTS);
    for bytes in bytes.chunks_exact(size) {
        let mut block = B::ZERO;
        set(&mut block, 0, bytes);
        numbers.extend((0..B::INPUTS).map(|input| block.weight(input, 0)));
    }
    numbers
}

/// Lays rows out in panels; `set` puts part `i` of a row into a lane of a block.
fn pack_rows<B: Block, T: Sync>(
    inputs: usize,
    rows: &[&[T]],
    set: impl Fn(&mut B, usize, &[T], usize) + Sync,
) -> Vec<B> {
    let length = inputs / B::INPUTS;
    let mut blocks = vec![B::ZERO; rows.len().div_ceil(PANEL) * length];
    blocks
        .par_chunks_mut(length)
        .zip(rows.par_chunks(PANEL))
        .for_each(|(panel, rows)| {
            for (i, block) in panel.iter_mut().enumerate() {
                for (lane, row) in rows.iter().enumerate() {
                    set(block, lane, row, i);
                }
            }
        });
    blocks
}

/// One panel times a few rows of x, weights unpacked in registers as they are used.
fn straight<B: Block>(panel: &[B], x: &[f32], band: &mut [&mut [f32]], first: usize) {
    let inputs = panel.len() * B::INPUTS;
    let mut row = 0;
    while row < band.len() {
        let (here, out) = (&x[row * inputs..], &mut band[row..]);
        row += match out.len() {
            8.. => store(straight_rows::<B, 8>(panel, here), out, first),
            4.. => store(straight_rows::<B, 4>(panel, here), out, first),
            2.. => store(straight_rows::<B, 2>(panel, here), out, first),
            _ => store(straight_rows::<B, 1>(panel, here), out, first),
        };
    }
}

#[cfg(target_arch = "x86_64")]
fn straight_rows<B: Block, const R: usize>(panel: &[B], x: &[f32]) -> [Slab; R] {
    assert!(x.len() >= R * panel.len() * B::INPUTS, "x holds R rows");
    assert_eq!(Instructions::detected(), Instructions::Avx512);
    // SAFETY: the assertions above are what the function asks for.
    unsafe { B::times_rows(panel, x) }
}

#[cfg(not(target_arch = "x86_64"))]
fn straight_rows<B: Block, const R: usize>(_panel: &[B], _x: &[f32]) -> [Slab; R] {
    unreachable!("only x86-64 has AVX-512")
}

/// One panel times any number of rows of x, unpacked a part at a time. Sums rest in y between parts,
/// and so go on in the order of the inputs.
fn unpacked<B: Block>(
    panel: &[B],
    x: &[f32],
    inputs: usize,
    band: &mut [&mut [f32]],
    first: usize,
    room: &mut Vec<Slab>,
    with: Instructions,
) {
    for (number, blocks) in panel.chunks(UNPACKED / B::INPUTS).enumerate() {
        let slabs = match B::slabs(blocks) {
            Some(slabs) => slabs,
            None => {
                room.resize(UNPACKED, Slab::ZERO);
                for (block, slabs) in blocks.iter().zip(room.chunks_exact_mut(B::INPUTS)) {
                    block.unpack(slabs, with);
                }
                &room[..blocks.len() * B::INPUTS]
            }
        };
        let begun = number * UNPACKED;
        let mut row = 0;
        while row < band.len() {
            let (here, out) = (&x[row * inputs + begun..], &mut band[row..]);
            // As many rows at once as leave all their sums in registers.
            let most = match with {
                Instructions::Avx512 => ROWS,
                Instructions::Avx2 | Instructions::Portable => 2,
            };
            macro_rules! rows {
                ($count:literal) => {{
                    let sums = load::<$count>(out, first, begun > 0);
                    store(tile(slabs, here, inputs, sums, with), out, first)
                }};
            }
            row += match out.len().min(most) {
                8.. => rows!(8),
                4.. => rows!(4),
                2.. => rows!(2),
                _ => rows!(1),
            };
        }
    }
}

/// The sums so far of `R` rows; zeros at the beginning.
fn load<const R: usize>(band: &[&mut [f32]], first: usize, begun: bool) -> [Slab; R] {
    let mut sums = [Slab::ZERO; R];
    if begun {
        for (row, sums) in band.iter().zip(&mut sums) {
            let end = row.len().min(first + PANEL);
            sums.0[..end - first].copy_from_slice(&row[first..end]);
        }
    }
    sums
}

fn store<const R: usize>(sums: [Slab; R], band: &mut [&mut [f32]], first: usize) -> usize {
    for (row, sums) in band.iter_mut().zip(&sums) {
        let end = row.len().min(first + PANEL);
        row[first..end].copy_from_slice(&sums.0[..end - first]);
    }
    R
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
            let packed = PackedMatrix::pack(inputs, &[&Stored::F32(w.clone())]);
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
        let packed = PackedMatrix::pack(inputs, &[&Stored::F32(w)]);
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
        let packed = PackedMatrix::pack(inputs, &[&Stored::F32(w)]);
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

    /// Blocks of random integers and f16 numbers, and the f32 that candle makes of them.
    fn quantized(outputs: usize, inputs: usize, four_bits: bool) -> (Stored, Vec<f32>) {
        use candle_core::quantized::{GgmlDType, QTensor};
        use candle_core::{Device, Tensor};
        let values = Tensor::from_vec(
            numbers(outputs * inputs, 9),
            (outputs, inputs),
            &Device::Cpu,
        );
        let dtype = if four_bits {
            GgmlDType::Q4_1
        } else {
            GgmlDType::Q8_0
        };
        let tensor = QTensor::quantize(&values.unwrap(), dtype).unwrap();
        let bytes = tensor.data().unwrap().into_owned();
        let theirs = tensor.dequantize(&Device::Cpu).unwrap();
        let theirs = theirs.flatten_all().unwrap().to_vec1().unwrap();
        if four_bits {
            (Stored::Q4(bytes), theirs)
        } else {
            (Stored::Q8(bytes), theirs)
        }
    }

    #[test]
    fn quantized_weights_give_the_results_of_candles_dequantized_ones_to_the_bit() {
        // Inputs past one unpacked part, outputs past one panel.
        for (outputs, inputs) in [(70, 64), (33, 1536)] {
            for four_bits in [true, false] {
                let (stored, weights) = quantized(outputs, inputs, four_bits);
                let packed = PackedMatrix::pack(inputs, &[&stored]);
                let plain = PackedMatrix::pack(inputs, &[&Stored::F32(weights.clone())]);
                let mut row = vec![0.0; inputs];
                packed.row(outputs - 1, &mut row);
                assert_eq!(row, weights[(outputs - 1) * inputs..]);
                for rows in [1, 2, 5, 8, 9, 19] {
                    let x = numbers(rows * inputs, 10);
                    for with in Instructions::available() {
                        let mut ours = vec![0.0; rows * outputs];
                        let mut theirs = ours.clone();
                        packed.multiply(&x, &mut ours, with);
                        plain.multiply(&x, &mut theirs, with);
                        assert_eq!(ours, theirs, "{with:?}, {rows} rows of {inputs}");
                    }
                }
            }
        }
    }

    #[test]
    fn matrices_of_different_kinds_are_packed_as_numbers() {
        let (a, numbers_a) = quantized(40, 64, true);
        let (b, numbers_b) = quantized(24, 64, false);
        let mixed = PackedMatrix::pack(64, &[&a, &b]);
        let plain = PackedMatrix::pack(64, &[&Stored::F32([numbers_a, numbers_b].concat())]);
        let x = numbers(3 * 64, 11);
        let (mut ours, mut theirs) = (vec![0.0; 3 * 64], vec![0.0; 3 * 64]);
        mixed.multiply(&x, &mut ours, Instructions::detected());
        plain.multiply(&x, &mut theirs, Instructions::detected());
        assert_eq!(ours, theirs);
    }

    #[test]
    fn rows_change_places_in_every_kind() {
        let (stored, weights) = quantized(6, 32, true);
        let turned = PackedMatrix::pack(32, &[&stored.with_rows(32, |row| 5 - row)]);
        let mut row = vec![0.0; 32];
        turned.row(0, &mut row);
        assert_eq!(row, weights[5 * 32..]);
    }
}
