//! A checked recipe: what a manifest says, with nothing left to doubt.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::Serialize;

use super::{Document, Remote, ServerName};

/// One manifest, checked. Paths are absolute or relative to the working directory.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The text it was read from, for messages that point at a line.
    pub document: Document,
    /// Name for reports.
    pub name: String,
    /// All randomness of the run derives from it.
    pub seed: u64,
    /// The hand-written tasks.
    pub seeds: Seeds,
    /// `[models.NAME]`.
    pub models: BTreeMap<String, Model>,
    /// Role to name of a model: `teacher`, `judge`, `student`.
    pub roles: BTreeMap<String, String>,
    /// `[generator]`.
    pub generator: Generator,
    /// `[[filters]]`, in order.
    pub filters: Vec<Plugin>,
    /// `[dataset]`.
    pub dataset: Dataset,
    /// `[trainer]`; absent where the recipe ends with the dataset.
    pub trainer: Option<serde_json::Value>,
    /// `[evaluation]`; absent where nothing is evaluated.
    pub evaluation: Option<Evaluation>,
    /// `[[evaluators]]`, in order.
    pub evaluators: Vec<Plugin>,
    /// `[[servers]]`.
    pub servers: Vec<Server>,
    /// `[budget]`.
    pub budget: Budget,
}

/// `[[servers]]`: what there is to say of a server that plugins ask, beyond its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// `name`, as in `grant`.
    pub name: ServerName,
    /// `api_key_env`: the environment variable that holds its key. The host sends it as
    /// `Authorization: Bearer`; no plugin sees it.
    pub api_key_env: Option<String>,
    /// `private`: its name may lead into the user's own network, and plain HTTP will do.
    pub private: bool,
}

/// `[seeds]`: where the hand-written tasks are.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Seeds {
    /// `bundled = true`: the 175 tasks inside the binary.
    Bundled,
    /// `file = "PATH"`: JSON Lines.
    File(PathBuf),
}

/// `[models.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// NAME.
    pub name: String,
    /// `provider`, with what that provider needs.
    pub provider: Provider,
    /// `price`; absent where it is unknown. Local models cost nothing.
    pub price: Option<Price>,
    /// `max_concurrency`: most requests in flight. Never changes a result.
    pub max_concurrency: usize,
    /// `context_length` in tokens, prompt and reply together, where the server does not say.
    pub context_length: Option<u32>,
    /// `terms`: what the provider's licence says of training on replies; goes into the card.
    pub terms: Option<String>,
}

/// Who answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Provider {
    /// `provider = "openai"`: OpenAI, or anything that speaks its API.
    OpenAi(OpenAi),
    /// `provider = "local"`: a model that the host runs.
    Local(Local),
}

/// `provider = "openai"`.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenAi {
    /// `model`: the server's name for it.
    pub model: String,
    /// `base_url`, without a trailing slash; OpenAI's own by default.
    pub base_url: String,
    /// `api_key_env`: the environment variable that holds the key; absent for servers without
    /// keys. The key itself is never in a manifest.
    pub api_key_env: Option<String>,
    /// `endpoint`.
    pub endpoint: Endpoint,
    /// `timeout` of one attempt.
    pub timeout: Duration,
    /// `max_attempts` of one request, the first included.
    pub max_attempts: u32,
    /// `requests_per_minute`.
    pub requests_per_minute: Option<u32>,
    /// `tokens_per_minute`, prompt and reply together.
    pub tokens_per_minute: Option<u32>,
    /// `unsupported`: request fields that this model refuses; they are not offered to plugins.
    pub unsupported: Vec<Field>,
    /// `extra_body`: fields added to every request, such as `reasoning_effort`.
    pub extra_body: serde_json::Map<String, serde_json::Value>,
}

/// Which of the two endpoints a model answers at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Endpoint {
    /// `/chat/completions`.
    Chat,
    /// `/completions`.
    Completions,
}

/// A request field that some models do not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// `temperature`
    Temperature,
    /// `top_p`
    TopP,
    /// `stop`
    Stop,
    /// `logit_bias`
    LogitBias,
    /// `seed`
    Seed,
    /// `logprobs`
    Logprobs,
    /// JSON Schema in `response_format`
    JsonSchema,
    /// `max_tokens` (the newer `max_completion_tokens` is sent instead)
    MaxTokens,
}

impl Field {
    /// Every field.
    pub const ALL: [Field; 8] = [
        Field::Temperature,
        Field::TopP,
        Field::Stop,
        Field::LogitBias,
        Field::Seed,
        Field::Logprobs,
        Field::JsonSchema,
        Field::MaxTokens,
    ];

    /// As a manifest spells it.
    pub fn name(self) -> &'static str {
        match self {
            Field::Temperature => "temperature",
            Field::TopP => "top_p",
            Field::Stop => "stop",
            Field::LogitBias => "logit_bias",
            Field::Seed => "seed",
            Field::Logprobs => "logprobs",
            Field::JsonSchema => "json_schema",
            Field::MaxTokens => "max_tokens",
        }
    }
}

