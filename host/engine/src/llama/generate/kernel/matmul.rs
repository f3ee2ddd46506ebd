//! `y = x W^T` for weights packed once, any number of rows.

use rayon::prelude::*;

use super::Instructions;
use super::panel::{Block, PANEL, Slab, tile};
use super::stored::{self, Format, Stored};

/// Rows whose sums stay in registers together.
const ROWS: usize = 8;

/// Inputs of a panel that are unpacked at once: 64 KB, which stay in the second-level cache.
const UNPACKED: usize = 512;

/// Panels that one task takes at least; fewer are not worth another thread's wake-up.
const PANELS_PER_TASK: usize = 3;

/// A weight matrix `[outputs, inputs]`, stored as panels of 32 outputs, inputs outermost.
pub(in super::super) struct PackedMatrix {
    outputs: usize,
    inputs: usize,
    /// One under the other; one for each run of matrices in one format.
    parts: Vec<Part>,
}

struct Part {
    outputs: usize,
    panels: Box<dyn Panels>,
}

/// The panels of a part, in whatever blocks.
trait Panels: Send + Sync {
    /// The weights of one output.
    fn row(&self, output: usize, row: &mut [f32]);

    /// The products with rows of x; `y` has the part's own columns of each row.
    fn multiply(&self, x: &[f32], y: Vec<&mut [f32]>, inputs: usize, with: Instructions);
}

impl PackedMatrix {
    /// Packs matrices `[outputs, inputs]` that share their inputs, one under the other, in the blocks that
    /// each of them has.
    pub(in super::super) fn pack(inputs: usize, matrices: &[&Stored]) -> Self {
        let format = |matrix: &Stored| match matrix {
            Stored::F32(_) => None,
            Stored::Blocks(format, _) => Some(*format),
        };
        let parts: Vec<Part> = matrices
            .chunk_by(|a, b| format(a) == format(b))
            .map(|matrices| Part::pack(inputs, matrices))
            .collect();
        Self {
            outputs: parts.iter().map(|part| part.outputs).sum(),
            inputs,
            parts,
        }
    }

    /// The weights of one output.
    pub(in super::super) fn row(&self, output: usize, row: &mut [f32]) {
        let mut output = output;
        for part in &self.parts {
            if output < part.outputs {
                return part.panels.row(output, row);
            }
            output -= part.outputs;
        }
        panic!("the matrix has {} outputs", self.outputs);
    }

    /// Computes `y[r, o] = sum over i of x[r, i] * w[o, i]` for every row of `x` (`[rows, inputs]`).
    ///
    /// # Panics
    /// If `x` is no whole number of rows, or `y` is not `[rows, outputs]`.
    pub(in super::super) fn multiply(&self, x: &[f32], y: &mut [f32], with: Instructions) {
        let rows = x.len() / self.inputs;
        assert_eq!(x.len(), rows * self.inputs, "x is [rows, inputs]");
        assert_eq!(y.len(), rows * self.outputs, "y is [rows, outputs]");
        let mut rest: Vec<&mut [f32]> = y.chunks_exact_mut(self.outputs).collect();
        for part in &self.parts {
            let split = rest.into_iter().map(|row| row.split_at_mut(part.outputs));
            let (columns, others) = split.unzip();
            rest = others;
            part.panels.multiply(x, columns, self.inputs, with);
        }
    }
}

impl Part {
    /// Packs matrices of one format.
    fn pack(inputs: usize, matrices: &[&Stored]) -> Self {
        let mut numbers: Vec<&[f32]> = Vec::new();
        let mut blocks: Vec<&[u8]> = Vec::new();
        let mut kept = None;
        for matrix in matrices {
            match matrix {
                Stored::F32(rows) => numbers.extend(rows.chunks_exact(inputs)),
                Stored::Blocks(format, rows) => {
                    kept = Some(*format);
                    blocks.extend(rows.chunks_exact(format.bytes(inputs)));
                }
            }
        }
        fn boxed<B: Block>(
            inputs: usize,
            rows: &[&[u8]],
            set: impl Fn(&mut B, usize, &[u8], usize) + Sync,
        ) -> Box<dyn Panels> {
            Box::new(pack_rows(inputs, rows, set))
        }
        let set_f32 = |slab: &mut Slab, lane: usize, row: &[f32], i: usize| slab.0[lane] = row[i];
        let panels = match kept {
            None => Box::new(pack_rows(inputs, &numbers, set_f32)),
            Some(Format::F16) => boxed(inputs, &blocks, stored::set_f16),
            Some(Format::Bf16) => boxed(inputs, &blocks, stored::set_bf16),
            Some(Format::Q4_0) => boxed(inputs, &blocks, stored::set_q4_0),
            Some(Format::Q4_1) => boxed(inputs, &blocks, stored::set_q4_1),
            Some(Format::Q5_0) => boxed(inputs, &blocks, stored::set_q5_0),
            Some(Format::Q5_1) => boxed(inputs, &blocks, stored::set_q5_1),
            Some(Format::Q8_0) => boxed(inputs, &blocks, stored::set_q8_0),
            Some(Format::Q4K) => boxed(inputs, &blocks, stored::set_q4_k),
            Some(Format::Q5K) => boxed(inputs, &blocks, stored::set_q5_k),
            Some(Format::Q6K) => boxed(inputs, &blocks, stored::set_q6_k),
        };
        Self {
            outputs: numbers.len() + blocks.len(),
            panels,
        }
    }
}

impl<B: Block> Panels for Vec<B> {
    fn row(&self, output: usize, row: &mut [f32]) {
        let length = row.len() / B::INPUTS;
        let panel = &self[output / PANEL * length..][..length];
        for (block, row) in panel.iter().zip(row.chunks_exact_mut(B::INPUTS)) {
            for (input, weight) in row.iter_mut().enumerate() {
                *weight = block.weight(input, output % PANEL);
            }
        }
    }

    fn multiply(&self, x: &[f32], y: Vec<&mut [f32]>, inputs: usize, with: Instructions) {
        let rows = y.len();
        let length = inputs / B::INPUTS;
        let panels = self.len() / length;
        let tasks = (rayon::current_num_threads() * 4)
            .min(panels / PANELS_PER_TASK)
            .max(1);
        let per_task = panels.div_ceil(tasks);
        // Each task owns a band of columns: one slice of every row of y.
        let mut bands: Vec<Vec<&mut [f32]>> = (0..panels.div_ceil(per_task))
            .map(|_| Vec::with_capacity(rows))
            .collect();
        for row in y {
            for (band, part) in bands.iter_mut().zip(row.chunks_mut(per_task * PANEL)) {
                band.push(part);
            }
        }
        bands
            .into_par_iter()
            .zip(self.par_chunks(per_task * length))
            .for_each(|(mut band, blocks)| {
                let mut room = Vec::new();
                for (number, panel) in blocks.chunks_exact(length).enumerate() {
                    let first = number * PANEL;
                    if rows <= ROWS && with == Instructions::Avx512 {
                        straight(panel, x, &mut band, first);
                    } else {
                        unpacked(panel, x, inputs, &mut band, first, &mut room, with);
                    }
                }
            });
    }
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
                B::unpack(blocks, room, with);
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
#[path = "matmul_tests.rs"]
mod tests;
