//! Generation and filtering: units in any order, candidates in unit order.
//!
//! Unit *i* may begin when unit *i - window* has been through the filters, and sees what was
//! accepted up to then. Units are consumed strictly in order, so the dataset is the same at any
//! concurrency; the run ends at the first unit that reaches the target.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::Instant,
};

use pacos_plugin::{Candidate, CandidateId, Decision, Error, Payload, Proposals, Task, Unit};
use tokio::task::JoinSet;

use super::{
    StageError,
    calls::{Accepted, Grant, UnitCalls},
    filter::FilterStage,
    told::Told,
};
use crate::{
    fault,
    ledger::{Consumed, Ledger, UnitRecord, VerdictRecord},
    manifest::{Dataset, Recipe},
    models::{Service, Stop},
    plugin::{CallError, Loaded, check_rejects},
    seed,
};

/// So many units in a row that fail for good end the run: the generator is broken.
const FAILED_UNITS_IN_A_ROW: u64 = 10;

/// Told how generation comes along.
pub trait Progress: Send + Sync {
    /// Units are about to be done; so many examples are there.
    fn begin(&self, accepted: u64, target: u64);
    /// A unit has been through the filters.
    fn unit(&self, unit: u64, candidates: u64, accepted: u64, target: u64);
    /// No more units are done.
    fn end(&self);
}

/// What generation came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Units that have been through the filters.
    pub units: u64,
    /// Accepted examples.
    pub accepted: u64,
}

/// The generator and its filters, loaded.
pub struct Generate {
    seed: u64,
    window: u64,
    dataset: Dataset,
    seeds: Arc<[Task]>,
    generator: Arc<Loaded>,
    grant: Arc<Grant>,
    /// Why units failed.
    told: Arc<Told>,
    filters: Vec<FilterStage>,
    ledger: Ledger,
    service: Arc<Service>,
}

/// A unit that has ended, on its way to the filters.
type Ended = (u64, Result<Proposals, Error>);

