//! The hub's cache folder, in the form that `huggingface_hub` and its like keep and share.
//!
//! ```text
//! models--OWNER--NAME/refs/REVISION          the commit that a branch or tag was last
//! models--OWNER--NAME/blobs/ETAG             the files
//! models--OWNER--NAME/snapshots/COMMIT/FILE  links to them
//! ```

use std::{
    env,
    fs::{self, File},
    path::{Component, Path, PathBuf},
};

use super::transfer::Failed;

/// The place of one repository in the cache.
pub(super) struct Cache {
    folder: PathBuf,
    locks: PathBuf,
}

/// Whether a revision is a whole commit hash, which always means the same files.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}

/// `HF_HOME`, or where it is by default.
pub(super) fn home() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    set("HF_HOME").map(PathBuf::from).or_else(|| {
        let cache = set("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(env::home_dir()?.join(".cache")));
        Some(cache?.join("huggingface"))
    })
}

impl Cache {
    /// The place of "OWNER/NAME".
    pub(super) fn of(repository: &str) -> Result<Self, String> {
        let named = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]
            .into_iter()
            .find_map(|name| env::var_os(name).filter(|value| !value.is_empty()));
        let root = named
            .map(PathBuf::from)
            .or_else(|| Some(home()?.join("hub")))
            .ok_or("there is no home folder to keep it in; set HF_HOME to a folder")?;
        Ok(Self::in_folder(&root, repository))
    }

    fn in_folder(root: &Path, repository: &str) -> Self {
        let name = format!("models--{}", repository.replace('/', "--"));
        Cache {
            locks: root.join(".locks").join(&name),
            folder: root.join(name),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.folder
    }

    /// The folder of the files of a revision, if any of them was ever fetched.
    pub(super) fn snapshot(&self, revision: &str) -> Option<PathBuf> {
        let commit = match is_commit(revision) {
            true => revision.to_owned(),
            false => fs::read_to_string(self.reference(revision)?).ok()?,
        };
        let commit = commit.trim();
        let folder = self.snapshot_folder(commit);
        (is_commit(commit) && folder.is_dir()).then_some(folder)
    }

    /// The same, if the configuration is among them.
    pub(super) fn configured(&self, revision: &str) -> Option<PathBuf> {
        let folder = self.snapshot(revision)?;
        folder.join("config.json").exists().then_some(folder)
    }

    pub(super) fn snapshot_folder(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Where the commit of a branch or tag is noted; nothing for names that lead out of the cache.
    fn reference(&self, revision: &str) -> Option<PathBuf> {
        let name = Path::new(revision);
        let plain = name
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        plain.then(|| self.folder.join("refs").join(name))
    }

    /// Notes which commit a branch or tag is.
    pub(super) fn set_commit(&self, revision: &str, commit: &str) -> Result<(), Failed> {
        let Some(place) = self.reference(revision).filter(|_| !is_commit(revision)) else {
            return Ok(());
        };
        create_parent(&place)?;
        crate::llama::durable::write(&place, commit.as_bytes())
            .map_err(|source| Failed::disk("write", &place, source))
    }

    /// Waits until nobody else fetches the same file. Free again when dropped.
    pub(super) fn lock(&self, etag: &str) -> Result<File, Failed> {
        let place = self.locks.join(format!("{etag}.lock"));
        create_parent(&place)?;
        create_parent(&self.blob(etag))?;
        let lock = File::create(&place).and_then(|file| file.lock().map(|()| file));
        lock.map_err(|source| Failed::disk("lock", &place, source))
    }

    /// Makes `place`, in a snapshot, the blob under its own name.
    pub(super) fn link(&self, blob: &Path, place: &Path) -> Result<(), Failed> {
        create_parent(place)?;
        let wrong = |source| Failed::disk("write", place, source);
        #[cfg(unix)]
        {
            let below = place.strip_prefix(&self.folder).unwrap_or(place);
            let up: PathBuf = (1..below.components().count()).map(|_| "..").collect();
            let name = blob.file_name().unwrap_or_default();
            let target = up.join("blobs").join(name);
            // A link that leads nowhere stands where a blob was deleted.
            if place.is_symlink() {
                fs::remove_file(place).map_err(wrong)?;
            }
            std::os::unix::fs::symlink(target, place).map_err(wrong)
        }
        #[cfg(not(unix))]
        {
            // Symbolic links need a privilege there.
            fs::hard_link(blob, place).map_err(wrong)
        }
    }
}

fn create_parent(place: &Path) -> Result<(), Failed> {
    let folder = place.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|source| Failed::disk("create", folder, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_looked_up_and_leads_nowhere_else() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::in_folder(root.path(), "owner/name");
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(cache.snapshot("main"), None);
        assert_eq!(cache.snapshot(commit), None);
        let folder = root.path().join("models--owner--name/snapshots");
        fs::create_dir_all(folder.join(commit)).unwrap();
        cache.set_commit("main", commit).unwrap();
        cache.set_commit("refs/pr/1", commit).unwrap();
        for revision in ["main", "refs/pr/1", commit] {
            assert_eq!(cache.snapshot(revision), Some(folder.join(commit)));
            assert_eq!(cache.configured(revision), None);
        }
        fs::write(folder.join(commit).join("config.json"), "{}").unwrap();
        assert_eq!(cache.configured("main"), Some(folder.join(commit)));
        // Neither what is asked nor what is noted may name a folder of its own choice.
        fs::write(root.path().join("models--owner--name/odd"), commit).unwrap();
        cache.set_commit("moved", "../..").unwrap();
        for revision in ["v1", "../odd", "/etc", "moved"] {
            assert_eq!(cache.snapshot(revision), None, "{revision}");
        }
    }
}
