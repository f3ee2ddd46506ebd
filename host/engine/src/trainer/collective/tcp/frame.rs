//! What goes over a connection: frames of a kind, a length and so many bytes.

use std::io::{self, Read, Write};

use super::super::Departure;

/// More than any message of the collective; what claims to be longer is no frame.
const LONGEST: usize = 1 << 26;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A message of the collective.
    Message(Vec<u8>),
    /// A sign of life.
    Beat,
    /// A rank is gone.
    Departed(Departure),
    /// The sender has no more to say, and is done.
    Done,
}

const MESSAGE: u8 = 1;
const BEAT: u8 = 2;
const LOST: u8 = 3;
const STOPPED: u8 = 4;
const DONE: u8 = 5;

impl Frame {
    pub(super) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Message(bytes) => write_message(bytes, to),
            Self::Beat => write(BEAT, &[], to),
            Self::Done => write(DONE, &[], to),
            Self::Departed(departure) => {
                let kind = if departure.announced { STOPPED } else { LOST };
                let mut bytes = (departure.rank as u32).to_le_bytes().to_vec();
                bytes.extend(departure.reason.bytes().take(LONGEST / 2));
                write(kind, &bytes, to)
            }
        }
    }

    pub(super) fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut head = [0; 5];
        from.read_exact(&mut head)?;
        let [kind, length @ ..] = head;
        let length = u32::from_le_bytes(length) as usize;
        if length > LONGEST {
            return Err(io::Error::other("it sent what no rank sends"));
        }
        let mut bytes = vec![0; length];
        from.read_exact(&mut bytes)?;
        match kind {
            MESSAGE => Ok(Self::Message(bytes)),
            BEAT => Ok(Self::Beat),
            DONE => Ok(Self::Done),
            LOST | STOPPED => match bytes.split_first_chunk::<4>() {
                Some((rank, reason)) => Ok(Self::Departed(Departure {
                    rank: u32::from_le_bytes(*rank) as usize,
                    announced: kind == STOPPED,
                    reason: String::from_utf8_lossy(reason).into_owned(),
                })),
                None => Err(io::Error::other("it sent what no rank sends")),
            },
            _ => Err(io::Error::other("it sent what no rank sends")),
        }
    }
}

/// Writes [`Frame::Message`] without owning it.
pub(super) fn write_message(bytes: &[u8], to: &mut impl Write) -> io::Result<()> {
    write(MESSAGE, bytes, to)
}

fn write(kind: u8, bytes: &[u8], to: &mut impl Write) -> io::Result<()> {
    let [a, b, c, d] = (bytes.len() as u32).to_le_bytes();
    to.write_all(&[kind, a, b, c, d])?;
    to.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_were_written() {
        let frames = [
            Frame::Message(vec![1, 2, 3]),
            Frame::Beat,
            Frame::Departed(Departure::lost(3, "its connection ended")),
            Frame::Departed(Departure::stopped(2, "the loss is NaN")),
            Frame::Message(Vec::new()),
            Frame::Done,
        ];
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.write(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        for frame in &frames {
            assert_eq!(Frame::read(&mut rest).unwrap(), *frame);
        }
        assert!(rest.is_empty());
        let noise = b"GET / HTTP/1.1\r\n\r\n";
        assert!(Frame::read(&mut noise.as_slice()).is_err());
        assert!(Frame::read(&mut [BEAT, 0, 0].as_slice()).is_err());
    }
}
