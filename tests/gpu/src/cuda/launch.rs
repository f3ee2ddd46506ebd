//! What it costs to start an operation, to get memory, and to move data between host and card.

use std::time::Instant;

use anyhow::Result;
use candle_core::cuda_backend::cudarc::driver::{LaunchConfig, PushKernelArg, result, sys};
use candle_core::cuda_backend::cudarc::nvrtc::compile_ptx;
use candle_core::{CudaDevice, Device, Tensor};
use serde_json::json;

use super::normal_bf16;
use crate::report::Report;

const LAUNCHES: usize = 10_000;
const GRAPH_LAUNCHES: usize = 1000;
const BLOCK: usize = 64 << 20;
const COPIED: usize = 256 << 20;

const ADD_ONE: &str = r#"
extern "C" __global__ void add_one(float* values, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) values[i] += 1.0f;
}"#;

/// Launches, then allocations, then copies. The last of the allocation rows changes how candle's memory
/// pool behaves for the rest of the process, so nothing that depends on it may follow.
pub fn run(device: &Device, report: &mut Report) -> Result<()> {
    // A stream that can be captured: candle's own default is another for each thread.
    let device_with_stream = Device::new_cuda_with_stream(0)?;
    launches(&device_with_stream, report)?;
    copies(device, report)?;
    allocations(device, report)
}

fn launches(device: &Device, report: &mut Report) -> Result<()> {
    let cuda = device.as_cuda_device()?;
    add_small(
        device,
        report,
        "candle add of 1024 f32, with event tracking",
    )?;
    // SAFETY: this device is used on one stream and from one thread.
    unsafe { cuda.disable_event_tracking() };
    add_small(
        device,
        report,
        "candle add of 1024 f32, without event tracking",
    )?;
    own_kernel(cuda, report)
}

fn add_small(device: &Device, report: &mut Report, name: &str) -> Result<()> {
    let a = Tensor::randn(0_f32, 1.0, 1024, device)?;
    let b = Tensor::randn(0_f32, 1.0, 1024, device)?;
    for _ in 0..100 {
        (&a + &b)?;
    }
    device.synchronize()?;
    let start = Instant::now();
    for _ in 0..LAUNCHES {
        (&a + &b)?;
    }
    let enqueued = start.elapsed().as_secs_f64();
    device.synchronize()?;
    let total = start.elapsed().as_secs_f64();
    let details = json!({ "host_microseconds": 1e6 * enqueued / LAUNCHES as f64 });
    report.measured(
        name,
        1e6 * total / LAUNCHES as f64,
        "us an operation",
        details,
    );
    Ok(())
}

fn own_kernel(cuda: &CudaDevice, report: &mut Report) -> Result<()> {
    let ptx = compile_ptx(ADD_ONE)?.to_src();
    let function = cuda.get_or_load_custom_func("add_one", "add_one", &ptx)?;
    let values = cuda.alloc_zeros::<f32>(1024)?;
    let count = 1024_i32;
    let launch = LaunchConfig {
        grid_dim: (4, 1, 1),
        block_dim: (256, 1, 1),
        shared_mem_bytes: 0,
    };
    let once = || -> Result<()> {
        let mut arguments = function.builder();
        arguments.arg(&values).arg(&count);
        // SAFETY: the arguments match the kernel's parameters; `values` holds `count` elements.
        unsafe { arguments.launch(launch) }?;
        Ok(())
    };
    let stream = cuda.cuda_stream();
    for _ in 0..100 {
        once()?;
    }
    stream.synchronize()?;
    let start = Instant::now();
    for _ in 0..LAUNCHES {
        once()?;
    }
    stream.synchronize()?;
    let each = start.elapsed().as_secs_f64() / LAUNCHES as f64;
    report.measured(
        "own kernel, memory there already",
        1e6 * each,
        "us an operation",
        json!({}),
    );

    stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    for _ in 0..GRAPH_LAUNCHES {
        once()?;
    }
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let Some(graph) = stream.end_capture(flags)? else {
        report.noted("the same from a CUDA graph", "the capture gave no graph");
        return Ok(());
    };
    graph.launch()?;
    stream.synchronize()?;
    let start = Instant::now();
    for _ in 0..10 {
        graph.launch()?;
    }
    stream.synchronize()?;
    let each = start.elapsed().as_secs_f64() / (10 * GRAPH_LAUNCHES) as f64;
    let name = format!("the same, {GRAPH_LAUNCHES} in one CUDA graph");
    report.measured(&name, 1e6 * each, "us an operation", json!({}));
    Ok(())
}

