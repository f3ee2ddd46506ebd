//! The instructions of tiles, for tests on processors that lack them.
//!
//! There each of them ends in SIGILL. The handler decodes it, by a decoder that is not the assembler's,
//! carries it out on tiles of the thread as Intel's manual says (Intel 64 and IA-32 Architectures
//! Software Developer's Manual, volume 2, under each instruction), and goes on behind it. What the
//! manual forbids ends the tests with a sentence.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::sync::Once;

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, Register};

use super::Bf16;
use super::detection::Evidence;

/// Bytes of the longest instruction here: VEX of three bytes, operation, ModRM, SIB, displacement of four.
const LONGEST: usize = 10;

/// Rows of a tile, and words of each.
const SIDE: usize = 16;

/// The tiles of one thread.
struct Tiles {
    /// Rows, and bytes of each; of unconfigured tiles none.
    shapes: [(usize, usize); 8],
    data: [[[u32; SIDE]; SIDE]; 8],
}

thread_local! {
    static TILES: RefCell<Tiles> = const { RefCell::new(Tiles::RELEASED) };
    static CARRIED_OUT: Cell<u64> = const { Cell::new(0) };
}

/// Instructions that were emulated on this thread.
pub(super) fn carried_out() -> u64 {
    CARRIED_OUT.get()
}

/// Has the instructions carried out in software, where the processor or the system lacks them.
///
/// # Panics
/// If they are there and yet cannot be used: then some might trap and others not.
pub(super) fn install() -> Bf16 {
    let evidence = Evidence::gather();
    assert!(
        evidence.packing,
        "operands are packed by AVX-512 BF16, which is not emulated"
    );
    assert!(
        !evidence.has_tiles(),
        "this processor has AMX, and it cannot be used here ({evidence:?}); the tests of tiles need a \
         system that permits it, or a processor without it"
    );
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // The decoder's tables are made at first use, which is not to be in the handler.
        let tables = Decoder::new(64, &[0x90], DecoderOptions::NONE).decode();
        assert_eq!(tables.mnemonic(), Mnemonic::Nop);
        // SAFETY: all-zero is a valid `sigaction`, whose fields are then set as SA_SIGINFO asks.
        let done = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_flags = libc::SA_SIGINFO;
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = handle;
            action.sa_sigaction = handler as *const () as usize;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut())
        };
        assert_eq!(done, 0, "SIGILL can be handled");
    });
    Bf16(())
}

extern "C" fn handle(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: with SA_SIGINFO the third argument is the thread's context, nobody else's while its
    // handler runs.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let registers = &mut context.uc_mcontext.gregs;
    let address = registers[libc::REG_RIP as usize] as u64;
    // SAFETY: a function goes on behind an instruction that is no jump, and text behind a function.
    let bytes = unsafe { std::slice::from_raw_parts(address as *const u8, LONGEST) };
    let instruction = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).decode();
    let known = TILES.with_borrow_mut(|tiles| {
        // SAFETY: the code that was interrupted vouches for the memory that its instruction names.
        unsafe { tiles.carry_out(&instruction, registers) }
    });
    if known {
        CARRIED_OUT.set(CARRIED_OUT.get() + 1);
        registers[libc::REG_RIP as usize] = instruction.next_ip() as i64;
    } else {
        // It comes again, and ends the process as if nobody had listened.
        // SAFETY: the default action is always there to be restored.
        unsafe { libc::signal(libc::SIGILL, libc::SIG_DFL) };
    }
}

impl Tiles {
    const RELEASED: Self = Self {
        shapes: [(0, 0); 8],
        data: [[[0; SIDE]; SIDE]; 8],
    };

