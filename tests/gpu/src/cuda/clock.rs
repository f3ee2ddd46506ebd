//! Times of work on the card, taken with the card's own events.

use std::sync::Arc;

use anyhow::Result;
use candle_core::Device;
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream, sys::CUevent_flags};

/// Batches timed; their median is the result.
const BATCHES: usize = 5;
/// A batch repeats the call until it should last this long.
const BATCH_SECONDS: f64 = 0.02;

/// Times calls that only enqueue work on candle's stream.
pub struct Clock {
    stream: Arc<CudaStream>,
}

impl Clock {
    /// A clock for the stream of `device`, which must be a CUDA device.
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Self {
            stream: device.as_cuda_device()?.cuda_stream(),
        })
    }

    /// Seconds of one call in a row of many: warmed up, the median of several batches.
    pub fn seconds(&self, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
        self.batch(3, &mut call)?;
        let one = self.batch(2, &mut call)? / 2.0;
        let calls = ((BATCH_SECONDS / one).ceil() as usize).clamp(3, 2000);
        let mut times = Vec::with_capacity(BATCHES);
        for _ in 0..BATCHES {
            times.push(self.batch(calls, &mut call)? / calls as f64);
        }
        times.sort_by(f64::total_cmp);
        Ok(times[BATCHES / 2])
    }

    /// Seconds of `calls` calls in one row.
    pub fn batch(&self, calls: usize, call: &mut impl FnMut() -> Result<()>) -> Result<f64> {
        // Outside the time taken: after a synchronisation candle's allocator starts empty, and the
        // first call would pay for it.
        call()?;
        let start = self.event()?;
        for _ in 0..calls {
            call()?;
        }
        let end = self.event()?;
        Ok(f64::from(start.elapsed_ms(&end)?) / 1e3)
    }

    fn event(&self) -> Result<CudaEvent> {
        Ok(self
            .stream
            .record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?)
    }
}
