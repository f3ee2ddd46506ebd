use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};

use super::*;
use crate::llama::test_model;

fn same(a: &Weights, b: &Weights, tolerance: f32) -> bool {
    let names = |w: &Weights| w.tensors.keys().cloned().collect::<Vec<_>>();
    names(a) == names(b)
        && a.tensors.iter().all(|(name, tensor)| {
            let difference = (tensor - b.get(name)).unwrap().abs().unwrap();
            let worst = difference.flatten_all().unwrap().max(0).unwrap();
            worst.to_scalar::<f32>().unwrap() <= tolerance
        })
}

fn message(path: &Path, config: &LlamaConfig) -> String {
    Weights::load(path, config)
        .unwrap_err()
        .to_string()
        .replace(&path.display().to_string(), "MODEL")
}

#[test]
fn a_saved_folder_reads_back_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let config = LlamaConfig {
        tie_word_embeddings: false,
        ..test_model::config()
    };
    let weights = Weights::random(&config, 1);
    for (dtype, tolerance) in [(DType::F32, 0.0), (DType::F16, 1e-4), (DType::BF16, 5e-4)] {
        weights.save_hf(folder.path(), &config, dtype).unwrap();
        assert_eq!(LlamaConfig::load(folder.path()).unwrap(), config);
        let again = Weights::load(folder.path(), &config).unwrap();
        assert!(same(&weights, &again, tolerance), "{dtype:?}");
    }
}

#[test]
fn the_safetensors_crate_reads_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let config = test_model::config();
    let weights = Weights::random(&config, 1);
    weights.save_hf(folder.path(), &config, DType::F32).unwrap();
    let path = folder.path().join("model.safetensors");
    let theirs = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let theirs = Weights {
        tensors: theirs.into_iter().collect(),
    };
    assert!(same(&weights, &theirs, 0.0));
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 2, "only the model and its configuration remain");
}

#[test]
fn shards_read_back_the_same_and_replace_a_single_file() {
    let folder = tempfile::tempdir().unwrap();
    let config = test_model::config();
    let weights = Weights::random(&config, 2);
    weights.save_hf(folder.path(), &config, DType::F32).unwrap();
    weights
        .save_hf_in_shards(folder.path(), &config, DType::F32, 40_000)
        .unwrap();
    let files = weight_files(folder.path()).unwrap();
    assert!(files.len() > 2);
    assert!(!folder.path().join("model.safetensors").exists());
    assert!(same(
        &weights,
        &Weights::load(folder.path(), &config).unwrap(),
        0.0
    ));
    std::fs::remove_file(&files[1]).unwrap();
    let name = files[1].file_name().unwrap().to_string_lossy();
    assert_eq!(
        message(folder.path(), &config),
        format!(
            "MODEL lacks 1 of the files that model.safetensors.index.json names: {name}; fetch the folder again"
        )
    );
}

#[test]
fn every_wrong_tensor_is_named_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let config = test_model::config();
    Weights::random(&config, 1)
        .save_hf(folder.path(), &config, DType::F32)
        .unwrap();
    let other = LlamaConfig {
        num_hidden_layers: 1,
        tie_word_embeddings: false,
        vocab_size: 300,
        ..config
    };
    let text = message(folder.path(), &other);
    assert_eq!(
        text,
        "MODEL does not hold the weights that its configuration describes:
  - missing: lm_head.weight
  - unexpected: model.layers.1.input_layernorm.weight, model.layers.1.mlp.down_proj.weight, model.layers.1.mlp.gate_proj.weight, model.layers.1.mlp.up_proj.weight, model.layers.1.post_attention_layernorm.weight, model.layers.1.self_attn.k_proj.weight, model.layers.1.self_attn.o_proj.weight, model.layers.1.self_attn.q_proj.weight, model.layers.1.self_attn.v_proj.weight
  - of the wrong shape: model.embed_tokens.weight (expected [300, 48], found [272, 48])
configuration and weights are not of one model, or the files were cut or changed: fetch or convert the model again"
    );
}

#[test]
fn damaged_files_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let config = test_model::config();
    assert_eq!(
        message(folder.path(), &config),
        "MODEL holds neither model.safetensors nor model.safetensors.index.json; expected a Hugging Face model folder"
    );
    std::fs::write(folder.path().join("pytorch_model.bin"), b"x").unwrap();
    assert!(message(folder.path(), &config).contains("save it again with transformers"));

    Weights::random(&config, 1)
        .save_hf(folder.path(), &config, DType::F32)
        .unwrap();
    let path = folder.path().join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let cut = whole.len() - 100;
    std::fs::write(&path, &whole[..cut]).unwrap();
    assert_eq!(
        message(folder.path(), &config),
        format!(
            "MODEL/model.safetensors is cut short or overlong: its header promises {} bytes, the file has {cut}; fetch it again",
            whole.len()
        )
    );
    for (bytes, part) in [
        (&whole[..4], "cut short"),
        (&whole[..50], "cut short"),
        (b"<!DOCTYPE html><html>".as_slice(), "another kind of file"),
        (
            b"\x02\0\0\0\0\0\0\0[]".as_slice(),
            "its header does not parse",
        ),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let text = message(folder.path(), &config);
        assert!(text.contains(part), "{text}");
    }

    let gguf = folder.path().join("model.gguf");
    std::fs::write(&gguf, b"PK\x03\x04 a zip archive").unwrap();
    assert_eq!(
        message(&gguf, &config),
        "MODEL is not a GGUF file: it begins with \"PK\\x03\\x04\", expected \"GGUF\""
    );
    std::fs::write(&gguf, b"").unwrap();
    assert!(message(&gguf, &config).contains("the file is empty"));
    std::fs::write(&gguf, b"GGUF\x03\0\0\0\x01\0").unwrap();
    assert!(message(&gguf, &config).contains("is a damaged GGUF file"));
}

