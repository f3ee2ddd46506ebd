//! Wrong plugins: each breaks one promise, and the check of that promise must see it. A check that
//! no mutant fails would be one that cannot fail.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use pacos_plugin::{
    Attribute, Candidate, CandidateId, Decision, Description, Diagnostic, Error, Item, Judged,
    Judgement, Message, Metric, Origin, Outcome as Winner, Payload, Place, Proposal, Proposals,
    Reject, Reply, Request, Score, Task, Unit, Verdict,
};
use serde_json::{Map, Value};

use super::{Outcome, Report, check, checks, plain_seeds};
use crate::{
    kit::{
        Driver, Judging, lines,
        script::{self, Replies},
    },
    models::BoxFuture,
    plugin::{CallError, HostCalls, Instance, Loaded, Refusal, Stage},
};

/// A plugin that keeps every promise but one; the empty name breaks none.
struct Mutant {
    breaks: &'static str,
    stage: Stage,
    /// Instances made before this one.
    before: u32,
    configured: bool,
    /// Words of what was kept, and of whom: the state of the stateful filter.
    kept: Vec<(CandidateId, String)>,
    calls: u32,
}

type Answer<'a, T> = BoxFuture<'a, Result<T, CallError>>;

fn at_once<'a, T: Send + 'a>(result: Result<T, CallError>) -> Answer<'a, T> {
    Box::pin(async move { result })
}

fn trap<T>() -> Result<T, CallError> {
    Err(CallError::Trap("told to".into()))
}

/// The first word of a record, its only feature.
fn first_word(payload: &Payload) -> String {
    let text = match payload {
        Payload::Task(task) => &task.instruction,
        Payload::Chat(messages) => messages
            .first()
            .map_or("", |Message { content, .. }| content),
    };
    text.split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned()
}

async fn ask(calls: &dyn HostCalls, role: &str, prompt: String) -> Result<Reply, Error> {
    match calls
        .complete_many(role, vec![Request::completion(prompt)])
        .await
    {
        Ok(mut replies) => replies.pop().expect("one request has one reply"),
        Err(Refusal::Error(error)) => Err(error),
        Err(Refusal::Stop(stop)) => panic!("{stop}"),
    }
}

impl Mutant {
    fn is(&self, name: &str) -> bool {
        self.breaks == name
    }

    fn diagnostics(&self, config: &str) -> Result<Vec<Diagnostic>, CallError> {
        let table: Map<String, Value> = match serde_json::from_str(config) {
            Ok(table) => table,
            Err(_) if self.is("configure-malformed") => return trap(),
            Err(error) => return Ok(vec![Diagnostic::error("", error.to_string())]),
        };
        let mut found = Vec::new();
        if self.is("configure-accepts") && !table.contains_key("needed") {
            found.push(Diagnostic::error("needed", "missing field `needed`"));
        }
        for (key, value) in &table {
            match key.as_str() {
                "words" if self.is("configure-wrong-type") => {}
                "words" if !value.is_u64() => {
                    found.push(Diagnostic::error("words", "expected a whole number"));
                }
                "words" => {}
                _ if self.is("configure-unknown-key") => {}
                key => found.push(Diagnostic::error("", format!("unknown field `{key}`"))),
            }
        }
        Ok(found)
    }

    /// Keeps a record unless its first word was kept before.
    fn verdict(&mut self, candidate: &Candidate, position: usize, batch: usize) -> Verdict {
        let word = first_word(&candidate.payload);
        let stateful = !self.is("filter-order") && !self.is("stateless");
        let remembered = self.kept.iter().find(|(_, kept)| *kept == word);
        let remembered = remembered.map(|(id, _)| *id);
        let mut verdict = match remembered {
            Some(id) if stateful || self.is("filter-order") => {
                Verdict::drop("seen-before", "").nearest(Origin::Candidate(id), 1.0)
            }
            _ => {
                self.kept.push((candidate.id, word));
                Verdict::keep()
            }
        }
        .score("words", 1.0);
        if self.is("filter-verdict-form") && position + 1 == batch {
            verdict.code = "Not Kebab".into();
        }
        if self.is("filter-batches") && batch > 1 && position == 0 {
            verdict.decision = Decision::Drop;
        }
        if self.is("filter-repeatable") {
            verdict.message = format!("instance {}", self.before);
        }
        verdict
    }
}

