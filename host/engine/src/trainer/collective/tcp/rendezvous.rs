//! How ranks find each other: rank 0 listens, the others call it and say who they are.

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use super::Patience;

/// What a rank says first; another version of the protocol says another.
const GREETING: &[u8; 16] = b"pacos ranks 0001";

/// How often rank 0 looks for callers, and callers for rank 0.
const LOOK: Duration = Duration::from_millis(50);

/// How long a caller may take to say who it is.
const INTRODUCTION: Duration = Duration::from_secs(5);

/// No name of a job and no reason is longer.
const LONGEST: usize = 1 << 16;

/// Why a rank did not find the others.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Some never came.
    #[error(
        "{} did not come to {address} within {} s: start all {world_size} ranks, and see that they reach that address and port (PACOS_RANKS_PORT sets another port)",
        ranks(missing), waited.as_secs_f64()
    )]
    Missing {
        /// Which.
        missing: Vec<usize>,
        /// How many there should be.
        world_size: usize,
        /// Where rank 0 listened.
        address: SocketAddr,
        /// How long.
        waited: Duration,
    },
    /// Rank 0 was not there.
    #[error(
        "rank {rank} did not reach rank 0 at {address} within {} s ({reason}): see that rank 0 was started, and that this machine reaches that address and port (PACOS_RANKS_PORT sets another port)",
        waited.as_secs_f64()
    )]
    Unreachable {
        /// This rank.
        rank: usize,
        /// Where rank 0 should be.
        address: String,
        /// How long.
        waited: Duration,
        /// What the last try came to.
        reason: String,
    },
    /// Rank 0 said no.
    #[error("rank 0 turned rank {rank} away: {reason}")]
    TurnedAway {
        /// This rank.
        rank: usize,
        /// What it said.
        reason: String,
    },
    /// Rank 0 has no place to listen.
    #[error(
        "rank 0 cannot listen at {address}: {source}. Set PACOS_RANKS_PORT to a free port, the same for all ranks"
    )]
    Listen {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The operating system gives no connection.
    #[error("the connection between ranks cannot be used: {0}")]
    Socket(#[source] io::Error),
}

fn ranks(missing: &[usize]) -> String {
    let names: Vec<String> = missing.iter().map(usize::to_string).collect();
    match names.as_slice() {
        [one] => format!("rank {one}"),
        many => format!("ranks {}", many.join(", ")),
    }
}

/// Who a rank is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    pub rank: usize,
    pub world_size: usize,
    pub job: String,
}

impl Caller {
    fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut bytes = GREETING.to_vec();
        bytes.extend((self.rank as u32).to_le_bytes());
        bytes.extend((self.world_size as u32).to_le_bytes());
        append_text(&self.job, &mut bytes);
        to.write_all(&bytes)
    }

    fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut greeting = [0; GREETING.len()];
        from.read_exact(&mut greeting)?;
        if greeting != *GREETING {
            return Err(io::Error::other("no rank speaks so"));
        }
        Ok(Self {
            rank: read_number(from)?,
            world_size: read_number(from)?,
            job: read_text(from)?,
        })
    }
}

fn append_text(text: &str, to: &mut Vec<u8>) {
    to.extend((text.len() as u32).to_le_bytes());
    to.extend(text.bytes());
}

fn read_number(from: &mut impl Read) -> io::Result<usize> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes) as usize)
}

