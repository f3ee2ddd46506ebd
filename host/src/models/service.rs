//! Models behind roles. One place queues, retries, prices and records, for every stage.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use pacos_plugin::{Error, Likelihood, ModelDescription, Prompt, Reply, Request};
use tokio::sync::watch;

use super::{
    Failure, FailureKind, Stop,
    budget::{BEYOND_LIMITS, Exhausted, Reservation, Till},
    flights::Flights,
    request::canonical,
    served::{Model, Served},
};
use crate::{
    fault,
    ledger::{
        Ask, AttemptEnd, AttemptState, Charge, Ledger, LedgerError, RecordedOutcome, RequestKey,
    },
    manifest::{Budget, ServerName},
    servers::Servers,
};

/// The shortest wait before another attempt; each further one doubles it.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// So many requests in a row that fail for good end the run: nobody is answering.
pub(super) const FAILURES_IN_A_ROW: u32 = 20;

/// The models of a run, by role, and the servers that its plugins ask.
pub struct Service {
    roles: BTreeMap<String, Arc<Model>>,
    pub(super) servers: Option<Arc<Servers>>,
    pub(super) failures_in_a_row: Mutex<BTreeMap<ServerName, u32>>,
    pub(super) ledger: Ledger,
    pub(super) till: Till,
    pub(super) flights: Flights,
    /// What single plugins may spend, by stage.
    allowances: Mutex<BTreeMap<String, Arc<Till>>>,
    pub(super) ended: watch::Sender<bool>,
}

/// Who asks, for the ledger.
#[derive(Debug, Clone)]
pub struct Asker {
    /// `generator`, `filters.1`, `evaluators.0`, `evaluate student`.
    pub stage: String,
    /// Unit, record or item.
    pub place: String,
    /// What the samples of its requests derive from.
    pub seed: u64,
}

