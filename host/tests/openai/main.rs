//! The provider for OpenAI-compatible servers against a server that misbehaves on cue.

mod bodies;
mod connections;
mod key;
mod requests;
mod statuses;

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::{Arc, Mutex},
    time::Duration,
};

use pacos::{
    manifest::{Endpoint, Field, Model, OpenAi, Provider as ManifestProvider},
    models::{Attempt, Failure, FailureKind, OpenAiProvider, Provider},
};
use pacos_plugin::{FinishReason, Format, Message, Request, TokenBias};
use scripted_server::{Action, Recorded, Reply, Server, failing_first};
use serde_json::json;

const KEY: &str = "sk-live-0123456789abcdefghijklmnop";

fn settings(base_url: &str) -> OpenAi {
    OpenAi {
        model: "m-1".into(),
        base_url: base_url.into(),
        api_key_env: Some("TEACHER_KEY".into()),
        endpoint: Endpoint::Chat,
        timeout: Duration::from_secs(20),
        max_attempts: 1,
        requests_per_minute: None,
        tokens_per_minute: None,
        unsupported: Vec::new(),
        extra_body: serde_json::Map::new(),
    }
}

fn provider(settings: &OpenAi, key: Option<&str>) -> OpenAiProvider {
    let model = Model {
        name: "teacher".into(),
        provider: ManifestProvider::OpenAi(settings.clone()),
        price: None,
        max_concurrency: 4,
        context_length: None,
        terms: None,
    };
    OpenAiProvider::new(&model, settings, key.map(str::to_owned)).unwrap()
}

fn hello() -> Request {
    Request::chat(vec![Message::user("Hello")])
}

/// One attempt at a server that does this, with a key.
async fn meet(action: Action) -> (Attempt, Server) {
    let server = Server::start(move |_: &Recorded| action.clone()).unwrap();
    let provider = provider(&settings(&server.base_url()), Some(KEY));
    let attempt = provider.attempt(&hello()).await;
    (attempt, server)
}

async fn failure_of(action: Action) -> (Failure, String) {
    let (attempt, server) = meet(action).await;
    (attempt.outcome.unwrap_err(), server.base_url())
}

fn passing(failure: &Failure) -> bool {
    matches!(failure.kind, FailureKind::Passing { .. })
}
