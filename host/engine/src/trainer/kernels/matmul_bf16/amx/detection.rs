//! Whether this machine multiplies in tiles, and is to.

use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::sync::OnceLock;

use super::super::packing;
use super::Bf16;
use crate::trainer::kernels::{Matrix, MatrixMut};

/// CPUID, leaf 7, EDX: AMX-BF16 and AMX-TILE.
const FEATURES: u32 = 1 << 22 | 1 << 24;
/// XCR0: the configuration of tiles and their data.
const STATE: u64 = 1 << 17 | 1 << 18;
/// Linux' arch_prctl: the process asks for a component of the extended state.
const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
/// That component: the data of tiles.
const XFEATURE_XTILEDATA: libc::c_long = 18;

/// What speaks for the instructions. Each kind is asked for where the ones before it are there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Evidence {
    /// Operands can be packed: AVX-512 with BF16.
    pub packing: bool,
    /// EDX of CPUID's leaf 7.
    pub features: u32,
    /// The states that the system saves.
    pub xcr0: u64,
    /// The system lets this process use tiles.
    pub permission: bool,
    /// A product came out right.
    pub proof: bool,
}

impl Bf16 {
    /// Asks once in a process.
    ///
    /// CPUID's leaves about the shape of tiles (0x1D) and of their multiplier (0x1E) are not asked: virtual
    /// machines have been seen that hide them and have the instructions all the same. What is asked instead
    /// cannot be had by accident: the system grants tiles only where it found them itself. A machine that
    /// says yes four times and has no such instructions would end the process here, by SIGILL; a handler
    /// against that would be the whole process's, which a library has no right to.
    pub fn detect() -> Option<Self> {
        static DETECTED: OnceLock<bool> = OnceLock::new();
        DETECTED
            .get_or_init(|| Evidence::gather().suffices())
            .then_some(Self(()))
    }
}

impl Evidence {
    pub fn gather() -> Self {
        let mut evidence = Self {
            packing: packing::detected(),
            ..Self::default()
        };
        if evidence.packing && is_x86_feature_detected!("xsave") {
            evidence.features = __cpuid_count(7, 0).edx;
            // SAFETY: AVX-512 is not detected unless the system has turned on XGETBV.
            evidence.xcr0 = unsafe { xcr0() };
        }
        if evidence.has_tiles() {
            // SAFETY: this call changes nothing in the process's memory.
            let asked = unsafe {
                libc::syscall(
                    libc::SYS_arch_prctl,
                    ARCH_REQ_XCOMP_PERM,
                    XFEATURE_XTILEDATA,
                )
            };
            evidence.permission = asked == 0;
        }
        evidence.proof = evidence.permission && multiplies(Bf16(()));
        evidence
    }

    /// Whether processor and system say that there are tiles.
    pub fn has_tiles(self) -> bool {
        self.packing && self.features & FEATURES == FEATURES && self.xcr0 & STATE == STATE
    }

    pub fn suffices(self) -> bool {
        self.has_tiles() && self.permission && self.proof
    }
}

/// # Safety
/// The processor has XGETBV, and the system has turned it on.
#[target_feature(enable = "xsave")]
unsafe fn xcr0() -> u64 {
    // SAFETY: the caller's promise.
    unsafe { _xgetbv(0) }
}

/// Whether a product of small whole numbers, which has no rounding, comes out right.
pub(super) fn multiplies(amx: Bf16) -> bool {
    let [rows, depth, cols] = [17, 33, 18];
    let small = |count: usize, modulus: usize| -> Vec<f32> {
        (0..count).map(|i| (i % modulus) as f32 - 3.0).collect()
    };
    let (a, b) = (small(rows * depth, 7), small(depth * cols, 11));
    let mut out = vec![0.0; rows * cols];
    amx.matmul(
        MatrixMut::new(&mut out, rows, cols),
        Matrix::new(&a, rows, depth),
        Matrix::new(&b, depth, cols),
        false,
    );
    out.iter().enumerate().all(|(at, &got)| {
        let (row, col) = (at / cols, at % cols);
        let product = |place: usize| a[row * depth + place] * b[place * cols + col];
        got == (0..depth).map(product).sum::<f32>()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Evidence = Evidence {
        packing: true,
        features: FEATURES,
        xcr0: STATE,
        permission: true,
        proof: true,
    };

    #[test]
    fn each_piece_of_evidence_is_needed() {
        assert!(ALL.suffices());
        // The bits as a Sapphire Rapids shows them.
        let others = Evidence {
            features: !0,
            xcr0: 0x6_02e7,
            ..ALL
        };
        assert!(others.suffices());
        let lacking = [
            Evidence {
                packing: false,
                ..ALL
            },
            Evidence {
                features: !(1 << 22),
                ..ALL
            },
            Evidence {
                features: !(1 << 24),
                ..ALL
            },
            Evidence {
                xcr0: !(1 << 17),
                ..ALL
            },
            Evidence {
                xcr0: !(1 << 18),
                ..ALL
            },
            Evidence {
                permission: false,
                ..ALL
            },
            Evidence {
                proof: false,
                ..ALL
            },
        ];
        for evidence in lacking {
            assert!(!evidence.suffices(), "{evidence:?}");
        }
    }

    #[test]
    fn what_is_not_promised_is_not_tried() {
        let here = Evidence::gather();
        assert!(here.has_tiles() || !here.permission, "{here:?}");
        assert!(here.permission || !here.proof, "{here:?}");
        assert_eq!(Bf16::detect().is_some(), here.suffices());
    }
}
