//! Ranks that are cards, by NCCL. What lies on the host goes over [`Tcp`], which also tells when a rank is
//! gone: NCCL by itself would wait for it for ever.

use std::cell::Cell;
use std::fmt;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use candle_core::cuda::cudarc::driver::{CudaSlice, CudaStream, DevicePtrMut, DeviceRepr};
use candle_core::cuda::cudarc::nccl::{result, sys};
use candle_core::cuda::{CudaStorageSlice, WrapErr};
use candle_core::{CpuStorage, CudaStorage, Device, InplaceOp1, Layout, Result as CandleResult};
use candle_core::{DType, Tensor, bail};

use super::tcp::Watch;
use super::{Collective, CollectiveError, Tcp, part};

/// How often it is looked whether a rank is gone.
const LOOK: Duration = Duration::from_millis(200);

/// How long a call of NCCL may take before it is taken to wait for the rank that is gone.
const IN_A_CALL: Duration = Duration::from_secs(5);

/// A rank that is a card. Tensors on it go by NCCL, on the stream that candle computes on, so that nothing
/// waits for the card; those on the host go over TCP.
///
/// NCCL's sums are the same from run to run with the same cards, links and version, in an order of its own.
/// When a rank is gone, this one's communicator is aborted: what the card waits for ends, and the next
/// call fails with the rank's name.
pub struct Nccl {
    host: Tcp,
    stream: Arc<CudaStream>,
    communicator: Arc<Communicator>,
    watcher: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
}

impl fmt::Debug for Nccl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nccl")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

/// NCCL's handle.
struct Communicator {
    /// Null once it was aborted.
    handle: AtomicPtr<sys::ncclComm>,
    /// Held while a call is given the handle.
    calls: Mutex<()>,
}

impl Communicator {
    /// Ends whatever is in progress, on the card and in calls. Once.
    fn abort(&self) {
        let handle = self.handle.swap(ptr::null_mut(), Ordering::AcqRel);
        if handle.is_null() {
            return;
        }
        // A call that has just been given the handle gets the time to reach NCCL.
        let until = Instant::now() + IN_A_CALL;
        let mut calls = self.calls.try_lock();
        while matches!(calls, Err(TryLockError::WouldBlock)) && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
            calls = self.calls.try_lock();
        }
        // SAFETY: the handle came from ncclCommInitRank, and the swap gave it to this caller only. Either no
        // call has it, and none will get it, or one has been waiting in NCCL: that is what NCCL documents an
        // abort by another thread for.
        let _ = unsafe { result::comm_abort(handle) };
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        let handle = *self.handle.get_mut();
        if !handle.is_null() {
            // SAFETY: the handle came from ncclCommInitRank, was not aborted, and has no other user.
            let _ = unsafe { result::comm_destroy(handle) };
        }
    }
}

impl Nccl {
    /// Has the ranks that `host` connects talk by NCCL as well, each for its card.
    ///
    /// # Errors
    /// If NCCL cannot connect them, or a rank is gone.
    pub fn join(host: Tcp, device: &Device) -> Result<Self, CollectiveError> {
        let (rank, world_size) = (Collective::rank(&host), Collective::world_size(&host));
        let stream = device.as_cuda_device()?.cuda_stream();
        stream.context().bind_to_thread().w()?;
        let failed = |operation| move |error| failure(operation, rank, &error);
        let id = match rank {
            0 => result::get_uniqueid().map_err(failed("ncclGetUniqueId"))?,
            _ => sys::ncclUniqueId { internal: [0; 128] },
        };
        let said = host.broadcast_bytes(&id.internal.map(|byte| byte as u8))?;
        let Ok(internal) = <[u8; 128]>::try_from(said) else {
            let reason = "the ranks have different versions of it".to_owned();
            return Err(CollectiveError::Nccl {
                operation: "ncclCommInitRank",
                rank,
                reason,
            });
        };
        let id = sys::ncclUniqueId {
            internal: internal.map(|byte| byte as std::ffi::c_char),
        };
        let mut handle = ptr::null_mut();
        // SAFETY: the handle is written in the call; the context of the rank's card is bound to this thread.
        unsafe { result::comm_init_rank(&mut handle, world_size as i32, id, rank as i32) }
            .map_err(failed("ncclCommInitRank"))?;
        let communicator = Arc::new(Communicator {
            handle: AtomicPtr::new(handle),
            calls: Mutex::new(()),
        });
        let (end, ended) = mpsc::channel();
        let (watch, watched) = (host.watch(), Arc::clone(&communicator));
        let watcher = thread::Builder::new()
            .name("ranks".to_owned())
            .spawn(move || abort_when_gone(&watch, &watched, &ended))
            .map_err(candle_core::Error::from)?;
        Ok(Self {
            host,
            stream,
            communicator,
            watcher: Some((end, watcher)),
        })
    }

