use serde_json::{Map, Value as Json, json};

use super::*;
use crate::llama::{
    ModelSource, Tokenizer, open, source::Model, test_model, tokenizer::LLAMA3_PATTERN,
};

fn model(folder: &Path, config: LlamaConfig) -> LocalModel {
    model_with(folder, config, test_model::tokenizer())
}

fn model_with(folder: &Path, config: LlamaConfig, tokenizer: Tokenizer) -> LocalModel {
    let model = Model {
        weights: test_model::weights(&config, 3),
        tokenizer,
        config,
        identity: String::new(),
        origin: String::new(),
    };
    model.save_hf(folder, DType::F32).unwrap();
    local(folder)
}

fn local(path: &Path) -> LocalModel {
    ModelSource::Path(path.to_owned())
        .fetch(&mut |_| {})
        .unwrap()
}

fn opened(path: &Path) -> Model {
    open(&ModelSource::Path(path.to_owned()), &mut |_| {}).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest difference, in parts of the largest value.
fn difference(one: &Model, other: &Model) -> f32 {
    let mut worst = 0.0_f32;
    for (name, tensor) in &one.weights.tensors {
        let (a, b) = (values(tensor), values(other.weights.get(name)));
        let largest = a.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let apart = a.iter().zip(&b).map(|(x, y)| (x - y).abs());
        worst = worst.max(apart.fold(0.0, f32::max) / largest);
    }
    worst
}

#[test]
fn a_model_comes_back_from_gguf_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    for (n, config) in [
        test_model::config(),
        LlamaConfig {
            tie_word_embeddings: false,
            rope_scaling: RopeScaling::Linear { factor: 2.0 },
            ..test_model::config()
        },
        LlamaConfig {
            rope_theta: 500_000.0,
            rope_scaling: RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 8192,
            },
            ..test_model::config()
        },
        LlamaConfig {
            rope_scaling: RopeScaling::Llama3 {
                factor: 32.5,
                low_freq_factor: 1.3,
                high_freq_factor: 5.0,
                original_max_position_embeddings: 3000,
            },
            ..test_model::config()
        },
    ]
    .into_iter()
    .enumerate()
    {
        let there = model(&folder.path().join(n.to_string()), config);
        let file = folder.path().join(format!("{n}.gguf"));
        to_gguf(&there, &file, GgufType::F32, &mut |_| {}).unwrap();
        let (before, after) = (opened(&there.path), opened(&file));
        assert_eq!(after.config, before.config);
        assert_eq!(difference(&before, &after), 0.0);
        let text = "hello world, 2026 <|im_end|> ĝis é";
        assert_eq!(
            after.tokenizer.encode(text, true).unwrap(),
            before.tokenizer.encode(text, true).unwrap()
        );
        assert_eq!(
            after.tokenizer.chat_template(),
            Some(test_model::CHAT_TEMPLATE)
        );
        // And back into a folder.
        let again = folder.path().join(format!("{n}-again"));
        to_folder(&local(&file), &again, DType::F32).unwrap();
        assert_eq!(difference(&before, &opened(&again)), 0.0);
    }
}

#[test]
fn the_divisors_alone_tell_llama_3_scaling_of_other_lengths() {
    // As llama.cpp's converter writes it: without the keys of ours.
    let folder = tempfile::tempdir().unwrap();
    for length in [2048, 4096, 8192, 16384] {
        let config = LlamaConfig {
            head_dim: 64,
            rope_theta: 500_000.0,
            rope_scaling: RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: length,
            },
            ..test_model::config()
        };
        let there = model(&folder.path().join(length.to_string()), config.clone());
        let file = folder.path().join(format!("{length}.gguf"));
        to_gguf(&there, &file, GgufType::F32, &mut |_| {}).unwrap();
        let mut bytes = std::fs::read(&file).unwrap();
        let key = b"pacos.rope.llama3.factor";
        let at = bytes.windows(key.len()).position(|found| found == key);
        bytes[at.unwrap()] = b'q';
        std::fs::write(&file, bytes).unwrap();
        assert_eq!(LlamaConfig::load(&file).unwrap(), config);
    }
}

