//! Evaluation, second part: evaluators judge the answers and sum up.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use futures::stream::{self, StreamExt};
use pacos_plugin::{Answer, Error, Item, Judgement, Metric};
use serde_json::json;

use super::{
    StageError,
    calls::{Accepted, Grant, UnitCalls, may_spend},
    evaluate::{EvaluateError, EvaluatePart, Subjects, Watch},
    run::roles_of,
    told::Told,
};
use crate::{
    counted::counted,
    fault,
    ledger::{ItemRecord, LedgerError},
    models::BEYOND_LIMITS,
    plugin::{CallError, Loaded},
    seed,
};

/// Tasks that an evaluator has in hand at a time. What it asks waits at its model, not here.
const AT_A_TIME: usize = 16;

impl Subjects<'_> {
    /// What one evaluator's judgements depend on.
    pub(super) fn judging_fingerprint(&self, evaluator: &Loaded) -> BTreeMap<String, String> {
        let mut parts = self.fingerprint();
        let path = &evaluator.recipe.path;
        parts.insert(format!("{path}.plugin"), evaluator.title());
        parts.insert(format!("{path}.sha256"), evaluator.sha256.clone());
        parts.insert(
            format!("{path}.config"),
            evaluator.recipe.config.to_string(),
        );
        for role in roles_of(std::iter::once(evaluator)) {
            if let Some(source) = self.models.answers_as(&role) {
                parts.insert(format!("roles.{role}"), source);
            }
        }
        parts
    }

    /// Has one evaluator judge what it has not judged yet, and sum up. Says whether there was
    /// anything to do.
    ///
    /// # Errors
    /// See [`EvaluateError`]; what was judged stays.
    pub(super) async fn judge(
        &self,
        index: u32,
        evaluator: &Loaded,
        watch: &mut Watch<'_>,
    ) -> Result<bool, EvaluateError> {
        let name = format!("evaluators.{index}");
        let was_done = self.ledger.stage(&name)?.is_some_and(|(_, done)| done);
        let owed = self.owed(index, evaluator)?;
        if was_done && owed.is_empty() {
            return Ok(false);
        }
        let fingerprint = json!(self.judging_fingerprint(evaluator)).to_string();
        // Before the first judgement, so that no later evaluator takes it for its own.
        self.ledger
            .set_stage(name.clone(), fingerprint.clone(), false, 0.0)
            .await?;
        let begun = Instant::now();
        let done = self.judge_all(index, evaluator, watch).await;
        let seconds = begun.elapsed().as_secs_f64();
        self.ledger
            .set_stage(name, fingerprint, done.is_ok(), seconds)
            .await?;
        done?;
        // What it may spend may still be too little for each of them.
        Ok(!was_done || self.owed(index, evaluator)? != owed)
    }

    /// The tasks that were not judged because the evaluator had spent what it may, if it may spend
    /// more now.
    fn owed(&self, index: u32, evaluator: &Loaded) -> Result<BTreeSet<u64>, LedgerError> {
        let stage = format!("evaluators.{index}");
        match may_spend(&evaluator.recipe.limits, self.ledger, &stage)? {
            true => self.ledger.items_failed_with(index, BEYOND_LIMITS),
            false => Ok(BTreeSet::new()),
        }
    }

    async fn judge_all(
        &self,
        index: u32,
        evaluator: &Loaded,
        watch: &mut Watch<'_>,
    ) -> Result<(), EvaluateError> {
        let mut there = self.ledger.items_of(index)?;
        for item in self.owed(index, evaluator)? {
            there.remove(&item);
        }
        let (total, mut done) = (self.tasks.len() as u64, there.len() as u64);
        let items: Vec<Item> = self
            .items()?
            .into_iter()
            .filter(|item| !there.contains(&item.index))
            .collect();
        if !items.is_empty() {
            let roles = roles_of(std::iter::once(evaluator));
            let service =
                self.models
                    .serve(&roles, Some(self.trained), self.ledger, watch.fetching)?;
            (watch.started)(Arc::downgrade(&service));
            let grant = Grant::new(evaluator, format!("evaluators.{index}"), service.clone())?;
            let mut judged = stream::iter(items)
                .map(|item| judge_item(evaluator, &grant, item))
                .buffer_unordered(AT_A_TIME);
            let (mut stopped, told) = (None, Told::default());
            while let Some((item, outcome, seconds)) = judged.next().await {
                let outcome = match outcome {
                    Ok(outcome) => outcome,
                    Err(stop) => {
                        // Nothing new is sent; what is in flight is paid for, so it is awaited.
                        service.end();
                        stopped.get_or_insert(stop);
                        continue;
                    }
                };
                if let Err(error) = &outcome
                    && told.is_new(&error.message)
                {
                    let evaluator = evaluator.title();
                    tracing::warn!(evaluator, item, "task not judged: {}", error.message);
                }
                fault::point("judgements:before-commit");
                self.ledger
                    .record_item(ItemRecord {
                        evaluator: index,
                        item,
                        outcome,
                        seconds,
                    })
                    .await?;
                fault::point("judgements:after-commit");
                done += 1;
                watch.progress.at(EvaluatePart::Judge, done, total);
            }
            for (reason, count) in told.repeated() {
                let evaluator = evaluator.title();
                tracing::warn!(
                    evaluator,
                    "{count} tasks were not judged for this reason: {reason}"
                );
            }
            if let Some(stop) = stopped {
                return Err(StageError::Stopped(stop).into());
            }
        }
        let (count, last) = self.ledger.failed_items(index)?;
        if count > self.max_failed {
            return Err(StageError::TooManyItems {
                evaluator: evaluator.title(),
                count,
                tasks: total,
                last: last.unwrap_or_default(),
            }
            .into());
        }
        let metrics = self.summarise(index, evaluator).await?;
        self.ledger.record_metrics(index, metrics).await?;
        Ok(())
    }

    /// Every task with the answers that there are.
    fn items(&self) -> Result<Vec<Item>, EvaluateError> {
        let mut items: Vec<Item> = (0_u64..)
            .zip(self.tasks)
            .map(|(index, task)| Item {
                index,
                seed: seed::of_content(task),
                task: task.clone(),
                answers: Vec::new(),
            })
            .collect();
        for answer in self.ledger.answers()? {
            let item = usize::try_from(answer.item)
                .ok()
                .and_then(|item| items.get_mut(item));
            if let (Some(item), Ok((text, _))) = (item, answer.outcome) {
                item.answers.push(Answer {
                    model: answer.model,
                    text,
                });
            }
        }
        Ok(items)
    }

    async fn summarise(
        &self,
        index: u32,
        evaluator: &Loaded,
    ) -> Result<Vec<Metric>, EvaluateError> {
        let judgements = self.ledger.judgements_of(index)?;
        let failed = |doing: &str, error| {
            EvaluateError::Stage(StageError::Plugin {
                plugin: evaluator.title(),
                doing: doing.to_owned(),
                error,
            })
        };
        let mut instance = evaluator
            .instance(&[])
            .await
            .map_err(|error| failed("starting", error))?;
        let count = counted(judgements.len(), "judgement", "judgements");
        let doing = format!("summing up {count}");
        let metrics = instance
            .summarise(judgements)
            .await
            .map_err(|error| failed(&doing, error))?;
        let strange = metrics.iter().find(|metric| {
            !metric.value.is_finite() || metric.standard_error.is_some_and(|e| !e.is_finite())
        });
        match strange {
            Some(metric) => {
                let what = format!(
                    "metric `{}` is {} with a standard error of {:?}",
                    metric.name, metric.value, metric.standard_error
                );
                Err(failed(&doing, CallError::Invalid(what)))
            }
            None => Ok(metrics),
        }
    }
}