    /// One call of NCCL on a tensor of this card.
    fn call(
        &self,
        operation: &'static str,
        values: &Tensor,
        sum: bool,
        call: impl Fn(Buffer) -> Result<(), result::NcclError>,
    ) -> Result<(), CollectiveError> {
        check(values, sum)?;
        let rank = self.rank();
        let calling = &self.communicator.calls;
        let _calling = calling.lock().unwrap_or_else(PoisonError::into_inner);
        let handle = self.communicator.handle.load(Ordering::Acquire);
        if handle.is_null() {
            // The host's collective knows of whom.
            self.host.barrier()?;
            return Err(CollectiveError::Nccl {
                operation,
                rank,
                reason: "its communicator was aborted".to_owned(),
            });
        }
        if values.elem_count() == 0 {
            return Ok(());
        }
        let failed = Cell::new(None);
        let on_card = OnCard {
            stream: &self.stream,
            work: |data: *mut std::ffi::c_void| {
                let buffer = Buffer {
                    data,
                    count: values.elem_count(),
                    width: values.dtype().size_in_bytes(),
                    dtype: data_type(values.dtype()),
                    communicator: handle,
                    stream: self.stream.cu_stream() as sys::cudaStream_t,
                };
                failed.set(call(buffer).err());
            },
        };
        values.inplace_op1(&on_card)?;
        match failed.take() {
            None => Ok(()),
            Some(error) => Err(failure(operation, rank, &error)),
        }
    }
}

fn failure(operation: &'static str, rank: usize, error: &result::NcclError) -> CollectiveError {
    CollectiveError::Nccl {
        operation,
        rank,
        reason: format!("{:?}", error.0),
    }
}

fn abort_when_gone(watch: &Watch, communicator: &Communicator, ended: &mpsc::Receiver<()>) {
    while let Err(mpsc::RecvTimeoutError::Timeout) = ended.recv_timeout(LOOK) {
        if watch.is_gone() {
            communicator.abort();
            return;
        }
    }
}

/// A tensor as NCCL is told of it.
#[derive(Clone, Copy)]
struct Buffer {
    data: *mut std::ffi::c_void,
    count: usize,
    width: usize,
    dtype: sys::ncclDataType_t,
    communicator: sys::ncclComm_t,
    stream: sys::cudaStream_t,
}

impl Buffer {
    /// Some of the elements.
    fn part(self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.count,
            "parts lie within their tensor"
        );
        Self {
            // SAFETY: the range was found to lie within the tensor.
            data: unsafe { self.data.byte_add(range.start * self.width) },
            count: range.len(),
            ..self
        }
    }

    /// The same bytes, as NCCL moves what it does not add.
    fn bytes(self) -> Self {
        Self {
            count: self.count * self.width,
            width: 1,
            dtype: sys::ncclDataType_t::ncclUint8,
            ..self
        }
    }
}

