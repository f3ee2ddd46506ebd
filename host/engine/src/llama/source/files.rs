//! Which files a model is, as far as that is known without reading gigabytes.

use std::{collections::BTreeMap, fs, io, path::Path};

use super::{ModelSource, SourceError, weight_files};
use crate::download::sha256_of;

/// Largest file that is read only to know its hash. Tokenizers have up to 20 MB.
const WORTH_READING: u64 = 32 << 20;

/// Which files a model is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelFiles {
    /// The hub's commit.
    pub revision: Option<String>,
    /// By their names.
    pub files: BTreeMap<String, FileIdentity>,
}

/// Which file it is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FileIdentity {
    /// In bytes.
    pub size: u64,
    /// In lower-case hexadecimal: read from small files, of large ones what the hub or this
    /// program says; absent where neither says anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

impl ModelSource {
    /// The files of the model that are on this machine. Nothing is fetched, and of weights only
    /// the size is looked at.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn files_without_fetching(&self) -> Result<ModelFiles, SourceError> {
        let embedded = match self {
            Self::Embedded(model) => Some(*model),
            Self::Path(_) | Self::Hub { .. } => None,
        };
        if let Some(model) = embedded {
            // Whatever is read as this model is checked against its hash first.
            let file = FileIdentity {
                size: model.bytes(),
                sha256: Some(model.sha256().to_owned()),
            };
            let name = model.name().to_owned();
            return Ok(ModelFiles {
                revision: None,
                files: BTreeMap::from([(name, file)]),
            });
        }
        let Some(place) = self.path_without_fetching() else {
            return Ok(ModelFiles::default());
        };
        let name = |path: &Path| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        };
        let paths = match place.is_dir() {
            true => {
                let named = super::CONFIGURATION.map(|name| place.join(name));
                let mut paths: Vec<_> = named.into_iter().filter(|path| path.exists()).collect();
                paths.extend(weight_files(&place).unwrap_or_default());
                paths
            }
            false => vec![place.clone()],
        };
        let mut files = BTreeMap::new();
        for path in paths.into_iter().filter(|path| path.exists()) {
            let file = identity(&path).map_err(|source| SourceError::Io {
                action: "read",
                path: path.clone(),
                source,
            })?;
            files.insert(name(&path), file);
        }
        let revision = matches!(self, Self::Hub { .. }).then(|| name(&place));
        Ok(ModelFiles { revision, files })
    }
}

fn identity(path: &Path) -> io::Result<FileIdentity> {
    // In the hub's cache files are links to blobs, and a large blob has its SHA-256 for a name.
    let real = fs::canonicalize(path)?;
    let blob = real.file_name().unwrap_or_default().to_string_lossy();
    let is_hash = blob.len() == 64 && blob.bytes().all(|byte| byte.is_ascii_hexdigit());
    let size = fs::metadata(&real)?.len();
    let sha256 = match (is_hash, size <= WORTH_READING) {
        (_, true) => Some(sha256_of(&real)?),
        (true, false) => Some(blob.to_ascii_lowercase()),
        (false, false) => None,
    };
    Ok(FileIdentity { size, sha256 })
}
