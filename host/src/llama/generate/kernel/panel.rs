//! Panels of 32 outputs, as f32 or in the blocks that a GGUF file has, and their products with rows of x.
//!
//! A quantized weight is `scale * integer + minimum`. With a scale of 11 significant bits (f16) and an integer of
//! at most 8, the product is exact in f32, so a weight unpacked in registers is, to the bit, the f32
//! that dequantizing the file gives: how weights are kept changes no result.
//!
//! Blocks: <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>, `block_q4_1`, `block_q8_0`.

use half::f16;

use super::{Instructions, multiply_add};

/// Outputs that one panel computes together: two AVX-512 registers.
pub(super) const PANEL: usize = 32;

/// Inputs in one quantized block.
const BLOCK: usize = 32;

/// The weights of `PANEL` outputs for one input; aligned so that no load crosses a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Slab(pub [f32; PANEL]);

impl Slab {
    pub(super) const ZERO: Self = Self([0.0; PANEL]);
}

/// Part of a panel, in some storage: the weights of `PANEL` outputs for `INPUTS` inputs.
pub(super) trait Block: Copy + Send + Sync {
    const INPUTS: usize;
    const ZERO: Self;

    /// The weight of an input for a lane.
    fn weight(&self, input: usize, lane: usize) -> f32;

    /// The blocks as slabs, where they are such.
    fn slabs(_blocks: &[Self]) -> Option<&[Slab]> {
        None
    }

    /// Writes the weights of all inputs.
    fn unpack(&self, slabs: &mut [Slab], with: Instructions);

    /// A panel times `R` rows of x (`[R, inputs]`), straight from the blocks.
    ///
    /// # Safety
    /// The processor has AVX-512F, and x holds `R` rows of as many inputs as the panel has.
    #[cfg(target_arch = "x86_64")]
    unsafe fn times_rows<const R: usize>(panel: &[Self], x: &[f32]) -> [Slab; R];
}

/// 4-bit integers with a scale and a minimum for 32 inputs: `Q4_1`.
///
/// The bytes of a lane stay as the file has them: the low halves are inputs 0 to 15, the high ones 16 to
/// 31. Four of them make a word, and words of all lanes lie side by side.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Q4Block {
    scales: [u16; PANEL],
    minima: [u16; PANEL],
    words: [[u32; PANEL]; 4],
}

impl Q4Block {
    /// Bytes of one lane's block in a file.
    pub(super) const BYTES: usize = 20;

    /// Takes one lane's block from a file.
    pub(super) fn set(&mut self, lane: usize, bytes: &[u8]) {
        self.scales[lane] = u16::from_le_bytes([bytes[0], bytes[1]]);
        self.minima[lane] = u16::from_le_bytes([bytes[2], bytes[3]]);
        for (words, bytes) in self.words.iter_mut().zip(bytes[4..].chunks_exact(4)) {
            words[lane] = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
    }
}

/// 8-bit integers with a scale for 32 inputs: `Q8_0`. Four inputs of a lane make a word.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Q8Block {
    scales: [u16; PANEL],
    words: [[u32; PANEL]; 8],
}

impl Q8Block {
    /// Bytes of one lane's block in a file.
    pub(super) const BYTES: usize = 34;

    /// Takes one lane's block from a file.
    pub(super) fn set(&mut self, lane: usize, bytes: &[u8]) {
        self.scales[lane] = u16::from_le_bytes([bytes[0], bytes[1]]);
        for (words, bytes) in self.words.iter_mut().zip(bytes[2..].chunks_exact(4)) {
            words[lane] = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
    }
}

impl Block for Slab {
    const INPUTS: usize = 1;
    const ZERO: Self = Self::ZERO;

    fn weight(&self, _input: usize, lane: usize) -> f32 {
        self.0[lane]
    }

    fn slabs(blocks: &[Self]) -> Option<&[Slab]> {
        Some(blocks)
    }

    fn unpack(&self, slabs: &mut [Slab], _with: Instructions) {
        slabs[0] = *self;
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn times_rows<const R: usize>(panel: &[Self], x: &[f32]) -> [Slab; R] {
        // SAFETY: what the caller promises is what `tile_avx512` asks for.
        unsafe { tile_avx512(panel, x, panel.len(), [Self::ZERO; R]) }
    }
}

impl Block for Q4Block {
    const INPUTS: usize = BLOCK;
    const ZERO: Self = Self {
        scales: [0; PANEL],
        minima: [0; PANEL],
        words: [[0; PANEL]; 4],
    };

