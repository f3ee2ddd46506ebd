//! What the twins of `operations/tests.rs` do not show: updates to the bit, the work lists, and that
//! the emulated card notices what it should.

use std::ops::Range;
use std::sync::Mutex;

use candle_core::{DType, Device, Tensor};
use half::bf16;

use super::emulator::{EmulatedLauncher, compile, run};
use super::segments::{KeyItem, KeySum, QueryTile, WorkLists, expected_parts};
use super::*;
use crate::trainer::config::TrainDtype;
use crate::trainer::micro_batch::Segment;
use crate::trainer::operations::{
    AdamWNumbers, AdamWTensors, ComposedOperations, CpuOperations, Operations, Output, RandomBits,
};
use crate::trainer::testing::SplitMix64;

const CPU: Device = Device::Cpu;

fn numbers(random: &mut SplitMix64, count: usize) -> Vec<f32> {
    (0..count).map(|_| random.symmetric()).collect()
}

fn tensor(values: Vec<f32>, dtype: DType) -> Tensor {
    let count = values.len();
    let tensor = Tensor::from_vec(values, count, &CPU).unwrap();
    tensor.to_dtype(dtype).unwrap()
}

/// All bits of a tensor.
fn bits(tensor: &Tensor) -> Vec<u32> {
    match tensor.dtype() {
        DType::I16 => {
            let values = tensor.to_vec1::<i16>().unwrap();
            values.into_iter().map(|x| x as u32).collect()
        }
        DType::BF16 => {
            let values = tensor.to_vec1::<bf16>().unwrap();
            values.into_iter().map(|x| x.to_bits().into()).collect()
        }
        _ => {
            let values = tensor.to_vec1::<f32>().unwrap();
            values.into_iter().map(f32::to_bits).collect()
        }
    }
}

/// Weights, what they lack, gradients and moments after three updates.
fn updated(
    operations: &dyn Operations,
    [weights, moments]: [DType; 2],
    exact: bool,
    count: usize,
    factor: f32,
) -> Vec<Vec<u32>> {
    let mut random = SplitMix64(11);
    let state = [(); 3].map(|()| numbers(&mut random, count + 3));
    let v: Vec<f32> = numbers(&mut random, count + 3);
    let v = tensor(v.iter().map(|x| x * x).collect(), moments);
    let [w, g, m] = state;
    let (w, g, m) = (tensor(w, weights), tensor(g, weights), tensor(m, moments));
    let rest: Vec<i16> = (0..count + 3).map(|_| random.next() as i16).collect();
    let rest = Tensor::from_vec(rest, count + 3, &CPU).unwrap();
    let factor = Tensor::new(&[factor], &CPU).unwrap();
    // The second stretch begins where no vector does.
    for (step, start) in [(1, 0), (2, 3), (3, 0)] {
        let part = |x: &Tensor| x.narrow(0, start, count).unwrap();
        let rest = part(&rest);
        let state = AdamWTensors {
            weights: &part(&w),
            rest: exact.then_some(&rest),
            gradients: &part(&g),
            m: &part(&m),
            v: &part(&v),
            gradient_factor: &factor,
        };
        let numbers = AdamWNumbers {
            random: RandomBits {
                key: 0x1234_5678 + step,
                // The counter goes from the lower word over to the upper.
                first: u64::from(u32::MAX) - 20 + start as u64,
            },
            decay: 0.999,
            one_minus_beta1: 0.1,
            beta2: 0.999,
            one_minus_beta2: 0.001,
            step_size: 2e-5,
            inverse_root_correction: 1.5,
            epsilon: 1e-8,
        };
        operations.adamw(state, numbers).unwrap();
    }
    [w, rest, g, m, v].iter().map(bits).collect()
}

/// The composed operations compute number by number in a plain loop, with the halves and random words
/// that have tests of their own.
#[test]
fn updates_are_those_of_a_plain_loop_to_the_bit() {
    let gpu = GpuOperations::new(EmulatedLauncher);
    let cpu = CpuOperations::new(TrainDtype::F32);
    for (weights, exact) in [
        (DType::F32, false),
        (DType::BF16, true),
        (DType::BF16, false),
    ] {
        for moments in [DType::F32, DType::BF16] {
            for count in [5, 64, 1003, 70_003] {
                let formats = [weights, moments];
                let want = updated(&ComposedOperations, formats, exact, count, 0.5);
                if weights == DType::F32 {
                    let got = updated(&cpu, formats, exact, count, 0.5);
                    assert!(got == want, "the processor: {formats:?} {count}");
                }
                // More numbers than the processor takes at once are nothing new to a card.
                if count < 70_000 {
                    let got = updated(&gpu, formats, exact, count, 0.5);
                    assert!(got == want, "the card: {formats:?} {exact} {count}");
                }
            }
        }
    }
}

