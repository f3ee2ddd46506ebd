//! Ranks that are processes, of one machine or many: one connection from every rank to rank 0.

mod connection;
mod frame;
mod rendezvous;

use std::net::{TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use super::Departure;
use super::star::{Gone, Links};
use connection::{Connection, News};
use rendezvous::Caller;
pub use rendezvous::JoinError;

/// How long ranks wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For all ranks to be there at the beginning.
    pub join: Duration,
    /// For a sign of life later on. A rank gives one ten times as often, whatever it computes; so one
    /// that gave none for so long is lost. One whose process ends is missed at once.
    pub silence: Duration,
}

impl Default for Patience {
    /// Five minutes at the beginning, for programs and models that are read over a network; then one.
    fn default() -> Self {
        Self {
            join: Duration::from_secs(300),
            silence: Duration::from_secs(60),
        }
    }
}

/// A rank that is a process.
///
/// Others learn of its end at once when its process ends, within [`Patience::silence`] when its machine
/// or the network is gone, and why, when it says so by [`stop`](super::Collective::stop). A rank that is
/// alive and slow is waited for. Nothing that is sent is encrypted or proved to come from a rank: the
/// network between ranks must be trusted.
#[derive(Debug)]
pub struct Tcp {
    rank: usize,
    world_size: usize,
    news: Arc<News>,
    /// To every other rank, on rank 0; else to rank 0 alone.
    connections: Vec<Connection>,
}

impl Tcp {
    /// Becomes rank 0 of a world, and waits until all others have joined at `listener`.
    ///
    /// `job` names the run: ranks of another are turned away.
    ///
    /// # Errors
    /// If they did not come in time.
    pub fn listen(
        listener: &TcpListener,
        world_size: usize,
        job: &str,
        patience: Patience,
    ) -> Result<Self, JoinError> {
        let caller = Caller {
            rank: 0,
            world_size,
            job: job.to_owned(),
        };
        let streams = rendezvous::await_all(listener, &caller, patience)?;
        Self::over(&caller, (1..).zip(streams).collect(), patience)
    }

    /// Joins the rank 0 that listens at `address`, or will soon.
    ///
    /// # Errors
    /// If it cannot be reached in time, or turns this rank away.
    pub fn connect<A: ToSocketAddrs + std::fmt::Display>(
        address: A,
        rank: usize,
        world_size: usize,
        job: &str,
        patience: Patience,
    ) -> Result<Self, JoinError> {
        let caller = Caller {
            rank,
            world_size,
            job: job.to_owned(),
        };
        let stream = rendezvous::call(&address, &caller, patience)?;
        Self::over(&caller, vec![(0, stream)], patience)
    }

    fn over(
        caller: &Caller,
        streams: Vec<(usize, std::net::TcpStream)>,
        patience: Patience,
    ) -> Result<Self, JoinError> {
        let news = Arc::new(News::default());
        let connections = streams
            .into_iter()
            .map(|(peer, stream)| Connection::new(peer, stream, patience.silence, &news))
            .collect::<Result<_, _>>()
            .map_err(JoinError::Socket)?;
        Ok(Self {
            rank: caller.rank,
            world_size: caller.world_size,
            news,
            connections,
        })
    }

    /// For who has to know without asking for a message.
    #[cfg(feature = "nccl")]
    pub(super) fn watch(&self) -> Watch {
        Watch(Arc::clone(&self.news))
    }

    fn connection(&self, peer: usize) -> &Connection {
        &self.connections[if self.rank == 0 { peer - 1 } else { 0 }]
    }
}

/// Sees whether a rank is gone, for as long as it likes.
#[cfg(feature = "nccl")]
pub(super) struct Watch(Arc<News>);

#[cfg(feature = "nccl")]
impl Watch {
    pub(super) fn is_gone(&self) -> bool {
        self.0.departure().is_some()
    }
}

impl Links for Tcp {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn send(&self, to: usize, message: Vec<u8>) -> Result<(), Gone> {
        if let Some(departure) = self.news.departure() {
            return Err(Gone(departure));
        }
        self.connection(to).send(&message).map_err(Gone)
    }

    fn receive(&self, from: usize) -> Result<Vec<u8>, Gone> {
        self.connection(from).receive().map_err(Gone)
    }

    fn stop(&self, reason: &str) {
        self.news.set(Departure::stopped(self.rank, reason));
    }
}