impl Service {
    /// Puts models behind roles. What the ledger says was spent counts against the budget.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn new(
        roles: BTreeMap<String, String>,
        models: Vec<Served>,
        budget: Budget,
        ledger: Ledger,
    ) -> Result<Self, LedgerError> {
        let models: BTreeMap<String, Arc<Model>> = models
            .into_iter()
            .map(|served| {
                let model = Model::new(served);
                (model.served.name.clone(), Arc::new(model))
            })
            .collect();
        let roles = roles
            .into_iter()
            .filter_map(|(role, name)| Some((role, models.get(&name)?.clone())))
            .collect();
        Ok(Service {
            roles,
            servers: None,
            failures_in_a_row: Mutex::default(),
            till: Till::new(budget, ledger.spent()?),
            flights: Flights::default(),
            allowances: Mutex::default(),
            ledger,
            ended: watch::Sender::new(false),
        })
    }

    /// Has plugins ask servers, too.
    #[must_use]
    pub fn with_servers(mut self, servers: Arc<Servers>) -> Self {
        self.servers = Some(servers);
        self
    }

    /// The ledger that everything is recorded in.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Limits what one stage may spend, beside the run's own budget. What the ledger says it has
    /// spent counts.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn allow(&self, stage: &str, budget: Budget) -> Result<(), LedgerError> {
        let till = Till::new(budget, self.ledger.spent_by(stage)?);
        let mut allowances = self
            .allowances
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        allowances.insert(stage.to_owned(), Arc::new(till));
        Ok(())
    }

    fn allowance(&self, stage: &str) -> Option<Arc<Till>> {
        let allowances = self
            .allowances
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        allowances.get(stage).cloned()
    }

    /// Sends no further request. Those in flight are still recorded.
    pub fn end(&self) {
        self.ended.send_replace(true);
    }

    fn model(&self, role: &str) -> Result<&Arc<Model>, Error> {
        self.roles.get(role).ok_or_else(|| {
            let known: Vec<_> = self.roles.keys().map(String::as_str).collect();
            Error::new(
                "no-such-role",
                format!(
                    "the recipe has no role `{role}`; it has {}",
                    known.join(", ")
                ),
            )
        })
    }

    /// What can be asked of the model behind a role.
    ///
    /// # Errors
    /// Where the recipe has no such role.
    pub fn describe(&self, role: &str) -> Result<ModelDescription, Error> {
        Ok(self.model(role)?.description.clone())
    }

    /// What identifies the model behind a role, where the recipe has it.
    #[must_use]
    pub fn identity(&self, role: &str) -> Option<&str> {
        self.roles.get(role).map(|model| model.identity.as_str())
    }

    /// Tokens of `text` for the model behind a role.
    ///
    /// # Errors
    /// Where the recipe has no such role, or the model cannot say.
    pub fn count_tokens(&self, role: &str, text: &str) -> Result<u32, Error> {
        let model = self.model(role)?;
        model.served.provider.count_tokens(text).ok_or_else(|| {
            Error::new(
                "unsupported",
                format!("model `{}` does not count tokens", model.served.name),
            )
        })
    }

    /// Log-likelihood of `answer` after `prompt` under the model behind a role.
    ///
    /// # Errors
    /// Where the recipe has no such role, or the model cannot say.
    pub async fn log_likelihood(
        &self,
        role: &str,
        prompt: &Prompt,
        answer: &str,
    ) -> Result<Likelihood, Error> {
        let provider = self.model(role)?.served.provider.clone();
        match self
            .unless_ended(provider.log_likelihood(prompt, answer))
            .await
        {
            Ok(likelihood) => {
                likelihood.map_err(|failure| Error::new(failure.code, failure.message))
            }
            Err(stop) => Err(Error::new("interrupted", stop.to_string())),
        }
    }

    /// Asks one thing. A recorded reply is returned as it is; a new one is returned when it is
    /// on disk.
    ///
    /// # Errors
    /// The outer error ends the run; the inner one is an outcome of this request, recorded as such.
    pub async fn complete(
        &self,
        asker: &Asker,
        ordinal: u32,
        role: &str,
        request: &Request,
    ) -> Result<Result<Reply, Error>, Stop> {
        let model = match self.model(role) {
            Ok(model) => model.clone(),
            Err(error) => return Ok(Err(error)),
        };
        if let Err(error) = model.supports(request) {
            return Ok(Err(error));
        }
        let sample = crate::seed::derive(asker.seed, "sample", u64::from(ordinal));
        let (key, body) = canonical(&model.identity, request, sample);
        let (name, identity) = (model.served.name.clone(), model.identity.clone());
        self.ask(asker, ordinal, (key, body), name, identity)
            .await?;
        if let Some(outcome) = self.ledger.outcome(key)? {
            return Ok(handed_over(outcome));
        }
        let _alone = self.flights.alone(key).await;
        let place = model.places.acquire().await;
        // Another asker of the same request may have been answered while this one waited.
        if let Some(outcome) = self.ledger.outcome(key)? {
            return Ok(handed_over(outcome));
        }
        let seeded;
        let request = if model.served.provider.wants_seed() && request.seed.is_none() {
            seeded = Request {
                seed: Some(sample),
                ..request.clone()
            };
            &seeded
        } else {
            request
        };
        let outcome = self.attempts(&model, asker, key, request).await;
        drop(place);
        match outcome {
            Ok(outcome) => Ok(handed_over(outcome)),
            Err(NotSent::Stop(stop)) => Err(stop),
            Err(NotSent::Refused(error)) => Ok(Err(error)),
        }
    }

    /// Records that `asker` asks this as its request number `ordinal`, or makes sure that it is
    /// what was recorded there.
    pub(super) async fn ask(
        &self,
        asker: &Asker,
        ordinal: u32,
        (key, body): (RequestKey, String),
        model: String,
        identity: String,
    ) -> Result<(), Stop> {
        let (stage, place) = (asker.stage.clone(), asker.place.clone());
        match self.ledger.call(&stage, &place, ordinal)? {
            Some(recorded) if recorded == key => Ok(()),
            Some(_) => Err(Stop::NotDeterministic {
                stage,
                place,
                ordinal,
            }),
            None => {
                let ask = Ask {
                    stage,
                    place,
                    ordinal,
                    key,
                    model,
                    identity,
                    body,
                };
                Ok(self.ledger.ask(ask).await?)
            }
        }
    }

    /// Waits, but no longer than there is anything to wait for: a server's pause can last minutes.
    pub(super) async fn unless_ended<T>(&self, wait: impl Future<Output = T>) -> Result<T, Stop> {
        let mut ended = self.ended.subscribe();
        tokio::select! {
            waited = wait => Ok(waited),
            _ = ended.wait_for(|ended| *ended) => Err(Stop::Interrupted),
        }
    }

    /// Sends a request until it has an outcome.
    async fn attempts(
        &self,
        model: &Model,
        asker: &Asker,
        key: RequestKey,
        request: &Request,
    ) -> Result<RecordedOutcome, NotSent> {
        let mut number = 0;
        loop {
            number += 1;
            let last = number >= model.served.max_attempts;
            match self.attempt(model, asker, key, request, last).await? {
                Ended::Outcome(outcome) => return Ok(outcome),
                Ended::Again(after) => {
                    let wait = after.unwrap_or_else(|| backoff(number, key));
                    if after.is_some() {
                        model.pause(wait);
                    }
                    self.unless_ended(tokio::time::sleep(wait)).await?;
                }
            }
        }
    }

    async fn attempt(
        &self,
        model: &Model,
        asker: &Asker,
        key: RequestKey,
        request: &Request,
        last: bool,
    ) -> Result<Ended, NotSent> {
        let worst = model.worst_case(request);
        self.unless_ended(model.ready(worst)).await?;
        let allowance = self.allowance(&asker.stage);
        let allowed = match &allowance {
            Some(allowance) => Some(
                allowance
                    .reserve(worst)
                    .await
                    .map_err(|exhausted| over_allowance(&asker.stage, &exhausted))?,
            ),
            None => None,
        };
        let reservation = match self.till.reserve(worst).await {
            Ok(reservation) => reservation,
            Err(exhausted) => {
                allowed.into_iter().for_each(Reservation::settle_unsent);
                return Err(Stop::Budget(exhausted).into());
            }
        };
        if *self.ended.borrow() {
            reservation.settle_unsent();
            allowed.into_iter().for_each(Reservation::settle_unsent);
            return Err(Stop::Interrupted.into());
        }
        let id = self
            .ledger
            .begin_attempt(key, asker.stage.clone(), worst)
            .await?;
        fault::point("request:after-send-recorded");
        let started = Instant::now();
        let attempt = model.served.provider.attempt(request).await;
        let seconds = started.elapsed().as_secs_f64();
        fault::point("request:reply-before-commit");
        let charge = model.charge(&attempt, worst);
        let failure = attempt.outcome.as_ref().err().cloned();
        let outcome = match (&attempt.outcome, last) {
            (Ok(reply), _) => Some(RecordedOutcome::Answered(reply.clone())),
            (Err(failure), last) => match failure.kind {
                FailureKind::Refused => Some(failed(failure)),
                FailureKind::Passing { .. } if last => Some(failed(failure)),
                FailureKind::Passing { .. } | FailureKind::Fatal => None,
            },
        };
        let end = AttemptEnd {
            state: match (&failure, charge == Charge::default()) {
                (None, _) => AttemptState::Answered,
                (Some(_), true) => AttemptState::Failed,
                (Some(_), false) => AttemptState::Unknown,
            },
            status: attempt.status,
            body: attempt.body,
            failure: failure.as_ref().map(error_of),
            seconds,
            charge,
            outcome: outcome.clone(),
        };
        self.ledger.end_attempt(id, key, end).await?;
        fault::point("request:after-commit");
        reservation.settle(charge);
        if let Some(allowed) = allowed {
            allowed.settle(charge);
        }
        match (failure, outcome) {
            (None, Some(outcome)) => {
                model.failures_in_a_row.store(0, Ordering::Relaxed);
                Ok(Ended::Outcome(outcome))
            }
            (Some(failure), Some(outcome)) => {
                if matches!(failure.kind, FailureKind::Passing { .. }) {
                    let count = model.failures_in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
                    if count >= FAILURES_IN_A_ROW {
                        return Err(NotSent::Stop(Stop::Failing {
                            model: model.served.name.clone(),
                            count,
                            failure,
                        }));
                    }
                }
                Ok(Ended::Outcome(outcome))
            }
            (Some(failure), None) => match failure.kind {
                FailureKind::Passing { after } => {
                    tracing::info!(model = model.served.name, %failure, "will be asked again");
                    Ok(Ended::Again(after))
                }
                FailureKind::Refused | FailureKind::Fatal => Err(NotSent::Stop(Stop::Fatal {
                    model: model.served.name.clone(),
                    failure,
                })),
            },
            (None, None) => unreachable!("a reply is an outcome"),
        }
    }
}

