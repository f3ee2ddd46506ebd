//! Models that the host runs itself.

use std::collections::BTreeMap;

use pacos_plugin::{
    Alternative, FinishReason, Format, Likelihood, Message, ModelDescription, Prompt, Reply,
    Request, TokenLogprob, Usage,
};

use super::{Attempt, BoxFuture, Failure, Provider};
use crate::llama::{
    ChatMessage, Engine, GenerateError,
    generate::{self, Completion, CompletionRequest, Constraint},
};
use crate::manifest::Sampling;

/// A model of the LLaMA family, decoded on this machine.
pub struct LocalProvider {
    name: String,
    engine: Engine,
    sampling: Sampling,
}

impl LocalProvider {
    /// Serves an engine; `name` is the model's, for reports.
    #[must_use]
    pub fn new(name: String, engine: Engine) -> Self {
        LocalProvider {
            name,
            engine,
            sampling: Sampling::default(),
        }
    }

    /// The same with what requests get that do not say otherwise.
    #[must_use]
    pub fn with_sampling(mut self, sampling: Sampling) -> Self {
        self.sampling = sampling;
        self
    }

    async fn complete(&self, request: &Request) -> Result<Reply, Failure> {
        let completion = self
            .engine
            .complete(completion_request(request, &self.sampling)?)
            .await
            .map_err(failure)?;
        Ok(self.reply(completion))
    }

    fn reply(&self, completion: Completion) -> Reply {
        let text_of = |token: u32| {
            self.engine
                .tokenizer()
                .decode(&[token], false)
                .unwrap_or_default()
        };
        Reply {
            text: completion.text,
            finish_reason: match completion.finish_reason {
                generate::FinishReason::Stop => FinishReason::Stop,
                generate::FinishReason::Length => FinishReason::Length,
            },
            usage: Some(Usage {
                prompt_tokens: completion.prompt_tokens as u64,
                completion_tokens: completion.completion_tokens as u64,
            }),
            logprobs: completion
                .logprobs
                .unwrap_or_default()
                .into_iter()
                .map(|entry| TokenLogprob {
                    token: text_of(entry.token),
                    logprob: entry.log_prob,
                    top: entry
                        .top
                        .into_iter()
                        .map(|(token, logprob)| Alternative {
                            token: text_of(token),
                            logprob,
                        })
                        .collect(),
                })
                .collect(),
        }
    }
}

fn message(message: &Message) -> ChatMessage {
    ChatMessage::new(&message.role, &message.content)
}

fn prompt(prompt: &Prompt) -> generate::Prompt {
    match prompt {
        Prompt::Completion(text) => generate::Prompt::Text(text.clone()),
        Prompt::Chat(messages) => generate::Prompt::Chat(messages.iter().map(message).collect()),
    }
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "sampling parameters need no more than f32"
)]
fn completion_request(
    request: &Request,
    defaults: &Sampling,
) -> Result<CompletionRequest, Failure> {
    let mut wanted = CompletionRequest::new(prompt(&request.prompt));
    wanted.max_tokens = request.max_tokens.map(|tokens| tokens as usize);
    let or_default = |asked: Option<f64>, default: Option<f64>, neutral: f64| {
        asked.or(default).unwrap_or(neutral) as f32
    };
    wanted.temperature = or_default(request.temperature, defaults.temperature, 1.0);
    wanted.top_p = or_default(request.top_p, defaults.top_p, 1.0);
    wanted.top_k = defaults.top_k.map(|tokens| tokens as usize);
    wanted.min_p = or_default(None, defaults.min_p, 0.0);
    wanted.repetition_penalty = or_default(None, defaults.repetition_penalty, 1.0);
    wanted.stop.clone_from(&request.stop);
    wanted.seed = request.seed.unwrap_or(0);
    wanted.logit_bias = request
        .logit_bias
        .iter()
        .map(|bias| (bias.token, bias.bias as f32))
        .collect::<BTreeMap<_, _>>();
    wanted.logprobs = request.logprobs.map(|count| count as usize);
    wanted.constraint = match &request.format {
        None => None,
        Some(Format::Grammar(grammar)) => Some(Constraint::Lark(grammar.clone())),
        Some(Format::JsonSchema(schema)) => Some(Constraint::JsonSchema(
            serde_json::from_str(schema).map_err(|error| {
                Failure::refused("bad-schema", format!("the schema is no JSON: {error}"))
            })?,
        )),
    };
    Ok(wanted)
}

/// Splits the tokens of a prompt with its answer where the answer begins. A token that spans the
/// border is the answer's, so that no character of the answer goes unscored.
fn split_at_answer(prompt: &[u32], whole: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let same = prompt.iter().zip(whole).take_while(|(a, b)| a == b).count();
    let (context, answer) = whole.split_at(same);
    (context.to_vec(), answer.to_vec())
}

fn failure(error: GenerateError) -> Failure {
    let code = match &error {
        GenerateError::TooLong { .. } | GenerateError::TooLarge { .. } => "context-length",
        GenerateError::NotFinite { .. } => {
            return Failure::fatal("model-not-finite", error.to_string());
        }
        GenerateError::Stopped | GenerateError::Start(_) => {
            return Failure::fatal("model-stopped", error.to_string());
        }
        _ => "request-refused",
    };
    Failure::refused(code, error.to_string())
}

impl Provider for LocalProvider {
    fn describe(&self) -> ModelDescription {
        ModelDescription {
            model: self.name.clone(),
            context_length: u32::try_from(self.engine.context_length()).ok(),
            completion: true,
            chat: self.engine.tokenizer().has_chat_template(),
            json_schema: true,
            grammar: true,
            logprobs: true,
            logit_bias: true,
            count_tokens: true,
            log_likelihood: true,
        }
    }

