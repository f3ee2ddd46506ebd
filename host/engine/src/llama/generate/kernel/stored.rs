//! Matrices as files have them, and how their blocks are laid into lanes.
//!
//! Blocks: <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>, `block_q4_0` and so on.

use candle_core::quantized::GgmlDType;
use half::{bf16, f16};

use super::blocks::{Bytes, Narrow, Nibbles};

/// A matrix `[outputs, inputs]` as it comes, row by row.
#[derive(Debug)]
pub(in crate::llama) enum Stored {
    /// f32 numbers.
    F32(Vec<f32>),
    /// The bytes of a file.
    Blocks(Format, Vec<u8>),
}

/// How a file has numbers with which inference computes as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::llama) enum Format {
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl Format {
    /// The format of a GGUF file's tensor; none where inference computes with f32 in its place.
    pub(in crate::llama) fn of(dtype: GgmlDType) -> Option<Self> {
        Some(match dtype {
            GgmlDType::F16 => Self::F16,
            GgmlDType::BF16 => Self::Bf16,
            GgmlDType::Q4_0 => Self::Q4_0,
            GgmlDType::Q4_1 => Self::Q4_1,
            GgmlDType::Q5_0 => Self::Q5_0,
            GgmlDType::Q5_1 => Self::Q5_1,
            GgmlDType::Q8_0 => Self::Q8_0,
            GgmlDType::Q4K => Self::Q4K,
            GgmlDType::Q5K => Self::Q5K,
            GgmlDType::Q6K => Self::Q6K,
            _ => return None,
        })
    }

    /// Weights in one block of the file, and its bytes.
    const fn block(self) -> (usize, usize) {
        match self {
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
        }
    }

    /// Bytes of so many weights in a file.
    pub(super) fn bytes(self, weights: usize) -> usize {
        let (inputs, bytes) = self.block();
        weights / inputs * bytes
    }
}

impl Stored {
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
            Self::Blocks(format, bytes) => {
                Self::Blocks(*format, reorder(bytes, format.bytes(inputs), from))
            }
        }
    }
}

// Each function below puts block `i` of a row into a lane.

pub(super) fn set_f16(block: &mut Narrow<f16>, lane: usize, row: &[u8], i: usize) {
    block.0[lane] = f16_at(row, 2 * i);
}

pub(super) fn set_bf16(block: &mut Narrow<bf16>, lane: usize, row: &[u8], i: usize) {
    block.0[lane] = bf16::from_le_bytes([row[2 * i], row[2 * i + 1]]);
}

pub(super) fn set_q4_0(block: &mut Nibbles<f16, 0>, lane: usize, row: &[u8], i: usize) {
    let bytes = &row[i * 18..][..18];
    block.set(lane, f16_at(bytes, 0), [], &bytes[2..]);
}

pub(super) fn set_q4_1(block: &mut Nibbles<f16, 1>, lane: usize, row: &[u8], i: usize) {
    let bytes = &row[i * 20..][..20];
    block.set(lane, f16_at(bytes, 0), [f16_at(bytes, 2)], &bytes[4..]);
}

pub(super) fn set_q8_0(block: &mut Bytes<f16, 0, 8>, lane: usize, row: &[u8], i: usize) {
    let bytes = &row[i * 34..][..34];
    block.set(lane, f16_at(bytes, 0), [], &bytes[2..]);
}

pub(super) fn set_q5_0(block: &mut Bytes<f16, 0, 8>, lane: usize, row: &[u8], i: usize) {
    let bytes = &row[i * 22..][..22];
    let integers = five_bits(&bytes[2..]).map(|integer| integer.wrapping_sub(16));
    block.set(lane, f16_at(bytes, 0), [], &integers);
}

pub(super) fn set_q5_1(block: &mut Bytes<f16, 1, 8>, lane: usize, row: &[u8], i: usize) {
    let bytes = &row[i * 24..][..24];
    let integers = five_bits(&bytes[4..]);
    block.set(lane, f16_at(bytes, 0), [f16_at(bytes, 2)], &integers);
}

pub(super) fn set_q4_k(block: &mut Nibbles<f32, 1>, lane: usize, row: &[u8], i: usize) {
    let (bytes, part) = (&row[i / 8 * 144..][..144], i % 8);
    let (scale, minimum) = scale_and_minimum(bytes, part);
    let integers = &bytes[16 + part / 2 * 32..][..32];
    let nibble = |at: usize| (integers[at] >> (4 * (part % 2))) & 15;
    let nibbles: [u8; 16] = std::array::from_fn(|at| nibble(at) | (nibble(at + 16) << 4));
    block.set(lane, scale, [minimum], &nibbles);
}

pub(super) fn set_q5_k(block: &mut Bytes<f32, 1, 8>, lane: usize, row: &[u8], i: usize) {
    let (bytes, part) = (&row[i / 8 * 176..][..176], i % 8);
    let (scale, minimum) = scale_and_minimum(bytes, part);
    let (fifth, rest) = (&bytes[16..48], &bytes[48 + part / 2 * 32..][..32]);
    let integers: [u8; 32] = std::array::from_fn(|at| {
        ((rest[at] >> (4 * (part % 2))) & 15) | (((fifth[at] >> part) & 1) << 4)
    });
    block.set(lane, scale, [minimum], &integers);
}

pub(super) fn set_q6_k(block: &mut Bytes<f32, 0, 4>, lane: usize, row: &[u8], i: usize) {
    let (bytes, part) = (&row[i / 16 * 210..][..210], i % 16);
    let (low, high) = (&bytes[..128], &bytes[128..192]);
    let scale = f16_at(bytes, 208).to_f32() * f32::from(bytes[192 + part] as i8);
    // Half a block is four quarters of 32: the low four bits of two share bytes, the high two of all four.
    let (half, quarter) = (part / 8, part % 8 / 2);
    let integers: [u8; 16] = std::array::from_fn(|at| {
        let at = part % 2 * 16 + at;
        let low = low[64 * half + 32 * (quarter % 2) + at] >> (4 * (quarter / 2));
        let high = high[32 * half + at] >> (2 * quarter);
        ((low & 15) | ((high & 3) << 4)).wrapping_sub(32)
    });
    block.set(lane, scale, [], &integers);
}

fn f16_at(bytes: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The integers of `Q5_0` and `Q5_1`: 32 fifth bits, then low halves (inputs 0 to 15) and high ones.
fn five_bits(bytes: &[u8]) -> [u8; 32] {
    let fifth = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    std::array::from_fn(|input| {
        let low = (bytes[4 + input % 16] >> (4 * (input / 16))) & 15;
        low | ((((fifth >> input) & 1) as u8) << 4)
    })
}

/// Scale and minimum of one of the eight parts of a `Q4_K` or `Q5_K` block: an f16 for all parts times an
/// integer of 6 bits for each.
fn scale_and_minimum(bytes: &[u8], part: usize) -> (f32, f32) {
    let packed = &bytes[4..16];
    let (scale, minimum) = if part < 4 {
        (packed[part] & 63, packed[part + 4] & 63)
    } else {
        (
            (packed[part + 4] & 15) | (packed[part - 4] >> 6 << 4),
            (packed[part + 4] >> 4) | (packed[part] >> 6 << 4),
        )
    };
    (
        f16_at(bytes, 0).to_f32() * f32::from(scale),
        -(f16_at(bytes, 2).to_f32() * f32::from(minimum)),
    )
}
