//! One exchange over HTTP: what came back, as it came, and how it ended.

use std::{
    error::Error,
    io,
    time::{Duration, Instant, SystemTime},
};

use reqwest::header::{DATE, HeaderMap, LOCATION, RETRY_AFTER};

use super::address::PrivateAddress;

/// What one request brought.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// Status, where a head came.
    pub status: Option<u16>,
    /// When the server wants the next attempt.
    pub retry_after: Option<Duration>,
    /// Where it sends the client instead.
    pub location: Option<String>,
    /// The head's lines.
    pub headers: HeaderMap,
    /// Every byte of the body that came, up to one more than is read.
    pub body: Vec<u8>,
    /// How it ended.
    pub end: End,
}

/// How an exchange ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The body is whole.
    Whole,
    /// The name leads to an address that may not be reached through it; nothing was sent.
    Private(PrivateAddress),
    /// Nobody answered at the address; nothing was sent.
    Unreachable(String),
    /// The two sides agree on no encryption; nothing was sent.
    Tls(String),
    /// The connection broke before the head of a response.
    NoAnswer(String),
    /// The connection broke inside the body.
    Cut(String),
    /// Time ran out.
    TimedOut,
    /// The body is longer than is read.
    TooLarge,
}

/// Sends `request` and reads the answer until it ends, breaks, grows past `most_body` bytes or
/// meets the deadline.
pub(crate) async fn exchange(
    http: &reqwest::Client,
    request: reqwest::Result<reqwest::Request>,
    deadline: Instant,
    most_body: usize,
) -> Exchange {
    let mut exchange = Exchange {
        status: None,
        retry_after: None,
        location: None,
        headers: HeaderMap::new(),
        body: Vec::new(),
        end: End::Whole,
    };
    let deadline = tokio::time::Instant::from_std(deadline);
    let sending = async { http.execute(request?).await };
    let mut response = match tokio::time::timeout_at(deadline, sending).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            exchange.end = broken(&error);
            return exchange;
        }
        Err(_) => {
            exchange.end = End::TimedOut;
            return exchange;
        }
    };
    exchange.status = Some(response.status().as_u16());
    exchange.retry_after = retry_after(response.headers(), SystemTime::now());
    let location = response.headers().get(LOCATION);
    exchange.location = location.map(|value| String::from_utf8_lossy(value.as_bytes()).into());
    exchange.headers = response.headers().clone();
    loop {
        match tokio::time::timeout_at(deadline, response.chunk()).await {
            Ok(Ok(Some(chunk))) => {
                // One byte too many is kept, so that the body is known as too large when it is
                // read again.
                let room = (most_body + 1).saturating_sub(exchange.body.len());
                exchange
                    .body
                    .extend_from_slice(&chunk[..chunk.len().min(room)]);
                if exchange.body.len() > most_body {
                    exchange.end = End::TooLarge;
                    return exchange;
                }
            }
            Ok(Ok(None)) => return exchange,
            Ok(Err(error)) => {
                exchange.end = End::Cut(chain(&error));
                return exchange;
            }
            Err(_) => {
                exchange.end = End::TimedOut;
                return exchange;
            }
        }
    }
}

fn broken(error: &reqwest::Error) -> End {
    if let Some(private) = PrivateAddress::behind(error) {
        return End::Private(private);
    }
    let message = chain(error);
    if !error.is_connect() {
        return End::NoAnswer(message);
    }
    if is_tls(error) {
        return End::Tls(message);
    }
    End::Unreachable(message)
}

/// Whether the handshake failed for a reason that stays: rustls reports those as invalid data.
fn is_tls(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        next = error.source();
        if let Some(io) = error.downcast_ref::<io::Error>() {
            if io.kind() == io::ErrorKind::InvalidData {
                return true;
            }
            // An `io::Error` hides the error inside it from `source`.
            if let Some(inner) = io.get_ref() {
                next = Some(inner);
            }
        }
    }
    false
}

/// An error with its causes, without the address, which the message around it names.
pub(crate) fn chain(error: &reqwest::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = error.source();
    while let Some(error) = next {
        let part = error.to_string();
        // hyper's own layers say where it happened, the errors beneath them what.
        let layer = part.starts_with("client error (") && error.source().is_some();
        if !layer && !parts.last().is_some_and(|last| last.contains(&part)) {
            parts.push(part);
        }
        next = error.source();
    }
    if parts.is_empty() {
        parts.push(error.to_string());
    }
    parts.join(": ")
}

/// `retry-after-ms`, or `Retry-After` in seconds or as a date (RFC 9110, 10.2.3); a date is read
/// against the server's own clock where it shows one.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let seconds = |text: &str, unit: f64| {
        let number: f64 = text.parse().ok()?;
        Duration::try_from_secs_f64((number * unit).max(0.0)).ok()
    };
    if let Some(wait) = text("retry-after-ms").and_then(|text| seconds(text, 1e-3)) {
        return Some(wait);
    }
    let wanted = text(RETRY_AFTER.as_str())?;
    if let Some(wait) = seconds(wanted, 1.0) {
        return Some(wait);
    }
    let until = httpdate::parse_http_date(wanted).ok()?;
    let date = text(DATE.as_str()).and_then(|date| httpdate::parse_http_date(date).ok());
    Some(
        until
            .duration_since(date.unwrap_or(now))
            .unwrap_or_default(),
    )
}
