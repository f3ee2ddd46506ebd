//! The collective over messages: every rank talks to rank 0 alone, which adds up and hands out.
//!
//! Chunk by chunk and in step, so that no rank holds more than a few chunks of another's tensor, and
//! that no two ranks wait for each other to read.

use std::fmt;
use std::ops::Range;

use candle_core::{DType, Tensor};

use super::elements::{self, Sum};
use super::{Collective, CollectiveError, Departure, part};

/// Elements of one message.
const CHUNK: usize = 1 << 20;

/// Bytes in front of the elements of a message.
const HEADER: usize = 10;

/// Messages between a rank and rank 0, in order.
pub trait Links: fmt::Debug + Send + Sync {
    /// This rank.
    fn rank(&self) -> usize;
    /// How many there are.
    fn world_size(&self) -> usize;
    /// Sends a message.
    fn send(&self, to: usize, message: Vec<u8>) -> Result<(), Gone>;
    /// Waits for the next message.
    fn receive(&self, from: usize) -> Result<Vec<u8>, Gone>;
    /// Tells all that this rank ends.
    fn stop(&self, reason: &str);
}

/// A rank is gone, which need not be the one that was asked.
pub struct Gone(pub(super) Departure);

impl From<Gone> for CollectiveError {
    fn from(Gone(departure): Gone) -> Self {
        departure.into()
    }
}

/// What a message is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    ReduceScatter = 1,
    AllGather = 2,
    AllReduceSum = 3,
    Broadcast = 4,
    ToFirst = 5,
}

impl<L: Links> Collective for L {
    fn rank(&self) -> usize {
        Links::rank(self)
    }

    fn world_size(&self) -> usize {
        Links::world_size(self)
    }

    fn reduce_scatter(&self, values: &Tensor) -> Result<(), CollectiveError> {
        let exchange = Exchange::new(self, Operation::ReduceScatter, values)?;
        for (owner, chunk) in exchange.chunks_of_parts() {
            if let Some(sum) = exchange.summed_at_first(chunk.clone())? {
                if owner == 0 {
                    exchange.write(&chunk, &sum)?;
                } else {
                    exchange.send(owner, sum)?;
                }
            } else if owner == exchange.rank {
                let sum = exchange.receive(0)?;
                exchange.write(&chunk, &sum)?;
            }
        }
        Ok(())
    }

    fn all_gather(&self, values: &Tensor) -> Result<(), CollectiveError> {
        let exchange = Exchange::new(self, Operation::AllGather, values)?;
        for (owner, chunk) in exchange.chunks_of_parts() {
            let own = owner == exchange.rank;
            if exchange.rank == 0 {
                let message = if own {
                    exchange.message(chunk.clone())?
                } else {
                    exchange.receive(owner)?
                };
                if !own {
                    exchange.write(&chunk, &message)?;
                }
                exchange.send_to_all_but(owner, &message)?;
            } else if own {
                exchange.send(0, exchange.message(chunk)?)?;
            } else {
                let message = exchange.receive(0)?;
                exchange.write(&chunk, &message)?;
            }
        }
        Ok(())
    }

    fn all_reduce_sum(&self, values: &Tensor) -> Result<(), CollectiveError> {
        let exchange = Exchange::new(self, Operation::AllReduceSum, values)?;
        for chunk in chunks(0..exchange.count) {
            let sum = match exchange.summed_at_first(chunk.clone())? {
                Some(sum) => {
                    exchange.send_to_all_but(0, &sum)?;
                    sum
                }
                None => exchange.receive(0)?,
            };
            exchange.write(&chunk, &sum)?;
        }
        Ok(())
    }

    fn broadcast(&self, values: &Tensor) -> Result<(), CollectiveError> {
        let exchange = Exchange::new(self, Operation::Broadcast, values)?;
        for chunk in chunks(0..exchange.count) {
            if exchange.rank == 0 {
                let message = exchange.message(chunk)?;
                exchange.send_to_all_but(0, &message)?;
            } else {
                let message = exchange.receive(0)?;
                exchange.write(&chunk, &message)?;
            }
        }
        Ok(())
    }

    fn to_first(&self, from: usize, values: &Tensor) -> Result<(), CollectiveError> {
        let exchange = Exchange::new(self, Operation::ToFirst, values)?;
        if from == 0 || ![0, from].contains(&exchange.rank) {
            return Ok(());
        }
        for chunk in chunks(0..exchange.count) {
            if exchange.rank == 0 {
                let message = exchange.receive(from)?;
                exchange.write(&chunk, &message)?;
            } else {
                exchange.send(0, exchange.message(chunk)?)?;
            }
        }
        Ok(())
    }

