//! Blocks that hold weights in fewer bits than f32 has, for 32 outputs side by side.
//!
//! A quantized weight is `scale * integer + minimum`, or without a minimum `scale * integer`. Scales have at most
//! 18 significant bits and integers so few beside them that the product is exact in f32: a weight unpacked in
//! registers is, to the bit, the f32 that dequantizing the file gives. How weights are kept changes no result.

use half::{bf16, f16};

use super::Instructions;
use super::panel::{Block, PANEL, Slab};
#[cfg(target_arch = "x86_64")]
use super::panel::{gather, integers, load_words, store_halves};

/// Inputs in one block of 4-bit integers.
const NIBBLES: usize = 32;

/// A number that each lane of a block has: a scale, a minimum, or a weight itself.
pub(super) trait Number: Copy + Send + Sync + 'static {
    const ZERO: Self;

    fn widen(self) -> f32;

    /// The numbers of all lanes as f32.
    ///
    /// # Safety
    /// The processor has AVX-512F.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load(numbers: &[Self; PANEL]) -> [std::arch::x86_64::__m512; 2];
}

impl Number for f32 {
    const ZERO: Self = 0.0;

    fn widen(self) -> f32 {
        self
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(numbers: &[Self; PANEL]) -> [std::arch::x86_64::__m512; 2] {
        use std::arch::x86_64::_mm512_loadu_ps;
        // SAFETY: both loads of 16 numbers lie inside the 32.
        unsafe {
            [
                _mm512_loadu_ps(numbers.as_ptr()),
                _mm512_loadu_ps(numbers.as_ptr().add(16)),
            ]
        }
    }
}

impl Number for f16 {
    const ZERO: Self = f16::ZERO;

    fn widen(self) -> f32 {
        self.to_f32()
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(numbers: &[Self; PANEL]) -> [std::arch::x86_64::__m512; 2] {
        use std::arch::x86_64::{_mm256_loadu_si256, _mm512_cvtph_ps};
        // SAFETY: both loads of 16 numbers of 16 bits lie inside the 32.
        unsafe {
            [
                _mm512_cvtph_ps(_mm256_loadu_si256(numbers.as_ptr().cast())),
                _mm512_cvtph_ps(_mm256_loadu_si256(numbers.as_ptr().add(16).cast())),
            ]
        }
    }
}

impl Number for bf16 {
    const ZERO: Self = bf16::ZERO;

    fn widen(self) -> f32 {
        self.to_f32()
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(numbers: &[Self; PANEL]) -> [std::arch::x86_64::__m512; 2] {
        use std::arch::x86_64::{
            _mm256_loadu_si256, _mm512_castsi512_ps, _mm512_cvtepu16_epi32, _mm512_slli_epi32,
        };
        // SAFETY: both loads of 16 numbers of 16 bits lie inside the 32.
        let (low, high) = unsafe {
            (
                _mm256_loadu_si256(numbers.as_ptr().cast()),
                _mm256_loadu_si256(numbers.as_ptr().add(16).cast()),
            )
        };
        [
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(low))),
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(high))),
        ]
    }
}

/// Weights of 16 bits for one input.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Narrow<N>(pub [N; PANEL]);

impl<N: Number> Block for Narrow<N> {
    const INPUTS: usize = 1;
    const ZERO: Self = Self([N::ZERO; PANEL]);

    fn weight(&self, _input: usize, lane: usize) -> f32 {
        self.0[lane].widen()
    }

