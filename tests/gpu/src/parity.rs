//! Every operation a LLaMA layer needs, on the device in f32 and bf16, against the same mathematics on
//! the CPU in f64.
//!
//! The reference starts from the inputs as the device gets them, rounded to its type, so an error says
//! what the operation itself loses. Errors are the largest absolute difference over the largest
//! absolute value of the reference.

use anyhow::{Context, Result, bail};
use candle_core::cuda::{
    gemm_reduced_precision_bf16, gemm_reduced_precision_f32, set_gemm_reduced_precision_bf16,
    set_gemm_reduced_precision_f32,
};
use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops;
use candle_nn::rotary_emb;

use crate::random;
use crate::report::Report;

const EPSILON: f32 = 1e-5;

type Operation = fn(&[Tensor]) -> candle_core::Result<Tensor>;

struct Case {
    name: &'static str,
    inputs: Vec<Tensor>,
    operation: Operation,
    /// What the operation should compute; run in f64.
    reference: Operation,
    /// The largest error allowed in f32 and in bf16.
    bounds: [f64; 2],
}

/// Adds one row for each operation and type. On the CPU f32 alone: candle sums bf16 in bf16 there, and
/// the trainer has a CPU engine of its own.
pub fn run(device: &Device, report: &mut Report) -> Result<()> {
    report.noted("device", &format!("{:?}", device.location()));
    let (products, layers) = (products()?, layers()?);
    for case in products.iter().chain(&layers) {
        check(device, report, case, DType::F32, case.bounds[0], "")?;
    }
    if !device.is_cuda() {
        return Ok(());
    }
    for case in products.iter().chain(&layers) {
        check(device, report, case, DType::BF16, case.bounds[1], "")?;
    }
    let at_start = (gemm_reduced_precision_f32(), gemm_reduced_precision_bf16());
    report.noted(
        "products in reduced precision unless told",
        &format!("f32 {}, bf16 {}", at_start.0, at_start.1),
    );
    set_gemm_reduced_precision_f32(true);
    set_gemm_reduced_precision_bf16(true);
    for case in &products {
        // TF32 keeps ten bits of the fraction.
        check(device, report, case, DType::F32, 2e-3, " (TF32)")?;
        check(
            device,
            report,
            case,
            DType::BF16,
            case.bounds[1],
            " (reduced)",
        )?;
    }
    set_gemm_reduced_precision_f32(at_start.0);
    set_gemm_reduced_precision_bf16(at_start.1);
    Ok(())
}

fn check(
    device: &Device,
    report: &mut Report,
    case: &Case,
    dtype: DType,
    bound: f64,
    remark: &str,
) -> Result<()> {
    let name = format!("{}, {}{remark}", case.name, dtype.as_str());
    let (mut given, mut exact) = (Vec::new(), Vec::new());
    for input in &case.inputs {
        let rounded = cast_floats(input, dtype)?;
        exact.push(cast_floats(&rounded, DType::F64)?);
        given.push(rounded.to_device(device)?);
    }
    let result = (case.operation)(&given).with_context(|| name.clone())?;
    let error = error_of_max(&result, &(case.reference)(&exact)?)?;
    report.bounded(&name, error, bound);
    Ok(())
}

/// Indices stay what they are.
fn cast_floats(tensor: &Tensor, dtype: DType) -> candle_core::Result<Tensor> {
    if tensor.dtype().is_float() {
        tensor.to_dtype(dtype)
    } else {
        Ok(tensor.clone())
    }
}

/// The largest difference over the largest reference value.
pub fn error_of_max(result: &Tensor, reference: &Tensor) -> Result<f64> {
    if result.dims() != reference.dims() {
        bail!(
            "the result has shape {:?}, the reference {:?}",
            result.dims(),
            reference.dims()
        );
    }
    let result = result.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
    // Through vectors: `max` passes over NaN, and a NaN must not pass.
    let result: Vec<f64> = result.flatten_all()?.to_vec1()?;
    let reference: Vec<f64> = reference.flatten_all()?.to_vec1()?;
    let largest = reference
        .iter()
        .fold(0.0_f64, |most, value| most.max(value.abs()));
    let mut worst = 0.0_f64;
    for (a, b) in result.iter().zip(&reference) {
        let difference = (a - b).abs();
        if difference.is_nan() {
            return Ok(f64::NAN);
        }
        worst = worst.max(difference);
    }
    Ok(worst / largest)
}

fn products() -> Result<Vec<Case>> {
    let (tokens, input, output) = (512, 4096, 1024);
    let activations = random::normal(1, &[tokens, input])?;
    let weight = random::normal(2, &[output, input])?;
    let gradient = random::normal(3, &[tokens, output])?;
    // bf16 rounds the result to 8 bits: half a step of the largest value is 2^-9.
    let bounds = [1e-5, 4e-3];
    let case = |name, inputs, operation| Case {
        name,
        inputs,
        operation,
        reference: operation,
        bounds,
    };
    Ok(vec![
        case(
            "product x W",
            vec![activations.clone(), weight.t()?.contiguous()?],
            |t| t[0].matmul(&t[1]),
        ),
        case(
            "product x W^T",
            vec![activations.clone(), weight.clone()],
            |t| t[0].matmul(&t[1].t()?),
        ),
        case("input gradient dy W", vec![gradient.clone(), weight], |t| {
            t[0].matmul(&t[1])
        }),
        case("weight gradient dy^T x", vec![gradient, activations], |t| {
            t[0].t()?.matmul(&t[1])
        }),
    ])
}

