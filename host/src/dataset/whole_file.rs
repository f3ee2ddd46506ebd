//! A file that appears whole or not at all, written piece by piece.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

/// Written beside its target as `.NAME.part`. That name is fixed, so that what a kill leaves
/// behind is overwritten by the next run; the run directory's lock keeps others away.
pub(super) struct WholeFile {
    target: PathBuf,
    part: PathBuf,
    /// `None` when it is committed.
    file: Option<BufWriter<File>>,
}

impl WholeFile {
    /// Begins a file; its directory is made if need be.
    pub(super) fn create(target: &Path) -> io::Result<Self> {
        let mut name = OsString::from(".");
        name.push(target.file_name().unwrap_or_default());
        name.push(".part");
        let part = target.with_file_name(name);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        Ok(WholeFile {
            target: target.to_owned(),
            file: Some(BufWriter::with_capacity(1 << 17, File::create(&part)?)),
            part,
        })
    }

    /// Puts it on disk and in its place.
    pub(super) fn commit(mut self) -> io::Result<()> {
        let file = self.open()?;
        file.flush()?;
        file.get_ref().sync_all()?;
        crate::fault::point("file:before-rename");
        fs::rename(&self.part, &self.target)?;
        self.file = None;
        match self.target.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    }

    fn open(&mut self) -> io::Result<&mut BufWriter<File>> {
        self.file
            .as_mut()
            .ok_or_else(|| io::Error::other("the file is closed"))
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.open()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.open()?.flush()
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            // Not flushed: nobody will read it.
            drop(file.into_parts());
            let _ = fs::remove_file(&self.part);
        }
    }
}
