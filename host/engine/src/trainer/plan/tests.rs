use super::*;
use crate::llama::RopeScaling;
use crate::trainer::lora::LoraConfig;

fn llama_7b() -> LlamaConfig {
    LlamaConfig {
        vocab_size: 32_000,
        hidden_size: 4096,
        intermediate_size: 11_008,
        num_hidden_layers: 32,
        num_attention_heads: 32,
        num_key_value_heads: 32,
        head_dim: 128,
        max_position_embeddings: 2048,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        tie_word_embeddings: false,
        bos_token_id: Some(1),
        eos_token_ids: vec![2],
        pad_token_id: None,
    }
}

#[test]
fn the_published_recipe_needs_more_than_a_hundred_gigabytes() {
    let lengths = TokenLengths::Estimated {
        examples: 52_002,
        mean_tokens: 128.0,
    };
    let small = Some(24);
    let config = TrainConfig::default();
    let plan = plan(&llama_7b(), &config, lengths, cpu(small), Some(1000.0));
    assert_eq!(plan.parameters, 6_738_415_616);
    assert_eq!((plan.total_steps, plan.warmup_steps), (1221, 37));
    let smallest = Split {
        micro_batch_tokens: 512,
        recompute: Recompute::Layers,
        moments: NumberFormat::Bf16,
    };
    assert_eq!(plan.split, smallest);
    assert_eq!(plan.tokens, 3 * 52_002 * 128);
    let error = plan.fits(24_000_000_000).unwrap_err().to_string();
    assert_eq!(
        error,
        "training this student needs 81.5 GB of memory, 24.0 GB are available; 80.9 GB of that is weights, \
         gradients and optimizer state of 6,738,415,616 parameters. Train adapters instead ([trainer.lora]), or choose \
         a smaller student or a machine with more memory"
    );
    plan.fits(82_000_000_000).unwrap();
    // The four buffers of 4 bytes a parameter: Stanford's README counts 112 GB for 7 billion.
    let exact = super::plan(&llama_7b(), &config, lengths, cpu(Some(256)), None);
    assert_eq!(exact.state_bytes, 16 * exact.parameters);
}

#[test]
fn partial_epochs_are_counted_and_shared_prompts_once() {
    let config = TrainConfig {
        batch_size: 4,
        max_steps: Some(5),
        ..TrainConfig::default()
    };
    let row = |example, length, first: &[u32]| Row {
        example,
        form: 0,
        input_ids: first
            .iter()
            .copied()
            .chain(first.len() as u32..length)
            .collect(),
        label_mask: (0..length).map(|i| i >= 30).collect(),
    };
    let lengths = [100, 512, 100, 100, 100, 100, 100, 100, 100, 100];
    let apart: Vec<Row> = (0u32..)
        .zip(lengths)
        .map(|(i, length)| row(i as usize, length, &[1000 + i]))
        .collect();
    let planned = plan(
        &llama_7b(),
        &config,
        TokenLengths::Rows(&apart),
        cpu(None),
        None,
    );
    assert_eq!((planned.steps_per_epoch, planned.total_steps), (3, 5));
    // One epoch of 10 examples and two steps of 4, at a mean of 141.2 tokens.
    assert_eq!(planned.tokens, (18.0f64 * 141.2).round() as u64);
    // The last label of each row is predicted, not read.
    assert_eq!(
        planned.computed_tokens,
        Some((18.0f64 * 140.2).round() as u64)
    );

    let alike: Vec<Row> = (0u32..)
        .zip([100; 10])
        .map(|(i, length)| {
            let first: Vec<u32> = (0..20).chain([1000 + i]).collect();
            row(i as usize, length, &first)
        })
        .collect();
    let planned = plan(
        &llama_7b(),
        &config,
        TokenLengths::Rows(&alike),
        cpu(None),
        None,
    );
    assert_eq!(planned.tokens, 18 * 100);
    // Steps of 4, 4 and 2 rows, of which each is one micro-batch: 10 · 79 and 3 · 20 tokens.
    assert_eq!(planned.computed_tokens, Some(18 * 85));
    assert!(
        planned
            .to_string()
            .contains("of these computed                         1,530")
    );
}

