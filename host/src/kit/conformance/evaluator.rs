//! What is asked of evaluators.

use std::sync::Arc;

use pacos_plugin::{Answer, Attribute, Item, Judgement, Metric, Outcome, Task};
use serde_json::Value;

use super::{Check, Report, corpus};
use crate::{
    kit::{
        compare::differences,
        lines,
        script::{Asked, Replies, ScriptedCalls},
    },
    plugin::{CallError, Instance, Loaded},
    seed,
    stages::check_judgements,
};

const ANY_ITEM: Check = Check::new(
    "evaluator-any-item",
    "No task, no answer and no reply of a model breaks it.",
);
const FORM: Check = Check::new(
    "evaluator-judgement-form",
    "A judgement is of its own item, of answers that are there, and has finite scores.",
);
const REPEATABLE: Check = Check::new(
    "evaluator-repeatable",
    "The same item on a fresh instance asks the same and is judged the same.",
);
const ORDER: Check = Check::new(
    "evaluator-order",
    "An item is judged the same whatever items came before it.",
);
const SUMMARY_FORM: Check = Check::new(
    "evaluator-summary-form",
    "Metrics have names and finite values; no judgements at all break nothing.",
);
const SUMMARY_ORDER: Check = Check::new(
    "evaluator-summary-order",
    "The metrics do not depend on the order of the judgements.",
);
const PEOPLE: Check = Check::new(
    "evaluator-people",
    "Judgements that people made, of any models, break nothing.",
);
const ROLES: Check = Check::new(
    "evaluator-roles",
    "It asks no model and no server whose capability it does not declare.",
);

pub(super) const CHECKS: [Check; 8] = [
    ANY_ITEM,
    FORM,
    REPEATABLE,
    ORDER,
    SUMMARY_FORM,
    SUMMARY_ORDER,
    PEOPLE,
    ROLES,
];

/// Roles whose answers an evaluation has.
const MODELS: [&str; 3] = ["student", "student.base", "teacher"];

struct Subject<'a> {
    plugin: &'a Loaded,
    replies: Arc<Replies>,
}

/// What came of one item.
struct Done<'a> {
    item: &'a Item,
    judgements: Result<Vec<Judgement>, CallError>,
    asked: Vec<Asked>,
    denied: Vec<String>,
}

impl Subject<'_> {
    async fn instance(&self) -> Result<Box<dyn Instance>, String> {
        let instance = self.plugin.instance(&[]).await;
        instance.map_err(|error| format!("a fresh instance: {error}"))
    }

    async fn judge<'a>(&self, instance: &mut dyn Instance, item: &'a Item) -> Done<'a> {
        let calls = Arc::new(ScriptedCalls::new(self.plugin, &self.replies));
        let judgements = instance.judge_item(item.clone(), calls.clone(), 1).await;
        Done {
            item,
            judgements,
            asked: calls.asked(),
            denied: calls.denied(),
        }
    }

    async fn summarise(&self, judgements: &[Judgement]) -> Result<Vec<Metric>, String> {
        let mut instance = self.instance().await?;
        let metrics = instance.summarise(judgements.to_vec()).await;
        metrics.map_err(|error| error.to_string())
    }
}

/// Every text of a configuration: some of them are names of models.
fn texts(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| texts(field, found)),
        _ => {}
    }
}

fn items(plugin: &Loaded) -> Vec<Item> {
    let mut models: Vec<String> = MODELS.map(str::to_owned).to_vec();
    texts(&plugin.recipe.config, &mut models);
    models.sort();
    models.dedup();
    let item = |(index, task): (u64, Task)| {
        let answers = models.iter().zip(0..).map(|(model, n)| Answer {
            model: model.clone(),
            // Some answer alike, some with the reference, some with nothing.
            text: match (seed::derive(index, model, n) % 5, &task.output) {
                (0, reference) => reference.clone(),
                (1, _) => String::new(),
                (2, _) => "The same answer.".into(),
                (3, reference) => format!("{reference} And {model} adds a word."),
                _ => format!("{model} says: {index} \u{1f469}\u{200d}\u{1f52c}"),
            },
        });
        Item {
            index,
            seed: seed::of_content(&task),
            answers: answers.collect(),
            task,
        }
    };
    (0..).zip(corpus::evaluation()).map(item).collect()
}

pub(super) async fn check(plugin: &Loaded, report: &mut Report) {
    let subject = Subject {
        plugin,
        replies: corpus::replies(),
    };
    let items = items(plugin);
    let mut done = Vec::new();
    for item in &items {
        match subject.instance().await {
            Ok(mut instance) => done.push(subject.judge(&mut *instance, item).await),
            Err(error) => {
                report.add(ANY_ITEM, Err(error));
                report.skip_all(&CHECKS[1..], "it does not start");
                return;
            }
        }
    }
    report.add(
        ANY_ITEM,
        first(&done, |done| match &done.judgements {
            Ok(_) | Err(CallError::Plugin(_)) => Ok(()),
            Err(error) => Err(error.to_string()),
        }),
    );
    report.add(FORM, first(&done, form));
    report.add(REPEATABLE, repeatable(&subject, &done).await);
    report.add(ORDER, order(&subject, &done).await);
    let judgements: Vec<Judgement> = done
        .iter()
        .filter_map(|done| done.judgements.as_ref().ok())
        .flatten()
        .cloned()
        .collect();
    report.add(SUMMARY_FORM, summary_form(&subject, &judgements).await);
    report.add(SUMMARY_ORDER, summary_order(&subject, &judgements).await);
    report.add(PEOPLE, people(&subject, &judgements).await);
    report.add(
        ROLES,
        first(&done, |done| match done.denied.first() {
            Some(capability) => Err(format!("it uses `{capability}` and does not declare it")),
            None => Ok(()),
        }),
    );
}

