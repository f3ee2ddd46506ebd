//! The engine: a model with its decoding thread, asked from any number of tasks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;

use llguidance::Matcher;
use tokio::sync::{mpsc::UnboundedSender, oneshot};

use super::constraint::ConstraintCompiler;
use super::forward::Decoder;
use super::kernel::{Instructions, PAGE_POSITIONS, PagePool};
use super::kv_cache::{KvCacheUsage, pages_of};
use super::model::InferenceModel;
use super::request::{
    Completion, CompletionRequest, Constraint, GenerateError, LogLikelihood, Prompt,
};
use super::scheduler::Scheduler;
use super::sequence::{Job, Work};
use super::writing::{ModelFacts, Writing};
use crate::llama::config::LlamaConfig;
use crate::llama::tokenizer::Tokenizer;
use crate::trainer::memory::available_bytes;

/// How an engine spends memory and processors. No setting changes what a request is answered, but for
/// those that bound its length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Requests decoded at once; others wait in order.
    pub max_batch: usize,
    /// Prompt tokens read in one turn, beside the tokens being generated.
    pub prefill_chunk: usize,
    /// Tokens of ended requests whose keys and values are kept, so that requests that begin alike share them;
    /// 0 shares nothing, not even between requests that run together.
    pub shared_prefix_tokens: usize,
    /// Longest sequence, in tokens; the model's own limit where absent or smaller.
    pub context_length: Option<usize>,
    /// Most bytes of keys and values, of running requests and kept beginnings together. Where absent, half of
    /// the memory that is free once the weights are in place, but enough for one request of the context
    /// length; where the free memory is not known, enough for `max_batch` of them.
    ///
    /// When it is full, kept beginnings go first, then waiting requests wait on, then the youngest running
    /// request is put back and computed again later, with the same answer. A request that does not fit
    /// alone is refused ([`GenerateError::TooLarge`]).
    pub kv_cache_bytes: Option<u64>,
    /// Threads; one a processor where absent.
    pub threads: Option<usize>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            max_batch: 16,
            prefill_chunk: 128,
            shared_prefix_tokens: 4096,
            context_length: None,
            kv_cache_bytes: None,
            threads: None,
        }
    }
}

/// A model that answers. Cheap to clone; the decoding thread ends with the last clone.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    config: LlamaConfig,
    tokenizer: Arc<Tokenizer>,
    identity: String,
    context: usize,
    numeric_path: String,
    pages: Arc<PagePool>,
    preemptions: Arc<AtomicU64>,
    compiler: OnceLock<Result<ConstraintCompiler, String>>,
    jobs: Mutex<Option<Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Closing the channel first: the thread waits for it.
        drop(self.jobs.lock().map(|mut jobs| jobs.take()));
        if let Ok(mut thread) = self.thread.lock()
            && let Some(thread) = thread.take()
        {
            let _ = thread.join();
        }
    }
}

