//! Files that are whole or absent, whatever happens in between.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Writes a file under a temporary name beside `path`, flushes it to disk and renames it.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_with(path, |file| file.write_all(bytes))
}

/// Like [`write`], with the contents made by `fill`.
pub(super) fn write_with(
    path: &Path,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let folder = beside(path);
    let mut file = tempfile::Builder::new()
        .prefix(".unfinished-")
        .tempfile_in(folder)?;
    fill(file.as_file_mut())?;
    file.as_file().sync_all()?;
    let file = file.persist(path).map_err(|e| e.error)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Temporary files are private to their owner; a model is an ordinary file.
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
    }
    drop(file);
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    Ok(())
}

/// Why a folder could not be written.
#[derive(Debug)]
pub(super) struct FolderError {
    /// What was tried, and what the operating system said.
    pub source: Box<dyn std::error::Error + Send + Sync>,
    /// Whether a folder that was there before has lost files, or has some of the new ones.
    pub is_mixed: bool,
}

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for FolderError {
    fn from(source: E) -> Self {
        Self {
            source: source.into(),
            is_mixed: false,
        }
    }
}

/// Makes a folder under a temporary name beside `path` and renames it once `fill` has filled it. Where
/// there is a folder already, `replaced` is removed from it and the new files are moved into it.
pub(super) fn folder_with(
    path: &Path,
    replaced: &[&str],
    fill: impl FnOnce(&Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>>,
) -> Result<(), FolderError> {
    let parent = beside(path);
    fs::create_dir_all(parent)?;
    // Its files go with it unless it is renamed.
    let unfinished = tempfile::Builder::new()
        .prefix(".unfinished-")
        .tempdir_in(parent)?;
    fill(unfinished.path())?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(unfinished.path(), fs::Permissions::from_mode(0o755))?;
    }
    if path.is_dir() {
        move_into(path, unfinished.path(), replaced).map_err(|source| FolderError {
            source: source.into(),
            is_mixed: true,
        })?;
    } else {
        fs::rename(unfinished.path(), path)?;
        // Nothing is left under the old name.
        let _ = unfinished.keep();
    }
    #[cfg(unix)]
    File::open(parent)?.sync_all()?;
    Ok(())
}

/// Takes no room on the disk, so that a full one does not stop it half-way.
fn move_into(folder: &Path, unfinished: &Path, replaced: &[&str]) -> io::Result<()> {
    for name in replaced {
        match fs::remove_file(folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(unfinished)? {
        names.push(entry?.file_name());
    }
    // The sign that the folder is whole comes last.
    names.sort_by_key(|name| name == "config.json");
    for name in names {
        fs::rename(unfinished.join(&name), folder.join(&name))?;
    }
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    Ok(())
}

/// The folder in which a path stands.
fn beside(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
