//! The kernels on the CPU, for the tests: g++ compiles their source with a header in place of CUDA's
//! compiler, and a launch runs every thread of every block.
//!
//! Each launch is run twice, in ascending and in descending order of blocks and threads, and fails if
//! the results differ in any bit, or if anything is written outside the tensors.

use std::ffi::{CStr, c_char, c_void};
use std::process::Command;
use std::sync::OnceLock;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor, bail};
use libloading::{Library, Symbol};

use super::super::{ComposedOperations, Operations, Output};
use super::{Argument, KERNELS, Launcher, source};

/// Launches on tensors of the CPU; products are those of the composed operations.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct EmulatedLauncher;

/// As `emulator::Launch` in the header.
#[repr(C)]
struct Launch {
    grid: [u32; 3],
    block: u32,
    shared_bytes: u32,
    descending: u32,
}

type Emulate =
    unsafe extern "C" fn(*const *mut c_void, count: u32, launch: *const Launch) -> *const c_char;

impl Launcher for EmulatedLauncher {
    fn instructions(&self) -> String {
        "an emulated card".to_owned()
    }

    fn launch(
        &self,
        kernel: &'static str,
        grid: [u32; 3],
        block: u32,
        shared_bytes: u32,
        arguments: &[Argument<'_>],
    ) -> Result<()> {
        run(library(), kernel, grid, block, shared_bytes, arguments)
    }

    fn matmul(&self, out: Output<'_>, a: &Tensor, b: &Tensor) -> Result<()> {
        ComposedOperations.matmul(out, a, b)
    }
}

/// The kernels of the product, compiled once in a process.
fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| compile(&source(), &KERNELS))
}

/// Compiles a source of kernels.
pub(super) fn compile(source: &str, kernels: &[&str]) -> Library {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let [code, library] = ["kernels.cpp", "kernels.so"].map(|name| folder.path().join(name));
    let mut text = include_str!("cuda.h").to_owned() + source;
    for kernel in kernels {
        text.push_str(&format!(
            "extern \"C\" const char *emulate_{kernel}(void **arguments, unsigned count, \
             const emulator::Launch *launch) {{\n    \
             return emulator::launch({kernel}, arguments, count, *launch);\n}}\n"
        ));
    }
    std::fs::write(&code, text).expect("a temporary file can be written");
    let output = Command::new("g++")
        .args(["-std=c++17", "-O2", "-fPIC", "-shared", "-w"])
        // Every operation rounds by itself; what is not initialised is rubbish; fibers jump.
        .args(["-ffp-contract=off", "-ftrivial-auto-var-init=pattern"])
        .arg("-U_FORTIFY_SOURCE")
        .arg("-o")
        .args([&library, &code])
        .output()
        .unwrap_or_else(|error| {
            panic!("the tests of the GPU's kernels compile them with g++: install g++ ({error})")
        });
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "g++ refused the kernels: {messages}"
    );
    // SAFETY: the library was made a moment ago from the kernels and the emulator, neither of which
    // does anything when it is loaded.
    unsafe { Library::new(&library) }.expect("what g++ made can be loaded")
}

/// Launches a kernel in both orders.
pub(super) fn run(
    library: &Library,
    kernel: &str,
    grid: [u32; 3],
    block: u32,
    shared_bytes: u32,
    arguments: &[Argument<'_>],
) -> Result<()> {
    // SAFETY: `compile` gave every kernel such a function.
    let symbol: Symbol<'_, Emulate> = unsafe { library.get(format!("emulate_{kernel}\0")) }
        .map_err(|_| candle_core::Error::msg(format!("there is no kernel {kernel}")))?;
    let mut results = Vec::new();
    for descending in [0, 1] {
        let mut places = Places::new(arguments)?;
        let mut values: Vec<u64> = Vec::new();
        for argument in arguments {
            values.push(match argument {
                Argument::Tensor(tensor) => places.address(tensor)?,
                Argument::Absent => 0,
                // The lower bytes come first on every machine that the tests run on.
                Argument::U32(value) => u64::from(*value),
                Argument::U64(value) => *value,
                Argument::F32(value) => u64::from(value.to_bits()),
                Argument::F64(value) => value.to_bits(),
            });
        }
        let addresses: Vec<*mut c_void> = values
            .iter_mut()
            .map(|value| std::ptr::from_mut(value).cast())
            .collect();
        let launch = Launch {
            grid,
            block,
            shared_bytes,
            descending,
        };
        // SAFETY: each address is that of 8 bytes which hold a value of the parameter's type, if the
        // caller's arguments fit the kernel's parameters; their number is checked there, and addresses
        // within point to copies with room around them.
        let failure = unsafe {
            symbol(
                addresses.as_ptr(),
                addresses.len() as u32,
                &raw const launch,
            )
        };
        if !failure.is_null() {
            // SAFETY: what is not null is a string that stays until this thread's next launch.
            let failure = unsafe { CStr::from_ptr(failure) };
            bail!("{kernel}: {}", failure.to_string_lossy());
        }
        places.check(kernel)?;
        results.push(places);
    }
    let [ascending, descending] = &results[..] else {
        unreachable!("there are two orders");
    };
    for (one, other) in ascending.0.iter().zip(&descending.0) {
        if one.data() != other.data() {
            bail!(
                "{kernel}: the result depends on the order of threads: a tensor of {} bytes differs",
                one.length
            );
        }
    }
    ascending.write_back()
}

/// Bytes before and behind a tensor's that nobody may write.
const GUARD: usize = 256;
/// All bits set: NaN in every format, and an index out of every table.
const RUBBISH: u8 = 0xff;

/// A copy of a tensor's bytes, as misaligned as they would be on a card, with rubbish around it.
struct Place {
    tensor: Tensor,
    source: usize,
    bytes: Vec<u8>,
    start: usize,
    length: usize,
    before: Vec<u8>,
}

impl Place {
    fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }
}

