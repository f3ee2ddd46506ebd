use candle_core::{DType, Device, IndexOp, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama as reference;
use serde_json::json;

use super::forward::{Decoder, Step};
use super::*;
use crate::llama::config::{LlamaConfig, RopeScaling};
use crate::llama::source::{EmbeddedModel, ModelSource};
use crate::llama::test_model;
use crate::llama::tokenizer::ChatMessage;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

fn engine(options: EngineOptions) -> Engine {
    Engine::start(test_model::model(1), options).unwrap()
}

fn request(text: &str, seed: u64) -> CompletionRequest {
    CompletionRequest {
        max_tokens: Some(24),
        seed,
        ..CompletionRequest::new(Prompt::Text(text.to_owned()))
    }
}

/// Logits of every position by one pass over the whole sequence.
fn full_logits(decoder: &Decoder, tokens: &[u32]) -> Vec<f32> {
    let mut cache = decoder.new_cache();
    decoder.forward(&mut [Step {
        tokens,
        cache: &mut cache,
        logits: tokens.len(),
    }])
}

#[test]
fn logits_equal_candles_llama() {
    let scalings = [
        RopeScaling::None,
        RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 64,
        },
    ];
    // candle knows no linear scaling; this is its rule for Llama 3 with every wave taken for a long one.
    let linear = RopeScaling::Linear { factor: 4.0 };
    let all_divided = RopeScaling::Llama3 {
        factor: 4.0,
        low_freq_factor: 1e6,
        high_freq_factor: 2e6,
        original_max_position_embeddings: 1,
    };
    for (tie, rope_scaling, as_candle_says) in [
        (true, scalings[0], scalings[0]),
        (false, scalings[1], scalings[1]),
        (false, linear, all_divided),
    ] {
        let config = LlamaConfig {
            tie_word_embeddings: tie,
            rope_scaling,
            // candle derives the width of a head from these two.
            head_dim: 12,
            ..test_model::config()
        };
        let weights = test_model::weights(&config, 3);
        let tokens: Vec<u32> = (0..40).map(|i| (i * 37 + 11) % 272).collect();
        let said = LlamaConfig {
            rope_scaling: as_candle_says,
            ..config.clone()
        };
        let theirs = candle_logits(&said, &weights, &tokens);
        let decoder = Decoder::new(config.clone(), weights, 64).unwrap();
        let ours = full_logits(&decoder, &tokens);
        let last = &ours[ours.len() - config.vocab_size..];
        let worst = last
            .iter()
            .zip(&theirs)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        let largest = theirs.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        assert!(worst < 1e-4, "differ by {worst}, logits up to {largest}");
        assert!(
            largest > 1.0,
            "logits too small to tell anything: {largest}"
        );
    }
}

fn candle_logits(
    config: &LlamaConfig,
    weights: &crate::llama::weights::Weights,
    tokens: &[u32],
) -> Vec<f32> {
    let json = config.to_json("float32");
    let theirs: reference::LlamaConfig = serde_json::from_value(json).unwrap();
    let theirs = theirs.into_config(false);
    let tensors = weights.tensors.clone().into_iter().collect();
    let builder = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let model = reference::Llama::load(builder, &theirs).unwrap();
    let mut cache = reference::Cache::new(false, DType::F32, &theirs, &Device::Cpu).unwrap();
    let input = Tensor::new(tokens, &Device::Cpu)
        .unwrap()
        .unsqueeze(0)
        .unwrap();
    let logits = model.forward(&input, 0, &mut cache).unwrap();
    logits.i(0).unwrap().to_vec1().unwrap()
}

#[test]
fn a_cached_prefix_equals_a_full_pass_to_the_bit() {
    let config = test_model::config();
    let decoder = Decoder::new(config.clone(), test_model::weights(&config, 5), 128).unwrap();
    let tokens: Vec<u32> = (0..70).map(|i| (i * 53 + 7) % 272).collect();
    let full = full_logits(&decoder, &tokens);
    for split in [1, 2, 15, 16, 17, 33, 69] {
        let mut cache = decoder.new_cache();
        let mut logits = Vec::new();
        for part in tokens.chunks(split) {
            logits.extend(decoder.forward(&mut [Step {
                tokens: part,
                cache: &mut cache,
                logits: part.len(),
            }]));
        }
        assert!(logits == full, "parts of {split} tokens differ");
    }
}