#[test]
fn the_table_is_for_a_person() {
    let mut model = llama_7b();
    model.num_hidden_layers = 1;
    let lengths = TokenLengths::Estimated {
        examples: 1000,
        mean_tokens: 130.0,
    };
    let config = TrainConfig {
        batch_size: 8,
        micro_batch_tokens: MicroBatchTokens::Tokens(512),
        ..TrainConfig::default()
    };
    let text = plan(&model, &config, lengths, cpu(None), Some(100.0)).to_string();
    assert_eq!(text, TABLE.trim_matches('\n'));
}

fn room(kind: DeviceKind, gigabytes: Option<u64>) -> Room {
    Room {
        kind,
        available_bytes: gigabytes.map(|gigabytes| gigabytes * 1_000_000_000),
        ranks: 1,
    }
}

fn cpu(gigabytes: Option<u64>) -> Room {
    room(DeviceKind::Cpu, gigabytes)
}

#[test]
fn the_quickest_split_that_fits_is_chosen() {
    let model = llama_7b();
    let config = TrainConfig::default();
    let choice = |gigabytes: u64| {
        let split = Split::choose(&model, &config, 512, cpu(Some(gigabytes)));
        (split.micro_batch_tokens, split.recompute)
    };
    // 107.8 GB of state; the planner fills four fifths.
    assert_eq!(choice(200), (2048, Recompute::Nothing));
    assert_eq!(choice(155), (2048, Recompute::Elementwise));
    assert_eq!(choice(148), (1024, Recompute::Nothing));
    assert_eq!(choice(144), (1024, Recompute::Elementwise));
    assert_eq!(choice(142), (512, Recompute::Nothing));
    assert_eq!(choice(140), (512, Recompute::Elementwise));
    assert_eq!(choice(138), (2048, Recompute::Layers));
    // Moments are rounded where nothing else fits, and then as little as can be is computed again.
    let moments = |gigabytes| Split::choose(&model, &config, 512, cpu(Some(gigabytes))).moments;
    assert_eq!(
        (moments(136), moments(135)),
        (NumberFormat::F32, NumberFormat::Bf16)
    );
    assert_eq!(choice(135), (2048, Recompute::Nothing));
    assert_eq!(choice(100), (512, Recompute::Layers));
    // A step of 128 short rows is no more than 1,280 tokens.
    assert_eq!(
        Split::choose(&model, &config, 10, cpu(None)).micro_batch_tokens,
        1280
    );
    let given = TrainConfig {
        micro_batch_tokens: MicroBatchTokens::Tokens(4096),
        recompute: RecomputeSetting::None,
        ..TrainConfig::default()
    };
    let split = Split::choose(&model, &given, 512, cpu(Some(0)));
    assert_eq!(
        (split.micro_batch_tokens, split.recompute),
        (4096, Recompute::Nothing)
    );
}

#[test]
fn what_was_set_by_hand_is_blamed_where_it_is_to_blame() {
    let lengths = TokenLengths::Estimated {
        examples: 1000,
        mean_tokens: 128.0,
    };
    let refused = |micro_batch_tokens, gigabytes| {
        let config = TrainConfig {
            micro_batch_tokens: MicroBatchTokens::Tokens(micro_batch_tokens),
            recompute: RecomputeSetting::None,
            ..TrainConfig::default()
        };
        let plan = plan(&llama_7b(), &config, lengths, cpu(Some(gigabytes)), None);
        plan.fits(gigabytes * 1_000_000_000)
            .unwrap_err()
            .to_string()
    };
    let text = refused(100_000, 140);
    assert!(
        text.ends_with("Leave micro_batch_tokens, recompute out of [trainer]: the planner's choice takes 111.1 GB"),
        "{text}"
    );
    let text = refused(512, 60);
    assert!(text.contains("Train adapters instead"), "{text}");
}