impl Engine {
    /// Arranges a model's weights for inference and starts its decoding thread.
    ///
    /// Memory: matrices in f16, bf16 and a GGUF file's `Q4_0`, `Q4_1` and `Q8_0` as they are there; 6 bits a
    /// parameter for `Q4_K`, 8.5 for `Q5_0`, 9 for `Q5_1`, 10 for `Q5_K` and `Q6_K`; 4 bytes a parameter of all others;
    /// and [`Engine::kv_bytes_per_token`] for every token of the requests being decoded or kept to be shared, in
    /// pages of 64 tokens, up to [`EngineOptions::kv_cache_bytes`].
    pub fn start(
        model: impl Into<InferenceModel>,
        options: EngineOptions,
    ) -> Result<Self, GenerateError> {
        let InferenceModel {
            config,
            weights,
            tokenizer,
            identity,
        } = model.into();
        let options = EngineOptions {
            max_batch: options.max_batch.max(1),
            prefill_chunk: options.prefill_chunk.max(1),
            ..options
        };
        let context = options
            .context_length
            .unwrap_or(config.max_position_embeddings)
            .min(config.max_position_embeddings);
        let start = |reason: String| GenerateError::Start(reason);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(options.threads.unwrap_or(0))
            .thread_name(|number| format!("llama-{number}"))
            .build()
            .map_err(|e| start(e.to_string()))?;
        let decoder = pool
            .install(|| Decoder::new(config.clone(), weights, context))
            .map_err(|e| start(e.to_string()))?;
        let numeric_path = match decoder.instructions() {
            // Both vector widths give the same bits.
            Instructions::Avx512 | Instructions::Avx2 => "f32 fused-multiply-add v1",
            Instructions::Portable => "f32 multiply-then-add v1",
        };
        let one_request = pages_of(context) * decoder.page_pool(0).page_bytes();
        let limit = options.kv_cache_bytes.unwrap_or_else(|| {
            default_kv_cache_bytes(available_bytes(), one_request as u64, options.max_batch)
        });
        let pages = decoder.page_pool(usize::try_from(limit).unwrap_or(usize::MAX));
        let preemptions = Arc::new(AtomicU64::new(0));
        let tokenizer = Arc::new(tokenizer);
        let (sender, receiver) = mpsc::channel();
        let thread = {
            let (tokenizer, eos) = (tokenizer.clone(), config.eos_token_ids.clone());
            let vocab_size = config.vocab_size;
            let (pages, preemptions) = (pages.clone(), preemptions.clone());
            std::thread::Builder::new()
                .name("llama".to_owned())
                .spawn(move || {
                    pool.install(move || {
                        let model = ModelFacts {
                            tokenizer: &tokenizer,
                            eos_token_ids: &eos,
                            vocab_size,
                            instructions: decoder.instructions(),
                        };
                        Scheduler::new(&decoder, model, &options, &pages, &preemptions)
                            .run(&receiver);
                    });
                })
                .map_err(|e| start(e.to_string()))?
        };
        Ok(Self {
            inner: Arc::new(Inner {
                config,
                tokenizer,
                identity,
                context,
                numeric_path: numeric_path.to_owned(),
                pages,
                preemptions,
                compiler: OnceLock::new(),
                jobs: Mutex::new(Some(sender)),
                thread: Mutex::new(Some(thread)),
            }),
        })
    }

    /// The model's shape.
    pub fn config(&self) -> &LlamaConfig {
        &self.inner.config
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.inner.tokenizer
    }

    /// sha256 of the model's files.
    pub fn identity(&self) -> &str {
        &self.inner.identity
    }

    /// Longest sequence, prompt and answer together, in tokens.
    pub fn context_length(&self) -> usize {
        self.inner.context
    }

    /// Names the arithmetic: two engines with the same path and model identity give the same answers.
    pub fn numeric_path(&self) -> &str {
        &self.inner.numeric_path
    }

    /// Memory for keys and values of one token of one request.
    pub fn kv_bytes_per_token(&self) -> usize {
        let config = &self.inner.config;
        config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim * 4
    }

    /// What keys and values take, and may take.
    pub fn kv_cache(&self) -> KvCacheUsage {
        let pages = &self.inner.pages;
        let bytes = |count: usize| (count * pages.page_bytes()) as u64;
        KvCacheUsage {
            bytes: bytes(pages.alive()),
            peak_bytes: bytes(pages.most()),
            limit_bytes: pages.limit_bytes() as u64,
            preemptions: self.inner.preemptions.load(Ordering::Relaxed),
        }
    }

    /// The tokens of a prompt, as the model will read them.
    pub fn prompt_tokens(&self, prompt: &Prompt) -> Result<Vec<u32>, GenerateError> {
        let tokenizer = &self.inner.tokenizer;
        Ok(match prompt {
            Prompt::Text(text) => tokenizer.encode(text, true)?,
            Prompt::Tokens(tokens) => tokens.clone(),
            Prompt::Chat(messages) => {
                let text = tokenizer.apply_chat_template(messages, true)?;
                tokenizer.encode(&text, false)?
            }
        })
    }

    /// Completes a prompt. Dropping the future cancels the request.
    ///
    /// The answer depends on the request alone, never on what else is being decoded.
    pub async fn complete(&self, request: CompletionRequest) -> Result<Completion, GenerateError> {
        self.complete_to(request, None).await
    }