#[test]
fn a_factor_that_is_not_finite_changes_nothing() {
    let gpu = GpuOperations::new(EmulatedLauncher);
    let formats = [DType::BF16, DType::BF16];
    let with = |factor| updated(&gpu, formats, true, 64, factor);
    let [nan, infinite, moved] = [f32::NAN, f32::INFINITY, 1.0].map(with);
    // The composed operations return before they look at anything.
    let untouched = updated(&ComposedOperations, formats, true, 64, f32::NAN);
    assert!(nan == untouched);
    assert!(infinite == untouched);
    assert!(moved != untouched);
}

#[test]
fn work_lists_cut_segments_into_tiles() {
    let segment = |tokens: Range<usize>, prefix: Range<usize>| Segment {
        tokens,
        prefix,
        row: None,
    };
    // A prefix of 70 tokens; two segments behind it, side by side; one that shares nothing.
    let segments = [
        segment(0..70, 0..0),
        segment(70..80, 2..70),
        segment(80..700, 2..70),
        segment(700..701, 0..0),
    ];
    let lists = WorkLists::of(&segments);
    assert_eq!(lists.queries.len(), 2 + 1 + 10 + 1);
    // The tile that sees most comes first.
    assert_eq!(
        lists.queries[0],
        QueryTile {
            queries: 656..700,
            segment_start: 80,
            prefix: 2..70,
        }
    );
    // All 630 queries behind the prefix see it: with its own tokens, three parts for each of its tiles.
    let part = |keys: Range<usize>, seen: Range<usize>, queries: Range<usize>, causal| KeyItem {
        keys,
        seen,
        queries,
        causal,
    };
    assert_eq!(
        lists.parts[..6],
        [
            part(0..64, 0..64, 0..70, true),
            part(0..64, 2..64, 70..582, false),
            part(0..64, 2..64, 582..700, false),
            part(64..70, 64..70, 64..70, true),
            part(64..70, 64..70, 70..582, false),
            part(64..70, 64..70, 582..700, false),
        ]
    );
    let sum = |keys, parts| KeySum { keys, parts };
    assert_eq!(lists.sums[..2], [sum(0..64, 0..3), sum(64..70, 3..6)]);
    assert_eq!((lists.parts.len(), lists.sums.len()), (6, 2));
    assert!(lists.parts.len() <= expected_parts(701));
    // A segment's own gradients are one piece, however long it is.
    assert_eq!(lists.whole[0], part(80..144, 80..144, 80..700, true));
    let alone = part(700..701, 700..701, 700..701, true);
    assert_eq!(lists.whole.last(), Some(&alone));
}

#[test]
fn parts_are_few_however_many_queries_share_a_prefix() {
    let mut segments = Vec::new();
    for prefix in [0..100, 100..200] {
        let segment = |tokens, prefix| Segment {
            tokens,
            prefix,
            row: None,
        };
        segments.push(segment(prefix, 0..0));
    }
    for (tokens, prefix) in [(200..8000, 0..100), (8000..16_384, 100..200)] {
        segments.extend(tokens.step_by(100).map(|start| Segment {
            tokens: start..(start + 100).min(16_384),
            prefix: prefix.clone(),
            row: None,
        }));
    }
    let lists = WorkLists::of(&segments);
    // Two tiles of each prefix: one part from its own queries, and 16 at most from those behind it.
    assert!(
        lists.parts.len() <= 2 * 2 * (1 + 16),
        "{}",
        lists.parts.len()
    );
    assert!(lists.parts.len() <= expected_parts(16_384));
    let gathered = lists.parts.iter().filter(|part| part.keys == (0..64));
    assert_eq!(
        gathered.map(|part| part.queries.len()).sum::<usize>(),
        100 + 7800
    );
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let gpu = GpuOperations::new(EmulatedLauncher);
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &CPU).unwrap();
    let [x, y] = [DType::F32, DType::BF16].map(|dtype| zeros(&[2, 4], dtype));
    let error = gpu.copy(&x, &y).unwrap_err().to_string();
    assert!(error.contains("expected BF16 of shape [2, 4]"), "{error}");
    let error = gpu.swiglu(&x, &y).unwrap_err().to_string();
    assert!(error.contains("one number format"), "{error}");
    let ids = zeros(&[3], DType::U32);
    let error = gpu.gather_rows(&x, &x, &ids).unwrap_err().to_string();
    assert!(error.contains("gather_rows: ids"), "{error}");
    let across = x.t().unwrap();
    let error = gpu.zero(&across).unwrap_err().to_string();
    assert!(error.contains("contiguous"), "{error}");
}

