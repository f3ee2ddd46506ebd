//! One file from a server into the store: tried again where that can help, never larger than
//! allowed, and by no redirect that a stranger could change.

use std::{
    io::{self, Write},
    time::Duration,
};

use pacos_engine::digest::hex;
use reqwest::{
    Client, RequestBuilder, Response, StatusCode, Url, header::ACCEPT_ENCODING, redirect::Policy,
};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::{SourceError, store, store::Store};
use crate::download::{self, Interrupted, Progress, TRIES, is_loopback, reason};

/// Largest component that is fetched: Python's, the largest that are made, have 18 MB.
pub(super) const LARGEST: u64 = 64 << 20;

/// Longest time for one attempt, however steadily its bytes trickle.
const PATIENCE: Duration = Duration::from_secs(600);

/// Redirects in a row.
const REDIRECTS: usize = 10;

/// Why an attempt failed.
pub(super) enum Failed {
    /// Another may not.
    Again(String),
    /// All will.
    Final(SourceError),
}

impl From<SourceError> for Failed {
    fn from(error: SourceError) -> Self {
        Failed::Final(error)
    }
}

/// A redirect that leads off the safe path.
#[derive(Debug, thiserror::Error)]
#[error("it redirects to {0}, expected an address that begins with https://")]
struct Unsafe(Url);

/// A connection to one server, for one plugin.
pub(super) struct Transfer<'a> {
    /// The source, for messages.
    pub(super) from: String,
    client: Client,
    progress: &'a mut (dyn FnMut(Progress) + Send),
}

impl<'a> Transfer<'a> {
    pub(super) fn new(
        from: String,
        server: &Url,
        progress: &'a mut (dyn FnMut(Progress) + Send),
    ) -> Result<Self, SourceError> {
        let policy = Policy::custom(|attempt| {
            // From this machine to this machine nobody listens in.
            let local = |url: &Url| is_loopback(url) && url.scheme() == "http";
            let inside = local(attempt.url()) && attempt.previous().iter().all(local);
            let next = attempt.url().clone();
            if attempt.previous().len() > REDIRECTS {
                attempt.error("it redirects without end")
            } else if next.scheme() == "https" || inside {
                attempt.follow()
            } else {
                attempt.error(Unsafe(next))
            }
        });
        let client = download::client(server, policy).map_err(|error| SourceError::Refused {
            reason: format!("the HTTP client does not start: {}", reason(&error)),
            from: from.clone(),
        })?;
        Ok(Transfer {
            from,
            client,
            progress,
        })
    }

    pub(super) fn get(&self, url: &Url) -> RequestBuilder {
        self.client
            .get(url.clone())
            .header(ACCEPT_ENCODING, "identity")
            .timeout(PATIENCE)
    }

    /// Sends a request until an answer comes that is worth reading, whatever its status.
    pub(super) async fn ask(
        &self,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Response, SourceError> {
        let mut last = String::new();
        for attempt in 0..TRIES {
            tokio::time::sleep(download::pause(attempt)).await;
            match self.once(request()).await {
                Ok(answer) => return Ok(answer),
                Err(Failed::Again(reason)) => last = reason,
                Err(Failed::Final(error)) => return Err(error),
            }
        }
        Err(self.silent(last))
    }

    async fn once(&self, request: RequestBuilder) -> Result<Response, Failed> {
        let answer = request.send().await.map_err(|error| {
            match error.is_redirect() || error.is_builder() {
                true => Failed::Final(self.refused(reason(&error))),
                false => Failed::Again(reason(&error)),
            }
        })?;
        match answer.status() {
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {}
            status if status.is_server_error() => {}
            _ => return Ok(answer),
        }
        Err(Failed::Again(format!("the answer is {}", answer.status())))
    }

    /// A short answer, whole.
    pub(super) async fn short(&self, mut answer: Response, limit: u64) -> Result<Vec<u8>, Failed> {
        let mut body = Vec::new();
        download::receive(&mut answer, &mut body, &mut 0, limit, &mut |_| {})
            .await
            .map_err(|interrupted| match interrupted {
                Interrupted::Cut(error) => Failed::Again(reason(&error)),
                Interrupted::TooLarge => Failed::Final(self.refused(format!(
                    "the answer is longer than {limit} bytes; is it the address of a registry?"
                ))),
                Interrupted::Disk(_) => unreachable!("memory is no disk"),
            })?;
        Ok(body)
    }

    /// Brings a component into a file of the store, and says what it is. `refusal` puts an error
    /// status into words.
    pub(super) async fn component(
        &mut self,
        store: &Store,
        request: impl Fn(&Self) -> RequestBuilder,
        refusal: impl Fn(&Self, StatusCode) -> SourceError,
    ) -> Result<(NamedTempFile, String, u64), SourceError> {
        let mut last = String::new();
        for attempt in 0..TRIES {
            tokio::time::sleep(download::pause(attempt)).await;
            let tried = async {
                let answer = self.once(request(self)).await?;
                if !answer.status().is_success() {
                    return Err(refusal(self, answer.status()).into());
                }
                self.body(store, answer).await
            };
            match tried.await {
                Ok(came) => return Ok(came),
                Err(Failed::Again(reason)) => last = reason,
                Err(Failed::Final(error)) => return Err(error),
            }
        }
        Err(self.silent(last))
    }

    async fn body(
        &mut self,
        store: &Store,
        mut answer: Response,
    ) -> Result<(NamedTempFile, String, u64), Failed> {
        let too_large = || SourceError::TooLarge {
            from: self.from.clone(),
            limit: LARGEST >> 20,
        };
        let total = answer.content_length();
        if total.is_some_and(|total| total > LARGEST) {
            return Err(too_large().into());
        }
        let mut file = store.begin()?;
        let mut out = Hashed {
            file: &mut file,
            hash: Sha256::new(),
            begins: Vec::new(),
        };
        let task = format!("fetching {}", self.from);
        let mut size = 0;
        let received = download::receive(&mut answer, &mut out, &mut size, LARGEST, &mut |done| {
            (self.progress)(Progress {
                task: task.clone(),
                done,
                total,
            });
        })
        .await;
        let (sha256, begins) = (hex(&out.hash.finalize()), out.begins);
        match received {
            Ok(()) => {}
            Err(Interrupted::Cut(error)) => return Err(Failed::Again(reason(&error))),
            Err(Interrupted::TooLarge) => return Err(too_large().into()),
            Err(Interrupted::Disk(source)) => {
                return Err(store::disk("write", file.path(), source).into());
            }
        }
        if !begins.starts_with(b"\0asm") {
            let begins = String::from_utf8_lossy(&begins).into_owned();
            let from = self.from.clone();
            return Err(SourceError::NotWasm { from, begins }.into());
        }
        Ok((file, sha256, size))
    }

    pub(super) fn refused(&self, reason: String) -> SourceError {
        SourceError::Refused {
            from: self.from.clone(),
            reason,
        }
    }

    pub(super) fn silent(&self, reason: String) -> SourceError {
        SourceError::Silent {
            from: self.from.clone(),
            tries: TRIES,
            reason,
        }
    }
}

/// Hashes what it writes, and remembers how it begins.
struct Hashed<'a> {
    file: &'a mut NamedTempFile,
    hash: Sha256,
    begins: Vec<u8>,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        let room = 16_usize.saturating_sub(self.begins.len());
        self.begins.extend(bytes[..written].iter().take(room));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
