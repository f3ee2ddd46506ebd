//! Every operation of the CPU against its composed twin, on made-up numbers in odd shapes.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};

use super::*;
use crate::trainer::config::TrainDtype;
use crate::trainer::testing::SplitMix64;

/// Made-up tensors, and the results of one implementation.
struct Bench {
    operations: Box<dyn Operations>,
    random: SplitMix64,
}

impl Bench {
    fn tensor(&mut self, shape: &[usize]) -> Tensor {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| self.random.symmetric()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn indices(&mut self, count: usize, below: u64) -> Tensor {
        let values: Vec<u32> = (0..count)
            .map(|_| self.random.below(below) as u32)
            .collect();
        Tensor::from_vec(values, count, &Device::Cpu).unwrap()
    }
}

/// Runs an operation on both implementations, from the same numbers, and compares all that it wrote.
fn twins_agree(run: impl Fn(&mut Bench) -> Result<Vec<Tensor>>) {
    let results = |operations| {
        let mut bench = Bench {
            operations,
            random: SplitMix64(5),
        };
        let written = run(&mut bench).unwrap();
        let numbers = written.into_iter().map(|tensor| {
            let flat = tensor.flatten_all().unwrap();
            flat.to_vec1::<f32>().unwrap()
        });
        numbers.collect::<Vec<_>>()
    };
    let fused = results(Box::new(CpuOperations::new(TrainDtype::F32)));
    let composed = results(Box::new(ComposedOperations));
    assert_eq!(fused.len(), composed.len());
    for (which, (fused, composed)) in fused.iter().zip(&composed).enumerate() {
        assert_eq!(fused.len(), composed.len());
        assert!(composed.iter().any(|x| x.abs() > 1e-3), "result {which}");
        for (a, b) in fused.iter().zip(composed) {
            let bound = 2e-6 * (1.0 + b.abs());
            assert!((a - b).abs() < bound, "result {which}: {a} and {b}");
        }
    }
}

/// A prefix of 4 tokens, two segments behind it, and one on its own.
fn segments() -> Vec<Segment> {
    let segment = |tokens: Range<usize>, prefix: Range<usize>, row| Segment {
        tokens,
        prefix,
        row,
    };
    vec![
        segment(0..4, 0..0, None),
        segment(4..9, 0..4, Some(0)),
        segment(9..10, 0..4, Some(1)),
        segment(10..17, 0..0, Some(2)),
    ]
}

const TOKENS: usize = 17;

#[test]
fn products_whole_and_into_columns() {
    twins_agree(|bench| {
        let (a, b) = (bench.tensor(&[7, 5]), bench.tensor(&[5, 9]));
        let (y, z) = (bench.tensor(&[7, 9]), bench.tensor(&[9, 12]));
        let operations = &bench.operations;
        operations.matmul(Output::set(&y), &a, &b)?;
        // Two transposes, and some columns of a larger matrix on either side.
        let out = Output::add(&z).columns(2..7).times(0.5);
        operations.matmul(out, &b.t()?, &a.t()?.narrow(1, 1, 5)?)?;
        Ok(vec![y, z])
    });
}

#[test]
fn rows_gathered_and_scattered() {
    twins_agree(|bench| {
        let (table, ids) = (bench.tensor(&[6, 5]), bench.indices(11, 6));
        let (out, rows) = (bench.tensor(&[11, 5]), bench.tensor(&[11, 5]));
        bench.operations.gather_rows(&out, &table, &ids)?;
        bench.operations.scatter_add_rows(&table, &ids, &rows)?;
        Ok(vec![out, table])
    });
}

#[test]
fn rms_norm_and_its_gradients() {
    twins_agree(|bench| {
        let (x, weight) = (bench.tensor(&[5, 19]), bench.tensor(&[19]));
        let (y, rstd) = (bench.tensor(&[5, 19]), bench.tensor(&[5]));
        bench.operations.rms_norm(&y, &rstd, &x, &weight, 1e-5)?;
        let (dy, dx) = (bench.tensor(&[5, 19]), bench.tensor(&[5, 19]));
        let d_weight = bench.tensor(&[19]);
        let saved = RmsNormSaved {
            x: &x,
            weight: &weight,
            rstd: &rstd,
        };
        let operations = &bench.operations;
        operations.rms_norm_backward(&dx, Some(&d_weight), &dy, saved)?;
        operations.rms_norm_backward(&dx, None, &y, saved)?;
        Ok(vec![y, rstd.clone(), dx, d_weight])
    });
}

#[test]
fn heads_split_turned_and_merged() {
    twins_agree(|bench| {
        let rows = bench.tensor(&[TOKENS, 20]);
        let [cos, sin] = [bench.tensor(&[32, 3]), bench.tensor(&[32, 3])];
        let positions = bench.indices(TOKENS, 32);
        let rotation = Some(Rotation {
            cos: &cos,
            sin: &sin,
            positions: &positions,
        });
        let [turned, plain] = [(); 2].map(|()| bench.tensor(&[2, TOKENS, 6]));
        let merged = bench.tensor(&[TOKENS, 20]);
        let operations = &bench.operations;
        operations.split_heads(&turned, &rows, 4..16, rotation)?;
        operations.split_heads(&plain, &rows, 8..20, None)?;
        operations.merge_heads(&merged, 0..12, &plain, rotation)?;
        Ok(vec![turned, plain, merged])
    });
}

#[test]
fn attention_and_its_gradients() {
    twins_agree(|bench| {
        let q = bench.tensor(&[4, TOKENS, 6]);
        let [k, v] = [(); 2].map(|()| bench.tensor(&[2, TOKENS, 6]));
        let (out, log_sum) = (bench.tensor(&[4, TOKENS, 6]), bench.tensor(&[4, TOKENS]));
        let operations = &bench.operations;
        let segments = operations.place_segments(&segments(), &Device::Cpu)?;
        operations.attention(&out, &log_sum, [&q, &k, &v], &segments)?;
        let d_out = bench.tensor(&[4, TOKENS, 6]);
        let by_token = |x: &Tensor| x.transpose(0, 1)?.reshape((TOKENS, 24))?.contiguous();
        let delta = bench.tensor(&[4, TOKENS]);
        let operations = &bench.operations;
        operations.head_products(&delta, &by_token(&out)?, &by_token(&d_out)?)?;
        let d_q = bench.tensor(&[4, TOKENS, 6]);
        let [d_k, d_v] = [(); 2].map(|()| bench.tensor(&[2, TOKENS, 6]));
        let saved = AttentionSaved {
            q: &q,
            k: &k,
            v: &v,
            log_sum: &log_sum,
            delta: &delta,
            d_out: &d_out,
        };
        let operations = &bench.operations;
        operations.attention_backward([&d_q, &d_k, &d_v], saved, &segments)?;
        Ok(vec![out, log_sum.clone(), delta.clone(), d_q, d_k, d_v])
    });
}

#[test]
fn swiglu_and_its_gradient() {
    twins_agree(|bench| {
        let gate_up = (bench.tensor(&[5, 38]) * 4.0)?;
        let (out, d_out) = (bench.tensor(&[5, 19]), bench.tensor(&[5, 19]));
        let d_gate_up = bench.tensor(&[5, 38]);
        let operations = &bench.operations;
        operations.swiglu(&out, &gate_up)?;
        operations.swiglu_backward(&d_gate_up, &d_out, &gate_up)?;
        Ok(vec![out, d_gate_up])
    });
}

#[test]
fn cross_entropy_and_its_gradient() {
    twins_agree(|bench| {
        let logits = (bench.tensor(&[6, 37]) * 5.0)?;
        let untouched = logits.copy()?;
        let (losses, targets) = (bench.tensor(&[6]), bench.indices(6, 37));
        let again = bench.tensor(&[6]);
        let operations = &bench.operations;
        operations.cross_entropy(&losses, &logits, &targets, Some(0.25))?;
        operations.cross_entropy(&again, &untouched, &targets, None)?;
        Ok(vec![losses, logits, again])
    });
}

#[test]
fn norms_and_updates() {
    twins_agree(|bench| {
        let [weights, gradients, m] = [(); 3].map(|()| bench.tensor(&[7, 11]));
        let v = bench.tensor(&[7, 11]).sqr()?;
        let [squares, losses] = [(); 2].map(|()| Tensor::ones(1, DType::F64, &Device::Cpu));
        let (squares, losses) = (squares?, losses?);
        let factor = Tensor::zeros(1, DType::F32, &Device::Cpu)?;
        let operations = &bench.operations;
        operations.add_sum_of_squares(&squares, &gradients)?;
        operations.add_sum(&losses, &gradients.flatten_all()?)?;
        operations.clip_factor(&factor, &squares, 2.0)?;
        let state = AdamWTensors {
            weights: &weights,
            gradients: &gradients,
            m: &m,
            v: &v,
            rest: None,
            gradient_factor: &factor,
        };
        let numbers = AdamWNumbers {
            random: RandomBits { key: 3, first: 0 },
            decay: 0.99,
            one_minus_beta1: 0.1,
            beta2: 0.999,
            one_minus_beta2: 0.001,
            step_size: 0.01,
            inverse_root_correction: 1.5,
            epsilon: 1e-8,
        };
        bench.operations.adamw(state, numbers)?;
        let sums = [squares, losses].map(|sum| sum.to_dtype(DType::F32));
        let [squares, losses] = sums;
        let copied = m.zeros_like()?;
        bench.operations.copy(&copied, &m)?;
        Ok(vec![weights, m, v, factor, squares?, losses?, copied])
    });
}