    fn unpack(blocks: &[Self], slabs: &mut [Slab], with: Instructions) {
        match with {
            // SAFETY: `Instructions::Avx512` is made only where the processor has AVX-512F.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => unsafe { Self::unpack_avx512(blocks, slabs) },
            _ => unpack_by_weight(blocks, slabs),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn times_rows<const R: usize>(panel: &[Self], x: &[f32]) -> [Slab; R] {
        use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_set1_ps, _mm512_setzero_ps};
        let inputs = panel.len();
        let mut low = [_mm512_setzero_ps(); R];
        let mut high = [_mm512_setzero_ps(); R];
        for (input, block) in panel.iter().enumerate() {
            // SAFETY: the caller promises AVX-512F.
            let [wa, wb] = unsafe { N::load(&block.0) };
            for r in 0..R {
                // SAFETY: input < inputs, and the caller promises R rows of x.
                let x = _mm512_set1_ps(unsafe { *x.get_unchecked(r * inputs + input) });
                low[r] = _mm512_fmadd_ps(x, wa, low[r]);
                high[r] = _mm512_fmadd_ps(x, wb, high[r]);
            }
        }
        gather(low, high)
    }
}

#[cfg(target_arch = "x86_64")]
impl<N: Number> Narrow<N> {
    #[target_feature(enable = "avx512f")]
    fn unpack_avx512(blocks: &[Self], slabs: &mut [Slab]) {
        for (block, slab) in blocks.iter().zip(slabs) {
            // SAFETY: this function has AVX-512F.
            let [low, high] = unsafe { N::load(&block.0) };
            store_halves(slab, low, high);
        }
    }
}

/// 4-bit integers with a scale and `M` minima, one or none, for 32 inputs. Without a minimum the integers are
/// those of the file less eight.
///
/// A lane's bytes have inputs 0 to 15 in their low halves and 16 to 31 in the high ones. Four of them make a
/// word, and words of all lanes lie side by side.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Nibbles<N, const M: usize> {
    scales: [N; PANEL],
    minima: [[N; PANEL]; M],
    words: [[u32; PANEL]; 4],
}

impl<N: Number, const M: usize> Nibbles<N, M> {
    const LEAST: f32 = if M == 0 { -8.0 } else { 0.0 };

    pub(super) fn set(&mut self, lane: usize, scale: N, minimum: [N; M], bytes: &[u8]) {
        self.scales[lane] = scale;
        for (minima, minimum) in self.minima.iter_mut().zip(minimum) {
            minima[lane] = minimum;
        }
        set_words(&mut self.words, lane, bytes);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn unpack_avx512(&self, slabs: &mut [Slab]) {
        use std::arch::x86_64::{_mm_cvtsi32_si128, _mm512_permutexvar_ps, _mm512_srl_epi32};
        let integers = integers(Self::LEAST);
        let scale = registers(&self.scales);
        let minimum = self.minima.first().map(|minima| registers(minima));
        for (input, slab) in slabs[..NIBBLES].iter_mut().enumerate() {
            let byte = input % 16;
            let shift = _mm_cvtsi32_si128((8 * (byte % 4) + 4 * (input / 16)) as i32);
            let words = load_words(&self.words[byte / 4]);
            let weights = |half: usize| {
                let q = _mm512_permutexvar_ps(_mm512_srl_epi32(words[half], shift), integers);
                scaled(q, scale[half], minimum.map(|minimum| minimum[half]))
            };
            store_halves(slab, weights(0), weights(1));
        }
    }
}

impl<N: Number, const M: usize> Block for Nibbles<N, M> {
    const INPUTS: usize = NIBBLES;
    const ZERO: Self = Self {
        scales: [N::ZERO; PANEL],
        minima: [[N::ZERO; PANEL]; M],
        words: [[0; PANEL]; 4],
    };

    fn weight(&self, input: usize, lane: usize) -> f32 {
        let byte = input % 16;
        let shift = 8 * (byte % 4) + 4 * (input / 16);
        let integer = (self.words[byte / 4][lane] >> shift) & 15;
        let product = self.scales[lane].widen() * (integer as f32 + Self::LEAST);
        match self.minima.first() {
            Some(minima) => product + minima[lane].widen(),
            None => product,
        }
    }

