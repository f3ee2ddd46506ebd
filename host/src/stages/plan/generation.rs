//! Units: how many there will be, what each asks, and what that comes to.

use std::sync::Arc;

use pacos_plugin::Unit;
use serde::Serialize;

use super::{
    measured::{Charged, Measured},
    models::{KnownModels, Load},
    rehearsal::{self, Asked},
};
use crate::{plugin::CallError, seed, stages::Prepared};

/// What the generator will do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Generation {
    /// Name and version.
    pub plugin: String,
    /// The roles that it asks.
    pub asks: Vec<String>,
    /// The servers that it may ask.
    pub servers: Vec<String>,
    /// Accepted examples wanted.
    pub target: u64,
    /// Accepted examples of a unit.
    pub examples_a_unit: Option<f64>,
    /// Standard error of a measured `examples_a_unit`, from two units on.
    pub standard_error: Option<f64>,
    /// What `examples_a_unit` rests on.
    pub basis: Yield,
    /// What a unit asks; absent where the generator failed before it asked.
    pub a_unit: Option<Load>,
    /// Whether the tokens of `a_unit` are the mean of what was charged so far.
    pub tokens_measured: bool,
    /// Whether prompts are counted by the model's own tokenizer; otherwise from their characters.
    pub prompts_counted: bool,
    /// Mean tokens of a seed task, which the replies' guessed length rests on.
    pub seed_task_tokens: f64,
    /// What an earlier part of the run did.
    pub done: Option<Done>,
    /// Units that are still needed to reach the target.
    pub units_to_go: Option<u64>,
    /// What was charged, and what all units to go will take.
    pub in_all: Option<Load>,
    /// Time that the units to go will take, at the speed so far.
    pub seconds_to_go: Option<f64>,
}

/// What the accepted examples of a unit rest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Yield {
    /// The run so far.
    Measured {
        /// In so many units.
        units: u64,
    },
    /// `[dataset] expected_yield`.
    Manifest,
    /// Nothing.
    Unknown,
}

/// An earlier part of the run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Done {
    /// Units that have been through the filters.
    pub units: u64,
    /// Examples that came of them.
    pub examples: u64,
    /// What the generator's requests were charged.
    pub charged: Charged,
}

/// A filter of the recipe.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Filter {
    /// Name and version.
    pub plugin: String,
    /// The roles that it asks about each candidate.
    pub asks: Vec<String>,
    /// The servers that it may ask.
    pub servers: Vec<String>,
    /// What that comes to, where the run so far has measured it.
    pub in_all: Option<Load>,
}

#[expect(
    clippy::cast_precision_loss,
    reason = "numbers of examples, units and tokens are far below 2^53"
)]
pub(super) async fn generation(
    prepared: &Prepared,
    models: &Arc<KnownModels>,
    measured: Option<&Measured>,
    obstacles: &mut Vec<String>,
    remarks: &mut Vec<String>,
) -> Generation {
    let recipe = &prepared.recipe;
    let plugin = prepared.generator.title();
    let unit = Unit {
        index: 0,
        seed: seed::derive(recipe.seed, "unit", 0),
        accepted: 0,
    };
    let asked = rehearsal::of_unit(&prepared.generator, &prepared.seeds, unit, models).await;
    let charged = measured.and_then(|measured| measured.charged.get("generator").copied());
    let done = measured.map(|measured| Done {
        units: measured.units,
        examples: measured.examples.len() as u64,
        charged: charged.unwrap_or_default(),
    });
    let (examples_a_unit, basis) = match (done, recipe.dataset.expected_yield) {
        (Some(done), _) => (
            Some(done.examples as f64 / done.units as f64),
            Yield::Measured { units: done.units },
        ),
        (None, Some(expected)) => (Some(expected), Yield::Manifest),
        (None, None) => (None, Yield::Unknown),
    };
    let asks = roles(&asked, &prepared.generator);
    let teacher = asks.first().and_then(|role| models.of_role(role));
    let seed_tokens: u64 = teacher.map_or(0, |model| {
        let texts = prepared.seeds.iter();
        let texts = texts.flat_map(|task| [&task.instruction, &task.input, &task.output]);
        texts.map(|text| model.text_tokens(text)).sum()
    });
    let seed_task_tokens = seed_tokens as f64 / prepared.seeds.len().max(1) as f64;
    let rehearsed = match &asked {
        Ok(asked) => {
            let reply = examples_a_unit.map(|n| n * seed_task_tokens / asked.len().max(1) as f64);
            Some(sum(asked, models, reply))
        }
        Err(error) => {
            obstacles.push(format!("{plugin} fails at its first unit: {error}"));
            None
        }
    };
    if let Some((role, request)) = asked.as_ref().ok().and_then(|asked| asked.first())
        && let Some(model) = models.of_role(role)
        && let Some((prompt, reply, context)) = model.overflows(request)
    {
        remarks.push(format!(
            "a prompt of about {prompt} tokens and a reply of up to {reply} do not fit together into the {context} of model `{}`",
            model.name
        ));
    }
    let from_charges = charged
        .filter(|charged| charged.requests > 0.0)
        .zip(measured);
    let a_unit = rehearsed.map(|rehearsed| match from_charges {
        Some((charged, measured)) => measured_unit(rehearsed, charged, measured.requests_a_unit),
        None => rehearsed,
    });
    let target = recipe.dataset.target;
    let examples = done.map_or(0, |done| done.examples);
    let units_to_go = match (target.saturating_sub(examples), examples_a_unit) {
        (0, _) => Some(0),
        (missing, Some(a_unit)) if a_unit > 0.0 => Some(ceil(missing as f64 / a_unit)),
        _ => None,
    };
    if let (Some(done), None) = (done, units_to_go) {
        obstacles.push(format!(
            "nothing that the first {} units brought was accepted: how many the target takes cannot be told",
            done.units
        ));
    }
    let units = units_to_go.map(|to_go| to_go + done.map_or(0, |done| done.units));
    if let (Some(units), Some(most)) = (units, recipe.dataset.max_units)
        && units > most
    {
        obstacles.push(format!(
            "at this yield the target takes {units} units, and [dataset] max_units = {most} ends the run before"
        ));
    }
    let so_far = done.map_or(Load::NONE, |done| spent(done.charged));
    let in_all = a_unit
        .zip(units_to_go)
        .map(|(a_unit, units)| so_far.plus(a_unit.times(units as f64)));
    if let (Some(load), Some(most)) = (in_all, recipe.generator.plugin.limits.requests)
        && load.requests > most as f64
    {
        obstacles.push(format!(
            "{plugin} will ask about {:.0} times, and [generator] limits.requests = {most} refuses what is more",
            load.requests
        ));
    }
    let a_unit_seconds = measured.and_then(|m| Some(m.seconds? / m.units as f64));
    Generation {
        plugin,
        target,
        examples_a_unit,
        standard_error: measured.and_then(standard_error),
        basis,
        tokens_measured: from_charges.is_some(),
        prompts_counted: teacher.is_some_and(|model| model.counts_exactly()),
        seed_task_tokens,
        done,
        units_to_go,
        in_all,
        a_unit,
        seconds_to_go: a_unit_seconds
            .zip(units_to_go)
            .map(|(seconds, units)| seconds * units as f64),
        asks,
        servers: rehearsal::servers_of(&prepared.generator),
    }
}