#[test]
fn a_request_gets_the_same_tokens_alone_and_among_others() {
    let asked: Vec<CompletionRequest> = (0..7)
        .map(|i| request(&"hello world, in the ".repeat(i + 1), i as u64))
        .map(|r| CompletionRequest {
            logprobs: Some(3),
            ..r
        })
        .collect();
    runtime().block_on(async {
        let alone = engine(EngineOptions {
            max_batch: 1,
            prefill_chunk: 1000,
            shared_prefix_tokens: 0,
            threads: Some(1),
            ..EngineOptions::default()
        });
        let crowded = engine(EngineOptions {
            max_batch: 5,
            prefill_chunk: 9,
            threads: Some(3),
            ..EngineOptions::default()
        });
        let together =
            futures::future::join_all(asked.iter().cloned().map(|r| crowded.complete(r))).await;
        for (asked, together) in asked.into_iter().zip(together) {
            let alone = alone.complete(asked).await.unwrap();
            assert_eq!(alone, unshared(together.unwrap()));
            assert!(alone.completion_tokens > 1);
        }
    });
}

/// A completion but for what depends on the other requests.
fn unshared(completion: Completion) -> Completion {
    Completion {
        shared_tokens: 0,
        ..completion
    }
}

#[test]
fn requests_that_begin_alike_share_the_beginning_and_answer_as_alone() {
    let beginning = "hello world, in the beginning there was a prompt; ".repeat(2);
    let asked: Vec<CompletionRequest> = (0..8)
        .map(|i| request(&format!("{beginning}{i} hello"), i))
        .map(|r| CompletionRequest {
            logprobs: Some(2),
            repetition_penalty: 1.1,
            ..r
        })
        .collect();
    runtime().block_on(async {
        let alone = engine(EngineOptions {
            shared_prefix_tokens: 0,
            ..EngineOptions::default()
        });
        let sharing = engine(EngineOptions {
            max_batch: 3,
            prefill_chunk: 11,
            ..EngineOptions::default()
        });
        let prefix = sharing
            .prompt_tokens(&Prompt::Text(beginning.clone()))
            .unwrap()
            .len();
        let together =
            futures::future::join_all(asked.iter().cloned().map(|r| sharing.complete(r))).await;
        let mut shared = 0;
        for (asked, together) in asked.into_iter().zip(together) {
            let together = together.unwrap();
            shared += usize::from(together.shared_tokens >= prefix);
            assert_eq!(alone.complete(asked).await.unwrap(), unshared(together));
        }
        // All but the first, whether the other one was running or had ended.
        assert_eq!(shared, 7);

        let tokens = |text: String| sharing.prompt_tokens(&Prompt::Text(text)).unwrap();
        let (prompt, answer) = (
            tokens(format!("{beginning}5 hello")),
            tokens("world".to_owned()),
        );
        assert_eq!(
            sharing.log_likelihood(&prompt, &answer).await.unwrap(),
            alone.log_likelihood(&prompt, &answer).await.unwrap(),
        );
    });
}

#[test]
fn a_conversation_goes_on_from_its_earlier_turns() {
    runtime().block_on(async {
        let engine = engine(EngineOptions::default());
        let first = engine
            .complete(request("hello in there, hello", 3))
            .await
            .unwrap();
        let mut tokens = engine
            .prompt_tokens(&Prompt::Text("hello in there, hello".to_owned()))
            .unwrap();
        tokens.extend(&first.tokens);
        tokens.extend([5, 6, 7]);
        let second = engine
            .complete(CompletionRequest {
                max_tokens: Some(4),
                ..CompletionRequest::new(Prompt::Tokens(tokens))
            })
            .await
            .unwrap();
        // Everything but the last token, which was never fed, and what is new.
        assert_eq!(
            second.shared_tokens,
            first.prompt_tokens + first.completion_tokens - 1
        );
    });
}

#[test]
fn the_parts_of_an_answer_are_heard_as_they_come() {
    runtime().block_on(async {
        let engine = engine(EngineOptions::default());
        let mut stream = engine.stream(request("hello", 6));
        let mut heard = Vec::new();
        let whole = loop {
            match stream.next().await {
                StreamEvent::Part(part) => heard.push(part),
                StreamEvent::End(end) => break end.unwrap(),
            }
        };
        assert_eq!(heard.concat(), whole.text);
        assert!(heard.len() > 3, "{heard:?}");
        let silent = engine.complete(request("hello", 6)).await.unwrap();
        assert_eq!(silent.text, whole.text);
    });
}

#[test]
fn a_repetition_penalty_looks_at_prompt_and_answer() {
    runtime().block_on(async {
        let engine = engine(EngineOptions::default());
        let greedy = |repetition_penalty| {
            engine.complete(CompletionRequest {
                temperature: 0.0,
                repetition_penalty,
                ..request("hello in the hello", 0)
            })
        };
        let mut varied = greedy(1e6).await.unwrap().tokens;
        let prompt = engine
            .prompt_tokens(&Prompt::Text("hello in the hello".to_owned()))
            .unwrap();
        assert!(varied.iter().all(|token| !prompt.contains(token)));
        let written = varied.len();
        varied.sort_unstable();
        varied.dedup();
        assert_eq!(varied.len(), written, "no token comes twice");
    });
}

