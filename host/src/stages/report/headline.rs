//! The result in words: what an engineer wants to know before anything else.

use serde::Serialize;

use super::{
    Estimate, Report,
    figures::{duration, fixed, share, signed, usd, whole},
};

/// The result in words.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Headline {
    /// Dataset, training, likelihood, judges, cost: a sentence each, where there is something to
    /// say.
    pub sentences: Vec<String>,
    /// What one must know to read them rightly.
    pub cautions: Vec<String>,
    /// What the recipe asks for and the run has not come to yet.
    pub missing: Vec<String>,
}

pub(super) fn of(report: &Report) -> Headline {
    let mut sentences = vec![dataset(report)];
    sentences.extend(training(report));
    sentences.extend(likelihood(report));
    sentences.extend(judges(report));
    sentences.extend(cost(report));
    Headline {
        sentences,
        cautions: cautions(report),
        missing: missing(report),
    }
}

fn dataset(report: &Report) -> String {
    let funnel = &report.funnel;
    let examples = whole(funnel.examples);
    let wanted = report.origin.plan.target;
    let of = match (funnel.candidates, funnel.units) {
        (0, 0) => return "Nothing has been generated yet.".to_owned(),
        (0, units) => {
            let units = counted(units, "unit has", "units have");
            return format!("{units} ended, and given no candidate that a filter has seen.");
        }
        (candidates, _) => format!(
            "{} candidates ({} kept)",
            whole(candidates),
            share(funnel.examples, candidates)
        ),
    };
    match wanted {
        Some(target) if funnel.examples < target => format!(
            "So far {examples} of the {} examples that the recipe wants, out of {of}.",
            whole(target)
        ),
        _ => format!("{examples} examples out of {of}."),
    }
}

fn training(report: &Report) -> Option<String> {
    let training = report.training.as_ref()?;
    if training.steps == 0 {
        return Some("Training has begun.".to_owned());
    }
    let steps = counted(training.steps, "step", "steps");
    let (what, first, last) = match training.held_out.as_slice() {
        [first, .., last] => ("loss on examples held out", first.loss, last.loss),
        _ => ("training loss", training.first_loss, training.last_loss),
    };
    let went = match last < first {
        true => "fell",
        false => "rose",
    };
    Some(format!(
        "The student was trained for {steps}; its {what} {went} from {} to {} nats a token.",
        fixed(first, 3),
        fixed(last, 3)
    ))
}

fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", whole(number), if number == 1 { one } else { many })
}

fn with_margin(estimate: &Estimate, places: usize) -> String {
    let value = signed(estimate.value, places);
    match estimate.margin() {
        Some(margin) => format!("{value}\u{a0}±\u{a0}{}", fixed(margin, places)),
        None => value,
    }
}