impl Instance for Mutant {
    fn describe(&mut self) -> Answer<'_, Description> {
        let mut about = Description::new("mutant", "0.1.0");
        about.config_schema =
            r#"{"type":"object","properties":{"words":{"type":"integer"}}}"#.into();
        about.stateful =
            self.stage == Stage::Filter && !self.is("filter-order") && !self.is("stateless");
        if self.stage != Stage::Filter {
            about.capabilities = vec!["models:teacher".into()];
        }
        match self.breaks {
            "describe-name" => about.version = "1".into(),
            "describe-capabilities" => about.capabilities.push("files:/etc".into()),
            "describe-schema" => about.config_schema = "true".into(),
            "describe-stable" if self.before > 0 => about.version = "0.1.1".into(),
            _ => {}
        }
        at_once(Ok(about))
    }

    fn configure<'a>(&'a mut self, config: &'a str) -> Answer<'a, Vec<Diagnostic>> {
        let found = self.diagnostics(config);
        self.configured = found.as_ref().is_ok_and(Vec::is_empty);
        at_once(found)
    }

    fn start<'a>(&'a mut self, seeds: &'a [Task]) -> Answer<'a, ()> {
        assert!(self.configured);
        at_once(match self.is("generator-any-seeds") && seeds.is_empty() {
            true => trap(),
            false => Ok(()),
        })
    }

    fn generate(
        &mut self,
        unit: Unit,
        calls: Arc<dyn HostCalls>,
        _patience: u32,
    ) -> Answer<'_, Proposals> {
        Box::pin(async move {
            self.calls += 1;
            let role = match self.is("generator-roles") {
                true => "judge",
                false => "teacher",
            };
            let prompt = match self.breaks {
                "generator-repeatable" => format!("{} {}", unit.seed, self.before),
                "generator-order" => format!("{} {}", unit.seed, self.calls),
                _ => unit.seed.to_string(),
            };
            let start = match self.is("generator-accepted") {
                true => unit.accepted + 1,
                false => 0,
            };
            let accepted = calls
                .accepted(start, 4)
                .map_err(|_| CallError::Trap("refused".into()))?;
            let reply = match ask(&*calls, role, prompt).await {
                Ok(reply) => reply,
                Err(error) => return Err(CallError::Plugin(error)),
            };
            if self.is("generator-any-reply") && reply.text.is_empty() {
                return trap();
            }
            let length = u32::try_from(reply.text.len()).expect("replies are short");
            let place = |more| {
                Some(Place {
                    ordinal: 0,
                    start: 0,
                    end: length + more,
                })
            };
            let more = u32::from(self.is("generator-places"));
            let parent = match (self.is("generator-parents"), accepted.first()) {
                (true, _) => Origin::Seed(1_000_000),
                (false, Some(example)) => Origin::Candidate(example.id),
                (false, None) => Origin::Seed(0),
            };
            let code = match self.is("generator-codes") {
                true => "",
                false => "no-task",
            };
            Ok(Proposals {
                candidates: vec![Proposal {
                    payload: Payload::Task(Task::new(reply.text, "", "")),
                    attributes: Vec::new(),
                    parents: vec![parent],
                    place: place(more),
                }],
                rejects: vec![Reject {
                    code: code.into(),
                    message: String::new(),
                    place: place(0),
                }],
            })
        })
    }

    fn restore(&mut self, history: Vec<Judged>) -> Answer<'_, ()> {
        if !self.is("filter-restore") {
            let kept = history
                .iter()
                .filter(|judged| judged.verdict.decision == Decision::Keep);
            self.kept = kept
                .map(|judged| (judged.candidate.id, first_word(&judged.candidate.payload)))
                .collect();
        }
        at_once(Ok(()))
    }

    fn judge_batch(
        &mut self,
        batch: Vec<Candidate>,
        calls: Arc<dyn HostCalls>,
        _patience: u32,
    ) -> Answer<'_, Vec<Verdict>> {
        Box::pin(async move {
            if self.is("filter-empty-batch") && batch.is_empty() {
                return trap();
            }
            if self.is("filter-roles") {
                // The denial is passed over, as a plugin may.
                let _ = ask(&*calls, "judge", "Is it good?".into()).await;
            }
            let chat_breaks = self.is("filter-any-record");
            let empty = |c: &Candidate| matches!(&c.payload, Payload::Chat(m) if m.is_empty());
            if chat_breaks && batch.iter().any(empty) {
                return trap();
            }
            let count = batch.len();
            let verdicts = batch.iter().enumerate();
            Ok(verdicts.map(|(n, c)| self.verdict(c, n, count)).collect())
        })
    }

    fn judge_item(
        &mut self,
        item: Item,
        calls: Arc<dyn HostCalls>,
        _patience: u32,
    ) -> Answer<'_, Vec<Judgement>> {
        Box::pin(async move {
            self.calls += 1;
            if self.is("evaluator-any-item") && item.task.output.contains('\0') {
                return trap();
            }
            let role = match self.is("evaluator-roles") {
                true => "judge",
                false => "teacher",
            };
            let said = ask(&*calls, role, item.task.instruction.clone()).await;
            let winner = match said {
                Ok(reply) if reply.text.contains("[[B]]") => Winner::Second,
                Ok(_) => Winner::First,
                Err(_) => Winner::Refused,
            };
            let second = match self.is("evaluator-judgement-form") {
                true => "nobody",
                false => "student.base",
            };
            let mark = match self.breaks {
                "evaluator-repeatable" => self.before,
                "evaluator-order" => self.calls,
                _ => 0,
            };
            Ok(vec![Judgement {
                item: item.index,
                first: "student".into(),
                second: second.into(),
                outcome: winner,
                flipped: false,
                scores: vec![Score {
                    name: "mark".into(),
                    value: f64::from(mark),
                }],
                attributes: Vec::new(),
            }])
        })
    }

    fn summarise(&mut self, judgements: Vec<Judgement>) -> Answer<'_, Vec<Metric>> {
        let of_people = |judgement: &Judgement| {
            let mut attributes = judgement.attributes.iter();
            attributes.any(|Attribute { name, .. }| name == "judge")
        };
        if self.is("evaluator-people") && judgements.iter().any(of_people) {
            return at_once(trap());
        }
        let wins = judgements
            .iter()
            .filter(|j| j.outcome == Winner::First)
            .count() as f64;
        let value = match (self.breaks, judgements.first()) {
            ("evaluator-summary-form", _) => f64::NAN,
            ("evaluator-summary-order", Some(first)) => first.item as f64,
            _ => wins,
        };
        at_once(Ok(vec![Metric {
            name: "wins".into(),
            value,
            standard_error: None,
            n: judgements.len() as u64,
            attributes: Vec::new(),
        }]))
    }
}