fn allocations(device: &Device, report: &mut Report) -> Result<()> {
    let cuda = device.as_cuda_device()?;
    let timed = |count: usize, call: &mut dyn FnMut() -> Result<()>| -> Result<f64> {
        call()?;
        device.synchronize()?;
        let start = Instant::now();
        for _ in 0..count {
            call()?;
        }
        device.synchronize()?;
        Ok(1e6 * start.elapsed().as_secs_f64() / count as f64)
    };
    let take = || -> Result<()> {
        // SAFETY: freed unread.
        drop(unsafe { cuda.alloc::<u8>(BLOCK)? });
        Ok(())
    };
    let mut take_and_wait = || -> Result<()> {
        take()?;
        Ok(device.synchronize()?)
    };
    let us = "us a pair";
    let details = || json!({ "bytes": BLOCK });
    let time = timed(1000, &mut || take())?;
    report.measured(
        "allocate and free 64 MiB, candle's pool",
        time,
        us,
        details(),
    );
    let time = timed(100, &mut take_and_wait)?;
    report.measured(
        "the same, a synchronisation after each",
        time,
        us,
        details(),
    );
    let time = timed(100, &mut || {
        // SAFETY: the memory is freed once and not used.
        unsafe { result::free_sync(result::malloc_sync(BLOCK)?)? };
        Ok(())
    })?;
    report.measured("the same by cuMemAlloc and cuMemFree", time, us, details());

    let mut keep = u64::MAX;
    // SAFETY: the pool is the device's own and lives as long as it; the attribute is a u64.
    unsafe {
        let pool = result::device::get_default_mem_pool(result::device::get(0)?)?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        result::mem_pool::set_attribute(pool, attribute, (&raw mut keep).cast())?;
    }
    let time = timed(100, &mut take_and_wait)?;
    report.measured(
        "candle's pool told to keep its memory, synchronised",
        time,
        us,
        details(),
    );
    Ok(())
}

fn copies(device: &Device, report: &mut Report) -> Result<()> {
    let cuda = device.as_cuda_device()?;
    let stream = cuda.cuda_stream();
    let mut on_card = cuda.alloc_zeros::<u8>(COPIED)?;
    let mut pageable: Vec<u8> = (0..COPIED).map(|i| (i * 31) as u8).collect();
    // Flag 0: plain pinned memory. cudarc's default is write-combined, which the host reads slowly.
    // SAFETY: filled below before it is read.
    let mut pinned = unsafe { stream.context().alloc_pinned_with_flags::<u8>(COPIED, 0)? };
    pinned.as_mut_slice()?.copy_from_slice(&pageable);
    let mut rate = |name: &str, call: &mut dyn FnMut() -> Result<()>| -> Result<()> {
        call()?;
        stream.synchronize()?;
        let start = Instant::now();
        for _ in 0..5 {
            call()?;
            stream.synchronize()?;
        }
        let rate = 5.0 * COPIED as f64 / start.elapsed().as_secs_f64();
        report.measured(name, rate / 1e9, "GB/s", json!({ "bytes": COPIED }));
        Ok(())
    };
    rate("host to card, ordinary memory", &mut || {
        Ok(stream.memcpy_htod(&pageable, &mut on_card)?)
    })?;
    rate("host to card, pinned memory", &mut || {
        Ok(stream.memcpy_htod(&pinned, &mut on_card)?)
    })?;
    rate("card to host, ordinary memory", &mut || {
        Ok(stream.memcpy_dtoh(&on_card, &mut pageable)?)
    })?;
    rate("card to host, pinned memory", &mut || {
        Ok(stream.memcpy_dtoh(&on_card, &mut pinned)?)
    })?;
    // Through candle's tensors, as a user would: 128 MiB of bf16 to the host and back.
    let tensor = normal_bf16(device, 16384, 4096)?;
    let bytes = (16384 * 4096 * 2) as f64;
    device.synchronize()?;
    let start = Instant::now();
    let on_host = tensor.to_device(&Device::Cpu)?;
    let down = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let back = on_host.to_device(device)?;
    device.synchronize()?;
    let up = start.elapsed().as_secs_f64();
    drop(back);
    report.measured(
        "candle to_device, card to host, once",
        bytes / down / 1e9,
        "GB/s",
        json!({}),
    );
    report.measured(
        "candle to_device, host to card, once",
        bytes / up / 1e9,
        "GB/s",
        json!({}),
    );
    Ok(())
}
