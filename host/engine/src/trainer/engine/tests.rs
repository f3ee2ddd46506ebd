//! The engine against candle's autograd, on all implementations of its arithmetic.

mod dropout;

use super::*;
use crate::llama::RopeScaling;
use crate::trainer::autograd::loss_and_gradients;
use crate::trainer::batches::pack;
use crate::trainer::config::TrainDtype;
use crate::trainer::lora::{Adapters, LoraConfig, Target};
use crate::trainer::operations::gpu::GpuOperations;
use crate::trainer::operations::gpu::emulator::EmulatedLauncher;
use crate::trainer::operations::{ComposedOperations, CpuOperations};
use crate::trainer::parameters::NumberFormat;
use crate::trainer::prefixes::SharedPrefixes;
use crate::trainer::testing::{
    SplitMix64, alike_rows, tiny_config, tiny_parameters, tiny_rows, values,
};

const CPU: Device = Device::Cpu;

fn engine(config: &LlamaConfig, operations: Box<dyn Operations>, recompute: Recompute) -> Engine {
    let capacity = Capacity {
        tokens: 256,
        recompute,
        lora_rank: 3,
        dropout_width: 40,
        label_rows: 256,
        activations: DType::F32,
    };
    Engine::new(config, operations, capacity, &CPU).unwrap()
}

/// Summed loss and gradients of a micro-batch.
fn loss_and_gradients_of(
    engine: &Engine,
    student: &Student,
    batch: &MicroBatch,
    scale: f32,
) -> (f64, ParameterSet) {
    under(None, engine, student, batch, scale)
}

/// The same under dropout.
fn under(
    dropout: Option<Dropout>,
    engine: &Engine,
    student: &Student,
    batch: &MicroBatch,
    scale: f32,
) -> (f64, ParameterSet) {
    let format = match student.trained().format() {
        NumberFormat::F32 => NumberFormat::F32,
        NumberFormat::Bf16 | NumberFormat::Split => NumberFormat::Bf16,
    };
    let mut gradients = student.trained().zeros_in(format).unwrap();
    let loss = accumulate(engine, student, batch, scale, dropout, &mut gradients);
    (loss, gradients)
}

fn accumulate(
    engine: &Engine,
    student: &Student,
    batch: &MicroBatch,
    scale: f32,
    dropout: Option<Dropout>,
    gradients: &mut ParameterSet,
) -> f64 {
    let loss = Tensor::zeros(1, DType::F64, &CPU).unwrap();
    engine
        .accumulate_gradients(student, batch, scale, dropout, gradients, &loss)
        .unwrap();
    loss.to_vec1::<f64>().unwrap()[0]
}

fn on_cpu(config: &LlamaConfig) -> Engine {
    engine(
        config,
        Box::new(CpuOperations::new(TrainDtype::F32)),
        Recompute::Nothing,
    )
}

/// Adapters of every matrix, neither factor zero.
fn adapted(config: &LlamaConfig, base: ParameterSet) -> Student {
    let lora = LoraConfig {
        r: 3,
        lora_alpha: 6.0,
        lora_dropout: 0.0,
        target_modules: vec![
            Target::Down,
            Target::Q,
            Target::V,
            Target::K,
            Target::O,
            Target::Up,
            Target::Gate,
        ],
    };
    let mut adapters = Adapters::new(&lora, config, 1, base.format(), &CPU).unwrap();
    let mut random = SplitMix64(9);
    for spec in adapters.values.specs().to_vec() {
        if spec.name.contains("lora_B") {
            let drawn: Vec<f32> = spec
                .range
                .clone()
                .map(|_| 0.1 * random.symmetric())
                .collect();
            adapters.values.write(spec.range.start, &drawn).unwrap();
        }
    }
    Student {
        base,
        adapters: Some(adapters),
    }
}

/// Asserts that every tensor of `got` is near that of `want`, by the norm of the difference.
fn assert_near(got: &ParameterSet, want: &ParameterSet, bound: f64) {
    let norm = |values: &[f32]| -> f64 {
        let squares = values.iter().map(|x| f64::from(*x).powi(2));
        squares.sum::<f64>().sqrt()
    };
    for spec in want.specs() {
        let [a, b] = [got, want].map(|set| set.read(spec.range.clone()).unwrap());
        let difference: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
        let size = norm(&b);
        assert!(size > 1e-4, "{} has no gradient to speak of", spec.name);
        let relative = norm(&difference) / size;
        assert!(relative < bound, "{}: {relative}", spec.name);
    }
}

