//! The processes that train one student together.

use super::{train::TrainStageError, train_alone::TrainAloneError};
use crate::trainer::{
    ComputeDevice, DeviceKind, DeviceSetting,
    collective::{Alone, Collective, CollectiveError, JoinError, Patience, Tcp},
    launch::{Launch, LaunchError},
};

/// This process among those that train together; connected, if there are others.
#[derive(Debug)]
pub struct Ranks {
    joined: Option<Tcp>,
    local_rank: usize,
    card: usize,
    local_world_size: usize,
}

/// Why processes do not train together.
#[derive(Debug, thiserror::Error)]
pub enum RanksError {
    /// The environment is of two minds.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// They did not find each other.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// They lost each other, or do not do the same.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// Cards that cannot talk to each other.
    #[error(
        "{0} ranks train on cards, but this program was built without NCCL. Build it with `cargo build --release --features nccl`, or set device = \"cpu\""
    )]
    NoNccl(usize),
    /// Several ranks of one machine on one card.
    #[error(
        "device = \"{device}\" may put {ranks} ranks of this machine on one card. Write device = \"cuda\", and each rank takes the card of its own local rank"
    )]
    OneCard {
        /// The setting.
        device: DeviceSetting,
        /// Ranks of the machine.
        ranks: usize,
    },
}

impl Ranks {
    /// One process by itself.
    #[must_use]
    pub fn alone() -> Self {
        Self {
            joined: None,
            local_rank: 0,
            card: 0,
            local_world_size: 1,
        }
    }

    /// Finds the others, where a launcher has started several. Blocks until all are there; the first rank
    /// says for whom it waits.
    ///
    /// # Errors
    /// If the launcher's variables contradict each other, or the others do not come.
    pub fn join(telling: &dyn Fn(&str)) -> Result<Self, RanksError> {
        let Some(launch) = Launch::from_environment()? else {
            return Ok(Self::alone());
        };
        if launch.rank == 0 && launch.world_size > 1 {
            let others = match launch.world_size - 1 {
                1 => "another rank".to_owned(),
                others => format!("{others} other ranks"),
            };
            let Launch { host, port, .. } = &launch;
            telling(&format!("waiting for {others} at {host}, port {port}"));
        }
        Ok(Self {
            local_rank: launch.local_rank,
            card: launch.card,
            // Where it is not known, no less than this.
            local_world_size: launch.local_world_size.unwrap_or(launch.local_rank + 1),
            joined: Some(launch.join(Patience::default())?),
        })
    }

    /// This process's number; 0 is the one that writes and speaks.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.joined.as_ref().map_or(0, Collective::rank)
    }

    /// Its number among those of its machine.
    #[must_use]
    pub fn local_rank(&self) -> usize {
        self.local_rank
    }

    /// How many share its machine.
    #[must_use]
    pub fn local_world_size(&self) -> usize {
        self.local_world_size
    }

    /// The device of this rank.
    ///
    /// # Errors
    /// If it is not there, or ranks of one machine would share a card.
    pub fn device(&self, setting: DeviceSetting) -> Result<ComputeDevice, TrainAloneError> {
        let ranks = self.local_world_size;
        if let (DeviceSetting::Cuda(Some(_)), 2..) = (setting, ranks) {
            let device = setting;
            return Err(RanksError::OneCard { device, ranks }.into());
        }
        Ok(ComputeDevice::find(setting, self.card).map_err(TrainStageError::from)?)
    }

    /// Has the others end, and tells them why.
    pub fn stop(&self, reason: &str) {
        if let Some(ranks) = &self.joined {
            ranks.stop(reason);
        }
    }

    /// Has them exchange tensors of the device that each computes on.
    ///
    /// # Errors
    /// If cards are connected by nothing that this program knows.
    pub fn on(self, device: &ComputeDevice) -> Result<Box<dyn Collective>, RanksError> {
        match (self.joined, device.kind) {
            (None, _) => Ok(Box::new(Alone)),
            (Some(ranks), DeviceKind::Cpu) => Ok(Box::new(ranks)),
            (Some(ranks), DeviceKind::Cuda) => on_cards(ranks, device),
        }
    }
}

#[cfg(feature = "nccl")]
fn on_cards(ranks: Tcp, device: &ComputeDevice) -> Result<Box<dyn Collective>, RanksError> {
    let ranks = crate::trainer::collective::Nccl::join(ranks, &device.handle)?;
    Ok(Box::new(ranks))
}

#[cfg(not(feature = "nccl"))]
fn on_cards(ranks: Tcp, _: &ComputeDevice) -> Result<Box<dyn Collective>, RanksError> {
    Err(RanksError::NoNccl(ranks.world_size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_of_one_machine_do_not_share_a_card() {
        let ranks = Ranks {
            local_world_size: 2,
            ..Ranks::alone()
        };
        let error = ranks.device(DeviceSetting::Cuda(Some(1))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "device = \"cuda:1\" may put 2 ranks of this machine on one card. Write device = \"cuda\", and each rank takes the card of its own local rank"
        );
        assert_eq!(
            ranks.device(DeviceSetting::Cpu).unwrap().kind,
            DeviceKind::Cpu
        );
    }
}
