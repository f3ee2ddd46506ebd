//! What a guest writes to its standard output and error: lines of its log, and its last words
//! when it breaks. Guests of other languages than Rust tell their errors so.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use pacos_plugin::Level;
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

use crate::plugin::{HostCalls, NoCalls};

/// The most bytes that are taken for one line.
const MOST_LINE: usize = 4096;
/// The most lines that are kept for the case that the guest breaks.
const MOST_KEPT: usize = 12;
/// How much a guest may write at a time.
const PERMIT: usize = 64 << 10;

/// One of a guest's two streams. Clones are the same stream.
#[derive(Clone)]
pub(super) struct Said(Arc<Mutex<Text>>);

struct Text {
    level: Level,
    calls: Arc<dyn HostCalls>,
    line: Vec<u8>,
    kept: VecDeque<String>,
}

impl Said {
    /// A stream whose lines are logged at `level`.
    pub(super) fn new(level: Level) -> Self {
        Said(Arc::new(Mutex::new(Text {
            level,
            calls: Arc::new(NoCalls),
            line: Vec::new(),
            kept: VecDeque::new(),
        })))
    }

    fn text(&self) -> MutexGuard<'_, Text> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call begins: what is said from now on is said to `calls`.
    pub(super) fn begin(&self, calls: Arc<dyn HostCalls>) {
        let mut text = self.text();
        text.end_line();
        text.kept.clear();
        text.calls = calls;
    }

    /// The last lines of the call under way.
    pub(super) fn last_lines(&self) -> Vec<String> {
        let mut text = self.text();
        text.end_line();
        text.kept.iter().cloned().collect()
    }
}

impl Text {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                byte if self.line.len() < MOST_LINE => self.line.push(byte),
                _ => {}
            }
        }
    }

    fn end_line(&mut self) {
        let bytes = mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        if line.is_empty() {
            return;
        }
        self.calls.log(self.level, &line);
        if self.kept.len() == MOST_KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(line);
    }
}

impl IsTerminal for Said {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Said {
    /// WASI 0.3 alone asks for this, which no component of the contract can import.
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Said {
    async fn ready(&mut self) {}
}

impl OutputStream for Said {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        self.text().write(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(PERMIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_and_bounded() {
        let said = Said::new(Level::Info);
        let mut stream = said.clone();
        stream.write("one\ntw".into()).unwrap();
        stream.write("o\r\n\n  three".into()).unwrap();
        assert_eq!(said.last_lines(), ["one", "two", "  three"]);
        for n in 0..100 {
            stream.write(format!("line {n}\n").into()).unwrap();
        }
        assert_eq!(said.last_lines().len(), MOST_KEPT);
        assert_eq!(said.last_lines().last().unwrap(), "line 99");
        stream.write(vec![b'x'; 1 << 20].into()).unwrap();
        assert_eq!(said.last_lines().last().unwrap().len(), MOST_LINE);
        said.begin(Arc::new(NoCalls));
        assert!(said.last_lines().is_empty());
    }
}
