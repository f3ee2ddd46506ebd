use candle_core::Device;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};

use super::*;

fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

#[test]
fn agrees_with_double_precision_at_odd_sizes() {
    for (rows, outputs, inputs) in [(1, 1, 1), (3, 33, 17), (11, 100, 70), (16, 64, 48)] {
        let (w, x) = (numbers(outputs * inputs, 1), numbers(rows * inputs, 2));
        let packed = PackedMatrix::pack(inputs, &[&Stored::F32(w.clone())]);
        for with in Instructions::available() {
            let mut y = vec![0.0; rows * outputs];
            packed.multiply(&x, &mut y, with);
            for r in 0..rows {
                for o in 0..outputs {
                    let exact: f64 = (0..inputs)
                        .map(|i| f64::from(x[r * inputs + i]) * f64::from(w[o * inputs + i]))
                        .sum();
                    let found = f64::from(y[r * outputs + o]);
                    assert!((found - exact).abs() < 1e-4, "{with:?} {found} {exact}");
                }
            }
        }
    }
}

#[test]
fn a_row_is_the_same_to_the_bit_in_any_company() {
    let (outputs, inputs, rows) = (200, 96, 23);
    let (w, x) = (numbers(outputs * inputs, 3), numbers(rows * inputs, 4));
    let packed = PackedMatrix::pack(inputs, &[&Stored::F32(w)]);
    for with in Instructions::available() {
        let mut together = vec![0.0; rows * outputs];
        packed.multiply(&x, &mut together, with);
        for count in 1..rows {
            let mut fewer = vec![0.0; count * outputs];
            packed.multiply(&x[..count * inputs], &mut fewer, with);
            assert_eq!(fewer, together[..count * outputs], "{with:?}, {count} rows");
        }
    }
}

#[test]
fn both_vector_widths_agree_to_the_bit() {
    let (outputs, inputs, rows) = (70, 130, 5);
    let (w, x) = (numbers(outputs * inputs, 5), numbers(rows * inputs, 6));
    let packed = PackedMatrix::pack(inputs, &[&Stored::F32(w)]);
    let results: Vec<Vec<f32>> = Instructions::available()
        .into_iter()
        .filter(|with| *with != Instructions::Portable)
        .map(|with| {
            let mut y = vec![0.0; rows * outputs];
            packed.multiply(&x, &mut y, with);
            y
        })
        .collect();
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}

const FORMATS: [(Format, GgmlDType); 10] = [
    (Format::F16, GgmlDType::F16),
    (Format::Bf16, GgmlDType::BF16),
    (Format::Q4_0, GgmlDType::Q4_0),
    (Format::Q4_1, GgmlDType::Q4_1),
    (Format::Q5_0, GgmlDType::Q5_0),
    (Format::Q5_1, GgmlDType::Q5_1),
    (Format::Q8_0, GgmlDType::Q8_0),
    (Format::Q4K, GgmlDType::Q4K),
    (Format::Q5K, GgmlDType::Q5K),
    (Format::Q6K, GgmlDType::Q6K),
];