/// Notes which kernels are launched.
#[derive(Default)]
struct Noting(Mutex<Vec<&'static str>>);

impl Launcher for Noting {
    fn instructions(&self) -> String {
        EmulatedLauncher.instructions()
    }

    fn launch(
        &self,
        kernel: &'static str,
        grid: [u32; 3],
        block: u32,
        shared_bytes: u32,
        arguments: &[Argument<'_>],
    ) -> Result<()> {
        self.0.lock().unwrap().push(kernel);
        EmulatedLauncher.launch(kernel, grid, block, shared_bytes, arguments)
    }

    fn matmul(&self, out: Output<'_>, a: &Tensor, b: &Tensor) -> Result<()> {
        EmulatedLauncher.matmul(out, a, b)
    }
}

#[test]
fn tensor_cores_take_what_they_can() {
    let gpu = GpuOperations::new(Noting::default());
    let segments = [Segment {
        tokens: 0..5,
        prefix: 0..0,
        row: None,
    }];
    let segments = gpu.place_segments(&segments, &CPU).unwrap();
    let log_sum = Tensor::zeros((2, 5), DType::F32, &CPU).unwrap();
    // Format, numbers of a head, and where in a buffer the queries begin.
    for (dtype, head_dim, start, kernel) in [
        (DType::BF16, 64, 0, "attention_bf16_64"),
        (DType::BF16, 128, 8, "attention_bf16_128"),
        (DType::BF16, 64, 4, "attention_bf16"),
        (DType::BF16, 96, 0, "attention_bf16"),
        (DType::F32, 64, 0, "attention_f32"),
    ] {
        let count = 2 * 5 * head_dim;
        let q = Tensor::ones(start + count, dtype, &CPU).unwrap();
        let q = q.narrow(0, start, count).unwrap();
        let q = q.reshape((2, 5, head_dim)).unwrap();
        let [k, v, out] = [(); 3].map(|()| Tensor::ones((2, 5, head_dim), dtype, &CPU).unwrap());
        gpu.attention(&out, &log_sum, [&q, &k, &v], &segments)
            .unwrap();
        let launched = std::mem::take(&mut *gpu.launcher().0.lock().unwrap());
        assert_eq!(launched, [kernel], "{dtype:?} {head_dim} {start}");
        // All weights are equal, and so are all values.
        let out = out.flatten_all().unwrap().to_dtype(DType::F32).unwrap();
        assert!(out.to_vec1::<f32>().unwrap().iter().all(|x| *x == 1.0));
    }
}

/// Kernels with the mistakes that the emulated card is there to find.
const WRONG: &str = r#"
#line 1 "wrong.cu"
KERNEL part_at_barrier(float *x) {
    if (threadIdx.x < 32) __syncthreads();
    x[0] = 1.0f;
}
KERNEL part_in_warp(float *x) {
    float y = 1.0f;
    if (threadIdx.x % 2) y = __shfl_xor_sync(0xffffffffu, y, 1);
    x[0] = y;
}
KERNEL race_in_memory(float *x) {
    x[0] = threadIdx.x;
}
KERNEL race_in_shared(float *x) {
    float *shared = shared_memory<float>();
    shared[threadIdx.x] = threadIdx.x;
    x[threadIdx.x] = shared[threadIdx.x ^ 1];
}
KERNEL behind_tensor(float *x) {
    x[threadIdx.x + 1] = 1.0f;
}
KERNEL behind_shared(float *x) {
    shared_memory<float>()[threadIdx.x + 1] = x[threadIdx.x];
}
KERNEL without_waiting(float *x, Bf16 *y) {
    Bf16 *shared = shared_memory<Bf16>();
    copy_later(shared + 8 * threadIdx.x, y, true);
    end_copies();
    x[threadIdx.x] = to_float(shared[8 * threadIdx.x]);
    wait_for_copies<0>();
}
KERNEL unaligned(float *x) {
    float four[4];
    load(four, x + 1);
}
"#;

#[test]
fn the_emulated_card_finds_mistakes() {
    let kernels = [
        "part_at_barrier",
        "part_in_warp",
        "race_in_memory",
        "race_in_shared",
        "behind_tensor",
        "behind_shared",
        "without_waiting",
        "unaligned",
    ];
    let library = compile(&(source() + WRONG), &kernels);
    let x = Tensor::zeros(64, DType::F32, &CPU).unwrap();
    let y = Tensor::zeros(8, DType::BF16, &CPU).unwrap();
    let error = |kernel: &str, shared_bytes| {
        let mut arguments = vec![Argument::Tensor(&x)];
        if kernel == "without_waiting" {
            arguments.push(Argument::Tensor(&y));
        }
        let result = run(&library, kernel, [1, 1, 1], 64, shared_bytes, &arguments);
        result.unwrap_err().to_string()
    };
    for (kernel, shared_bytes, message) in [
        ("part_at_barrier", 0, "waits at __syncthreads in wrong.cu:2"),
        ("part_in_warp", 0, "waits for its warp in wrong.cu:7"),
        ("race_in_memory", 0, "depends on the order of threads"),
        ("race_in_shared", 256, "depends on the order of threads"),
        ("behind_tensor", 0, "wrote outside a tensor"),
        ("behind_shared", 256, "outside the shared memory"),
        ("without_waiting", 1024, "depends on the order of threads"),
        ("unaligned", 0, "an access of 16 bytes is not aligned"),
    ] {
        let error = error(kernel, shared_bytes);
        assert!(error.contains(message), "{kernel}: {error}");
    }
    let arguments = [Argument::Tensor(&x), Argument::U32(1)];
    let error = run(&library, "unaligned", [1, 1, 1], 64, 0, &arguments).unwrap_err();
    assert!(error.to_string().contains("expected 1 arguments, found 2"));
}
