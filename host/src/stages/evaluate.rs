//! Evaluation, first part: what each model makes of tasks that nobody was trained on.
//!
//! `student.base` and `student` are asked how likely they find the reference answers. The base
//! model is asked in its own chat template and in Alpaca's, so that what the student gained by
//! learning the format is told apart from what it gained beside it. Then each of them, and the
//! teacher, answers every task once; evaluators judge these answers ([`super::judge`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    sync::{Arc, Weak},
    time::Instant,
};

use futures::stream::{FuturesUnordered, StreamExt};
use pacos_plugin::{Error, Message, Request, Task};
use serde_json::json;

use super::{
    StageError,
    models::{BASE, FetchProgress, Models, STUDENT, ServeError, TEACHER},
    prepare::hash,
    train::STUDENT_FILES,
};
use crate::{
    fault,
    ledger::{AnswerRecord, Ledger, LedgerError, LikelihoodRecord},
    models::{Asker, Service, Stop},
    seed,
    trainer::config::TemplateName,
};

/// Why the models were not compared.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// A model could not be opened.
    #[error("evaluation: {0}")]
    Serve(#[from] ServeError),
    /// A model could not score an answer.
    #[error(
        "evaluation: {model} cannot score the reference answer of task {item}, counted from 0: {}. Take the task out of the [evaluation] file and go on with `--fork NEW`: the student is not trained again",
        error.message
    )]
    Score {
        /// Whose likelihood was asked.
        model: String,
        /// Which task, from 0.
        item: u64,
        /// Why it cannot.
        error: Error,
    },
    /// Before and after would be two unrelated models.
    #[error(
        "evaluation: the student was trained from files of sha256 {recorded}, and its base model is now `{found}`. Put the old files back, or train from the new ones with `--fork NEW`"
    )]
    OtherBase {
        /// What training began with.
        recorded: String,
        /// What is there.
        found: String,
    },
    /// An evaluator, a model, or the user.
    #[error(transparent)]
    Stage(#[from] StageError),
}

impl From<LedgerError> for EvaluateError {
    fn from(error: LedgerError) -> Self {
        EvaluateError::Stage(error.into())
    }
}

/// The parts of evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvaluatePart {
    /// Log-likelihoods of reference answers.
    Score,
    /// Answers.
    Answer,
    /// Judgements of answers.
    Judge,
}

impl fmt::Display for EvaluatePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            EvaluatePart::Score => "score",
            EvaluatePart::Answer => "answer",
            EvaluatePart::Judge => "judge",
        })
    }
}

/// Told how evaluation comes along.
pub trait EvaluateProgress: Send {
    /// So much of one part is done.
    fn at(&mut self, part: EvaluatePart, done: u64, total: u64);
}

/// How a task is put to a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Template {
    /// The model's own chat template.
    Chat,
    /// Alpaca's.
    Alpaca,
}

impl Template {
    /// In which template the model behind a role answers: the student as it was trained, everybody
    /// else as they are used to be asked.
    fn of(role: &str, chat: bool) -> Self {
        match (role, chat) {
            (STUDENT, _) | (_, false) => Template::Alpaca,
            _ => Template::Chat,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Template::Chat => "chat",
            Template::Alpaca => "alpaca",
        }
    }

    fn request(self, task: &Task) -> Request {
        match self {
            Template::Chat => {
                let text = match task.input.as_str() {
                    "" => task.instruction.clone(),
                    input => format!("{}\n\n{input}", task.instruction),
                };
                Request::chat(vec![Message::user(text)])
            }
            Template::Alpaca => {
                let prompt = TemplateName::Alpaca.prompt(&task.instruction, &task.input);
                Request::completion(prompt)
            }
        }
    }
}

/// What the model behind a role is asked to answer, greedily: it is the model that is compared, not
/// its luck. `chat` says whether it can hold a conversation.
pub(super) fn question(role: &str, chat: bool, task: &Task, max_tokens: u32) -> Request {
    Request {
        temperature: Some(0.0),
        max_tokens: Some(max_tokens),
        ..Template::of(role, chat).request(task)
    }
}