/// A matrix as a file may have it: any integers, scales and minima of either sign. And the f32 that candle
/// makes of it.
fn from_file(format: Format, outputs: usize, inputs: usize) -> (Stored, Vec<f32>) {
    let (_, dtype) = FORMATS.into_iter().find(|(f, _)| *f == format).unwrap();
    let mut numbers = numbers(3 * outputs * inputs, 9).into_iter();
    let mut number = || numbers.next().unwrap();
    let mut bytes = vec![0; format.bytes(outputs * inputs)];
    // Where the numbers of 16 bits of a block lie.
    let places: &[usize] = match format {
        Format::F16 | Format::Bf16 | Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => &[0],
        Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => &[0, 2],
        Format::Q6K => &[208],
    };
    for block in bytes.chunks_exact_mut(dtype.type_size()) {
        block.fill_with(|| (number() * 1e6) as i32 as u8);
        for place in places {
            let number = match format {
                Format::Bf16 => half::bf16::from_f32(number()).to_le_bytes(),
                _ => half::f16::from_f32(number()).to_le_bytes(),
            };
            block[*place..place + 2].copy_from_slice(&number);
        }
    }
    let storage = QStorage::from_data(bytes.as_slice().into(), &Device::Cpu, dtype).unwrap();
    let tensor = QTensor::new(storage, (outputs, inputs)).unwrap();
    let theirs = tensor.dequantize(&Device::Cpu).unwrap();
    let theirs = theirs.flatten_all().unwrap().to_vec1().unwrap();
    (Stored::Blocks(format, bytes), theirs)
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

#[test]
fn every_format_gives_the_results_of_candles_dequantized_weights_to_the_bit() {
    for (format, dtype) in FORMATS {
        assert_eq!(Format::of(dtype), Some(format));
        // Inputs past one unpacked part, outputs past one panel.
        for (outputs, inputs) in [(70, 256), (33, 1536)] {
            let (stored, weights) = from_file(format, outputs, inputs);
            let packed = PackedMatrix::pack(inputs, &[&stored]);
            let plain = PackedMatrix::pack(inputs, &[&Stored::F32(weights.clone())]);
            for (output, weights) in weights.chunks_exact(inputs).enumerate() {
                let mut row = vec![0.0; inputs];
                packed.row(output, &mut row);
                assert_eq!(bits(&row), bits(weights), "{format:?}, row {output}");
            }
            for rows in [1, 2, 5, 8, 9, 19] {
                let x = numbers(rows * inputs, 10);
                for with in Instructions::available() {
                    let mut ours = vec![0.0; rows * outputs];
                    let mut theirs = ours.clone();
                    packed.multiply(&x, &mut ours, with);
                    plain.multiply(&x, &mut theirs, with);
                    assert_eq!(
                        bits(&ours),
                        bits(&theirs),
                        "{format:?}, {with:?}, {rows} rows of {inputs}"
                    );
                }
            }
        }
    }
}

#[test]
fn numbers_of_16_bits_need_no_whole_blocks() {
    let (outputs, inputs) = (5, 17);
    for format in [Format::F16, Format::Bf16] {
        let (stored, weights) = from_file(format, outputs, inputs);
        let packed = PackedMatrix::pack(inputs, &[&stored]);
        let plain = PackedMatrix::pack(inputs, &[&Stored::F32(weights)]);
        let x = numbers(3 * inputs, 12);
        for with in Instructions::available() {
            let (mut ours, mut theirs) = (vec![0.0; 3 * outputs], vec![0.0; 3 * outputs]);
            packed.multiply(&x, &mut ours, with);
            plain.multiply(&x, &mut theirs, with);
            assert_eq!(bits(&ours), bits(&theirs), "{format:?}, {with:?}");
        }
    }
}

#[test]
fn matrices_of_different_formats_stand_one_under_the_other() {
    let formats = [Format::Q4K, Format::Q4K, Format::Q6K, Format::Bf16];
    let outputs = [40, 24, 5, 33];
    let matrices: Vec<(Stored, Vec<f32>)> = formats
        .into_iter()
        .zip(outputs)
        .map(|(format, outputs)| from_file(format, outputs, 256))
        .collect();
    let stored: Vec<&Stored> = matrices.iter().map(|(stored, _)| stored).collect();
    let weights = matrices.iter().flat_map(|(_, weights)| weights);
    let weights: Vec<f32> = weights.copied().collect();
    let mixed = PackedMatrix::pack(256, &stored);
    for (output, weights) in weights.chunks_exact(256).enumerate() {
        let mut row = vec![0.0; 256];
        mixed.row(output, &mut row);
        assert_eq!(bits(&row), bits(weights), "row {output}");
    }
    let plain = PackedMatrix::pack(256, &[&Stored::F32(weights)]);
    for rows in [3, 12] {
        let x = numbers(rows * 256, 11);
        let (mut ours, mut theirs) = (vec![0.0; rows * 102], vec![0.0; rows * 102]);
        mixed.multiply(&x, &mut ours, Instructions::detected());
        plain.multiply(&x, &mut theirs, Instructions::detected());
        assert_eq!(bits(&ours), bits(&theirs));
    }
}

#[test]
fn rows_change_places_in_every_format() {
    for (format, _) in FORMATS {
        let (stored, weights) = from_file(format, 6, 256);
        let turned = PackedMatrix::pack(256, &[&stored.with_rows(256, |row| 5 - row)]);
        let mut row = vec![0.0; 256];
        turned.row(0, &mut row);
        assert_eq!(bits(&row), bits(&weights[5 * 256..]), "{format:?}");
    }
}
