//! What the ranks of one training run say to each other: sums, parts, and that one of them is gone.
//!
//! Optimizer state is divided among ranks as in ZeRO stage 1 (Rajbhandari et al., arXiv 1910.02054): every
//! rank keeps all weights and computes gradients of its own examples; [`Collective::reduce_scatter`] gives
//! each the summed gradients of its part of the flat parameters ([`part`]), which it alone updates, and
//! [`Collective::all_gather`] hands the updated parts to all.

mod elements;
mod in_process;
#[cfg(feature = "nccl")]
mod nccl;
mod star;
mod tcp;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;

use candle_core::{Device, Tensor};

pub use in_process::InProcess;
#[cfg(feature = "nccl")]
pub use nccl::Nccl;
pub use tcp::{JoinError, Patience, Tcp};

/// A rank's view of the others. Every rank calls the same methods in the same order, with tensors of the
/// same length and type; each call returns when this rank's share of it is done.
///
/// Tensors are flat and contiguous, and are changed in place. They may be f32, bf16 or f64, and where nothing
/// is summed, i16 or u8. Sums of those on the CPU are taken in the order of ranks, bf16 in f32
/// and rounded once, so that they are the same on every run with this number of ranks.
///
/// When a rank is lost, every method of the others fails within a stated time (see [`Patience`]).
pub trait Collective: fmt::Debug + Send + Sync {
    /// This process's number, from 0 to below [`world_size`](Self::world_size).
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn world_size(&self) -> usize;

    /// Sums over ranks. Afterwards this rank's [`part`] of `values` holds the sum; the rest is of no use.
    ///
    /// # Errors
    /// If a rank is gone or does something else, or if the tensor is not as said above.
    fn reduce_scatter(&self, values: &Tensor) -> Result<(), CollectiveError>;

    /// Fills in the parts of the other ranks, each from the rank whose [`part`] it is.
    ///
    /// # Errors
    /// As [`reduce_scatter`](Self::reduce_scatter).
    fn all_gather(&self, values: &Tensor) -> Result<(), CollectiveError>;

    /// Sums over ranks; all of `values` holds the sum afterwards, the same on every rank.
    ///
    /// # Errors
    /// As [`reduce_scatter`](Self::reduce_scatter).
    fn all_reduce_sum(&self, values: &Tensor) -> Result<(), CollectiveError>;

    /// Copies the values of rank 0 to all.
    ///
    /// # Errors
    /// As [`reduce_scatter`](Self::reduce_scatter).
    fn broadcast(&self, values: &Tensor) -> Result<(), CollectiveError>;

    /// Copies the values of rank `from` to rank 0; the others have nothing to do, and may leave it out.
    ///
    /// # Errors
    /// As [`reduce_scatter`](Self::reduce_scatter).
    fn to_first(&self, from: usize, values: &Tensor) -> Result<(), CollectiveError>;

    /// Tells the other ranks that this one ends, and why: what they wait for then fails with that reason.
    fn stop(&self, reason: &str);

    /// Sums host numbers over ranks.
    ///
    /// # Errors
    /// As [`reduce_scatter`](Self::reduce_scatter).
    fn sum(&self, values: &mut [f64]) -> Result<(), CollectiveError> {
        let tensor = Tensor::from_slice(values, values.len(), &Device::Cpu)?;
        self.all_reduce_sum(&tensor)?;
        values.copy_from_slice(&tensor.to_vec1::<f64>()?);
        Ok(())
    }

    /// Whether it is so on any rank: all agree on the answer.
    ///
    /// # Errors
    /// As [`reduce_scatter`](Self::reduce_scatter).
    fn any(&self, here: bool) -> Result<bool, CollectiveError> {
        let mut count = [f64::from(u8::from(here))];
        self.sum(&mut count)?;
        Ok(count[0] > 0.0)
    }

    /// Returns when every rank has come here.
    ///
    /// # Errors
    /// As [`reduce_scatter`](Self::reduce_scatter).
    fn barrier(&self) -> Result<(), CollectiveError> {
        self.any(false).map(|_| ())
    }