fn likelihood(report: &Report) -> Option<String> {
    let evaluation = &report.evaluation;
    let told = |template: &str, how: &str| {
        let gain = evaluation.gain(template)?;
        let figure = with_margin(&gain.per_token, 3);
        let meaning = match gain.per_token.against(0.0) {
            Some(1) => "better",
            Some(-1) => "worse",
            Some(_) => "no difference beyond chance",
            None => "too few tasks to tell",
        };
        Some(format!("{figure} {how} ({meaning})"))
    };
    let parts: Vec<String> = [
        told(
            "chat",
            "nats a token against the base model in its own chat template",
        ),
        told("alpaca", "against the base model in the student's template"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let items = evaluation.gains.first()?.items;
    (!parts.is_empty()).then(|| {
        format!(
            "Log-likelihood of the reference answers of {} tasks: the student has {}.",
            whole(items),
            parts.join(", ")
        )
    })
}

fn judges(report: &Report) -> Vec<String> {
    let comparisons = report
        .evaluation
        .evaluators
        .iter()
        .flat_map(|evaluator| &evaluator.comparisons);
    comparisons
        .take(4)
        .map(|comparison| {
            let (first, second) = (&comparison.first, &comparison.second);
            let judge = match comparison.judge.as_str() {
                "model" => "the judge",
                judge => judge,
            };
            let Some(rate) = comparison.win_rate.filter(|_| !comparison.cannot_tell()) else {
                return format!("Whether {first} answers better than {second}, {judge} cannot tell.");
            };
            let figure = match rate.margin() {
                Some(margin) => format!("{}\u{a0}% ±\u{a0}{}", fixed(rate.value, 1), fixed(margin, 1)),
                None => format!("{}\u{a0}%", fixed(rate.value, 1)),
            };
            let (verdict, doubt) = match comparison.verdict.split_once(' ') {
                Some((verdict, _)) => (verdict, "; this judge was not tested"),
                None => (comparison.verdict.as_str(), ""),
            };
            let meaning = match verdict {
                "first" => format!("{first} answers better"),
                "second" => format!("{second} answers better"),
                _ => "no difference beyond chance".to_owned(),
            };
            format!(
                "Against {second}, {first} wins {figure} of the comparisons by {judge} ({meaning}{doubt})."
            )
        })
        .collect()
}

fn cost(report: &Report) -> Option<String> {
    let spending = &report.spending;
    if spending.rows.is_empty() && spending.stages.is_empty() {
        return None;
    }
    let requests: u64 = spending.rows.iter().map(|row| row.attempts).sum();
    let time = match spending.seconds {
        0.0 => String::new(),
        seconds => format!(" and {}", duration(seconds)),
    };
    Some(format!(
        "It took {}, {}{time}.",
        counted(requests, "request", "requests"),
        usd(spending.usd)
    ))
}

fn cautions(report: &Report) -> Vec<String> {
    let mut cautions = Vec::new();
    if let Some(model) = report.origin.learns_from_itself() {
        cautions.push(format!(
            "Teacher and student are one model, {}: the student learns from itself, and can learn a format and a manner, but nothing that it did not know.",
            model.model
        ));
    }
    if let Some(model) = report.origin.judges_itself() {
        cautions.push(format!(
            "The judge is the model that was trained, {}: models prefer answers like their own.",
            model.model
        ));
    }
    let quarantined: u64 = report
        .funnel
        .steps
        .iter()
        .flat_map(|step| &step.reasons)
        .filter(|reason| reason.decision == "quarantine")
        .map(|reason| reason.count)
        .sum();
    if quarantined > 0 {
        cautions.push(format!(
            "Filters broke over {}, put aside since.",
            counted(quarantined, "candidate", "candidates")
        ));
    }
    let failed = report.funnel.failed();
    if failed > 0 {
        cautions.push(format!(
            "{} of {} units failed for good and gave nothing.",
            whole(failed),
            whole(report.funnel.units)
        ));
    }
    let unknown: u64 = report.spending.rows.iter().map(|row| row.unknown).sum();
    if unknown > 0 {
        cautions.push(format!(
            "{} cut off and may have been paid for without a reply, and charged at the worst case.",
            counted(unknown, "request was", "requests were")
        ));
    }
    for evaluator in &report.evaluation.evaluators {
        let failed: u64 = evaluator.failed.iter().map(|failed| failed.items).sum();
        if failed > 0 {
            let name = match &evaluator.plugin {
                Some(plugin) => plugin.clone(),
                None => format!("Evaluator {}", evaluator.evaluator),
            };
            cautions.push(format!(
                "{name} failed at {} of {} tasks; its figures leave them out.",
                whole(failed),
                whole(evaluator.items)
            ));
        }
    }
    cautions
}

/// Stages that the recipe has and the ledger does not, or that are not finished.
fn missing(report: &Report) -> Vec<String> {
    let plan = &report.origin.plan;
    let stages = &report.spending.stages;
    let done = |is_it: &dyn Fn(&str) -> bool| {
        let mut found = stages.iter().filter(|stage| is_it(&stage.stage)).peekable();
        found.peek().is_some() && found.all(|stage| stage.finished)
    };
    let mut missing = Vec::new();
    if !done(&|stage| stage == "generate") {
        missing.push(match plan.target {
            Some(target) => format!(
                "generation: {} of {} examples",
                whole(report.funnel.examples),
                whole(target)
            ),
            None => "generation".to_owned(),
        });
    }
    if plan.trains == Some(true) && !done(&|stage| stage == "train") {
        missing.push("training".to_owned());
    }
    let compares = plan.evaluates == Some(true) && plan.trains == Some(true);
    if compares && !done(&|stage| stage.starts_with("evaluate") && !is_evaluator(stage)) {
        missing.push("evaluation: log-likelihoods and answers".to_owned());
    }
    for evaluator in 0..plan.evaluators.filter(|_| compares).unwrap_or(0) {
        if !done(&|stage| stage == format!("evaluators.{evaluator}")) {
            missing.push(format!("evaluator {evaluator}"));
        }
    }
    missing
}

fn is_evaluator(stage: &str) -> bool {
    stage.starts_with("evaluators.")
}
