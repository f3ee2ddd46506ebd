//! Numbers of which every rank has a part, read in one place.

use std::io;
use std::ops::Range;

use candle_core::Tensor;

use super::tensor_file::{Numbers, Stored};
use crate::trainer::collective::{Collective, CollectiveError, part};
use crate::trainer::parameters::ParameterSet;
use crate::trainer::transfer::read_f32;

/// A moment of AdamW. Rank 0 reads it, and every other rank reads the same ranges in the same order.
#[derive(Clone, Copy)]
pub(super) struct Gathered<'a> {
    pub ranks: &'a dyn Collective,
    /// This rank's part.
    pub part: &'a ParameterSet,
    /// Numbers in all parts.
    pub count: usize,
}

impl Gathered<'_> {
    /// Some of the numbers, in f32; they travel as they are kept. On other ranks than the first, those of
    /// that rank alone.
    pub(super) fn gather(&self, range: Range<usize>) -> Result<Vec<f32>, CollectiveError> {
        let (rank, world_size) = (self.ranks.rank(), self.ranks.world_size());
        let mut all = Vec::new();
        for owner in 0..world_size {
            let owned = part(self.count, world_size, owner);
            let wanted = range.start.max(owned.start)..range.end.min(owned.end);
            if wanted.is_empty() || ![0, owner].contains(&rank) {
                continue;
            }
            if rank == owner {
                let place = wanted.start - owned.start..wanted.end - owned.start;
                if owner != 0 {
                    let values = self.part.view(place.clone(), &[place.len()])?;
                    self.ranks.to_first(owner, &values)?;
                }
                all.extend(self.part.read(place)?);
            } else {
                let sample = self.part.data();
                let values = Tensor::zeros(wanted.len(), sample.dtype(), sample.device())?;
                self.ranks.to_first(owner, &values)?;
                all.extend(read_f32(&values, 0..wanted.len())?);
            }
        }
        Ok(all)
    }
}

impl Numbers for Gathered<'_> {
    fn read(&self, range: Range<usize>) -> io::Result<Vec<f32>> {
        self.gather(range).map_err(io::Error::other)
    }

    fn stored(&self) -> Stored {
        Stored::of(self.part.format())
    }
}