/// How one attempt left its request.
enum Ended {
    Outcome(RecordedOutcome),
    Again(Option<Duration>),
}

/// Why a request has no outcome.
enum NotSent {
    /// The run ends.
    Stop(Stop),
    /// Its asker may not send it. Nothing is recorded: a recipe that allows more is answered.
    Refused(Error),
}

impl From<Stop> for NotSent {
    fn from(stop: Stop) -> Self {
        NotSent::Stop(stop)
    }
}

impl From<LedgerError> for NotSent {
    fn from(error: LedgerError) -> Self {
        NotSent::Stop(error.into())
    }
}

fn over_allowance(stage: &str, exhausted: &Exhausted) -> NotSent {
    NotSent::Refused(Error::new(
        BEYOND_LIMITS,
        format!(
            "{stage} has spent what it may: {exhausted}; raise limits.{} in [{stage}]",
            exhausted.key
        ),
    ))
}

pub(super) fn handed_over<T>(outcome: RecordedOutcome<T>) -> Result<T, Error> {
    match outcome {
        RecordedOutcome::Answered(reply) => Ok(reply),
        RecordedOutcome::Failed(error) => Err(error),
    }
}

fn error_of(failure: &Failure) -> Error {
    Error::new(failure.code.clone(), failure.message.clone())
}