/// `provider = "local"`.
#[derive(Debug, Clone, PartialEq)]
pub struct Local {
    /// `model`: a Hugging Face folder or a GGUF file, relative to the working directory like every
    /// path of a recipe; `hf:OWNER/NAME`, with `@REVISION` after it if one is wanted; or
    /// `embedded:smollm2-135m-instruct`.
    pub model: String,
    /// `sampling`.
    pub sampling: Sampling,
}

/// `sampling` of a local model: what every request gets that does not say otherwise. The names are those of
/// OpenAI's interface and of vLLM; requests of plugins can say `temperature` and `top_p` themselves.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Sampling {
    /// `temperature`: divides the logits; 0 takes the likeliest token. 1 where nobody says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// `top_p`: keep the likeliest tokens that together reach this probability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// `top_k`: keep this many likeliest tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// `min_p`: keep tokens at least this likely relative to the likeliest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    /// `repetition_penalty`: makes tokens that occurred less likely; 1 does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f64>,
}

impl Sampling {
    /// As JSON, where anything is said: what tells models with other settings apart.
    pub(crate) fn written(&self) -> Option<serde_json::Value> {
        (*self != Self::default()).then(|| serde_json::json!(self))
    }
}

/// `price`, in US dollars for a million tokens.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Price {
    /// Prompt tokens.
    pub input: f64,
    /// Reply tokens.
    pub output: f64,
    /// When it was true, `YYYY-MM-DD`.
    pub as_of: String,
}

/// `[generator]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Generator {
    /// The plugin.
    pub plugin: Plugin,
    /// `window`: unit *i* sees what had been accepted up to unit *i - window*, so at most
    /// `window` units are under way.
    pub window: u64,
}

/// A plugin as a recipe names it.
#[derive(Debug, Clone, PartialEq)]
pub struct Plugin {
    /// Where the table stands in the manifest: `generator`, `filters.0`, `evaluators.1`.
    pub path: String,
    /// `plugin`.
    pub source: PluginSource,
    /// `sha256` that the file must have.
    pub sha256: Option<String>,
    /// `trust = "native"`: it is a dynamic library, and may do anything.
    pub native: bool,
    /// `grant`: capabilities given, `models:ROLE` and `http:SERVER`.
    pub grant: Vec<String>,
    /// `limits`.
    pub limits: Limits,
    /// `config`: the plugin's own table.
    pub config: serde_json::Value,
}

impl Plugin {
    /// A plugin by itself, outside of any recipe: nothing granted, nothing configured.
    #[must_use]
    pub fn alone(source: PluginSource) -> Self {
        Plugin {
            path: String::new(),
            source,
            sha256: None,
            native: false,
            grant: Vec::new(),
            limits: Limits::default(),
            config: serde_json::json!({}),
        }
    }
}

/// Where a plugin's file is.
#[derive(Debug, Clone, PartialEq)]
pub enum PluginSource {
    /// A bare name: a component inside the binary.
    Bundled(String),
    /// A path.
    File(PathBuf),
    /// A place on another machine.
    Remote(Remote),
}

/// `limits` of a plugin. A dynamic library keeps none of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// `memory_mb`: linear memory.
    pub memory_bytes: usize,
    /// `all_memory_mb`: linear memory of all instances that work at once. It bounds how many
    /// there are, by what the greediest has taken so far.
    pub all_memory_bytes: usize,
    /// `compute_seconds`: time that one call may compute; waiting for a model does not count.
    pub compute: Duration,
    /// `output_mb`: what one call may hand to the host, answers and requests together.
    pub output_bytes: usize,
    /// `table_elements`: elements of all tables of an instance.
    pub table_elements: usize,
    /// `requests`: model requests that the plugin may make in the whole run.
    pub requests: Option<u64>,
    /// `tokens`: tokens of those requests, prompt and reply together.
    pub tokens: Option<u64>,
    /// `usd`: what those requests may cost.
    pub usd: Option<f64>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory_bytes: 512 << 20,
            all_memory_bytes: 2048 << 20,
            compute: Duration::from_secs(30),
            output_bytes: 128 << 20,
            table_elements: 100_000,
            requests: None,
            tokens: None,
            usd: None,
        }
    }
}

/// `[dataset]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Dataset {
    /// `target`: accepted examples wanted.
    pub target: u64,
    /// `max_units`: stop here even if the target is not reached.
    pub max_units: Option<u64>,
    /// `patience`: stop after so many units in a row that accepted nothing.
    pub patience: u64,
    /// `max_quarantined`: stop after so many records that break a filter.
    pub max_quarantined: u64,
    /// `license` that the dataset is given on under: goes into the card.
    pub license: Option<String>,
    /// `expected_yield`: accepted examples that a unit is expected to bring, from a measurement or
    /// by a guess. `pacos plan` reckons with it until the run has measured its own; a run never
    /// reads it.
    pub expected_yield: Option<f64>,
}

/// `[evaluation]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Where the tasks are.
    pub tasks: Seeds,
    /// `limit`: only the first so many tasks.
    pub limit: Option<usize>,
    /// `max_tokens` of an answer.
    pub max_tokens: u32,
}

/// `[budget]`: what the run may spend. Absent means no limit.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Budget {
    /// `usd`
    pub usd: Option<f64>,
    /// `tokens`, prompt and reply together.
    pub tokens: Option<u64>,
    /// `requests`, failed ones included.
    pub requests: Option<u64>,
}
