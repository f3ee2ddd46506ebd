//! Every operation of the CPU and of the GPU, which is emulated, against its composed twin, on made-up
//! numbers in odd shapes.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};
use half::bf16;

use super::gpu::GpuOperations;
use super::gpu::emulator::EmulatedLauncher;
use super::*;
use crate::trainer::config::TrainDtype;
use crate::trainer::testing::SplitMix64;

/// Made-up tensors, and the results of one implementation.
struct Bench {
    operations: Box<dyn Operations>,
    random: SplitMix64,
    /// Whether numbers of weights and activations are such as bf16 has.
    rounded: bool,
    /// What weights and activations are kept in.
    dtype: DType,
}

impl Bench {
    /// Weights or activations.
    fn tensor(&mut self, shape: &[usize]) -> Tensor {
        let rounded = self.rounded;
        let numbers = self.numbers(shape, |x| match rounded {
            true => bf16::from_f32(x).to_f32(),
            false => x,
        });
        numbers.to_dtype(self.dtype).unwrap()
    }

    /// Numbers that are f32 whatever the activations are.
    fn single(&mut self, shape: &[usize]) -> Tensor {
        self.numbers(shape, |x| x)
    }

    fn numbers(&mut self, shape: &[usize], change: impl Fn(f32) -> f32) -> Tensor {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count)
            .map(|_| change(self.random.symmetric()))
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn indices(&mut self, count: usize, below: u64) -> Tensor {
        let values: Vec<u32> = (0..count)
            .map(|_| self.random.below(below) as u32)
            .collect();
        Tensor::from_vec(values, count, &Device::Cpu).unwrap()
    }
}

fn emulated() -> Box<dyn Operations> {
    Box::new(GpuOperations::new(EmulatedLauncher))
}

/// Runs an operation on all implementations, from the same numbers, and compares all that it wrote with
/// what the composed operations do in f32: within 2e-6 in f32, and within `bound` in bf16, relative to
/// numbers above 1.
fn twins_agree(bound: f32, run: impl Fn(&mut Bench) -> Result<Vec<Tensor>>) {
    let results = |operations, rounded, dtype| {
        let mut bench = Bench {
            operations,
            random: SplitMix64(5),
            rounded,
            dtype,
        };
        let written = run(&mut bench).unwrap();
        let numbers = written.into_iter().map(|tensor| {
            let flat = tensor.flatten_all().unwrap().to_dtype(DType::F32).unwrap();
            flat.to_vec1::<f32>().unwrap()
        });
        numbers.collect::<Vec<_>>()
    };
    let near = |name: &str, got: Vec<Vec<f32>>, composed: &[Vec<f32>], bound: f32| {
        assert_eq!(got.len(), composed.len());
        for (which, (got, composed)) in got.iter().zip(composed).enumerate() {
            assert_eq!(got.len(), composed.len());
            assert!(composed.iter().any(|x| x.abs() > 1e-3), "result {which}");
            for (at, (a, b)) in got.iter().zip(composed).enumerate() {
                let error = (a - b).abs() / (1.0 + b.abs());
                assert!(
                    error < bound,
                    "{name}, result {which}, number {at}: {a} and {b}"
                );
            }
        }
    };
    let composed = results(Box::new(ComposedOperations), false, DType::F32);
    let cpu = Box::new(CpuOperations::new(TrainDtype::F32));
    near("CPU", results(cpu, false, DType::F32), &composed, 2e-6);
    let gpu = results(emulated(), false, DType::F32);
    near("GPU in f32", gpu, &composed, 2e-6);
    let composed = results(Box::new(ComposedOperations), true, DType::F32);
    let gpu = results(emulated(), true, DType::BF16);
    near("GPU in bf16", gpu, &composed, bound);
}

/// Half the distance between neighbouring bf16 numbers, relative to the smaller, and what f32 adds: the
/// error of a result that is rounded once.
const ROUNDED: f32 = 1.01 / 256.0;

/// A prefix of 4 tokens, two segments behind it, and one on its own.
fn segments() -> Vec<Segment> {
    vec![
        segment(0..4, 0..0, None),
        segment(4..9, 0..4, Some(0)),
        segment(9..10, 0..4, Some(1)),
        segment(10..17, 0..0, Some(2)),
    ]
}

