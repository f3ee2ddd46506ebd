//! OpenAI, and anything that speaks its API: one request, one attempt.
//!
//! The crate async-openai builds the request and its address; its retries are off, and it never
//! sees a reply. The transport keeps the body as it came, and a reader that expects servers to
//! differ makes a reply of it.

mod failure;
mod request;
mod response;
mod strict;
mod transport;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    time::{Duration, Instant},
};

use async_openai::config::Config;
use pacos_plugin::{ModelDescription, Prompt, Reply, Request};
use reqwest::{
    Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use self::failure::{KeySource, Target};
use super::{Attempt, BoxFuture, Failure, Provider};
use crate::{
    manifest::{Endpoint, Field, Model, OpenAi},
    servers::{End, Exchange, chain, exchange},
};

/// Longest body that is read. The longest that makes sense, 32,000 tokens with twenty
/// alternatives each, is about half of it.
const MOST_BODY: usize = 64 << 20;

/// A connection that is not made in this time is not made.
const CONNECT: Duration = Duration::from_secs(20);

/// How long an idle connection is kept. Servers close theirs (uvicorn, under vLLM and others, after
/// five seconds), and a request that meets the closing has an unknown end and is charged in full.
const IDLE: Duration = Duration::from_secs(4);

/// Fields of the body that the host sets itself, because it counts on them.
const RESERVED: [&str; 10] = [
    "model",
    "messages",
    "prompt",
    "stream",
    "stream_options",
    "n",
    "best_of",
    "echo",
    "max_tokens",
    "max_completion_tokens",
];

/// A model behind an OpenAI-compatible server.
pub struct OpenAiProvider {
    settings: OpenAi,
    target: Target,
    context_length: Option<u32>,
    http: reqwest::Client,
    client: async_openai::Client<Connection>,
    most_body: usize,
}

/// Why a provider cannot be made of its manifest table. No message holds a key.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SetupError {
    /// `base_url` is no address.
    #[error(
        "`models.{table}.base_url` = {base_url:?} is not the address of a server ({reason}); \
         write one such as \"http://localhost:8000/v1\""
    )]
    BaseUrl {
        /// NAME of `[models.NAME]`.
        table: String,
        /// What the manifest says.
        base_url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// `base_url` carries a secret.
    #[error(
        "`models.{table}.base_url` holds a user name, a password or a query; a manifest holds no \
         secrets: leave them out, and name the key's variable in `models.{table}.api_key_env`"
    )]
    Credentials {
        /// NAME of `[models.NAME]`.
        table: String,
    },
    /// The key cannot be sent.
    #[error(
        "the API key for `models.{table}`{} holds characters that cannot stand in an HTTP header; \
         set it again, without spaces, line breaks or quotes around it",
        variable.as_ref().map(|name| format!(", read from {name},")).unwrap_or_default()
    )]
    Key {
        /// NAME of `[models.NAME]`.
        table: String,
        /// The environment variable.
        variable: Option<String>,
    },
    /// `extra_body` sets what the host must set.
    #[error(
        "`models.{table}.extra_body.{field}` cannot be set: Pacos sets `{field}` itself, as \
         replies and the budget depend on it; remove it"
    )]
    ExtraBody {
        /// NAME of `[models.NAME]`.
        table: String,
        /// The field.
        field: String,
    },
    /// The HTTP client does not start.
    #[error("the HTTP client for `models.{table}` does not start: {reason}")]
    Client {
        /// NAME of `[models.NAME]`.
        table: String,
        /// What it says.
        reason: String,
    },
}

impl OpenAiProvider {
    /// A provider for `model`, whose `provider` is `settings`. `api_key` is what the variable
    /// `settings.api_key_env` holds; empty counts as absent, and space around it is dropped.
    ///
    /// # Errors
    /// What cannot work whatever the server says; an absent key is left to the server.
    pub fn new(
        model: &Model,
        settings: &OpenAi,
        api_key: Option<String>,
    ) -> Result<Self, SetupError> {
        let table = model.name.clone();
        let mut settings = settings.clone();
        let trimmed = settings.base_url.trim_end_matches('/').len();
        settings.base_url.truncate(trimmed);
        let url = check_base_url(&table, &settings.base_url)?;
        let mut fields = settings.extra_body.keys();
        if let Some(field) = fields.find(|field| RESERVED.contains(&field.as_str())) {
            return Err(SetupError::ExtraBody {
                table,
                field: field.clone(),
            });
        }
        let api_key = api_key.map(|key| key.trim().to_owned());
        let api_key = api_key.filter(|key| !key.is_empty());
        let variable = settings.api_key_env.clone();
        let connection = Connection::new(&settings.base_url, api_key.as_deref()).map_err(|()| {
            SetupError::Key {
                table: table.clone(),
                variable: variable.clone(),
            }
        })?;
        let http = http_client(&url).map_err(|error| SetupError::Client {
            table: table.clone(),
            reason: chain(&error),
        })?;
        let target = Target {
            table,
            model: settings.model.clone(),
            base_url: settings.base_url.clone(),
            path: match settings.endpoint {
                Endpoint::Chat => "/chat/completions",
                Endpoint::Completions => "/completions",
            },
            timeout: settings.timeout,
            key: match (&variable, &api_key) {
                (Some(name), Some(_)) => KeySource::Set(name.clone()),
                (Some(name), None) => KeySource::Unset(name.clone()),
                (None, Some(_)) => KeySource::Unnamed,
                (None, None) => KeySource::None,
            },
        };
        Ok(OpenAiProvider {
            client: async_openai::Client::build(http.clone(), connection),
            context_length: model.context_length,
            most_body: MOST_BODY,
            settings,
            target,
            http,
        })
    }

