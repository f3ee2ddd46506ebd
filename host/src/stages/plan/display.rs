//! The forecast for a person.

use std::fmt;

use super::{
    Evaluation, Forecast,
    generation::{Generation, Yield},
    models::Load,
    training::{Lengths, Training},
};
use crate::trainer::plan::{duration, grouped, size};

/// Characters of a line of a note; the tables are about as wide.
const NOTE_WIDTH: usize = 90;

/// An amount as the key of `[budget]` counts it.
pub(super) fn amount(key: &str, value: f64) -> String {
    match key {
        "usd" => usd(value),
        _ => whole(value),
    }
}

/// Cents as far as they matter: a request can cost a thousandth of one.
fn usd(value: f64) -> String {
    if value == 0.0 {
        "0".to_owned()
    } else if value < 0.995 {
        format!("{value:.4}")
    } else {
        let cents = (value * 100.0).round();
        format!("{}.{:02}", whole((cents / 100.0).floor()), cents % 100.0)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a positive number; what is too large saturates"
)]
fn whole(value: f64) -> String {
    grouped(value.round() as u64)
}

/// A whole number, or one with a few digits.
fn few_digits(value: f64) -> String {
    if value.fract().abs() < 0.005 || value >= 100.0 {
        whole(value)
    } else {
        format!("{value:.2}")
    }
}

fn or_unknown(value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| "?".to_owned(), show)
}

/// A row of the table of requests and of the table of money.
struct Row {
    name: String,
    load: Load,
}

