//! What the evaluation found: log-likelihoods, and the evaluators' metrics.

use std::collections::BTreeMap;

use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use super::{Estimate, Excerpt, count, rows};

/// Metrics of one evaluator that are listed; the rest is counted.
const METRICS: usize = 200;
/// Characters of a name that a plugin made up.
const NAME: usize = 120;

/// What the evaluation found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Evaluation {
    /// Tasks with reference answers.
    pub tasks: u64,
    /// Log-likelihood of the reference answers, by model and template.
    pub likelihoods: Vec<Likelihood>,
    /// What the student gained over the base model.
    pub gains: Vec<Gain>,
    /// The evaluators that have begun.
    pub evaluators: Vec<EvaluatorReport>,
}

impl Evaluation {
    /// What the student gained over the base model put in this template.
    #[must_use]
    pub fn gain(&self, base_template: &str) -> Option<&Gain> {
        let mut gains = self.gains.iter();
        gains.find(|gain| gain.base_template == base_template)
    }
}

/// How likely a model finds the reference answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Likelihood {
    /// `student`, `student.base`.
    pub model: String,
    /// The template in which the tasks were put.
    pub template: String,
    /// Tasks scored.
    pub items: u64,
    /// Tokens of their answers.
    pub tokens: u64,
    /// Log-likelihood in nats a token.
    pub per_token: Estimate,
}

/// The student in Alpaca's template less the base model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gain {
    /// The template in which the base model was asked.
    pub base_template: String,
    /// Tasks scored under both.
    pub items: u64,
    /// Tokens of their answers.
    pub tokens: u64,
    /// Gain in nats a token, task by task.
    pub per_token: Estimate,
}

/// What one evaluator found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvaluatorReport {
    /// Place in the manifest, from 0.
    pub evaluator: u64,
    /// Name and version, where the ledger knows them.
    pub plugin: Option<String>,
    /// Items that it has been through.
    pub items: u64,
    /// Judgements that it made.
    pub judgements: u64,
    /// Items that it failed at, by reason.
    pub failed: Vec<FailedItems>,
    /// Whose answers were better.
    pub comparisons: Vec<Comparison>,
    /// How well the judges tell good from bad.
    pub judges: Vec<Judge>,
    /// All its other metrics.
    pub other: Vec<OtherMetric>,
    /// Metrics beyond those listed.
    pub more: u64,
}

/// Items that an evaluator failed at.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FailedItems {
    /// The reason.
    pub code: Excerpt,
    /// How many.
    pub items: u64,
    /// One of the messages.
    pub message: Excerpt,
}

/// The answers of two models compared. All rates are in %.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Comparison {
    /// Whose win rate it is.
    pub first: String,
    /// The other.
    pub second: String,
    /// Who judged: `model`, or what people's judgements say.
    pub judge: String,
    /// What may be said: `first`, `second`, `no-difference`, `cannot-tell`, as the evaluator says,
    /// and `cannot-tell` wherever the judge is not usable.
    pub verdict: String,
    /// Win rate of the first. `None` where the verdict is `cannot-tell`: a judge that cannot tell
    /// good from bad gives about 50 %, and that is no result.
    pub win_rate: Option<Estimate>,
    /// Verdicts that the win rate is over.
    pub decided: u64,
    /// Comparisons made.
    pub compared: u64,
    /// Ties, flips among them.
    pub ties: Option<f64>,
    /// Of those with a verdict in both orders, how many changed with the order.
    pub flip_rate: Option<Estimate>,
    /// How often the answer shown first was preferred.
    pub first_place_rate: Option<Estimate>,
    /// Verdicts that could not be read.
    pub unparsed: Option<f64>,
    /// Verdicts that the judge would not give.
    pub refused: Option<f64>,
}

impl Comparison {
    /// Whether the judge allows no conclusion.
    #[must_use]
    pub fn cannot_tell(&self) -> bool {
        self.verdict.starts_with(CANNOT_TELL)
    }
}

