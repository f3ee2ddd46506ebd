use super::*;
use crate::llama::{ModelSource, open, source::Model, test_model};

fn model(folder: &Path, config: LlamaConfig) -> LocalModel {
    let model = Model {
        weights: test_model::weights(&config, 3),
        tokenizer: test_model::tokenizer(),
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
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1);
}