    async fn send(&self, request: &Request) -> Attempt {
        let body = match request::body(&self.target, &self.settings, request) {
            Ok(body) => body,
            Err(failure) => return unsent(failure),
        };
        let capture = transport::Capture::new(
            self.http.clone(),
            Instant::now() + self.settings.timeout,
            self.most_body,
        );
        let client = self.client.clone().with_http_service(capture.clone());
        // The answer to async-openai is a stand-in: the reply is in the capture.
        let stood_in: Result<serde::de::IgnoredAny, _> = match self.settings.endpoint {
            Endpoint::Chat => client.chat().create_byot(body).await,
            Endpoint::Completions => client.completions().create_byot(body).await,
        };
        match (capture.take(), stood_in) {
            (Some(exchange), _) => self.conclude(request, exchange),
            (None, Err(error)) => unsent(Failure::refused(
                "invalid-request",
                format!(
                    "the request to model `{}` could not be built: {error}",
                    self.target.table
                ),
            )),
            (None, Ok(_)) => unsent(Failure::refused(
                "invalid-request",
                format!("the request to model `{}` was not sent", self.target.table),
            )),
        }
    }

    fn conclude(&self, request: &Request, mut exchange: Exchange) -> Attempt {
        self.redact(&mut exchange);
        let outcome = match exchange.status {
            Some(200..=299) => match self.read(request, &exchange.body) {
                // JSON that is whole is a reply, however the connection ended: it was paid for.
                Err(failure) if failure.code == "cut-body" || exchange.body.is_empty() => {
                    Err(failure::of_end(&self.target, &exchange).unwrap_or(failure))
                }
                outcome => outcome,
            },
            Some(_) => Err(failure::of_status(&self.target, &exchange)),
            None => Err(failure::of_end(&self.target, &exchange)
                .unwrap_or_else(|| failure::no_answer(&self.target, "no status came"))),
        };
        Attempt {
            status: exchange.status,
            body: exchange.body,
            outcome,
        }
    }

    /// Some servers repeat the key that they refuse; it must not reach the ledger. Keys for
    /// servers without keys are ordinary words ("ollama", "lm-studio"), so that a reply is left
    /// alone unless the key is long enough to be one.
    fn redact(&self, exchange: &mut Exchange) {
        let key = self.client.config().api_key().expose_secret().as_bytes();
        let replied = matches!(exchange.status, Some(200..=299));
        if key.len() < if replied { 16 } else { 4 } {
            return;
        }
        let mut from = 0;
        while let Some(at) = find(&exchange.body[from..], key) {
            exchange.body[from + at..][..key.len()].fill(b'*');
            from += at + key.len();
        }
        let key = self.client.config().api_key().expose_secret();
        if let Some(location) = &mut exchange.location {
            *location = location.replace(key, "***");
        }
    }

    async fn ask_models(&self) -> Result<(), Failure> {
        let url = format!("{}/models", self.settings.base_url);
        let headers = self.client.config().headers();
        let deadline = Instant::now() + self.settings.timeout;
        let request = self.http.get(url).headers(headers).build();
        let mut exchange = exchange(&self.http, request, deadline, self.most_body).await;
        self.redact(&mut exchange);
        match exchange.status {
            Some(200..=299) if matches!(exchange.end, End::Whole) => {
                response::listed(&self.target, &exchange.body)
            }
            // Servers without the route say so in several ways, and answer requests all the same.
            Some(404 | 405 | 501) => Ok(()),
            Some(200..=299) | None => Err(failure::of_end(&self.target, &exchange)
                .unwrap_or_else(|| failure::no_answer(&self.target, "no status came"))),
            Some(_) => Err(failure::of_status(&self.target, &exchange)),
        }
    }

    /// Reads a body that came with status 200. One that was cut by the connection or a time-out
    /// reads as `cut-body`.
    fn read(&self, request: &Request, body: &[u8]) -> Result<Reply, Failure> {
        if body.len() > self.most_body {
            return Err(failure::too_large(&self.target, self.most_body));
        }
        response::read(&self.target, request, body)
    }
}

