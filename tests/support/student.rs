//! A student so small that a whole recipe is trained and evaluated in seconds.

use std::path::Path;

use candle_core::DType;
use pacos::llama::{LlamaConfig, RopeScaling, Weights};
use serde_json::{Map, Value, json};

/// Writes a LLaMA of one layer with random weights and a tokenizer of bytes, as a Hugging Face folder.
pub fn write(folder: &Path) {
    std::fs::create_dir_all(folder).expect("the folder is writable");
    let special = ["<s>", "</s>"];
    let mut vocab = Map::new();
    // The letters from U+0100 on stand for the bytes that print as nothing.
    let unprintable = (0x100..0x144).filter_map(char::from_u32);
    let letters = BYTES.chars().chain(unprintable).map(String::from);
    for token in special.map(String::from).into_iter().chain(letters) {
        let id = vocab.len();
        vocab.insert(token, json!(id));
    }
    let config = LlamaConfig {
        vocab_size: vocab.len(),
        hidden_size: 16,
        intermediate_size: 32,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 8,
        max_position_embeddings: 4096,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        tie_word_embeddings: true,
        bos_token_id: Some(0),
        eos_token_ids: vec![1],
        pad_token_id: None,
    };
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(id, token)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false,
        "trim_offsets": true, "use_regex": true});
    let tokenizer = json!({"version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added, "normalizer": null, "pre_tokenizer": byte_level,
        "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": []}});
    let about = json!({"tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": special[0], "eos_token": special[1],
        "chat_template": "{% for message in messages %}{{ message['content'] + '\n' }}{% endfor %}"});
    for (name, value) in [
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", about),
    ] {
        std::fs::write(folder.join(name), value.to_string()).expect("the folder is writable");
    }
    Weights::random(&config, 3)
        .save_hf(folder, &config, DType::F32)
        .expect("the folder is writable");
}

/// The bytes that stand for themselves in byte-level vocabularies.
const BYTES: &str = "!\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~¡¢£¤¥¦§¨©ª«¬®¯°±²³´µ¶·¸¹º»¼½¾¿ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖ×ØÙÚÛÜÝÞßàáâãäåæçèéêëìíîïðñòóôõö÷øùúûüýþÿ";
