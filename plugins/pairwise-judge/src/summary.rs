//! From judgements to figures.

use std::collections::BTreeMap;

use pacos_plugin::{Attribute, Judgement, Metric, Outcome};

use crate::{
    calibration,
    statistics::{Z, mean, wilson_lower_bound},
};

/// Name of this plugin's judge in metrics.
const MODEL: &str = "model";

/// What the calibration says of a judge.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Judge {
    Usable,
    Unusable,
    /// People, or a judge that was not tested.
    Untested,
}

/// The figures of every pair in the order of `pairs`, judge by judge, then those of the judges.
pub(crate) fn metrics(judgements: &[Judgement], pairs: &[[String; 2]]) -> Vec<Metric> {
    let mut by_judge: BTreeMap<&str, Vec<&Judgement>> = BTreeMap::new();
    for judgement in judgements {
        let judge = attribute(judgement, "judge").unwrap_or(MODEL);
        by_judge.entry(judge).or_default().push(judgement);
    }
    let mut metrics = Vec::new();
    let mut of_judges = Vec::new();
    for (name, all) in by_judge {
        let (tests, comparisons): (Vec<&Judgement>, Vec<&Judgement>) = all
            .into_iter()
            .partition(|j| attribute(j, "kind") == Some(calibration::KIND));
        let (judge, of_judge) = tested(name, &tests);
        of_judges.extend(of_judge);
        for pair in pairs {
            let of_pair: Vec<Judgement> =
                comparisons.iter().filter_map(|j| turned(j, pair)).collect();
            if !of_pair.is_empty() {
                metrics.extend(compared(pair, name, judge, &of_pair));
            }
        }
    }
    metrics.extend(of_judges);
    metrics
}

/// The judgement with its names in the order of `pair`, if it is about that pair.
fn turned(judgement: &Judgement, [first, second]: &[String; 2]) -> Option<Judgement> {
    if judgement.first == *first && judgement.second == *second {
        return Some(judgement.clone());
    }
    (judgement.first == *second && judgement.second == *first).then(|| {
        let mut turned = judgement.clone();
        std::mem::swap(&mut turned.first, &mut turned.second);
        turned.outcome = match judgement.outcome {
            Outcome::First => Outcome::Second,
            Outcome::Second => Outcome::First,
            other => other,
        };
        turned
    })
}

/// Whether the judge can tell good from bad, and the figures that say so.
fn tested(name: &str, tests: &[&Judgement]) -> (Judge, Vec<Metric>) {
    let right: Vec<f64> = tests
        .iter()
        .map(|test| points(test.outcome).unwrap_or(0.0))
        .collect();
    let Some((accuracy, standard_error)) = mean(&right) else {
        return (Judge::Untested, Vec::new());
    };
    let bound = wilson_lower_bound(accuracy, right.len());
    let usable = bound > 0.5;
    let metric = |metric: &str, value, standard_error| Metric {
        name: metric.into(),
        value,
        standard_error,
        n: right.len() as u64,
        attributes: vec![named("judge", name)],
    };
    let figures = vec![
        metric(
            "calibration_accuracy",
            100.0 * accuracy,
            standard_error.map(|e| 100.0 * e),
        ),
        metric("calibration_accuracy_lower_bound", 100.0 * bound, None),
        metric("judge_usable", f64::from(u8::from(usable)), None),
    ];
    let judge = if usable {
        Judge::Usable
    } else {
        Judge::Unusable
    };
    (judge, figures)
}

