//! HTTP servers that plugins may ask: what a request may be, where it may lead, what comes back.
//!
//! One attempt is made here; who may ask, how often, and what is recorded is decided above.

mod address;
mod exchange;
mod record;
mod request;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use pacos_plugin::{Error, HttpHeader, HttpResponse};
use reqwest::header::{HeaderMap, HeaderValue, SET_COOKIE};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub(crate) use self::{
    exchange::{End, Exchange, chain, exchange},
    record::RecordedResponse,
    request::SoundRequest,
};
use crate::manifest::ServerName;

/// Longest body, of a request and of a response, in bytes.
pub(crate) const MOST_BODY: usize = 16 << 20;

/// Most requests under way to one server.
const MOST_AT_ONCE: usize = 8;

/// From connecting to the last byte.
const TIMEOUT: Duration = Duration::from_secs(120);

const CONNECT: Duration = Duration::from_secs(20);

/// What a recipe says of a server beyond its name.
#[derive(Debug, Clone, Default)]
pub struct Server {
    /// Whether its name may lead into the user's own network, and plain HTTP will do.
    pub private: bool,
    /// Sent as `Authorization: Bearer`; no plugin sees it.
    pub key: Option<HeaderValue>,
}

impl Server {
    /// Gives the server a key.
    ///
    /// # Errors
    /// Where the key holds what cannot stand in a header.
    pub fn with_key(mut self, key: &str) -> Result<Self, reqwest::header::InvalidHeaderValue> {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", key.trim()))?;
        value.set_sensitive(true);
        self.key = Some(value);
        Ok(self)
    }
}

/// All servers there are; which of them a plugin may ask is decided above.
pub struct Servers {
    public: reqwest::Client,
    private: reqwest::Client,
    known: BTreeMap<ServerName, Server>,
    places: Mutex<BTreeMap<ServerName, Arc<Semaphore>>>,
}

/// What one attempt brought.
pub(crate) enum Answer {
    /// None: nobody is there. Another attempt may find somebody.
    Unreachable(Error),
    /// A response, and when another attempt would bring a better one.
    Response(HttpResponse, Option<Again>),
    /// None, and another attempt may bring one.
    Passing(Error),
    /// None, and there will be none.
    Failed(Error),
    /// It was not sent, for a reason that is the recipe's.
    NotSent(Error),
}

/// That the server asks for another attempt.
pub(crate) struct Again {
    /// `Retry-After`.
    pub after: Option<Duration>,
}