impl Generate {
    /// Takes the loaded plugins of a recipe.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn new(
        recipe: &Recipe,
        seeds: Vec<Task>,
        generator: Loaded,
        filters: Vec<Loaded>,
        service: Arc<Service>,
    ) -> Result<Self, StageError> {
        let seeds: Arc<[Task]> = seeds.into();
        let ledger = service.ledger().clone();
        let grant = Grant::new(&generator, "generator".into(), service.clone())?;
        let filters = (0_u32..)
            .zip(filters)
            .map(|(index, plugin)| {
                let grant = Grant::new(&plugin, format!("filters.{index}"), service.clone())?;
                let (seeds, ledger) = (seeds.clone(), ledger.clone());
                Ok(FilterStage::new(plugin, index, grant, seeds, ledger))
            })
            .collect::<Result<_, StageError>>()?;
        Ok(Generate {
            seed: recipe.seed,
            window: recipe.generator.window,
            dataset: recipe.dataset.clone(),
            seeds,
            generator: Arc::new(generator),
            grant,
            told: Arc::default(),
            filters,
            ledger,
            service,
        })
    }

    /// Runs from where the ledger ends until the target is reached.
    ///
    /// # Errors
    /// See [`StageError`]; the ledger holds everything up to then.
    pub async fn run(mut self, progress: &dyn Progress) -> Result<Finished, StageError> {
        let mut totals = self.ledger.consumed()?;
        let accepted: Accepted = Accepted::default();
        *accepted.write().unwrap_or_else(PoisonError::into_inner) = self.ledger.examples()?;
        let mut total = self.judge_put_aside(&accepted).await?;
        let mut quarantined = self.ledger.quarantined()?;
        let mut waiting: BTreeMap<u64, Result<Proposals, Error>> = BTreeMap::new();
        let mut under_way: JoinSet<Result<Ended, StageError>> = JoinSet::new();
        let mut next = totals.len() as u64;
        let mut failed_in_a_row = 0;
        if total < self.dataset.target {
            progress.begin(total, self.dataset.target);
        }
        let result = loop {
            let consumed = totals.len() as u64;
            if total >= self.dataset.target {
                break Ok(Finished {
                    units: consumed,
                    accepted: total,
                });
            }
            if let Err(error) = self.patience(&totals, total) {
                break Err(error);
            }
            let most = self.dataset.max_units.unwrap_or(u64::MAX);
            while next < (consumed + self.window).min(most) {
                let visible = self.visible(next, &totals);
                under_way.spawn(self.unit(next, visible, &accepted));
                next += 1;
            }
            if let Some(outcome) = waiting.remove(&consumed) {
                failed_in_a_row = match &outcome {
                    Err(error) if failed_in_a_row + 1 >= FAILED_UNITS_IN_A_ROW => {
                        break Err(StageError::Plugin {
                            plugin: self.generator.title(),
                            doing: format!("{FAILED_UNITS_IN_A_ROW} units in a row"),
                            error: CallError::Plugin(error.clone()),
                        });
                    }
                    Err(_) => failed_in_a_row + 1,
                    Ok(_) => 0,
                };
                let candidates = outcome.map(|proposals| proposals.candidates);
                match self
                    .consume(consumed, candidates.unwrap_or_default(), total, &accepted)
                    .await
                {
                    Ok(step) => {
                        total = step.total;
                        totals.push(total);
                        quarantined += step.quarantined;
                        progress.unit(consumed, step.candidates, step.total, self.dataset.target);
                        if quarantined > self.dataset.max_quarantined {
                            break Err(StageError::TooManyQuarantined {
                                count: quarantined,
                                limit: self.dataset.max_quarantined,
                                last: match step.last_error.as_str() {
                                    // They broke it in an earlier stretch of the run.
                                    "" => self.ledger.last_quarantine()?,
                                    last => last.to_owned(),
                                },
                            });
                        }
                    }
                    Err(error) => break Err(error),
                }
                continue;
            }
            match under_way.join_next().await {
                Some(Ok(Ok((unit, outcome)))) => {
                    waiting.insert(unit, outcome);
                }
                Some(Ok(Err(error))) => break Err(error),
                Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
                None => {
                    break Err(StageError::OutOfUnits {
                        units: consumed,
                        accepted: total,
                        target: self.dataset.target,
                    });
                }
            }
        };
        // Nothing new is sent; what is in flight is paid for, so it is awaited and recorded.
        self.service.end();
        while under_way.join_next().await.is_some() {}
        progress.end();
        for (reason, count) in self.told.repeated() {
            tracing::warn!("{count} units failed for this reason: {reason}");
        }
        for filter in &self.filters {
            filter.tell_repeated();
        }
        result
    }

    /// Judges what was put aside only because its filter had spent what it may, where that filter
    /// may spend more now. It is accepted late: units that have begun see nothing of it, so that
    /// they ask what they asked before. Says how many examples there are.
    async fn judge_put_aside(&mut self, accepted: &Accepted) -> Result<u64, StageError> {
        // By unit, then by the filter that has to say something.
        let mut waiting: BTreeMap<u64, BTreeMap<u32, Vec<Candidate>>> = BTreeMap::new();
        for filter in &self.filters {
            for candidate in filter.put_aside()? {
                let of_unit = waiting.entry(candidate.id.unit).or_default();
                of_unit.entry(filter.index()).or_default().push(candidate);
            }
        }
        let mut total = self.ledger.accepted()?;
        for candidates in waiting.into_values() {
            if total >= self.dataset.target {
                break;
            }
            let Filtered { verdicts, kept, .. } = self.filter(candidates).await?;
            total += kept.len() as u64;
            fault::point("late-verdicts:before-commit");
            self.ledger.record_late(verdicts, kept.clone()).await?;
            fault::point("late-verdicts:after-commit");
            for filter in &mut self.filters {
                filter.committed();
                // What comes next is judged as after a restart: by all verdicts, in order.
                filter.rebuild();
            }
            let mut accepted = accepted.write().unwrap_or_else(PoisonError::into_inner);
            accepted.extend(kept);
        }
        Ok(total)
    }

    /// How much of what is accepted unit `unit` may see.
    fn visible(&self, unit: u64, totals: &[u64]) -> u64 {
        unit.checked_sub(self.window)
            .and_then(|last| totals.get(usize::try_from(last).ok()?))
            .copied()
            .unwrap_or(0)
    }

    /// Refuses to go on where nothing comes of it.
    fn patience(&self, totals: &[u64], total: u64) -> Result<(), StageError> {
        let patience = usize::try_from(self.dataset.patience).unwrap_or(usize::MAX);
        let Some(before) = totals.len().checked_sub(patience) else {
            return Ok(());
        };
        let earlier = before.checked_sub(1).map_or(0, |unit| totals[unit]);
        if total > earlier {
            return Ok(());
        }
        Err(StageError::Barren {
            units: self.dataset.patience,
            accepted: total,
            target: self.dataset.target,
            reasons: self.ledger.reasons(before as u64)?,
        })
    }

    /// Does one unit, or finds it in the ledger.
    fn unit(
        &self,
        index: u64,
        visible: u64,
        accepted: &Accepted,
    ) -> impl Future<Output = Result<Ended, StageError>> + Send + 'static {
        let unit = Unit {
            index,
            seed: seed::derive(self.seed, "unit", index),
            accepted: visible,
        };
        let (generator, grant) = (self.generator.clone(), self.grant.clone());
        let (seeds, ledger) = (self.seeds.clone(), self.ledger.clone());
        let (accepted, told) = (accepted.clone(), self.told.clone());
        async move {
            if let Some(record) = ledger.unit(index)? {
                return Ok((index, record.outcome));
            }
            let started = Instant::now();
            let mut patience = 1;
            let outcome = loop {
                let place = index.to_string();
                let calls = UnitCalls::new(&grant, place, unit.seed, accepted.clone(), visible);
                // A fresh instance a unit: nothing can leak from one to the next.
                let call = async {
                    let mut instance = generator.instance(&seeds).await?;
                    let proposals = instance.generate(unit, calls, patience).await?;
                    check_rejects(&proposals)?;
                    Ok(proposals)
                };
                match call.await {
                    Ok(proposals) => break Ok(proposals),
                    Err(CallError::Stopped(stop)) => return Err(StageError::Stopped(stop)),
                    Err(CallError::Plugin(error)) if !error.retryable || patience > 1 => {
                        break Err(error);
                    }
                    Err(error) if patience > 1 => {
                        break Err(Error::new(error.code().to_owned(), error.to_string()));
                    }
                    // Once more; the model calls that it repeats are answered from the ledger.
                    Err(_) => patience = 4,
                }
            };
            if let Err(error) = &outcome
                && told.is_new(&error.message)
            {
                tracing::warn!(
                    unit = index,
                    code = error.code,
                    "unit failed: {}",
                    error.message
                );
            }
            let record = UnitRecord {
                outcome: outcome.clone(),
            };
            fault::point("unit:before-commit");
            ledger
                .record_unit(index, record, started.elapsed().as_secs_f64())
                .await?;
            fault::point("unit:after-commit");
            Ok((index, outcome))
        }
    }

    /// Takes candidates of one unit through the filters, each from the filter on under whose number
    /// it stands.
    async fn filter(
        &mut self,
        mut entering: BTreeMap<u32, Vec<Candidate>>,
    ) -> Result<Filtered, StageError> {
        let mut current: Vec<Candidate> = Vec::new();
        let mut verdicts = Vec::new();
        let mut quarantined = 0;
        let mut last_error = String::new();
        for filter in &mut self.filters {
            current.extend(entering.remove(&filter.index()).unwrap_or_default());
            current.sort_by_key(|candidate| candidate.id.n);
            let judgements = filter.judge(&current).await?;
            let mut kept = Vec::with_capacity(current.len());
            for (mut candidate, judgement) in current.into_iter().zip(judgements) {
                match &judgement {
                    Ok(verdict) => match &verdict.decision {
                        Decision::Keep => kept.push(candidate.clone()),
                        Decision::Drop => {}
                        Decision::Edit(payload) => {
                            candidate.payload = payload.clone();
                            candidate.seed = seed::of_content(payload);
                            kept.push(candidate.clone());
                        }
                    },
                    Err(error) => {
                        quarantined += 1;
                        last_error.clone_from(&error.message);
                    }
                }
                verdicts.push(VerdictRecord {
                    filter: filter.index(),
                    plugin: filter.name(),
                    id: candidate.id,
                    verdict: judgement,
                });
            }
            current = kept;
        }
        // A recipe without filters keeps everything.
        current.extend(entering.into_values().flatten());
        let kept = current.into_iter();
        Ok(Filtered {
            verdicts,
            kept: kept
                .map(|candidate| (candidate.id, candidate.payload))
                .collect(),
            quarantined,
            last_error,
        })
    }

    /// Takes one unit's candidates through the filters and records what came of them.
    async fn consume(
        &mut self,
        unit: u64,
        proposals: Vec<pacos_plugin::Proposal>,
        total: u64,
        accepted: &Accepted,
    ) -> Result<Step, StageError> {
        let candidates: Vec<Candidate> = (0..)
            .zip(proposals)
            .map(|(n, proposal)| Candidate {
                id: CandidateId { unit, n },
                seed: seed::of_content(&proposal.payload),
                payload: proposal.payload,
                attributes: proposal.attributes,
                parents: proposal.parents,
            })
            .collect();
        let count = candidates.len() as u64;
        let Filtered {
            verdicts,
            kept,
            quarantined,
            last_error,
        } = self.filter(BTreeMap::from([(0, candidates)])).await?;
        let total = total + kept.len() as u64;
        fault::point("verdicts:before-commit");
        self.ledger
            .record_consumed(Consumed {
                unit,
                verdicts,
                accepted: kept.clone(),
                accepted_total: total,
            })
            .await?;
        fault::point("verdicts:after-commit");
        for filter in &mut self.filters {
            filter.committed();
        }
        accepted
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(kept);
        Ok(Step {
            candidates: count,
            total,
            quarantined,
            last_error,
        })
    }
}

/// What the filters made of candidates.
struct Filtered {
    verdicts: Vec<VerdictRecord>,
    /// What all of them kept, in the form that they left it.
    kept: Vec<(CandidateId, Payload)>,
    quarantined: u64,
    last_error: String,
}

/// What consuming one unit came to.
struct Step {
    candidates: u64,
    total: u64,
    quarantined: u64,
    last_error: String,
}

impl From<Stop> for StageError {
    fn from(stop: Stop) -> Self {
        StageError::Stopped(Arc::new(stop))
    }
}
