//! The decoder against the trainer's forward pass: two implementations of one model.

use candle_core::{DType, Device};

use super::forward::{Decoder, Step};
use super::kernel::{Instructions, log_sum_exp};
use crate::llama::config::{LlamaConfig, RopeScaling};
use crate::llama::test_model;
use crate::trainer::config::TrainDtype;
use crate::trainer::engine::{Capacity, Engine, Recompute};
use crate::trainer::micro_batch::{MicroBatch, Segment};
use crate::trainer::operations::CpuOperations;
use crate::trainer::parameters::{NumberFormat, ParameterSet};
use crate::trainer::student::Student;

/// A sequence with these labels: positions, and the tokens that follow them.
fn labelled(tokens: &[u32], labels: &[(usize, u32)]) -> MicroBatch {
    MicroBatch {
        input_ids: tokens.to_vec(),
        positions: (0..tokens.len() as u32).collect(),
        segments: vec![Segment {
            tokens: 0..tokens.len(),
            prefix: 0..0,
            row: Some(0),
        }],
        label_positions: labels.iter().map(|(position, _)| *position).collect(),
        targets: labels.iter().map(|(_, token)| *token).collect(),
    }
}

/// The trainer gives losses, not logits: those of every token of the vocabulary are the logits, but
/// for one number that is added to all.
#[test]
fn the_decoder_and_the_trainer_find_every_token_equally_likely() {
    let tokens: Vec<u32> = (0..70).map(|i| (i * 37 + 11) % 272).collect();
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 32,
    };
    let mut last_rows: Vec<Vec<f64>> = Vec::new();
    for tied in [true, false] {
        for rope_scaling in [
            RopeScaling::None,
            RopeScaling::Linear { factor: 4.0 },
            llama3,
        ] {
            let config = LlamaConfig {
                tie_word_embeddings: tied,
                rope_scaling,
                ..test_model::config()
            };
            let capacity = Capacity {
                tokens: tokens.len(),
                recompute: Recompute::Nothing,
                lora_rank: 0,
                dropout_width: 0,
                label_rows: tokens.len(),
                activations: DType::F32,
            };
            let operations = Box::new(CpuOperations::new(TrainDtype::F32));
            let trainer = Engine::new(&config, operations, capacity, &Device::Cpu).unwrap();
            let weights = test_model::weights(&config, 3);
            let base =
                ParameterSet::from_weights(&config, weights, NumberFormat::F32, &Device::Cpu);
            let student = Student::full(base.unwrap());
            let loss = |labels: &[(usize, u32)]| {
                let batch = labelled(&tokens, labels);
                trainer.loss(&student, &batch).unwrap()
            };

            let decoder = Decoder::new(
                config.clone(),
                test_model::weights(&config, 3),
                tokens.len(),
            );
            let decoder = decoder.unwrap();
            let mut cache = decoder.new_cache();
            let logits = decoder.forward(&mut [Step {
                tokens: &tokens,
                cache: &mut cache,
                logits: tokens.len(),
            }]);
            let rows: Vec<&[f32]> = logits.chunks_exact(config.vocab_size).collect();
            let log_prob = |position: usize, token: u32| {
                let row: &[f32] = rows[position];
                f64::from(row[token as usize]) - log_sum_exp(row, Instructions::detected())
            };

            let last = tokens.len() - 1;
            let largest = rows[last].iter().fold(0.0f32, |m, x| m.max(x.abs()));
            assert!(largest > 1.0, "logits are too small to tell anything");
            let mut found = Vec::new();
            for token in 0..config.vocab_size as u32 {
                let (ours, theirs) = (log_prob(last, token), -loss(&[(last, token)]));
                let apart = (ours - theirs).abs() / f64::from(largest);
                assert!(
                    apart < 1e-4,
                    "{rope_scaling:?}, tied {tied}, token {token}: {ours} and {theirs}"
                );
                found.push(ours);
            }
            last_rows.push(found);
            // All other positions, by what follows them.
            let labels: Vec<(usize, u32)> = (0..last).map(|p| (p, tokens[p + 1])).collect();
            let ours: f64 = labels.iter().map(|(p, token)| -log_prob(*p, *token)).sum();
            let theirs = loss(&labels);
            assert!(
                (ours - theirs).abs() / ours.abs() < 1e-4,
                "{ours} and {theirs}"
            );
        }
    }
    // Ties and scalings matter here, so that a part which ignores them would be seen.
    for (number, row) in last_rows.iter().enumerate() {
        for other in &last_rows[..number] {
            let apart = row.iter().zip(other).map(|(a, b)| (a - b).abs());
            assert!(apart.fold(0.0, f64::max) > 1e-2);
        }
    }
}