struct Places(Vec<Place>);

impl Places {
    fn new(arguments: &[Argument<'_>]) -> Result<Self> {
        let mut places: Vec<Place> = Vec::new();
        for argument in arguments {
            let Argument::Tensor(tensor) = argument else {
                continue;
            };
            let (storage, layout) = tensor.storage_and_layout();
            let Storage::Cpu(storage) = &*storage else {
                bail!("the emulated card takes tensors of the CPU");
            };
            let Some((start, end)) = layout.contiguous_offsets() else {
                bail!("expected a contiguous tensor, found {layout:?}");
            };
            let size = tensor.dtype().size_in_bytes();
            let all = bytes_of(storage)?;
            let data = &all[start * size..end * size];
            let source = data.as_ptr() as usize;
            let meets = |place: &Place| {
                source < place.source + place.length && place.source < source + data.len()
            };
            if let Some(other) = places.iter().find(|place| meets(place)) {
                if (other.source, other.length) == (source, data.len()) {
                    continue;
                }
                bail!("two arguments share a part of their memory");
            }
            let mut bytes = vec![RUBBISH; data.len() + 2 * GUARD + 64];
            // candle's allocations begin at a multiple of 256 on a card.
            let unaligned = bytes.as_ptr() as usize + GUARD;
            let aligned = unaligned.next_multiple_of(32) + start * size % 32;
            let place = aligned - bytes.as_ptr() as usize;
            bytes[place..place + data.len()].copy_from_slice(data);
            places.push(Place {
                tensor: (*tensor).clone(),
                source,
                start: place,
                length: data.len(),
                before: data.to_vec(),
                bytes,
            });
        }
        Ok(Self(places))
    }

    fn address(&mut self, tensor: &Tensor) -> Result<u64> {
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            bail!("the emulated card takes tensors of the CPU");
        };
        let offset = layout.start_offset() * tensor.dtype().size_in_bytes();
        let source = bytes_of(storage)?.as_ptr() as usize + offset;
        let place = self.0.iter_mut().find(|place| place.source == source);
        let place = place.expect("every tensor among the arguments was given a place");
        Ok(place.bytes[place.start..].as_mut_ptr() as u64)
    }

    fn check(&self, kernel: &str) -> Result<()> {
        for place in &self.0 {
            let around = place.bytes[..place.start]
                .iter()
                .chain(&place.bytes[place.start + place.length..]);
            if around.into_iter().any(|byte| *byte != RUBBISH) {
                bail!(
                    "{kernel} wrote outside a tensor of shape {:?}",
                    place.tensor.shape()
                );
            }
        }
        Ok(())
    }

    fn write_back(&self) -> Result<()> {
        for place in &self.0 {
            if place.data() != place.before {
                place.tensor.inplace_op1(&WriteBytes(place.data()))?;
            }
        }
        Ok(())
    }
}

struct WriteBytes<'a>(&'a [u8]);

impl InplaceOp1 for WriteBytes<'_> {
    fn name(&self) -> &'static str {
        "write-bytes"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let start = layout.start_offset();
        match storage {
            CpuStorage::F32(to) => decode(&mut to[start..], self.0, f32::from_le_bytes),
            CpuStorage::F64(to) => decode(&mut to[start..], self.0, f64::from_le_bytes),
            CpuStorage::BF16(to) => decode(&mut to[start..], self.0, half::bf16::from_le_bytes),
            CpuStorage::I16(to) => decode(&mut to[start..], self.0, i16::from_le_bytes),
            CpuStorage::U32(to) => decode(&mut to[start..], self.0, u32::from_le_bytes),
            _ => bail!("a number format that no kernel takes"),
        }
        Ok(())
    }
}

fn decode<T, const N: usize>(to: &mut [T], from: &[u8], number: impl Fn([u8; N]) -> T) {
    for (to, bytes) in to.iter_mut().zip(from.chunks_exact(N)) {
        *to = number(bytes.try_into().expect("a chunk has N bytes"));
    }
}

fn bytes_of(storage: &CpuStorage) -> Result<&[u8]> {
    fn view<T>(numbers: &[T]) -> &[u8] {
        // SAFETY: these are the numbers' own bytes, and numbers have no padding.
        unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
    }
    Ok(match storage {
        CpuStorage::F32(numbers) => view(numbers),
        CpuStorage::F64(numbers) => view(numbers),
        CpuStorage::BF16(numbers) => view(numbers),
        CpuStorage::I16(numbers) => view(numbers),
        CpuStorage::U32(numbers) => view(numbers),
        _ => bail!("a number format that no kernel takes"),
    })
}
