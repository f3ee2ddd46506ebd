//! Dropout of what adapters read: its gradients, and what its masks depend on.

use std::collections::HashSet;

use super::*;
use crate::trainer::engine::sequences;
use crate::trainer::template::Row;

/// A quarter of all numbers dropped.
fn quarter(step: u64) -> Option<Dropout> {
    Dropout::of_step(0.25, 42, step)
}

fn members(rows: &[Row]) -> Vec<usize> {
    (0..rows.len()).collect()
}

#[test]
fn gradients_under_dropout_are_those_of_autograd() {
    let config = tiny_config(true);
    for rows in [tiny_rows(5, 2), alike_rows(6, 2)] {
        let batch = &pack(&rows, &members(&rows), 128, &SharedPrefixes::of(&rows))[0];
        assert!(batch.rows().len() > 1);
        let student = adapted(&config, tiny_parameters(&config, 1));
        let dropout = quarter(7);
        let (want_loss, want) =
            loss_and_gradients(&config, &student, batch, 0.125, dropout).unwrap();
        let each: [Box<dyn Operations>; 3] = [
            Box::new(CpuOperations::new(TrainDtype::F32)),
            Box::new(GpuOperations::new(EmulatedLauncher)),
            Box::new(ComposedOperations),
        ];
        for operations in each {
            let engine = engine(&config, operations, Recompute::Nothing);
            let (plain, _) = loss_and_gradients_of(&engine, &student, batch, 0.125);
            let (loss, got) = under(dropout, &engine, &student, batch, 0.125);
            assert!(
                (loss - want_loss).abs() < 1e-5 * want_loss,
                "{loss} {want_loss}"
            );
            assert!((loss - plain).abs() > 1e-3 * plain, "{loss} {plain}");
            assert_near(&got, &want, 2e-5);
            // What is measured is measured without.
            assert_eq!(engine.loss(&student, batch).unwrap(), plain);
        }
    }
}

/// In the formats of a card: the processor's mask, and what rounding to bf16 changes.
#[test]
fn dropout_in_bf16_stays_within_its_bound() {
    let config = tiny_config(true);
    let rows = alike_rows(6, 2);
    let batch = &pack(&rows, &members(&rows), 256, &SharedPrefixes::of(&rows))[0];
    let exact = adapted(&config, tiny_parameters(&config, 1));
    let (want_loss, want) = under(quarter(7), &on_cpu(&config), &exact, batch, 0.125);
    let weights = tiny_parameters(&config, 1).into_weights().unwrap();
    let frozen = ParameterSet::from_weights(&config, weights, NumberFormat::Bf16, &CPU).unwrap();
    let mut rounded = adapted(&config, frozen);
    let adapters = rounded.adapters.as_mut().unwrap();
    let numbers = values(&adapters.values);
    adapters.values = adapters.values.zeros_in(NumberFormat::Split).unwrap();
    adapters.values.write(0, &numbers).unwrap();
    let capacity = Capacity {
        tokens: 256,
        recompute: Recompute::Elementwise,
        lora_rank: 3,
        dropout_width: 40,
        label_rows: 20,
        activations: DType::BF16,
    };
    let card = Box::new(GpuOperations::new(EmulatedLauncher));
    let engine = Engine::new(&config, card, capacity, &CPU).unwrap();
    let (loss, got) = under(quarter(7), &engine, &rounded, batch, 0.125);
    assert!(
        (loss - want_loss).abs() < 3e-3 * want_loss,
        "{loss} {want_loss}"
    );
    assert_near(&got, &want, 6e-2);
}

#[test]
fn where_a_row_is_computed_changes_no_mask() {
    let config = tiny_config(true);
    let student = adapted(&config, tiny_parameters(&config, 3));
    let engine = on_cpu(&config);
    for rows in [tiny_rows(6, 4), alike_rows(9, 6)] {
        let prefixes = SharedPrefixes::of(&rows);
        let together = pack(&rows, &members(&rows), 256, &prefixes);
        assert_eq!(together.len(), 1);
        let backwards: Vec<usize> = members(&rows).into_iter().rev().collect();
        let alone = members(&rows)
            .into_iter()
            .flat_map(|row| pack(&rows, &[row], 256, &prefixes));
        let ways = [
            pack(&rows, &backwards, 256, &prefixes),
            pack(&rows, &members(&rows), 64, &prefixes),
            alone.collect(),
        ];
        let (want_loss, want) = under(quarter(3), &engine, &student, &together[0], 0.01);
        for way in ways {
            let mut got = student.trained().zeros_in(NumberFormat::F32).unwrap();
            let losses = way
                .iter()
                .map(|batch| accumulate(&engine, &student, batch, 0.01, quarter(3), &mut got));
            let loss: f64 = losses.sum();
            assert!(
                (loss - want_loss).abs() < 1e-5 * want_loss,
                "{loss} {want_loss}"
            );
            assert_near(&got, &want, 1e-5);
        }
    }
}

