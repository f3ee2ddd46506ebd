//! A product through cuBLASLt, into memory that is there already, with the algorithm chosen by trial.
//!
//! candle calls cuBLAS with its default algorithm and allocates each result. A trainer would choose once
//! per shape, and add weight gradients to what is there (beta = 1). This says what that is worth.

use std::ffi::c_void;
use std::ptr;

use anyhow::{Result, bail};
use candle_core::Device;
use candle_core::cuda_backend::cudarc::cublaslt::{result, sys};
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, DevicePtrMut};
use half::bf16;
use serde_json::json;

use super::PEAK_BF16;
use super::clock::Clock;
use super::matmul::{Form, Linear};
use crate::report::Report;

/// What cuBLAS itself recommends for Hopper.
const WORKSPACE_BYTES: usize = 32 << 20;
const CANDIDATES: usize = 8;

/// Times the algorithms that cuBLASLt proposes for one product; reports the first and the best.
pub fn run(
    device: &Device,
    report: &mut Report,
    clock: &Clock,
    linear: Linear,
    form: Form,
    tokens: usize,
) -> Result<()> {
    // Row-major C[m, n] = A B is column-major C^T = B^T A^T: so B comes first below.
    let (m, n, k, transpose_first, transpose_second) = match form {
        Form::Forward => (tokens, linear.output, linear.input, true, false),
        Form::ForwardPlain => (tokens, linear.output, linear.input, false, false),
        Form::InputGradient => (tokens, linear.input, linear.output, false, false),
        Form::WeightGradient => (linear.output, linear.input, tokens, false, true),
    };
    let cuda = device.as_cuda_device()?;
    let stream = cuda.cuda_stream();
    let first = random(device, n * k)?;
    let second = random(device, m * k)?;
    let mut product = random(device, m * n)?;
    // SAFETY: cuBLASLt writes the workspace before it reads it.
    let mut workspace = unsafe { cuda.alloc::<u8>(WORKSPACE_BYTES)? };
    let plan = Plan::new(m, n, k, transpose_first, transpose_second)?;
    let algorithms = plan.algorithms()?;
    let (first, _first_use) = first.device_ptr(&stream);
    let (second, _second_use) = second.device_ptr(&stream);
    let (product, _product_use) = product.device_ptr_mut(&stream);
    let (workspace, _workspace_use) = workspace.device_ptr_mut(&stream);
    let beta: f32 = if form == Form::WeightGradient {
        1.0
    } else {
        0.0
    };
    // With beta = 1 the sum grows with each call; a small alpha keeps it finite.
    let alpha: f32 = if beta == 0.0 { 1.0 } else { 1e-6 };
    let mut times = Vec::new();
    for algorithm in &algorithms {
        let time = clock.seconds(|| {
            // SAFETY: the four buffers live to the end of this function and have the sizes that the
            // layouts of `plan` state; the algorithm was proposed for these layouts and this workspace.
            unsafe {
                result::matmul(
                    plan.handle,
                    plan.operation,
                    ptr::from_ref(&alpha).cast(),
                    ptr::from_ref(&beta).cast(),
                    first as *const c_void,
                    plan.first,
                    second as *const c_void,
                    plan.second,
                    product as *const c_void,
                    plan.product,
                    product as *mut c_void,
                    plan.product,
                    ptr::from_ref(&algorithm.algo),
                    workspace as *mut c_void,
                    WORKSPACE_BYTES,
                    stream.cu_stream().cast(),
                )?;
            }
            Ok(())
        })?;
        times.push(time);
    }
    let best = times.iter().copied().fold(f64::INFINITY, f64::min);
    let operations = 2.0 * m as f64 * n as f64 * k as f64;
    let remark = if beta == 0.0 { "" } else { ", added (beta 1)" };
    let name = format!(
        "cuBLASLt best, {}, {}{remark}, {tokens} tokens",
        linear.name,
        form.name()
    );
    let details = json!({
        "of_peak": operations / best / PEAK_BF16,
        "seconds": best,
        "against": format!("{:.3} of its first choice, {} tried", times[0] / best, times.len()),
    });
    report.measured(&name, operations / best / 1e12, "TFLOP/s", details);
    Ok(())
}

