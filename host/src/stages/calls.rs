//! The host's side of one call into a plugin: who asks, what was granted, what is counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeFrom,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use pacos_plugin::{
    CandidateId, Error, Example, HttpRequest, HttpResponse, Level, Likelihood, ModelDescription,
    Payload, Prompt, Reply, Request,
};

use crate::{
    ledger::{Ledger, LedgerError},
    manifest::{Budget, Limits, ServerName},
    models::{Asker, BEYOND_LIMITS, BoxFuture, Service},
    plugin::{HostCalls, Loaded, Refusal, capability},
    servers::SoundRequest,
};

/// Most requests in one call: more is a mistake, and is refused before anything is sent.
const MOST_AT_ONCE: usize = 10_000;

/// What one plugin of the recipe was granted, shared by all its instances.
pub(super) struct Grant {
    title: String,
    stage: String,
    declared: BTreeSet<String>,
    granted: BTreeSet<String>,
    most_requests: Option<u64>,
    requests: AtomicU64,
    /// By place: what was said when a request was refused because the plugin has spent what it may.
    beyond_limits: Mutex<BTreeMap<String, String>>,
    service: Arc<Service>,
}

/// Whether a plugin has not yet spent all that its limits allow.
pub(super) fn may_spend(
    limits: &Limits,
    ledger: &Ledger,
    stage: &str,
) -> Result<bool, LedgerError> {
    let spent = ledger.spent_by(stage)?;
    let requests = ledger.calls_of(stage)?;
    Ok(limits.requests.is_none_or(|most| requests < most)
        && limits.tokens.is_none_or(|most| spent.tokens < most)
        && limits.usd.is_none_or(|most| spent.usd < most))
}

impl Grant {
    /// `stage` is the plugin's place in the recipe, such as `filters.1`.
    pub(super) fn new(
        plugin: &Loaded,
        stage: String,
        service: Arc<Service>,
    ) -> Result<Arc<Self>, LedgerError> {
        let limits = &plugin.recipe.limits;
        if limits.tokens.is_some() || limits.usd.is_some() {
            let allowance = Budget {
                usd: limits.usd,
                tokens: limits.tokens,
                requests: None,
            };
            service.allow(&stage, allowance)?;
        }
        Ok(Arc::new(Grant {
            title: plugin.title(),
            declared: plugin.description.capabilities.iter().cloned().collect(),
            granted: plugin.recipe.grant.iter().cloned().collect(),
            most_requests: limits.requests,
            requests: AtomicU64::new(service.ledger().calls_of(&stage)?),
            stage,
            beyond_limits: Mutex::default(),
            service,
        }))
    }

    /// Why the call at this place failed. One that asked for more than the plugin may spend failed
    /// for that, whatever the plugin made of it: it is owed a call with more to spend.
    pub(super) fn reason(&self, place: &str, error: Error) -> Error {
        let refused = self.beyond_limits.lock();
        let mut refused = refused.unwrap_or_else(PoisonError::into_inner);
        match refused.remove(place) {
            // Some languages' plugins trap where they are refused something.
            Some(refusal) if error.code != BEYOND_LIMITS => Error::new(
                BEYOND_LIMITS,
                format!("{refusal}. Of that, {}", error.message),
            ),
            _ => error,
        }
    }

    fn check_role(&self, role: &str) -> Result<(), Error> {
        self.check(&format!("models:{role}"))
    }

    fn check_server(&self, server: &ServerName) -> Result<(), Error> {
        self.check(&server.capability())
    }

    fn check(&self, capability: &str) -> Result<(), Error> {
        let mut declared = self.declared.iter();
        let declared = declared.any(|declared| capability::covers(declared, capability));
        let missing = match (declared, self.granted.contains(capability)) {
            (true, true) => return Ok(()),
            (true, false) => format!(
                "the recipe does not grant it: write grant = [\"{capability}\"] in [{}]",
                self.stage
            ),
            (false, _) => {
                "the plugin does not declare it: its author adds it in `describe`".to_owned()
            }
        };
        Err(Error::new(
            "not-granted",
            format!("{} has no capability `{capability}`: {missing}", self.title),
        ))
    }

    fn count(&self, more: usize) -> Result<(), Error> {
        if more > MOST_AT_ONCE {
            return Err(Error::new(
                "too-many-requests",
                format!("{more} requests in one call; at most {MOST_AT_ONCE} are taken"),
            ));
        }
        let more = more as u64;
        let before = self.requests.fetch_add(more, Ordering::Relaxed);
        match self.most_requests {
            Some(most) if before + more > most => {
                self.requests.fetch_sub(more, Ordering::Relaxed);
                Err(Error::new(
                    BEYOND_LIMITS,
                    format!(
                        "{} may make {most} requests in this run and has made {before}; raise limits.requests in [{}]",
                        self.title, self.stage
                    ),
                ))
            }
            _ => Ok(()),
        }
    }
}

/// What is accepted, in order; it only grows.
pub(super) type Accepted = Arc<RwLock<Vec<(CandidateId, Payload)>>>;

/// [`HostCalls`] for one unit, record or item.
pub(super) struct UnitCalls {
    grant: Arc<Grant>,
    asker: Asker,
    ordinal: AtomicU32,
    accepted: Accepted,
    visible: u64,
}

