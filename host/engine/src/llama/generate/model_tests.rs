use std::path::{Path, PathBuf};

use candle_core::DType;

use super::*;
use crate::llama::convert::{GgufType, to_folder, to_gguf};
use crate::llama::generate::forward::{Decoder, Step};
use crate::llama::generate::kernel::Format;
use crate::llama::generate::{Completion, CompletionRequest, Engine, EngineOptions, Prompt};
use crate::llama::{ModelSource, test_model};

fn local(path: &Path) -> LocalModel {
    ModelSource::Path(path.to_owned())
        .fetch(&mut |_| {})
        .unwrap()
}

/// A model of this shape in every form that keeps numbers of few bits: GGUF files, then folders.
fn forms(folder: &Path, config: LlamaConfig) -> Vec<PathBuf> {
    let model = Model {
        weights: test_model::weights(&config, 8),
        config,
        tokenizer: test_model::tokenizer(),
        identity: String::new(),
        origin: String::new(),
    };
    let plain = folder.join("plain");
    model.save_hf(&plain, DType::F32).unwrap();
    let plain = local(&plain);
    let mut paths = Vec::new();
    for (name, kind) in GgufType::NAMES {
        paths.push(folder.join(format!("{name}.gguf")));
        to_gguf(&plain, paths.last().unwrap(), kind, &mut |_| {}).unwrap();
    }
    for (name, dtype) in [("f16", DType::F16), ("bf16", DType::BF16)] {
        paths.push(folder.join(name));
        to_folder(&plain, paths.last().unwrap(), dtype).unwrap();
    }
    paths
}

/// Rows of 256 and 512, as `Q4_K` and `Q6_K` need; the values of the second layer have more bits than its queries.
fn wide() -> LlamaConfig {
    LlamaConfig {
        hidden_size: 256,
        intermediate_size: 512,
        head_dim: 64,
        ..test_model::config()
    }
}

/// Rows of 64 and 96: `Q5_0` and `Q8_0` in a `Q4_K_M` file.
fn narrow() -> LlamaConfig {
    LlamaConfig {
        hidden_size: 64,
        intermediate_size: 96,
        head_dim: 16,
        tie_word_embeddings: false,
        ..test_model::config()
    }
}

#[test]
fn a_model_gives_the_logits_of_its_dequantised_form_to_the_bit() {
    for config in [wide(), narrow()] {
        let folder = tempfile::tempdir().unwrap();
        let tokens: Vec<u32> = (0..29).map(|i| (i * 37 + 11) % 272).collect();
        let mut all = Vec::new();
        for path in forms(folder.path(), config.clone()) {
            let plain = Weights::load(&path, &config).unwrap();
            let stored = StoredWeights::read(&path, &config).unwrap();
            let logits = |decoder: Decoder| {
                let mut cache = decoder.new_cache();
                let mut logits = Vec::new();
                // Once with many rows, and then a row at a time.
                let (first, rest) = tokens.split_at(20);
                for tokens in std::iter::once(first).chain(rest.chunks(1)) {
                    logits.extend(decoder.forward(&mut [Step {
                        tokens,
                        cache: &mut cache,
                        logits: tokens.len(),
                    }]));
                }
                logits.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
            };
            let kept = logits(Decoder::new(config.clone(), stored, 64).unwrap());
            let unpacked = logits(Decoder::new(config.clone(), plain, 64).unwrap());
            assert!(kept == unpacked, "{} differs", path.display());
            all.push(kept);
        }
        all.sort();
        all.dedup();
        // A file and a folder in f16 have the same numbers, and in bf16 too.
        assert_eq!(all.len(), 5);
    }
}

#[test]
fn matrices_stay_as_the_file_has_them_and_norms_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let kept = |config: &LlamaConfig, path: &str, name: &str| {
        let mut weights = StoredWeights::read(&folder.path().join(path), config).unwrap();
        match weights.take(&format!("model.{name}.weight")).unwrap() {
            Stored::F32(_) => None,
            Stored::Blocks(format, _) => Some(format),
        }
    };
    forms(folder.path(), wide());
    for (path, name, expected) in [
        ("f32.gguf", "layers.0.mlp.up_proj", None),
        ("f16.gguf", "layers.0.mlp.up_proj", Some(Format::F16)),
        ("bf16.gguf", "layers.0.self_attn.q_proj", Some(Format::Bf16)),
        ("q8_0.gguf", "embed_tokens", Some(Format::Q8_0)),
        (
            "q4_k_m.gguf",
            "layers.1.self_attn.q_proj",
            Some(Format::Q4K),
        ),
        (
            "q4_k_m.gguf",
            "layers.1.self_attn.v_proj",
            Some(Format::Q6K),
        ),
        ("q4_k_m.gguf", "layers.1.input_layernorm", None),
        ("f16", "layers.0.mlp.down_proj", Some(Format::F16)),
        ("bf16", "embed_tokens", Some(Format::Bf16)),
        ("bf16", "norm", None),
    ] {
        assert_eq!(kept(&wide(), path, name), expected, "{path}, {name}");
    }
    forms(folder.path(), narrow());
    let found = kept(&narrow(), "q4_k_m.gguf", "layers.0.self_attn.q_proj");
    assert_eq!(found, Some(Format::Q5_0));
}

#[test]
fn a_model_answers_as_its_dequantised_form() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let answer = |model: InferenceModel| -> Completion {
        let engine = Engine::start(model, EngineOptions::default()).unwrap();
        let request = CompletionRequest {
            max_tokens: Some(16),
            logprobs: Some(3),
            seed: 5,
            ..CompletionRequest::new(Prompt::Text("hello world, in the beginning".to_owned()))
        };
        runtime.block_on(engine.complete(request)).unwrap()
    };
    for path in forms(folder.path(), wide()) {
        let model = local(&path);
        let unpacked = answer(model.open(&mut |_| {}).unwrap().into());
        let kept = answer(InferenceModel::open(&model, &mut |_| {}).unwrap());
        assert_eq!(kept, unpacked, "{}", path.display());
        assert!(kept.completion_tokens > 0);
    }
}