    fn unpack(blocks: &[Self], slabs: &mut [Slab], with: Instructions) {
        match with {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => {
                for (block, slabs) in blocks.iter().zip(slabs.chunks_exact_mut(Self::INPUTS)) {
                    // SAFETY: `Instructions::Avx512` is made only where the processor has AVX-512F.
                    unsafe { block.unpack_avx512(slabs) };
                }
            }
            _ => unpack_by_weight(blocks, slabs),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn times_rows<const R: usize>(panel: &[Self], x: &[f32]) -> [Slab; R] {
        use std::arch::x86_64::{
            _mm_cvtsi32_si128, _mm512_fmadd_ps, _mm512_mul_ps, _mm512_permutexvar_ps,
            _mm512_set1_ps, _mm512_setzero_ps, _mm512_srl_epi32, _mm512_srli_epi32,
        };
        let inputs = panel.len() * NIBBLES;
        let integers = integers(Self::LEAST);
        let mut low = [_mm512_setzero_ps(); R];
        let mut high = [_mm512_setzero_ps(); R];
        let mut minimum = [_mm512_setzero_ps(); 2];
        for (number, block) in panel.iter().enumerate() {
            // SAFETY: the caller promises AVX-512F.
            let scale = unsafe { N::load(&block.scales) };
            for minima in &block.minima {
                // SAFETY: as above.
                minimum = unsafe { N::load(minima) };
            }
            for part in 0..2 {
                let shift = _mm_cvtsi32_si128(4 * part as i32);
                for (word, words) in block.words.iter().enumerate() {
                    let words = load_words(words);
                    let a = _mm512_srl_epi32(words[0], shift);
                    let b = _mm512_srl_epi32(words[1], shift);
                    let first = number * NIBBLES + part * 16 + word * 4;
                    // Written out four times: the compiler's own unrolling depends on its level.
                    macro_rules! input {
                        ($k:literal) => {
                            // The permutation looks at the lowest four bits of an index only.
                            let qa =
                                _mm512_permutexvar_ps(_mm512_srli_epi32::<{ 8 * $k }>(a), integers);
                            let qb =
                                _mm512_permutexvar_ps(_mm512_srli_epi32::<{ 8 * $k }>(b), integers);
                            let (wa, wb) = if M == 0 {
                                (_mm512_mul_ps(scale[0], qa), _mm512_mul_ps(scale[1], qb))
                            } else {
                                (
                                    _mm512_fmadd_ps(scale[0], qa, minimum[0]),
                                    _mm512_fmadd_ps(scale[1], qb, minimum[1]),
                                )
                            };
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

/// Signed 8-bit integers with a scale and `M` minima, one or none, for `4 * WORDS` inputs. Four inputs of a
/// lane make a word.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Bytes<N, const M: usize, const WORDS: usize> {
    scales: [N; PANEL],
    minima: [[N; PANEL]; M],
    words: [[u32; PANEL]; WORDS],
}

impl<N: Number, const M: usize, const WORDS: usize> Bytes<N, M, WORDS> {
    pub(super) fn set(&mut self, lane: usize, scale: N, minimum: [N; M], integers: &[u8]) {
        self.scales[lane] = scale;
        for (minima, minimum) in self.minima.iter_mut().zip(minimum) {
            minima[lane] = minimum;
        }
        set_words(&mut self.words, lane, integers);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn unpack_avx512(&self, slabs: &mut [Slab]) {
        use std::arch::x86_64::{
            _mm_cvtsi32_si128, _mm512_cvtepi32_ps, _mm512_sll_epi32, _mm512_srai_epi32,
        };
        let scale = registers(&self.scales);
        let minimum = self.minima.first().map(|minima| registers(minima));
        for (input, slab) in slabs[..4 * WORDS].iter_mut().enumerate() {
            let shift = _mm_cvtsi32_si128((24 - 8 * (input % 4)) as i32);
            let words = load_words(&self.words[input / 4]);
            let weights = |half: usize| {
                let q = _mm512_srai_epi32::<24>(_mm512_sll_epi32(words[half], shift));
                let q = _mm512_cvtepi32_ps(q);
                scaled(q, scale[half], minimum.map(|minimum| minimum[half]))
            };
            store_halves(slab, weights(0), weights(1));
        }
    }
}

impl<N: Number, const M: usize, const WORDS: usize> Block for Bytes<N, M, WORDS> {
    const INPUTS: usize = 4 * WORDS;
    const ZERO: Self = Self {
        scales: [N::ZERO; PANEL],
        minima: [[N::ZERO; PANEL]; M],
        words: [[0; PANEL]; WORDS],
    };

    fn weight(&self, input: usize, lane: usize) -> f32 {
        let integer = (self.words[input / 4][lane] >> (8 * (input % 4))) as u8 as i8;
        let product = self.scales[lane].widen() * f32::from(integer);
        match self.minima.first() {
            Some(minima) => product + minima[lane].widen(),
            None => product,
        }
    }

    fn unpack(blocks: &[Self], slabs: &mut [Slab], with: Instructions) {
        match with {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => {
                for (block, slabs) in blocks.iter().zip(slabs.chunks_exact_mut(Self::INPUTS)) {
                    // SAFETY: `Instructions::Avx512` is made only where the processor has AVX-512F.
                    unsafe { block.unpack_avx512(slabs) };
                }
            }
            _ => unpack_by_weight(blocks, slabs),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn times_rows<const R: usize>(panel: &[Self], x: &[f32]) -> [Slab; R] {
        use std::arch::x86_64::{
            _mm512_cvtepi32_ps, _mm512_fmadd_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps,
            _mm512_slli_epi32, _mm512_srai_epi32,
        };
        let inputs = panel.len() * 4 * WORDS;
        let mut low = [_mm512_setzero_ps(); R];
        let mut high = [_mm512_setzero_ps(); R];
        let mut minimum = [_mm512_setzero_ps(); 2];
        for (number, block) in panel.iter().enumerate() {
            // SAFETY: the caller promises AVX-512F.
            let scale = unsafe { N::load(&block.scales) };
            for minima in &block.minima {
                // SAFETY: as above.
                minimum = unsafe { N::load(minima) };
            }
            for (word, words) in block.words.iter().enumerate() {
                let words = load_words(words);
                let first = (number * WORDS + word) * 4;
                macro_rules! input {
                    ($k:literal) => {
                        let qa =
                            _mm512_srai_epi32::<24>(_mm512_slli_epi32::<{ 24 - 8 * $k }>(words[0]));
                        let qb =
                            _mm512_srai_epi32::<24>(_mm512_slli_epi32::<{ 24 - 8 * $k }>(words[1]));
                        let (qa, qb) = (_mm512_cvtepi32_ps(qa), _mm512_cvtepi32_ps(qb));
                        let (wa, wb) = if M == 0 {
                            (_mm512_mul_ps(scale[0], qa), _mm512_mul_ps(scale[1], qb))
                        } else {
                            (
                                _mm512_fmadd_ps(scale[0], qa, minimum[0]),
                                _mm512_fmadd_ps(scale[1], qb, minimum[1]),
                            )
                        };
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

fn set_words(words: &mut [[u32; PANEL]], lane: usize, bytes: &[u8]) {
    for (words, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        words[lane] = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
}

fn unpack_by_weight<B: Block>(blocks: &[B], slabs: &mut [Slab]) {
    for (block, slabs) in blocks.iter().zip(slabs.chunks_exact_mut(B::INPUTS)) {
        for (input, slab) in slabs.iter_mut().enumerate() {
            for (lane, weight) in slab.0.iter_mut().enumerate() {
                *weight = block.weight(input, lane);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
fn registers<N: Number>(numbers: &[N; PANEL]) -> [std::arch::x86_64::__m512; 2] {
    // SAFETY: this function has AVX-512F.
    unsafe { N::load(numbers) }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
fn scaled(
    integers: std::arch::x86_64::__m512,
    scale: std::arch::x86_64::__m512,
    minimum: Option<std::arch::x86_64::__m512>,
) -> std::arch::x86_64::__m512 {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_mul_ps};
    match minimum {
        Some(minimum) => _mm512_fmadd_ps(scale, integers, minimum),
        None => _mm512_mul_ps(scale, integers),
    }
}