#[test]
fn engine_and_autograd_agree_on_every_gradient() {
    for (tied, rows) in [
        (true, tiny_rows(5, 2)),
        (false, tiny_rows(5, 2)),
        (true, alike_rows(6, 2)),
        (false, alike_rows(6, 2)),
    ] {
        let mut config = tiny_config(tied);
        if tied {
            config.rope_scaling = RopeScaling::Llama3 {
                factor: 4.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 16,
            };
        }
        let members: Vec<usize> = (0..rows.len()).collect();
        let batches = pack(&rows, &members, 128, &SharedPrefixes::of(&rows));
        let batch = &batches[0];
        assert!(batch.rows().len() > 1, "packing is what is tested");
        let shared = batch.segments.iter().filter(|s| s.row.is_none()).count();
        assert_eq!(shared, if rows[1].form == 1 { 2 } else { 0 });
        let scale = 0.125;
        let base = || tiny_parameters(&config, 1);
        for student in [Student::full(base()), adapted(&config, base())] {
            let (want_loss, want) =
                loss_and_gradients(&config, &student, batch, scale, None).unwrap();
            let each: [Box<dyn Operations>; 3] = [
                Box::new(CpuOperations::new(TrainDtype::F32)),
                Box::new(GpuOperations::new(EmulatedLauncher)),
                Box::new(ComposedOperations),
            ];
            for operations in each {
                let engine = engine(&config, operations, Recompute::Nothing);
                let (loss, mut got) = loss_and_gradients_of(&engine, &student, batch, scale);
                assert!(
                    (loss - want_loss).abs() < 1e-4 * want_loss,
                    "{loss} {want_loss}"
                );
                assert_eq!(engine.loss(&student, batch).unwrap(), loss);
                assert_near(&got, &want, 2e-5);

                // A second micro-batch adds to the first.
                accumulate(&engine, &student, batch, scale, None, &mut got);
                let (a, b) = (values(&got)[0], 2.0 * values(&want)[0]);
                assert!((a - b).abs() <= 1e-5 + 1e-4 * b.abs());
            }
        }
    }
}

/// Where the operands of products are rounded to 8 bits, gradients are off by a few parts in a hundred
/// of their norm, and the loss by less than one in a thousand.
#[test]
fn rounded_operands_stay_within_their_bound() {
    let config = tiny_config(true);
    let rows = alike_rows(6, 2);
    let members: Vec<usize> = (0..rows.len()).collect();
    let batch = &pack(&rows, &members, 256, &SharedPrefixes::of(&rows))[0];
    let base = || tiny_parameters(&config, 1);
    for student in [Student::full(base()), adapted(&config, base())] {
        let [exact, rounded] = [TrainDtype::F32, TrainDtype::Bf16].map(|dtype| {
            let operations = Box::new(CpuOperations::new(dtype));
            let engine = engine(&config, operations, Recompute::Nothing);
            loss_and_gradients_of(&engine, &student, batch, 0.125)
        });
        assert_ne!(rounded.0, exact.0);
        assert!(
            (rounded.0 - exact.0).abs() < 1e-3 * exact.0,
            "{} {}",
            rounded.0,
            exact.0
        );
        assert_near(&rounded.1, &exact.1, 3e-2);
    }
}

/// The formats of a card: weights in two halves, activations and gradients in bf16.
#[test]
fn activations_in_bf16_stay_within_their_bound() {
    let mut config = tiny_config(true);
    bf16_stays_near(&config);
    // Heads that a card computes on tensor cores.
    config.head_dim = 64;
    bf16_stays_near(&config);
}

fn bf16_stays_near(config: &LlamaConfig) {
    let rows = alike_rows(6, 2);
    let members: Vec<usize> = (0..rows.len()).collect();
    let batch = &pack(&rows, &members, 256, &SharedPrefixes::of(&rows))[0];
    let exactly = tiny_parameters(config, 1);
    let weights = || tiny_parameters(config, 1).into_weights().unwrap();
    let split = ParameterSet::from_weights(config, weights(), NumberFormat::Split, &CPU).unwrap();
    assert_eq!(values(&split), values(&exactly));
    let frozen = ParameterSet::from_weights(config, weights(), NumberFormat::Bf16, &CPU).unwrap();
    let mut halved = adapted(config, frozen);
    // Adapters are trained, so that they are kept exactly.
    let adapters = halved.adapters.as_mut().unwrap();
    let numbers = values(&adapters.values);
    adapters.values = adapters.values.zeros_in(NumberFormat::Split).unwrap();
    adapters.values.write(0, &numbers).unwrap();
    let pairs = [
        (Student::full(exactly), Student::full(split)),
        (adapted(config, tiny_parameters(config, 1)), halved),
    ];
    for (exact, rounded) in pairs {
        let (want_loss, want) = loss_and_gradients_of(&on_cpu(config), &exact, batch, 0.125);
        let capacity = Capacity {
            tokens: 256,
            recompute: Recompute::Elementwise,
            lora_rank: 3,
            dropout_width: 0,
            label_rows: 20,
            activations: DType::BF16,
        };
        let each: [Box<dyn Operations>; 2] = [
            Box::new(GpuOperations::new(EmulatedLauncher)),
            Box::new(ComposedOperations),
        ];
        for operations in each {
            let engine = Engine::new(config, operations, capacity, &CPU).unwrap();
            let (loss, got) = loss_and_gradients_of(&engine, &rounded, batch, 0.125);
            assert_ne!(loss, want_loss);
            assert!(
                (loss - want_loss).abs() < 3e-3 * want_loss,
                "{loss} {want_loss}"
            );
            assert_near(&got, &want, 6e-2);
        }
    }
}