    fn stop(&self, reason: &str) {
        Links::stop(self, reason);
    }
}

/// One operation in progress.
struct Exchange<'a, L> {
    links: &'a L,
    values: &'a Tensor,
    operation: Operation,
    rank: usize,
    world_size: usize,
    count: usize,
}

impl<'a, L: Links> Exchange<'a, L> {
    fn new(links: &'a L, operation: Operation, values: &'a Tensor) -> candle_core::Result<Self> {
        let sum = matches!(
            operation,
            Operation::ReduceScatter | Operation::AllReduceSum
        );
        elements::check(values, sum)?;
        Ok(Self {
            links,
            values,
            operation,
            rank: links.rank(),
            world_size: links.world_size(),
            count: values.elem_count(),
        })
    }

    /// The chunks of each rank's part, in order.
    fn chunks_of_parts(&self) -> impl Iterator<Item = (usize, Range<usize>)> + use<'_, L> {
        (0..self.world_size).flat_map(|owner| {
            chunks(part(self.count, self.world_size, owner)).map(move |chunk| (owner, chunk))
        })
    }

    /// Sends this rank's elements to rank 0; there, the message of the sum over all ranks.
    fn summed_at_first(&self, chunk: Range<usize>) -> Result<Option<Vec<u8>>, CollectiveError> {
        let mut message = self.message(chunk)?;
        if self.rank != 0 {
            self.send(0, message)?;
            return Ok(None);
        }
        let mut sum = Sum::new(self.values.dtype(), &message[HEADER..]);
        for rank in 1..self.world_size {
            sum.add(&self.receive(rank)?[HEADER..]);
        }
        message.truncate(HEADER);
        sum.append_to(&mut message);
        Ok(Some(message))
    }

    fn header(&self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[0] = self.operation as u8;
        header[1] = code(self.values.dtype());
        header[2..].copy_from_slice(&(self.count as u64).to_le_bytes());
        header
    }

    fn message(&self, chunk: Range<usize>) -> candle_core::Result<Vec<u8>> {
        let size = chunk.len() * self.values.dtype().size_in_bytes();
        let mut message = Vec::with_capacity(HEADER + size);
        message.extend(self.header());
        elements::append(self.values, chunk, &mut message)?;
        Ok(message)
    }

    fn write(&self, chunk: &Range<usize>, message: &[u8]) -> candle_core::Result<()> {
        elements::write(self.values, chunk.start, &message[HEADER..])
    }

    fn send(&self, to: usize, message: Vec<u8>) -> Result<(), Gone> {
        self.links.send(to, message)
    }

    fn send_to_all_but(&self, owner: usize, message: &[u8]) -> Result<(), Gone> {
        for rank in (1..self.world_size).filter(|rank| *rank != owner) {
            self.send(rank, message.to_vec())?;
        }
        Ok(())
    }

    /// The next message of a rank, which must belong to this operation.
    fn receive(&self, from: usize) -> Result<Vec<u8>, CollectiveError> {
        let message = self.links.receive(from)?;
        let ours = self.header();
        if message.starts_with(&ours) {
            return Ok(message);
        }
        let error = CollectiveError::OutOfStep {
            rank: from,
            own: self.rank,
            theirs: said(&message),
            ours: said(&ours),
        };
        self.links.stop(&error.to_string());
        Err(error)
    }
}

fn chunks(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range
        .step_by(CHUNK)
        .map(move |start| start..(start + CHUNK).min(end))
}

/// The element types that are exchanged, as messages spell them.
const TYPES: [(DType, &str); 5] = [
    (DType::F32, "f32"),
    (DType::BF16, "bf16"),
    (DType::F64, "f64"),
    (DType::U8, "u8"),
    (DType::I16, "i16"),
];

fn code(dtype: DType) -> u8 {
    let known = TYPES.iter().position(|(known, _)| *known == dtype);
    known.expect("the type was checked") as u8
}

/// The header of a message in words.
fn said(message: &[u8]) -> String {
    let Some((header, _)) = message.split_first_chunk::<HEADER>() else {
        return "no operation that is known".to_owned();
    };
    let operation = match header[0] {
        1 => "a reduce-scatter",
        2 => "an all-gather",
        3 => "a sum",
        4 => "a broadcast",
        5 => "a copy to rank 0",
        _ => "an unknown operation",
    };
    let dtype = TYPES
        .get(usize::from(header[1]))
        .map_or("unknown", |(_, name)| *name);
    let count = u64::from_le_bytes(std::array::from_fn(|i| header[2 + i]));
    format!("{operation} of {count} {dtype} elements")
}
