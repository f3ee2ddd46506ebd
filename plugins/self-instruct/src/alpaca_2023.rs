//! Mode `alpaca-2023`: the request and the reading of Stanford Alpaca's script.

mod parse;
mod prompt;

use pacos_plugin::{Error, FinishReason, ModelDescription, Reply, Request, TokenBias};

use crate::{config::Config, demonstrations::Demonstration, reading::Reading};

/// Stanford's limit; the script lowers it when the model's context is too small.
const MAX_TOKENS: u32 = 3072;

/// The request, with the original's sampling and stop strings.
pub(crate) fn request(
    config: &Config,
    demonstrations: &[Demonstration],
    model: &ModelDescription,
) -> Result<Request, Error> {
    if !model.completion {
        return Err(Error::new(
            "needs-completion",
            format!(
                "mode alpaca-2023 has the teacher continue a text, and {} only answers conversations: set mode = \"strict\", or give the role `teacher` to a model with a completion endpoint",
                model.model
            ),
        ));
    }
    let asked = config.tasks_per_request;
    let logit_bias = if model.logit_bias {
        let biases = config.logit_bias().into_iter();
        biases
            .map(|(token, bias)| TokenBias { token, bias })
            .collect()
    } else {
        Vec::new()
    };
    Ok(Request {
        temperature: Some(config.temperature),
        top_p: Some(config.top_p),
        max_tokens: Some(config.max_tokens.unwrap_or(MAX_TOKENS)),
        // The third repeats the second, as the original's does: it is part of the request.
        stop: vec![
            format!("\n{asked}"),
            format!("{asked}."),
            format!("{asked}."),
        ],
        logit_bias,
        ..Request::completion(prompt::prompt(
            config.preamble.as_deref(),
            asked,
            demonstrations,
        ))
    })
}

/// Reads a reply to a prompt that showed `shown` tasks.
pub(crate) fn read(reply: &Reply, shown: usize) -> Reading {
    parse::parse(
        &reply.text,
        reply.finish_reason == FinishReason::Length,
        shown,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mode;
    use pacos_plugin::{Host, Origin, Task, testing::ScriptedHost};

    fn config() -> Config {
        Config {
            mode: Mode::Alpaca2023,
            ..Config::default()
        }
    }

    fn shown() -> Vec<Demonstration> {
        vec![Demonstration {
            task: Task::new("Name a river.", "", "The Rhône."),
            origin: Origin::Seed(0),
        }]
    }

    fn model() -> ModelDescription {
        ModelDescription {
            logit_bias: true,
            ..ScriptedHost::new().describe_model("teacher").unwrap()
        }
    }

    #[test]
    fn sampling_is_the_originals() {
        let request = request(&config(), &shown(), &model()).unwrap();
        assert_eq!(request.temperature, Some(1.0));
        assert_eq!(request.top_p, Some(1.0));
        assert_eq!(request.max_tokens, Some(3072));
        assert_eq!(request.stop, ["\n20", "20.", "20."]);
        let bias = TokenBias {
            token: 50256,
            bias: -100.0,
        };
        assert_eq!(request.logit_bias, [bias]);
        assert_eq!((request.seed, request.format), (None, None));
    }

    #[test]
    fn a_model_without_logit_bias_is_asked_without() {
        let model = ModelDescription {
            logit_bias: false,
            ..model()
        };
        let request = request(&config(), &shown(), &model).unwrap();
        assert_eq!(request.logit_bias, []);
    }

    #[test]
    fn a_chat_model_is_refused_with_both_remedies() {
        let model = ModelDescription {
            model: "talker".into(),
            completion: false,
            ..model()
        };
        let error = request(&config(), &shown(), &model).unwrap_err();
        assert_eq!(error.code, "needs-completion");
        assert_eq!(
            error.message,
            "mode alpaca-2023 has the teacher continue a text, and talker only answers conversations: \
             set mode = \"strict\", or give the role `teacher` to a model with a completion endpoint"
        );
    }
}