type Judged = (
    u64,
    Result<Result<Vec<Judgement>, Error>, Arc<crate::models::Stop>>,
    f64,
);

/// One task, tried once more on a fresh instance where the first one broke.
async fn judge_item(evaluator: &Loaded, grant: &Arc<Grant>, item: Item) -> Judged {
    let begun = Instant::now();
    let mut patience = 1;
    let index = item.index;
    let outcome = loop {
        let judged = async {
            let mut instance = evaluator.instance(&[]).await?;
            let calls = UnitCalls::new(grant, index.to_string(), item.seed, Accepted::default(), 0);
            let judgements = instance.judge_item(item.clone(), calls, patience).await?;
            check(&judgements, index)?;
            Ok(judgements)
        };
        match judged.await {
            Ok(judgements) => break Ok(Ok(judgements)),
            Err(CallError::Stopped(stop)) => break Err(stop),
            Err(CallError::Plugin(error)) if !error.retryable => break Ok(Err(error)),
            Err(error) if patience > 1 => {
                break Ok(Err(Error::new(error.code().to_owned(), error.to_string())));
            }
            // Once more; the model calls that it repeats are answered from the ledger.
            Err(_) => patience = 4,
        }
    };
    let outcome =
        outcome.map(|judged| judged.map_err(|error| grant.reason(&index.to_string(), error)));
    (index, outcome, begun.elapsed().as_secs_f64())
}

/// What no evaluator may answer.
pub(crate) fn check(judgements: &[Judgement], item: u64) -> Result<(), CallError> {
    for judgement in judgements {
        if judgement.item != item {
            return Err(CallError::Invalid(format!(
                "a judgement of task {} where task {item} was asked",
                judgement.item
            )));
        }
        let strange = judgement.scores.iter().find(|s| !s.value.is_finite());
        if let Some(score) = strange {
            let (name, value) = (&score.name, score.value);
            return Err(CallError::Invalid(format!("score `{name}` is {value}")));
        }
    }
    Ok(())
}