/// The stage in which the model behind a role scores and answers.
pub(super) fn stage_of(role: &str) -> String {
    format!("evaluate {role}")
}

/// What evaluation needs of a run.
pub(super) struct Subjects<'a> {
    pub(super) models: &'a Models,
    /// The student's folder.
    pub(super) trained: &'a Path,
    /// What the student's weights follow from.
    pub(super) trained_from: &'a str,
    pub(super) tasks: &'a [Task],
    /// Longest answer, in tokens.
    pub(super) max_tokens: u32,
    /// Most tasks that an evaluator may fail to judge.
    pub(super) max_failed: u64,
    pub(super) ledger: &'a Ledger,
}

impl Subjects<'_> {
    /// The roles that answer; those of one model together, so that it is opened once.
    fn groups(&self) -> Vec<BTreeSet<String>> {
        let of = |role: &str| BTreeSet::from([role.to_owned()]);
        let mut groups = vec![of(BASE), of(STUDENT)];
        let name = |role| self.models.model(role).map(|model| &model.name);
        if self.models.has(TEACHER) {
            if name(TEACHER) == name(BASE) {
                groups[0].insert(TEACHER.to_owned());
            } else {
                groups.push(of(TEACHER));
            }
        }
        groups
    }

    /// What the answers depend on, as far as it is known before a model is opened.
    pub(super) fn fingerprint(&self) -> BTreeMap<String, String> {
        let mut parts = BTreeMap::from([
            ("evaluation.tasks".to_owned(), hash(&self.tasks)),
            (
                "evaluation.max_tokens".to_owned(),
                self.max_tokens.to_string(),
            ),
            ("train".to_owned(), hash(&self.trained_from)),
        ]);
        for role in [STUDENT, TEACHER] {
            if let Some(source) = self.models.answers_as(role) {
                parts.insert(format!("roles.{role}"), source);
            }
        }
        parts
    }

    /// Scores and answers what the ledger does not have yet. Says whether there was anything.
    ///
    /// # Errors
    /// See [`EvaluateError`]; what was scored and answered stays.
    pub(super) async fn compare(&self, watch: &mut Watch<'_>) -> Result<bool, EvaluateError> {
        let fingerprint = json!(self.fingerprint()).to_string();
        let mut worked = false;
        for roles in self.groups() {
            let mut open = Vec::new();
            for role in &roles {
                let name = stage_of(role);
                if self.ledger.stage(&name)?.is_none_or(|(_, done)| !done) {
                    open.push((role, name));
                }
            }
            if open.is_empty() {
                continue;
            }
            worked = true;
            let service =
                self.models
                    .serve(&roles, Some(self.trained), self.ledger, watch.fetching)?;
            (watch.started)(Arc::downgrade(&service));
            if roles.contains(BASE) {
                self.check_base(&service)?;
            }
            for (role, name) in open {
                // Before the first row, so that no later recipe takes it for its own.
                self.ledger
                    .set_stage(name.clone(), fingerprint.clone(), false, 0.0)
                    .await?;
                let begun = Instant::now();
                let done = async {
                    if role != TEACHER {
                        self.score(&service, role, watch).await?;
                    }
                    self.answer(&service, role, watch).await
                }
                .await;
                let seconds = begun.elapsed().as_secs_f64();
                self.ledger
                    .set_stage(name, fingerprint.clone(), done.is_ok(), seconds)
                    .await?;
                done?;
            }
        }
        Ok(worked)
    }

    /// Refuses a base model whose files are not those that the student was trained from.
    fn check_base(&self, service: &Service) -> Result<(), EvaluateError> {
        let trained_from = self.ledger.meta(STUDENT_FILES)?;
        match (trained_from, service.identity(BASE)) {
            (Some(recorded), Some(found)) if !found.contains(&recorded) => {
                Err(EvaluateError::OtherBase {
                    recorded,
                    found: found.to_owned(),
                })
            }
            _ => Ok(()),
        }
    }

    /// Asks how likely the model finds the reference answers.
    async fn score(
        &self,
        service: &Service,
        role: &str,
        watch: &mut Watch<'_>,
    ) -> Result<(), EvaluateError> {
        let chat = service.describe(role).is_ok_and(|can| can.chat);
        let templates = match (role, chat) {
            (BASE, true) => [Template::Chat, Template::Alpaca].as_slice(),
            _ => &[Template::Alpaca],
        };
        let total = (templates.len() * self.tasks.len()) as u64;
        let mut done = 0;
        for template in templates {
            let recorded = self.ledger.likelihoods_of(role, template.name())?;
            done += recorded.len() as u64;
            let mut scores: FuturesUnordered<_> = (0_u64..)
                .zip(self.tasks)
                .filter(|(item, _)| !recorded.contains(item))
                .map(|(item, task)| async move {
                    let prompt = template.request(task).prompt;
                    let scored = service.log_likelihood(role, &prompt, &task.output).await;
                    (item, scored)
                })
                .collect();
            while let Some((item, scored)) = scores.next().await {
                let likelihood = scored.map_err(|error| match error.code.as_str() {
                    "interrupted" => StageError::from(Stop::Interrupted).into(),
                    _ => EvaluateError::Score {
                        model: role.to_owned(),
                        item,
                        error,
                    },
                })?;
                fault::point("likelihood:before-commit");
                self.ledger
                    .record_likelihood(LikelihoodRecord {
                        item,
                        model: role.to_owned(),
                        template: template.name().to_owned(),
                        log_likelihood: likelihood.sum,
                        tokens: u64::from(likelihood.tokens),
                    })
                    .await?;
                done += 1;
                watch.progress.at(EvaluatePart::Score, done, total);
            }
        }
        Ok(())
    }

    /// Has the model answer every task.
    async fn answer(
        &self,
        service: &Service,
        role: &str,
        watch: &mut Watch<'_>,
    ) -> Result<(), EvaluateError> {
        let chat = service.describe(role).is_ok_and(|can| can.chat);
        let max_tokens = self.max_tokens;
        let there = self.ledger.answers()?;
        let there: BTreeSet<u64> = there
            .iter()
            .filter(|answer| answer.model == role)
            .map(|answer| answer.item)
            .collect();
        let (total, mut done) = (self.tasks.len() as u64, there.len() as u64);
        let mut answers: FuturesUnordered<_> = (0_u64..)
            .zip(self.tasks)
            .filter(|(item, _)| !there.contains(item))
            .map(|(item, task)| async move {
                let asker = Asker {
                    stage: stage_of(role),
                    place: item.to_string(),
                    // Of the task alone: models behind two roles are asked once.
                    seed: seed::of_content(task),
                };
                let request = question(role, chat, task, max_tokens);
                (item, service.complete(&asker, 0, role, &request).await)
            })
            .collect();
        let mut stopped = None;
        while let Some((item, answered)) = answers.next().await {
            let outcome = match answered {
                Ok(outcome) => outcome,
                Err(stop) => {
                    // Nothing new is sent; what is in flight is paid for, so it is awaited.
                    service.end();
                    stopped.get_or_insert(stop);
                    continue;
                }
            };
            fault::point("answer:before-commit");
            self.ledger
                .record_answer(AnswerRecord {
                    item,
                    model: role.to_owned(),
                    outcome: outcome
                        .map(|reply| (reply.text, format!("{:?}", reply.finish_reason))),
                })
                .await?;
            fault::point("answer:after-commit");
            done += 1;
            watch.progress.at(EvaluatePart::Answer, done, total);
        }
        match stopped {
            Some(stop) => Err(StageError::from(stop).into()),
            None => Ok(()),
        }
    }
}

/// How evaluation is followed and stopped.
pub(super) struct Watch<'a> {
    pub(super) progress: &'a mut dyn EvaluateProgress,
    pub(super) fetching: FetchProgress<'a>,
    /// Given each service as it begins, so that it can be told to end.
    pub(super) started: &'a (dyn Fn(Weak<Service>) + Send + Sync),
}
