//! What a run would ask, for how much, what it would train and evaluate: known before anything is
//! asked, opened or fetched.
//!
//! Plugins are called as in a run, with nobody behind them: their first round of requests is
//! counted, and the call ends there. Whatever rests on a guess is called one.

mod display;
mod evaluation;
mod generation;
mod measured;
mod models;
mod rehearsal;
#[cfg(test)]
mod tests;
mod training;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use serde::Serialize;

pub use evaluation::{Answers, Evaluation, Evaluator};
pub use generation::{Done, Filter, Generation, Yield};
pub use measured::Charged;
pub use models::Load;
pub use training::{Lengths, Refused, Training, refuse_early};

use super::Prepared;
use crate::{
    manifest::{Budget, Price, Provider, Recipe},
    models::openai::SetupError,
    trainer::{Room, config::ConfigProblem},
};
use models::{KnownModel, KnownModels};

/// Why a recipe cannot even be planned.
#[derive(Debug, thiserror::Error)]
pub enum ForecastError {
    /// A model's table.
    #[error(transparent)]
    Model(#[from] SetupError),
    /// The `[trainer]` table.
    #[error("[trainer]: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Trainer(Vec<ConfigProblem>),
}

/// What a run would do. [`std::fmt::Display`] writes it for a person.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Forecast {
    /// Name of the recipe.
    pub recipe: String,
    /// The models that roles name.
    pub models: Vec<ModelInUse>,
    /// Units, and what they ask.
    pub generation: Generation,
    /// The filters, in order.
    pub filters: Vec<Filter>,
    /// What is trained; absent where the recipe ends with the dataset, or there is no student.
    pub training: Option<Training>,
    /// What is evaluated; absent where nothing is.
    pub evaluation: Option<Evaluation>,
    /// All requests together; absent where the number of units is unknown.
    pub in_all: Option<Load>,
    /// The limits.
    pub budget: Budget,
    /// What would keep the run from reaching its end, as far as can be seen now.
    pub obstacles: Vec<String>,
    /// What else is worth knowing.
    pub remarks: Vec<String>,
}

/// A model and what it does in the recipe.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelInUse {
    /// Name in the manifest.
    pub name: String,
    /// Its roles.
    pub roles: Vec<String>,
    /// What it is, for a person.
    pub what: String,
    /// Whether it runs here, and so costs nothing.
    pub local: bool,
    /// What it costs; absent where it is unknown, or local.
    pub price: Option<Price>,
    /// Tokens of prompt and reply together, where they are known.
    pub context_length: Option<u32>,
}

/// Takes the keys out of a recipe that are not set, so that it can be prepared by whoever asks
/// nothing. Returns a sentence for each.
#[must_use]
pub fn set_missing_keys_aside(recipe: &mut Recipe) -> Vec<String> {
    let used: BTreeSet<&String> = recipe.roles.values().collect();
    let mut missing: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let set = |variable: &String| std::env::var(variable).is_ok_and(|key| !key.trim().is_empty());
    for model in recipe.models.values_mut() {
        let Provider::OpenAi(settings) = &mut model.provider else {
            continue;
        };
        if used.contains(&model.name)
            && let Some(variable) = settings.api_key_env.take_if(|variable| !set(variable))
        {
            let names = missing.entry(variable).or_default();
            names.push(format!("`{}`", model.name));
        }
    }
    for server in &mut recipe.servers {
        if let Some(variable) = server.api_key_env.take_if(|variable| !set(variable)) {
            let names = missing.entry(variable).or_default();
            names.push(format!("the server {}", server.name));
        }
    }
    missing
        .into_iter()
        .map(|(variable, names)| {
            format!(
                "the environment variable {variable} is not set: `pacos run` needs it for {}",
                names.join(" and ")
            )
        })
        .collect()
}

/// Forecasts a run of a prepared recipe. Nothing is asked, opened, fetched or written. The run in
/// `dir`, where there is one, supplies measured figures. Training is planned for the `card`, or else for
/// the device that the recipe names.
///
/// # Errors
/// See [`ForecastError`]; what merely would not work is an obstacle of the forecast.
pub async fn forecast(
    prepared: &Prepared,
    dir: Option<&Path>,
    card: Option<Room>,
) -> Result<Forecast, ForecastError> {
    let recipe = &prepared.recipe;
    let models = Arc::new(KnownModels::new(recipe)?);
    let (mut obstacles, mut remarks) = (Vec::new(), Vec::new());
    let (measured, unusable) = match dir {
        Some(dir) => measured::measured(prepared, &models, dir),
        None => (None, None),
    };
    remarks.extend(unusable);
    for plugin in prepared.generation().chain(&prepared.evaluators) {
        let servers = rehearsal::servers_of(plugin);
        if !servers.is_empty() {
            remarks.push(format!(
                "{} may ask {} over HTTP: how often is known when it runs, and is not in the sums",
                plugin.title(),
                servers.join(" and ")
            ));
        }
    }
    let measured = measured.as_ref();
    let generation =
        generation::generation(prepared, &models, measured, &mut obstacles, &mut remarks).await;
    let filters = generation::filters(prepared, measured, generation.units_to_go, &mut remarks);
    let training = training::training(
        recipe,
        &prepared.seeds,
        models.of_role("student"),
        measured,
        dir,
        card,
        &mut obstacles,
    )?;
    let evaluation =
        evaluation::evaluation(prepared, &models, training.is_some(), &mut obstacles).await;
    let in_all = in_all(&generation, &filters, evaluation.as_ref());
    let forecast = Forecast {
        recipe: recipe.name.clone(),
        models: models.iter().map(|model| in_use(recipe, model)).collect(),
        generation,
        filters,
        training,
        evaluation,
        in_all,
        budget: recipe.budget.clone(),
        obstacles,
        remarks,
    };
    Ok(forecast.against_the_budget().with_what_is_unknown(&models))
}