    /// Does what an instruction says, if it is one of those emulated.
    ///
    /// # Safety
    /// The memory that the instruction names can be read or written as it does.
    unsafe fn carry_out(&mut self, instruction: &Instruction, registers: &[i64]) -> bool {
        let tile = |operand: u32| {
            let register = instruction.op_register(operand);
            assert!(
                (Register::TMM0..=Register::TMM7).contains(&register),
                "{register:?} is a tile"
            );
            register as usize - Register::TMM0 as usize
        };
        let base = general(registers, instruction.memory_base())
            .wrapping_add(instruction.memory_displacement64());
        // Of a tile in memory: the first byte, and bytes from row to row.
        let rows = || {
            let scale = u64::from(instruction.memory_index_scale());
            let index = general(registers, instruction.memory_index());
            (base, index.wrapping_mul(scale))
        };
        match instruction.mnemonic() {
            Mnemonic::Ldtilecfg => {
                // SAFETY: the instruction reads 64 bytes.
                self.configure(unsafe { &*(base as *const [u8; 64]) });
            }
            Mnemonic::Sttilecfg => {
                // SAFETY: the instruction writes 64 bytes.
                unsafe { *(base as *mut [u8; 64]) = self.configuration() };
            }
            Mnemonic::Tilerelease => *self = Self::RELEASED,
            Mnemonic::Tilezero => {
                self.shape(tile(0));
                self.data[tile(0)] = [[0; SIDE]; SIDE];
            }
            Mnemonic::Tileloadd | Mnemonic::Tileloaddt1 => {
                let (begin, stride) = rows();
                let (height, width) = self.shape(tile(0));
                let data = &mut self.data[tile(0)];
                *data = [[0; SIDE]; SIDE];
                for (row, to) in (0..).zip(&mut data[..height]) {
                    let from = begin.wrapping_add(stride.wrapping_mul(row)) as *const u8;
                    // SAFETY: the instruction reads as many bytes of each row.
                    unsafe { from.copy_to_nonoverlapping(to.as_mut_ptr().cast(), width) };
                }
            }
            Mnemonic::Tilestored => {
                let (begin, stride) = rows();
                let (height, width) = self.shape(tile(1));
                for (row, from) in (0..).zip(&self.data[tile(1)][..height]) {
                    let to = begin.wrapping_add(stride.wrapping_mul(row)) as *mut u8;
                    // SAFETY: the instruction writes as many bytes of each row.
                    unsafe { to.copy_from_nonoverlapping(from.as_ptr().cast(), width) };
                }
            }
            Mnemonic::Tdpbf16ps => self.multiply(tile(0), tile(1), tile(2)),
            _ => return false,
        }
        true
    }

    /// LDTILECFG.
    fn configure(&mut self, from: &[u8; 64]) {
        *self = Self::RELEASED;
        let [palette, start_row, reserved @ ..] = from;
        if *palette == 0 {
            return;
        }
        assert_eq!((*palette, *start_row), (1, 0), "palette and first row");
        let (reserved, shapes) = reserved.split_at(14);
        let unused = [reserved, &shapes[16..32], &shapes[40..]].concat();
        assert!(unused.iter().all(|byte| *byte == 0), "reserved: {from:?}");
        for (tile, shape) in self.shapes.iter_mut().enumerate() {
            let width = u16::from_le_bytes([shapes[2 * tile], shapes[2 * tile + 1]]);
            let height = shapes[32 + tile];
            assert!(
                width <= 64 && height <= 16 && (width == 0) == (height == 0),
                "tile {tile} cannot have {height} rows of {width} bytes"
            );
            *shape = (height.into(), width.into());
        }
    }

    /// What STTILECFG stores.
    fn configuration(&self) -> [u8; 64] {
        let mut to = [0; 64];
        to[0] = u8::from(self.shapes != [(0, 0); 8]);
        for (tile, (height, width)) in self.shapes.into_iter().enumerate() {
            to[16 + 2 * tile] = width as u8;
            to[48 + tile] = height as u8;
        }
        to
    }

    /// Rows of a configured tile, and bytes of each.
    fn shape(&self, tile: usize) -> (usize, usize) {
        let (height, width) = self.shapes[tile];
        assert!(height > 0, "tile {tile} is used and not configured");
        assert_eq!(width % 4, 0, "rows of tile {tile} are whole words");
        (height, width)
    }

    /// TDPBF16PS.
    fn multiply(&mut self, sums: usize, a: usize, b: usize) {
        assert!(
            sums != a && a != b && b != sums,
            "tiles {sums}, {a} and {b} differ"
        );
        let (rows, cols) = self.shape(sums);
        let (a_rows, a_cols) = self.shape(a);
        let (b_rows, b_cols) = self.shape(b);
        assert_eq!(
            (a_rows, a_cols / 4, b_cols),
            (rows, b_rows, cols),
            "shapes of tiles {sums}, {a} and {b}"
        );
        let (a, b) = (self.data[a], self.data[b]);
        for (sums, a) in self.data[sums].iter_mut().zip(&a[..rows]) {
            // SAFETY: tiles are emulated where AVX-512 is, by which operands are packed.
            unsafe { add_products(sums, &a[..a_cols / 4], &b[..b_rows], cols / 4) };
        }
    }
}