    /// The files and the arithmetic: another kernel may round otherwise, and is another model. So is one that
    /// samples otherwise.
    fn identity(&self) -> String {
        let model = format!(
            "local {} {}",
            self.engine.identity(),
            self.engine.numeric_path()
        );
        match self.sampling.written() {
            None => model,
            Some(sampling) => format!("{model} sampling {sampling}"),
        }
    }

    fn wants_seed(&self) -> bool {
        true
    }

    fn attempt<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Attempt> {
        Box::pin(async move {
            let outcome = self.complete(request).await;
            let body = match &outcome {
                Ok(reply) => serde_json::to_vec(reply).unwrap_or_default(),
                Err(_) => Vec::new(),
            };
            Attempt {
                status: None,
                body,
                outcome,
            }
        })
    }

    fn prompt_token_bound(&self, request: &Request) -> u64 {
        self.engine
            .prompt_tokens(&prompt(&request.prompt))
            .map_or(0, |tokens| tokens.len() as u64)
    }

    fn count_tokens(&self, text: &str) -> Option<u32> {
        let tokens = self.engine.tokenizer().encode(text, false).ok()?;
        u32::try_from(tokens.len()).ok()
    }

    fn log_likelihood<'a>(
        &'a self,
        given: &'a Prompt,
        answer: &'a str,
    ) -> BoxFuture<'a, Result<Likelihood, Failure>> {
        Box::pin(async move {
            let refused = |error: &dyn std::fmt::Display| {
                Failure::refused("request-refused", error.to_string())
            };
            let tokenizer = self.engine.tokenizer();
            let (text, with_special) = match given {
                Prompt::Completion(text) => (text.clone(), true),
                Prompt::Chat(messages) => {
                    let messages: Vec<_> = messages.iter().map(message).collect();
                    let text = tokenizer.apply_chat_template(&messages, true);
                    (text.map_err(|error| refused(&error))?, false)
                }
            };
            // As training has it, prompt and answer are one text: SentencePiece would put a blank
            // before an answer on its own.
            let encode = |text: &str| {
                let tokens = tokenizer.encode(text, with_special);
                tokens.map_err(|error| refused(&error))
            };
            let (context, answer) =
                split_at_answer(&encode(&text)?, &encode(&format!("{text}{answer}"))?);
            let likelihood = self
                .engine
                .log_likelihood(&context, &answer)
                .await
                .map_err(failure)?;
            Ok(Likelihood {
                sum: likelihood.sum_log_prob,
                tokens: u32::try_from(likelihood.tokens).unwrap_or(u32::MAX),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llama::{EngineOptions, test_model};

    #[test]
    fn a_token_across_the_border_belongs_to_the_answer() {
        assert_eq!(split_at_answer(&[1, 2], &[1, 2, 3]), (vec![1, 2], vec![3]));
        // The prompt's last token and the answer's first became one.
        assert_eq!(split_at_answer(&[1, 2], &[1, 7, 3]), (vec![1], vec![7, 3]));
    }

    #[test]
    fn requests_are_sampled_as_the_manifest_says_unless_they_say_otherwise() {
        let sampling = Sampling {
            temperature: Some(0.5),
            top_p: Some(0.9),
            top_k: Some(7),
            min_p: Some(0.1),
            repetition_penalty: Some(1.5),
        };
        let mut request = Request::completion("Once");
        let wanted = completion_request(&request, &sampling).unwrap();
        let expected = CompletionRequest {
            temperature: 0.5,
            top_p: 0.9,
            top_k: Some(7),
            min_p: 0.1,
            repetition_penalty: 1.5,
            ..CompletionRequest::new(generate::Prompt::Text("Once".into()))
        };
        assert_eq!(wanted, expected);
        request.temperature = Some(0.0);
        request.top_p = Some(1.0);
        let wanted = completion_request(&request, &sampling).unwrap();
        assert_eq!((wanted.temperature, wanted.top_p), (0.0, 1.0));
        assert_eq!(wanted.top_k, Some(7));
        // As before there were settings.
        let plain = completion_request(&Request::completion("Once"), &Sampling::default());
        let prompt = generate::Prompt::Text("Once".into());
        assert_eq!(plain.unwrap(), CompletionRequest::new(prompt));
    }

    #[test]
    fn a_model_that_samples_otherwise_is_another_one_in_records() {
        let engine = Engine::start(test_model::model(3), EngineOptions::default()).unwrap();
        let plain = LocalProvider::new("tiny".into(), engine.clone());
        let with = |top_k| {
            let sampling = Sampling {
                top_k,
                ..Sampling::default()
            };
            LocalProvider::new("tiny".into(), engine.clone()).with_sampling(sampling)
        };
        // What was recorded before there were settings stays valid.
        assert_eq!(with(None).identity(), plain.identity());
        assert_eq!(
            with(Some(3)).identity(),
            format!("{} sampling {{\"top_k\":3}}", plain.identity())
        );
        assert_ne!(with(Some(3)).identity(), with(Some(4)).identity());
    }

    #[tokio::test]
    async fn a_completion_is_scored_as_one_text() {
        let engine = Engine::start(test_model::model(3), EngineOptions::default()).unwrap();
        let whole = engine.tokenizer().encode("x hello", true).unwrap();
        let (context, answer) = whole.split_at(2);
        let expected = engine.log_likelihood(context, answer).await.unwrap();
        let provider = LocalProvider::new("tiny".into(), engine);
        // "hello" is one token of this tokenizer, and "x he" ends in the middle of it.
        let scored = provider
            .log_likelihood(&Prompt::Completion("x he".into()), "llo")
            .await
            .unwrap();
        assert_eq!(scored.tokens as usize, answer.len());
        assert!((scored.sum - expected.sum_log_prob).abs() < 1e-9);
    }
}