fn failed(failure: &Failure) -> RecordedOutcome {
    RecordedOutcome::Failed(error_of(failure))
}

/// Exponential, with a share that differs between requests so that they do not come back as one.
pub(super) fn backoff(attempt: u32, key: RequestKey) -> Duration {
    let doubled = FIRST_WAIT.saturating_mul(1 << attempt.saturating_sub(1).min(16));
    let spread = 0.75 + f64::from(key.0[(attempt % 32) as usize]) / 255.0 / 2.0;
    doubled.min(LONGEST_WAIT).mul_f64(spread)
}

impl From<LedgerError> for Stop {
    fn from(error: LedgerError) -> Self {
        Stop::Ledger(error)
    }
}

#[cfg(test)]
mod tests {
    use pacos_plugin::FinishReason;

    use super::*;
    use crate::models::{Attempt, BoxFuture, Provider};

    /// Answers with what it was asked.
    struct Echo;

    impl Provider for Echo {
        fn describe(&self) -> ModelDescription {
            ModelDescription {
                model: "echo".into(),
                context_length: None,
                completion: true,
                chat: false,
                json_schema: false,
                grammar: false,
                logprobs: false,
                logit_bias: false,
                count_tokens: false,
                log_likelihood: false,
            }
        }

        fn identity(&self) -> String {
            "echo".into()
        }

        fn attempt<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Attempt> {
            let Prompt::Completion(text) = &request.prompt else {
                unreachable!("chats are refused before they are sent");
            };
            let reply = Reply {
                text: text.clone(),
                finish_reason: FinishReason::Stop,
                usage: None,
                logprobs: Vec::new(),
            };
            Box::pin(async {
                Attempt {
                    status: Some(200),
                    body: Vec::new(),
                    outcome: Ok(reply),
                }
            })
        }

        fn prompt_token_bound(&self, _request: &Request) -> u64 {
            1
        }
    }

    fn service(dir: &std::path::Path) -> Service {
        let echo = Served {
            name: "echo".into(),
            provider: Arc::new(Echo),
            price: None,
            max_concurrency: 4,
            max_attempts: 1,
            requests_per_minute: None,
            tokens_per_minute: None,
        };
        let roles = BTreeMap::from([("teacher".to_owned(), "echo".to_owned())]);
        let ledger = Ledger::open(&dir.join("ledger.sqlite")).unwrap();
        Service::new(roles, vec![echo], Budget::default(), ledger).unwrap()
    }

    fn asker() -> Asker {
        Asker {
            stage: "generator".into(),
            place: "3".into(),
            seed: 1,
        }
    }

    #[tokio::test]
    async fn another_request_in_a_recorded_place_is_not_deterministic() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(dir.path());
        let ask = |text: &str| Request::completion(text);
        let first = service.complete(&asker(), 0, "teacher", &ask("a")).await;
        assert_eq!(first.unwrap().unwrap().text, "a");
        // The same is answered from the record.
        let again = service.complete(&asker(), 0, "teacher", &ask("a")).await;
        assert_eq!(again.unwrap().unwrap().text, "a");
        assert_eq!(service.ledger().spent().unwrap().requests, 1);
        let other = service.complete(&asker(), 0, "teacher", &ask("b")).await;
        assert_eq!(
            other.unwrap_err().to_string(),
            "plugin is not deterministic: request 0 of generator at 3 differs from the one \
             recorded. Restore the plugin that made the record, or start a new run"
        );
    }

    #[tokio::test]
    async fn ending_a_run_does_not_wait_for_a_pause() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(dir.path());
        let model = service.model("teacher").unwrap();
        model.pause(Duration::from_secs(3600));
        let request = Request::completion("a");
        let asker = asker();
        let waiting = service.complete(&asker, 0, "teacher", &request);
        let end = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            service.end();
        };
        let (stopped, ()) = tokio::join!(waiting, end);
        assert!(matches!(stopped, Err(Stop::Interrupted)));
        assert_eq!(service.ledger().spent().unwrap().requests, 0);
    }

    #[tokio::test]
    async fn what_a_model_cannot_do_is_said_before_anything_is_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(dir.path());
        let chat = Request::chat(vec![pacos_plugin::Message::user("hello")]);
        let refused = service.complete(&asker(), 0, "teacher", &chat).await;
        assert_eq!(refused.unwrap().unwrap_err().code, "unsupported");
        assert_eq!(service.ledger().calls_of("generator").unwrap(), 0);
    }
}
