//! How responses stand in the ledger: bodies as text where they are text.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use pacos_plugin::{HttpHeader, HttpResponse};
use serde::{Deserialize, Serialize, de};

/// A body, readable where it can be.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Body {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Base64(String),
}

impl Body {
    pub fn new(bytes: &[u8]) -> Self {
        match str::from_utf8(bytes) {
            Ok(text) => Body::Text(text.to_owned()),
            Err(_) => Body::Base64(BASE64_STANDARD.encode(bytes)),
        }
    }

    fn bytes(self) -> Result<Vec<u8>, base64::DecodeError> {
        match self {
            Body::Text(text) => Ok(text.into_bytes()),
            Body::Base64(text) => BASE64_STANDARD.decode(text),
        }
    }
}

/// A response as it stands in the ledger. `text` is where the view `requests` looks for a reply.
#[derive(Serialize, Deserialize)]
struct Columns {
    status: u16,
    headers: Vec<(String, String)>,
    #[serde(flatten)]
    body: Body,
}

/// A response, to be written and read as the ledger has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RecordedResponse(pub HttpResponse);

impl Serialize for RecordedResponse {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let HttpResponse {
            status,
            headers,
            body,
        } = &self.0;
        let headers = headers.iter();
        Columns {
            status: *status,
            headers: headers
                .map(|header| (header.name.clone(), header.value.clone()))
                .collect(),
            body: Body::new(body),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RecordedResponse {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let columns = Columns::deserialize(deserializer)?;
        let headers = columns.headers.into_iter();
        Ok(RecordedResponse(HttpResponse {
            status: columns.status,
            headers: headers
                .map(|(name, value)| HttpHeader { name, value })
                .collect(),
            body: columns.body.bytes().map_err(de::Error::custom)?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_comes_back_as_it_was() {
        for body in [&b"plain, \xc3\xa9"[..], b"\xff\x00", b""] {
            let response = RecordedResponse(HttpResponse {
                status: 404,
                headers: vec![HttpHeader {
                    name: "a".into(),
                    value: "b".into(),
                }],
                body: body.to_vec(),
            });
            let text = serde_json::to_string(&response).unwrap();
            let back: RecordedResponse = serde_json::from_str(&text).unwrap();
            assert_eq!(back, response, "{text}");
        }
    }
}
