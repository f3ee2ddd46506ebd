//! The page itself, from a template. Whatever the ledger holds is escaped; only charts, which are
//! drawn here, are not.

use minijinja::{Environment, Value, context, syntax::SyntaxConfig, value::Serde};

use super::{
    Report,
    chart::{self, Bar, FIRST, Interval, Line, SECOND},
    figures,
};

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");

pub(super) fn html(report: &Report) -> String {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .expect("the delimiters are Jinja's own"),
    );
    // A name that ends in `.html` turns escaping on.
    environment
        .add_template("report.html", TEMPLATE)
        .expect("the template is part of the program, and every test of the page reads it");
    environment.add_filter("whole", |number: u64| figures::whole(number));
    environment.add_filter("fixed", |number: Option<f64>, places: usize| {
        number.map_or_else(absent, |number| figures::fixed(number, places))
    });
    environment.add_filter("signed", |number: Option<f64>, places: usize| {
        number.map_or_else(absent, |number| figures::signed(number, places))
    });
    environment.add_filter("usd", |number: Option<f64>| {
        number.map_or_else(absent, figures::usd)
    });
    environment.add_filter("duration", |number: f64| figures::duration(number));
    environment.add_filter("share", figures::share);
    // As wide as a bar of the funnel is.
    environment.add_filter("width", |part: u64, whole: u64| {
        format!("{:.1}%", 100.0 * part as f64 / whole.max(1) as f64)
    });
    environment
        .get_template("report.html")
        .and_then(|template| {
            template.render(context! {
                report => Value::from(Serde(report)),
                charts => charts(report),
                title => report.origin.recipe.as_deref().unwrap_or("run"),
                read => report.funnel.read(),
                itself => report.origin.learns_from_itself().map(|model| model.name.as_str()),
                tokens_per_second => report.training.as_ref().and_then(|t| t.tokens_per_second()),
                style => Value::from_safe_string(STYLE.to_owned()),
                version => env!("CARGO_PKG_VERSION"),
            })
        })
        .expect("the template asks of a report nothing that a report does not have")
}

fn absent() -> String {
    "–".to_owned()
}

fn charts(report: &Report) -> Value {
    let safe = |svg: Option<String>| svg.map(Value::from_safe_string);
    let similarity: Vec<_> = report
        .similarity
        .iter()
        .map(|filter| {
            let bars: Vec<Bar> = filter
                .buckets
                .iter()
                .map(|bucket| Bar {
                    from: bucket.from,
                    to: bucket.to,
                    heights: vec![(bucket.kept, FIRST), (bucket.dropped, SECOND)],
                })
                .collect();
            let label = format!(
                "Histogram of nearest scores: {} kept, {} dropped",
                filter.kept, filter.dropped
            );
            safe(chart::bars(&label, &bars, "score of the nearest neighbour"))
        })
        .collect();
    let lengths: Vec<_> = report
        .lengths
        .iter()
        .flat_map(|lengths| &lengths.fields)
        .map(|length| {
            let (bars, beyond) = chart::counted(&length.counts, FIRST);
            let label = format!(
                "Histogram of words of the {}: median {}, longest {}",
                length.field, length.median, length.longest
            );
            let what = match beyond {
                Some(from) => format!("words (last bar: {from} or more)"),
                None => "words".to_owned(),
            };
            safe(chart::bars(&label, &bars, &what))
        })
        .collect();
    context! {
        similarity => similarity,
        lengths => lengths,
        loss => safe(loss(report)),
        likelihoods => safe(likelihoods(report)),
        gains => safe(gains(report)),
        win_rates => safe(win_rates(report)),
    }
}

fn loss(report: &Report) -> Option<String> {
    let training = report.training.as_ref()?;
    let curve = training.curve.iter();
    let held_out = training.held_out.iter();
    let lines = [
        Line {
            points: curve.map(|point| (point.step as f64, point.loss)).collect(),
            colour: FIRST,
            dots: false,
        },
        Line {
            points: held_out
                .map(|point| (point.step as f64, point.loss))
                .collect(),
            colour: SECOND,
            dots: true,
        },
    ];
    let label = format!(
        "Loss over {} steps, on training examples and on examples held out",
        training.steps
    );
    chart::lines(&label, &lines, "optimizer step")
}

/// A figure with the half of its interval.
fn told(value: String, margin: Option<f64>, places: usize) -> String {
    match margin {
        Some(margin) => format!("{value} ± {}", figures::fixed(margin, places)),
        None => value,
    }
}

fn likelihoods(report: &Report) -> Option<String> {
    let rows: Vec<Interval> = report
        .evaluation
        .likelihoods
        .iter()
        .map(|row| {
            let margin = row.per_token.margin();
            Interval {
                label: format!("{}, {} template", row.model, row.template),
                value: row.per_token.value,
                margin,
                text: told(figures::fixed(row.per_token.value, 3), margin, 3),
            }
        })
        .collect();
    let label =
        "Log-likelihood of the reference answers by model and template, with 95 % intervals";
    chart::intervals(label, &rows, None, "nats a token; nearer to 0 is better")
}

fn gains(report: &Report) -> Option<String> {
    let rows: Vec<Interval> = report
        .evaluation
        .gains
        .iter()
        .map(|row| {
            let margin = row.per_token.margin();
            Interval {
                label: format!("over student.base, {} template", row.base_template),
                value: row.per_token.value,
                margin,
                text: told(figures::signed(row.per_token.value, 3), margin, 3),
            }
        })
        .collect();
    let label =
        "Gain of the student over its base model by the base model's template, with 95 % intervals";
    chart::intervals(
        label,
        &rows,
        Some(0.0),
        "nats a token; right of 0 is a gain",
    )
}

fn win_rates(report: &Report) -> Option<String> {
    let evaluators = report.evaluation.evaluators.iter();
    let rows: Vec<Interval> = evaluators
        .flat_map(|evaluator| &evaluator.comparisons)
        .filter_map(|comparison| {
            let rate = comparison.win_rate?;
            Some(Interval {
                label: match comparison.judge.as_str() {
                    "model" => format!("{} against {}", comparison.first, comparison.second),
                    judge => format!(
                        "{} against {} ({judge})",
                        comparison.first, comparison.second
                    ),
                },
                value: rate.value,
                margin: rate.margin(),
                text: told(figures::fixed(rate.value, 1), rate.margin(), 1),
            })
        })
        .collect();
    if rows.is_empty() {
        return None;
    }
    let label = "Win rates with 95 % intervals";
    chart::intervals(
        label,
        &rows,
        Some(50.0),
        "% of the comparisons; 50 is a draw",
    )
}