    fn weight(&self, input: usize, lane: usize) -> f32 {
        let byte = input % 16;
        let shift = 8 * (byte % 4) + 4 * (input / 16);
        let integer = (self.words[byte / 4][lane] >> shift) & 15;
        f16::from_bits(self.scales[lane]).to_f32() * integer as f32
            + f16::from_bits(self.minima[lane]).to_f32()
    }

    fn unpack(&self, slabs: &mut [Slab], with: Instructions) {
        match with {
            // SAFETY: `Instructions::Avx512` is made only where the processor has AVX-512F.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => unsafe { self.unpack_avx512(slabs) },
            _ => unpack_by_weight(self, slabs),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn times_rows<const R: usize>(panel: &[Self], x: &[f32]) -> [Slab; R] {
        use std::arch::x86_64::{
            _mm_cvtsi32_si128, _mm512_fmadd_ps, _mm512_permutexvar_ps, _mm512_set1_ps,
            _mm512_setzero_ps, _mm512_srl_epi32, _mm512_srli_epi32,
        };
        let inputs = panel.len() * BLOCK;
        let integers = integers();
        let mut low = [_mm512_setzero_ps(); R];
        let mut high = [_mm512_setzero_ps(); R];
        for (number, block) in panel.iter().enumerate() {
            let (scale, minimum) = (widen(&block.scales), widen(&block.minima));
            for part in 0..2 {
                let shift = _mm_cvtsi32_si128(4 * part as i32);
                for (word, words) in block.words.iter().enumerate() {
                    let words = load_words(words);
                    let a = _mm512_srl_epi32(words[0], shift);
                    let b = _mm512_srl_epi32(words[1], shift);
                    let first = number * BLOCK + part * 16 + word * 4;
                    // Written out four times: the compiler's own unrolling depends on its level.
                    macro_rules! input {
                        ($k:literal) => {
                            // The permutation looks at the lowest four bits of an index only.
                            let q =
                                _mm512_permutexvar_ps(_mm512_srli_epi32::<{ 8 * $k }>(a), integers);
                            let wa = _mm512_fmadd_ps(scale[0], q, minimum[0]);
                            let q =
                                _mm512_permutexvar_ps(_mm512_srli_epi32::<{ 8 * $k }>(b), integers);
                            let wb = _mm512_fmadd_ps(scale[1], q, minimum[1]);
                            for r in 0..R {
                                // SAFETY: first + 3 < inputs, and the caller promises R rows of x.
                                let x = _mm512_set1_ps(unsafe {
                                    *x.get_unchecked(r * inputs + first + $k)
                                });
                                low[r] = _mm512_fmadd_ps(x, wa, low[r]);
                                high[r] = _mm512_fmadd_ps(x, wb, high[r]);
                            }
                        };
                    }
                    input!(0);
                    input!(1);
                    input!(2);
                    input!(3);
                }
            }
        }
        gather(low, high)
    }
}

#[cfg(target_arch = "x86_64")]
impl Q4Block {
    #[target_feature(enable = "avx512f")]
    fn unpack_avx512(&self, slabs: &mut [Slab]) {
        use std::arch::x86_64::{
            _mm_cvtsi32_si128, _mm512_fmadd_ps, _mm512_permutexvar_ps, _mm512_srl_epi32,
        };
        let integers = integers();
        let (scale, minimum) = (widen(&self.scales), widen(&self.minima));
        for (input, slab) in slabs[..BLOCK].iter_mut().enumerate() {
            let byte = input % 16;
            let shift = _mm_cvtsi32_si128((8 * (byte % 4) + 4 * (input / 16)) as i32);
            let words = load_words(&self.words[byte / 4]);
            let weights = |half: usize| {
                let q = _mm512_permutexvar_ps(_mm512_srl_epi32(words[half], shift), integers);
                _mm512_fmadd_ps(scale[half], q, minimum[half])
            };
            store_halves(slab, weights(0), weights(1));
        }
    }
}

impl Block for Q8Block {
    const INPUTS: usize = BLOCK;
    const ZERO: Self = Self {
        scales: [0; PANEL],
        words: [[0; PANEL]; 8],
    };

    fn weight(&self, input: usize, lane: usize) -> f32 {
        let integer = (self.words[input / 4][lane] >> (8 * (input % 4))) as u8 as i8;
        f16::from_bits(self.scales[lane]).to_f32() * f32::from(integer)
    }

    fn unpack(&self, slabs: &mut [Slab], with: Instructions) {
        match with {
            // SAFETY: `Instructions::Avx512` is made only where the processor has AVX-512F.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => unsafe { self.unpack_avx512(slabs) },
            _ => unpack_by_weight(self, slabs),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn times_rows<const R: usize>(panel: &[Self], x: &[f32]) -> [Slab; R] {
        use std::arch::x86_64::{
            _mm512_cvtepi32_ps, _mm512_fmadd_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps,
            _mm512_slli_epi32, _mm512_srai_epi32,
        };
        let inputs = panel.len() * BLOCK;
        let mut low = [_mm512_setzero_ps(); R];
        let mut high = [_mm512_setzero_ps(); R];
        for (number, block) in panel.iter().enumerate() {
            let scale = widen(&block.scales);
            for (word, words) in block.words.iter().enumerate() {
                let words = load_words(words);
                let first = number * BLOCK + word * 4;
                macro_rules! input {
                    ($k:literal) => {
                        let q =
                            _mm512_srai_epi32::<24>(_mm512_slli_epi32::<{ 24 - 8 * $k }>(words[0]));
                        let wa = _mm512_mul_ps(scale[0], _mm512_cvtepi32_ps(q));
                        let q =
                            _mm512_srai_epi32::<24>(_mm512_slli_epi32::<{ 24 - 8 * $k }>(words[1]));
                        let wb = _mm512_mul_ps(scale[1], _mm512_cvtepi32_ps(q));
                        for r in 0..R {
                            // SAFETY: first + 3 < inputs, and the caller promises R rows of x.
                            let x = _mm512_set1_ps(unsafe {
                                *x.get_unchecked(r * inputs + first + $k)
                            });
                            low[r] = _mm512_fmadd_ps(x, wa, low[r]);
                            high[r] = _mm512_fmadd_ps(x, wb, high[r]);
                        }
                    };
                }
                input!(0);
                input!(1);
                input!(2);
                input!(3);
            }
        }
        gather(low, high)
    }
}

#[cfg(target_arch = "x86_64")]
impl Q8Block {
    #[target_feature(enable = "avx512f")]
    fn unpack_avx512(&self, slabs: &mut [Slab]) {
        use std::arch::x86_64::{
            _mm_cvtsi32_si128, _mm512_cvtepi32_ps, _mm512_mul_ps, _mm512_sll_epi32,
            _mm512_srai_epi32,
        };
        let scale = widen(&self.scales);
        for (input, slab) in slabs[..BLOCK].iter_mut().enumerate() {
            let shift = _mm_cvtsi32_si128((24 - 8 * (input % 4)) as i32);
            let words = load_words(&self.words[input / 4]);
            let weights = |half: usize| {
                let q = _mm512_srai_epi32::<24>(_mm512_sll_epi32(words[half], shift));
                _mm512_mul_ps(scale[half], _mm512_cvtepi32_ps(q))
            };
            store_halves(slab, weights(0), weights(1));
        }
    }
}

fn unpack_by_weight<B: Block>(block: &B, slabs: &mut [Slab]) {
    for (input, slab) in slabs[..B::INPUTS].iter_mut().enumerate() {
        for (lane, weight) in slab.0.iter_mut().enumerate() {
            *weight = block.weight(input, lane);
        }
    }
}

/// Goes on with `R` sums: adds the products of the slabs' inputs with those of x, whose rows are `stride` apart.
pub(super) fn tile<const R: usize>(
    slabs: &[Slab],
    x: &[f32],
    stride: usize,
    sums: [Slab; R],
    with: Instructions,
) -> [Slab; R] {
    assert!(
        slabs.is_empty() || x.len() >= (R - 1) * stride + slabs.len(),
        "x holds R rows"
    );
    match with {
        // SAFETY: `Instructions::Avx512` is made only where the processor has AVX-512F, and the
        // assertion above is the length that `tile_avx512` asks for.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 => unsafe { tile_avx512(slabs, x, stride, sums) },
        // SAFETY: `Instructions::Avx2` is made only where the processor has AVX2 and FMA.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2 => unsafe { tile_avx2(slabs, x, stride, sums) },
        _ => tile_of::<R, false>(slabs, x, stride, sums),
    }
}

#[inline(always)]
fn tile_of<const R: usize, const FMA: bool>(
    slabs: &[Slab],
    x: &[f32],
    stride: usize,
    mut sums: [Slab; R],
) -> [Slab; R] {
    for (i, weights) in slabs.iter().enumerate() {
        for (r, sums) in sums.iter_mut().enumerate() {
            let x = x[r * stride + i];
            for (sum, weight) in sums.0.iter_mut().zip(&weights.0) {
                *sum = multiply_add::<FMA>(x, *weight, *sum);
            }
        }
    }
    sums
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn tile_avx2<const R: usize>(
    slabs: &[Slab],
    x: &[f32],
    stride: usize,
    sums: [Slab; R],
) -> [Slab; R] {
    tile_of::<R, true>(slabs, x, stride, sums)
}

/// Intrinsics rather than the loop above: the compiler keeps these sums in registers at every
/// optimisation level.
///
/// # Safety
/// `x` holds at least `(R - 1) * stride + slabs.len()` numbers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn tile_avx512<const R: usize>(
    slabs: &[Slab],
    x: &[f32],
    stride: usize,
    sums: [Slab; R],
) -> [Slab; R] {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_set1_ps, _mm512_setzero_ps};
    let mut low = [_mm512_setzero_ps(); R];
    let mut high = [_mm512_setzero_ps(); R];
    for r in 0..R {
        (low[r], high[r]) = halves(&sums[r]);
    }
    for (i, weights) in slabs.iter().enumerate() {
        let (a, b) = halves(weights);
        for r in 0..R {
            // SAFETY: r < R and i < slabs.len(), so the index is within what the caller promises.
            let x = _mm512_set1_ps(unsafe { *x.get_unchecked(r * stride + i) });
            low[r] = _mm512_fmadd_ps(x, a, low[r]);
            high[r] = _mm512_fmadd_ps(x, b, high[r]);
        }
    }
    gather(low, high)
}

#[cfg(target_arch = "x86_64")]
mod registers {
    use std::arch::x86_64::{
        __m512, __m512i, _mm256_loadu_si256, _mm512_cvtph_ps, _mm512_loadu_ps, _mm512_loadu_si512,
        _mm512_setr_ps, _mm512_storeu_ps,
    };

    use super::{PANEL, Slab};

    /// The sixteen values of a 4-bit integer, for a permutation to choose from.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn integers() -> __m512 {
        _mm512_setr_ps(
            0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0,
        )
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn halves(slab: &Slab) -> (__m512, __m512) {
        // SAFETY: a slab is 32 numbers, so both halves of 16 lie inside it.
        unsafe {
            (
                _mm512_loadu_ps(slab.0.as_ptr()),
                _mm512_loadu_ps(slab.0.as_ptr().add(16)),
            )
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn store_halves(slab: &mut Slab, low: __m512, high: __m512) {
        // SAFETY: a slab is 32 numbers, so both halves of 16 lie inside it.
        unsafe {
            _mm512_storeu_ps(slab.0.as_mut_ptr(), low);
            _mm512_storeu_ps(slab.0.as_mut_ptr().add(16), high);
        }
    }

    /// f16 numbers of all lanes as f32.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn widen(numbers: &[u16; PANEL]) -> [__m512; 2] {
        // SAFETY: both loads of 16 numbers lie inside the 32.
        unsafe {
            [
                _mm512_cvtph_ps(_mm256_loadu_si256(numbers.as_ptr().cast())),
                _mm512_cvtph_ps(_mm256_loadu_si256(numbers.as_ptr().add(16).cast())),
            ]
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn load_words(words: &[u32; PANEL]) -> [__m512i; 2] {
        // SAFETY: both loads of 16 words lie inside the 32.
        unsafe {
            [
                _mm512_loadu_si512(words.as_ptr().cast()),
                _mm512_loadu_si512(words.as_ptr().add(16).cast()),
            ]
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn gather<const R: usize>(low: [__m512; R], high: [__m512; R]) -> [Slab; R] {
        let mut sums = [Slab::ZERO; R];
        for r in 0..R {
            store_halves(&mut sums[r], low[r], high[r]);
        }
        sums
    }
}
#[cfg(target_arch = "x86_64")]
use registers::{gather, halves, integers, load_words, store_halves, widen};
