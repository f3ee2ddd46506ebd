//! A tiny model for tests: random weights and a byte-level tokenizer, made in memory.

use serde_json::{Map, Value, json};

use super::config::{LlamaConfig, RopeScaling};
use super::source::Model;
use super::tokenizer::Tokenizer;
use super::weights::Weights;

/// Stands between texts. These three are the ids of the special tokens of [`tokenizer`].
pub const END_OF_TEXT: u32 = 0;
/// Begins a message.
pub const MESSAGE_START: u32 = 1;
/// Ends a message.
pub const MESSAGE_END: u32 = 2;

/// Two layers, four query heads on two key/value heads.
pub fn config() -> LlamaConfig {
    LlamaConfig {
        vocab_size: 272,
        hidden_size: 48,
        intermediate_size: 80,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 12,
        max_position_embeddings: 256,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        tie_word_embeddings: true,
        bos_token_id: Some(MESSAGE_START),
        eos_token_ids: vec![MESSAGE_END],
        pad_token_id: Some(END_OF_TEXT),
    }
}

/// `tokenizer.json` of a byte-level BPE: three special tokens, the 256 bytes, a few merges.
pub fn tokenizer_json() -> Value {
    let special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
    let mut vocab = Map::new();
    for (id, token) in special.iter().enumerate() {
        vocab.insert((*token).to_owned(), json!(id));
    }
    for c in byte_letters() {
        vocab.insert(c.to_string(), json!(vocab.len()));
    }
    let merges = [
        ("h", "e"),
        ("l", "l"),
        ("he", "ll"),
        ("hell", "o"),
        ("Ġ", "w"),
        ("i", "n"),
    ];
    for (left, right) in merges {
        vocab.insert(format!("{left}{right}"), json!(vocab.len()));
    }
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(id, token)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true}, byte_level]},
        "post_processor": null,
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false, "ignore_merges": false, "vocab": vocab,
            "merges": merges.iter().map(|(l, r)| json!([l, r])).collect::<Vec<_>>()},
    })
}

/// The letters that stand for the bytes 0 to 255 in byte-level vocabularies.
pub fn byte_letters() -> Vec<char> {
    let mut next = 0x100;
    (0..=255u8)
        .map(|byte| {
            if matches!(byte, 33..=126 | 161..=172 | 174..=255) {
                char::from(byte)
            } else {
                next += 1;
                char::from_u32(next - 1).unwrap()
            }
        })
        .collect()
}

/// A ChatML template.
pub const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// The tokenizer, loaded as from a folder.
pub fn tokenizer() -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, value: Value| {
        std::fs::write(folder.path().join(name), value.to_string()).unwrap();
    };
    write("tokenizer.json", tokenizer_json());
    write(
        "tokenizer_config.json",
        json!({"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHAT_TEMPLATE,
            "bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}}),
    );
    Tokenizer::from_hf(folder.path()).unwrap()
}

/// Random weights at ten times the usual spread, so that logits differ enough to be told apart.
pub fn weights(config: &LlamaConfig, seed: u64) -> Weights {
    let mut weights = Weights::random(config, seed);
    for tensor in weights.tensors.values_mut() {
        if tensor.rank() == 2 {
            *tensor = (&*tensor * 10.0).unwrap();
        }
    }
    weights
}

/// A whole model.
pub fn model(seed: u64) -> Model {
    let config = config();
    Model {
        weights: weights(&config, seed),
        config,
        tokenizer: tokenizer(),
        identity: format!("random-{seed}"),
        origin: "test".to_owned(),
    }
}
