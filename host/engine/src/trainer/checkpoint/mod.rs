//! Checkpoints: whole or absent, checked before use, and enough to go on to the bit.
//!
//! A checkpoint is a folder `step-000016` with `model.safetensors`, `adam_m.safetensors`,
//! `adam_v.safetensors`, `state.json` and, written last, `manifest.json` with the size and sha256 of
//! the others. It is made under a temporary name, every file flushed to disk, then renamed, then the
//! parent folder flushed. An older checkpoint is deleted only after that.
//!
//! The order of the examples needs no saved generator: it is a function of the seed and the epoch.

mod tensor_file;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use candle_core::Device;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::digest::hex;

use super::adamw::{AdamW, AdamWConstants};
use super::engine::Recompute;
use super::formats::Formats;
use super::parameters::{Layout, NumberFormat, ParameterSet};
use super::prefixes::SharedPrefixes;
use super::progress::{HeldOutLoss, StepRecord};
use tensor_file::{read_tensors, write_tensors};

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
    /// How AdamW's moments are kept while training goes on; a checkpoint holds them in f32.
    #[serde(default)]
    pub moments: NumberFormat,
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
    /// Opens the folder `checkpoints` in `run`, making it where needed, and sweeps away what an
    /// interrupted save or deletion left behind.
    pub fn open(run: &Path) -> Result<Self, CheckpointError> {
        let path = run.join("checkpoints");
        fs::create_dir_all(&path).map_err(|e| failed("create", &path, e))?;
        let folder = Self { path };
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
        for entry in fs::read_dir(&self.path).map_err(read)? {
            names.extend(entry.map_err(read)?.file_name().into_string());
        }
        Ok(names)
    }

    /// Writes a checkpoint, then deletes all but the newest `keep`.
    ///
    /// `on_point` is called at the instants "checkpoint:mid-write" (some files written),
    /// "checkpoint:before-rename" and "checkpoint:after-rename".
    pub fn save(
        &self,
        state: &CheckpointState,
        parameters: &ParameterSet,
        adamw: &AdamW,
        keep: usize,
        on_point: &mut dyn FnMut(&str),
    ) -> Result<PathBuf, CheckpointError> {
        let create = |path: &Path| Ok(Box::new(File::create_new(path)?) as Box<dyn Durable>);
        self.save_with(state, parameters, adamw, keep, on_point, &create)
    }

    fn save_with(
        &self,
        state: &CheckpointState,
        parameters: &ParameterSet,
        adamw: &AdamW,
        keep: usize,
        on_point: &mut dyn FnMut(&str),
        create: Create<'_>,
    ) -> Result<PathBuf, CheckpointError> {
        let step = state.step;
        let temporary = self.path.join(format!("{UNFINISHED}step-{step:06}"));
        if let Err(error) = self.write_files(&temporary, state, parameters, adamw, on_point, create)
        {
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
        parameters: &ParameterSet,
        adamw: &AdamW,
        on_point: &mut dyn FnMut(&str),
        create: Create<'_>,
    ) -> Result<(), CheckpointError> {
        let explain = |path: &Path, source: io::Error| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                let kept = match self.steps() {
                    Ok(steps) if !steps.is_empty() => {
                        format!("the checkpoint of step {} is whole", steps[0])
                    }
                    _ => "there is no earlier checkpoint".to_owned(),
                };
                CheckpointError::DiskFull {
                    path: path.to_owned(),
                    needed_bytes: checkpoint_bytes(parameters.count()),
                    kept,
                }
            }
            _ => failed("write", path, source),
        };
        fs::create_dir(folder).map_err(|e| failed("create", folder, e))?;
        let mut files = BTreeMap::new();
        for (name, tensors) in TENSORS.iter().zip([parameters, &adamw.m, &adamw.v]) {
            let path = folder.join(name);
            let record = create(&path)
                .and_then(|mut file| {
                    let record = write_tensors(&mut *file, tensors)?;
                    file.sync()?;
                    Ok(record)
                })
                .map_err(|e| explain(&path, e))?;
            files.insert((*name).to_owned(), record);
            if files.len() == 1 {
                on_point("checkpoint:mid-write");
            }
        }
        let state = to_json(state);
        let record = FileRecord {
            bytes: state.len() as u64,
            sha256: hex(&Sha256::digest(&state)),
        };
        files.insert(STATE.to_owned(), record);
        for (name, text) in [(STATE, state), (MANIFEST, to_json(&Manifest { files }))] {
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
    /// `layout` says which tensors are expected, `formats` how they are kept on the device.
    pub fn load_newest(
        &self,
        layout: &Layout,
        formats: Formats,
        device: &Device,
        constants: AdamWConstants,
    ) -> Result<(Option<Checkpoint>, Vec<String>), CheckpointError> {
        let mut notices = Vec::new();
        for step in self.steps()? {
            let path = self.step_path(step);
            match load(&path, layout, formats, device, constants) {
                Ok(checkpoint) => return Ok((Some(checkpoint), notices)),
                Err(reason) => notices.push(format!(
                    "the checkpoint {} is damaged and is passed over: {reason}",
                    path.display()
                )),
            }
        }
        Ok((None, notices))
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

/// Bytes that a checkpoint of so many parameters takes on disk, headers aside.
pub fn checkpoint_bytes(parameters: usize) -> u64 {
    12 * parameters as u64
}

fn load(
    folder: &Path,
    layout: &Layout,
    formats: Formats,
    device: &Device,
    constants: AdamWConstants,
) -> Result<Checkpoint, String> {
    let manifest =
        fs::read(folder.join(MANIFEST)).map_err(|e| format!("{MANIFEST} cannot be read ({e})"))?;
    let manifest: Manifest = serde_json::from_slice(&manifest)
        .map_err(|e| format!("{MANIFEST} is not what was written ({e})"))?;
    let expected = |name: &str| {
        manifest
            .files
            .get(name)
            .ok_or_else(|| format!("{MANIFEST} does not list {name}"))
    };
    let state =
        fs::read(folder.join(STATE)).map_err(|e| format!("{STATE} cannot be read ({e})"))?;
    if hex(&Sha256::digest(&state)) != expected(STATE)?.sha256 {
        return Err(format!("{STATE} is not what was written"));
    }
    let state: CheckpointState = serde_json::from_slice(&state)
        .map_err(|e| format!("{STATE} cannot be understood ({e})"))?;
    if state.format != FORMAT {
        return Err(format!(
            "{STATE} has format {}, this program reads {FORMAT}",
            state.format
        ));
    }
    let read = |name: &str, format| {
        read_tensors(&folder.join(name), layout, format, device, expected(name)?)
    };
    let [model, m, v] = TENSORS;
    Ok(Checkpoint {
        parameters: read(model, formats.trained)?,
        adamw: AdamW {
            constants,
            updates: state.step,
            m: read(m, formats.moments)?,
            v: read(v, formats.moments)?,
        },
        state,
    })
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
