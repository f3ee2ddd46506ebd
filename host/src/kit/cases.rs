//! A plugin's tests as data: `tests/cases.toml`, the same for every language.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::{Map, Value};
use toml::Spanned;

use super::{
    KitError,
    compare::differences,
    driver::{Driver, Judging},
    expected, lines,
    script::Replies,
};
use crate::{
    manifest::Plugin,
    plugin::{CallError, Loaded, Stage},
};

/// What came of a file of cases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CasesReport {
    /// Cases in which everything was as expected.
    pub passed: usize,
    /// The others, in the order of the file.
    pub failed: Vec<FailedCase>,
}

/// A case in which something was not as expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedCase {
    /// Its `name`.
    pub name: String,
    /// What was not, each a phrase such as `input 2: expected decision "drop", got "keep"`.
    pub differences: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "case", default)]
    cases: Vec<Spanned<Case>>,
}

/// A value of any kind and its bytes in the file.
type Written = Spanned<toml::Value>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default)]
    config: toml::Table,
    #[serde(default)]
    seeds: Vec<Written>,
    #[serde(default)]
    replies: Vec<Written>,
    input: Option<Vec<Written>>,
    expect: Option<Vec<Written>>,
    metrics: Option<Vec<Written>>,
    diagnostics: Option<Vec<Written>>,
}

/// Runs the cases of a file on a plugin, in the production engine. `plugin` is loaded once; each
/// case has its own configuration, seeds and replies. The plugin's own `config` is not used.
///
/// # Errors
/// When the plugin cannot be loaded, or the file is not one of cases: the error names its line.
/// A case that fails is no error.
pub async fn run_cases(plugin: &Plugin, cases: &Path) -> Result<CasesReport, KitError> {
    let text = std::fs::read_to_string(cases).map_err(|source| KitError::Read {
        path: cases.to_owned(),
        source,
    })?;
    let mut loaded = Loaded::load(plugin).await?;
    let mut report = CasesReport::default();
    for (name, differences) in run_text(&mut loaded, cases, &text).await? {
        if differences.is_empty() {
            report.passed += 1;
        } else {
            report.failed.push(FailedCase { name, differences });
        }
    }
    Ok(report)
}

/// Runs the cases of a text; `path` is for errors. Each case brings its name and what differs.
pub(super) async fn run_text(
    loaded: &mut Loaded,
    path: &Path,
    text: &str,
) -> Result<Vec<(String, Vec<String>)>, KitError> {
    let reader = Reader { path, text };
    let file: File = toml::from_str(text)
        .map_err(|error| reader.wrong(error.span().unwrap_or(0..0), error.message().to_owned()))?;
    if file.cases.is_empty() {
        return Err(reader.wrong(0..0, "no [[case]] in it".into()));
    }
    let mut ran = Vec::with_capacity(file.cases.len());
    for case in &file.cases {
        let differences = reader.run(case, loaded).await?;
        ran.push((case.get_ref().name.clone(), differences));
    }
    Ok(ran)
}