fn compared(pair: &[String; 2], name: &str, judge: Judge, judgements: &[Judgement]) -> Vec<Metric> {
    let [first, second] = pair;
    let of_pair = || {
        vec![
            named("first", first),
            named("second", second),
            named("judge", name),
        ]
    };
    let metric = |metric: &str, value: f64, n: usize| Metric {
        name: metric.into(),
        value,
        standard_error: None,
        n: n as u64,
        attributes: of_pair(),
    };
    let count = |outcome| judgements.iter().filter(|j| j.outcome == outcome).count();
    let wins: Vec<f64> = judgements
        .iter()
        .filter_map(|j| points(j.outcome))
        .collect();

    let mut metrics = Vec::new();
    if let Some((rate, error)) = mean(&wins) {
        let mut win_rate = metric("win_rate", 100.0 * rate, wins.len());
        win_rate.standard_error = error.map(|error| 100.0 * error);
        win_rate.attributes.push(named(
            "verdict",
            &conclusion(rate, error, wins.len(), judge),
        ));
        metrics.push(win_rate);
    }
    let all = judgements.len();
    metrics.push(metric("ties", count(Outcome::Tie) as f64, all));
    let flips = flips(judgements);
    if let Some((rate, error)) = mean(&flips) {
        let mut flip_rate = metric("flip_rate", 100.0 * rate, flips.len());
        flip_rate.standard_error = error.map(|error| 100.0 * error);
        metrics.push(flip_rate);
    }
    // Without a standard error: the two verdicts of a comparison are not independent.
    let first_places = first_places(judgements);
    if let Some((rate, _)) = mean(&first_places) {
        metrics.push(metric("first_place_rate", 100.0 * rate, first_places.len()));
    }
    metrics.push(metric("unparsed", count(Outcome::Unparsed) as f64, all));
    metrics.push(metric("refused", count(Outcome::Refused) as f64, all));
    metrics
}

/// Fewer judgements that all agree prove nothing: five heads in a row come up once in sixteen
/// tosses of a fair coin, counting five tails, too.
const UNANIMOUS: usize = 6;

/// What a win rate (0 to 1) of `n` judgements allows to be said.
fn conclusion(rate: f64, error: Option<f64>, n: usize, judge: Judge) -> String {
    let verdict = match error {
        _ if judge == Judge::Unusable => "cannot-tell",
        None => "cannot-tell",
        Some(error) if error == 0.0 && n < UNANIMOUS => "cannot-tell",
        Some(error) if (rate - 0.5).abs() <= Z * error => "no-difference",
        Some(_) if rate > 0.5 => "first",
        Some(_) => "second",
    };
    match judge {
        Judge::Untested => format!("{verdict} (uncalibrated)"),
        Judge::Usable | Judge::Unusable => verdict.to_owned(),
    }
}

/// Points of the first side; none where the judge gave no verdict.
fn points(outcome: Outcome) -> Option<f64> {
    match outcome {
        Outcome::First => Some(1.0),
        Outcome::Tie => Some(0.5),
        Outcome::Second => Some(0.0),
        Outcome::Unparsed | Outcome::Refused => None,
    }
}

/// 1 for each comparison that flipped, 0 for each that was asked in both orders and did not.
fn flips(judgements: &[Judgement]) -> Vec<f64> {
    let both = judgements
        .iter()
        .filter(|j| attribute(j, "asked") == Some("both-orders") && points(j.outcome).is_some());
    both.map(|j| f64::from(u8::from(j.flipped))).collect()
}

/// For each verdict for one side, in comparisons asked in both orders: 1 where that side was shown first.
fn first_places(judgements: &[Judgement]) -> Vec<f64> {
    let both = judgements
        .iter()
        .filter(|j| attribute(j, "asked") == Some("both-orders"));
    both.flat_map(|j| {
        let said = attribute(j, "verdicts").unwrap_or_default().split(' ');
        said.zip(["first", "second"])
            .filter_map(|(said, shown_first)| match said {
                "first" | "second" => Some(f64::from(u8::from(said == shown_first))),
                _ => None,
            })
    })
    .collect()
}

fn attribute<'a>(judgement: &'a Judgement, name: &str) -> Option<&'a str> {
    let mut attributes = judgement.attributes.iter();
    attributes
        .find(|a| a.name == name)
        .map(|a| a.value.as_str())
}

fn named(name: &str, value: &str) -> Attribute {
    Attribute {
        name: name.into(),
        value: value.into(),
    }
}
