//! Answers of all models to the same tasks, side by side.

use std::collections::BTreeMap;

use rusqlite::Connection;
use serde::Serialize;

use super::{Excerpt, count, rows, text};

/// Tasks shown.
const TASKS: u32 = 8;
/// Characters of a task or an answer.
const TEXT: usize = 1200;

/// Answers side by side.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Answers {
    /// How each model did, the student's line first.
    pub models: Vec<Answered>,
    /// The first tasks that somebody answered.
    pub tasks: Vec<TaskAnswers>,
}

/// What one model answered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answered {
    /// Whose answers.
    pub model: String,
    /// Answers.
    pub answers: u64,
    /// Of these, those cut off at the length limit.
    pub cut: u64,
    /// Tasks without an answer.
    pub failed: u64,
}

/// One task with its answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskAnswers {
    /// Number of the task, from 0.
    pub item: u64,
    /// The task.
    pub instruction: Excerpt,
    /// Its input, where it has one.
    pub input: Option<Excerpt>,
    /// The reference answer.
    pub reference: Excerpt,
    /// Each model's answer: base, student, teacher, others.
    pub answers: Vec<Sample>,
    /// What evaluators said of them.
    pub judged: Vec<Judged>,
}

/// One model's answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    /// Whose.
    pub model: String,
    /// The answer, where there is one.
    pub text: Option<Excerpt>,
    /// Whether it ended at the length limit.
    pub cut: bool,
    /// Why there is none.
    pub error: Option<Excerpt>,
}

/// One judgement.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judged {
    /// Whose answers were compared.
    pub first: String,
    /// Whose answers were compared.
    pub second: String,
    /// `First`, `Second`, `Tie`, `Unparsed`, `Refused`.
    pub outcome: String,
    /// Whether the judge changed its mind with the order.
    pub flipped: bool,
}

/// The order in which models are shown.
fn place(model: &str) -> usize {
    let known = ["student.base", "student", "teacher"];
    let at = known.iter().position(|name| *name == model);
    at.unwrap_or(known.len())
}

pub(super) fn read(c: &Connection) -> rusqlite::Result<Answers> {
    let sql = "SELECT model, count(text), coalesce(sum(text IS NOT NULL AND finish_reason = 'Length'), 0),
                      sum(text IS NULL)
               FROM answers GROUP BY model ORDER BY model";
    let mut models = rows(c, sql, [], |r| {
        Ok(Answered {
            model: r.get(0)?,
            answers: count(r, 1)?,
            cut: count(r, 2)?,
            failed: count(r, 3)?,
        })
    })?;
    models.sort_by_key(|answered| place(&answered.model));
    let sql = "SELECT item, instruction, input, output FROM evaluation_tasks
               WHERE item IN (SELECT item FROM answers) ORDER BY item LIMIT ?1";
    let tasks = rows(c, sql, [TASKS], |r| {
        let input = text(r, 2)?;
        let task = TaskAnswers {
            item: count(r, 0)?,
            instruction: Excerpt::of(&text(r, 1)?, TEXT),
            input: (!input.is_empty()).then(|| Excerpt::of(&input, TEXT)),
            reference: Excerpt::of(&text(r, 3)?, TEXT),
            answers: Vec::new(),
            judged: Vec::new(),
        };
        Ok((r.get::<_, i64>(0)?, task))
    })?;
    let mut by_item: BTreeMap<i64, TaskAnswers> = tasks.into_iter().collect();
    let sql = "SELECT item, model, text, finish_reason, error_code, error FROM answers
               WHERE item = ?1 ORDER BY model";
    for (item, task) in &mut by_item {
        task.answers = rows(c, sql, [item], |r| {
            let texts: [Option<String>; 4] = [r.get(2)?, r.get(3)?, r.get(4)?, r.get(5)?];
            let [answer, finish_reason, code, error] = texts;
            let why = [code, error].into_iter().flatten().collect::<Vec<_>>();
            Ok(Sample {
                model: r.get(1)?,
                cut: finish_reason.is_some_and(|reason| reason == "Length"),
                error: answer
                    .is_none()
                    .then(|| Excerpt::of(&why.join(": "), TEXT / 2)),
                text: answer.map(|answer| Excerpt::of(&answer, TEXT)),
            })
        })?;
        task.answers.sort_by_key(|answer| place(&answer.model));
        task.judged = judged(c, *item)?;
    }
    Ok(Answers {
        models,
        tasks: by_item.into_values().collect(),
    })
}

/// Comparisons of two models' answers; the tests of a judge are left out.
fn judged(c: &Connection, item: i64) -> rusqlite::Result<Vec<Judged>> {
    let sql = "SELECT first, second, outcome, flipped FROM judgements
               WHERE item = ?1 AND first IN (SELECT model FROM answers)
                 AND second IN (SELECT model FROM answers)
               ORDER BY evaluator, n LIMIT 12";
    rows(c, sql, [item], |r| {
        Ok(Judged {
            first: r.get(0)?,
            second: r.get(1)?,
            outcome: r.get(2)?,
            flipped: r.get::<_, Option<bool>>(3)?.unwrap_or_default(),
        })
    })
}