/// Adds a row of pairs times `cols` columns of pairs to a row of sums: the products of even places and
/// those of odd places each added up by themselves from zero on, fused, then the two sums to one another,
/// then that to the sum before. Each step rounds to nearest even, takes subnormal numbers for zero, and
/// makes no subnormal ones.
///
/// # Safety
/// The processor has FMA.
#[target_feature(enable = "fma")]
unsafe fn add_products(sums: &mut [u32; SIDE], a: &[u32], b: &[[u32; SIDE]], cols: usize) {
    let number = |bits: u32| flushed(f32::from_bits(bits));
    let halves = |pair: u32| [number(pair << 16), number(pair & 0xffff_0000)];
    let mut parts = [[0.0f32; 2]; SIDE];
    for (a, b) in a.iter().zip(b) {
        let a = halves(*a);
        for (parts, b) in parts[..cols].iter_mut().zip(b) {
            let b = halves(*b);
            for place in 0..2 {
                parts[place] = flushed(a[place].mul_add(b[place], parts[place]));
            }
        }
    }
    for (sum, [even, odd]) in sums[..cols].iter_mut().zip(parts) {
        *sum = flushed(number(*sum) + flushed(even + odd)).to_bits();
    }
    sums[cols..].fill(0);
}

/// Zero in place of a subnormal number.
fn flushed(value: f32) -> f32 {
    match value.is_subnormal() {
        true => 0.0f32.copysign(value),
        false => value,
    }
}