fn read_text(from: &mut impl Read) -> io::Result<String> {
    let length = read_number(from)?;
    if length > LONGEST {
        return Err(io::Error::other("no rank says so much"));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Rank 0's answer to a caller: an empty text is a welcome.
fn answer(mut stream: &TcpStream, reason: &str) -> io::Result<()> {
    let mut bytes = Vec::new();
    append_text(reason, &mut bytes);
    stream.write_all(&bytes)
}

/// Waits for ranks 1 and up, and gives their connections in that order.
pub(super) fn await_all(
    listener: &TcpListener,
    own: &Caller,
    patience: Patience,
) -> Result<Vec<TcpStream>, JoinError> {
    let world_size = own.world_size;
    let mut streams: Vec<Option<TcpStream>> = (1..world_size).map(|_| None).collect();
    let begun = Instant::now();
    listener.set_nonblocking(true).map_err(JoinError::Socket)?;
    while streams.iter().any(Option::is_none) {
        if begun.elapsed() > patience.join {
            let missing = (1..world_size).filter(|rank| streams[rank - 1].is_none());
            let error = JoinError::Missing {
                missing: missing.collect(),
                world_size,
                address: listener.local_addr().map_err(JoinError::Socket)?,
                waited: patience.join,
            };
            for stream in streams.iter().flatten() {
                let _ = answer(stream, &error.to_string());
            }
            return Err(error);
        }
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            // What the connection of a caller failed of is the caller's to try again.
            Err(_) => {
                thread::sleep(LOOK);
                continue;
            }
        };
        // A caller that does not say who it is, is no rank: port scanners and browsers come by.
        let Ok(caller) = introduced(&stream) else {
            continue;
        };
        let reason = match streams.get_mut(caller.rank.wrapping_sub(1)) {
            _ if caller.job != own.job => format!(
                "it is of the run {:?}, and here is {:?}: two runs use one port. Set PACOS_RANKS_PORT to another for one of them",
                caller.job, own.job
            ),
            _ if caller.world_size != world_size => format!(
                "it is one of {} ranks, and here are {world_size}",
                caller.world_size
            ),
            Some(place @ None) => {
                *place = Some(stream);
                continue;
            }
            Some(Some(_)) => format!(
                "rank {} is there already: were two processes started as the same rank, or two runs with one port?",
                caller.rank
            ),
            None => format!("there is no rank {} of {world_size}", caller.rank),
        };
        let _ = answer(&stream, &reason);
    }
    let streams: Vec<TcpStream> = streams.into_iter().flatten().collect();
    for stream in &streams {
        // Who went away in the meantime is missed at the first message.
        let _ = answer(stream, "");
    }
    Ok(streams)
}

fn introduced(mut stream: &TcpStream) -> io::Result<Caller> {
    // Some systems hand the listener's setting on.
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(INTRODUCTION))?;
    stream.set_write_timeout(Some(INTRODUCTION))?;
    Caller::read(&mut stream)
}

/// Calls rank 0 until it answers.
pub(super) fn call<A: ToSocketAddrs + Display>(
    address: &A,
    own: &Caller,
    patience: Patience,
) -> Result<TcpStream, JoinError> {
    let begun = Instant::now();
    loop {
        let reason = match reach(address, own, patience) {
            Ok((stream, reason)) if reason.is_empty() => return Ok(stream),
            Ok((_, reason)) => {
                let rank = own.rank;
                return Err(JoinError::TurnedAway { rank, reason });
            }
            Err(error) => error.to_string(),
        };
        if begun.elapsed() > patience.join {
            return Err(JoinError::Unreachable {
                rank: own.rank,
                address: address.to_string(),
                waited: patience.join,
                reason,
            });
        }
        thread::sleep(LOOK);
    }
}

/// One try: the connection, and what rank 0 said.
fn reach(
    address: &impl ToSocketAddrs,
    own: &Caller,
    patience: Patience,
) -> io::Result<(TcpStream, String)> {
    let mut last = io::Error::other("its name has no address");
    for address in address.to_socket_addrs()? {
        let mut stream = match TcpStream::connect_timeout(&address, INTRODUCTION) {
            Ok(stream) => stream,
            Err(error) => {
                last = error;
                continue;
            }
        };
        stream.set_nodelay(true)?;
        // It answers when all are there; a little more, for it gives up at the same time.
        stream.set_read_timeout(Some(patience.join + INTRODUCTION))?;
        stream.set_write_timeout(Some(INTRODUCTION))?;
        own.write(&mut stream)?;
        let reason = read_text(&mut stream)?;
        return Ok((stream, reason));
    }
    Err(last)
}
