//! What a plugin may send, and its identity.

use pacos_plugin::{Error, HttpMethod, HttpRequest};
use reqwest::{
    Method, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue},
};
use sha2::{Digest, Sha256};

use super::MOST_BODY;
use crate::{ledger::RequestKey, manifest::ServerName};

/// Grows when the canonical form changes, so that old ledgers are not misread.
const KEY_VERSION: u32 = 1;

/// Longest address, in bytes.
const MOST_URL: usize = 8192;

/// Headers that are not a plugin's: those that say who asks, and those of the connection itself
/// (RFC 9110, 7.6.1).
const NOT_A_PLUGINS: [&str; 15] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// A request that can be sent.
pub(crate) struct SoundRequest {
    /// Whom it asks.
    pub server: ServerName,
    /// Where it leads.
    pub url: Url,
    method: Method,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl SoundRequest {
    /// Reads a plugin's request.
    ///
    /// # Errors
    /// `bad-request`, where it cannot be sent.
    pub fn read(request: &HttpRequest) -> Result<Self, Error> {
        let bad = |message: String| Error::new("bad-request", message);
        let written = &request.url;
        if written.len() > MOST_URL {
            let found = written.len();
            return Err(bad(format!(
                "the address has {found} bytes; at most {MOST_URL} are sent"
            )));
        }
        let url = Url::parse(written)
            .map_err(|error| bad(format!("{written:?} is no address: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad(format!(
                "{written} begins with {}:, not with https:",
                url.scheme()
            )));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad(
                "the address holds a user name or a password: a recipe gives a server its key, \
                 by `api_key_env` in [[servers]]"
                    .into(),
            ));
        }
        if url.fragment().is_some() {
            return Err(bad(format!(
                "{written} has a part after #, which is never sent"
            )));
        }
        let server = ServerName::of(&url).ok_or_else(|| bad(format!("{written} names no host")))?;
        let mut headers = HeaderMap::new();
        for header in &request.headers {
            let name = HeaderName::from_bytes(header.name.as_bytes())
                .map_err(|_| bad(format!("{:?} is no name of a header", header.name)))?;
            if NOT_A_PLUGINS.contains(&name.as_str()) {
                return Err(bad(format!(
                    "the header `{name}` is the host's: keys come from the recipe, by \
                     `api_key_env` in [[servers]], and the rest from the connection"
                )));
            }
            let visible = header
                .value
                .bytes()
                .all(|b| matches!(b, b' '..=b'~' | b'\t'));
            let value = HeaderValue::from_str(&header.value)
                .ok()
                .filter(|_| visible);
            let value = value.ok_or_else(|| {
                bad(format!(
                    "the header `{name}` holds what is no visible ASCII: {:?}",
                    header.value
                ))
            })?;
            headers.append(name, value);
        }
        let bodiless = matches!(request.method, HttpMethod::Get | HttpMethod::Head);
        if bodiless && !request.body.is_empty() {
            return Err(bad(format!(
                "a {} request has a body of {} bytes: put what it asks into the address",
                method(request.method),
                request.body.len()
            )));
        }
        if request.body.len() > MOST_BODY {
            return Err(bad(format!(
                "the body has {} bytes; at most {MOST_BODY} are sent",
                request.body.len()
            )));
        }
        Ok(SoundRequest {
            server,
            url,
            method: method(request.method),
            headers,
            body: request.body.clone(),
        })
    }

    /// The canonical form, and the hash of it. The key that the recipe adds is no part of it.
    pub fn canonical(&self) -> (RequestKey, String) {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = self.headers.iter();
        let headers: Vec<_> = headers
            .map(|(name, value)| (name.as_str(), text(value)))
            .collect();
        let body = serde_json::json!({
            "version": KEY_VERSION,
            "http": self.method.as_str(),
            "url": self.url.as_str(),
            "headers": headers,
            "body": super::record::Body::new(&self.body),
        })
        .to_string();
        let key = RequestKey(Sha256::digest(body.as_bytes()).into());
        (key, body)
    }

    pub(super) fn build(
        &self,
        client: &reqwest::Client,
        key: Option<HeaderValue>,
    ) -> reqwest::Result<reqwest::Request> {
        let mut request = client
            .request(self.method.clone(), self.url.clone())
            .headers(self.headers.clone())
            .body(self.body.clone());
        if let Some(key) = key {
            request = request.header(AUTHORIZATION, key);
        }
        request.build()
    }
}

fn method(method: HttpMethod) -> Method {
    match method {
        HttpMethod::Get => Method::GET,
        HttpMethod::Head => Method::HEAD,
        HttpMethod::Post => Method::POST,
        HttpMethod::Put => Method::PUT,
        HttpMethod::Patch => Method::PATCH,
        HttpMethod::Delete => Method::DELETE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(request: HttpRequest) -> String {
        let error = SoundRequest::read(&request)
            .err()
            .expect("it cannot be sent");
        assert_eq!(error.code, "bad-request");
        error.message
    }

    #[test]
    fn what_cannot_or_must_not_be_sent_is_named() {
        let get = |url: &str| HttpRequest::get(url);
        let at = "https://example.com/";
        for (request, message) in [
            (get("example.com"), "is no address"),
            (get("ftp://example.com/"), "begins with ftp:"),
            (get("https://me:secret@example.com/"), "by `api_key_env`"),
            (get("https://example.com/#top"), "after #"),
            (
                get(at).header("Authorization", "Bearer x"),
                "`authorization` is the host's",
            ),
            (get(at).header("cookie", "a=b"), "`cookie` is the host's"),
            (get(at).header("a b", "c"), "\"a b\" is no name of a header"),
            (get(at).header("a", "b\r\nhost: c"), "no visible ASCII"),
            (
                HttpRequest {
                    body: vec![1],
                    ..get(at)
                },
                "a GET request has a body of 1 bytes",
            ),
            (
                HttpRequest::post(at, vec![0; MOST_BODY + 1]),
                "at most 16777216 are sent",
            ),
            (
                get(&format!("{at}{}", "a".repeat(MOST_URL))),
                "at most 8192 are sent",
            ),
        ] {
            let told = refused(request);
            assert!(told.contains(message), "{told}");
            assert!(!told.contains("secret"), "{told}");
        }
    }

    #[test]
    fn equal_requests_have_equal_keys() {
        let key = |request: HttpRequest| SoundRequest::read(&request).unwrap().canonical();
        let post = || HttpRequest::post("https://example.com", "{}").header("A", "b");
        let same = HttpRequest::post("https://EXAMPLE.com:443/", "{}").header("a", "b");
        assert_eq!(key(post()), key(same));
        assert_ne!(key(post()).0, key(post().header("c", "d")).0);
        assert_ne!(
            key(post()).0,
            key(HttpRequest {
                method: HttpMethod::Put,
                ..post()
            })
            .0
        );
        // Ledgers written by earlier releases are read by this form: a change needs a new version.
        assert_eq!(
            key(post()).1,
            r#"{"version":1,"http":"POST","url":"https://example.com/","headers":[["a","b"]],"body":{"text":"{}"}}"#
        );
    }
}