/// What the filters ask, as far as it was measured.
#[expect(
    clippy::cast_precision_loss,
    reason = "numbers of units are far below 2^53"
)]
pub(super) fn filters(
    prepared: &Prepared,
    measured: Option<&Measured>,
    units_to_go: Option<u64>,
    remarks: &mut Vec<String>,
) -> Vec<Filter> {
    let filters = prepared.filters.iter().enumerate();
    filters
        .map(|(index, filter)| {
            let asks: Vec<String> = rehearsal::roles_of(filter).map(str::to_owned).collect();
            let charged = measured.and_then(|m| {
                let charged = m.charged.get(&format!("filters.{index}"))?;
                Some((*charged, m.units as f64))
            });
            let in_all = charged.zip(units_to_go).map(|((charged, units), to_go)| {
                spent(charged).times(1.0 + to_go as f64 / units)
            });
            if in_all.is_none() && !asks.is_empty() {
                remarks.push(format!(
                    "{} asks {} about each candidate: what that takes is known after a first taste (`pacos run --limit 3`), and is not in the sums",
                    filter.title(),
                    asks.join(" and ")
                ));
            }
            Filter {
                plugin: filter.title(),
                asks,
                servers: rehearsal::servers_of(filter),
                in_all,
            }
        })
        .collect()
}

/// The roles asked; those declared where the call did not come so far.
fn roles(asked: &Result<Vec<Asked>, CallError>, generator: &crate::plugin::Loaded) -> Vec<String> {
    let mut roles: Vec<String> = match asked {
        Ok(asked) => asked.iter().map(|(role, _)| role.clone()).collect(),
        Err(_) => rehearsal::roles_of(generator).map(str::to_owned).collect(),
    };
    roles.dedup();
    roles
}

/// What requests take together, each with a reply of so many tokens.
pub(super) fn sum(asked: &[Asked], models: &KnownModels, reply_tokens: Option<f64>) -> Load {
    asked
        .iter()
        .filter_map(|(role, request)| Some(models.of_role(role)?.load(request, reply_tokens)))
        .fold(Load::NONE, Load::plus)
}

/// Of the mean number of examples a unit: the units' standard deviation (with n - 1) over the
/// square root of their number.
#[expect(
    clippy::cast_precision_loss,
    reason = "numbers of examples and units are far below 2^53"
)]
fn standard_error(measured: &Measured) -> Option<f64> {
    let mut examples = vec![0.0; usize::try_from(measured.units).ok()?];
    for (id, _) in &measured.examples {
        *examples.get_mut(usize::try_from(id.unit).ok()?)? += 1.0;
    }
    let n = examples.len() as f64;
    let mean = examples.iter().sum::<f64>() / n;
    let squares: f64 = examples.iter().map(|x| (x - mean) * (x - mean)).sum();
    (n > 1.0).then(|| (squares / (n - 1.0) / n).sqrt())
}

fn spent(charged: Charged) -> Load {
    Load {
        requests: charged.requests,
        prompt_tokens: charged.prompt_tokens,
        reply_tokens: Some(charged.reply_tokens),
        most_tokens: charged.prompt_tokens + charged.reply_tokens,
        usd: Some(charged.usd),
        most_usd: Some(charged.usd),
    }
}

/// A unit as the charges so far show it. The worst case stays that of its requests; a unit that
/// was seen to ask more often than at first has it more often.
fn measured_unit(rehearsed: Load, charged: Charged, requests: f64) -> Load {
    let factor = requests / charged.requests;
    let more = (requests / rehearsed.requests.max(1.0)).max(1.0);
    let worst = rehearsed.times(more);
    Load {
        requests,
        prompt_tokens: charged.prompt_tokens * factor,
        reply_tokens: Some(charged.reply_tokens * factor),
        usd: rehearsed.most_usd.map(|_| charged.usd * factor),
        most_tokens: worst.most_tokens,
        most_usd: worst.most_usd,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a positive number; what is too large saturates"
)]
fn ceil(number: f64) -> u64 {
    number.ceil() as u64
}