impl UnitCalls {
    /// `place` names the unit, the record or the item; `seed` is what its samples derive from.
    /// Of what is accepted, the first `visible` may be read.
    pub(super) fn new(
        grant: &Arc<Grant>,
        place: String,
        seed: u64,
        accepted: Accepted,
        visible: u64,
    ) -> Arc<Self> {
        Arc::new(UnitCalls {
            asker: Asker {
                stage: grant.stage.clone(),
                place,
                seed,
            },
            grant: grant.clone(),
            ordinal: AtomicU32::new(0),
            accepted,
            visible,
        })
    }
}

impl UnitCalls {
    /// Numbers requests, and counts those that are new: a call that runs again repeats its own.
    fn number(&self, requests: usize) -> Result<RangeFrom<u32>, Refusal> {
        let count = u32::try_from(requests).unwrap_or(u32::MAX);
        let first = self.ordinal.load(Ordering::Relaxed);
        let last_is_known = count == 0
            || self
                .grant
                .service
                .ledger()
                .call(&self.asker.stage, &self.asker.place, first + count - 1)
                .map_err(crate::models::Stop::from)?
                .is_some();
        if !last_is_known {
            let counted = self.grant.count(requests);
            counted.inspect_err(|error| self.note(error))?;
        }
        self.ordinal.fetch_add(count, Ordering::Relaxed);
        Ok(first..)
    }

    /// Keeps in mind that this place was refused something for want of money.
    fn note(&self, error: &Error) {
        if error.code == BEYOND_LIMITS {
            let refused = self.grant.beyond_limits.lock();
            let mut refused = refused.unwrap_or_else(PoisonError::into_inner);
            refused.insert(self.asker.place.clone(), error.message.clone());
        }
    }
}

impl HostCalls for UnitCalls {
    fn describe_model(&self, role: &str) -> Result<ModelDescription, Refusal> {
        self.grant.check_role(role)?;
        Ok(self.grant.service.describe(role)?)
    }

    fn complete_many<'a>(
        &'a self,
        role: &'a str,
        requests: Vec<Request>,
    ) -> BoxFuture<'a, Result<Vec<Result<Reply, Error>>, Refusal>> {
        Box::pin(async move {
            self.grant.check_role(role)?;
            let numbered = self.number(requests.len())?.zip(&requests);
            let replies = numbered.map(|(ordinal, request)| {
                self.grant
                    .service
                    .complete(&self.asker, ordinal, role, request)
            });
            let mut results = Vec::with_capacity(requests.len());
            for result in futures::future::join_all(replies).await {
                let reply = result?;
                results.push(reply.inspect_err(|error| self.note(error)));
            }
            Ok(results)
        })
    }

    fn fetch_many(
        &self,
        requests: Vec<HttpRequest>,
    ) -> BoxFuture<'_, Result<Vec<Result<HttpResponse, Error>>, Refusal>> {
        Box::pin(async move {
            let numbered = self.number(requests.len())?.zip(&requests);
            let responses = numbered.map(async |(ordinal, request)| {
                let sound = SoundRequest::read(request).and_then(|sound| {
                    self.grant.check_server(&sound.server)?;
                    Ok(sound)
                });
                match sound {
                    Ok(sound) => self.grant.service.fetch(&self.asker, ordinal, &sound).await,
                    Err(error) => Ok(Err(error)),
                }
            });
            let mut results = Vec::with_capacity(requests.len());
            for result in futures::future::join_all(responses).await {
                results.push(result?);
            }
            Ok(results)
        })
    }

    fn count_tokens(&self, role: &str, text: &str) -> Result<u32, Refusal> {
        self.grant.check_role(role)?;
        Ok(self.grant.service.count_tokens(role, text)?)
    }

    fn log_likelihood<'a>(
        &'a self,
        role: &'a str,
        prompt: &'a Prompt,
        answer: &'a str,
    ) -> BoxFuture<'a, Result<Likelihood, Refusal>> {
        Box::pin(async move {
            self.grant.check_role(role)?;
            Ok(self
                .grant
                .service
                .log_likelihood(role, prompt, answer)
                .await?)
        })
    }

    fn accepted(&self, start: u64, count: u32) -> Result<Vec<Example>, Refusal> {
        let accepted = self.accepted.read().unwrap_or_else(PoisonError::into_inner);
        let end = self.visible.min(start.saturating_add(u64::from(count)));
        let end = usize::try_from(end)
            .unwrap_or(usize::MAX)
            .min(accepted.len());
        let start = usize::try_from(start).unwrap_or(usize::MAX).min(end);
        Ok(accepted[start..end]
            .iter()
            .map(|(id, payload)| Example {
                id: *id,
                payload: payload.clone(),
            })
            .collect())
    }

    fn log(&self, level: Level, message: &str) {
        let (plugin, place) = (&self.grant.title, &self.asker.place);
        match level {
            Level::Debug => tracing::debug!(plugin, place, "{message}"),
            Level::Info => tracing::info!(plugin, place, "{message}"),
            Level::Warn => tracing::warn!(plugin, place, "{message}"),
            Level::Error => tracing::error!(plugin, place, "{message}"),
        }
    }

    fn progress(&self, done: u64, total: u64) {
        tracing::debug!(plugin = self.grant.title, done, total, "progress");
    }
}
