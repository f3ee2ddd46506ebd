//! Checkpoints: whole or absent, checked before use, and enough to go on to the bit.
//!
//! A checkpoint is a folder `step-000016` with `model.safetensors`, `adam_m.safetensors`,
//! `adam_v.safetensors`, `state.json` and, written last, `manifest.json` with the size and sha256 of
//! the others. It is made under a temporary name, every file flushed to disk, then renamed, then the
//! parent folder flushed. An older checkpoint is deleted only after that.
//!
//! Where several ranks train, rank 0 writes, and asks the others for their moments as it goes: the files are
//! those of one rank, and any number of ranks goes on from them.
//!
//! The order of the examples needs no saved generator: it is a function of the seed and the epoch.

mod gathered;
mod tensor_file;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::Device;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::digest::hex;

use super::adamw::{AdamW, AdamWConstants};
use super::collective::{Collective, CollectiveError};
use super::engine::Recompute;
use super::formats::Formats;
use super::parameters::{Layout, NumberFormat, ParameterSet};
use super::prefixes::SharedPrefixes;
use super::progress::{HeldOutLoss, StepRecord};
use gathered::Gathered;
use tensor_file::{BLOCK, Numbers, Stored, read_tensors, write_tensors};

const MANIFEST: &str = "manifest.json";
const STATE: &str = "state.json";
const TENSORS: [&str; 3] = [
    "model.safetensors",
    "adam_m.safetensors",
    "adam_v.safetensors",
];
/// Folders that are being written or deleted; swept away at the next start.
const UNFINISHED: &str = ".unfinished-";
/// Of `state.json`; raised when its fields change meaning.
const FORMAT: u32 = 1;

/// All of a run's state but its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointState {
    /// Layout of this file.
    pub format: u32,
    /// Optimizer steps made.
    pub step: u64,
    /// Optimizer steps of the whole run.
    pub total_steps: u64,
    /// Pass over the rows that the next step belongs to, counted from 0.
    pub epoch: u64,
    /// Rows of that pass already used.
    pub rows_used: u64,
    /// What the weights depend on: a run goes on only where this is equal.
    pub identity: RunIdentity,
    /// How the arithmetic was done; used again on resume.
    pub numeric_path: NumericPath,
    /// Every step so far.
    pub history: Vec<StepRecord>,
    /// Every measurement on held-out rows so far.
    pub held_out: Vec<HeldOutLoss>,
}

/// What a run's weights depend on, apart from the weights that it began with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunIdentity {
    /// Settings, from `TrainConfig::trajectory`.
    pub config: Value,
    /// The student's `config.json`.
    pub model: Value,
    /// Of all tokenised rows, in order.
    pub rows_sha256: String,
    /// Dropout of the adapters, where there are any. Runs that do not say it were begun without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora_dropout: Option<f64>,
}

/// How the arithmetic is done. The same numbers come out again only on the same path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumericPath {
    /// Name and version of the engine.
    pub engine: String,
    /// Number format.
    pub dtype: String,
    /// Threads of the engine.
    pub threads: usize,
    /// Instructions that the matrix products use.
    pub instructions: String,
    /// Most tokens of a micro-batch: decides the split of a step.
    pub micro_batch_tokens: usize,
    /// Beginnings of rows that are computed once in a micro-batch; they decide the split too.
    /// Checkpoints that do not name them were computed without.
    #[serde(default)]
    pub shared_prefixes: SharedPrefixes,
    /// What is computed again for the backward pass; it changes no number.
    #[serde(default)]
    pub recompute: Recompute,
    /// How AdamW's moments are kept.
    #[serde(default)]
    pub moments: NumberFormat,
    /// How many ranks share a step; checkpoints that do not say it were computed by one.
    #[serde(default = "one")]
    pub world_size: usize,
}

fn one() -> usize {
    1
}

/// A checkpoint in memory.
#[derive(Debug)]
pub struct Checkpoint {
    /// Everything but the tensors.
    pub state: CheckpointState,
    /// The model's weights.
    pub parameters: ParameterSet,
    /// Adam's moments.
    pub adamw: AdamW,
}

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The disk is full.
    #[error(
        "the disk is full: cannot write {}, a checkpoint takes {needed_bytes} bytes; {kept}. Free some space and run again",
        path.display()
    )]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// Bytes of one whole checkpoint.
        needed_bytes: u64,
        /// What is still there to resume from.
        kept: String,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// "write", "rename" or the like.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A checkpoint that is as it was written, by a program that writes it otherwise.
    #[error(
        "the checkpoint {} is of another version of Pacos ({reason}): go on with that version, or name another directory to begin anew",
        path.display()
    )]
    OtherVersion {
        /// The checkpoint.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
    /// The device has no memory for it, or fails.
    #[error("{} cannot be taken into memory: {source}", path.display())]
    Memory {
        /// The file.
        path: PathBuf,
        /// What the device said.
        source: candle_core::Error,
    },
    /// There are checkpoints, and none of them can be gone on from.
    #[error(
        "no checkpoint of this run is whole:{}\nPut their files back from a copy; or, to begin anew, delete {} or name another directory",
        reasons.iter().map(|reason| format!("\n  - {reason}")).collect::<String>(),
        path.display()
    )]
    NoneWhole {
        /// The folder of the checkpoints.
        path: PathBuf,
        /// What is wrong with each.
        reasons: Vec<String>,
    },
}

