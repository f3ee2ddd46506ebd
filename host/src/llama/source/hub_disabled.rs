//! Stands in for `hub.rs` in builds without the feature `hf-hub`.

use std::path::{Path, PathBuf};

use super::{LocalModel, OnProgress, SourceError};

const REASON: &str = "this build has no hub support; build with `--features hf-hub`, or download the folder and name its path";

pub(super) fn fetch_model(
    repository: &str,
    _revision: Option<&str>,
    _progress: OnProgress<'_>,
) -> Result<LocalModel, SourceError> {
    Err(SourceError::Hub {
        repository: repository.to_owned(),
        reason: REASON.to_owned(),
    })
}

pub(super) fn fetch_file(
    repository: &str,
    _revision: &str,
    _file: &str,
    _folder: &Path,
    _progress: OnProgress<'_>,
) -> Result<PathBuf, SourceError> {
    Err(SourceError::Hub {
        repository: repository.to_owned(),
        reason: REASON.to_owned(),
    })
}