impl Forecast {
    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut push = |name: String, load: Option<Load>| {
            rows.extend(load.map(|load| Row { name, load }));
        };
        push("one unit".to_owned(), self.generation.a_unit);
        push("all units".to_owned(), self.generation.in_all);
        for filter in self.filters.iter().filter(|filter| !filter.asks.is_empty()) {
            push(filter.plugin.clone(), filter.in_all);
        }
        if let Some(evaluation) = &self.evaluation {
            for answers in &evaluation.answers {
                push(format!("answers of {}", answers.role), Some(answers.load));
            }
            for evaluator in &evaluation.evaluators {
                push(evaluator.plugin.clone(), evaluator.load);
            }
        }
        push("in all".to_owned(), self.in_all);
        rows
    }

    fn write_models(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nmodels")?;
        for model in &self.models {
            let price = match (&model.price, model.local) {
                (_, true) => String::new(),
                (Some(price), false) => format!(
                    "; USD a million tokens: {} in, {} out ({})",
                    price.input, price.output, price.as_of
                ),
                (None, false) => "; price unknown".to_owned(),
            };
            let roles = model.roles.join(", ");
            writeln!(f, "  {:<30} {}{price}", roles, model.what)?;
        }
        Ok(())
    }

    fn write_stages(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let generation = &self.generation;
        writeln!(f, "\ngeneration")?;
        line(
            f,
            "generator",
            &asking(&generation.plugin, &generation.asks, &generation.servers),
        )?;
        for filter in &self.filters {
            line(
                f,
                "filter",
                &asking(&filter.plugin, &filter.asks, &filter.servers),
            )?;
        }
        line(f, "examples wanted", &grouped(generation.target))?;
        if let Some(done) = &generation.done {
            let (units, examples) = (grouped(done.units), grouped(done.examples));
            let done = format!("{examples} of the examples in {units} units");
            line(f, "done so far", &done)?;
        }
        line(f, "examples a unit", &examples_a_unit(generation))?;
        if let Some(units) = generation.units_to_go {
            let name = match generation.done {
                Some(_) => "units to go",
                None => "units",
            };
            let time = generation.seconds_to_go.filter(|_| units > 0);
            let time = time.map_or_else(String::new, |seconds| {
                format!(", about {} at the speed so far", duration(seconds))
            });
            line(f, name, &format!("{}{time}", grouped(units)))?;
        }
        Ok(())
    }

    fn write_requests(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<32} {:>12} {:>15} {:>15} {:>15}",
            "requests and tokens", "requests", "in prompts", "in replies", "at most"
        )?;
        for Row { name, load } in self.rows() {
            writeln!(
                f,
                "  {name:<30} {:>12} {:>15} {:>15} {:>15}",
                few_digits(load.requests),
                whole(load.prompt_tokens),
                or_unknown(load.reply_tokens, whole),
                whole(load.most_tokens)
            )?;
        }
        let (requests, tokens) = (self.budget.requests, self.budget.tokens);
        if requests.is_some() || tokens.is_some() {
            let limit = |limit: Option<u64>| limit.map_or_else(String::new, grouped);
            let (requests, tokens) = (limit(requests), limit(tokens));
            writeln!(
                f,
                "  {:<30} {requests:>12} {:>15} {:>15} {tokens:>15}",
                "budget", "", ""
            )?;
        }
        Ok(())
    }

    fn write_money(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut paid = self.models.iter().filter(|model| !model.local).peekable();
        if paid.peek().is_none() {
            return writeln!(f, "\nUS dollars: none, as every model runs on this machine");
        }
        if paid.all(|model| model.price.is_none()) {
            return writeln!(f, "\nUS dollars: unknown, as no price is given");
        }
        let expected = match self.generation.tokens_measured {
            true => "expected",
            false => "a guess",
        };
        writeln!(f, "\n{:<32} {expected:>12} {:>15}", "US dollars", "at most")?;
        for Row { name, load } in self.rows() {
            if load.most_usd != Some(0.0) {
                let (usd, most) = (or_unknown(load.usd, usd), or_unknown(load.most_usd, usd));
                writeln!(f, "  {name:<30} {usd:>12} {most:>15}")?;
            }
        }
        let budget = self.budget.usd;
        let budget = budget.map_or_else(|| "no limit".to_owned(), usd);
        writeln!(f, "  {:<30} {:>12} {budget:>15}", "budget", "")
    }

    /// What the figures rest on.
    fn grounds(&self) -> Vec<String> {
        let generation = &self.generation;
        let mut grounds = Vec::new();
        if generation.tokens_measured {
            grounds
                .push("a unit's tokens and dollars are the mean of what was charged so far".into());
        } else {
            grounds.push(match generation.prompts_counted {
                true => "a unit's prompt is counted by the model's own tokenizer".into(),
                false => "prompts are a guess: their characters / 4".into(),
            });
            grounds.push(match generation.examples_a_unit {
                Some(_) => format!(
                    "a unit's replies are a guess, more likely too low than too high: the accepted examples alone, each as long as a seed task ({} tokens); what is dropped is paid too",
                    whole(generation.seed_task_tokens)
                ),
                None => "how long a unit's replies are is not known before it is measured".into(),
            });
        }
        let judged = |evaluation: &Evaluation| !evaluation.evaluators.is_empty();
        if self.evaluation.as_ref().is_some_and(judged) {
            grounds.push("answers are a guess, as long as the reference answers, and those who judge them reply at full length".into());
        }
        grounds
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, value: &str) -> fmt::Result {
    writeln!(f, "  {name:<30} {value}")
}

/// Sentences under a heading, none if there are none.
fn notes(f: &mut fmt::Formatter<'_>, heading: &str, sentences: &[String]) -> fmt::Result {
    if sentences.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n{heading}")?;
    for sentence in sentences {
        let mut width = 0;
        write!(f, "  -")?;
        for word in sentence.split(' ') {
            let length = word.chars().count() + 1;
            if width + length > NOTE_WIDTH && width > 0 {
                write!(f, "\n   ")?;
                width = 0;
            }
            write!(f, " {word}")?;
            width += length;
        }
        writeln!(f)?;
    }
    Ok(())
}

