//! An RMSNorm of our own as a candle operation, its kernel compiled from source text at run time.

use anyhow::{Context, Result};
use candle_core::cuda_backend::cudarc::driver::{LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::cuda_backend::{CudaStorage, WrapErr};
use candle_core::{CpuStorage, CustomOp2, Layout, Shape};
use half::bf16;

const SOURCE: &str = include_str!("fused_rms_norm.cu");
const THREADS: usize = 256;

/// RMSNorm forward in bf16 over the last dimension, which must be a multiple of 8.
#[derive(Clone)]
pub struct FusedRmsNorm {
    ptx: String,
    /// What NVRTC fixed at compile time: 16-byte pieces of a row for each thread.
    vectors: usize,
    epsilon: f32,
}

impl FusedRmsNorm {
    /// Compiles the kernel for rows of `columns`.
    pub fn compile(columns: usize, epsilon: f32) -> Result<Self> {
        let vectors = columns.div_ceil(8 * THREADS);
        let options = CompileOptions {
            arch: Some("compute_90"),
            options: vec![format!("-DVECTORS={vectors}")],
            ..Default::default()
        };
        let ptx =
            compile_ptx_with_opts(SOURCE, options).context("NVRTC did not compile the RMSNorm")?;
        Ok(Self {
            ptx: ptx.to_src(),
            vectors,
            epsilon,
        })
    }
}

impl CustomOp2 for FusedRmsNorm {
    fn name(&self) -> &'static str {
        "fused-rms-norm"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        candle_core::bail!("the fused RMSNorm is a CUDA kernel; on the CPU use the composed one")
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        let (Some((x_start, x_end)), Some((weight_start, weight_end))) = (
            x_layout.contiguous_offsets(),
            weight_layout.contiguous_offsets(),
        ) else {
            candle_core::bail!("the fused RMSNorm needs contiguous inputs");
        };
        let columns = weight_end - weight_start;
        if columns % 8 != 0
            || columns > 8 * THREADS * self.vectors
            || (x_end - x_start) % columns != 0
        {
            candle_core::bail!("the fused RMSNorm was not compiled for rows of {columns}");
        }
        let rows = (x_end - x_start) / columns;
        let device = &x.device;
        // candle finds a loaded module by this name alone, whatever PTX comes with it.
        let module = format!("fused_rms_norm_{}", self.vectors);
        let function = device.get_or_load_custom_func("rms_norm_forward", &module, &self.ptx)?;
        let x = x.as_cuda_slice::<bf16>()?.slice(x_start..x_end);
        let weight = weight
            .as_cuda_slice::<bf16>()?
            .slice(weight_start..weight_end);
        // SAFETY: the kernel writes every element of both.
        let (y, reciprocal_root) = unsafe {
            (
                device.alloc::<bf16>(rows * columns)?,
                device.alloc::<f32>(rows)?,
            )
        };
        let columns = columns as i32;
        let mut arguments = function.builder();
        arguments
            .arg(&x)
            .arg(&weight)
            .arg(&y)
            .arg(&reciprocal_root)
            .arg(&columns)
            .arg(&self.epsilon);
        let launch = LaunchConfig {
            grid_dim: (rows as u32, 1, 1),
            block_dim: (THREADS as u32, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the arguments match the kernel's parameters in number, order and type; the sizes were
        // checked above; 16-byte alignment follows from the allocation's and from `columns % 8 == 0`.
        unsafe { arguments.launch(launch) }.w()?;
        Ok((
            CudaStorage::wrap_cuda_slice(y, device.clone()),
            x_layout.shape().clone(),
        ))
    }
}
