//! One connection between two ranks: messages, signs of life, and the news that a rank is gone.
//!
//! A thread reads frames as they come, so that silence is noticed whatever the rank itself is doing;
//! another gives signs of life, and passes on at once that a rank is gone. Few messages are read ahead: a
//! rank that is behind keeps the sender waiting, and is not flooded.

use std::io::{self, ErrorKind};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::super::Departure;
use super::frame::{Frame, write_message};

/// Messages that are read before they are asked for.
const AHEAD: usize = 2;

/// How often one who waits for a message looks whether a rank is gone.
const LOOK: Duration = Duration::from_millis(50);

/// How long one who is done waits for the other to be so.
const PARTING: Duration = Duration::from_secs(2);

/// That a rank is gone: the first of which this one hears.
#[derive(Debug, Default)]
pub(super) struct News {
    departure: Mutex<Option<Departure>>,
    changed: Condvar,
}

impl News {
    pub(super) fn departure(&self) -> Option<Departure> {
        self.lock().clone()
    }

    /// Makes it known, unless another was gone before; gives the first.
    pub(super) fn set(&self, departure: Departure) -> Departure {
        let first = self.lock().get_or_insert(departure).clone();
        self.changed.notify_all();
        first
    }

    fn lock(&self) -> MutexGuard<'_, Option<Departure>> {
        self.departure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(super) struct Connection {
    line: Arc<Line>,
    inbox: Mutex<Receiver<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
    beater: Option<JoinHandle<()>>,
}

/// What the threads of a connection share.
#[derive(Debug)]
struct Line {
    peer: usize,
    silence: Duration,
    stream: TcpStream,
    /// Held while a frame is written.
    writing: Mutex<()>,
    /// The peer is done, or this side closes: the connection's end is no loss.
    done: AtomicBool,
    /// This side is closing.
    closing: AtomicBool,
    news: Arc<News>,
}

impl Connection {
    pub(super) fn new(
        peer: usize,
        stream: TcpStream,
        silence: Duration,
        news: &Arc<News>,
    ) -> io::Result<Self> {
        stream.set_read_timeout(Some(silence))?;
        stream.set_write_timeout(None)?;
        let line = Arc::new(Line {
            peer,
            silence,
            stream,
            writing: Mutex::new(()),
            done: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            news: Arc::clone(news),
        });
        let (outlet, inbox) = sync_channel(AHEAD);
        let reads = Arc::clone(&line);
        let beats = Arc::clone(&line);
        let named = |what: &str| thread::Builder::new().name(format!("rank {peer} {what}"));
        Ok(Self {
            reader: Some(named("in").spawn(move || reads.read(&outlet))?),
            beater: Some(named("out").spawn(move || beats.beat())?),
            line,
            inbox: Mutex::new(inbox),
        })
    }

    pub(super) fn send(&self, message: &[u8]) -> Result<(), Departure> {
        let _writing = self.line.writing();
        write_message(message, &mut &self.line.stream).map_err(|error| self.line.lost(&error))
    }

    pub(super) fn receive(&self) -> Result<Vec<u8>, Departure> {
        let inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match inbox.recv_timeout(LOOK) {
                Ok(message) => return Ok(message),
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(departure) = self.line.news.departure() {
                        return Err(departure);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let early = Departure::lost(self.line.peer, "it ended before the others");
                    return Err(self.line.news.set(early));
                }
            }
        }
    }
}

impl Line {
    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands messages on until the connection ends.
    fn read(&self, outlet: &SyncSender<Vec<u8>>) {
        loop {
            match Frame::read(&mut &self.stream) {
                Ok(Frame::Message(message)) => {
                    if outlet.send(message).is_err() {
                        return;
                    }
                }
                Ok(Frame::Beat) => {}
                Ok(Frame::Departed(departure)) => {
                    self.news.set(departure);
                }
                Ok(Frame::Done) => self.done.store(true, Ordering::Release),
                Err(_) if self.done.load(Ordering::Acquire) => return,
                Err(error) => {
                    self.lost(&error);
                    return;
                }
            }
        }
    }

    /// Gives signs of life until this side closes; passes on that a rank is gone.
    fn beat(&self) {
        let mut told = false;
        let mut departure = self.news.lock();
        while !self.closing.load(Ordering::Acquire) {
            let frame = match &*departure {
                Some(departure) if !told => Frame::Departed(departure.clone()),
                _ => Frame::Beat,
            };
            told |= frame != Frame::Beat;
            drop(departure);
            let written = {
                let _writing = self.writing();
                frame.write(&mut &self.stream)
            };
            if let Err(error) = written {
                if !self.done.load(Ordering::Acquire) {
                    self.lost(&error);
                }
                return;
            }
            departure = self.news.lock();
            if self.closing.load(Ordering::Acquire) || (departure.is_some() && !told) {
                continue;
            }
            departure = self
                .news
                .changed
                .wait_timeout(departure, self.silence / 10)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Makes it known that the peer is gone, unless a rank was before it, and gives the first that was.
    fn lost(&self, error: &io::Error) -> Departure {
        let reason = match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => format!(
                "nothing was heard of it for {} s",
                self.silence.as_secs_f64()
            ),
            ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe => "its process ended, or its connection".to_owned(),
            _ => error.to_string(),
        };
        let first = self.news.set(Departure::lost(self.peer, reason));
        // Whoever writes to it waits no longer.
        let _ = self.stream.shutdown(Shutdown::Both);
        first
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        {
            // Under the lock, so that the thread does not miss it.
            let _departure = self.line.news.lock();
            self.line.closing.store(true, Ordering::Release);
        }
        self.line.news.changed.notify_all();
        // One who reads nothing keeps nobody here.
        let until = Instant::now() + PARTING;
        let _ = self.line.stream.set_write_timeout(Some(PARTING));
        if let Some(beater) = self.beater.take() {
            while !beater.is_finished() && Instant::now() < until {
                thread::sleep(Duration::from_millis(1));
            }
            if !beater.is_finished() {
                let _ = self.line.stream.shutdown(Shutdown::Both);
            }
            let _ = beater.join();
        }
        // A thread that panics takes its process with it, or leaves the others waiting: they must not
        // believe that it is done.
        if !thread::panicking() {
            let _writing = self.line.writing();
            let frame = match self.line.news.departure() {
                Some(departure) => Frame::Departed(departure),
                None => Frame::Done,
            };
            let _ = frame.write(&mut &self.line.stream);
        }
        let _ = self.line.stream.shutdown(Shutdown::Write);
        // A connection that is closed before the other has read what it was sent takes that with it.
        let until = Instant::now() + PARTING;
        let inbox = self.inbox.get_mut().unwrap_or_else(PoisonError::into_inner);
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            match inbox.recv_timeout(left) {
                Ok(_) => {}
                Err(_) => break,
            }
        }
        self.line.done.store(true, Ordering::Release);
        let _ = self.line.stream.shutdown(Shutdown::Both);
        drop(std::mem::replace(inbox, sync_channel(0).1));
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
