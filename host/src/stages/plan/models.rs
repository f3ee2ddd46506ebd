//! What is known of the recipe's models before any of them is asked, opened or fetched.

use std::{collections::BTreeMap, path::Path};

use pacos_plugin::{Format, ModelDescription, Prompt, Request};
use serde::Serialize;

use super::ForecastError;
use crate::{
    llama::{ChatMessage, LlamaConfig, ModelSource, Tokenizer},
    manifest::{self, Local, Model, Price, Recipe},
    models::{OpenAiProvider, Provider},
};

/// Mean characters of a token of English text, where no tokenizer is at hand.
const CHARACTERS_PER_TOKEN: u64 = 4;

/// Longest reply of a request that sets no limit, to a model whose context length is unknown: as
/// the budget reckons it.
const CONTEXT_UNKNOWN: u32 = 8192;

/// What some requests take. Tokens and money of one attempt each: a server that refuses an
/// attempt is not paid for it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Load {
    /// Requests.
    pub requests: f64,
    /// Expected tokens of the prompts.
    pub prompt_tokens: f64,
    /// Expected tokens of the replies.
    pub reply_tokens: Option<f64>,
    /// The most that prompts and replies can have together, as the budget reserves them.
    pub most_tokens: f64,
    /// Expected US dollars; absent where a price or the replies' length is unknown.
    pub usd: Option<f64>,
    /// The most that it can cost, as the budget reserves it; absent where a price is unknown.
    pub most_usd: Option<f64>,
}

impl Load {
    /// No request at all.
    pub const NONE: Load = Load {
        requests: 0.0,
        prompt_tokens: 0.0,
        reply_tokens: Some(0.0),
        most_tokens: 0.0,
        usd: Some(0.0),
        most_usd: Some(0.0),
    };

    /// So many times as much.
    #[must_use]
    pub fn times(self, factor: f64) -> Load {
        // Nothing of something unknown is nothing.
        let known = |value: Option<f64>| match factor {
            0.0 => Some(0.0),
            _ => value.map(|value| value * factor),
        };
        Load {
            requests: self.requests * factor,
            prompt_tokens: self.prompt_tokens * factor,
            reply_tokens: known(self.reply_tokens),
            most_tokens: self.most_tokens * factor,
            usd: known(self.usd),
            most_usd: known(self.most_usd),
        }
    }

    /// Both together; unknown where either is.
    #[must_use]
    pub fn plus(self, more: Load) -> Load {
        let sum = |one: Option<f64>, two: Option<f64>| Some(one? + two?);
        Load {
            requests: self.requests + more.requests,
            prompt_tokens: self.prompt_tokens + more.prompt_tokens,
            reply_tokens: sum(self.reply_tokens, more.reply_tokens),
            most_tokens: self.most_tokens + more.most_tokens,
            usd: sum(self.usd, more.usd),
            most_usd: sum(self.most_usd, more.most_usd),
        }
    }
}

/// One model of the recipe, as far as it is known.
pub(super) struct KnownModel {
    pub name: String,
    /// What it is, for a person.
    pub what: String,
    pub price: Option<Price>,
    pub description: ModelDescription,
    carrier: Carrier,
}

enum Carrier {
    Remote(Box<OpenAiProvider>),
    /// Runs here, and costs nothing. Without a tokenizer its files are not here yet.
    Local(Option<Box<Tokenizer>>),
}

impl KnownModel {
    fn new(model: &Model) -> Result<Self, ForecastError> {
        match &model.provider {
            manifest::Provider::OpenAi(settings) => {
                // Nothing is sent, so no key is needed.
                let provider = OpenAiProvider::new(model, settings, None)?;
                Ok(KnownModel {
                    name: model.name.clone(),
                    what: format!("{} at {}", settings.model, settings.base_url),
                    price: model.price.clone(),
                    description: provider.describe(),
                    carrier: Carrier::Remote(Box::new(provider)),
                })
            }
            manifest::Provider::Local(local) => Ok(KnownModel::local(model, local)),
        }
    }

    fn local(model: &Model, local: &Local) -> Self {
        let source: Option<ModelSource> = local.model.parse().ok();
        let config: Option<LlamaConfig> = source
            .as_ref()
            .and_then(|source| source.config_without_fetching().ok()?);
        let tokenizer = source
            .as_ref()
            .and_then(ModelSource::path_without_fetching)
            .and_then(|path| tokenizer(&path));
        let longest = config.and_then(|config| u32::try_from(config.max_position_embeddings).ok());
        let context_length = match (model.context_length, longest) {
            (Some(wanted), Some(longest)) => Some(wanted.min(longest)),
            (wanted, longest) => wanted.or(longest),
        };
        KnownModel {
            name: model.name.clone(),
            what: format!("{}, run here", local.model),
            price: None,
            description: ModelDescription {
                model: local.model.clone(),
                context_length,
                completion: true,
                // As long as nobody knows: most models that are asked for tasks can chat.
                chat: tokenizer.as_ref().is_none_or(Tokenizer::has_chat_template),
                json_schema: true,
                grammar: true,
                logprobs: true,
                logit_bias: true,
                count_tokens: true,
                log_likelihood: true,
            },
            carrier: Carrier::Local(tokenizer.map(Box::new)),
        }
    }

    pub(super) fn is_local(&self) -> bool {
        matches!(self.carrier, Carrier::Local(_))
    }

    pub(super) fn tokenizer(&self) -> Option<&Tokenizer> {
        match &self.carrier {
            Carrier::Local(tokenizer) => tokenizer.as_deref(),
            Carrier::Remote(_) => None,
        }
    }