fn in_use(recipe: &Recipe, model: &KnownModel) -> ModelInUse {
    let roles = recipe.roles.iter();
    ModelInUse {
        name: model.name.clone(),
        roles: roles
            .filter(|(_, name)| **name == model.name)
            .map(|(role, _)| role.clone())
            .collect(),
        what: model.what.clone(),
        local: model.is_local(),
        price: model.price.clone(),
        context_length: model.description.context_length,
    }
}

fn in_all(
    generation: &Generation,
    filters: &[Filter],
    evaluation: Option<&Evaluation>,
) -> Option<Load> {
    let filters = filters.iter().filter(|filter| !filter.asks.is_empty());
    let mut sum = generation.in_all?;
    for filter in filters {
        // Filters whose requests nobody has measured are named in a remark.
        sum = sum.plus(filter.in_all.unwrap_or(Load::NONE));
    }
    if let Some(evaluation) = evaluation {
        let answers = evaluation.answers.iter().map(|answers| answers.load);
        let judges = evaluation.evaluators.iter();
        let judges = judges.filter_map(|evaluator| evaluator.load);
        sum = answers.chain(judges).fold(sum, Load::plus);
    }
    Some(sum)
}

impl Forecast {
    /// Says where a limit would end the run before its target.
    fn against_the_budget(mut self) -> Self {
        let guessed = match self.generation.tokens_measured {
            true => "expected",
            false => "expected (a guess)",
        };
        let Some(load) = self.in_all else {
            return self.per_unit_against_the_budget();
        };
        let mut limit = |key: &str,
                         limit: Option<f64>,
                         expected: Option<f64>,
                         most: Option<f64>| {
            let Some(limit) = limit else { return };
            let shown = |value: f64| display::amount(key, value);
            if let Some(expected) = expected.filter(|expected| *expected > limit) {
                self.obstacles.push(format!(
                    "[budget] {key} = {} ends the run before its end: {} are {guessed}",
                    shown(limit),
                    shown(expected)
                ));
            } else if let Some(most) = most.filter(|most| *most > limit) {
                self.remarks.push(format!(
                    "[budget] {key} = {} suffices for what is expected, not for the most that is possible, {}",
                    shown(limit),
                    shown(most)
                ));
            }
        };
        #[expect(clippy::cast_precision_loss, reason = "limits far below 2^53")]
        let whole = |limit: Option<u64>| limit.map(|limit| limit as f64);
        let tokens = load.reply_tokens.map(|reply| reply + load.prompt_tokens);
        limit("usd", self.budget.usd, load.usd, load.most_usd);
        limit(
            "tokens",
            whole(self.budget.tokens),
            tokens,
            Some(load.most_tokens),
        );
        limit(
            "requests",
            whole(self.budget.requests),
            Some(load.requests),
            None,
        );
        self
    }

    /// Where the number of units is unknown: how many the budget is sure to pay for.
    fn per_unit_against_the_budget(mut self) -> Self {
        let spent = self.generation.done.map_or(0.0, |done| done.charged.usd);
        let most = self.generation.a_unit.and_then(|load| load.most_usd);
        if let (Some(limit), Some(most)) = (self.budget.usd, most)
            && most > 0.0
        {
            let units = ((limit - spent) / most).floor().max(0.0);
            self.remarks.push(format!(
                "[budget] usd = {} pays for {} units for sure",
                display::amount("usd", limit),
                display::amount("requests", units)
            ));
        }
        self
    }

    fn with_what_is_unknown(mut self, models: &KnownModels) -> Self {
        let trained = self
            .training
            .as_ref()
            .map(|training| training.student.as_str());
        for model in models.iter() {
            if model.is_local()
                && !model.counts_exactly()
                && trained != Some(&model.description.model)
            {
                self.remarks.push(format!(
                    "{} is not on this machine: its tokens and its context are guesses, and it is taken to be able to chat",
                    model.description.model
                ));
            }
            if !model.is_local() && model.price.is_none() {
                self.remarks.push(format!(
                    "the price of model `{}` is unknown: write `price = {{ input = 0.4, output = 1.6, as_of = \"2026-01-31\" }}` under [models.{}], in US dollars for a million tokens (0 for a server of your own)",
                    model.name, model.name
                ));
            }
        }
        self
    }
}