    /// The bytes of rank 0, on every rank.
    ///
    /// # Errors
    /// As [`reduce_scatter`](Self::reduce_scatter).
    fn broadcast_bytes(&self, bytes: &[u8]) -> Result<Vec<u8>, CollectiveError> {
        let length = Tensor::from_slice(&[bytes.len() as f64], 1, &Device::Cpu)?;
        self.broadcast(&length)?;
        let length = length.to_vec1::<f64>()?[0] as usize;
        let mut all = if self.rank() == 0 {
            bytes.to_vec()
        } else {
            vec![0; length]
        };
        if length > 0 {
            let tensor = Tensor::from_slice(&all, length, &Device::Cpu)?;
            self.broadcast(&tensor)?;
            all = tensor.to_vec1()?;
        }
        Ok(all)
    }
}

/// Which of `count` flat elements are a rank's own.
///
/// All parts are `count / world_size` long, rounded up to whole cache lines, but for those at the end, which
/// have what is left, be it nothing. Borders of tensors play no role.
pub fn part(count: usize, world_size: usize, rank: usize) -> Range<usize> {
    let length = match world_size {
        1 => count,
        _ => count.div_ceil(world_size).next_multiple_of(ALIGNMENT),
    };
    let start = (rank * length).min(count);
    start..(start + length).min(count)
}

/// Parts begin at multiples of so many elements: 128 bytes of bf16, which suits every kernel that reads
/// several elements at once.
const ALIGNMENT: usize = 64;

/// Why ranks could not go on together.
#[derive(Debug, thiserror::Error)]
pub enum CollectiveError {
    /// A rank ended without a word, or nothing has been heard of it.
    #[error(
        "rank {rank} is gone: {reason}. Look at its own messages and its machine, then start all ranks again: training goes on from the newest checkpoint"
    )]
    Lost {
        /// Which.
        rank: usize,
        /// What was seen.
        reason: String,
    },
    /// A rank said why it ends.
    #[error("rank {rank} stopped: {reason}")]
    Stopped {
        /// Which.
        rank: usize,
        /// What it said.
        reason: String,
    },
    /// Two ranks do different things, as with other settings or examples.
    #[error(
        "rank {rank} is at {theirs}, while rank {own} is at {ours}: every rank must be started with the same program, settings and examples"
    )]
    OutOfStep {
        /// The other rank.
        rank: usize,
        /// This rank.
        own: usize,
        /// What the other rank does.
        theirs: String,
        /// What this rank does.
        ours: String,
    },
    /// A rank was started with something else than rank 0.
    #[error(
        "rank {rank} was started otherwise than rank 0: {what}. Start every rank with the same program, settings and files"
    )]
    Disagreement {
        /// Which.
        rank: usize,
        /// What differs.
        what: String,
    },
    /// A tensor that cannot be exchanged, or a device that failed.
    #[error("ranks cannot exchange a tensor: {0}")]
    Tensor(#[from] candle_core::Error),
    /// NCCL failed.
    #[error(
        "NCCL's {operation} failed on rank {rank}: {reason}. With NCCL_DEBUG=INFO in the environment it says more"
    )]
    Nccl {
        /// What it was asked for.
        operation: &'static str,
        /// This rank.
        rank: usize,
        /// NCCL's own word for it.
        reason: String,
    },
}

/// A rank that takes part no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Departure {
    rank: usize,
    /// Whether it said so itself.
    announced: bool,
    reason: String,
}

impl Departure {
    fn lost(rank: usize, reason: impl Into<String>) -> Self {
        Self {
            rank,
            announced: false,
            reason: reason.into(),
        }
    }

    fn stopped(rank: usize, reason: impl Into<String>) -> Self {
        Self {
            announced: true,
            ..Self::lost(rank, reason)
        }
    }
}

impl From<Departure> for CollectiveError {
    fn from(departure: Departure) -> Self {
        let Departure {
            rank,
            announced,
            reason,
        } = departure;
        if announced {
            Self::Stopped { rank, reason }
        } else {
            Self::Lost { rank, reason }
        }
    }
}

/// A world of one rank: every sum is what it was.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        1
    }

    fn reduce_scatter(&self, _: &Tensor) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn all_gather(&self, _: &Tensor) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn all_reduce_sum(&self, _: &Tensor) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn broadcast(&self, _: &Tensor) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn to_first(&self, _: usize, _: &Tensor) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn stop(&self, _: &str) {}

    fn sum(&self, _: &mut [f64]) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn any(&self, here: bool) -> Result<bool, CollectiveError> {
        Ok(here)
    }
}