fn random(
    device: &Device,
    count: usize,
) -> Result<candle_core::cuda_backend::cudarc::driver::CudaSlice<bf16>> {
    let tensor = super::normal_bf16(device, 1, count)?;
    let (storage, _) = tensor.storage_and_layout();
    match &*storage {
        candle_core::Storage::Cuda(storage) => Ok(storage.as_cuda_slice::<bf16>()?.clone()),
        _ => bail!("the tensor is not on the card"),
    }
}

/// cuBLASLt's description of one bf16 product with f32 accumulation.
struct Plan {
    handle: sys::cublasLtHandle_t,
    operation: sys::cublasLtMatmulDesc_t,
    first: sys::cublasLtMatrixLayout_t,
    second: sys::cublasLtMatrixLayout_t,
    product: sys::cublasLtMatrixLayout_t,
}

impl Plan {
    fn new(
        m: usize,
        n: usize,
        k: usize,
        transpose_first: bool,
        transpose_second: bool,
    ) -> Result<Self> {
        let element = sys::cudaDataType_t::CUDA_R_16BF;
        let layout = |rows: usize, columns: usize| {
            result::create_matrix_layout(element, rows as u64, columns as u64, rows as i64)
        };
        let plan = Self {
            handle: result::create_handle()?,
            operation: result::create_matmul_desc(
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cudaDataType_t::CUDA_R_32F,
            )?,
            first: if transpose_first {
                layout(k, n)?
            } else {
                layout(n, k)?
            },
            second: if transpose_second {
                layout(m, k)?
            } else {
                layout(k, m)?
            },
            product: layout(n, m)?,
        };
        for (attribute, transposed) in [
            (
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
                transpose_first,
            ),
            (
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSB,
                transpose_second,
            ),
        ] {
            let value = i32::from(transposed);
            // SAFETY: these attributes are of 4 bytes; 1 is CUBLAS_OP_T, 0 is CUBLAS_OP_N.
            unsafe {
                result::set_matmul_desc_attribute(
                    plan.operation,
                    attribute,
                    ptr::from_ref(&value).cast(),
                    4,
                )?;
            }
        }
        Ok(plan)
    }

    fn algorithms(&self) -> Result<Vec<sys::cublasLtMatmulHeuristicResult_t>> {
        let preference = result::create_matmul_pref()?;
        let mut found = Vec::with_capacity(CANDIDATES);
        let mut count = 0;
        // SAFETY: the descriptors are live; the attribute is of 8 bytes; cuBLASLt writes at most
        // CANDIDATES results and says in `count` how many it wrote.
        unsafe {
            result::set_matmul_pref_attribute(
                preference,
                sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                ptr::from_ref(&WORKSPACE_BYTES).cast(),
                8,
            )?;
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                self.operation,
                self.first,
                self.second,
                self.product,
                self.product,
                preference,
                CANDIDATES as i32,
                found.as_mut_ptr(),
                &mut count,
            )
            .result()?;
            found.set_len(count as usize);
            result::destroy_matmul_pref(preference)?;
        }
        if found.is_empty() {
            bail!("cuBLASLt has no algorithm for this product");
        }
        Ok(found)
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: each was made in `new` and is destroyed once. There is nothing to do about a failure.
        unsafe {
            let _ = result::destroy_matrix_layout(self.first);
            let _ = result::destroy_matrix_layout(self.second);
            let _ = result::destroy_matrix_layout(self.product);
            let _ = result::destroy_matmul_desc(self.operation);
            let _ = result::destroy_handle(self.handle);
        }
    }
}
