//! What was found in a file when it was last read whole, so that an unchanged one is not read
//! again: a Python component of 18 MB takes longer to read and hash than to start.
//!
//! As git's index and ccache's inode cache do, a file is taken for unchanged while its device, its
//! inode, its size and its times are. Who writes can set the time of modification, but not that
//! of the last change to the inode. What was found is kept beside the compiled components, and
//! for nobody else to write: who can change the one could change the other.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

/// How the names of these files end.
pub(super) const EXTENSION: &str = "known";

/// A file that was changed so shortly before it was looked at, in seconds, might be changed again
/// with the same times: file systems count them in steps, at most this long (FAT).
const SETTLED: i64 = 2;

static READ_EVERY_FILE: AtomicBool = AtomicBool::new(false);

/// From now on this process reads and hashes every plugin's file, whatever it knows of it.
pub fn read_every_file() {
    READ_EVERY_FILE.store(true, Ordering::Relaxed);
}

/// What tells one state of a file from another, without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::plugin) struct FileState {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What is in a component's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::plugin) struct Contents {
    pub(in crate::plugin) sha256: String,
    pub(in crate::plugin) size: u64,
    /// Names of what the component exports.
    pub(in crate::plugin) interfaces: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Known {
    state: FileState,
    contents: Contents,
}

impl FileState {
    /// As a file is now, before it is read; none of one whose next change might not show.
    pub(in crate::plugin) fn of(path: &Path) -> Option<Self> {
        let asked = !READ_EVERY_FILE.load(Ordering::Relaxed);
        asked.then(|| FileState::at(path, SystemTime::now()))?
    }

    #[cfg(unix)]
    fn at(path: &Path, now: SystemTime) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let about = fs::metadata(path).ok()?;
        let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
        let settled = about.ctime() + SETTLED < i64::try_from(now).ok()?;
        settled.then(|| FileState {
            device: about.dev(),
            inode: about.ino(),
            size: about.size(),
            modified: (about.mtime(), about.mtime_nsec()),
            changed: (about.ctime(), about.ctime_nsec()),
        })
    }

    /// Elsewhere no time is out of reach of who writes, and every file is read.
    #[cfg(not(unix))]
    fn at(_: &Path, _: SystemTime) -> Option<Self> {
        None
    }

    /// One file has one, whatever became of it.
    fn file(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{:x}-{:x}.{EXTENSION}", self.device, self.inode))
    }
}

/// What was in the file when it was read in this very state. What cannot be read here, or is
/// damaged, is not known.
pub(super) fn recall(folder: &Path, state: &FileState) -> Option<Contents> {
    let text = fs::read(state.file(folder)).ok()?;
    let known: Known = serde_json::from_slice(&text).ok()?;
    (known.state == *state).then_some(known.contents)
}

/// Keeps what was read in a file that was in this state before.
///
/// # Errors
/// When it cannot be written; the file then is read again.
pub(super) fn remember(folder: &Path, state: FileState, contents: Contents) -> std::io::Result<()> {
    let file = state.file(folder);
    let text = serde_json::to_vec(&Known { state, contents })?;
    let mut new = tempfile::Builder::new()
        .prefix(super::compiled::NEW)
        .tempfile_in(folder)?;
    new.write_all(&text)?;
    new.persist(file).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use std::{fs::File, time::Duration};

    use super::*;

    /// Long after whatever the test did just now.
    fn later(path: &Path) -> FileState {
        FileState::at(path, SystemTime::now() + Duration::from_secs(10)).unwrap()
    }

    fn contents() -> Contents {
        Contents {
            sha256: "ab".repeat(32),
            size: 5,
            interfaces: vec!["pacos:plugin/filter@0.1.0".into()],
        }
    }

    #[test]
    fn a_file_is_known_until_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plugin.wasm");
        fs::write(&path, "first").unwrap();
        let first = later(&path);
        assert_eq!(recall(folder.path(), &first), None);
        remember(folder.path(), first.clone(), contents()).unwrap();
        assert_eq!(recall(folder.path(), &later(&path)), Some(contents()));

        // The same size, and the old time of modification: the inode's time still tells.
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        fs::write(&path, "other").unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(modified).unwrap();
        let second = later(&path);
        assert_eq!((second.size, second.modified), (first.size, first.modified));
        assert_eq!(recall(folder.path(), &second), None);

        // Another file in its place.
        remember(folder.path(), second, contents()).unwrap();
        let moved = folder.path().join("moved.wasm");
        fs::write(&moved, "third").unwrap();
        fs::rename(&moved, &path).unwrap();
        assert_eq!(recall(folder.path(), &later(&path)), None);
    }

    #[test]
    fn what_has_changed_just_now_is_not_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plugin.wasm");
        fs::write(&path, "first").unwrap();
        let now = SystemTime::now();
        assert_eq!(FileState::at(&path, now), None);
        assert_eq!(FileState::at(&path, now - Duration::from_secs(60)), None);
        assert!(FileState::at(&path, now + Duration::from_secs(4)).is_some());
    }

    #[test]
    fn what_is_damaged_is_not_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plugin.wasm");
        fs::write(&path, "first").unwrap();
        let state = later(&path);
        remember(folder.path(), state.clone(), contents()).unwrap();
        let kept = state.file(folder.path());
        let whole = fs::read(&kept).unwrap();
        for damaged in [b"".as_slice(), b"{}", &whole[..whole.len() / 2]] {
            fs::write(&kept, damaged).unwrap();
            assert_eq!(recall(folder.path(), &state), None);
        }
        fs::write(&kept, whole).unwrap();
        assert_eq!(recall(folder.path(), &state), Some(contents()));
    }
}
