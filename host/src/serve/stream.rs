//! Answers sent as they are written: server-sent events, one JSON object each, `[DONE]` at the end.
//!
//! Format: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.

use std::convert::Infallible;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use http_body_util::{BodyExt, StreamBody};
use hyper::Response;
use hyper::body::Frame;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use serde_json::Value;

use super::Served;
use super::api::{Asked, Chunks};
use super::http::{Body, Refusal};
use crate::llama::generate::StreamEvent;

/// Begins to answer. What is refused before the first token is refused with a status of its own.
pub(super) async fn start(served: &Served, asked: Asked) -> Result<Response<Body>, Refusal> {
    let mut writing = served.engine.stream(asked.request.clone());
    let first = writing.next().await;
    if let StreamEvent::End(end) = &first
        && let Err(error) = &**end
    {
        return Err(error.clone().into());
    }
    let chunks = Chunks::new(served, &asked);
    let opening = chunks.opening().map(event);
    let rest = stream::unfold(Some((writing, Some(first))), move |state| {
        let chunks = chunks.clone();
        async move {
            let (mut writing, first) = state?;
            let next = match first {
                Some(first) => first,
                None => writing.next().await,
            };
            match next {
                StreamEvent::Part(text) => Some((event(chunks.part(&text)), Some((writing, None)))),
                StreamEvent::End(end) => {
                    let last = match *end {
                        Ok(completion) => chunks.end(&completion).into_iter().map(event).collect(),
                        Err(error) => vec![event(Refusal::from(error).body())],
                    };
                    let last = [last, vec![Bytes::from_static(b"data: [DONE]\n\n")]].concat();
                    Some((Bytes::from(last.concat()), None))
                }
            }
        }
    });
    let body = stream::iter(opening)
        .chain(rest)
        .map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
    let mut response = Response::new(StreamBody::new(body).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

fn event(value: Value) -> Bytes {
    Bytes::from(format!("data: {value}\n\n"))
}
