//! Many requests together, and pools of pages too small for them: each answer is the one it has alone.

use std::time::{Duration, Instant};

use candle_core::DType;
use futures::future::join_all;

use super::forward::{Decoder, Step};
use super::kv_cache::KvCache;
use super::*;
use crate::llama::config::LlamaConfig;
use crate::llama::convert::{GgufType, to_gguf};
use crate::llama::source::{Model, ModelSource};
use crate::llama::test_model;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

/// A completion but for what depends on the other requests.
fn unshared(completion: Completion) -> Completion {
    Completion {
        shared_tokens: 0,
        ..completion
    }
}

/// Requests of which no two have the same length, sampling and seed.
fn different_requests(count: usize) -> Vec<CompletionRequest> {
    (0..count)
        .map(|i| {
            let prompt = "hello world, in the ".repeat(1 + i % 5) + &"well ".repeat(i / 5);
            CompletionRequest {
                max_tokens: Some(4 + i * 5 % 31),
                temperature: [1.0, 0.0, 0.7, 1.4][i % 4],
                top_p: [1.0, 0.9, 0.6][i % 3],
                top_k: (i % 5 == 1).then_some(9),
                min_p: if i % 7 == 2 { 0.05 } else { 0.0 },
                repetition_penalty: if i % 6 == 3 { 1.3 } else { 1.0 },
                logprobs: (i % 4 == 3).then_some(2),
                constraint: (i % 11 == 4)
                    .then(|| Constraint::Regex("(yes|no), [0-9]{9}".to_owned())),
                seed: 1000 + i as u64,
                ..CompletionRequest::new(Prompt::Text(prompt))
            }
        })
        .collect()
}

fn answers_are_the_same_alone_and_among_31_others(model: impl Fn() -> InferenceModel) {
    let asked = different_requests(32);
    let alone = EngineOptions {
        max_batch: 1,
        prefill_chunk: 1000,
        shared_prefix_tokens: 0,
        threads: Some(1),
        ..EngineOptions::default()
    };
    let together = EngineOptions {
        max_batch: 32,
        prefill_chunk: 50,
        threads: Some(3),
        ..EngineOptions::default()
    };
    let alone = Engine::start(model(), alone).unwrap();
    let together = Engine::start(model(), together).unwrap();
    runtime().block_on(async {
        let answers = join_all(asked.iter().cloned().map(|r| together.complete(r))).await;
        let mut lengths = Vec::new();
        for (number, (asked, answer)) in asked.into_iter().zip(answers).enumerate() {
            let own = alone.complete(asked).await.unwrap();
            assert_eq!(own, unshared(answer.unwrap()), "request {number}");
            lengths.push((own.prompt_tokens, own.completion_tokens));
        }
        lengths.sort();
        lengths.dedup();
        assert!(lengths.len() > 16, "lengths are too alike: {lengths:?}");
    });
}

#[test]
fn answers_are_the_same_alone_and_among_31_others_in_f32() {
    answers_are_the_same_alone_and_among_31_others(|| test_model::model(1).into());
}

#[test]
fn answers_are_the_same_alone_and_among_31_others_from_a_quantized_file() {
    // Rows long enough for the blocks of Q4_K and Q6_K.
    let config = LlamaConfig {
        hidden_size: 256,
        intermediate_size: 512,
        head_dim: 64,
        ..test_model::config()
    };
    let folder = tempfile::tempdir().unwrap();
    let (plain, file) = (folder.path().join("plain"), folder.path().join("q.gguf"));
    let model = Model {
        weights: test_model::weights(&config, 8),
        config,
        tokenizer: test_model::tokenizer(),
        identity: String::new(),
        origin: String::new(),
    };
    model.save_hf(&plain, DType::F32).unwrap();
    let local = |path| ModelSource::Path(path).fetch(&mut |_| {}).unwrap();
    to_gguf(&local(plain), &file, GgufType::Q4KM, &mut |_| {}).unwrap();
    answers_are_the_same_alone_and_among_31_others(|| {
        InferenceModel::open(&local(file.clone()), &mut |_| {}).unwrap()
    });
}

/// An engine whose keys and values have so many pages of 64 positions.
fn engine_of(pages: u64, options: EngineOptions) -> Engine {
    let config = test_model::config();
    let position = config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim * 4;
    Engine::start(
        test_model::model(1),
        EngineOptions {
            kv_cache_bytes: Some(pages * 64 * position as u64),
            ..options
        },
    )
    .unwrap()
}

