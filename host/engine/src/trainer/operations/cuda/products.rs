//! Matrix products by cuBLASLt, into memory that is there already.
//!
//! The algorithm is looked up once for each shape: cuBLASLt's first proposal. On an H100 the best of
//! eight tried was 3 % quicker at most over a whole model (docs/gpu.md), and a choice by the clock
//! could be another one after a restart, and so the numbers.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda::CudaDevice;
use candle_core::cuda::cudarc::cublaslt::result::CublasError;
use candle_core::cuda::cudarc::cublaslt::{result, sys};
use candle_core::cuda::cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use candle_core::{DType, Result, Tensor};

use super::launcher::address;
use crate::trainer::operations::Output;
use crate::trainer::operations::blas::{Product, Stored};

/// What NVIDIA recommends for Hopper.
const WORKSPACE_BYTES: usize = 32 << 20;

/// Numbers of tokens differ from one micro-batch to the next; shapes are looked up as if rounded up to
/// multiples of this.
const BUCKET: usize = 64;

/// cuBLASLt assumes no more alignment than this.
const MOST_ALIGNED: u64 = 256;

/// cuBLASLt, and the algorithms that it proposed.
pub(super) struct Products {
    handle: Handle,
    workspace: CudaSlice<u8>,
    algorithms: Mutex<HashMap<Key, sys::cublasLtMatmulAlgo_t>>,
}

/// What the choice of an algorithm depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    product: Product,
    /// Of both operands and the result, in bytes.
    alignment: [u64; 3],
}

impl Products {
    pub(super) fn new(device: &CudaDevice) -> Result<Self> {
        Ok(Self {
            handle: Handle(result::create_handle().map_err(failed("start"))?),
            // SAFETY: cuBLASLt writes the workspace before it reads it.
            workspace: unsafe { device.alloc::<u8>(WORKSPACE_BYTES)? },
            algorithms: Mutex::default(),
        })
    }

    /// Writes a product; see [`Operations::matmul`](crate::trainer::operations::Operations::matmul).
    pub(super) fn multiply(
        &self,
        stream: &Arc<CudaStream>,
        out: &Output<'_>,
        a: &Tensor,
        b: &Tensor,
    ) -> Result<()> {
        let (product, start) = Product::of(out, a, b)?;
        if product.product.rows == 0 || product.product.columns == 0 {
            return Ok(());
        }
        let into = address(out.tensor(), stream)?;
        let into = into + (start * product.dtype.size_in_bytes()) as u64;
        let places = [address(b, stream)?, address(a, stream)?, into];
        let alignment = places.map(|place| (1 << place.trailing_zeros().min(63)).min(MOST_ALIGNED));
        let rounded = Key {
            product: bucket(product),
            alignment,
        };
        let algorithm = self.algorithm(rounded)?;
        let factor = out.factor();
        match self.run(stream, &product, places, factor, &algorithm) {
            Ok(()) => Ok(()),
            // What was proposed for the rounded shape does not do for this one.
            Err(CublasError(
                sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED
                | sys::cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE,
            )) => {
                let algorithm = self.algorithm(Key { product, alignment })?;
                self.run(stream, &product, places, factor, &algorithm)
                    .map_err(failed("multiply"))
            }
            Err(error) => Err(failed("multiply")(error)),
        }
    }

    fn run(
        &self,
        stream: &Arc<CudaStream>,
        product: &Product,
        [first, second, into]: [u64; 3],
        factor: f32,
        algorithm: &sys::cublasLtMatmulAlgo_t,
    ) -> std::result::Result<(), CublasError> {
        let described = Described::new(product)?;
        let beta: f32 = if product.accumulate { 1.0 } else { 0.0 };
        let (workspace, _in_use) = self.workspace.device_ptr(stream);
        // SAFETY: the addresses are of tensors that are borrowed until the product is queued and whose
        // memory is freed in the order of the same stream; `Product::of` checked that the layouts lie
        // within them; the workspace is used by one product after another, in the stream's order.
        unsafe {
            result::matmul(
                self.handle.0,
                described.operation,
                ptr::from_ref(&factor).cast(),
                ptr::from_ref(&beta).cast(),
                first as *const c_void,
                described.first,
                second as *const c_void,
                described.second,
                into as *const c_void,
                described.product,
                into as *mut c_void,
                described.product,
                ptr::from_ref(algorithm),
                workspace as *mut c_void,
                WORKSPACE_BYTES,
                stream.cu_stream().cast(),
            )
        }
    }

    /// cuBLASLt's first proposal, asked for once.
    fn algorithm(&self, key: Key) -> Result<sys::cublasLtMatmulAlgo_t> {
        let known = self.algorithms.lock();
        let mut known = known.unwrap_or_else(PoisonError::into_inner);
        if let Some(algorithm) = known.get(&key) {
            return Ok(*algorithm);
        }
        let algorithm = propose(self.handle.0, key).map_err(|error| {
            let Key { product, .. } = key;
            failed("find an algorithm for")(error).context(format!("{product:?}"))
        })?;
        known.insert(key, algorithm);
        Ok(algorithm)
    }
}

