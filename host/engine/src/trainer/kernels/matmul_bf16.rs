//! Matrix products whose operands are rounded to bf16 and whose sums are f32.
//!
//! Operands are f32 in memory and are rounded, to nearest even, while blocks of them are packed.
//! Where the processor has AMX, one instruction then multiplies and adds 8,192 pairs; where it has
//! AVX-512 BF16, one does so with 32; elsewhere the rounded operands go through
//! [`super::matmul::matmul`], which gives the same products and adds them in another order, as the two
//! others do. Subnormal elements count as zero on all ways, as those instructions have it.
//!
//! The number of threads changes no bit on any way. By either kind of instructions each element of the
//! result is moreover summed in an order that depends on the depth of the product alone, not on the other
//! rows and columns; without them a single row is added up otherwise than one among others.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod packing;
#[cfg(target_arch = "x86_64")]
mod pieces;

use super::matmul::{Matrix, MatrixMut, matmul as matmul_f32};

/// What computes such products. Each adds in an order of its own, so that a run keeps to one.
#[derive(Debug, Clone, Copy)]
pub(in crate::trainer) enum Instructions {
    /// AMX.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Amx(amx::Bf16),
    /// AVX-512 BF16.
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Bf16),
    /// Rounded copies, multiplied in f32.
    Rounded,
}

impl Instructions {
    /// The quickest of this machine: AMX before AVX-512 BF16 before none. That AMX is quicker rests on
    /// figures of a prototype on another machine; the two were never timed beside each other here.
    pub fn detect() -> Self {
        Self::of_this_machine().swap_remove(0)
    }

    /// Those of a name, where this machine has them: a run that began with them goes on with them.
    pub fn named(name: &str) -> Option<Self> {
        let all = Self::of_this_machine();
        all.into_iter().find(|each| each.name() == name)
    }

    /// All that this machine has, the quickest first, at least one.
    fn of_this_machine() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        all.extend(amx::Bf16::detect().map(Self::Amx));
        #[cfg(target_arch = "x86_64")]
        all.extend(avx512::Bf16::detect().map(Self::Avx512));
        all.push(Self::Rounded);
        all
    }

    /// The instruction set: part of a run's numeric path.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx(_) => "x86-64 amx-bf16",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "x86-64 avx512bf16",
            Self::Rounded => super::matmul::instructions(),
        }
    }

    /// `out = factor · a b`, or `out += factor · a b`, as `out` says, with the elements of `a` and `b`
    /// rounded to bf16.
    ///
    /// Runs on all threads of the current rayon pool if `parallel`, else on the calling one.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn matmul(self, out: MatrixMut<'_>, a: Matrix<'_>, b: Matrix<'_>, parallel: bool) {
        assert_eq!(
            (a.rows, a.cols, b.cols),
            (out.rows, b.rows, out.cols),
            "shapes of a matrix product"
        );
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx(amx) => amx.matmul(out, a, b, parallel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(avx512) => avx512.matmul(out, a, b, parallel),
            Self::Rounded => rounded(out, a, b, parallel),
        }
    }
}

/// The product without instructions of its own: rounded copies, multiplied in f32.
fn rounded(out: MatrixMut<'_>, a: Matrix<'_>, b: Matrix<'_>, parallel: bool) {
    let copy = |matrix: Matrix<'_>| -> Vec<f32> {
        let row = |row| {
            (0..matrix.cols).map(move |col| {
                round(matrix.data[row * matrix.row_stride + col * matrix.col_stride])
            })
        };
        (0..matrix.rows).flat_map(row).collect()
    };
    let (a_rounded, b_rounded) = (copy(a), copy(b));
    matmul_f32(
        out,
        Matrix::new(&a_rounded, a.rows, a.cols),
        Matrix::new(&b_rounded, b.rows, b.cols),
        parallel,
    );
}

