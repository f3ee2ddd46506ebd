//! Arithmetic of the forward pass, written so that a row's result never depends on the rows beside it.
//!
//! General matrix libraries choose their blocking by the whole matrix, so the same row rounds
//! differently alone and in a batch. Here every output is one chain of fused multiply-adds in the
//! order of the inner index, whatever the number of rows, threads or vector lanes: a request gets
//! the same tokens alone and in company, and a cached prefix is the same as a recomputed one, to the bit.
//!
//! Each function exists in three compilations of one source, chosen at run time: AVX-512, AVX2 with
//! FMA, and portable. The first two agree to the bit; the portable one multiplies and adds apart.

mod attention;
mod blocks;
mod elementwise;
mod matmul;
mod page;
mod panel;
mod stored;

use std::sync::OnceLock;

pub(super) use attention::{AttentionShape, attend};
pub(super) use elementwise::{add, exp, log_sum_exp, rms_norm, swiglu};
pub(super) use matmul::PackedMatrix;
pub(super) use page::{PAGE_POSITIONS, Page, PagePool, PageShape};
pub(in crate::llama) use stored::{Format, Stored};

/// Instructions that the kernels may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Instructions {
    Avx512,
    Avx2,
    Portable,
}

impl Instructions {
    /// The best that this processor has.
    pub(super) fn detected() -> Self {
        static DETECTED: OnceLock<Instructions> = OnceLock::new();
        *DETECTED.get_or_init(|| {
            #[cfg(target_arch = "x86_64")]
            {
                if is_x86_feature_detected!("avx512f") {
                    return Self::Avx512;
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    return Self::Avx2;
                }
            }
            Self::Portable
        })
    }

    /// Every variant that this processor can run, for tests that compare them.
    #[cfg(test)]
    pub(super) fn available() -> Vec<Self> {
        match Self::detected() {
            Self::Avx512 => vec![Self::Avx512, Self::Avx2, Self::Portable],
            Self::Avx2 => vec![Self::Avx2, Self::Portable],
            Self::Portable => vec![Self::Portable],
        }
    }
}

/// `a * b + c`, rounded once where the instructions allow it.
#[inline(always)]
fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}
