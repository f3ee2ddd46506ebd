//! From an HTTP request to an answer or an error that says what to do.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use super::Served;
use super::api::{self, Asked, Kind};
use super::stream;
use crate::llama::GenerateError;

/// Longest request that is read: a context of a million tokens fits.
const MOST_BODY: usize = 8 << 20;

pub(super) type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// An error as OpenAI's interface tells it.
#[derive(Debug, PartialEq)]
pub(super) struct Refusal {
    pub status: StatusCode,
    pub code: &'static str,
    pub message: String,
}

impl Refusal {
    pub(super) fn bad(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            code,
            message: message.into(),
        }
    }

    pub(super) fn body(&self) -> Value {
        let kind = if self.status.is_server_error() {
            "server_error"
        } else {
            "invalid_request_error"
        };
        json!({"error": {"message": self.message, "type": kind, "param": null, "code": self.code}})
    }
}

impl From<GenerateError> for Refusal {
    fn from(error: GenerateError) -> Self {
        let message = error.to_string();
        match error {
            GenerateError::TooLong { .. } | GenerateError::TooLarge { .. } => {
                Self::bad("context_length_exceeded", message)
            }
            GenerateError::Start(_) | GenerateError::Stopped => Self {
                status: StatusCode::SERVICE_UNAVAILABLE,
                code: "model_stopped",
                message,
            },
            GenerateError::NotFinite { .. } => Self {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                code: "model_not_finite",
                message,
            },
            _ => Self::bad("invalid_value", message),
        }
    }
}

/// Answers one request.
pub(super) async fn answer(served: &Served, request: Request<Incoming>) -> Response<Body> {
    match route(served, request).await {
        Ok(response) => response,
        Err(refusal) => {
            let mut response = whole(&refusal.body());
            *response.status_mut() = refusal.status;
            if refusal.status == StatusCode::METHOD_NOT_ALLOWED {
                let allowed = HeaderValue::from_static(if refusal.code == "use_post" {
                    "POST"
                } else {
                    "GET"
                });
                response.headers_mut().insert(ALLOW, allowed);
            }
            response
        }
    }
}

async fn route(served: &Served, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let method = request.method().clone();
    let path = request.uri().path().trim_end_matches('/').to_owned();
    let expect = |wanted: Method, code: &'static str| {
        if method == wanted {
            return Ok(());
        }
        Err(Refusal {
            status: StatusCode::METHOD_NOT_ALLOWED,
            code,
            message: format!("{path} answers {wanted}, not {method}"),
        })
    };
    match path.as_str() {
        "/v1/chat/completions" => {
            expect(Method::POST, "use_post")?;
            complete(served, request, Kind::Chat).await
        }
        "/v1/completions" => {
            expect(Method::POST, "use_post")?;
            complete(served, request, Kind::Text).await
        }
        "/health" => {
            expect(Method::GET, "use_get")?;
            Ok(whole(&json!({"status": "ok"})))
        }
        "/v1/models" => {
            expect(Method::GET, "use_get")?;
            Ok(whole(
                &json!({"object": "list", "data": [api::model(served)]}),
            ))
        }
        other => match other.strip_prefix("/v1/models/") {
            Some(name) if name == &*served.name => {
                expect(Method::GET, "use_get")?;
                Ok(whole(&api::model(served)))
            }
            Some(name) => Err(unknown_model(served, name)),
            None => Err(Refusal {
                status: StatusCode::NOT_FOUND,
                code: "unknown_path",
                message: format!(
                    "there is nothing at {:?}; this server has /v1/models, /v1/chat/completions, /v1/completions and /health",
                    request.uri().path()
                ),
            }),
        },
    }
}

fn unknown_model(served: &Served, name: &str) -> Refusal {
    Refusal {
        status: StatusCode::NOT_FOUND,
        code: "model_not_found",
        message: format!(
            "this server has no model {name:?}; it serves {:?}",
            served.name
        ),
    }
}

async fn complete(
    served: &Served,
    request: Request<Incoming>,
    kind: Kind,
) -> Result<Response<Body>, Refusal> {
    // A page in a browser can post text anywhere without asking, JSON only where the server agrees.
    let is_json = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| {
            let kind = value.split(';').next().unwrap_or_default().trim();
            kind.eq_ignore_ascii_case("application/json")
        });
    if !is_json {
        return Err(Refusal {
            status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
            code: "not_json",
            message: "expected a body with the header Content-Type: application/json".to_owned(),
        });
    }
    let body = Limited::new(request.into_body(), MOST_BODY)
        .collect()
        .await
        .map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                return Refusal {
                    status: StatusCode::PAYLOAD_TOO_LARGE,
                    code: "too_large",
                    message: format!("the request is longer than {MOST_BODY} bytes"),
                };
            }
            Refusal::bad("cut_short", format!("the request broke off: {error}"))
        })?
        .to_bytes();
    let asked = Asked::read(&body, kind, served.engine.config().vocab_size)?;
    if let Some(name) = asked.model.as_deref().filter(|name| *name != &*served.name) {
        return Err(unknown_model(served, name));
    }
    if asked.stream {
        return stream::start(served, asked).await;
    }
    let completion = served.engine.complete(asked.request.clone()).await?;
    Ok(whole(&api::answer(served, &asked, &completion)))
}

fn whole(value: &Value) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed_unsync());
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
