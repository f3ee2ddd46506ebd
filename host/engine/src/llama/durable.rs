//! Files that are whole or absent, whatever happens in between.

use std::fs::File;
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
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
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
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    }
    drop(file);
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    Ok(())
}