/// Why a checkpoint is not gone on from.
enum Unusable {
    /// It is not what was written: an older one takes its place.
    Damaged(String),
    /// It may well be whole: nothing takes its place.
    Failed(CheckpointError),
}

impl Unusable {
    /// A file that cannot be read: damaged where it is absent or ends too soon.
    fn unreadable(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                Self::Damaged(format!("{name} cannot be read ({source})"))
            }
            _ => Self::Failed(failed("read", path, source)),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    files: BTreeMap<String, FileRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FileRecord {
    bytes: u64,
    sha256: String,
}

/// A file that can be flushed to disk; a seam for the test of a full disk.
trait Durable: Write {
    fn sync(&self) -> io::Result<()>;
}

impl Durable for File {
    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }
}

type Create<'a> = &'a dyn Fn(&Path) -> io::Result<Box<dyn Durable>>;

/// The folder of a run's checkpoints.
#[derive(Debug, Clone)]
pub struct CheckpointFolder {
    path: PathBuf,
}

impl CheckpointFolder {
    /// The folder `checkpoints` in `run`, as it is, to read from.
    pub fn at(run: &Path) -> Self {
        Self {
            path: run.join("checkpoints"),
        }
    }

    /// Opens the folder `checkpoints` in `run`, making it where needed, and sweeps away what an
    /// interrupted save or deletion left behind.
    pub fn open(run: &Path) -> Result<Self, CheckpointError> {
        let folder = Self::at(run);
        let path = &folder.path;
        fs::create_dir_all(path).map_err(|e| failed("create", path, e))?;
        for name in folder.names()? {
            if name.starts_with(UNFINISHED) {
                let left = folder.path.join(name);
                fs::remove_dir_all(&left).map_err(|e| failed("remove", &left, e))?;
            }
        }
        Ok(folder)
    }

    /// Where the checkpoint of a step lies.
    pub fn step_path(&self, step: u64) -> PathBuf {
        self.path.join(format!("step-{step:06}"))
    }

    /// Steps of which there is a checkpoint, whole or not, newest first.
    pub fn steps(&self) -> Result<Vec<u64>, CheckpointError> {
        let mut steps: Vec<u64> = self
            .names()?
            .iter()
            .filter_map(|name| name.strip_prefix("step-")?.parse().ok())
            .collect();
        steps.sort_unstable_by(|a, b| b.cmp(a));
        Ok(steps)
    }

    fn names(&self) -> Result<Vec<String>, CheckpointError> {
        let read = |e| failed("read", &self.path, e);
        let mut names = Vec::new();
        let entries = match fs::read_dir(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(names),
            entries => entries.map_err(read)?,
        };
        for entry in entries {
            names.extend(entry.map_err(read)?.file_name().into_string());
        }
        Ok(names)
    }

    /// Writes a checkpoint, then deletes all but the newest `keep`. Rank 0 does so, while the others
    /// [`hand`](Self::hand_moments) their moments to it.
    ///
    /// `on_point` is called at the instants "checkpoint:mid-write" (some files written),
    /// "checkpoint:before-rename" and "checkpoint:after-rename".
    pub fn save(
        &self,
        state: &CheckpointState,
        parameters: &ParameterSet,
        adamw: &AdamW,
        ranks: &dyn Collective,
        keep: usize,
        on_point: &mut dyn FnMut(&str),
    ) -> Result<PathBuf, CheckpointError> {
        let create = |path: &Path| Ok(Box::new(File::create_new(path)?) as Box<dyn Durable>);
        let tensors = Tensors::new(parameters, adamw, ranks);
        self.save_with(state, tensors, keep, on_point, &create)
    }

    /// What the other ranks do while rank 0 saves.
    ///
    /// # Errors
    /// If rank 0 is gone, or the device fails.
    pub fn hand_moments(
        parameters: &ParameterSet,
        adamw: &AdamW,
        ranks: &dyn Collective,
    ) -> Result<(), CollectiveError> {
        let Tensors { m, v, .. } = Tensors::new(parameters, adamw, ranks);
        let count = parameters.count();
        for moment in [m, v] {
            for start in (0..count).step_by(BLOCK) {
                moment.gather(start..count.min(start + BLOCK))?;
            }
        }
        Ok(())
    }

