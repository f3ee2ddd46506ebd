use super::*;

fn parse(text: &str) -> Result<LlamaConfig, String> {
    LlamaConfig::from_json(text, Path::new("model/config.json")).map_err(|e| e.to_string())
}

fn with(changes: Value) -> String {
    let mut value = json!({
        "model_type": "llama", "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "rms_norm_eps": 1e-5,
    });
    for (key, change) in changes.as_object().unwrap() {
        value[key] = change.clone();
    }
    value.to_string()
}

#[test]
fn a_minimal_file_gets_the_defaults_of_transformers() {
    let config = parse(&with(json!({"eos_token_id": [2, 7], "pad_token_id": -1}))).unwrap();
    assert_eq!(config.num_key_value_heads, 4);
    assert_eq!(config.head_dim, 16);
    assert_eq!(config.max_position_embeddings, 2048);
    assert_eq!(config.rope_theta, 10_000.0);
    assert_eq!(config.rope_scaling, RopeScaling::None);
    assert!(!config.tie_word_embeddings);
    assert_eq!(config.eos_token_ids, [2, 7]);
    assert_eq!(config.pad_token_id, None);
}

#[test]
fn every_problem_is_named_at_once() {
    let error = parse(
        r#"{"model_type": "qwen2", "vocab_size": 0, "hidden_size": 64, "intermediate_size": "big",
                "num_hidden_layers": 2, "num_attention_heads": 4, "attention_bias": true,
                "hidden_act": "gelu", "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}"#,
    )
    .unwrap_err();
    assert_eq!(
        error,
        "model/config.json does not describe a model that can be used:
  - model_type is \"qwen2\", expected \"llama\"
  - attention_bias is true, expected false: projections with a bias are not supported
  - hidden_act is \"gelu\", expected \"silu\"
  - rope_scaling.rope_type is \"yarn\", expected \"default\", \"linear\" or \"llama3\"
  - vocab_size is 0, expected a positive integer
  - intermediate_size is \"big\", expected a positive integer"
    );
}

#[test]
fn contradictions_between_values_are_named() {
    let changes = json!({"num_key_value_heads": 3, "head_dim": 15, "bos_token_id": 500});
    assert_eq!(
        parse(&with(changes)).unwrap_err(),
        "model/config.json does not describe a model that can be used:
  - num_key_value_heads is 3, which does not divide num_attention_heads 4
  - head_dim is 15, expected an even number of at most 4096
  - bos_token_id is 500, outside the vocabulary of 128 tokens"
    );
}

#[test]
fn files_that_are_no_configuration_are_told_apart() {
    assert!(
        parse("{\"a\": ")
            .unwrap_err()
            .starts_with("model/config.json is not a JSON object: EOF while parsing")
    );
    let missing = parse("{}").unwrap_err();
    assert!(missing.contains("\n  - model_type is missing, expected \"llama\""));
    assert!(missing.contains("\n  - hidden_size is missing, expected a positive integer"));
    let absent = LlamaConfig::load(Path::new("/nowhere/config.json")).unwrap_err();
    assert!(
        absent
            .to_string()
            .starts_with("cannot read /nowhere/config.json: No such file")
    );
}

#[test]
fn writing_and_reading_gives_the_same_configuration() {
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
    for rope_scaling in [
        json!(null),
        json!({"type": "linear", "factor": 2.0}),
        llama3,
    ] {
        let config = parse(&with(json!({
            "rope_scaling": rope_scaling, "rope_theta": 500000.0, "bos_token_id": 1,
            "eos_token_id": [2, 3], "num_key_value_heads": 2, "head_dim": 32,
            "tie_word_embeddings": true,
        })))
        .unwrap();
        let again = parse(&config.to_json("float32").to_string()).unwrap();
        assert_eq!(config, again);
    }
}

#[test]
fn the_spelling_of_transformers_5_is_read() {
    let config = parse(&with(json!({"rope_parameters": {
            "rope_theta": 500000.0, "rope_type": "linear", "factor": 4.0}})))
    .unwrap();
    assert_eq!(config.rope_theta, 500_000.0);
    assert_eq!(config.rope_scaling, RopeScaling::Linear { factor: 4.0 });
}

#[test]
fn parameters_are_counted_as_the_model_cards_count_them() {
    // LLaMA-7B: Touvron et al., arXiv 2302.13971, 6.7 billion; exactly 6,738,415,616.
    let seven = parse(&with(json!({"vocab_size": 32000, "hidden_size": 4096,
            "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32})))
    .unwrap();
    assert_eq!(seven.parameter_count(), 6_738_415_616);
    // SmolLM2-135M, with tied embeddings: 134,515,008.
    let small = crate::llama::source::EmbeddedModel::Smollm2.config();
    assert_eq!(small.parameter_count(), 134_515_008);
}

#[test]
fn generation_config_adds_end_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = parse(&with(json!({"eos_token_id": 2}))).unwrap();
    std::fs::write(
        folder.path().join("generation_config.json"),
        r#"{"eos_token_id": [2, 9, 4000]}"#,
    )
    .unwrap();
    config.add_generation_eos(folder.path()).unwrap();
    assert_eq!(config.eos_token_ids, [2, 9]);
}