const SUM: sys::ncclRedOp_t = sys::ncclRedOp_t::ncclSum;

/// Several calls as one. The group is closed even where one of them fails: calls after it would wait for
/// its end for ever.
fn grouped(
    roots: Range<usize>,
    mut call: impl FnMut(usize) -> Result<(), result::NcclError>,
) -> Result<(), result::NcclError> {
    result::group_start()?;
    let called = roots.into_iter().try_for_each(&mut call);
    let closed = result::group_end().map(|_| ());
    called.and(closed)
}

impl Collective for Nccl {
    fn rank(&self) -> usize {
        Collective::rank(&self.host)
    }

    fn world_size(&self) -> usize {
        Collective::world_size(&self.host)
    }

    fn reduce_scatter(&self, values: &Tensor) -> Result<(), CollectiveError> {
        if values.device().is_cpu() {
            return self.host.reduce_scatter(values);
        }
        let (rank, world_size) = (self.rank(), self.world_size());
        self.call("reduce-scatter", values, true, |all| {
            let part = |rank| all.part(part(all.count, world_size, rank));
            let own = part(rank);
            if own.count * world_size == all.count {
                // SAFETY: both point into one tensor of this card, the second where NCCL documents that a
                // reduce-scatter in place has it: at this rank's part.
                return unsafe {
                    result::reduce_scatter(
                        all.data,
                        own.data,
                        own.count,
                        all.dtype,
                        SUM,
                        all.communicator,
                        all.stream,
                    )
                }
                .map(|_| ());
            }
            grouped(0..world_size, |root| {
                let Buffer { data, count, .. } = part(root);
                if count == 0 {
                    return Ok(());
                }
                // SAFETY: the part lies within a tensor of this card, and is summed in place.
                unsafe {
                    result::reduce(
                        data,
                        data,
                        count,
                        all.dtype,
                        SUM,
                        root as i32,
                        all.communicator,
                        all.stream,
                    )
                }
                .map(|_| ())
            })
        })
    }

    fn all_gather(&self, values: &Tensor) -> Result<(), CollectiveError> {
        if values.device().is_cpu() {
            return self.host.all_gather(values);
        }
        let (rank, world_size) = (self.rank(), self.world_size());
        self.call("all-gather", values, false, |all| {
            let part = |rank| all.part(part(all.count, world_size, rank)).bytes();
            let own = part(rank);
            if own.count * world_size == all.bytes().count {
                // SAFETY: both point into one tensor of this card, the first where NCCL documents that an
                // all-gather in place has it: at this rank's part.
                return unsafe {
                    result::all_gather(
                        own.data,
                        all.data,
                        own.count,
                        own.dtype,
                        all.communicator,
                        all.stream,
                    )
                }
                .map(|_| ());
            }
            grouped(0..world_size, |root| {
                let Buffer {
                    data, count, dtype, ..
                } = part(root);
                if count == 0 {
                    return Ok(());
                }
                // SAFETY: the part lies within a tensor of this card, and is sent or filled in place.
                unsafe {
                    result::broadcast(
                        data,
                        data,
                        count,
                        dtype,
                        root as i32,
                        all.communicator,
                        all.stream,
                    )
                }
                .map(|_| ())
            })
        })
    }

    fn all_reduce_sum(&self, values: &Tensor) -> Result<(), CollectiveError> {
        if values.device().is_cpu() {
            return self.host.all_reduce_sum(values);
        }
        self.call("sum", values, true, |all| {
            // SAFETY: the data is a tensor of this card with so many elements, and is summed in place.
            unsafe {
                result::all_reduce(
                    all.data,
                    all.data,
                    all.count,
                    all.dtype,
                    SUM,
                    all.communicator,
                    all.stream,
                )
            }
            .map(|_| ())
        })
    }

