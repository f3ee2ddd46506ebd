//! Files over HTTP: what models from a hub and plugins from anywhere have in common.

use std::{
    env,
    error::Error,
    fs::File,
    io::{self, Read, Write},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use reqwest::{Response, Url, redirect::Policy};
use sha2::{Digest, Sha256};

/// A connection that is not made in this time is not made.
const CONNECT: Duration = Duration::from_secs(20);

/// Longest silence in the middle of a file.
const SILENCE: Duration = Duration::from_secs(60);

/// Times that a file is asked for before the command gives up.
pub const TRIES: u32 = 5;

/// Doubled with every try.
const PAUSE: Duration = Duration::from_millis(200);

/// What fetching a file reports while it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// What is being done, for a person: "fetching …".
    pub task: String,
    /// Bytes done so far.
    pub done: u64,
    /// Bytes in all, where known.
    pub total: Option<u64>,
}

/// What [`is_forbidden`] can come from, for messages.
pub const FORBIDDEN_BY: &str = "`--offline` or PACOS_OFFLINE";

static FORBIDDEN: AtomicBool = AtomicBool::new(false);

/// From here on this process fetches no model and no plugin. Models behind a server are asked all
/// the same: they are not fetched.
pub fn forbid() {
    FORBIDDEN.store(true, Ordering::Relaxed);
}

/// Whether fetching is forbidden, by [`forbid`] or by the environment variable `PACOS_OFFLINE`.
#[must_use]
pub fn is_forbidden() -> bool {
    FORBIDDEN.load(Ordering::Relaxed) || is_on("PACOS_OFFLINE")
}

/// Whether an environment variable says yes.
pub fn is_on(variable: &str) -> bool {
    let set = env::var(variable).unwrap_or_default();
    matches!(
        set.to_ascii_uppercase().as_str(),
        "1" | "ON" | "YES" | "TRUE"
    )
}

/// Whether an address is on this machine.
pub fn is_loopback(url: &Url) -> bool {
    matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"))
}

/// A client for whatever is at `first`, and where that redirects to.
pub fn client(first: &Url, redirects: Policy) -> reqwest::Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("pacos/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        .redirect(redirects);
    if is_loopback(first) {
        // A proxy's own loopback is not this machine's.
        builder = builder.no_proxy();
    }
    builder.build()
}

/// How long to wait before a try, the first being 0.
pub fn pause(attempt: u32) -> Duration {
    match attempt {
        0 => Duration::ZERO,
        later => PAUSE * 2_u32.saturating_pow(later - 1),
    }
}

/// Why a body did not come.
#[derive(Debug)]
pub enum Interrupted {
    /// The connection.
    Cut(reqwest::Error),
    /// There was more of it than allowed.
    TooLarge,
    /// Where it was to go.
    Disk(io::Error),
}

/// Writes what comes of an answer's body, told in `have`, to `out`.
pub async fn receive(
    answer: &mut Response,
    out: &mut impl Write,
    have: &mut u64,
    limit: u64,
    tell: &mut dyn FnMut(u64),
) -> Result<(), Interrupted> {
    let mut told = Instant::now();
    tell(*have);
    while let Some(bytes) = answer.chunk().await.map_err(Interrupted::Cut)? {
        *have += bytes.len() as u64;
        if *have > limit {
            return Err(Interrupted::TooLarge);
        }
        out.write_all(&bytes).map_err(Interrupted::Disk)?;
        if told.elapsed() > Duration::from_millis(100) {
            told = Instant::now();
            tell(*have);
        }
    }
    tell(*have);
    Ok(())
}

/// Of a file, in lower-case hexadecimal.
pub fn sha256_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(crate::digest::hex(&hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// The innermost reason: the outer ones say only that a request failed.
pub fn reason(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        words = error.to_string();
        next = error.source();
    }
    words
}