/// The bf16 number nearest to `value`, of two the one with an even last digit.
fn round(value: f32) -> f32 {
    if value.is_subnormal() {
        return 0.0f32.copysign(value);
    }
    half::bf16::from_f32(value).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers between -1 and 1, most of which bf16 has not.
    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    /// `[rows, cols]`, stored as it is or as its transpose.
    fn matrix(data: &[f32], rows: usize, cols: usize, transposed: bool) -> Matrix<'_> {
        match transposed {
            true => Matrix::new(data, cols, rows).t(),
            false => Matrix::new(data, rows, cols),
        }
    }

    /// All ways on this machine, AMX among them where operands can be packed: emulated where the
    /// processor lacks it.
    fn ways() -> Vec<Instructions> {
        #[cfg_attr(
            not(all(target_arch = "x86_64", target_os = "linux")),
            expect(unused_mut, reason = "nothing is emulated elsewhere")
        )]
        let mut all = Instructions::of_this_machine();
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        match Instructions::detect() {
            Instructions::Amx(_) => {}
            Instructions::Avx512(_) => all.push(Instructions::Amx(amx::emulated())),
            Instructions::Rounded => assert!(!packing::detected(), "it would be AVX-512 BF16"),
        }
        all
    }

    /// Beyond one panel, one block and one depth, by more and by less than a register.
    const SHAPES: [[usize; 3]; 8] = [
        [1, 1, 1],
        [7, 3, 47],
        [9, 33, 49],
        [16, 48, 48],
        [20, 769, 100],
        [17, 70, 780],
        [270, 40, 33],
        [40, 1601, 5],
    ];

    #[test]
    fn products_are_those_of_rounded_operands() {
        let ways = ways();
        for [rows, depth, cols] in SHAPES {
            let (a, b) = (numbers(rows * depth, 1), numbers(depth * cols, 2));
            let before = numbers(rows * cols, 3);
            for case in 0..16 {
                let [a_transposed, b_transposed, accumulate, parallel] =
                    [1, 2, 4, 8].map(|bit| case & bit != 0);
                let a = matrix(&a, rows, depth, a_transposed);
                let b = matrix(&b, depth, cols, b_transposed);
                let exact = |row: usize, col: usize| {
                    let product = |place: usize| {
                        let a = a.data[row * a.row_stride + place * a.col_stride];
                        let b = b.data[place * b.row_stride + col * b.col_stride];
                        half::bf16::from_f32(a).to_f64() * half::bf16::from_f32(b).to_f64()
                    };
                    let sum: f64 = (0..depth).map(product).sum();
                    let before = f64::from(before[row * cols + col]);
                    0.5 * sum + if accumulate { before } else { 0.0 }
                };
                for way in &ways {
                    let mut out = before.clone();
                    let to = MatrixMut::new(&mut out, rows, cols);
                    way.matmul(to.accumulate(accumulate).times(0.5), a, b, parallel);
                    // Each of `depth` additions may be off by half a unit in the last place of a sum
                    // that is no larger than the depth.
                    let bound = (depth as f64 * f64::from(f32::EPSILON)).max(1e-6);
                    for (at, &got) in out.iter().enumerate() {
                        let expected = exact(at / cols, at % cols);
                        assert!(
                            (f64::from(got) - expected).abs() <= bound,
                            "{way:?} [{rows}, {depth}, {cols}], case {case}, element {at}: {got}, {expected}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn threads_and_neighbours_change_no_bit() {
        let [rows, depth, cols] = [150, 900, 170];
        let (a, b) = (numbers(rows * depth, 1), numbers(depth * cols, 2));
        let (a, b) = (Matrix::new(&a, rows, depth), Matrix::new(&b, depth, cols));
        for way in ways() {
            let in_pool = |threads: usize| {
                let mut out = vec![0.0; rows * cols];
                let to = MatrixMut::new(&mut out, rows, cols);
                rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .expect("threads")
                    .install(|| way.matmul(to, a, b, true));
                out
            };
            let alone = in_pool(1);
            for threads in [2, 3, 6, 16] {
                assert!(in_pool(threads) == alone, "{way:?}, {threads} threads");
            }
            if matches!(way, Instructions::Rounded) {
                continue;
            }
            // One row, and a stretch of columns, as among all others.
            let row = Matrix::new(&a.data[77 * depth..][..depth], 1, depth);
            let mut out = [0.0; 50];
            let to = MatrixMut::new(&mut out, 1, 50);
            way.matmul(to, row, b.columns(60..110), false);
            assert_eq!(out[..], alone[77 * cols + 60..][..50], "{way:?}");
        }
    }

    #[test]
    fn operands_are_rounded_alike_with_and_without_instructions() {
        let unit = 2.0f32.powi(-8);
        let cases = [
            (1.0, 1.0),
            // Halfway between two numbers of bf16: to the even one, down here and up there.
            (1.0 + unit, 1.0),
            (1.0 + 3.0 * unit, 1.0 + 4.0 * unit),
            (-1.0 - unit * 1.01, -1.0 - 2.0 * unit),
            (1.0 + unit * 0.99, 1.0),
            (f32::MAX, f32::INFINITY),
            (f32::MIN_POSITIVE, f32::MIN_POSITIVE),
            (f32::MIN_POSITIVE * 0.999, 0.0),
        ];
        for (value, expected) in cases {
            for way in ways() {
                let mut out = [0.0];
                let (a, b) = ([value], [1.0]);
                let (a, b) = (Matrix::new(&a, 1, 1), Matrix::new(&b, 1, 1));
                way.matmul(MatrixMut::new(&mut out, 1, 1), a, b, false);
                assert_eq!(out, [expected], "{way:?} of {value:e}");
            }
        }
        for way in ways() {
            let mut out = [0.0];
            let (a, b) = ([f32::NAN], [1.0]);
            let (a, b) = (Matrix::new(&a, 1, 1), Matrix::new(&b, 1, 1));
            way.matmul(MatrixMut::new(&mut out, 1, 1), a, b, false);
            assert!(out[0].is_nan(), "{way:?}");
        }
    }

    #[test]
    fn columns_and_any_strides_are_read_and_columns_written_alone() {
        let data = numbers(6 * 8, 1);
        // Every second column of three rows.
        let a = Matrix {
            data: &data,
            rows: 3,
            cols: 4,
            row_stride: 8,
            col_stride: 2,
        };
        let gathered: Vec<f32> = (0..12).map(|at| data[at / 4 * 8 + at % 4 * 2]).collect();
        let b = Matrix::new(&data[..40], 5, 8).columns(3..7).t();
        let mut expected = vec![9.0; 3 * 7];
        let to = MatrixMut::new(&mut expected, 3, 7).columns(1..6);
        rounded(to, Matrix::new(&gathered, 3, 4), b, false);
        for way in ways() {
            let mut out = vec![9.0; 3 * 7];
            let to = MatrixMut::new(&mut out, 3, 7).columns(1..6);
            way.matmul(to, a, b, false);
            for (at, (got, expected)) in out.iter().zip(&expected).enumerate() {
                let bound = if (1..6).contains(&(at % 7)) {
                    1e-6
                } else {
                    0.0
                };
                assert!(
                    (got - expected).abs() <= bound,
                    "{way:?} at {at}: {got}, {expected}"
                );
            }
        }
    }

    #[test]
    fn an_empty_sum_is_zero() {
        let (a, b) = (Matrix::new(&[], 2, 0), Matrix::new(&[], 0, 3));
        for way in ways() {
            let mut out = [4.0; 6];
            way.matmul(MatrixMut::new(&mut out, 2, 3).accumulate(true), a, b, true);
            assert_eq!(out, [4.0; 6], "{way:?}");
            way.matmul(MatrixMut::new(&mut out, 2, 3), a, b, true);
            assert_eq!(out, [0.0; 6], "{way:?}");
        }
    }

    #[test]
    fn instructions_are_named_and_found_by_name() {
        let detected = Instructions::detect();
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512bf16") {
            let names = ["x86-64 amx-bf16", "x86-64 avx512bf16"];
            assert!(names.contains(&detected.name()), "{detected:?}");
            // A run that began without AMX goes on without.
            let older = Instructions::named("x86-64 avx512bf16");
            assert!(matches!(older, Some(Instructions::Avx512(_))), "{older:?}");
        } else {
            assert!(matches!(detected, Instructions::Rounded), "{detected:?}");
        }
        let without = Instructions::named(super::super::matmul::instructions());
        assert!(
            matches!(without, Some(Instructions::Rounded)),
            "{without:?}"
        );
        let found = Instructions::named(detected.name()).map(Instructions::name);
        assert_eq!(found, Some(detected.name()));
        assert!(Instructions::named("aarch64 sme").is_none());
    }
}