    /// Whether prompts are counted by the model's own tokenizer.
    pub(super) fn counts_exactly(&self) -> bool {
        self.tokenizer().is_some()
    }

    /// What a server's requests and keys know it by; a local model's needs its files.
    pub(super) fn identity(&self) -> Option<String> {
        match &self.carrier {
            Carrier::Remote(provider) => Some(provider.identity()),
            Carrier::Local(_) => None,
        }
    }

    /// Tokens of a text: counted, or guessed from its length.
    pub(super) fn text_tokens(&self, text: &str) -> u64 {
        self.tokenizer()
            .and_then(|tokenizer| tokenizer.encode(text, false).ok())
            .map_or_else(|| estimate(text), |tokens| tokens.len() as u64)
    }

    fn prompt_tokens(&self, request: &Request) -> u64 {
        match &self.carrier {
            Carrier::Local(Some(tokenizer)) => encoded(tokenizer, &request.prompt),
            Carrier::Local(None) => None,
            Carrier::Remote(_) => None,
        }
        .unwrap_or_else(|| {
            let prompt = match &request.prompt {
                Prompt::Completion(text) => estimate(text),
                Prompt::Chat(messages) => messages.iter().map(|m| estimate(&m.content)).sum(),
            };
            match &request.format {
                // A server puts the schema before the model too; here it steers the sampling.
                Some(Format::JsonSchema(text) | Format::Grammar(text)) if !self.is_local() => {
                    prompt + estimate(text)
                }
                _ => prompt,
            }
        })
    }

    fn prompt_bound(&self, request: &Request) -> u64 {
        match &self.carrier {
            Carrier::Remote(provider) => provider.prompt_token_bound(request),
            Carrier::Local(_) => self.prompt_tokens(request),
        }
    }

    /// The most tokens that a reply can have.
    fn reply_bound(&self, request: &Request) -> u64 {
        let context = self.description.context_length.unwrap_or(CONTEXT_UNKNOWN);
        u64::from(request.max_tokens.unwrap_or(context))
    }

    /// US dollars of so many tokens; nothing where the price is unknown. What runs here is free.
    pub(super) fn usd(&self, prompt_tokens: f64, reply_tokens: f64) -> Option<f64> {
        match (&self.price, self.is_local()) {
            (_, true) => Some(0.0),
            (Some(price), false) => {
                Some((prompt_tokens * price.input + reply_tokens * price.output) / 1e6)
            }
            (None, false) => None,
        }
    }

    /// What one request takes, with a reply of `reply_tokens` where that can be said.
    #[expect(
        clippy::cast_precision_loss,
        reason = "tokens of one request are far below 2^53"
    )]
    pub(super) fn load(&self, request: &Request, reply_tokens: Option<f64>) -> Load {
        let prompt = self.prompt_tokens(request) as f64;
        let most_prompt = self.prompt_bound(request) as f64;
        let most_reply = self.reply_bound(request) as f64;
        let reply_tokens = reply_tokens.map(|tokens| tokens.min(most_reply));
        Load {
            requests: 1.0,
            prompt_tokens: prompt,
            reply_tokens,
            most_tokens: most_prompt + most_reply,
            usd: reply_tokens.and_then(|reply| self.usd(prompt, reply)),
            most_usd: self.usd(most_prompt, most_reply),
        }
    }

    /// Tokens of prompt and longest reply together, and the context that they must fit into,
    /// where they do not.
    pub(super) fn overflows(&self, request: &Request) -> Option<(u64, u64, u32)> {
        let context = self.description.context_length?;
        let (prompt, reply) = (self.prompt_tokens(request), self.reply_bound(request));
        (prompt + reply > u64::from(context)).then_some((prompt, reply, context))
    }
}

/// The models of a recipe, by role.
pub(super) struct KnownModels {
    models: BTreeMap<String, KnownModel>,
    roles: BTreeMap<String, String>,
}

impl KnownModels {
    pub(super) fn new(recipe: &Recipe) -> Result<Self, ForecastError> {
        let mut models = BTreeMap::new();
        for name in recipe.roles.values() {
            if let Some(model) = recipe.models.get(name)
                && !models.contains_key(name)
            {
                models.insert(name.clone(), KnownModel::new(model)?);
            }
        }
        let mut roles = recipe.roles.clone();
        if let Some(student) = recipe.roles.get("student") {
            roles.insert("student.base".to_owned(), student.clone());
        }
        Ok(KnownModels { models, roles })
    }

    pub(super) fn of_role(&self, role: &str) -> Option<&KnownModel> {
        self.models.get(self.roles.get(role)?)
    }

    pub(super) fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(String::as_str)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &KnownModel> {
        self.models.values()
    }
}

/// The tokenizer of a folder or a GGUF file; weights are not read.
fn tokenizer(path: &Path) -> Option<Tokenizer> {
    Tokenizer::load(path)
        .inspect_err(|error| tracing::debug!("no tokenizer to count with: {error}"))
        .ok()
}

/// As the engine encodes a prompt.
fn encoded(tokenizer: &Tokenizer, prompt: &Prompt) -> Option<u64> {
    let tokens = match prompt {
        Prompt::Completion(text) => tokenizer.encode(text, true).ok()?,
        Prompt::Chat(messages) => {
            let messages: Vec<ChatMessage> = messages
                .iter()
                .map(|message| ChatMessage::new(&message.role, &message.content))
                .collect();
            let text = tokenizer.apply_chat_template(&messages, true).ok()?;
            tokenizer.encode(&text, false).ok()?
        }
    };
    Some(tokens.len() as u64)
}

fn estimate(text: &str) -> u64 {
    (text.chars().count() as u64).div_ceil(CHARACTERS_PER_TOKEN)
}