const CANNOT_TELL: &str = "cannot-tell";

/// How well a judge tells good answers from spoilt ones.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Judge {
    /// Who.
    pub judge: String,
    /// Share of the tests that it passed, in %.
    pub accuracy: Option<Estimate>,
    /// Lower end of the 95 % interval of the accuracy, in %.
    pub lower_bound: Option<f64>,
    /// Tests.
    pub tests: u64,
    /// Whether the lower end is above chance.
    pub usable: Option<bool>,
}

/// A metric of which the page knows no more than the name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OtherMetric {
    /// Its name.
    pub name: Excerpt,
    /// The value, as the evaluator gives it.
    pub value: Estimate,
    /// Observations behind it.
    pub n: u64,
    /// The evaluator's notes, `name = value`.
    pub attributes: Excerpt,
}

#[derive(Deserialize)]
struct Attribute {
    name: String,
    value: String,
}

struct Metric {
    name: String,
    value: Estimate,
    n: u64,
    attributes: BTreeMap<String, String>,
}

pub(super) fn read(c: &Connection) -> rusqlite::Result<Evaluation> {
    let tasks = c.query_row("SELECT count(*) FROM evaluation_tasks", [], |r| count(r, 0))?;
    let likelihoods = rows(
        c,
        "SELECT model, template, items, tokens, per_token, variance FROM likelihood_summary
         ORDER BY model DESC, template",
        [],
        |r| {
            Ok(Likelihood {
                model: r.get(0)?,
                template: r.get(1)?,
                items: count(r, 2)?,
                tokens: count(r, 3)?,
                per_token: Estimate::from_variance(r.get(4)?, r.get(5)?),
            })
        },
    )?;
    let gains = rows(
        c,
        "SELECT base_template, items, tokens, per_token, variance FROM likelihood_gains
         ORDER BY base_template",
        [],
        |r| {
            Ok(Gain {
                base_template: r.get(0)?,
                items: count(r, 1)?,
                tokens: count(r, 2)?,
                per_token: Estimate::from_variance(r.get(3)?, r.get(4)?),
            })
        },
    )?;
    Ok(Evaluation {
        tasks,
        likelihoods,
        gains,
        evaluators: evaluators(c)?,
    })
}

fn evaluators(c: &Connection) -> rusqlite::Result<Vec<EvaluatorReport>> {
    let sql = "SELECT evaluator,
                      (SELECT plugin FROM plugins WHERE stage = 'evaluators.' || evaluator),
                      (SELECT count(*) FROM items WHERE items.evaluator = all_.evaluator),
                      (SELECT count(*) FROM judgements j WHERE j.evaluator = all_.evaluator)
               FROM (SELECT evaluator FROM items UNION SELECT evaluator FROM judgements
                     UNION SELECT evaluator FROM metrics) AS all_
               ORDER BY evaluator";
    let evaluators = rows(c, sql, [], |r| {
        let report = EvaluatorReport {
            evaluator: count(r, 0)?,
            plugin: r.get(1)?,
            items: count(r, 2)?,
            judgements: count(r, 3)?,
            failed: Vec::new(),
            comparisons: Vec::new(),
            judges: Vec::new(),
            other: Vec::new(),
            more: 0,
        };
        Ok((r.get::<_, i64>(0)?, report))
    })?;
    evaluators
        .into_iter()
        .map(|(evaluator, mut report)| {
            report.failed = failed(c, evaluator)?;
            sort(metrics(c, evaluator)?, &mut report);
            Ok(report)
        })
        .collect()
}

fn failed(c: &Connection, evaluator: i64) -> rusqlite::Result<Vec<FailedItems>> {
    let sql = "SELECT error_code, count(*), min(error) FROM items
               WHERE evaluator = ?1 AND error_code IS NOT NULL
               GROUP BY error_code ORDER BY count(*) DESC, error_code LIMIT 20";
    rows(c, sql, [evaluator], |r| {
        Ok(FailedItems {
            code: Excerpt::of(&r.get::<_, String>(0)?, NAME),
            items: count(r, 1)?,
            message: Excerpt::of(&r.get::<_, Option<String>>(2)?.unwrap_or_default(), 240),
        })
    })
}