    /// `listener` hears each part of the text as soon as it is certain.
    pub(super) async fn complete_to(
        &self,
        request: CompletionRequest,
        listener: Option<UnboundedSender<String>>,
    ) -> Result<Completion, GenerateError> {
        let vocab_size = self.inner.config.vocab_size;
        let problems = request.problems(vocab_size);
        if !problems.is_empty() {
            return Err(GenerateError::Request(problems));
        }
        let tokens = self.prompt_tokens(&request.prompt)?;
        self.check(&tokens, &[])?;
        let room = self.inner.context - tokens.len().min(self.inner.context);
        // The last token is never fed.
        let fits = self.inner.pages.limit() * PAGE_POSITIONS + 1;
        let fits = fits.saturating_sub(tokens.len());
        let max_tokens = request.max_tokens.unwrap_or(room.min(fits).max(1));
        if max_tokens > room {
            return Err(GenerateError::TooLong {
                prompt: tokens.len(),
                answer: max_tokens,
                context: self.inner.context,
            });
        }
        self.check_room(tokens.len() + max_tokens - 1)?;
        let matcher = request
            .constraint
            .as_ref()
            .map(|constraint| self.compile(constraint))
            .transpose()?;
        let (reply, answer) = oneshot::channel();
        let writing = Writing::new(&request, &tokens, max_tokens, matcher, listener, reply);
        self.send(Job {
            tokens,
            work: Work::Complete(Box::new(writing)),
        })?;
        answer.await.map_err(|_| GenerateError::Stopped)?
    }

    /// The log-likelihood of answer tokens after prompt tokens. Dropping the future cancels the request.
    pub async fn log_likelihood(
        &self,
        prompt_tokens: &[u32],
        answer_tokens: &[u32],
    ) -> Result<LogLikelihood, GenerateError> {
        self.check(prompt_tokens, answer_tokens)?;
        if answer_tokens.is_empty() {
            return Ok(LogLikelihood {
                sum_log_prob: 0.0,
                tokens: 0,
            });
        }
        if prompt_tokens.len() + answer_tokens.len() > self.inner.context {
            return Err(GenerateError::TooLong {
                prompt: prompt_tokens.len(),
                answer: answer_tokens.len(),
                context: self.inner.context,
            });
        }
        self.check_room(prompt_tokens.len() + answer_tokens.len() - 1)?;
        let (reply, answer) = oneshot::channel();
        self.send(Job {
            tokens: [prompt_tokens, answer_tokens].concat(),
            work: Work::Score {
                prompt: prompt_tokens.len(),
                sum_log_prob: 0.0,
                reply: Some(reply),
            },
        })?;
        answer.await.map_err(|_| GenerateError::Stopped)?
    }

    fn check(&self, prompt: &[u32], answer: &[u32]) -> Result<(), GenerateError> {
        if prompt.is_empty() {
            return Err(GenerateError::EmptyPrompt);
        }
        let vocab_size = self.inner.config.vocab_size;
        match prompt
            .iter()
            .chain(answer)
            .find(|token| **token as usize >= vocab_size)
        {
            None => Ok(()),
            Some(token) => Err(GenerateError::UnknownToken {
                token: *token,
                vocab_size,
            }),
        }
    }

    /// Whether keys and values of so many tokens ever fit, with no other request's beside them.
    fn check_room(&self, tokens: usize) -> Result<(), GenerateError> {
        let pages = &self.inner.pages;
        if pages_of(tokens) <= pages.limit() {
            return Ok(());
        }
        Err(GenerateError::TooLarge {
            tokens,
            needed: (pages_of(tokens) * pages.page_bytes()) as u64,
            allowed: pages.limit_bytes() as u64,
        })
    }

    fn compile(&self, constraint: &Constraint) -> Result<Matcher, GenerateError> {
        let inner = &self.inner;
        inner
            .compiler
            .get_or_init(|| {
                ConstraintCompiler::new(
                    &inner.tokenizer,
                    inner.config.vocab_size,
                    &inner.config.eos_token_ids,
                )
            })
            .as_ref()
            .map_err(|reason| GenerateError::Constraint(reason.clone()))?
            .compile(constraint)
    }

    fn send(&self, job: Job) -> Result<(), GenerateError> {
        let jobs = self.inner.jobs.lock().map_err(|_| GenerateError::Stopped)?;
        let jobs = jobs.as_ref().ok_or(GenerateError::Stopped)?;
        jobs.send(job).map_err(|_| GenerateError::Stopped)
    }
}

/// [`EngineOptions::kv_cache_bytes`] where it is absent.
fn default_kv_cache_bytes(available: Option<u64>, one_request: u64, max_batch: usize) -> u64 {
    match available {
        Some(available) => one_request.max(available / 2),
        None => one_request.saturating_mul(max_batch as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::default_kv_cache_bytes;

    #[test]
    fn half_of_the_free_memory_is_for_keys_and_values_and_one_request_always_fits() {
        assert_eq!(default_kv_cache_bytes(Some(1000), 10, 4), 500);
        assert_eq!(default_kv_cache_bytes(Some(1000), 700, 4), 700);
        assert_eq!(default_kv_cache_bytes(None, 700, 4), 2800);
    }
}
