//! What the evaluation will ask: answers of the models, and judges of the answers.

use std::sync::Arc;

use pacos_plugin::{Answer, Item, Task};
use serde::Serialize;

use super::{
    generation::sum,
    models::{KnownModel, KnownModels, Load},
    rehearsal,
};
use crate::{
    manifest::Recipe,
    plugin::Loaded,
    seed,
    stages::{Prepared, evaluate::question},
};

/// Most tasks for which a judge is rehearsed; more are reckoned from these.
const MOST_REHEARSED: usize = 64;

/// Characters of a token, to make an answer of about so many tokens.
const CHARACTERS_PER_TOKEN: usize = 4;

/// What will be evaluated.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// Evaluation tasks.
    pub tasks: u64,
    /// Reference answers whose likelihood is measured, before and after training, on this machine.
    pub likelihoods: u64,
    /// Answers that evaluators compare.
    pub answers: Vec<Answers>,
    /// Longest answer, in tokens.
    pub max_tokens: u32,
    /// The evaluators, in order.
    pub evaluators: Vec<Evaluator>,
}

/// The answers of one model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answers {
    /// `student`, `student.base` or `teacher`.
    pub role: String,
    /// Name of the model in the manifest.
    pub model: String,
    /// All of its answers. Expected ones are as long as the reference answers.
    pub load: Load,
}

/// An evaluator of the recipe.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluator {
    /// Name and version.
    pub plugin: String,
    /// The roles that it asks.
    pub asks: Vec<String>,
    /// The servers that it may ask.
    pub servers: Vec<String>,
    /// All of its requests; absent where it failed before it asked. Expected ones show answers as
    /// long as the reference answers and get replies of full length.
    pub load: Option<Load>,
}

/// Plans the evaluation of a recipe, where it evaluates.
#[expect(
    clippy::cast_precision_loss,
    reason = "numbers of tasks are far below 2^53"
)]
pub(super) async fn evaluation(
    prepared: &Prepared,
    models: &Arc<KnownModels>,
    trains: bool,
    obstacles: &mut Vec<String>,
) -> Option<Evaluation> {
    let table = prepared.recipe.evaluation.as_ref()?;
    if !trains {
        obstacles.push(
            "the recipe has [evaluation] and no [trainer]: there is no student to compare, so nothing is evaluated"
                .to_owned(),
        );
        return None;
    }
    let limit = table.limit.unwrap_or(usize::MAX);
    let tasks: Vec<&Task> = prepared.evaluation.iter().take(limit).collect();
    let roles = answering(&prepared.recipe);
    let answers = roles
        .iter()
        .filter_map(|role| {
            let model = models.of_role(role)?;
            let loads = tasks
                .iter()
                .map(|task| answer(role, model, task, table.max_tokens));
            Some(Answers {
                role: (*role).to_owned(),
                model: model.name.clone(),
                load: loads.fold(Load::NONE, Load::plus),
            })
        })
        .collect();
    let mut evaluators = Vec::new();
    for evaluator in &prepared.evaluators {
        let rehearsed = &tasks[..tasks.len().min(MOST_REHEARSED)];
        let judged = judged(evaluator, rehearsed, &roles, table.max_tokens, models).await;
        let load = match judged {
            Ok(load) => Some(load.times(tasks.len() as f64 / rehearsed.len().max(1) as f64)),
            Err(error) => {
                obstacles.push(format!(
                    "{} fails at its first task: {error}",
                    evaluator.title()
                ));
                None
            }
        };
        evaluators.push(Evaluator {
            plugin: evaluator.title(),
            asks: rehearsal::roles_of(evaluator).map(str::to_owned).collect(),
            servers: rehearsal::servers_of(evaluator),
            load,
        });
    }
    Some(Evaluation {
        tasks: tasks.len() as u64,
        // The base model in two templates, the trained one in Alpaca's.
        likelihoods: 3 * tasks.len() as u64,
        answers,
        max_tokens: table.max_tokens,
        evaluators,
    })
}

/// The roles whose answers are compared.
fn answering(recipe: &Recipe) -> Vec<&'static str> {
    let mut roles = Vec::new();
    if recipe.roles.contains_key("student") {
        roles.extend(["student", "student.base"]);
    }
    if recipe.roles.contains_key("teacher") {
        roles.push("teacher");
    }
    roles
}

#[expect(
    clippy::cast_precision_loss,
    reason = "tokens of one answer are far below 2^53"
)]
fn answer(role: &str, model: &KnownModel, task: &Task, max_tokens: u32) -> Load {
    let request = question(role, model.description.chat, task, max_tokens);
    model.load(&request, Some(model.text_tokens(&task.output) as f64))
}

/// What an evaluator asks about all of `tasks`: the worst case with answers as long as can be.
async fn judged(
    evaluator: &Loaded,
    tasks: &[&Task],
    roles: &[&str],
    max_tokens: u32,
    models: &Arc<KnownModels>,
) -> Result<Load, crate::plugin::CallError> {
    let mut load = Load::NONE;
    for (index, task) in (0..).zip(tasks) {
        let expected = item(index, task, roles, task.output.chars().count());
        let longest = item(
            index,
            task,
            roles,
            max_tokens as usize * CHARACTERS_PER_TOKEN,
        );
        let expected = rehearsal::of_item(evaluator, expected, models).await?;
        let longest = rehearsal::of_item(evaluator, longest, models).await?;
        // Verdicts are short; nothing says how short, so they count in full.
        let expected = sum(&expected, models, Some(f64::INFINITY));
        let longest = sum(&longest, models, None);
        load = load.plus(Load {
            most_tokens: longest.most_tokens,
            most_usd: longest.most_usd,
            ..expected
        });
    }
    Ok(load)
}

/// An item with answers of so many characters, no two alike.
fn item(index: u64, task: &Task, roles: &[&str], characters: usize) -> Item {
    let answer = |role: &&str| Answer {
        model: (*role).to_owned(),
        text: format!("{role} {}", task.output)
            .chars()
            .cycle()
            .take(characters.max(role.len()))
            .collect(),
    };
    Item {
        index,
        seed: seed::of_content(task),
        task: task.clone(),
        answers: roles.iter().map(answer).collect(),
    }
}
