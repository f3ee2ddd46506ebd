//! Evaluation by log-likelihood: how likely each model finds the reference answers.
//!
//! `student.base` is asked in its own chat template and in Alpaca's, so that what the student
//! gained by learning the format is told apart from what it gained beside it.

use std::path::Path;

use pacos_plugin::Task;

use crate::{
    ledger::{Ledger, LedgerError, LikelihoodRecord, Likelihoods},
    llama::{
        self, ChatMessage, Engine, EngineOptions, Model, ModelSource,
        generate::{GenerateError, Prompt},
    },
    trainer::config::TemplateName,
};

/// Why the models were not compared.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// A model could not be opened.
    #[error("evaluation: {0}")]
    Model(String),
    /// A model could not score an answer.
    #[error("evaluation: {0}")]
    Generate(#[from] GenerateError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Told how evaluation comes along.
pub trait EvaluateProgress: Send {
    /// So many of all answers are scored.
    fn scored(&mut self, done: u64, total: u64);
}

/// Scores the reference answers under the base model and under the trained one. What is in the
/// ledger is not scored again.
///
/// # Errors
/// See [`EvaluateError`]; what was scored stays.
pub(super) async fn evaluate(
    source: &str,
    student: &Path,
    tasks: &[Task],
    ledger: &Ledger,
    progress: &mut dyn EvaluateProgress,
) -> Result<Vec<Likelihoods>, EvaluateError> {
    let opened = |error: &dyn std::fmt::Display| EvaluateError::Model(error.to_string());
    let base: ModelSource = source.parse().map_err(|e| opened(&e))?;
    let student = ModelSource::Path(student.to_owned());
    let total = 3 * tasks.len() as u64;
    let mut done = 0;
    // One model in memory at a time.
    for (name, source, templates) in [
        ("student.base", &base, ["chat", "alpaca"].as_slice()),
        ("student", &student, ["alpaca"].as_slice()),
    ] {
        let recorded = ledger.likelihoods_recorded(name)?;
        if recorded == (templates.len() * tasks.len()) as u64 {
            done += recorded;
            continue;
        }
        let model: Model = llama::open(source, &mut |_| {}).map_err(|e| opened(&e))?;
        let engine = Engine::start(model, EngineOptions::default())?;
        for template in templates {
            let scores = tasks.iter().map(|task| score(&engine, task, template));
            let scores = futures::future::join_all(scores).await;
            for (item, scored) in (0_u64..).zip(scores) {
                let likelihood = scored?;
                ledger
                    .record_likelihood(LikelihoodRecord {
                        item,
                        model: name.to_owned(),
                        template: (*template).to_owned(),
                        log_likelihood: likelihood.sum_log_prob,
                        tokens: likelihood.tokens as u64,
                    })
                    .await?;
                done += 1;
                progress.scored(done, total);
            }
        }
    }
    Ok(ledger.likelihoods()?)
}

async fn score(
    engine: &Engine,
    task: &Task,
    template: &str,
) -> Result<llama::generate::LogLikelihood, EvaluateError> {
    let prompt = if template == "chat" {
        let text = match task.input.as_str() {
            "" => task.instruction.clone(),
            input => format!("{}\n\n{input}", task.instruction),
        };
        Prompt::Chat(vec![ChatMessage::new("user", text)])
    } else {
        Prompt::Text(TemplateName::Alpaca.prompt(&task.instruction, &task.input))
    };
    let prompt = engine.prompt_tokens(&prompt)?;
    let answer = engine
        .tokenizer()
        .encode(&task.output, false)
        .map_err(|e| EvaluateError::Model(e.to_string()))?;
    Ok(engine.log_likelihood(&prompt, &answer).await?)
}