async fn report(stage: Stage, breaks: &'static str) -> Report {
    let made = AtomicU32::new(0);
    let make = move || -> Box<dyn Instance> {
        Box::new(Mutant {
            breaks,
            stage,
            before: made.fetch_add(1, Ordering::Relaxed),
            configured: false,
            kept: Vec::new(),
            calls: 0,
        })
    };
    let mut loaded = Loaded::of(stage, make).await.expect("it describes itself");
    check(&mut loaded, &plain_seeds()).await
}

fn failed(report: &Report) -> Vec<&str> {
    let failed = |outcome: &Outcome| matches!(outcome, Outcome::Failed(_));
    let checks = report.checks.iter();
    checks
        .filter(|(_, outcome)| failed(outcome))
        .map(|(check, _)| check.name)
        .collect()
}

/// A driver of a mutant, without models.
async fn driven<T>(
    stage: Stage,
    breaks: &'static str,
    drive: impl AsyncFnOnce(Driver<'_>) -> T,
) -> T {
    let make = move || -> Box<dyn Instance> {
        Box::new(Mutant {
            breaks,
            stage,
            before: 0,
            configured: false,
            kept: Vec::new(),
            calls: 0,
        })
    };
    let plugin = Loaded::of(stage, make).await.expect("it describes itself");
    let model = |_: &str, _: &Request, _: usize| Ok(script::reply("A task."));
    drive(Driver {
        plugin: &plugin,
        seeds: &plain_seeds(),
        replies: Arc::new(Replies::Made {
            model,
            server: |_| Err(Error::new("no-answer", "")),
        }),
    })
    .await
}

#[tokio::test]
async fn a_run_refuses_the_codes_that_the_kit_refuses() {
    let records: Vec<Candidate> =
        lines::parse(r#"{"instruction": "Name a river.", "output": "Po"}"#)
            .and_then(|line| lines::candidate(&line, 0))
            .into_iter()
            .collect();
    let verdicts = driven(Stage::Filter, "filter-verdict-form", async |driver| {
        Judging::new(driver).judge(&records).await
    });
    let told = verdicts.await.remove(0).unwrap_err();
    assert_eq!(
        (told.code(), told.to_string().as_str()),
        (
            "invalid-answer",
            "its answer is not valid: a verdict has the code \"Not Kebab\"; codes are kebab-case, such as `too-short`"
        )
    );
    let unit = lines::unit_number(0);
    let proposals = driven(Stage::Generator, "generator-codes", async |driver| {
        driver.unit(unit, Vec::new()).await
    });
    let told = proposals.await.unwrap_err();
    assert_eq!(told.code(), "invalid-answer");
    assert!(
        told.to_string().contains("a reject has the code \"\""),
        "{told}"
    );
}

const STAGES: [Stage; 3] = [Stage::Generator, Stage::Filter, Stage::Evaluator];

#[tokio::test]
async fn a_plugin_that_keeps_every_promise_passes() {
    for stage in STAGES {
        assert_eq!(failed(&report(stage, "").await), [""; 0], "{stage}");
    }
    let stateless = report(Stage::Filter, "stateless").await;
    assert_eq!(failed(&stateless), [""; 0]);
}

#[tokio::test]
async fn every_check_sees_the_mutant_that_breaks_its_promise() {
    for stage in STAGES {
        for check in checks(stage) {
            let report = report(stage, check.name).await;
            assert!(
                failed(&report).contains(&check.name),
                "no {stage} fails {}: {report:?}",
                check.name
            );
        }
    }
}

#[tokio::test]
async fn a_broken_promise_fails_no_other_check() {
    for (stage, breaks) in [
        (Stage::Filter, "filter-batches"),
        (Stage::Filter, "filter-restore"),
        (Stage::Filter, "filter-order"),
        (Stage::Filter, "filter-roles"),
        (Stage::Generator, "generator-places"),
        (Stage::Generator, "generator-order"),
        (Stage::Evaluator, "evaluator-people"),
        (Stage::Evaluator, "evaluator-summary-order"),
        (Stage::Evaluator, "configure-unknown-key"),
    ] {
        assert_eq!(failed(&report(stage, breaks).await), [breaks]);
    }
}

#[tokio::test]
async fn a_counterexample_names_the_record_and_the_difference() {
    let report = report(Stage::Filter, "filter-batches").await;
    let (_, outcome) = report
        .checks
        .iter()
        .find(|(check, _)| check.name == "filter-batches")
        .expect("the check is made");
    let Outcome::Failed(counterexample) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(
        counterexample.starts_with("batches of 7: record 1 (\"")
            && counterexample.ends_with("expected decision \"keep\", got \"drop\""),
        "{counterexample}"
    );
}

#[tokio::test]
async fn a_plugin_that_takes_no_configuration_is_not_put_to_its_stage() {
    let report = report(Stage::Filter, "configure-accepts").await;
    assert_eq!(failed(&report), ["configure-accepts"]);
    let skipped = Outcome::Skipped("the configuration was not accepted".into());
    assert_eq!(
        report.checks.last().map(|(_, outcome)| outcome),
        Some(&skipped)
    );
}