    fn save_with(
        &self,
        state: &CheckpointState,
        tensors: Tensors<'_>,
        keep: usize,
        on_point: &mut dyn FnMut(&str),
        create: Create<'_>,
    ) -> Result<PathBuf, CheckpointError> {
        let step = state.step;
        let temporary = self.path.join(format!("{UNFINISHED}step-{step:06}"));
        if let Err(error) = self.write_files(&temporary, state, tensors, on_point, create) {
            // Best effort: the space is wanted back, and the next start sweeps anyway.
            let _ = fs::remove_dir_all(&temporary);
            return Err(error);
        }
        on_point("checkpoint:before-rename");
        let path = self.step_path(step);
        if path.exists() {
            // Only a damaged checkpoint can be in the way: a whole one would have been resumed from.
            self.remove(&path)?;
        }
        fs::rename(&temporary, &path).map_err(|e| failed("rename", &temporary, e))?;
        sync_folder(&self.path)?;
        on_point("checkpoint:after-rename");
        // Those past `step` are damaged, or this run would have begun there.
        let older = self.steps()?.into_iter().filter(|s| *s <= step).skip(keep);
        let later = self.steps()?.into_iter().filter(|s| *s > step);
        for stale in older.chain(later) {
            self.remove(&self.step_path(stale))?;
        }
        Ok(path)
    }

    fn write_files(
        &self,
        folder: &Path,
        state: &CheckpointState,
        tensors: Tensors<'_>,
        on_point: &mut dyn FnMut(&str),
        create: Create<'_>,
    ) -> Result<(), CheckpointError> {
        let layout = tensors.parameters.layout();
        let explain = |path: &Path, source: io::Error| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                // Those past this step were passed over as damaged.
                let steps = self.steps().unwrap_or_default();
                let kept = match steps.into_iter().find(|kept| *kept < state.step) {
                    Some(step) => format!("the checkpoint of step {step} is whole"),
                    None => "there is no earlier checkpoint".to_owned(),
                };
                CheckpointError::DiskFull {
                    path: path.to_owned(),
                    needed_bytes: checkpoint_bytes(layout.count(), tensors.m.part.format()),
                    kept,
                }
            }
            _ => failed("write", path, source),
        };
        fs::create_dir(folder).map_err(|e| failed("create", folder, e))?;
        let mut files = BTreeMap::new();
        let each: [&dyn Numbers; 3] = [tensors.parameters, &tensors.m, &tensors.v];
        for (name, numbers) in TENSORS.iter().zip(each) {
            let path = folder.join(name);
            let record = create(&path)
                .and_then(|mut file| {
                    let record = write_tensors(&mut *file, layout, numbers)?;
                    file.sync()?;
                    Ok(record)
                })
                .map_err(|e| explain(&path, e))?;
            files.insert((*name).to_owned(), record);
            if files.len() == 1 {
                on_point("checkpoint:mid-write");
            }
        }
        let state_json = to_json(state);
        let record = FileRecord {
            bytes: state_json.len() as u64,
            sha256: hex(&Sha256::digest(&state_json)),
        };
        files.insert(STATE.to_owned(), record);
        for (name, text) in [
            (STATE, state_json),
            (MANIFEST, to_json(&Manifest { files })),
        ] {
            let path = folder.join(name);
            create(&path)
                .and_then(|mut file| {
                    file.write_all(&text)?;
                    file.sync()
                })
                .map_err(|e| explain(&path, e))?;
        }
        sync_folder(folder)
    }

    /// Under a temporary name first, so that a half-deleted folder never looks like a checkpoint.
    fn remove(&self, path: &Path) -> Result<(), CheckpointError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let doomed = self.path.join(format!("{UNFINISHED}old-{name}"));
        fs::rename(path, &doomed).map_err(|e| failed("rename", path, e))?;
        fs::remove_dir_all(&doomed).map_err(|e| failed("remove", &doomed, e))
    }

    /// The newest whole checkpoint, and a sentence for each newer one that is not whole.
    ///
    /// `layout` says which tensors are expected, `formats` how they are kept on the device, and `own` of
    /// which parameters the moments are.
    ///
    /// # Errors
    /// If there are checkpoints and none is whole, or one that may be whole cannot be read: to begin anew
    /// over them is for a person to decide.
    pub fn load_newest(
        &self,
        layout: &Layout,
        formats: Formats,
        device: &Device,
        constants: AdamWConstants,
        own: &Range<usize>,
    ) -> Result<(Option<Checkpoint>, Vec<String>), CheckpointError> {
        let mut notices = Vec::new();
        for step in self.steps()? {
            let path = self.step_path(step);
            match load(&path, layout, formats, device, constants, own) {
                Ok(checkpoint) => return Ok((Some(checkpoint), notices)),
                Err(Unusable::Damaged(reason)) => notices.push(format!(
                    "the checkpoint {} is damaged and is passed over: {reason}",
                    path.display()
                )),
                Err(Unusable::Failed(error)) => return Err(error),
            }
        }
        if notices.is_empty() {
            return Ok((None, notices));
        }
        Err(CheckpointError::NoneWhole {
            path: self.path.clone(),
            reasons: notices,
        })
    }

    /// The state of the newest checkpoint whose `state.json` can be read, without its tensors.
    pub fn newest_state(&self) -> Result<Option<CheckpointState>, CheckpointError> {
        let states = self.steps()?.into_iter().filter_map(|step| {
            let text = fs::read(self.step_path(step).join(STATE)).ok()?;
            serde_json::from_slice(&text).ok()
        });
        Ok(states.into_iter().next())
    }
}

