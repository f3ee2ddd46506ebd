//! Compiled components, kept between starts.
//!
//! A component costs between a tenth of a second (Rust) and several seconds (Python, JavaScript)
//! to compile, and some milliseconds to load again. What is loaded again is machine code
//! that runs with the host's own rights, so it is kept in a folder that belongs to this user
//! alone, under a name that is made of the component's sha256 and of everything in wasmtime and
//! its settings that the code depends on; it is written elsewhere first and moved in whole.

use std::{
    fs::{self, File},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use wasmtime::{Engine, component::Component};

use super::known;
use crate::cache;

/// What all compiled components together may take; the least recently used are removed first.
const MOST_BYTES: u64 = 2 << 30;

/// How the name of a file begins that is still being written.
pub(super) const NEW: &str = ".new-";
/// What is being written for longer than this was left by a process that was killed.
const LONGEST_WRITE: Duration = Duration::from_secs(3600);

/// What is known of a file is forgotten when it is so old; with the file it would not be.
const LONGEST_KNOWN: Duration = Duration::from_secs(30 * 24 * 3600);

/// Where compiled components are kept.
pub(super) struct CompiledComponents {
    folder: PathBuf,
}

impl CompiledComponents {
    /// `components` in this user's cache folder. None, and a warning, where it cannot be used.
    pub(super) fn open() -> Option<Self> {
        let folder = cache::folder()?.join("components");
        match private(&folder) {
            Ok(()) => Some(CompiledComponents { folder }),
            Err(error) => {
                tracing::warn!(
                    "compiled plugins cannot be kept in {}: {error}. Every start compiles them \
                     again; mend the folder, or set PACOS_CACHE to another",
                    folder.display()
                );
                None
            }
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    #[cfg(test)]
    fn at(folder: &Path) -> Self {
        private(folder).expect("a temporary folder is private");
        CompiledComponents {
            folder: folder.to_owned(),
        }
    }

    /// The component, from its compiled form if that is kept; else compiled now, and kept.
    ///
    /// # Errors
    /// When the component does not compile. That its compiled form could not be kept, or is not
    /// what it should be, is no error.
    pub(super) fn component(
        &self,
        engine: &Engine,
        sha256: &str,
        bytes: &[u8],
    ) -> wasmtime::Result<Component> {
        if let Some(component) = self.kept(engine, sha256) {
            return Ok(component);
        }
        let file = self.file(engine, sha256);
        let component = Component::new(engine, bytes)?;
        if let Err(error) = self.keep(&file, &component) {
            tracing::warn!(
                "a compiled plugin cannot be kept as {}: {error}. The next start compiles it again",
                file.display()
            );
        }
        Ok(component)
    }

    /// The component, if its compiled form is kept.
    pub(super) fn kept(&self, engine: &Engine, sha256: &str) -> Option<Component> {
        let file = self.file(engine, sha256);
        if !file.exists() {
            return None;
        }
        // SAFETY: `private` has seen that nobody else may write into this folder, and only
        // `keep` writes there, whole files that `Component::serialize` gave. They are never
        // written over, so that what is mapped does not change. A file of another build of
        // wasmtime has another name, and wasmtime would refuse it besides.
        match unsafe { Component::deserialize_file(engine, &file) } {
            Ok(component) => {
                // For `make_room`: used just now.
                let touched =
                    File::open(&file).and_then(|file| file.set_modified(SystemTime::now()));
                if let Err(error) = touched {
                    tracing::debug!("{}: {error}", file.display());
                }
                Some(component)
            }
            Err(error) => {
                tracing::debug!("{} is not used, and made again: {error:#}", file.display());
                None
            }
        }
    }

    fn file(&self, engine: &Engine, sha256: &str) -> PathBuf {
        // This hasher gives the same for the same on every start; what it gives is not secret.
        let settings = BuildHasherDefault::<DefaultHasher>::default();
        let settings = settings.hash_one(engine.precompile_compatibility_hash());
        self.folder.join(format!("{sha256}-{settings:016x}.cwasm"))
    }

    fn keep(&self, file: &Path, component: &Component) -> io::Result<()> {
        let code = component
            .serialize()
            .map_err(|error| io::Error::other(format!("{error:#}")))?;
        let mut new = tempfile::Builder::new()
            .prefix(NEW)
            .tempfile_in(&self.folder)?;
        new.write_all(&code)?;
        // Else a crash of the machine could leave the name with only a part of the code.
        new.as_file().sync_all()?;
        new.persist(file).map_err(|error| error.error)?;
        self.make_room(file)
    }

    /// Removes what a kill left half written, and what has not been used for longest. `new` stays,
    /// whatever its size.
    fn make_room(&self, new: &Path) -> io::Result<()> {
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            // Another process may have removed it meanwhile.
            let Ok(about) = entry.metadata() else {
                continue;
            };
            let path = entry.path();
            let half_written = entry.file_name().to_string_lossy().starts_with(NEW);
            let known = path.extension().is_some_and(|end| end == known::EXTENSION);
            let age = about.modified()?.elapsed().unwrap_or_default();
            if half_written && age > LONGEST_WRITE || known && age > LONGEST_KNOWN {
                fs::remove_file(&path)?;
                continue;
            }
            if path.extension().is_some_and(|end| end == "cwasm") && path != new {
                kept.push((about.modified()?, about.len(), path));
            }
        }
        let mut bytes = fs::metadata(new)?.len() + kept.iter().map(|(_, len, _)| len).sum::<u64>();
        kept.sort();
        for (_, len, path) in kept {
            if bytes <= MOST_BYTES {
                break;
            }
            fs::remove_file(&path)?;
            bytes -= len;
        }
        Ok(())
    }
}

/// Makes the folder, for this user alone, or sees that it is so.
#[cfg(unix)]
fn private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let about = fs::symlink_metadata(folder)?;
    let user = rustix::process::geteuid().as_raw();
    if !about.is_dir() {
        return Err(io::Error::other("it is not a folder"));
    }
    if about.uid() != user {
        return Err(io::Error::other("it belongs to another user"));
    }
    if about.mode() & 0o022 != 0 {
        return Err(io::Error::other(
            "others may write into it, and what lies there is run; `chmod go-w` it",
        ));
    }
    Ok(())
}

/// Elsewhere a user's cache folder is private by its place.
#[cfg(not(unix))]
fn private(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine() -> Engine {
        Engine::default()
    }

    fn empty_component() -> Vec<u8> {
        wat::parse_str("(component)").unwrap()
    }

    fn kept(folder: &Path) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        files
    }

    #[test]
    fn what_was_compiled_once_is_loaded_again() {
        let folder = tempfile::tempdir().unwrap();
        let components = CompiledComponents::at(&folder.path().join("components"));
        components
            .component(&engine(), "aa", &empty_component())
            .unwrap();
        let [file] = &kept(&components.folder)[..] else {
            panic!("{:?}", kept(&components.folder));
        };
        assert!(
            file.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("aa-")
        );
        // The bytes are not looked at again: these would not compile.
        components.component(&engine(), "aa", b"nothing").unwrap();
        assert!(components.component(&engine(), "bb", b"nothing").is_err());
    }

    #[test]
    fn other_settings_have_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let components = CompiledComponents::at(folder.path());
        let metered = Engine::new(wasmtime::Config::new().consume_fuel(true)).unwrap();
        for engine in [engine(), metered] {
            components
                .component(&engine, "aa", &empty_component())
                .unwrap();
        }
        assert_eq!(kept(folder.path()).len(), 2);
    }

    #[test]
    fn a_damaged_file_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let components = CompiledComponents::at(folder.path());
        components
            .component(&engine(), "aa", &empty_component())
            .unwrap();
        let file = &kept(folder.path())[0];
        let whole = fs::read(file).unwrap();
        for damaged in [b"".as_slice(), b"not code", &whole[..100]] {
            fs::remove_file(file).unwrap();
            fs::write(file, damaged).unwrap();
            components
                .component(&engine(), "aa", &empty_component())
                .unwrap();
            assert_eq!(fs::metadata(file).unwrap().len(), whole.len() as u64);
        }
    }

    #[test]
    fn what_a_kill_left_half_written_goes_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let components = CompiledComponents::at(folder.path());
        let (left, fresh) = (folder.path().join(".new-a"), folder.path().join(".new-b"));
        for file in [&left, &fresh] {
            fs::write(file, "half").unwrap();
        }
        let long_ago = SystemTime::now() - 2 * LONGEST_WRITE;
        let file = File::options().write(true).open(&left).unwrap();
        file.set_modified(long_ago).unwrap();
        components
            .component(&engine(), "aa", &empty_component())
            .unwrap();
        assert!(!left.exists());
        // Another process may be writing this one.
        assert!(fresh.exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_others_may_write_into_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let open = folder.path().join("components");
        private(&open).unwrap();
        let mode = fs::metadata(&open).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(private(&open).unwrap_err().to_string().contains("chmod"));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&open, &link).unwrap();
        assert!(private(&link).is_err());
    }
}
