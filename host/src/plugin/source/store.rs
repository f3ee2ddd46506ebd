//! Fetched plugins on this machine, each under its own hash, so that one is what its name says or
//! is not used.
//!
//! ```text
//! plugins/sha256/HASH    components, and manifests of registries
//! plugins/tags/HASH      what a tag was when it was last fetched; HASH is of its name
//! ```

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use pacos_engine::digest::hex;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::SourceError;
use crate::cache;

/// The folder of fetched plugins.
pub(super) struct Store {
    root: PathBuf,
}

impl Store {
    pub(super) fn of_this_user() -> Result<Self, SourceError> {
        let folder = cache::folder().ok_or(SourceError::NoFolder)?;
        Ok(Store::in_folder(&folder.join("plugins")))
    }

    pub(super) fn in_folder(root: &Path) -> Self {
        Store {
            root: root.to_owned(),
        }
    }

    /// Where the bytes of this hash are, or would be.
    pub(super) fn path(&self, sha256: &str) -> PathBuf {
        self.root.join("sha256").join(sha256)
    }

    /// The bytes of this hash, checked, if they were fetched.
    pub(super) fn get(&self, sha256: &str) -> Result<Option<Vec<u8>>, SourceError> {
        let path = self.path(sha256);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(disk("read", &path, source)),
        };
        let found = hex(&Sha256::digest(&bytes));
        match found == sha256 {
            true => Ok(Some(bytes)),
            false => Err(SourceError::Damaged { path, found }),
        }
    }

    /// A file for what is about to come. It is gone when dropped.
    pub(super) fn begin(&self) -> Result<NamedTempFile, SourceError> {
        begin(&self.root.join("sha256"))
    }

    /// Keeps a file under its hash, in place of a damaged one.
    pub(super) fn keep(&self, file: NamedTempFile, sha256: &str) -> Result<(), SourceError> {
        settle(file, &self.path(sha256))
    }

    /// Keeps bytes under their hash.
    pub(super) fn put(&self, bytes: &[u8]) -> Result<String, SourceError> {
        let sha256 = hex(&Sha256::digest(bytes));
        let mut file = self.begin()?;
        file.write_all(bytes)
            .map_err(|source| disk("write", file.path(), source))?;
        self.keep(file, &sha256)?;
        Ok(sha256)
    }

    /// Notes what a tag is now.
    pub(super) fn note_tag(&self, tag: &str, digest: &str) -> Result<(), SourceError> {
        let path = self.tag_path(tag);
        let mut file = begin(path.parent().unwrap_or(&self.root))?;
        writeln!(file, "{tag} {digest}").map_err(|source| disk("write", &path, source))?;
        settle(file, &path)
    }

    /// What a tag was when it was last fetched.
    pub(super) fn noted_tag(&self, tag: &str) -> Option<String> {
        let text = fs::read_to_string(self.tag_path(tag)).ok()?;
        let digest = text.trim_end().strip_prefix(tag)?.trim_start();
        let sound = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
        sound.then(|| digest.to_owned())
    }

    fn tag_path(&self, tag: &str) -> PathBuf {
        self.root.join("tags").join(hex(&Sha256::digest(tag)))
    }
}

fn begin(folder: &Path) -> Result<NamedTempFile, SourceError> {
    fs::create_dir_all(folder).map_err(|source| disk("create", folder, source))?;
    tempfile::Builder::new()
        .prefix(".unfinished-")
        .tempfile_in(folder)
        .map_err(|source| disk("write in", folder, source))
}

fn settle(file: NamedTempFile, place: &Path) -> Result<(), SourceError> {
    file.as_file()
        .sync_all()
        .and_then(|()| file.persist(place).map_err(|error| error.error))
        .map(drop)
        .map_err(|source| disk("write", place, source))
}

pub(super) fn disk(action: &'static str, path: &Path, source: io::Error) -> SourceError {
    SourceError::Disk {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_on_the_disk_is_not_used_and_can_be_put_right() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::in_folder(folder.path());
        assert_eq!(store.get(&"0".repeat(64)).unwrap(), None);
        let sha256 = store.put(b"component").unwrap();
        assert_eq!(store.get(&sha256).unwrap().unwrap(), b"component");
        fs::write(store.path(&sha256), b"another").unwrap();
        let told = store.get(&sha256).unwrap_err().to_string();
        assert!(told.contains("is damaged: it has sha256 "), "{told}");
        assert!(told.contains("`pacos plugin fetch`"), "{told}");
        store.put(b"component").unwrap();
        assert_eq!(store.get(&sha256).unwrap().unwrap(), b"component");
        // Nothing unfinished stays behind.
        assert_eq!(
            fs::read_dir(folder.path().join("sha256")).unwrap().count(),
            1
        );
    }

    #[test]
    fn a_tag_is_noted_under_its_own_name() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::in_folder(folder.path());
        let digest = "a".repeat(64);
        store.note_tag("oci://r.io/n:1", &digest).unwrap();
        assert_eq!(store.noted_tag("oci://r.io/n:1"), Some(digest));
        assert_eq!(store.noted_tag("oci://r.io/n:2"), None);
    }
}