/// The shape with all sizes rounded up. Tokens are never the distance of columns; where that is no round
/// number itself, as in a vocabulary of 32,001 words, the shape is looked up as it is.
fn bucket(product: Product) -> Product {
    let all = [product.first, product.second, product.product];
    if all.iter().any(|stored| stored.leading % BUCKET != 0) {
        return product;
    }
    let up = |stored: Stored| {
        let rows = stored.rows.next_multiple_of(BUCKET);
        Stored {
            rows,
            columns: stored.columns.next_multiple_of(BUCKET),
            leading: stored.leading.max(rows),
            ..stored
        }
    };
    Product {
        first: up(product.first),
        second: up(product.second),
        product: up(product.product),
        ..product
    }
}

fn propose(
    handle: sys::cublasLtHandle_t,
    Key { product, alignment }: Key,
) -> std::result::Result<sys::cublasLtMatmulAlgo_t, CublasError> {
    use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
    let described = Described::new(&product)?;
    let preference = Preference(result::create_matmul_pref()?);
    let [first, second, into] = alignment.map(|bytes| bytes as u32);
    let aligned = [
        (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, first),
        (
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            second,
        ),
        (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, into),
        (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, into),
    ];
    // SAFETY: all handles are live; the workspace's attribute is of 8 bytes, the others of 4.
    unsafe {
        result::set_matmul_pref_attribute(
            preference.0,
            Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            ptr::from_ref(&WORKSPACE_BYTES).cast(),
            8,
        )?;
        // Parts of a sum are added in f32, and not in the format of the result.
        let scheme = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        result::set_matmul_pref_attribute(
            preference.0,
            Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
            ptr::from_ref(&scheme).cast(),
            4,
        )?;
        for (attribute, bytes) in aligned {
            let place = ptr::from_ref(&bytes).cast();
            result::set_matmul_pref_attribute(preference.0, attribute, place, 4)?;
        }
        let proposed = result::get_matmul_algo_heuristic(
            handle,
            described.operation,
            described.first,
            described.second,
            described.product,
            described.product,
            preference.0,
        )?;
        Ok(proposed.algo)
    }
}

fn failed(action: &'static str) -> impl Fn(CublasError) -> candle_core::Error {
    move |error| candle_core::Error::Msg(format!("cuBLASLt cannot {action} a product: {error:?}"))
}

/// cuBLASLt itself.
struct Handle(sys::cublasLtHandle_t);

// SAFETY: cuBLASLt's documentation: a handle may be used by several threads at once.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: made in `Products::new`, destroyed once. There is nothing to do about a failure.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

struct Preference(sys::cublasLtMatmulPreference_t);

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: made in `propose`, destroyed once. There is nothing to do about a failure.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

/// A product in cuBLASLt's own words.
struct Described {
    operation: sys::cublasLtMatmulDesc_t,
    first: sys::cublasLtMatrixLayout_t,
    second: sys::cublasLtMatrixLayout_t,
    product: sys::cublasLtMatrixLayout_t,
}

impl Described {
    fn new(product: &Product) -> std::result::Result<Self, CublasError> {
        let element = match product.dtype {
            DType::BF16 => sys::cudaDataType_t::CUDA_R_16BF,
            _ => sys::cudaDataType_t::CUDA_R_32F,
        };
        let layout = |stored: Stored| {
            let (rows, columns) = (stored.rows as u64, stored.columns as u64);
            result::create_matrix_layout(element, rows, columns, stored.leading as i64)
        };
        let described = Self {
            operation: result::create_matmul_desc(
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cudaDataType_t::CUDA_R_32F,
            )?,
            first: layout(product.first)?,
            second: layout(product.second)?,
            product: layout(product.product)?,
        };
        let attributes = [
            (
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
                product.first.transposed,
            ),
            (
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSB,
                product.second.transposed,
            ),
        ];
        for (attribute, transposed) in attributes {
            let value = i32::from(transposed);
            let place = ptr::from_ref(&value).cast();
            // SAFETY: these attributes are of 4 bytes; 1 is CUBLAS_OP_T, 0 is CUBLAS_OP_N.
            unsafe { result::set_matmul_desc_attribute(described.operation, attribute, place, 4)? };
        }
        Ok(described)
    }
}

impl Drop for Described {
    fn drop(&mut self) {
        // SAFETY: each was made in `new` and is destroyed once. There is nothing to do about a failure.
        unsafe {
            let _ = result::destroy_matrix_layout(self.first);
            let _ = result::destroy_matrix_layout(self.second);
            let _ = result::destroy_matrix_layout(self.product);
            let _ = result::destroy_matmul_desc(self.operation);
        }
    }
}