fn segment(tokens: Range<usize>, prefix: Range<usize>, row: Option<usize>) -> Segment {
    Segment {
        tokens,
        prefix,
        row,
    }
}

const TOKENS: usize = 17;

#[test]
fn products_whole_and_into_columns() {
    twins_agree(ROUNDED, |bench| {
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
    // Ids come again and again; the last shape has more rows than a block has threads.
    for (words, count, width) in [(6, 11, 5), (3, 9, 24), (7, 300, 16), (40, 37, 2061)] {
        twins_agree(ROUNDED, |bench| {
            let table = bench.tensor(&[words, width]);
            let ids = bench.indices(count, words as u64);
            let [out, rows] = [(); 2].map(|()| bench.tensor(&[count, width]));
            bench.operations.gather_rows(&out, &table, &ids)?;
            bench.operations.scatter_add_rows(&table, &ids, &rows)?;
            Ok(vec![out, table])
        });
    }
}

#[test]
fn rms_norm_and_its_gradients() {
    // One row for several of a block's turns; vectors and single numbers; less than a warp and more
    // than a block has threads.
    for (rows, width) in [(5, 19), (3, 64), (600, 8), (2, 4100), (2, 4104)] {
        twins_agree(2.0 * ROUNDED, |bench| {
            let (x, weight) = (bench.tensor(&[rows, width]), bench.tensor(&[width]));
            let (y, rstd) = (bench.tensor(&[rows, width]), bench.single(&[rows]));
            bench.operations.rms_norm(&y, &rstd, &x, &weight, 1e-5)?;
            let [dy, again, dx] = [(); 3].map(|()| bench.tensor(&[rows, width]));
            // Hundreds of rows sum to much, in which the order of additions shows.
            let dy = (dy * if rows > 100 { 1.0 / 16.0 } else { 1.0 })?;
            let d_weight = bench.tensor(&[width]);
            let saved = RmsNormSaved {
                x: &x,
                weight: &weight,
                rstd: &rstd,
            };
            let operations = &bench.operations;
            operations.rms_norm_backward(&dx, Some(&d_weight), &dy, saved)?;
            operations.rms_norm_backward(&dx, None, &again, saved)?;
            Ok(vec![y, rstd.clone(), dx, d_weight])
        });
    }
}

#[test]
fn heads_split_turned_and_merged() {
    for (head_dim, beside) in [(6, 4), (64, 8), (128, 16), (96, 3)] {
        twins_agree(2.0 * ROUNDED, |bench| {
            let (width, half) = (3 * head_dim + beside, head_dim / 2);
            let rows = bench.tensor(&[TOKENS, width]);
            let [cos, sin] = [(); 2].map(|()| bench.single(&[32, half]));
            let positions = bench.indices(TOKENS, 32);
            let rotation = Some(Rotation {
                cos: &cos,
                sin: &sin,
                positions: &positions,
            });
            let [turned, plain] = [(); 2].map(|()| bench.tensor(&[2, TOKENS, head_dim]));
            let merged = bench.tensor(&[TOKENS, width]);
            let (operations, both) = (&bench.operations, 2 * head_dim);
            operations.split_heads(&turned, &rows, beside..beside + both, rotation)?;
            operations.split_heads(&plain, &rows, width - both..width, None)?;
            operations.merge_heads(&merged, 0..both, &plain, rotation)?;
            Ok(vec![turned, plain, merged])
        });
    }
}

/// Attention forward and backward over some segments, which all implementations must agree on.
fn attention_agrees(bound: f32, heads: [usize; 2], head_dim: usize, segments: &[Segment]) {
    let tokens = segments.last().expect("there are segments").tokens.end;
    let [heads, kv_heads] = heads;
    twins_agree(bound, |bench| {
        let [q, out, d_out, d_q] = [(); 4].map(|()| bench.tensor(&[heads, tokens, head_dim]));
        let [k, v, d_k, d_v] = [(); 4].map(|()| bench.tensor(&[kv_heads, tokens, head_dim]));
        let [log_sum, delta] = [(); 2].map(|()| bench.single(&[heads, tokens]));
        let operations = &bench.operations;
        let segments = operations.place_segments(segments, &Device::Cpu)?;
        operations.attention(&out, &log_sum, [&q, &k, &v], &segments)?;
        let width = heads * head_dim;
        let by_token = |x: &Tensor| x.transpose(0, 1)?.reshape((tokens, width))?.contiguous();
        operations.head_products(&delta, &by_token(&out)?, &by_token(&d_out)?)?;
        let saved = AttentionSaved {
            q: &q,
            k: &k,
            v: &v,
            log_sum: &log_sum,
            delta: &delta,
            d_out: &d_out,
        };
        operations.attention_backward([&d_q, &d_k, &d_v], saved, &segments)?;
        Ok(vec![out, log_sum.clone(), delta.clone(), d_q, d_k, d_v])
    });
}

#[test]
fn attention_and_its_gradients() {
    attention_agrees(2.0 * ROUNDED, [4, 2], 6, &segments());
    attention_agrees(2.0 * ROUNDED, [2, 2], 64, &segments());
    attention_agrees(2.0 * ROUNDED, [3, 1], 96, &segments());
    attention_agrees(2.0 * ROUNDED, [2, 1], 128, &segments());
}

/// Segments longer than several tiles of 64 tokens, prefixes that begin within a segment, end within
/// a tile and span two, one with many queries behind it, and segments of one token.
#[test]
fn attention_over_many_tiles() {
    let mut segments = Vec::new();
    let mut end = 0;
    for (length, prefix) in [
        (70, 0..0),
        (130, 0..0),
        (1, 3..70),
        (90, 3..70),
        (430, 3..70),
        (64, 0..0),
        (1, 0..0),
        (40, 80..144),
        (3, 80..144),
    ] {
        segments.push(segment(end..end + length, prefix, None));
        end += length;
    }
    attention_agrees(3.0 * ROUNDED, [2, 1], 64, &segments);
    attention_agrees(3.0 * ROUNDED, [1, 1], 128, &segments);
    attention_agrees(3.0 * ROUNDED, [1, 1], 10, &segments);
}

#[test]
fn swiglu_and_its_gradient() {
    for inner in [19, 64, 2052, 2056] {
        twins_agree(ROUNDED, |bench| {
            let gate_up = (bench.tensor(&[5, 2 * inner]) * 4.0)?;
            let [out, d_out] = [(); 2].map(|()| bench.tensor(&[5, inner]));
            let d_gate_up = bench.tensor(&[5, 2 * inner]);
            let operations = &bench.operations;
            operations.swiglu(&out, &gate_up)?;
            operations.swiglu_backward(&d_gate_up, &d_out, &gate_up)?;
            Ok(vec![out, d_gate_up])
        });
    }
}

#[test]
fn dropout_and_its_gradient() {
    // Rows that vectors fit and that they do not; more than a block has threads for.
    for width in [3, 19, 64, 2052, 2056] {
        for dropped in [3277, 40_000] {
            twins_agree(ROUNDED, |bench| {
                let [x, dy, out, dx] = [(); 4].map(|()| bench.tensor(&[TOKENS, width]));
                let sequences = bench.indices(TOKENS, 1 << 32);
                let positions = bench.indices(TOKENS, 512);
                let mask = DropoutMask {
                    key: 0x8765_4321,
                    dropped,
                    sequences: &sequences,
                    positions: &positions,
                };
                bench.operations.dropout(&out, &x, mask)?;
                bench.operations.dropout_backward(&dx, &dy, mask)?;
                Ok(vec![out, dx])
            });
        }
    }
}

#[test]
fn dropout_on_a_card_is_the_processors_to_the_bit() {
    for width in [19, 64, 2056] {
        let bits = |operations: Box<dyn Operations>| {
            let mut bench = Bench {
                operations,
                random: SplitMix64(3),
                rounded: false,
                dtype: DType::F32,
            };
            let [x, out, dx] = [(); 3].map(|()| bench.single(&[TOKENS, width]));
            let sequences = bench.indices(TOKENS, 1 << 32);
            let positions = bench.indices(TOKENS, 512);
            let mask = DropoutMask {
                key: 9,
                dropped: 3277,
                sequences: &sequences,
                positions: &positions,
            };
            bench.operations.dropout(&out, &x, mask).unwrap();
            bench.operations.dropout_backward(&dx, &x, mask).unwrap();
            [out, dx].map(|written| {
                let numbers = written.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                numbers.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            })
        };
        let cpu = bits(Box::new(CpuOperations::new(TrainDtype::F32)));
        assert!(cpu == bits(emulated()), "{width}");
    }
}

/// What is dropped is gone, even if it is no number.
#[test]
fn what_is_dropped_is_zero_whatever_it_was() {
    let x = Tensor::full(f32::NAN, (1, 64), &Device::Cpu).unwrap();
    let places = Tensor::zeros(1, DType::U32, &Device::Cpu).unwrap();
    let mask = DropoutMask {
        key: 1,
        dropped: 40_000,
        sequences: &places,
        positions: &places,
    };
    let cpu = Box::new(CpuOperations::new(TrainDtype::F32));
    let each: [Box<dyn Operations>; 3] = [cpu, emulated(), Box::new(ComposedOperations)];
    let zeros = each.map(|operations| {
        let out = x.zeros_like().unwrap();
        operations.dropout(&out, &x, mask).unwrap();
        let out = out.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        out.into_iter().map(|x| x == 0.0).collect::<Vec<_>>()
    });
    assert!(zeros[0].contains(&true) && zeros[0].contains(&false));
    assert!(zeros[0] == zeros[1] && zeros[0] == zeros[2]);
}

#[test]
fn cross_entropy_and_its_gradient() {
    // Rows of odd width begin anywhere within 16 bytes.
    for words in [37, 3, 64, 4109] {
        twins_agree(ROUNDED, |bench| {
            let logits = (bench.tensor(&[6, words]) * 4.0)?;
            let untouched = logits.copy()?;
            let targets = bench.indices(6, words as u64);
            let [losses, again] = [(); 2].map(|()| bench.single(&[6]));
            let operations = &bench.operations;
            operations.cross_entropy(&losses, &logits, &targets, Some(0.25))?;
            operations.cross_entropy(&again, &untouched, &targets, None)?;
            Ok(vec![losses, logits, again])
        });
    }
}

#[test]
fn sums_norms_and_copies() {
    // The last takes more vectors than one block has threads.
    for count in [77, 8, 6011] {
        twins_agree(ROUNDED, |bench| {
            let gradients = bench.tensor(&[count]);
            let values = bench.single(&[count]);
            let [squares, losses] = [(); 2].map(|()| Tensor::ones(1, DType::F64, &Device::Cpu));
            let (squares, losses) = (squares?, losses?);
            let factors = [(); 3].map(|()| bench.single(&[1]));
            let (copied, zeroed) = (gradients.zeros_like()?, gradients.copy()?);
            // Two parts, the second of which begins anywhere.
            let first = gradients.narrow(0, 0, 3)?;
            let second = gradients.narrow(0, 3, count - 3)?;
            let operations = &bench.operations;
            operations.add_sum_of_squares(&squares, &first)?;
            operations.add_sum_of_squares(&squares, &second)?;
            operations.add_sum(&losses, &values)?;
            for (factor, most) in factors.iter().zip([0.5, 0.0, 1e6]) {
                operations.clip_factor(factor, &squares, most)?;
            }
            operations.copy(&copied.narrow(0, 0, count - 3)?, &second)?;
            operations.zero(&zeroed.narrow(0, 1, 5)?)?;
            let [squares, losses] = [squares, losses].map(|sum| sum.to_dtype(DType::F32));
            let mut results = vec![squares?, losses?, copied, zeroed];
            results.extend(factors);
            Ok(results)
        });
    }
}

#[test]
fn a_norm_that_is_not_finite_has_no_finite_factor() {
    for operations in [emulated(), Box::new(ComposedOperations)] {
        for sum in [f64::INFINITY, f64::NAN] {
            let sum = Tensor::new(&[sum], &Device::Cpu).unwrap();
            let factor = Tensor::new(&[0.5f32], &Device::Cpu).unwrap();
            operations.clip_factor(&factor, &sum, 1.0).unwrap();
            let factor = factor.to_vec1::<f32>().unwrap()[0];
            assert!(!factor.is_finite(), "{factor}");
        }
    }
}

/// In f32; what bf16 changes is compared to the bit, where the kernels are.
#[test]
fn updates() {
    twins_agree(2e-6, |bench| {
        let [weights, gradients, m] = [(); 3].map(|()| bench.single(&[7, 11]));
        let v = bench.single(&[7, 11]).sqr()?;
        let factor = Tensor::new(&[0.5f32], &Device::Cpu)?;
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
        Ok(vec![weights, m, v])
    });
}