/// The first item with something wrong.
fn first(done: &[Done<'_>], wrong: impl Fn(&Done<'_>) -> Result<(), String>) -> Result<(), String> {
    done.iter().try_for_each(|done| {
        wrong(done).map_err(|error| format!("item {}: {error}", done.item.index))
    })
}

fn form(done: &Done<'_>) -> Result<(), String> {
    let Ok(judgements) = &done.judgements else {
        return Ok(());
    };
    check_judgements(judgements, done.item.index).map_err(|error| error.to_string())?;
    for judgement in judgements {
        for name in [&judgement.first, &judgement.second] {
            let answered = done.item.answers.iter().any(|answer| answer.model == *name);
            // An evaluator may hold the reference, or a form of it, beside an answer.
            let reference = name == "reference" || name.starts_with("reference.");
            if !answered && !reference {
                return Err(format!("a judgement names `{name}`, which has no answer"));
            }
        }
    }
    Ok(())
}

fn same(expected: &Done<'_>, actual: &Done<'_>) -> Result<(), String> {
    let index = expected.item.index;
    if expected.asked != actual.asked {
        let differ = expected
            .asked
            .iter()
            .zip(&actual.asked)
            .position(|(a, b)| a != b);
        let number = differ.unwrap_or(expected.asked.len().min(actual.asked.len()));
        return Err(format!("item {index}: request {} differs", number + 1));
    }
    let written = |done: &Done<'_>| match &done.judgements {
        Ok(judgements) => judgements.iter().map(lines::judgement).collect(),
        Err(error) => lines::failure(error),
    };
    match differences(&written(expected), &written(actual)) {
        found if found.is_empty() => Ok(()),
        found => Err(format!("item {index}: {}", found.join("; "))),
    }
}

async fn repeatable(subject: &Subject<'_>, done: &[Done<'_>]) -> Result<(), String> {
    for done in done {
        let mut instance = subject.instance().await?;
        same(done, &subject.judge(&mut *instance, done.item).await)?;
    }
    Ok(())
}

async fn order(subject: &Subject<'_>, done: &[Done<'_>]) -> Result<(), String> {
    let mut instance = subject.instance().await?;
    for done in done.iter().rev() {
        let again = subject.judge(&mut *instance, done.item).await;
        same(done, &again)
            .map_err(|error| format!("in the reverse order on one instance: {error}"))?;
        if !matches!(again.judgements, Ok(_) | Err(CallError::Plugin(_))) {
            // What broke is not used again.
            instance = subject.instance().await?;
        }
    }
    Ok(())
}

async fn summary_form(subject: &Subject<'_>, judgements: &[Judgement]) -> Result<(), String> {
    for metric in subject.summarise(judgements).await? {
        if metric.name.is_empty() {
            return Err("a metric has no name".into());
        }
        let finite = metric.value.is_finite()
            && metric
                .standard_error
                .is_none_or(|error| error.is_finite() && error >= 0.0);
        if !finite {
            return Err(format!(
                "metric `{}` is {} with a standard error of {:?}",
                metric.name, metric.value, metric.standard_error
            ));
        }
    }
    nothing_breaks(subject, "no judgements", &[]).await
}

/// An error that the evaluator tells itself is an answer.
async fn nothing_breaks(
    subject: &Subject<'_>,
    name: &str,
    judgements: &[Judgement],
) -> Result<(), String> {
    let mut instance = subject.instance().await?;
    match instance.summarise(judgements.to_vec()).await {
        Ok(_) | Err(CallError::Plugin(_)) => Ok(()),
        Err(error) => Err(format!("{name}: {error}")),
    }
}

async fn summary_order(subject: &Subject<'_>, judgements: &[Judgement]) -> Result<(), String> {
    let written = |metrics: Vec<Metric>| {
        let mut metrics: Vec<Value> = metrics.iter().map(lines::metric).collect();
        metrics
            .sort_by_key(|metric| (metric["name"].to_string(), metric["attributes"].to_string()));
        Value::Array(metrics)
    };
    let expected = written(subject.summarise(judgements).await?);
    let mut other = judgements.to_vec();
    other.reverse();
    let middle = other.len() / 3;
    other.rotate_left(middle);
    let actual = written(subject.summarise(&other).await?);
    match differences(&expected, &actual).first() {
        None => Ok(()),
        Some(found) => Err(format!("in another order: {found}")),
    }
}

async fn people(subject: &Subject<'_>, judgements: &[Judgement]) -> Result<(), String> {
    let person = |(index, outcome): (usize, Outcome)| Judgement {
        item: 1_000_000 + index as u64,
        first: ["student", "a model that nobody knows", ""][index % 3].into(),
        second: "student.base".into(),
        outcome,
        flipped: index % 2 == 0,
        scores: Vec::new(),
        attributes: vec![Attribute {
            name: "judge".into(),
            value: "a person".into(),
        }],
    };
    let outcomes = [
        Outcome::First,
        Outcome::Second,
        Outcome::Tie,
        Outcome::Unparsed,
        Outcome::Refused,
    ];
    let people: Vec<Judgement> = outcomes.into_iter().enumerate().map(person).collect();
    nothing_breaks(subject, "judgements of people alone", &people).await?;
    let both = [judgements, &people].concat();
    nothing_breaks(subject, "judgements of models and of people", &both).await
}