#[test]
fn what_is_computed_again_has_the_same_mask() {
    let mut config = tiny_config(true);
    config.num_hidden_layers = 4;
    let rows = alike_rows(6, 2);
    let batch = &pack(&rows, &members(&rows), 256, &SharedPrefixes::of(&rows))[0];
    let student = adapted(&config, tiny_parameters(&config, 1));
    let run = |recompute, dropout| {
        let operations = Box::new(CpuOperations::new(TrainDtype::F32));
        let engine = engine(&config, operations, recompute);
        let (loss, gradients) = under(dropout, &engine, &student, batch, 0.125);
        let bits: Vec<u32> = values(&gradients).iter().map(|x| x.to_bits()).collect();
        (loss, bits)
    };
    let kept = run(Recompute::Nothing, quarter(5));
    assert!(kept == run(Recompute::Elementwise, quarter(5)));
    assert!(kept == run(Recompute::Layers, quarter(5)));
    assert!(kept != run(Recompute::Nothing, quarter(6)), "another step");
    assert!(kept != run(Recompute::Nothing, None));
}

#[test]
fn every_step_and_every_matrix_has_a_mask_of_its_own() {
    const LAYERS: usize = 32;
    let targets = [
        Target::Q,
        Target::K,
        Target::V,
        Target::O,
        Target::Gate,
        Target::Up,
        Target::Down,
    ];
    let none = Tensor::zeros(0, DType::U32, &CPU).unwrap();
    let mut keys = HashSet::new();
    for seed in [42, 43, 42 + (1 << 32)] {
        for step in 0..12 {
            let dropout = Dropout::of_step(0.05, seed, step).unwrap();
            for layer in 0..LAYERS {
                for target in targets {
                    let mask = dropout.mask(target.matrix(layer), &none, &none);
                    assert!(keys.insert(mask.key), "seed {seed}, step {step}");
                }
            }
        }
    }
    assert_eq!(keys.len(), 3 * 12 * LAYERS * targets.len());
}

#[test]
fn a_sequence_has_one_number_wherever_it_lies() {
    let rows = alike_rows(9, 6);
    let prefixes = SharedPrefixes::of(&rows);
    let of_segments = |batches: &[MicroBatch]| -> HashSet<(Vec<u32>, u32)> {
        let mut found = HashSet::new();
        for batch in batches {
            let numbers = sequences(batch);
            assert_eq!(numbers.len(), batch.input_ids.len());
            for segment in &batch.segments {
                let number = numbers[segment.tokens.start];
                assert!(numbers[segment.tokens.clone()].iter().all(|n| *n == number));
                match segment.row {
                    Some(row) => assert_eq!(number as usize, row),
                    None => assert!(number >= 1 << 31),
                }
                found.insert((batch.input_ids[segment.tokens.clone()].to_vec(), number));
            }
        }
        found
    };
    let wide = of_segments(&pack(&rows, &members(&rows), 256, &prefixes));
    let narrow = of_segments(&pack(&rows, &members(&rows), 64, &prefixes));
    assert_eq!(wide, narrow);
    let numbers: HashSet<u32> = wide.iter().map(|(_, number)| *number).collect();
    assert_eq!(numbers.len(), 9 + 2, "two prefixes, which are told apart");
}

#[test]
fn without_dropout_there_is_nothing_to_do_and_no_memory_for_it() {
    assert_eq!(Dropout::of_step(0.0, 42, 1), None);
    // Less than half of the smallest probability.
    assert_eq!(Dropout::of_step(7e-6, 42, 1), None);
    assert_eq!(Dropout::dropped(0.05), 3277);
    assert_eq!(Dropout::dropped(1.0 - 1e-9), u16::MAX);
    let config = tiny_config(true);
    let lora = |lora_dropout, target_modules| LoraConfig {
        lora_dropout,
        target_modules,
        ..LoraConfig::default()
    };
    let width = |lora: LoraConfig| lora.dropout_width(&config);
    assert_eq!(width(lora(0.0, vec![Target::Down])), 0);
    assert_eq!(width(lora(7e-6, vec![Target::Down])), 0);
    assert_eq!(width(lora(0.05, vec![Target::Q, Target::V])), 24);
    assert_eq!(width(lora(0.05, vec![Target::Q, Target::Down])), 40);
}