#[test]
fn each_type_is_as_near_as_its_bits_allow() {
    let folder = tempfile::tempdir().unwrap();
    let config = LlamaConfig {
        hidden_size: 256,
        intermediate_size: 512,
        head_dim: 64,
        ..test_model::config()
    };
    let there = model(&folder.path().join("model"), config);
    let before = opened(&there.path);
    let mut last = u64::MAX;
    for (name, bound) in [
        ("f32", 0.0),
        ("f16", 1e-3),
        ("bf16", 4e-3),
        ("q8_0", 1e-2),
        ("q4_k_m", 0.15),
    ] {
        let (_, kind) = GgufType::NAMES
            .into_iter()
            .find(|(other, _)| *other == name)
            .unwrap();
        let file = folder.path().join(format!("{name}.gguf"));
        to_gguf(&there, &file, kind, &mut |_| {}).unwrap();
        let apart = difference(&before, &opened(&file));
        assert!(apart <= bound, "{name}: {apart}");
        let size = file.metadata().unwrap().len();
        // The name of the file stands in it, and fills a few bytes more or less.
        assert!(size <= last.saturating_add(64), "{name}: {size} bytes");
        last = size;
    }
}

#[test]
fn q4_k_m_gives_more_bits_where_llama_cpp_does() {
    let config = LlamaConfig {
        num_hidden_layers: 32,
        tie_word_embeddings: false,
        ..test_model::config()
    };
    let heavy: Vec<usize> = (0..32)
        .filter(|layer| {
            more_bits(
                &format!("model.layers.{layer}.mlp.down_proj.weight"),
                &config,
            )
        })
        .collect();
    // As in a published LLaMA 7B of this type.
    assert_eq!(
        heavy,
        [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    );
    let kind = |name: &str, shape: [usize; 2]| GgufType::Q4KM.of_tensor(name, &shape, &config);
    assert_eq!(kind("lm_head.weight", [1, 4096]), GgmlDType::Q6K);
    assert_eq!(kind("model.embed_tokens.weight", [1, 4096]), GgmlDType::Q4K);
    // Rows of 576 and of 100 are no multiples of 256, nor the latter of 32.
    let query = "model.layers.0.self_attn.q_proj.weight";
    assert_eq!(kind(query, [1, 576]), GgmlDType::Q5_0);
    assert_eq!(kind("lm_head.weight", [1, 576]), GgmlDType::Q8_0);
    assert_eq!(kind(query, [1, 100]), GgmlDType::F16);
    let norm = GgufType::Q4KM.of_tensor("model.norm.weight", &[4096], &config);
    assert_eq!(norm, GgmlDType::F32);
}

#[test]
fn a_file_that_cannot_be_written_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let there = model(&folder.path().join("model"), test_model::config());
    let nowhere = folder.path().join("no/such/folder.gguf");
    let error = to_gguf(&there, &nowhere, GgufType::F16, &mut |_| {}).unwrap_err();
    assert!(error.to_string().starts_with("cannot write "), "{error}");
    // Weights cut short after they were looked at.
    let weights = folder.path().join("model/model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() - 1]).unwrap();
    let file = folder.path().join("cut.gguf");
    assert!(to_gguf(&there, &file, GgufType::F16, &mut |_| {}).is_err());
    let out = folder.path().join("cut");
    assert!(to_folder(&there, &out, DType::F16).is_err());
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1);
}

#[test]
fn a_folder_is_replaced_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let there = model(&folder.path().join("model"), test_model::config());
    let other = LlamaConfig {
        num_hidden_layers: 1,
        ..test_model::config()
    };
    let out = folder.path().join("out");
    model(&out, other.clone());
    std::fs::write(out.join("README.md"), "mine").unwrap();
    // What a model in shards, with a template in a file of its own, leaves.
    std::fs::write(out.join("model.safetensors.index.json"), "{}").unwrap();
    std::fs::write(out.join("chat_template.jinja"), "old").unwrap();
    to_folder(&there, &out, DType::F32).unwrap();
    assert_eq!(difference(&opened(&there.path), &opened(&out)), 0.0);
    assert_eq!(opened(&out).config, opened(&there.path).config);
    assert!(!out.join("model.safetensors.index.json").exists());
    assert!(!out.join("chat_template.jinja").exists());
    assert_eq!(
        std::fs::read_to_string(out.join("README.md")).unwrap(),
        "mine"
    );
    // A place where no folder can come to stand.
    let taken = folder.path().join("taken");
    std::fs::write(&taken, "a file").unwrap();
    let error = to_folder(&there, &taken, DType::F32).unwrap_err();
    let told = error.to_string();
    assert!(
        told.ends_with(
            "; nothing of it was kept, and nothing was overwritten. Make room there, or name another place"
        ),
        "{told}"
    );
    assert_eq!(std::fs::read_to_string(&taken).unwrap(), "a file");
    let mut left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["model", "out", "taken"]);
}