/// Bytes that a checkpoint of so many parameters takes on disk, headers aside; moments are stored as they
/// are kept.
pub fn checkpoint_bytes(parameters: usize, moments: NumberFormat) -> u64 {
    let each = Stored::F32.bytes() + 2 * Stored::of(moments).bytes();
    (each * parameters) as u64
}

fn load(
    folder: &Path,
    layout: &Layout,
    formats: Formats,
    device: &Device,
    constants: AdamWConstants,
    own: &Range<usize>,
) -> Result<Checkpoint, Unusable> {
    let damaged = |reason: String| Unusable::Damaged(reason);
    let bytes = |name: &str| {
        let path = folder.join(name);
        fs::read(&path).map_err(|e| Unusable::unreadable(&path, e))
    };
    let manifest: Manifest = serde_json::from_slice(&bytes(MANIFEST)?)
        .map_err(|e| damaged(format!("{MANIFEST} is not what was written ({e})")))?;
    let expected = |name: &str| {
        let record = manifest.files.get(name);
        record.ok_or_else(|| damaged(format!("{MANIFEST} does not list {name}")))
    };
    let state = bytes(STATE)?;
    if hex(&Sha256::digest(&state)) != expected(STATE)?.sha256 {
        return Err(damaged(format!("{STATE} is not what was written")));
    }
    let other_version = |reason: String| {
        Unusable::Failed(CheckpointError::OtherVersion {
            path: folder.to_owned(),
            reason,
        })
    };
    let state: CheckpointState = serde_json::from_slice(&state)
        .map_err(|e| other_version(format!("{STATE} cannot be understood: {e}")))?;
    if state.format != FORMAT {
        return Err(other_version(format!(
            "{STATE} has format {}, this program reads {FORMAT}",
            state.format
        )));
    }
    let read = |name: &str, format, range: Range<usize>| {
        let path = folder.join(name);
        read_tensors(&path, layout, format, device, range, expected(name)?)
    };
    let [model, m, v] = TENSORS;
    Ok(Checkpoint {
        parameters: read(model, formats.trained, 0..layout.count())?,
        adamw: AdamW {
            constants,
            updates: state.step,
            m: read(m, formats.moments, own.clone())?,
            v: read(v, formats.moments, own.clone())?,
            own: own.clone(),
        },
        state,
    })
}

/// The tensors of a checkpoint that is written.
#[derive(Clone, Copy)]
struct Tensors<'a> {
    parameters: &'a ParameterSet,
    m: Gathered<'a>,
    v: Gathered<'a>,
}

impl<'a> Tensors<'a> {
    fn new(parameters: &'a ParameterSet, adamw: &'a AdamW, ranks: &'a dyn Collective) -> Self {
        let count = parameters.count();
        let gathered = |part| Gathered { ranks, part, count };
        Self {
            parameters,
            m: gathered(&adamw.m),
            v: gathered(&adamw.v),
        }
    }
}

impl CheckpointState {
    /// The value of [`CheckpointState::format`] that this program writes.
    pub const FORMAT: u32 = FORMAT;
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut text =
        serde_json::to_vec_pretty(value).expect("numbers, texts and lists always become JSON");
    text.push(b'\n');
    text
}

/// Makes the names in a folder durable, not only the contents of its files.
fn sync_folder(path: &Path) -> Result<(), CheckpointError> {
    #[cfg(unix)]
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(|e| failed("flush", path, e))?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> CheckpointError {
    CheckpointError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
