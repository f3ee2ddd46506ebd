//! The models whose training is checked: shapes alone, of random weights.

use pacos_engine::llama::{LlamaConfig, RopeScaling};

/// Names of all shapes.
pub const NAMES: [&str; 4] = ["tiny", "135m", "1b", "7b"];

/// Tokens of the longest row.
pub const LONGEST: usize = 512;

/// A shape by its name: made up, SmolLM2-135M's, TinyLlama's, LLaMA 7B's.
pub fn named(name: &str) -> Option<LlamaConfig> {
    let (hidden, inner, layers, heads, kv_heads, vocabulary, tied) = match name {
        "tiny" => (128, 352, 2, 4, 2, 512, true),
        "135m" => (576, 1536, 30, 9, 3, 49152, true),
        "1b" => (2048, 5632, 22, 32, 4, 32000, false),
        "7b" => (4096, 11008, 32, 32, 32, 32000, false),
        _ => return None,
    };
    Some(LlamaConfig {
        vocab_size: vocabulary,
        hidden_size: hidden,
        intermediate_size: inner,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: kv_heads,
        head_dim: hidden / heads,
        max_position_embeddings: 2048,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        tie_word_embeddings: tied,
        bos_token_id: Some(1),
        eos_token_ids: vec![2],
        pad_token_id: None,
    })
}

/// Parameters that every token is multiplied by: those of the layers' matrices and of the head, not the
/// embedding.
pub fn matrix_parameters(config: &LlamaConfig) -> f64 {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let queries = config.num_attention_heads * config.head_dim;
    let keys = config.num_key_value_heads * config.head_dim;
    let layer = 2 * hidden * queries + 2 * hidden * keys + 3 * hidden * inner;
    (config.num_hidden_layers * layer + hidden * config.vocab_size) as f64
}
