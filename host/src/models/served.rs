//! One model of a run: what it is, what it can do, what it costs, when it may be asked.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU32},
    time::{Duration, Instant},
};

use pacos_plugin::{Error, FinishReason, ModelDescription, Prompt, Request};
use tokio::sync::Semaphore;

use super::{Attempt, FailureKind, Provider, rate::RateLimit};
use crate::{ledger::Charge, manifest::Price};

/// One model of the recipe, ready to be asked.
#[derive(Clone)]
pub struct Served {
    /// Name in the manifest.
    pub name: String,
    /// Who answers.
    pub provider: Arc<dyn Provider>,
    /// What it costs.
    pub price: Option<Price>,
    /// Most requests in flight.
    pub max_concurrency: usize,
    /// Attempts of one request, the first included.
    pub max_attempts: u32,
    /// Requests in a minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens in a minute.
    pub tokens_per_minute: Option<u32>,
}

pub(super) struct Model {
    pub(super) served: Served,
    pub(super) description: ModelDescription,
    pub(super) identity: String,
    pub(super) places: Semaphore,
    rate: RateLimit,
    /// No request leaves before it: the server asked for a pause.
    paused_until: Mutex<Option<Instant>>,
    pub(super) failures_in_a_row: AtomicU32,
}

impl Model {
    pub(super) fn new(served: Served) -> Self {
        Model {
            description: served.provider.describe(),
            identity: served.provider.identity(),
            places: Semaphore::new(served.max_concurrency.max(1)),
            rate: RateLimit::new(served.requests_per_minute, served.tokens_per_minute),
            paused_until: Mutex::new(None),
            failures_in_a_row: AtomicU32::new(0),
            served,
        }
    }

    /// Says before anything is recorded what this model can never do.
    pub(super) fn supports(&self, request: &Request) -> Result<(), Error> {
        let can = &self.description;
        let missing = match (&request.prompt, &request.format) {
            (Prompt::Completion(_), _) if !can.completion => Some(
                "text completion (its endpoint is for chats: endpoint = \"completions\" in the manifest, if the server has one)",
            ),
            (Prompt::Chat(_), _) if !can.chat => Some(
                "chats (its endpoint is for completions: endpoint = \"chat\" in the manifest, if the server has one)",
            ),
            (_, Some(pacos_plugin::Format::JsonSchema(_))) if !can.json_schema => {
                Some("JSON Schema")
            }
            (_, Some(pacos_plugin::Format::Grammar(_))) if !can.grammar => Some("grammars"),
            _ if !request.logit_bias.is_empty() && !can.logit_bias => Some("logit_bias"),
            _ if request.logprobs.is_some() && !can.logprobs => Some("logprobs"),
            _ => None,
        };
        match missing {
            None => Ok(()),
            Some(what) => Err(Error::new(
                "unsupported",
                format!("model `{}` does not do {what}", self.served.name),
            )),
        }
    }

    /// What one attempt can cost at most.
    pub(super) fn worst_case(&self, request: &Request) -> Charge {
        let prompt_tokens = self.served.provider.prompt_token_bound(request);
        let context = u64::from(self.description.context_length.unwrap_or(8192));
        let completion_tokens = request.max_tokens.map_or(context, u64::from);
        self.priced(prompt_tokens, completion_tokens)
    }

    fn priced(&self, prompt_tokens: u64, completion_tokens: u64) -> Charge {
        #[allow(
            clippy::cast_precision_loss,
            reason = "token counts are far below 2^53"
        )]
        let usd = self.served.price.as_ref().map_or(0.0, |price| {
            (prompt_tokens as f64 * price.input + completion_tokens as f64 * price.output) / 1e6
        });
        Charge {
            prompt_tokens,
            completion_tokens,
            usd,
        }
    }

    /// What an attempt is charged: the usage that the server reports; nothing where it answered
    /// with an error status or was never reached; otherwise the worst case.
    pub(super) fn charge(&self, attempt: &Attempt, worst: Charge) -> Charge {
        match &attempt.outcome {
            Ok(reply) => match &reply.usage {
                Some(usage) => self.priced(usage.prompt_tokens, usage.completion_tokens),
                None if reply.finish_reason == FinishReason::Length => worst,
                // Without usage, bytes bound tokens on both sides.
                None => self.priced(worst.prompt_tokens, reply.text.len() as u64 + 1),
            },
            Err(failure) => {
                let refused = attempt.status.is_some_and(|status| status >= 400);
                if refused || failure.code == "unreachable" || attempt.never_sent() {
                    Charge::default()
                } else {
                    worst
                }
            }
        }
    }

    pub(super) fn pause(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut paused = self
            .paused_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *paused = Some(paused.map_or(until, |earlier| earlier.max(until)));
    }

    /// Waits for the server's pause and the rate limits.
    pub(super) async fn ready(&self, worst: Charge) {
        loop {
            let until = *self
                .paused_until
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => break,
            }
        }
        self.rate
            .take(worst.prompt_tokens + worst.completion_tokens)
            .await;
    }
}

impl Attempt {
    /// A request that the provider itself would not send.
    fn never_sent(&self) -> bool {
        self.status.is_none()
            && matches!(&self.outcome, Err(failure) if failure.kind == FailureKind::Refused)
    }
}