fn layers() -> Result<Vec<Case>> {
    let (tokens, hidden, inner, vocabulary) = (512, 4096, 11008, 32000);
    let (heads, head_dim) = (32, 128);
    let x = random::normal(4, &[tokens, hidden])?;
    let norm_weight = random::normal(5, &[hidden])?.affine(0.1, 1.0)?;
    let per_head = random::normal(6, &[1, heads, tokens, head_dim])?;
    let (cosine, sine) = rotations(tokens, head_dim)?;
    let scores = random::normal(7, &[tokens, tokens])?.affine(4.0, 0.0)?;
    let gate = random::normal(8, &[tokens, inner])?;
    let up = random::normal(9, &[tokens, inner])?;
    let table = random::normal(10, &[vocabulary, 256])?;
    let ids = random::indices(11, tokens, vocabulary as u32)?;
    let logits = random::normal(12, &[128, vocabulary])?.affine(3.0, 0.0)?;
    let targets = random::indices(13, 128, vocabulary as u32)?;
    let rope_inputs = vec![per_head, cosine, sine];
    Ok(vec![
        Case {
            name: "RMSNorm, fused",
            inputs: vec![x.clone(), norm_weight.clone()],
            operation: |t| ops::rms_norm(&t[0], &t[1], EPSILON),
            reference: rms_norm,
            bounds: [1e-5, 8e-3],
        },
        Case {
            name: "RMSNorm, composed",
            inputs: vec![x, norm_weight],
            operation: |t| ops::rms_norm_slow(&t[0], &t[1], EPSILON),
            reference: rms_norm,
            bounds: [1e-5, 8e-3],
        },
        Case {
            name: "RoPE, fused",
            inputs: rope_inputs.clone(),
            operation: |t| rotary_emb::rope(&t[0], &t[1], &t[2]),
            reference: |t| rotary_emb::rope_slow(&t[0], &t[1], &t[2]),
            bounds: [1e-5, 8e-3],
        },
        Case {
            name: "RoPE, composed",
            inputs: rope_inputs,
            operation: |t| rotary_emb::rope_slow(&t[0], &t[1], &t[2]),
            reference: |t| rotary_emb::rope_slow(&t[0], &t[1], &t[2]),
            bounds: [1e-5, 8e-3],
        },
        Case {
            name: "softmax, fused",
            inputs: vec![scores.clone()],
            operation: |t| ops::softmax_last_dim(&t[0]),
            reference: |t| ops::softmax(&t[0], D::Minus1),
            bounds: [1e-5, 2e-2],
        },
        Case {
            name: "softmax, composed",
            inputs: vec![scores],
            operation: |t| ops::softmax(&t[0], D::Minus1),
            reference: |t| ops::softmax(&t[0], D::Minus1),
            bounds: [1e-5, 2e-2],
        },
        Case {
            name: "SwiGLU, silu then product",
            inputs: vec![gate, up],
            operation: |t| ops::silu(&t[0])? * &t[1],
            reference: |t| ops::silu(&t[0])? * &t[1],
            bounds: [1e-5, 8e-3],
        },
        Case {
            name: "embedding gather",
            inputs: vec![table, ids],
            operation: |t| t[0].index_select(&t[1], 0),
            reference: |t| t[0].index_select(&t[1], 0),
            bounds: [0.0, 0.0],
        },
        Case {
            name: "cross-entropy a row, composed",
            inputs: vec![logits.clone(), targets.clone()],
            operation: cross_entropy_rows,
            reference: cross_entropy_rows,
            bounds: [1e-5, 2e-2],
        },
        Case {
            name: "cross-entropy a row, logits taken to f32",
            inputs: vec![logits, targets],
            operation: |t| cross_entropy_rows(&[t[0].to_dtype(DType::F32)?, t[1].clone()]),
            reference: cross_entropy_rows,
            bounds: [1e-5, 1e-5],
        },
    ])
}

/// RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467) in the inputs' own type; `rms_norm_slow`
/// casts f64 down to f32, so it cannot be the reference.
fn rms_norm(tensors: &[Tensor]) -> candle_core::Result<Tensor> {
    let mean_square = tensors[0].sqr()?.mean_keepdim(D::Minus1)?;
    let root = mean_square.affine(1.0, f64::from(EPSILON))?.sqrt()?;
    tensors[0].broadcast_div(&root)?.broadcast_mul(&tensors[1])
}

/// `[rows, vocabulary]` logits and `[rows]` targets to the `[rows]` losses.
fn cross_entropy_rows(tensors: &[Tensor]) -> candle_core::Result<Tensor> {
    let logits = &tensors[0];
    let at_target = logits.gather(&tensors[1].unsqueeze(1)?, 1)?.squeeze(1)?;
    let greatest = logits.max_keepdim(D::Minus1)?;
    let sums = logits
        .broadcast_sub(&greatest)?
        .exp()?
        .sum(D::Minus1)?
        .log()?;
    (sums + greatest.squeeze(1)?)? - at_target
}

/// Cosines and sines of RoPE (Su et al. 2021, arXiv 2104.09864), each `[tokens, head_dim / 2]`.
fn rotations(tokens: usize, head_dim: usize) -> Result<(Tensor, Tensor)> {
    let half = head_dim / 2;
    let frequencies: Vec<f32> = (0..half)
        .map(|i| 10000_f32.powf(-2.0 * i as f32 / head_dim as f32))
        .collect();
    let frequencies = Tensor::from_vec(frequencies, (1, half), &Device::Cpu)?;
    let positions = Tensor::arange(0_u32, tokens as u32, &Device::Cpu)?.to_dtype(DType::F32)?;
    let angles = positions.unsqueeze(1)?.matmul(&frequencies)?;
    Ok((angles.cos()?, angles.sin()?))
}