/// A general register; 0 for none.
fn general(registers: &[i64], register: Register) -> u64 {
    let at = match register {
        Register::None => return 0,
        Register::RAX => libc::REG_RAX,
        Register::RBX => libc::REG_RBX,
        Register::RCX => libc::REG_RCX,
        Register::RDX => libc::REG_RDX,
        Register::RSI => libc::REG_RSI,
        Register::RDI => libc::REG_RDI,
        Register::RBP => libc::REG_RBP,
        Register::RSP => libc::REG_RSP,
        Register::R8 => libc::REG_R8,
        Register::R9 => libc::REG_R9,
        Register::R10 => libc::REG_R10,
        Register::R11 => libc::REG_R11,
        Register::R12 => libc::REG_R12,
        Register::R13 => libc::REG_R13,
        Register::R14 => libc::REG_R14,
        Register::R15 => libc::REG_R15,
        other => panic!("{other:?} is no general register of 64 bits"),
    };
    registers[at as usize] as u64
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    /// Tiles of which the first three have these rows and bytes.
    fn tiles(shapes: [(u8, u8); 3]) -> Tiles {
        let mut configuration = [0; 64];
        configuration[0] = 1;
        for (tile, (height, width)) in shapes.into_iter().enumerate() {
            configuration[16 + 2 * tile] = width;
            configuration[48 + tile] = height;
        }
        let mut tiles = Tiles::RELEASED;
        tiles.configure(&configuration);
        assert_eq!(tiles.configuration(), configuration);
        tiles
    }

    fn pair(even: f32, odd: f32) -> u32 {
        let bits = |value| {
            let rounded = half::bf16::from_f32(value);
            assert_eq!(rounded.to_f32(), value, "a number of bf16");
            u32::from(rounded.to_bits())
        };
        bits(even) | bits(odd) << 16
    }

    /// One sum of so many pairs.
    fn sum(before: f32, pairs: &[([f32; 2], [f32; 2])]) -> f32 {
        let depth = pairs.len() as u8;
        let mut tiles = tiles([(1, 4), (1, 4 * depth), (depth, 4)]);
        tiles.data[0][0][0] = before.to_bits();
        for (place, ([a, a_odd], [b, b_odd])) in pairs.iter().enumerate() {
            tiles.data[1][0][place] = pair(*a, *a_odd);
            tiles.data[2][place][0] = pair(*b, *b_odd);
        }
        tiles.multiply(0, 1, 2);
        f32::from_bits(tiles.data[0][0][0])
    }

    #[test]
    fn sums_are_those_of_the_manual() {
        let large = 2.0f32.powi(24);
        // Each alone is lost beside the large number, both together are not.
        assert_eq!(sum(large, &[([1.0, 1.0], [1.0, 1.0])]), large + 2.0);
        // Even and odd places are added up apart: in one chain the large ones would be gone before 1 comes.
        let apart = [([large, -large], [1.0, 1.0]), ([1.0, 0.0], [1.0, 0.0])];
        assert_eq!(sum(0.0, &apart), 0.0);
        // Along the depth, not the other way round.
        let along = [
            ([large, 0.0], [1.0, 0.0]),
            ([1.0, 0.0], [1.0, 0.0]),
            ([1.0, 0.0], [1.0, 0.0]),
        ];
        assert_eq!(sum(0.0, &along), large);
        // A product alone would be too large.
        let most = 2.0f32.powi(127);
        let fused = [([-most, 0.0], [1.0, 0.0]), ([most, 0.0], [2.0, 0.0])];
        assert_eq!(sum(0.0, &fused), most);
    }

    /// Bochs 3.0, with its processor `sapphire_rapids`, computed these sums of these numbers. It ran the
    /// bytes that the compiler makes of the kernel (`tests/peers/amx_in_bochs.py`).
    #[test]
    fn sums_are_those_of_bochs() {
        let mut state = 1u64;
        // Most of one size, so that they depend on the order; some subnormal, some large, some tiny.
        let mut number = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let random = (state >> 32) as u32;
            match random >> 26 {
                0 => random & 0x807f,
                1 => random & 0x80ff | 0x4500,
                2 => random & 0x80ff | 0x0100,
                _ => random & 0x81ff | 0x3f00,
            }
        };
        let mut tile = || [[(); SIDE]; SIDE].map(|row| row.map(|()| number() | number() << 16));
        // 32 rows and 32 columns, 96 deep, as the kernel has them: the upper rows, the lower ones, the left
        // columns, the right ones.
        let [upper, lower, left, right] = [(); 4].map(|()| [(); 3].map(|()| tile()));
        let mut tiles = Tiles::RELEASED;
        tiles.shapes = [(16, 64); 8];
        for step in 0..3 {
            let operands = [upper, lower, left, right].map(|tiles| tiles[step]);
            tiles.data[4..].copy_from_slice(&operands);
            for sums in 0..4 {
                tiles.multiply(sums, 4 + sums / 2, 6 + sums % 2);
            }
        }
        let mut digest = Sha256::new();
        for row in 0..2 * SIDE {
            for half in 0..2 {
                let words = tiles.data[row / SIDE * 2 + half][row % SIDE];
                words
                    .iter()
                    .for_each(|word| digest.update(word.to_le_bytes()));
            }
        }
        assert_eq!(
            crate::digest::hex(&digest.finalize()),
            "17e3e8ade88d50f20a1e9fb627a9021484fb04941b8c58aeba682c3b92af2e61"
        );
    }

    #[test]
    fn subnormal_numbers_are_zero() {
        let (tiny, huge) = (f32::MIN_POSITIVE, 2.0f32.powi(100));
        let subnormal = 2.0f32.powi(-130);
        assert_eq!(sum(0.0, &[([tiny, 0.0], [huge, 0.0])]), tiny * huge);
        assert_eq!(sum(0.0, &[([subnormal, 0.0], [huge, 0.0])]), 0.0);
        assert_eq!(sum(subnormal, &[([0.0, 0.0], [0.0, 0.0])]), 0.0);
        // A result, of a product and of a sum.
        assert_eq!(sum(0.0, &[([tiny, 0.0], [0.5, 0.0])]), 0.0);
        assert_eq!(sum(-1.5 * tiny, &[([tiny, 0.0], [1.0, 0.0])]), 0.0);
    }

    #[test]
    fn whole_tiles_are_multiplied() {
        let mut tiles = tiles([(16, 64), (16, 64), (16, 64)]);
        let a = |row: usize, depth: usize| (row + depth) as f32;
        let b = |depth: usize, col: usize| depth as f32 - col as f32;
        for line in 0..SIDE {
            for place in 0..SIDE {
                let depths = [2 * place, 2 * place + 1];
                let [even, odd] = depths.map(|depth| a(line, depth));
                tiles.data[1][line][place] = pair(even, odd);
                let [even, odd] = depths.map(|depth| b(depth, line));
                tiles.data[2][place][line] = pair(even, odd);
            }
        }
        tiles.multiply(0, 1, 2);
        for row in 0..SIDE {
            for col in 0..SIDE {
                let expected: f32 = (0..2 * SIDE).map(|k| a(row, k) * b(k, col)).sum();
                assert_eq!(f32::from_bits(tiles.data[0][row][col]), expected);
            }
        }
    }

    #[test]
    fn what_the_manual_forbids_is_refused() {
        let refused = |act: fn(&mut Tiles)| {
            let mut tiles = tiles([(2, 8), (2, 12), (3, 8)]);
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| act(&mut tiles)));
            let reason = caught.expect_err("refused");
            reason.downcast_ref::<String>().expect("a sentence").clone()
        };
        let told = refused(|tiles| tiles.multiply(0, 1, 1));
        assert!(told.contains("tiles 0, 1 and 1 differ"), "{told}");
        let told = refused(|tiles| tiles.multiply(0, 2, 1));
        assert!(told.contains("shapes of tiles 0, 2 and 1"), "{told}");
        let told = refused(|tiles| tiles.multiply(3, 1, 2));
        assert!(told.contains("tile 3 is used"), "{told}");
        let told = refused(|tiles| {
            let mut wide = tiles.configuration();
            wide[16] = 65;
            tiles.configure(&wide);
        });
        assert!(told.contains("2 rows of 65 bytes"), "{told}");
        let told = refused(|tiles| {
            let mut unknown = tiles.configuration();
            unknown[8] = 1;
            tiles.configure(&unknown);
        });
        assert!(told.contains("reserved"), "{told}");
        // And these shapes are not.
        tiles([(2, 8), (2, 12), (3, 8)]).multiply(0, 1, 2);
    }
}