#[test]
fn what_is_computed_again_changes_no_bit() {
    let mut config = tiny_config(true);
    config.num_hidden_layers = 4;
    let rows = alike_rows(6, 2);
    let members: Vec<usize> = (0..rows.len()).collect();
    let batch = &pack(&rows, &members, 256, &SharedPrefixes::of(&rows))[0];
    let base = || tiny_parameters(&config, 1);
    for student in [Student::full(base()), adapted(&config, base())] {
        let [kept, elementwise, layers] = Recompute::ALL.map(|recompute| {
            let engine = engine(
                &config,
                Box::new(CpuOperations::new(TrainDtype::F32)),
                recompute,
            );
            let (loss, gradients) = loss_and_gradients_of(&engine, &student, batch, 0.125);
            let bits: Vec<u32> = values(&gradients).iter().map(|x| x.to_bits()).collect();
            (loss, bits)
        });
        assert!(kept == elementwise, "norms and SwiGLU computed again");
        assert!(kept == layers, "layers computed again");
    }
}

#[test]
fn a_shared_prefix_changes_no_loss_and_no_gradient() {
    for tied in [true, false] {
        let config = tiny_config(tied);
        let student = Student::full(tiny_parameters(&config, 5));
        let rows = alike_rows(9, 6);
        let members: Vec<usize> = (0..rows.len()).collect();
        let engine = on_cpu(&config);
        let run = |prefixes: &SharedPrefixes| {
            let batches = pack(&rows, &members, 256, prefixes);
            assert_eq!(batches.len(), 1);
            let (loss, gradients) = loss_and_gradients_of(&engine, &student, &batches[0], 0.01);
            (loss, gradients, batches[0].input_ids.len())
        };
        let (want_loss, want, all) = run(&SharedPrefixes::none());
        let (loss, got, fewer) = run(&SharedPrefixes::of(&rows));
        // 5 rows begin with 9 tokens and 4 with 12.
        assert_eq!(all - fewer, 4 * 9 + 3 * 12);
        assert!(
            (loss - want_loss).abs() < 1e-5 * want_loss,
            "{loss} {want_loss}"
        );
        assert_near(&got, &want, 1e-5);
        // The oracle on whole sequences knows nothing of prefixes at all.
        let whole = &pack(&rows, &members, 256, &SharedPrefixes::none())[0];
        let (_, oracle) = loss_and_gradients(&config, &student, whole, 0.01, None).unwrap();
        assert_near(&got, &oracle, 2e-5);
    }
}

#[test]
fn packing_changes_no_loss() {
    let config = tiny_config(true);
    let student = Student::full(tiny_parameters(&config, 3));
    let rows = tiny_rows(6, 4);
    let none = SharedPrefixes::none();
    let engine = on_cpu(&config);
    let members: Vec<usize> = (0..6).collect();
    let packed = pack(&rows, &members, 128, &none);
    assert_eq!(packed.len(), 1);
    let loss = |batch: &MicroBatch| engine.loss(&student, batch).unwrap();
    let together = loss(&packed[0]);
    let alone: f64 = members
        .iter()
        .map(|&row| loss(&pack(&rows, &[row], 128, &none)[0]))
        .sum();
    assert!(
        (together - alone).abs() < 1e-5 * alone,
        "{together} {alone}"
    );
}

#[test]
fn merged_adapters_answer_as_apart_and_new_ones_change_nothing() {
    let config = tiny_config(false);
    let rows = tiny_rows(4, 4);
    let batch = &pack(&rows, &[0, 1, 2, 3], 128, &SharedPrefixes::none())[0];
    let engine = on_cpu(&config);
    let student = adapted(&config, tiny_parameters(&config, 3));
    let apart = engine.loss(&student, batch).unwrap();
    let weights = student.into_weights(&config).unwrap();
    let merged = Student::full(
        ParameterSet::from_weights(&config, weights, NumberFormat::F32, &CPU).unwrap(),
    );
    let together = engine.loss(&merged, batch).unwrap();
    assert!(
        (apart - together).abs() < 1e-5 * apart,
        "{apart} {together}"
    );

    let plain = Student::full(tiny_parameters(&config, 3));
    let without = engine.loss(&plain, batch).unwrap();
    assert!((without - apart).abs() > 1e-3, "the adapters do something");
    let lora = LoraConfig {
        r: 3,
        ..LoraConfig::default()
    };
    let fresh = Student {
        base: tiny_parameters(&config, 3),
        adapters: Some(Adapters::new(&lora, &config, 1, NumberFormat::F32, &CPU).unwrap()),
    };
    assert_eq!(engine.loss(&fresh, batch).unwrap(), without);
}
