//! A local model behind OpenAI's HTTP interface: models, chat completions and completions, streamed or whole.
//!
//! Requests decode together in one engine. One whose client goes away is dropped, and its place is free
//! for the next.

mod api;
mod fields;
mod http;
mod stream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::llama::Engine;

/// A model that is served under a name.
#[derive(Clone)]
struct Served {
    name: Arc<str>,
    engine: Engine,
    /// Seconds since 1970, as the interface wants it.
    created: u64,
}

/// A server that listens and does not answer yet.
pub struct Server {
    listener: TcpListener,
    served: Served,
}

impl Server {
    /// Listens at an address; port 0 takes any free one.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn bind(address: SocketAddr, name: &str, engine: Engine) -> std::io::Result<Self> {
        Ok(Self {
            listener: TcpListener::bind(address).await?,
            served: Served {
                name: name.into(),
                engine,
                created: now(),
            },
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until the future is dropped; then every connection is closed.
    pub async fn run(self) {
        // Dropped with this future, and its tasks with it.
        let mut connections = JoinSet::new();
        loop {
            let stream = tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Too many open files, mostly: others may close some.
                        tracing::warn!("a connection could not be accepted: {error}");
                        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                        continue;
                    }
                },
                Some(_) = connections.join_next() => continue,
            };
            // Tokens are small and wanted at once.
            let _ = stream.set_nodelay(true);
            let served = self.served.clone();
            connections.spawn(async move {
                let service = service_fn(move |request| {
                    let served = served.clone();
                    async move {
                        Ok::<_, std::convert::Infallible>(http::answer(&served, request).await)
                    }
                });
                // hyper drops the answer in the making once its client is gone.
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), service);
                if let Err(error) = connection.await {
                    tracing::debug!("a connection ended: {error}");
                }
            });
        }
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}
