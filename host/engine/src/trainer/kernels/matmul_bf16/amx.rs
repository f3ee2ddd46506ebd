//! A kernel of 32 x 32 sums in tiles, by AMX (Intel 64 and IA-32 Architectures Software Developer's
//! Manual, volume 1, chapter 18; volume 2, TDPBF16PS).
//!
//! A tile is 16 rows of 64 bytes. One instruction multiplies 16 rows of `a`, 32 deep, by 16 columns of
//! `b` and adds the result to 256 sums; four tiles of sums are made of two tiles of `a` and two of `b`.
//! Panels are filled up with zeros, so that all tiles are whole. The instructions are written as inline
//! assembly: their intrinsics are not stable.
//!
//! Sizes are reasoned from Sapphire Rapids' caches, 48 KiB and 2 MiB, not measured: no machine that the
//! trainer was timed on had these instructions.

mod detection;
#[cfg(test)]
mod emulator;

use std::arch::asm;
use std::arch::x86_64::_mm512_load_ps;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

use super::packing::{pack_by_line, pack_by_pair};
use super::pieces::{Kernel, LANES, Operand, Target, Words, in_pieces};
use super::{Matrix, MatrixMut};

/// Rows of a tile, and 32-bit words of each.
const TILE: usize = LANES;
/// Rows and columns of sums that the kernel holds.
const SIDE: usize = 2 * TILE;

/// Proof that the processor has the instructions and the system lets them be used.
#[derive(Debug, Clone, Copy)]
pub(in crate::trainer) struct Bf16(());

impl Bf16 {
    /// [`Instructions::matmul`](super::Instructions::matmul), whose shapes are known to fit.
    pub(super) fn matmul(self, out: MatrixMut<'_>, a: Matrix<'_>, b: Matrix<'_>, parallel: bool) {
        let tiles = || Tiles::configure(self);
        in_pieces(tiles, out, a, b, parallel);
    }
}

/// This thread's tiles, all of them 16 rows of 64 bytes until this is dropped.
struct Tiles(
    /// Tiles are a thread's own.
    PhantomData<*const ()>,
);

/// The tiles that there are in palette 1: the manual fixes it, so that it is not read from CPUID's leaves
/// 0x1D and 0x1E, which virtual machines may hide.
const TILES: usize = 8;

/// What LDTILECFG reads: the palette, then from byte 16 on the bytes of each tile's rows, two bytes each,
/// and from byte 48 on its rows.
static WHOLE_TILES: [u8; 64] = {
    let mut configuration = [0; 64];
    configuration[0] = 1;
    let mut tile = 0;
    while tile < TILES {
        configuration[16 + 2 * tile] = size_of::<Words>() as u8;
        configuration[48 + tile] = TILE as u8;
        tile += 1;
    }
    configuration
};

impl Tiles {
    fn configure(_: Bf16) -> Self {
        // SAFETY: the argument proves the instruction, and the configuration is valid. Nothing but this
        // file uses tiles, and here nobody configures them twice: a kernel calls nothing that would
        // compute another product.
        unsafe {
            asm!(
                "ldtilecfg [{}]",
                in(reg) WHOLE_TILES.as_ptr(),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags, readonly),
            );
        }
        Self(PhantomData)
    }
}

impl Drop for Tiles {
    /// Gives the tiles back: as long as they are in use, the system saves 8 KiB with each switch of
    /// threads.
    fn drop(&mut self) {
        // SAFETY: `self` proves that tiles are there, and nobody else uses them.
        unsafe {
            asm!(
                "tilerelease",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags, nomem),
            );
        }
    }
}

/// The kernel's sums as they leave the tiles.
#[repr(C, align(64))]
struct Sums([[f32; SIDE]; SIDE]);

// SAFETY: `pack_by_line` and `pack_by_pair` read the lines and the depth that they are given, `multiply`
// writes the rows and columns that it is given.
unsafe impl Kernel for Tiles {
    const ROWS: usize = SIDE;
    const COLS: usize = SIDE;
    /// A panel of `b` is then 40 KiB: it stays in the first-level cache while panels of `a` go by.
    const DEPTH: usize = 640;
    /// 320 KiB, beside which the columns fill the second-level cache to two thirds.
    const BLOCK_ROWS: usize = 8 * SIDE;
    /// 960 KiB.
    const BLOCK_COLS: usize = 24 * SIDE;

    fn panel_words(depth: usize) -> [usize; 2] {
        // Two tiles for each 32 depths.
        [2 * TILE * depth.div_ceil(2 * TILE); 2]
    }

    unsafe fn pack_a(&self, from: Operand, rows: usize, depth: usize, to: &mut [Words]) {
        let half = to.len() / 2;
        for (lane, to) in to.chunks_exact_mut(half).enumerate() {
            let lines = rows.saturating_sub(lane * TILE).min(TILE);
            // SAFETY: `self` proves the instructions, the caller the rows and the depth.
            unsafe { pack_by_line(from.skip(lane * TILE, 0), lines, depth, to) };
        }
    }

    unsafe fn pack_b(&self, from: Operand, cols: usize, depth: usize, to: &mut [Words]) {
        let half = to.len() / 2;
        for (lane, to) in to.chunks_exact_mut(half).enumerate() {
            let lines = cols.saturating_sub(lane * TILE).min(TILE);
            // SAFETY: `self` proves the instructions, the caller the columns and the depth.
            unsafe { pack_by_pair(from.skip(lane * TILE, 0), lines, depth, to, 1) };
            to[depth.div_ceil(2)..].fill(Words([0; LANES]));
        }
    }