fn metrics(c: &Connection, evaluator: i64) -> rusqlite::Result<Vec<Metric>> {
    let sql = "SELECT name, value, standard_error, n, attributes FROM metrics WHERE evaluator = ?1";
    rows(c, sql, [evaluator], |r| {
        let attributes: Option<String> = r.get(4)?;
        let attributes: Vec<Attribute> = attributes
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        Ok(Metric {
            name: r.get(0)?,
            value: Estimate::from_row(r, 1, 2)?,
            n: count(r, 3)?,
            attributes: attributes
                .into_iter()
                .map(|attribute| (attribute.name, attribute.value))
                .collect(),
        })
    })
}

/// Tells the metrics of a pairwise judge, whatever plugin brings them, from the others.
fn sort(metrics: Vec<Metric>, report: &mut EvaluatorReport) {
    for metric in metrics {
        let attribute = |name: &str| metric.attributes.get(name).cloned();
        let judge = attribute("judge");
        match (attribute("first"), attribute("second"), judge) {
            (Some(first), Some(second), Some(judge)) if is_of_pair(&metric.name) => {
                let comparison = comparison(&mut report.comparisons, first, second, judge);
                note(&metric, comparison);
            }
            (None, None, Some(judge)) if is_of_judge(&metric.name) => {
                note_judge(&metric, judge_named(&mut report.judges, judge));
            }
            _ if report.other.len() < METRICS => report.other.push(other(&metric)),
            _ => report.more += 1,
        }
    }
    for comparison in &mut report.comparisons {
        let mut judges = report.judges.iter();
        let unusable =
            judges.any(|judge| judge.judge == comparison.judge && judge.usable == Some(false));
        let undecided = comparison
            .win_rate
            .is_none_or(|rate| rate.margin().is_none());
        if unusable || undecided || comparison.verdict.is_empty() {
            comparison.verdict = match comparison.win_rate.and_then(|rate| rate.against(50.0)) {
                _ if unusable => CANNOT_TELL,
                None => CANNOT_TELL,
                Some(1) => "first",
                Some(-1) => "second",
                Some(_) => "no-difference",
            }
            .to_owned();
        }
        if comparison.cannot_tell() {
            comparison.win_rate = None;
        }
    }
}

fn is_of_pair(name: &str) -> bool {
    [
        "win_rate",
        "ties",
        "flip_rate",
        "first_place_rate",
        "unparsed",
        "refused",
    ]
    .contains(&name)
}

fn is_of_judge(name: &str) -> bool {
    [
        "calibration_accuracy",
        "calibration_accuracy_lower_bound",
        "judge_usable",
    ]
    .contains(&name)
}

fn comparison(
    comparisons: &mut Vec<Comparison>,
    first: String,
    second: String,
    judge: String,
) -> &mut Comparison {
    let there = comparisons
        .iter()
        .position(|c| c.first == first && c.second == second && c.judge == judge);
    let at = there.unwrap_or_else(|| {
        comparisons.push(Comparison {
            first,
            second,
            judge,
            ..Comparison::default()
        });
        comparisons.len() - 1
    });
    &mut comparisons[at]
}

fn judge_named(judges: &mut Vec<Judge>, judge: String) -> &mut Judge {
    let at = judges
        .iter()
        .position(|j| j.judge == judge)
        .unwrap_or_else(|| {
            judges.push(Judge {
                judge,
                ..Judge::default()
            });
            judges.len() - 1
        });
    &mut judges[at]
}