#[test]
fn what_fits_a_card_is_chosen_for_it() {
    let lengths = TokenLengths::Estimated {
        examples: 52_002,
        mean_tokens: 128.0,
    };
    let on_cards = |config: &TrainConfig| {
        [80, 48, 24].map(|gigabytes| {
            let card = Room::card(gigabytes);
            let plan = plan(&llama_7b(), config, lengths, card, None);
            let Split {
                micro_batch_tokens,
                recompute,
                moments,
            } = plan.split;
            let fits = plan.fits(card.available_bytes.unwrap());
            let tenths = plan.memory_bytes / 100_000_000;
            fits.is_ok()
                .then_some((micro_batch_tokens, recompute, moments, tenths))
        })
    };
    // Ten bytes a parameter, and less than 78 GiB (83.7 GB) in all.
    let full = TrainConfig::default();
    let elementwise = Recompute::Elementwise;
    let on_80 = Some((4096, elementwise, NumberFormat::Bf16, 808));
    assert_eq!(on_cards(&full), [on_80, None, None]);
    let lora = TrainConfig {
        lora: Some(LoraConfig::default()),
        ..TrainConfig::default()
    };
    assert_eq!(
        on_cards(&lora),
        [
            Some((16384, elementwise, NumberFormat::F32, 667)),
            Some((8192, elementwise, NumberFormat::F32, 402)),
            Some((3072, elementwise, NumberFormat::F32, 237)),
        ]
    );
    // In f32 throughout, as a reference, it is as large as on the processor.
    let exact = TrainConfig {
        dtype: DtypeSetting::F32,
        ..full
    };
    assert_eq!(on_cards(&exact), [None; 3]);
}

#[test]
fn adapters_need_the_weights_and_little_more() {
    let config = TrainConfig {
        lora: Some(LoraConfig::default()),
        ..TrainConfig::default()
    };
    let lengths = TokenLengths::Estimated {
        examples: 52_002,
        mean_tokens: 128.0,
    };
    let plan = plan(&llama_7b(), &config, lengths, cpu(Some(40)), None);
    // alpaca-lora with r = 8 on q_proj and v_proj trains as many.
    assert_eq!(plan.trained_parameters, 4_194_304);
    assert_eq!(plan.checkpoint_bytes, 2 * 12 * 4_194_304);
    plan.fits(40_000_000_000).unwrap();
    let told = plan.to_string();
    assert!(
        told.contains("of these trained                      4,194,304"),
        "{told}"
    );
    let error = plan.fits(20_000_000_000).unwrap_err().to_string();
    assert!(error.ends_with("parameters. Choose a smaller student, or a machine with more memory"));
}

#[test]
fn ranks_share_the_moments_and_nothing_else() {
    let model = llama_7b();
    let config = TrainConfig::default();
    let lengths = TokenLengths::Estimated {
        examples: 52_002,
        mean_tokens: 128.0,
    };
    let with = |ranks| {
        let room = Room {
            ranks,
            ..room(DeviceKind::Cuda, Some(80))
        };
        plan(&model, &config, lengths, room, None)
    };
    let (one, eight) = (with(1), with(8));
    let bytes = |plan: &Plan, purpose: &str| {
        let items = plan
            .memory
            .iter()
            .filter(|item| item.purpose.contains(purpose));
        items.map(|item| item.bytes).sum::<u64>()
    };
    for shared in ["weights", "gradients"] {
        assert_eq!(bytes(&eight, shared), bytes(&one, shared));
    }
    // 4 bytes a number: one card has to round them to 2.
    assert_eq!(eight.split.moments, NumberFormat::F32);
    assert_eq!(bytes(&eight, "moment"), 2 * 4 * 6_738_415_616 / 8);
    assert_eq!(one.split.moments, NumberFormat::Bf16);
    assert_eq!(bytes(&one, "moment"), 2 * 2 * 6_738_415_616);
    // A checkpoint holds the moments of all ranks, as they keep them.
    let parameters = one.parameters;
    assert_eq!(one.checkpoint_bytes, 2 * 8 * parameters);
    assert_eq!(eight.checkpoint_bytes, 2 * 12 * parameters);
    let told = eight.to_string();
    assert!(
        told.contains("ranks that share a step                       8"),
        "{told}"
    );
    assert!(told.contains("buffers of NCCL"), "{told}");
    let told = one.to_string();
    assert!(!told.contains("ranks") && !told.contains("NCCL"), "{told}");
}

const TABLE: &str = "
training
  examples                                  1,000
  examples in a step                            8
  steps in an epoch                           125
  steps                                       375
  steps of warm-up                             12
  tokens                            about 390,000
  parameters                          464,531,456
  tokens of a micro-batch                     512
  computed again                          nothing
  time, about                           1 h 5 min
  disk for checkpoints                    11.1 GB
memory
  weights                                  1.9 GB
  gradients                                1.9 GB
  AdamW first moment                       1.9 GB
  AdamW second moment                      1.9 GB
  activations kept for backward          143.2 MB
  buffers shared by the layers           151.6 MB
  logits and label rows                   66.3 MB
  in all                                   7.8 GB
  in all, norms, SwiGLU again              7.8 GB
  in all, whole layers again               7.8 GB
";