impl Provider for OpenAiProvider {
    /// `json-schema` is offered for chat only, `grammar` never: the API has no field for one,
    /// and servers that take one (vLLM's `structured_outputs`) disagree on it.
    fn describe(&self) -> ModelDescription {
        let chat = self.settings.endpoint == Endpoint::Chat;
        let takes = |field| !self.settings.unsupported.contains(&field);
        ModelDescription {
            model: self.settings.model.clone(),
            context_length: self.context_length,
            completion: !chat,
            chat,
            json_schema: chat && takes(Field::JsonSchema),
            grammar: false,
            logprobs: takes(Field::Logprobs),
            logit_bias: takes(Field::LogitBias),
            count_tokens: false,
            log_likelihood: false,
        }
    }

    /// Server, model, endpoint and what is added to each request or left out of it. Not the key,
    /// time-outs or limits, and not which name the token limit goes by: they change no reply.
    fn identity(&self) -> String {
        let mut omitted: Vec<Value> = (self.settings.unsupported.iter())
            .filter(|field| **field != Field::MaxTokens)
            .map(|field| json!(field))
            .collect();
        omitted.sort_by_key(Value::to_string);
        omitted.dedup();
        let identity = json!({
            "base_url": self.settings.base_url,
            "endpoint": self.settings.endpoint,
            "extra_body": sorted(&Value::Object(self.settings.extra_body.clone())),
            "model": self.settings.model,
            "omitted": omitted,
            "provider": "openai",
        });
        identity.to_string()
    }

    fn attempt<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Attempt> {
        Box::pin(self.send(request))
    }

    /// Bytes of prompt, schema and extra fields, and 16 for each message and 64 in all for the
    /// chat template. Byte-level tokenizers make at most one token of a byte, so that text in any
    /// language stays below it; English takes about a quarter.
    fn prompt_token_bound(&self, request: &Request) -> u64 {
        let prompt = match &request.prompt {
            Prompt::Completion(text) => text.len(),
            Prompt::Chat(messages) => (messages.iter())
                .map(|message| message.content.len() + 16)
                .sum(),
        };
        let format = match &request.format {
            Some(pacos_plugin::Format::JsonSchema(text) | pacos_plugin::Format::Grammar(text)) => {
                text.len()
            }
            None => 0,
        };
        let extra: usize = (self.settings.extra_body.iter())
            .map(|(name, value)| name.len() + value.to_string().len())
            .sum();
        (prompt + format + extra + 64) as u64
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(self.ask_models())
    }
}

impl fmt::Debug for OpenAiProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAiProvider")
            .field("target", &self.target)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

fn unsent(failure: Failure) -> Attempt {
    Attempt {
        status: None,
        body: Vec::new(),
        outcome: Err(failure),
    }
}

/// Where and as whom requests go. async-openai's own configuration takes keys, organisations and
/// addresses from the environment; a key must go where the manifest says and nowhere else.
#[derive(Clone)]
struct Connection {
    base_url: String,
    headers: HeaderMap,
    api_key: SecretString,
}

impl Connection {
    fn new(base_url: &str, api_key: Option<&str>) -> Result<Self, ()> {
        let mut headers = HeaderMap::new();
        if let Some(key) = api_key {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| ())?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(Connection {
            base_url: base_url.to_owned(),
            headers,
            api_key: api_key.unwrap_or_default().into(),
        })
    }
}

impl Config for Connection {
    fn headers(&self) -> HeaderMap {
        self.headers.clone()
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base_url)
    }

    fn query(&self) -> Vec<(&str, &str)> {
        Vec::new()
    }

    fn api_base(&self) -> &str {
        &self.base_url
    }

    fn api_key(&self) -> &SecretString {
        &self.api_key
    }
}

fn check_base_url(table: &str, base_url: &str) -> Result<Url, SetupError> {
    let wrong = |reason: String| SetupError::BaseUrl {
        table: table.to_owned(),
        base_url: base_url.to_owned(),
        reason,
    };
    let url = Url::parse(base_url).map_err(|error| wrong(error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err(SetupError::Credentials {
            table: table.to_owned(),
        });
    }
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong(format!(
            "it begins with \"{}:\", not with \"http://\" or \"https://\"",
            url.scheme()
        )));
    }
    if url.fragment().is_some() {
        return Err(wrong("it has a part after #".to_owned()));
    }
    Ok(url)
}

fn http_client(url: &Url) -> reqwest::Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("pacos/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .pool_idle_timeout(IDLE)
        .retry(reqwest::retry::never())
        .redirect(transport::same_origin());
    let host = url.host_str().unwrap_or_default();
    if matches!(host, "localhost" | "127.0.0.1" | "[::1]") {
        // A proxy's own loopback is not this machine's.
        builder = builder.no_proxy();
    }
    builder.build()
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

/// The value with the keys of every object in order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            let fields = fields.into_iter();
            fields
                .map(|(name, value)| (name.clone(), sorted(value)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        scalar => scalar.clone(),
    }
}
