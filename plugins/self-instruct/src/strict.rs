//! Mode `strict`: few words, structured output, and none of the original's defects.

mod json;
mod parse;
mod prompt;
mod schema;
mod topics;

use pacos_plugin::{Error, Format, ModelDescription, Request};

use crate::{config::Config, demonstrations::Demonstration, sample::SplitMix64};

pub(crate) use parse::read;
pub(crate) use topics::TOPICS;

/// Room for one task: about twice what the prompt asks for in words.
const TOKENS_PER_TASK: u32 = 256;

/// The request: a conversation where the model can hold one, else one text to continue.
pub(crate) fn request(
    config: &Config,
    demonstrations: &[Demonstration],
    model: &ModelDescription,
    random: &mut SplitMix64,
) -> Result<Request, Error> {
    let topics = config.topics();
    let topics: Vec<&str> = random
        .sample(topics.len() as u64, config.tasks_per_request as usize)
        .into_iter()
        .map(|index| topics[index as usize])
        .collect();
    let turns = prompt::turns(config.tasks_per_request, demonstrations, &topics);
    let prompt_bytes = turns.iter().map(|turn| turn.content.len()).sum();
    let max_tokens = match config.max_tokens {
        Some(tokens) => tokens,
        None => affordable_tokens(config, prompt_bytes, model)?,
    };
    let request = if model.chat {
        Request::chat(turns)
    } else {
        Request::completion(prompt::as_text(&turns))
    };
    let schema =
        || Format::JsonSchema(schema::schema(config.tasks_per_request, config.max_chars()));
    Ok(Request {
        temperature: Some(config.temperature),
        top_p: Some(config.top_p),
        max_tokens: Some(max_tokens),
        format: model.json_schema.then(schema),
        ..request
    })
}

/// Room for every task asked for, as far as the model's context goes.
fn affordable_tokens(
    config: &Config,
    prompt_bytes: usize,
    model: &ModelDescription,
) -> Result<u32, Error> {
    let wanted = TOKENS_PER_TASK * config.tasks_per_request;
    let Some(context) = model.context_length else {
        return Ok(wanted);
    };
    // English has about four bytes a token; three leave a margin for the chat template.
    let prompt_tokens = u32::try_from(prompt_bytes / 3).unwrap_or(u32::MAX);
    let left = context.saturating_sub(prompt_tokens);
    if left < TOKENS_PER_TASK {
        return Err(Error::new(
            "prompt-too-long",
            format!(
                "the prompt has about {prompt_tokens} tokens and {} takes {context} with the reply, which leaves no room for a task: lower `demonstrations`, or set `max_tokens`",
                model.model
            ),
        ));
    }
    Ok(wanted.min(left))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pacos_plugin::{Host, Prompt, testing::ScriptedHost};

    fn model() -> ModelDescription {
        ScriptedHost::new().describe_model("teacher").unwrap()
    }

    fn ask(config: &Config, model: &ModelDescription) -> Result<Request, Error> {
        request(config, &[], model, &mut SplitMix64::new(1))
    }

    #[test]
    fn a_schema_is_sent_to_a_model_that_can_keep_it() {
        let request = ask(&Config::default(), &model()).unwrap();
        assert!(matches!(request.prompt, Prompt::Chat(_)));
        assert!(matches!(request.format, Some(Format::JsonSchema(_))));
        let unable = ModelDescription {
            json_schema: false,
            ..model()
        };
        assert_eq!(ask(&Config::default(), &unable).unwrap().format, None);
    }

    #[test]
    fn a_model_that_only_continues_text_is_asked_in_one_text() {
        let model = ModelDescription {
            chat: false,
            ..model()
        };
        let Prompt::Completion(text) = ask(&Config::default(), &model).unwrap().prompt else {
            panic!("a model without chat was sent a conversation");
        };
        assert!(text.contains("Write 20 tasks"), "{text}");
    }

    #[test]
    fn max_tokens_leaves_the_prompt_its_room() {
        let tokens = |context_length, tasks_per_request| {
            let model = ModelDescription {
                context_length,
                ..model()
            };
            let config = Config {
                tasks_per_request,
                ..Config::default()
            };
            ask(&config, &model).map(|request| request.max_tokens.unwrap())
        };
        assert_eq!(tokens(None, 20).unwrap(), 5120);
        assert_eq!(tokens(Some(8192), 2).unwrap(), 512);
        assert!((1000..2048).contains(&tokens(Some(2048), 20).unwrap()));
        assert_eq!(tokens(Some(300), 2).unwrap_err().code, "prompt-too-long");
    }

    #[test]
    fn each_task_asked_for_has_a_topic_of_its_own() {
        let topics = Some(["bees", "tax", "rain"].map(String::from).to_vec());
        let config = Config {
            tasks_per_request: 2,
            topics,
            ..Config::default()
        };
        let Prompt::Chat(turns) = ask(&config, &model()).unwrap().prompt else {
            panic!("no conversation");
        };
        let asked = &turns[0].content;
        let named = ["bees", "tax", "rain"]
            .iter()
            .filter(|t| asked.contains(**t));
        assert_eq!(named.count(), 2, "{asked}");
    }
}
