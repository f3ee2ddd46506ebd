//! Panels of 32 outputs, and the products of f32 ones with rows of x.

use super::{Instructions, multiply_add};

/// Outputs that one panel computes together: two AVX-512 registers.
pub(super) const PANEL: usize = 32;

/// The weights of `PANEL` outputs for one input; aligned so that no load crosses a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Slab(pub [f32; PANEL]);

impl Slab {
    pub(super) const ZERO: Self = Self([0.0; PANEL]);
}

/// Part of a panel, in some storage: the weights of `PANEL` outputs for `INPUTS` inputs.
pub(super) trait Block: Copy + Send + Sync + 'static {
    const INPUTS: usize;
    const ZERO: Self;

    /// The weight of an input for a lane.
    fn weight(&self, input: usize, lane: usize) -> f32;

    /// The blocks as slabs, where they are such.
    fn slabs(_blocks: &[Self]) -> Option<&[Slab]> {
        None
    }

    /// Writes the weights of all inputs of the blocks.
    fn unpack(blocks: &[Self], slabs: &mut [Slab], with: Instructions);

    /// A panel times `R` rows of x (`[R, inputs]`), straight from the blocks.
    ///
    /// # Safety
    /// The processor has AVX-512F, and x holds `R` rows of as many inputs as the panel has.
    #[cfg(target_arch = "x86_64")]
    unsafe fn times_rows<const R: usize>(panel: &[Self], x: &[f32]) -> [Slab; R];
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

    fn unpack(blocks: &[Self], slabs: &mut [Slab], _with: Instructions) {
        slabs[..blocks.len()].copy_from_slice(blocks);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn times_rows<const R: usize>(panel: &[Self], x: &[f32]) -> [Slab; R] {
        // SAFETY: what the caller promises is what `tile_avx512` asks for.
        unsafe { tile_avx512(panel, x, panel.len(), [Self::ZERO; R]) }
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
        __m512, __m512i, _mm512_add_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_ps,
        _mm512_setr_ps, _mm512_storeu_ps,
    };

    use super::{PANEL, Slab};

    /// The sixteen values of a 4-bit integer, from the least on, for a permutation to choose from.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in super::super) fn integers(least: f32) -> __m512 {
        let integers = _mm512_setr_ps(
            0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0,
        );
        _mm512_add_ps(integers, _mm512_set1_ps(least))
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
    pub(in super::super) fn store_halves(slab: &mut Slab, low: __m512, high: __m512) {
        // SAFETY: a slab is 32 numbers, so both halves of 16 lie inside it.
        unsafe {
            _mm512_storeu_ps(slab.0.as_mut_ptr(), low);
            _mm512_storeu_ps(slab.0.as_mut_ptr().add(16), high);
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in super::super) fn load_words(words: &[u32; PANEL]) -> [__m512i; 2] {
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
    pub(in super::super) fn gather<const R: usize>(
        low: [__m512; R],
        high: [__m512; R],
    ) -> [Slab; R] {
        let mut sums = [Slab::ZERO; R];
        for r in 0..R {
            store_halves(&mut sums[r], low[r], high[r]);
        }
        sums
    }
}
#[cfg(target_arch = "x86_64")]
use registers::halves;
#[cfg(target_arch = "x86_64")]
pub(super) use registers::{gather, integers, load_words, store_halves};