    fn broadcast(&self, values: &Tensor) -> Result<(), CollectiveError> {
        if values.device().is_cpu() {
            return self.host.broadcast(values);
        }
        self.call("broadcast", values, false, |all| {
            let all = all.bytes();
            // SAFETY: the data is a tensor of this card with so many bytes, sent or filled in place.
            unsafe {
                result::broadcast(
                    all.data,
                    all.data,
                    all.count,
                    all.dtype,
                    0,
                    all.communicator,
                    all.stream,
                )
            }
            .map(|_| ())
        })
    }

    fn to_first(&self, from: usize, values: &Tensor) -> Result<(), CollectiveError> {
        if values.device().is_cpu() {
            return self.host.to_first(from, values);
        }
        let rank = self.rank();
        if from == 0 || ![0, from].contains(&rank) {
            return Ok(());
        }
        self.call("copy to rank 0", values, false, |all| {
            let all = all.bytes();
            // SAFETY: the data is a tensor of this card with so many bytes.
            unsafe {
                match rank {
                    0 => result::recv(
                        all.data,
                        all.count,
                        all.dtype,
                        from as i32,
                        all.communicator,
                        all.stream,
                    ),
                    _ => result::send(
                        all.data,
                        all.count,
                        all.dtype,
                        0,
                        all.communicator,
                        all.stream,
                    ),
                }
            }
            .map(|_| ())
        })
    }

    fn stop(&self, reason: &str) {
        Collective::stop(&self.host, reason);
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        if let Some((end, watcher)) = self.watcher.take() {
            drop(end);
            let _ = watcher.join();
        }
    }
}

fn check(values: &Tensor, sum: bool) -> CandleResult<()> {
    let dtype = values.dtype();
    match dtype {
        DType::F32 | DType::BF16 | DType::F64 => {}
        DType::I16 | DType::U8 if !sum => {}
        _ => bail!("{dtype:?} is none of the types that ranks exchange"),
    }
    if values.rank() != 1 || !values.is_contiguous() {
        bail!(
            "expected a flat, contiguous tensor, found the shape {:?}",
            values.shape()
        );
    }
    Ok(())
}

/// NCCL has no 16-bit integers; they are moved as bytes and never summed.
fn data_type(dtype: DType) -> sys::ncclDataType_t {
    match dtype {
        DType::F32 => sys::ncclDataType_t::ncclFloat32,
        DType::F64 => sys::ncclDataType_t::ncclFloat64,
        DType::BF16 => sys::ncclDataType_t::ncclBfloat16,
        _ => sys::ncclDataType_t::ncclUint8,
    }
}

/// Gives the place of a tensor on its card.
struct OnCard<'a, F> {
    stream: &'a Arc<CudaStream>,
    work: F,
}

impl<F: Fn(*mut std::ffi::c_void)> OnCard<'_, F> {
    fn with<T: DeviceRepr>(&self, all: &mut CudaSlice<T>, layout: &Layout) {
        let start = layout.start_offset();
        let mut view = all.slice_mut(start..start + layout.shape().elem_count());
        // Dropped when the call is on the stream, which orders it before what follows there.
        let (pointer, _written) = view.device_ptr_mut(self.stream);
        (self.work)(pointer as *mut std::ffi::c_void);
    }
}

impl<F: Fn(*mut std::ffi::c_void)> InplaceOp1 for OnCard<'_, F> {
    fn name(&self) -> &'static str {
        "nccl"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> CandleResult<()> {
        bail!("tensors of the host go over TCP")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> CandleResult<()> {
        match &mut storage.slice {
            CudaStorageSlice::F32(all) => self.with(all, layout),
            CudaStorageSlice::F64(all) => self.with(all, layout),
            CudaStorageSlice::BF16(all) => self.with(all, layout),
            CudaStorageSlice::I16(all) => self.with(all, layout),
            CudaStorageSlice::U8(all) => self.with(all, layout),
            _ => bail!("none of the types that ranks exchange"),
        }
        Ok(())
    }
}