/// Writes a model as GGUF through candle's writer, in llama.cpp's names and layout.
fn write_gguf(path: &Path, config: &LlamaConfig, weights: &Weights) {
    let number = |n: usize| Value::U32(n as u32);
    let metadata = [
        ("general.architecture", Value::String("llama".to_owned())),
        ("llama.block_count", number(config.num_hidden_layers)),
        (
            "llama.context_length",
            number(config.max_position_embeddings),
        ),
        ("llama.embedding_length", number(config.hidden_size)),
        (
            "llama.feed_forward_length",
            number(config.intermediate_size),
        ),
        (
            "llama.attention.head_count",
            number(config.num_attention_heads),
        ),
        (
            "llama.attention.head_count_kv",
            number(config.num_key_value_heads),
        ),
        ("llama.rope.dimension_count", number(config.head_dim)),
        ("llama.rope.freq_base", Value::F32(config.rope_theta as f32)),
        (
            "llama.attention.layer_norm_rms_epsilon",
            Value::F32(config.rms_norm_eps as f32),
        ),
        ("tokenizer.ggml.bos_token_id", number(1)),
        ("tokenizer.ggml.eos_token_id", number(2)),
        ("tokenizer.ggml.padding_token_id", number(0)),
    ];
    let gguf_name = |name: &str| {
        let swapped = name
            .replace("model.embed_tokens", "token_embd")
            .replace("model.norm", "output_norm")
            .replace("lm_head", "output")
            .replace("model.layers", "blk")
            .replace("input_layernorm", "attn_norm")
            .replace("post_attention_layernorm", "ffn_norm")
            .replace("self_attn.o_proj", "attn_output")
            .replace("self_attn.", "attn_")
            .replace("mlp.", "ffn_");
        swapped.replace("_proj", "")
    };
    let tensors: Vec<(String, QTensor)> = weights
        .tensors
        .iter()
        .map(|(name, tensor)| {
            let tensor = gguf::to_gguf_layout(name, tensor.clone(), config).unwrap();
            let quantised = QTensor::quantize(&tensor, GgmlDType::F32).unwrap();
            (gguf_name(name), quantised)
        })
        .collect();
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(k, v)| (*k, v)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let mut file = std::fs::File::create(path).unwrap();
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
}

#[test]
fn a_gguf_file_gives_the_same_model_as_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for tie_word_embeddings in [true, false] {
        let config = LlamaConfig {
            tie_word_embeddings,
            ..test_model::config()
        };
        let weights = Weights::random(&config, 4);
        write_gguf(&path, &config, &weights);
        assert_eq!(LlamaConfig::load(&path).unwrap(), config);
        let again = Weights::load(&path, &config).unwrap();
        assert!(same(&weights, &again, 0.0));
    }
}

#[test]
fn llama_cpps_order_of_query_rows_pairs_neighbours() {
    // One head of width 4: Hugging Face turns rows (0, 2) and (1, 3) together, llama.cpp (0, 1) and (2, 3).
    let config = LlamaConfig {
        num_attention_heads: 1,
        num_key_value_heads: 1,
        head_dim: 4,
        ..test_model::config()
    };
    let rows = Tensor::new(&[[0f32], [1.0], [2.0], [3.0]], &Device::Cpu).unwrap();
    let name = "model.layers.0.self_attn.q_proj.weight";
    let stored = gguf::to_gguf_layout(name, rows.clone(), &config).unwrap();
    let order = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(order(&stored), [0.0, 2.0, 1.0, 3.0]);
    let back = gguf::to_hugging_face_layout(name, stored, &config).unwrap();
    assert_eq!(order(&back), order(&rows));
}

#[test]
fn random_weights_depend_on_the_seed_and_have_the_spread_asked_for() {
    let config = test_model::config();
    let (a, b) = (Weights::random(&config, 1), Weights::random(&config, 1));
    assert!(same(&a, &b, 0.0));
    assert!(!same(&a, &Weights::random(&config, 2), 0.0));
    let values: Vec<f32> = a
        .get("model.embed_tokens.weight")
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap();
    let square: f32 = values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32;
    assert!((square.sqrt() - 0.02).abs() < 0.001);
}
