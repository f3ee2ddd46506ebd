//! Named numbers as a safetensors file, hashed while it is written and read.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::ops::Range;
use std::path::Path;

use candle_core::Device;
use half::bf16;
use serde_json::{Map, json};
use sha2::{Digest, Sha256};

use crate::digest::hex;

use super::{CheckpointError, FileRecord, Unusable};
use crate::trainer::parameters::{Layout, NumberFormat, ParameterSet};

/// Numbers converted at once.
pub(super) const BLOCK: usize = 1 << 16;

/// What is written, wherever it lies.
pub(super) trait Numbers {
    /// Some of the numbers; asked for block by block, in order.
    fn read(&self, range: Range<usize>) -> io::Result<Vec<f32>>;

    /// What a file needs to give them back: two bytes a number are enough for those that are bf16.
    fn stored(&self) -> Stored;
}

/// Number format of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    F32,
    Bf16,
}

impl Stored {
    /// The format of numbers that are kept so.
    pub(super) fn of(format: NumberFormat) -> Self {
        match format {
            NumberFormat::F32 | NumberFormat::Split => Self::F32,
            NumberFormat::Bf16 => Self::Bf16,
        }
    }

    /// Bytes of one number.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
        }
    }

    fn write(self, block: &mut Vec<u8>, values: &[f32]) {
        match self {
            Self::F32 => block.extend(values.iter().flat_map(|x| x.to_le_bytes())),
            Self::Bf16 => {
                let rounded = values.iter().map(|x| bf16::from_f32(*x));
                block.extend(rounded.flat_map(bf16::to_le_bytes));
            }
        }
    }

    fn read(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => {
                let (words, _) = bytes.as_chunks::<4>();
                words.iter().map(|word| f32::from_le_bytes(*word)).collect()
            }
            Self::Bf16 => {
                let (words, _) = bytes.as_chunks::<2>();
                let numbers = words.iter().map(|word| bf16::from_le_bytes(*word));
                numbers.map(bf16::to_f32).collect()
            }
        }
    }
}

impl Numbers for ParameterSet {
    fn read(&self, range: Range<usize>) -> io::Result<Vec<f32>> {
        ParameterSet::read(self, range).map_err(io::Error::other)
    }

    fn stored(&self) -> Stored {
        Stored::of(self.format())
    }
}

/// Writes all tensors and returns the size and digest of the file.
pub(super) fn write_tensors(
    file: &mut (impl Write + ?Sized),
    layout: &Layout,
    numbers: &dyn Numbers,
) -> io::Result<FileRecord> {
    let mut file = BufWriter::new(file);
    let mut digest = Sha256::new();
    let stored = numbers.stored();
    let header = header(layout, stored);
    let mut bytes = header.len() as u64;
    digest.update(&header);
    file.write_all(&header)?;
    let mut block = Vec::with_capacity(stored.bytes() * BLOCK);
    for start in (0..layout.count()).step_by(BLOCK) {
        let values = numbers.read(start..layout.count().min(start + BLOCK))?;
        block.clear();
        stored.write(&mut block, &values);
        digest.update(&block);
        file.write_all(&block)?;
        bytes += block.len() as u64;
    }
    file.flush()?;
    Ok(FileRecord {
        bytes,
        sha256: hex(&digest.finalize()),
    })
}

/// Reads the numbers in `range` of what [`write_tensors`] wrote.
///
/// # Errors
/// [`Unusable::Damaged`] if the file is anything else.
pub(super) fn read_tensors(
    path: &Path,
    layout: &Layout,
    format: NumberFormat,
    device: &Device,
    range: Range<usize>,
    expected: &FileRecord,
) -> Result<ParameterSet, Unusable> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unreadable = |e: io::Error| Unusable::unreadable(path, e);
    let damaged = |reason: String| Unusable::Damaged(reason);
    let file = File::open(path).map_err(unreadable)?;
    let bytes = file.metadata().map_err(unreadable)?.len();
    if bytes != expected.bytes {
        let reason = format!("{name} has {bytes} bytes, {} were written", expected.bytes);
        return Err(damaged(reason));
    }
    // The device that wrote it may keep its numbers in another format than this one.
    let sizes = [Stored::F32, Stored::Bf16].map(|stored| {
        let header = header(layout, stored);
        let bytes = header.len() + stored.bytes() * layout.count();
        (stored, header, bytes as u64)
    });
    let Some((stored, header, _)) = sizes.into_iter().find(|(.., size)| *size == bytes) else {
        let reason = format!("{name} does not hold the tensors of this model");
        return Err(damaged(reason));
    };
    let mut file = BufReader::with_capacity(1 << 20, file);
    let mut digest = Sha256::new();
    let mut found_header = vec![0; header.len()];
    file.read_exact(&mut found_header).map_err(unreadable)?;
    digest.update(&found_header);
    let no_place = |source| {
        Unusable::Failed(CheckpointError::Memory {
            path: path.to_owned(),
            source,
        })
    };
    let mut tensors =
        ParameterSet::zeros(&layout.of_part(&range), format, device).map_err(no_place)?;
    let each = stored.bytes();
    let mut block = vec![0u8; each * BLOCK];
    for start in (0..layout.count()).step_by(BLOCK) {
        let count = BLOCK.min(layout.count() - start);
        let block = &mut block[..each * count];
        file.read_exact(block).map_err(unreadable)?;
        digest.update(&*block);
        let wanted = range.start.max(start)..range.end.min(start + count);
        if !wanted.is_empty() {
            let bytes = each * (wanted.start - start)..each * (wanted.end - start);
            let values = stored.read(&block[bytes]);
            tensors
                .write(wanted.start - range.start, &values)
                .map_err(no_place)?;
        }
    }
    let found = hex(&digest.finalize());
    if found != expected.sha256 {
        let reason = format!("{name} has sha256 {found}, {} was written", expected.sha256);
        return Err(damaged(reason));
    }
    if found_header != header {
        let reason = format!("{name} does not hold the tensors of this model");
        return Err(damaged(reason));
    }
    Ok(tensors)
}

/// The safetensors header: its length in 8 bytes, then names, shapes and places as JSON.
fn header(layout: &Layout, stored: Stored) -> Vec<u8> {
    let entries: Map<_, _> = layout
        .specs()
        .iter()
        .map(|spec| {
            let offsets = [spec.range.start, spec.range.end].map(|place| stored.bytes() * place);
            let entry =
                json!({"dtype": stored.name(), "shape": spec.shape, "data_offsets": offsets});
            (spec.name.clone(), entry)
        })
        .collect();
    let mut text = serde_json::Value::Object(entries).to_string().into_bytes();
    // Padding with blanks aligns the data, as the format asks for.
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend(text);
    header
}