/// The file, for errors that name their line.
struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn wrong(&self, span: Range<usize>, message: String) -> KitError {
        let before = self.text.get(..span.start).unwrap_or_default();
        KitError::Line {
            path: PathBuf::from(self.path),
            line: before.matches('\n').count() + 1,
            message,
        }
    }

    /// Reads every value of a list, each with its number in it.
    fn all<T>(
        &self,
        written: &[Written],
        what: &str,
        read: impl Fn(&Value, usize) -> Result<T, lines::Misread>,
    ) -> Result<Vec<T>, KitError> {
        let one = |(number, written): (usize, &Written)| {
            json(written.get_ref())
                .and_then(|value| read(&value, number))
                .map_err(|error| {
                    self.wrong(written.span(), format!("{what} {}: {error}", number + 1))
                })
        };
        written.iter().enumerate().map(one).collect()
    }

    /// What is not as the case expects.
    async fn run(
        &self,
        case: &Spanned<Case>,
        loaded: &mut Loaded,
    ) -> Result<Vec<String>, KitError> {
        let (span, case) = (case.span(), case.get_ref());
        let seeds = self.all(&case.seeds, "seed", |value, _| {
            lines::known_keys(value, lines::TASK)?;
            lines::task(value)
        })?;
        let replies = Replies::in_order(self.all(&case.replies, "reply", |value, _| {
            lines::known_keys(value, lines::ANSWER)?;
            lines::answer(value)
        })?);
        let config = serde_json::to_value(&case.config)
            .map_err(|error| self.wrong(span.clone(), format!("config: {error}")))?;
        loaded.configure(config);
        let stage = loaded.stage;
        if let Some(diagnostics) = &case.diagnostics {
            if case.input.is_some() || case.expect.is_some() || case.metrics.is_some() {
                let message = format!(
                    "case \"{}\" expects diagnostics, so it has no input, expect or metrics",
                    case.name
                );
                return Err(self.wrong(span, message));
            }
            let wanted = self.all(diagnostics, "diagnostic", expected::diagnostic)?;
            return Ok(diagnosed(loaded, &wanted).await);
        }
        let (Some(input), Some(expect)) = (&case.input, &case.expect) else {
            let message = format!(
                "case \"{}\" needs `input` and `expect`, or `diagnostics`",
                case.name
            );
            return Err(self.wrong(span, message));
        };
        if input.len() != expect.len() {
            let message = format!(
                "case \"{}\" has {} of `input` and {} of `expect`: one is expected for each",
                case.name,
                input.len(),
                expect.len()
            );
            return Err(self.wrong(span, message));
        }
        if case.metrics.is_some() && stage != Stage::Evaluator {
            let message = format!("case \"{}\": a {stage} has no metrics", case.name);
            return Err(self.wrong(span, message));
        }
        let driver = Driver {
            plugin: loaded,
            seeds: &seeds,
            replies: replies.clone(),
        };
        let (came, wanted) = match stage {
            Stage::Filter => {
                let records = self.all(input, "input", |value, number| {
                    lines::known_keys(value, lines::CANDIDATE)?;
                    lines::candidate(value, number)
                })?;
                let wanted = self.all(expect, "expect", expected::verdict)?;
                let verdicts = Judging::new(driver).judge(&records).await;
                let came = verdicts.iter().map(|verdict| match verdict {
                    Ok(verdict) => lines::verdict(verdict),
                    Err(error) => lines::failure(error),
                });
                (came.collect(), wanted)
            }
            Stage::Generator => {
                let units = self.all(input, "input", |value, _| {
                    lines::known_keys(value, lines::UNIT)?;
                    lines::unit(value)
                })?;
                let wanted = self.all(expect, "expect", expected::proposals)?;
                let mut came = Vec::with_capacity(units.len());
                for (unit, accepted) in units {
                    came.push(match driver.unit(unit, accepted).await {
                        Ok((proposals, requests)) => lines::proposals(&proposals, requests),
                        Err(error) => lines::failure(&error),
                    });
                }
                (came, wanted)
            }
            Stage::Evaluator => {
                let items = self.all(input, "input", |value, number| {
                    lines::known_keys(value, lines::ITEM)?;
                    lines::item(value, number)
                })?;
                let wanted = self.all(expect, "expect", expected::judgements)?;
                let metrics = case.metrics.as_ref();
                let metrics = metrics.map(|metrics| self.all(metrics, "metric", expected::metric));
                let (came, summary) = evaluate(&driver, items, metrics.transpose()?).await;
                let mut found = compared(&came, &wanted);
                found.extend(summary);
                return Ok(with_unasked(found, &replies));
            }
        };
        Ok(with_unasked(compared(&came, &wanted), &replies))
    }
}