#[test]
fn scoring_agrees_with_the_logprobs_of_generation() {
    runtime().block_on(async {
        let engine = engine(EngineOptions {
            prefill_chunk: 7,
            ..EngineOptions::default()
        });
        let prompt = engine
            .prompt_tokens(&Prompt::Text("hello in here".to_owned()))
            .unwrap();
        let written = engine
            .complete(CompletionRequest {
                logprobs: Some(0),
                ..request("hello in here", 4)
            })
            .await
            .unwrap();
        let scored = engine
            .log_likelihood(&prompt, &written.tokens)
            .await
            .unwrap();
        let sum: f64 = written.logprobs.unwrap().iter().map(|p| p.log_prob).sum();
        assert_eq!(scored.tokens, written.completion_tokens);
        assert!((scored.sum_log_prob - sum).abs() < 1e-9);
        assert!(scored.sum_log_prob < 0.0);
    });
}

#[test]
fn a_stop_text_cuts_the_completion_before_it() {
    runtime().block_on(async {
        let engine = engine(EngineOptions::default());
        let letters = CompletionRequest {
            constraint: Some(Constraint::Regex("[a-z]{200}".to_owned())),
            ..request("he", 2)
        };
        let whole = engine.complete(letters.clone()).await.unwrap();
        assert_eq!(whole.finish_reason, FinishReason::Length);
        // A stop text that spans tokens, from the middle of what is written anyway.
        let stop: String = whole.text.chars().skip(5).take(3).collect();
        let cut = engine
            .complete(CompletionRequest {
                stop: vec!["never written".to_owned(), stop.clone()],
                ..letters
            })
            .await
            .unwrap();
        assert_eq!(cut.finish_reason, FinishReason::Stop);
        assert_eq!(cut.text, whole.text[..whole.text.find(&stop).unwrap()]);
        assert!(whole.tokens.starts_with(&cut.tokens));
    });
}

#[test]
fn the_end_token_ends_the_completion_and_is_not_shown() {
    runtime().block_on(async {
        let engine = engine(EngineOptions::default());
        let mut wanted = request("he", 0);
        wanted.logit_bias.insert(test_model::MESSAGE_END, 100.0);
        let ended = engine.complete(wanted).await.unwrap();
        assert_eq!(ended.finish_reason, FinishReason::Stop);
        assert_eq!(ended.text, "");
        assert_eq!(ended.tokens, [test_model::MESSAGE_END]);
    });
}

#[test]
fn constrained_json_parses_and_follows_its_schema() {
    let schema = json!({
        "type": "object",
        "properties": {
            "kind": {"enum": ["open", "closed"]},
            "count": {"type": "integer", "minimum": 0, "maximum": 99},
            "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
        },
        "required": ["kind", "count", "tags"],
        "additionalProperties": false,
    });
    runtime().block_on(async {
        let engine = engine(EngineOptions::default());
        let asked = (0..6).map(|seed| {
            engine.complete(CompletionRequest {
                max_tokens: Some(120),
                constraint: Some(Constraint::JsonSchema(schema.clone())),
                ..request("hello", seed)
            })
        });
        for answer in futures::future::join_all(asked).await {
            let answer = answer.unwrap();
            assert_eq!(answer.finish_reason, FinishReason::Stop);
            let value: serde_json::Value = serde_json::from_str(&answer.text).unwrap();
            assert!(["open", "closed"].contains(&value["kind"].as_str().unwrap()));
            assert!(value["count"].as_u64().unwrap() < 100);
            assert!((1..=3).contains(&value["tags"].as_array().unwrap().len()));
        }
        let regex = engine
            .complete(CompletionRequest {
                constraint: Some(Constraint::Regex("(yes|no), [0-9]{3}".to_owned())),
                ..request("hello", 0)
            })
            .await
            .unwrap();
        assert!(regex.text.starts_with("yes, ") || regex.text.starts_with("no, "));
        assert_eq!(regex.text.split(", ").nth(1).unwrap().len(), 3);
        let lark = engine
            .complete(CompletionRequest {
                constraint: Some(Constraint::Lark("start: \"a\" (\"b\" | \"c\")".to_owned())),
                ..request("hello", 0)
            })
            .await
            .unwrap();
        assert!(["ab", "ac"].contains(&lark.text.as_str()));
    });
}