impl Servers {
    /// `known` are those of which the recipe says more than the name.
    ///
    /// # Errors
    /// Where the HTTP client does not start.
    pub fn new(known: BTreeMap<ServerName, Server>) -> reqwest::Result<Self> {
        let client = || {
            reqwest::Client::builder()
                .user_agent(concat!("pacos/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT)
                .retry(reqwest::retry::never())
                .redirect(reqwest::redirect::Policy::none())
        };
        Ok(Servers {
            public: client()
                .dns_resolver(Arc::new(address::PublicOnly::new()))
                .build()?,
            // A proxy's own network is not the user's.
            private: client().no_proxy().build()?,
            known,
            places: Mutex::default(),
        })
    }

    fn is_private(&self, name: &ServerName) -> bool {
        name.says_where() || self.known.get(name).is_some_and(|server| server.private)
    }

    /// Waits until the server has room for another request.
    pub(crate) async fn place(&self, name: &ServerName) -> OwnedSemaphorePermit {
        let places = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            let place = places.entry(name.clone());
            place
                .or_insert_with(|| Arc::new(Semaphore::new(MOST_AT_ONCE)))
                .clone()
        };
        let place = places.acquire_owned().await;
        place.expect("the semaphore is never closed")
    }

    /// Sends a request once. The second value is the body as it came, for the record.
    pub(crate) async fn attempt(&self, request: &SoundRequest) -> (Answer, Option<u16>, Vec<u8>) {
        let name = &request.server;
        let private = self.is_private(name);
        if request.url.scheme() != "https" && !private {
            let message = format!(
                "{} is not encrypted: write https://, or have the recipe say that {name} is \
                 private ([[servers]] name = \"{name}\", private = true)",
                request.url
            );
            return (
                Answer::NotSent(Error::new("bad-request", message)),
                None,
                Vec::new(),
            );
        }
        let client = if private { &self.private } else { &self.public };
        let key = self.known.get(name).and_then(|server| server.key.clone());
        let built = request.build(client, key.clone());
        let mut exchange = exchange(client, built, Instant::now() + TIMEOUT, MOST_BODY).await;
        if let Some(key) = &key {
            conceal(&mut exchange, key);
        }
        let answer = answer(request, &exchange);
        if matches!(exchange.end, End::TooLarge) {
            // Nobody will read the beginning of it, and the record would grow by it every time.
            exchange.body = Vec::new();
        }
        (answer, exchange.status, exchange.body)
    }
}

fn answer(request: &SoundRequest, exchange: &Exchange) -> Answer {
    let name = &request.server;
    let no_answer = |reason: &str| {
        let message = format!("{name} did not answer: {reason}");
        Error::new("no-answer", message).retryable()
    };
    let passing = |reason: String| Answer::Passing(no_answer(&reason));
    match (&exchange.end, exchange.status) {
        (End::Whole, Some(status)) => {
            // RFC 9110, 15.5.9 and 15.6; RFC 6585, 4: not now, but perhaps later.
            let again = matches!(status, 408 | 429 | 502..=504).then_some(Again {
                after: exchange.retry_after,
            });
            let response = HttpResponse {
                status,
                headers: headers(&exchange.headers),
                body: exchange.body.clone(),
            };
            Answer::Response(response, again)
        }
        (End::Whole, None) => passing("no status came".into()),
        (End::TooLarge, _) => Answer::Failed(Error::new(
            "response-too-large",
            format!(
                "{name} answered with more than {} MiB: ask for a part of it",
                MOST_BODY >> 20
            ),
        )),
        (End::Private(private), _) => Answer::NotSent(Error::new(
            "private-address",
            format!(
                "{private}; if that is meant, write [[servers]] name = \"{name}\", private = true"
            ),
        )),
        (End::Tls(reason), _) => Answer::Failed(Error::new(
            "tls",
            format!("no encrypted connection to {name}: {reason}"),
        )),
        (End::Unreachable(reason), _) => Answer::Unreachable(no_answer(reason)),
        (End::NoAnswer(reason) | End::Cut(reason), _) => passing(reason.clone()),
        (End::TimedOut, _) => passing(format!("not whole after {} s", TIMEOUT.as_secs())),
    }
}

fn headers(headers: &HeaderMap) -> Vec<HttpHeader> {
    let lines = headers.iter().filter(|(name, _)| **name != SET_COOKIE);
    lines
        .map(|(name, value)| HttpHeader {
            name: name.as_str().to_owned(),
            value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
        })
        .collect()
}

/// Some servers repeat what they were sent. A key reaches neither plugin nor ledger.
fn conceal(exchange: &mut Exchange, key: &HeaderValue) {
    let key = key.as_bytes().strip_prefix(b"Bearer ").unwrap_or_default();
    if key.is_empty() {
        return;
    }
    hide(&mut exchange.body, key);
    for value in exchange.headers.values_mut() {
        let mut bytes = value.as_bytes().to_vec();
        if hide(&mut bytes, key) {
            *value = HeaderValue::from_bytes(&bytes).unwrap_or(HeaderValue::from_static("***"));
        }
    }
}

fn hide(text: &mut [u8], key: &[u8]) -> bool {
    let mut from = 0;
    let next = |text: &[u8], from: usize| {
        let found = text[from..].windows(key.len()).position(|part| part == key);
        found.map(|at| from + at)
    };
    let mut found = false;
    while let Some(at) = next(text, from) {
        text[at..at + key.len()].fill(b'*');
        from = at + key.len();
        found = true;
    }
    found
}