/// A request whose answer has exactly so many tokens.
fn long(prompt: &str, answer: usize, seed: u64) -> CompletionRequest {
    CompletionRequest {
        max_tokens: Some(answer),
        seed,
        logit_bias: [(test_model::MESSAGE_END, -100.0)].into(),
        ..CompletionRequest::new(Prompt::Text(prompt.to_owned()))
    }
}

#[test]
fn requests_put_back_for_want_of_pages_answer_as_alone() {
    let asked: Vec<CompletionRequest> = (0..10)
        .map(|i| CompletionRequest {
            repetition_penalty: 1.1,
            logprobs: Some(1),
            ..long(&format!("{i} hello world, in the well"), 150, i)
        })
        .collect();
    for shared_prefix_tokens in [0, 4096] {
        let roomy = EngineOptions {
            max_batch: 1,
            shared_prefix_tokens: 0,
            ..EngineOptions::default()
        };
        let roomy = Engine::start(test_model::model(1), roomy).unwrap();
        let tight = engine_of(
            6,
            EngineOptions {
                shared_prefix_tokens,
                // So slowly that those that write need a second page before a score is whole.
                prefill_chunk: 1,
                ..EngineOptions::default()
            },
        );
        runtime().block_on(async {
            let (prompt, answer): (Vec<u32>, Vec<u32>) = ((20..40).collect(), (100..180).collect());
            let complete = |asked: &[CompletionRequest]| {
                let asked = asked.to_vec();
                join_all(asked.into_iter().map(|request| tight.complete(request)))
            };
            let scores = (0..4).map(|_| tight.log_likelihood(&prompt, &answer));
            let (mut answers, scores, others) = futures::join!(
                complete(&asked[..2]),
                join_all(scores),
                complete(&asked[2..])
            );
            answers.extend(others);
            for (asked, answer) in asked.iter().zip(answers) {
                let alone = roomy.complete(asked.clone()).await.unwrap();
                assert_eq!(alone, unshared(answer.unwrap()));
                assert_eq!(alone.completion_tokens, 150);
            }
            let alone = roomy.log_likelihood(&prompt, &answer).await.unwrap();
            for score in scores {
                assert_eq!(score.unwrap(), alone);
            }
        });
        let used = tight.kv_cache();
        assert!(used.preemptions > 0, "{used:?}");
        assert!(used.peak_bytes <= used.limit_bytes, "{used:?}");
        if shared_prefix_tokens == 0 {
            // Ended requests leave just after they have answered.
            let patience = Instant::now() + Duration::from_secs(20);
            while tight.kv_cache().bytes > 0 {
                assert!(Instant::now() < patience, "{:?}", tight.kv_cache());
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

#[test]
fn dropped_requests_give_their_pages_back_whether_they_run_or_wait() {
    let engine = engine_of(
        4,
        EngineOptions {
            shared_prefix_tokens: 0,
            ..EngineOptions::default()
        },
    );
    runtime().block_on(async {
        let many = (0..8).map(|i| engine.complete(long(&format!("{i} hello"), 180, i)));
        let abandoned = tokio::time::timeout(Duration::from_millis(5), join_all(many)).await;
        assert!(abandoned.is_err(), "too fast to be dropped");
        let whole = engine.complete(long("quick", 240, 1)).await.unwrap();
        assert_eq!(whole.completion_tokens, 240);
    });
    assert!(engine.kv_cache().peak_bytes <= engine.kv_cache().limit_bytes);
}

#[test]
fn a_full_pool_gives_up_kept_beginnings_before_it_holds_up_requests() {
    let engine = engine_of(3, EngineOptions::default());
    let first = long("hello world, in the well, in the world", 70, 1);
    let other = long("quick brown fox", 130, 2);
    runtime().block_on(async {
        let kept = engine.complete(first.clone()).await.unwrap();
        let again = engine.complete(first.clone()).await.unwrap();
        assert_eq!(again.shared_tokens, kept.prompt_tokens - 1);
        let alone = Engine::start(test_model::model(1), EngineOptions::default()).unwrap();
        assert_eq!(
            engine.complete(other.clone()).await.unwrap(),
            alone.complete(other).await.unwrap()
        );
        let last = engine.complete(first).await.unwrap();
        assert_eq!(last.shared_tokens, 0, "its beginning had to go");
        assert_eq!(last, kept);
    });
    let used = engine.kv_cache();
    assert_eq!(used.preemptions, 0);
    assert_eq!(used.peak_bytes, used.limit_bytes);
}

#[test]
fn a_request_that_never_fits_is_refused_and_an_open_one_ends_where_memory_does() {
    let engine = engine_of(2, EngineOptions::default());
    runtime().block_on(async {
        // 40 tokens of prompt and all but the last of 90 make 129 positions: three pages.
        let request = CompletionRequest {
            prompt: Prompt::Tokens((10..50).collect()),
            ..long("", 90, 0)
        };
        let refused = engine.complete(request.clone()).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the request needs 73728 bytes for the keys and values of 129 tokens; this engine may use 49152 (kv_cache_bytes); shorten the prompt, lower max_tokens or raise the limit"
        );
        assert!(matches!(refused, GenerateError::TooLarge { .. }));
        let (prompt, answer): (Vec<u32>, Vec<u32>) = ((10..50).collect(), (60..150).collect());
        let refused = engine.log_likelihood(&prompt, &answer).await.unwrap_err();
        assert!(matches!(refused, GenerateError::TooLarge { tokens: 129, .. }));
        assert!(engine.log_likelihood(&prompt, &answer[1..]).await.is_ok());

        let open = CompletionRequest {
            max_tokens: None,
            ..request
        };
        let filled = engine.complete(open).await.unwrap();
        assert_eq!(filled.completion_tokens, 89);
        assert_eq!(filled.finish_reason, FinishReason::Length);
    });
}

#[test]
fn a_shared_beginning_holds_the_same_pages_and_copies_one_when_it_is_written_on() {
    let config = test_model::config();
    let decoder = Decoder::new(config.clone(), test_model::weights(&config, 5), 256).unwrap();
    let pool = decoder.page_pool(usize::MAX);
    let tokens: Vec<u32> = (0..200).map(|i| (i * 53 + 7) % 272).collect();
    let feed = |cache: &mut KvCache, tokens: &[u32]| {
        decoder.forward(&mut [Step {
            tokens,
            cache,
            logits: tokens.len(),
        }])
    };
    let mut whole = KvCache::new(&pool);
    let logits = feed(&mut whole, &tokens);
    assert_eq!(pool.alive(), 4);

    let mut branch = whole.prefix(150);
    assert_eq!(pool.alive(), 4, "nothing is copied yet");
    let other: Vec<u32> = tokens.iter().rev().copied().collect();
    feed(&mut branch, &other[..20]);
    assert_eq!(pool.alive(), 5, "the page of positions 128 to 191");
    // At a page's border there is nothing to copy, and what follows is a page of its own.
    let mut branch_at_border = whole.prefix(128);
    let again = feed(&mut branch_at_border, &tokens[128..]);
    assert_eq!(pool.alive(), 7);
    assert!(again == logits[128 * config.vocab_size..]);

    // The first goes on as if nobody had shared its pages.
    let next = feed(&mut whole, &[11, 12]);
    let mut plain = decoder.new_cache();
    feed(&mut plain, &tokens);
    assert!(next == feed(&mut plain, &[11, 12]));
    drop((whole, branch, branch_at_border));
    assert_eq!(pool.alive(), 0);
}

#[test]
fn weights_that_are_not_finite_are_named_and_not_blamed_on_the_request() {
    for (name, factor) in [("nan", f64::NAN), ("overflow", 3e38)] {
        let mut model = test_model::model(1);
        let norm = model.weights.tensors.get_mut("model.norm.weight").unwrap();
        *norm = (&*norm * factor).unwrap();
        let engine = Engine::start(model, EngineOptions::default()).unwrap();
        runtime().block_on(async {
            let prompt = Prompt::Tokens(vec![30, 31, 32]);
            let plain = CompletionRequest::new(prompt);
            let with_logprobs = CompletionRequest {
                logprobs: Some(1),
                temperature: 0.0,
                ..plain.clone()
            };
            let constrained = CompletionRequest {
                constraint: Some(Constraint::Regex("[a-z]{3}".to_owned())),
                ..plain.clone()
            };
            for request in [plain, with_logprobs, constrained] {
                let error = engine.complete(request).await.unwrap_err();
                assert_eq!(
                    error.to_string(),
                    "the model's logits after token 2 (counted from 0) are not finite: its weights hold numbers that are not finite, or the arithmetic overflowed; check the model's files, and convert or train it again",
                    "{name}"
                );
            }
            let error = engine.log_likelihood(&[30, 31], &[40, 41]).await.unwrap_err();
            assert!(
                matches!(error, GenerateError::NotFinite { position: 1 }),
                "{name}: {error}"
            );
        });
    }
}