/// Whom a plugin asks. Servers it may ask: that it does is known when it runs.
fn asking(plugin: &str, roles: &[String], servers: &[String]) -> String {
    let (models, servers) = (roles.join(" and "), servers.join(" and "));
    match (models.is_empty(), servers.is_empty()) {
        (true, true) => format!("{plugin}, asks no model and no server"),
        (false, true) => format!("{plugin}, asks {models}"),
        (true, false) => format!("{plugin}, may ask {servers}"),
        (false, false) => format!("{plugin}, asks {models}, and may ask {servers}"),
    }
}

fn examples_a_unit(generation: &Generation) -> String {
    let number = generation.examples_a_unit.map(few_digits);
    match (generation.basis, number) {
        (Yield::Measured { units }, Some(number)) => {
            let error = generation.standard_error.map_or_else(String::new, |error| {
                format!(" (standard error {})", few_digits(error))
            });
            format!("{number}, measured in {} units{error}", grouped(units))
        }
        (Yield::Manifest, Some(number)) => format!("{number}, as the manifest expects"),
        (_, _) => "unknown; `pacos run --limit 3` measures it".to_owned(),
    }
}

impl Training {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nstudent")?;
        line(f, "base model", &self.student)?;
        let tokens = whole(self.mean_tokens);
        let mean = match self.lengths {
            Lengths::Examples => format!("{tokens} tokens, measured on what is accepted so far"),
            Lengths::Seeds => format!("{tokens} tokens, a guess: as the seed tasks have"),
            Lengths::Guess => format!("{tokens} tokens, a guess: as Alpaca's have"),
        };
        line(f, "mean example", &mean)?;
        if self.held_out > 0 {
            line(f, "held-out examples", &grouped(self.held_out))?;
        }
        let available = self
            .available_bytes
            .map_or_else(|| "unknown".to_owned(), size);
        match &self.plan {
            Some(plan) => {
                writeln!(f, "{plan}")?;
                let verdict = match self.fits {
                    Some(true) => ": it fits",
                    Some(false) => ": it does not fit",
                    None => "",
                };
                writeln!(f, "  {:<32} {available:>14}{verdict}", "available")?;
                let Some(free) = self.free_disk_bytes else {
                    return Ok(());
                };
                let verdict = match self.disk_bytes() <= Some(free) {
                    true => ": it fits",
                    false => ": it does not fit",
                };
                writeln!(f, "disk")?;
                let needed = self.disk_bytes().map_or_else(String::new, size);
                writeln!(f, "  {:<32} {needed:>14}", "checkpoints and student")?;
                writeln!(f, "  {:<32} {:>14}{verdict}", "free", size(free))
            }
            None => {
                line(f, "examples", &grouped(self.examples))?;
                line(f, "steps", &grouped(self.steps))?;
                line(f, "memory", &format!("unknown; available: {available}"))
            }
        }
    }
}

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: a plan; nothing was asked, nothing was spent",
            self.recipe
        )?;
        self.write_models(f)?;
        self.write_stages(f)?;
        if let Some(evaluation) = &self.evaluation {
            writeln!(f, "\nevaluation")?;
            line(f, "tasks", &grouped(evaluation.tasks))?;
            if evaluation.likelihoods > 0 {
                let likelihoods = grouped(evaluation.likelihoods);
                line(f, "likelihoods of references", &likelihoods)?;
            }
            if !evaluation.answers.is_empty() {
                let roles = evaluation
                    .answers
                    .iter()
                    .map(|answers| answers.role.as_str());
                let roles = roles.collect::<Vec<_>>().join(", ");
                let most = grouped(evaluation.max_tokens.into());
                line(f, "answers", &format!("of {roles}; {most} tokens at most"))?;
            }
            for evaluator in &evaluation.evaluators {
                let asking = asking(&evaluator.plugin, &evaluator.asks, &evaluator.servers);
                line(f, "evaluator", &asking)?;
            }
        }
        self.write_requests(f)?;
        self.write_money(f)?;
        if let Some(training) = &self.training {
            training.write(f)?;
        }
        notes(f, "what this rests on", &self.grounds())?;
        notes(f, "worth knowing", &self.remarks)?;
        notes(f, "in the way", &self.obstacles)
    }
}