#[test]
fn impossible_requests_are_refused_in_words() {
    runtime().block_on(async {
        let engine = engine(EngineOptions {
            context_length: Some(20),
            ..EngineOptions::default()
        });
        let refused = |request| async { engine.complete(request).await.unwrap_err().to_string() };
        assert_eq!(
            refused(CompletionRequest {
                max_tokens: Some(18),
                ..request("a b", 0)
            })
            .await,
            "the request needs 3 tokens of prompt and 18 of answer, 21 in all; this model's context holds 20; shorten the prompt or lower max_tokens"
        );
        assert_eq!(
            refused(CompletionRequest {
                temperature: -1.0,
                top_p: 0.0,
                ..request("a", 0)
            })
            .await,
            "the request cannot be run: temperature is -1, expected 0 or more; top_p is 0, expected above 0 and at most 1"
        );
        assert_eq!(
            refused(CompletionRequest::new(Prompt::Tokens(vec![]))).await,
            "the prompt has no tokens; give at least one"
        );
        assert_eq!(
            refused(CompletionRequest::new(Prompt::Tokens(vec![5000]))).await,
            "token 5000 is outside the model's vocabulary of 272"
        );
        let schema = refused(CompletionRequest {
            max_tokens: Some(5),
            constraint: Some(Constraint::JsonSchema(json!({"type": "nonsense"}))),
            ..request("a", 0)
        })
        .await;
        assert!(schema.starts_with("the constraint cannot be used: "), "{schema}");
    });
}

#[test]
fn without_max_tokens_the_context_is_the_limit() {
    runtime().block_on(async {
        let engine = engine(EngineOptions {
            context_length: Some(20),
            ..EngineOptions::default()
        });
        let mut open = request("a b", 0);
        open.max_tokens = None;
        open.logit_bias.insert(test_model::MESSAGE_END, -100.0);
        let filled = engine.complete(open).await.unwrap();
        assert_eq!(filled.prompt_tokens + filled.completion_tokens, 20);
        assert_eq!(filled.finish_reason, FinishReason::Length);
    });
}

#[test]
fn a_dropped_request_makes_room_for_the_next() {
    runtime().block_on(async {
        let engine = engine(EngineOptions {
            max_batch: 1,
            ..EngineOptions::default()
        });
        let mut long = request("a", 0);
        long.max_tokens = Some(250);
        long.logit_bias.insert(test_model::MESSAGE_END, -100.0);
        let abandoned = tokio::time::timeout(
            std::time::Duration::from_millis(1),
            engine.complete(long.clone()),
        );
        let _ = abandoned.await;
        let next = engine.complete(request("b", 1)).await.unwrap();
        assert!(next.completion_tokens > 0);
    });
}

#[test]
fn chat_goes_through_the_models_template() {
    let engine = engine(EngineOptions::default());
    let messages = vec![ChatMessage::new("user", "hello")];
    let tokens = engine.prompt_tokens(&Prompt::Chat(messages)).unwrap();
    assert_eq!(
        engine.tokenizer().decode(&tokens, false).unwrap(),
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(tokens[0], test_model::MESSAGE_START);
}

#[test]
fn the_embedded_model_answers_sensibly() {
    let Some(model) = crate::llama::source::tests::embedded_if_present() else {
        return;
    };
    let unpacked = Engine::start(model, EngineOptions::default()).unwrap();
    let local = ModelSource::Embedded(EmbeddedModel::Smollm2)
        .fetch(&mut |_| {})
        .unwrap();
    let model = InferenceModel::open(&local, &mut |_| {}).unwrap();
    let engine = Engine::start(model, EngineOptions::default()).unwrap();
    let chat = |text: &str| Prompt::Chat(vec![ChatMessage::new("user", text)]);
    runtime().block_on(async {
        let answer = engine
            .complete(CompletionRequest {
                temperature: 0.0,
                max_tokens: Some(24),
                ..CompletionRequest::new(chat("What is the capital of France?"))
            })
            .await
            .unwrap();
        assert_eq!(answer.text, "The capital of France is Paris.");
        assert_eq!(answer.finish_reason, FinishReason::Stop);
        // The file's own blocks give the numbers of the dequantised model.
        let drawn = |engine: Engine| {
            let request = CompletionRequest {
                max_tokens: Some(16),
                logprobs: Some(2),
                seed: 4,
                ..CompletionRequest::new(chat("Name three colours."))
            };
            async move { engine.complete(request).await.unwrap() }
        };
        let from_blocks = drawn(engine.clone()).await;
        assert_eq!(unshared(from_blocks), unshared(drawn(unpacked).await));
        let prompt = engine
            .prompt_tokens(&chat("What is the capital of France?"))
            .unwrap();
        let score = |text: &str| {
            let answer = engine.tokenizer().encode(text, false).unwrap();
            let (engine, prompt) = (engine.clone(), prompt.clone());
            async move { engine.log_likelihood(&prompt, &answer).await.unwrap() }
        };
        let right = score("The capital of France is Paris.").await;
        let wrong = score("The capital of France is Berlin.").await;
        assert!(right.sum_log_prob > wrong.sum_log_prob + 5.0);
    });
}
