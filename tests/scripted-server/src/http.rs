//! As much of HTTP/1.1 as a test needs, on a bare socket, so that replies can be broken anywhere.

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Longest head and body that are read; a test that sends more has lost its way.
const MOST_HEAD: usize = 64 << 10;
const MOST_BODY: usize = 256 << 20;

/// One request as it came.
pub struct Incoming {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// Reads the next request of a connection; `None` where the client closed it between requests.
/// `pending` holds what was read beyond the last request.
pub async fn read(stream: &mut TcpStream, pending: &mut Vec<u8>) -> io::Result<Option<Incoming>> {
    let (mut incoming, head) = loop {
        if let Some(parsed) = parse_head(pending)? {
            break parsed;
        }
        if pending.len() > MOST_HEAD {
            return Err(io::Error::other("the head of the request does not end"));
        }
        if stream.read_buf(pending).await? == 0 {
            if pending.is_empty() {
                return Ok(None);
            }
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let header = |name: &str| {
        let found = incoming.headers.iter();
        found
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .next_back()
    };
    let length: usize = match header("content-length") {
        Some(length) => length.trim().parse().map_err(io::Error::other)?,
        None if header("transfer-encoding").is_some() => {
            return Err(io::Error::other("chunked requests are not read here"));
        }
        None => 0,
    };
    if length > MOST_BODY {
        return Err(io::Error::other("the body of the request is too large"));
    }
    if header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    while pending.len() < head + length {
        if stream.read_buf(pending).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    incoming.body = pending[head..head + length].to_vec();
    pending.drain(..head + length);
    Ok(Some(incoming))
}

fn parse_head(bytes: &[u8]) -> io::Result<Option<(Incoming, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = request.parse(bytes).map_err(io::Error::other)? else {
        return Ok(None);
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let incoming = Incoming {
        method: request.method.unwrap_or_default().into(),
        path: request.path.unwrap_or_default().into(),
        headers: (request.headers.iter())
            .map(|header| (header.name.to_owned(), text(header.value)))
            .collect(),
        body: Vec::new(),
    };
    Ok(Some((incoming, head)))
}

/// The head of a response with a body of `length` bytes.
pub fn head(code: u16, content_type: &str, headers: &[(String, String)], length: usize) -> Vec<u8> {
    let mut head = format!(
        "HTTP/1.1 {code} {}\r\ncontent-length: {length}\r\n",
        reason(code)
    );
    let named = |name: &str| {
        headers
            .iter()
            .any(|(key, _)| key.eq_ignore_ascii_case(name))
    };
    if !named("content-type") {
        head += &format!("content-type: {content_type}\r\n");
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    head.into_bytes()
}

fn reason(code: u16) -> &'static str {
    match code {
        200 => "OK",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Scripted",
    }
}