/// A value of TOML in the other words; times have none.
fn json(value: &toml::Value) -> Result<Value, lines::Misread> {
    match value {
        toml::Value::Datetime(time) => Err(format!("a time, {time}, where none is read")),
        toml::Value::Array(items) => items.iter().map(json).collect(),
        toml::Value::Table(table) => {
            let pairs = table.iter();
            let pairs = pairs.map(|(key, value)| Ok((key.clone(), json(value)?)));
            Ok(Value::Object(pairs.collect::<Result<Map<_, _>, String>>()?))
        }
        plain => serde_json::to_value(plain).map_err(|error| error.to_string()),
    }
}

/// Input by input.
fn compared(came: &[Value], wanted: &[Value]) -> Vec<String> {
    let pairs = (1..).zip(wanted.iter().zip(came));
    pairs
        .flat_map(|(number, (wanted, came))| {
            let found = differences(wanted, came).into_iter();
            found.map(move |difference| format!("input {number}: {difference}"))
        })
        .collect()
}

/// A reply that nobody asked for was written for a request that is not made.
fn with_unasked(mut found: Vec<String>, replies: &Replies) -> Vec<String> {
    match replies.left() {
        0 => {}
        1 => found.push("replies: the last one was not asked for".into()),
        left => found.push(format!("replies: the last {left} were not asked for")),
    }
    found
}

async fn diagnosed(loaded: &Loaded, wanted: &[Value]) -> Vec<String> {
    let said = match loaded.diagnose().await {
        Ok(diagnostics) => diagnostics.iter().map(expected::of_diagnostic).collect(),
        Err(error) => return vec![format!("configure: {error}")],
    };
    let wanted = serde_json::json!({ "diagnostics": wanted });
    differences(
        &wanted,
        &serde_json::json!({ "diagnostics": Value::Array(said) }),
    )
}

/// Judges the items; if metrics are wanted, sums up what was judged.
async fn evaluate(
    driver: &Driver<'_>,
    items: Vec<pacos_plugin::Item>,
    metrics: Option<Vec<Value>>,
) -> (Vec<Value>, Vec<String>) {
    let mut came = Vec::with_capacity(items.len());
    let mut all = Vec::new();
    for item in items {
        came.push(match driver.item(item).await {
            Ok(judgements) => {
                let written = judgements.iter().map(lines::judgement).collect();
                all.extend(judgements);
                written
            }
            Err(error) => lines::failure(&error),
        });
    }
    let Some(wanted) = metrics else {
        return (came, Vec::new());
    };
    (
        came,
        summary_differences(driver.summary(all).await, &wanted),
    )
}

/// Metrics are looked up by name and attributes; those that nobody expects are free.
fn summary_differences(
    summary: Result<Vec<pacos_plugin::Metric>, CallError>,
    wanted: &[Value],
) -> Vec<String> {
    let there: Vec<Value> = match summary {
        Ok(metrics) => metrics.iter().map(lines::metric).collect(),
        Err(error) => return vec![format!("metrics: {error}")],
    };
    let mut found = Vec::new();
    for wanted in wanted {
        let name = wanted["name"].as_str().unwrap_or_default();
        let mut of_name = there.iter().filter(|metric| {
            let attributes = wanted.get("attributes").unwrap_or(&Value::Null);
            metric["name"] == wanted["name"]
                && (attributes.is_null()
                    || differences(attributes, &metric["attributes"]).is_empty())
        });
        match (of_name.next(), of_name.count()) {
            (None, _) => {
                let names = there.iter().filter_map(|metric| metric["name"].as_str());
                let names = names.collect::<Vec<_>>().join(", ");
                found.push(format!("metrics: expected `{name}`, got only [{names}]"));
            }
            (Some(metric), 0) => found.extend(
                differences(wanted, metric)
                    .into_iter()
                    .map(|difference| format!("metric {name}: {difference}")),
            ),
            (Some(_), more) => found.push(format!(
                "metric {name}: there are {} of this name: tell them apart by `attributes`",
                more + 1
            )),
        }
    }
    found
}