fn tokenizer(json: &Json) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
    write("tokenizer.json", json.to_string());
    write(
        "tokenizer_config.json",
        json!({"bos_token": "<s>", "unk_token": "<unk>"}).to_string(),
    );
    Tokenizer::from_hf(folder.path()).unwrap()
}

/// Asserts that a tokenizer cuts texts alike after it has been in a GGUF file.
fn cuts_alike(config: LlamaConfig, before: Tokenizer, texts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let there = model_with(&folder.path().join("model"), config, before);
    let file = folder.path().join("model.gguf");
    to_gguf(&there, &file, GgufType::F16, &mut |_| {}).unwrap();
    let (before, after) = (opened(&there.path).tokenizer, opened(&file).tokenizer);
    for text in texts {
        for special in [true, false] {
            let ids = after.encode(text, special).unwrap();
            assert_eq!(ids, before.encode(text, special).unwrap(), "{text:?}");
            assert_eq!(
                after.decode(&ids, true).unwrap(),
                before.decode(&ids, true).unwrap()
            );
        }
    }
}

#[test]
fn byte_level_tokenizers_cut_texts_alike_in_gguf() {
    let level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let llama3 = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": LLAMA3_PATTERN}, "behavior": "Isolated", "invert": false},
        level(false),
    ]});
    let texts = [
        "hello world",
        "in 12345 wells, I'LL \n\n  go",
        "ĝis <|im_end|> é",
    ];
    for (pre_tokenizer, ignore_merges) in [(level(true), false), (llama3, true)] {
        let mut json = test_model::tokenizer_json();
        json["pre_tokenizer"] = pre_tokenizer;
        json["model"]["ignore_merges"] = ignore_merges.into();
        cuts_alike(test_model::config(), tokenizer(&json), &texts);
    }
    // One that splits in a way of its own.
    let mut json = test_model::tokenizer_json();
    json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated", "invert": false},
        level(false),
    ]});
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("model");
    let there = model_with(&place, test_model::config(), tokenizer(&json));
    let file = folder.path().join("model.gguf");
    let error = to_gguf(&there, &file, GgufType::F16, &mut |_| {}).unwrap_err();
    let told = "it splits texts by Split, ByteLevel, a way that has no name here";
    assert!(error.to_string().contains(told), "{error}");
    assert!(!file.exists());
}

#[test]
fn a_sentence_piece_tokenizer_cuts_texts_alike_in_gguf() {
    let pieces = [
        "\u{2581}",
        "h",
        "e",
        "l",
        "o",
        "\u{2581}h",
        "lo",
        "he",
        "ello",
        "el",
        "\u{2581}hello",
        "\u{2581}he",
        "llo",
    ];
    let special = ["<unk>", "<s>", "</s>"];
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let names = special.map(str::to_owned).into_iter().chain(bytes);
    let vocabulary: Map<String, Json> = names
        .chain(pieces.map(str::to_owned))
        .zip(0..)
        .map(|(token, id)| (token, json!(id)))
        .collect();
    let added: Vec<Json> = special
        .iter()
        .zip(0..)
        .map(|(token, id)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    // In the order of what they make.
    let merges = [
        ("\u{2581}", "h"),
        ("l", "o"),
        ("h", "e"),
        ("e", "llo"),
        ("el", "lo"),
        ("e", "l"),
        ("\u{2581}h", "ello"),
        ("\u{2581}he", "llo"),
        ("\u{2581}", "he"),
        ("\u{2581}h", "e"),
        ("l", "lo"),
    ];
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"},
        ]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>",
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": true, "ignore_merges": false, "vocab": vocabulary,
            "merges": merges.map(|(left, right)| json!([left, right]))},
    });
    let config = LlamaConfig {
        bos_token_id: Some(1),
        eos_token_ids: vec![2],
        pad_token_id: None,
        ..test_model::config()
    };
    let texts = ["hello", "hel", "helo", "hé", "hello é hello", "lo lo 12"];
    cuts_alike(config, tokenizer(&json), &texts);
}