    unsafe fn multiply(&self, a: &[Words], b: &[Words], target: Target, rows: usize, cols: usize) {
        let mut sums = MaybeUninit::uninit();
        let sums = self.multiply_panels(a, b, &mut sums);
        // SAFETY: packing has its instructions, and this is one of them; the caller promises the rows and
        // columns.
        unsafe { put(sums, target, rows, cols) };
    }
}

impl Tiles {
    /// Writes the products of a panel's 32 rows and a panel's 32 columns.
    fn multiply_panels<'s>(
        &self,
        a: &[Words],
        b: &[Words],
        sums: &'s mut MaybeUninit<Sums>,
    ) -> &'s Sums {
        assert_eq!(a.len(), b.len(), "panels of one depth");
        let half = a.len() / 2;
        let steps = half / TILE;
        assert!(steps > 0 && a.len() == 2 * TILE * steps, "whole tiles");
        // SAFETY: `self` proves the instructions and that all tiles are 16 rows of 64 bytes. Each step
        // reads 16 words, in registers' width, from each of the four halves, which have 16 times as many as
        // there are steps. The four stores write the two halves of the first and of the last 16 rows of the
        // sums. Sums begin and end in this block, so that no tile has to keep anything beyond it.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{a} + {row}*1]",
                "tileloadd tmm6, [{b} + {row}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b_right} + {row}*1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a_below} + {row}*1]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a}, {tile}",
                "add {a_below}, {tile}",
                "add {b}, {tile}",
                "add {b_right}, {tile}",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{sums} + {sums_row}*1], tmm0",
                "tilestored [{sums} + {sums_row}*1 + {right}], tmm1",
                "tilestored [{sums} + {sums_row}*1 + {below}], tmm2",
                "tilestored [{sums} + {sums_row}*1 + {below} + {right}], tmm3",
                a = inout(reg) a.as_ptr() => _,
                a_below = inout(reg) a[half..].as_ptr() => _,
                b = inout(reg) b.as_ptr() => _,
                b_right = inout(reg) b[half..].as_ptr() => _,
                steps = inout(reg) steps => _,
                row = in(reg) size_of::<Words>(),
                sums = in(reg) sums.as_mut_ptr(),
                sums_row = in(reg) size_of::<[f32; SIDE]>(),
                tile = const TILE * size_of::<Words>(),
                right = const size_of::<[f32; TILE]>(),
                below = const TILE * size_of::<[f32; SIDE]>(),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
            sums.assume_init_ref()
        }
    }
}

/// Puts the first `rows` rows and `cols` columns of the sums into the target, as far as they go.
///
/// # Safety
/// The target has those rows and columns.
#[target_feature(enable = "avx512f")]
unsafe fn put(sums: &Sums, target: Target, rows: usize, cols: usize) {
    for (row, sums) in sums.0.iter().enumerate().take(rows) {
        for (part, sums) in sums.as_chunks::<LANES>().0.iter().enumerate() {
            // SAFETY: each half of a row has as many elements as a register, and is aligned like it.
            let sums = unsafe { _mm512_load_ps(sums.as_ptr()) };
            let to = target.skip(row, part * LANES);
            // SAFETY: the row is among the target's, and so are the columns left.
            unsafe { to.put(cols.saturating_sub(part * LANES), sums) };
        }
    }
}

/// For tests: the kernel on a processor without its instructions, which are then emulated.
#[cfg(test)]
pub(super) fn emulated() -> Bf16 {
    emulator::install()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::kernels::matmul_bf16::packing;

    /// The kernel, in the processor's tiles or in emulated ones; none where operands cannot be packed.
    fn kernel() -> Option<Bf16> {
        if !packing::detected() {
            assert!(Bf16::detect().is_none(), "nothing packs its operands");
            return None;
        }
        Some(Bf16::detect().unwrap_or_else(emulated))
    }

    /// Whether this thread's tiles are in use, by STTILECFG.
    fn in_use(_: Bf16) -> bool {
        let mut configuration = MaybeUninit::<[u8; 64]>::uninit();
        // SAFETY: the argument proves the instruction, which writes 64 bytes.
        let configuration = unsafe {
            asm!("sttilecfg [{}]", in(reg) configuration.as_mut_ptr(), options(nostack, preserves_flags));
            configuration.assume_init()
        };
        configuration[0] != 0
    }

    #[test]
    fn products_are_made_in_tiles() {
        let Some(amx) = kernel() else { return };
        let before = emulator::carried_out();
        assert!(detection::multiplies(amx));
        let emulated = emulator::carried_out() - before;
        match Bf16::detect() {
            Some(_) => assert_eq!(emulated, 0, "the processor has tiles"),
            // One to configure and one to release; two steps of depth, each four tiles loaded and four
            // multiplied; four zeroed and four stored.
            None => assert_eq!(emulated, 2 + 2 * 8 + 8, "the processor has none"),
        }
    }

    #[test]
    fn tiles_are_given_back() {
        let Some(amx) = kernel() else { return };
        assert!(!in_use(amx));
        let tiles = Tiles::configure(amx);
        assert!(in_use(amx));
        drop(tiles);
        assert!(!in_use(amx));
        let caught = std::panic::catch_unwind(|| {
            let _tiles = Tiles::configure(amx);
            panic!("in the midst of a product");
        });
        assert!(caught.is_err() && !in_use(amx));
        assert!(detection::multiplies(amx) && !in_use(amx));
    }
}