fn note(metric: &Metric, comparison: &mut Comparison) {
    match metric.name.as_str() {
        "win_rate" => {
            comparison.win_rate = Some(metric.value);
            comparison.decided = metric.n;
            let verdict = metric.attributes.get("verdict");
            comparison.verdict = verdict.cloned().unwrap_or_default();
        }
        "ties" => {
            comparison.ties = Some(metric.value.value);
            comparison.compared = metric.n;
        }
        "flip_rate" => comparison.flip_rate = Some(metric.value),
        "first_place_rate" => comparison.first_place_rate = Some(metric.value),
        "unparsed" => comparison.unparsed = Some(metric.value.value),
        _ => comparison.refused = Some(metric.value.value),
    }
}

fn note_judge(metric: &Metric, judge: &mut Judge) {
    match metric.name.as_str() {
        "calibration_accuracy" => {
            judge.accuracy = Some(metric.value);
            judge.tests = metric.n;
        }
        "calibration_accuracy_lower_bound" => judge.lower_bound = Some(metric.value.value),
        _ => judge.usable = Some(metric.value.value > 0.5),
    }
}

fn other(metric: &Metric) -> OtherMetric {
    let attributes: Vec<String> = metric
        .attributes
        .iter()
        .map(|(name, value)| format!("{name} = {value}"))
        .collect();
    OtherMetric {
        name: Excerpt::of(&metric.name, NAME),
        value: metric.value,
        n: metric.n,
        attributes: Excerpt::of(&attributes.join(", "), 2 * NAME),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(name: &str, value: f64, error: Option<f64>, attributes: &[(&str, &str)]) -> Metric {
        Metric {
            name: name.into(),
            value: Estimate {
                value,
                standard_error: error,
            },
            n: 24,
            attributes: attributes
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    fn sorted(metrics: Vec<Metric>) -> EvaluatorReport {
        let mut report = EvaluatorReport {
            evaluator: 0,
            plugin: None,
            items: 24,
            judgements: 24,
            failed: Vec::new(),
            comparisons: Vec::new(),
            judges: Vec::new(),
            other: Vec::new(),
            more: 0,
        };
        sort(metrics, &mut report);
        report
    }

    const PAIR: [(&str, &str); 3] = [
        ("first", "student"),
        ("second", "student.base"),
        ("judge", "model"),
    ];

    #[test]
    fn a_judge_that_failed_its_test_gives_no_win_rate() {
        for usable in [1.0, 0.0] {
            // The plugin leaves its verdict out; the judge's test is on record all the same.
            let report = sorted(vec![
                metric("win_rate", 90.0, Some(2.0), &PAIR),
                metric("judge_usable", usable, None, &[("judge", "model")]),
            ]);
            let comparison = &report.comparisons[0];
            assert_eq!(comparison.cannot_tell(), usable == 0.0);
            assert_eq!(comparison.win_rate.is_some(), usable == 1.0);
        }
    }

    #[test]
    fn the_evaluators_own_verdict_stands_and_one_observation_has_none() {
        let said = |verdict: &str, error| {
            let attributes = [&PAIR[..], &[("verdict", verdict)]].concat();
            sorted(vec![metric("win_rate", 90.0, error, &attributes)])
                .comparisons
                .remove(0)
        };
        assert_eq!(said("no-difference", Some(2.0)).verdict, "no-difference");
        assert_eq!(
            said("first (uncalibrated)", Some(2.0)).verdict,
            "first (uncalibrated)"
        );
        assert_eq!(said("cannot-tell (uncalibrated)", Some(2.0)).win_rate, None);
        assert!(said("first", None).cannot_tell());
    }

    #[test]
    fn metrics_of_other_names_and_of_other_shapes_are_listed_as_they_are() {
        let report = sorted(vec![
            metric("accuracy", 0.5, None, &[("judge", "model")]),
            metric("win_rate", 12.0, None, &[("against", "nobody")]),
        ]);
        assert!(report.comparisons.is_empty() && report.judges.is_empty());
        assert_eq!(report.other[1].attributes.text, "against = nobody");
        let many = (0..300).map(|_| metric("x", 1.0, None, &[])).collect();
        assert_eq!(sorted(many).more, 100);
    }
}
