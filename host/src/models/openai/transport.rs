//! Where async-openai's requests leave, and their answers come in.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Instant,
};

use async_openai::{error::OpenAIError, middleware::HttpRequestFactory};
use reqwest::{StatusCode, redirect};

use crate::servers::{Exchange, exchange};

/// The HTTP service beneath async-openai: makes the exchange, keeps it, and hands up a stand-in,
/// so that nothing above parses, logs or retries the body.
#[derive(Clone)]
pub(super) struct Capture {
    http: reqwest::Client,
    deadline: Instant,
    most_body: usize,
    kept: Arc<Mutex<Option<Exchange>>>,
}

impl Capture {
    pub fn new(http: reqwest::Client, deadline: Instant, most_body: usize) -> Self {
        Capture {
            http,
            deadline,
            most_body,
            kept: Arc::default(),
        }
    }

    /// The exchange, once it is over.
    pub fn take(&self) -> Option<Exchange> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.take()
    }
}

impl tower::Service<HttpRequestFactory> for Capture {
    type Response = reqwest::Response;
    type Error = OpenAIError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, factory: HttpRequestFactory) -> Self::Future {
        let capture = self.clone();
        Box::pin(async move {
            let request = factory.build().await?;
            let exchange = exchange(
                &capture.http,
                Ok(request),
                capture.deadline,
                capture.most_body,
            )
            .await;
            *capture.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(exchange);
            Ok(http::Response::new("null").into())
        })
    }
}

/// Follows what keeps method, body and server; anything else comes back as it is.
pub(super) fn same_origin() -> redirect::Policy {
    redirect::Policy::custom(|attempt| {
        let keeps_method = matches!(
            attempt.status(),
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
        );
        let previous = attempt.previous();
        let same = previous
            .last()
            .is_some_and(|url| url.origin() == attempt.url().origin());
        if keeps_method && same && previous.len() <= 3 {
            attempt.follow()
        } else {
            attempt.stop()
        }
    })
}
