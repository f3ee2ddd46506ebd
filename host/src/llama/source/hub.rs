//! Models from the Hugging Face hub, or from whatever `HF_ENDPOINT` names, through its own cache.

use std::path::{Path, PathBuf};

use hf_hub::HFError;
use hf_hub::repository::RepoTypeModel;
use hf_hub::{HFClientSync, HFRepositorySync};

use super::{LocalModel, OnProgress, Progress, SourceError};

type Repository = HFRepositorySync<RepoTypeModel>;

/// Fetches configuration, tokenizer and safetensors of a repository into the hub's cache folder.
pub(super) fn fetch_model(
    repository: &str,
    revision: Option<&str>,
    progress: OnProgress<'_>,
) -> Result<LocalModel, SourceError> {
    let hub = connect(repository)?;
    let mut fetch = |file: &str| {
        report(progress, repository, file);
        hub.download_file()
            .filename(file)
            .maybe_revision(revision.map(str::to_owned))
            .send()
    };
    let failed = |e: HFError| SourceError::Hub {
        repository: repository.to_owned(),
        reason: e.to_string(),
    };
    let optional = |result: Result<PathBuf, HFError>| match result {
        Ok(path) => Ok(Some(path)),
        Err(HFError::EntryNotFound { .. }) => Ok(None),
        Err(e) => Err(failed(e)),
    };
    let config = fetch("config.json").map_err(failed)?;
    fetch("tokenizer.json").map_err(failed)?;
    for file in [
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
    ] {
        optional(fetch(file))?;
    }
    if optional(fetch("model.safetensors"))?.is_none() {
        let index = fetch("model.safetensors.index.json").map_err(failed)?;
        for shard in shards(&index).map_err(|reason| SourceError::Hub {
            repository: repository.to_owned(),
            reason,
        })? {
            fetch(&shard).map_err(failed)?;
        }
    }
    let folder = config.parent().unwrap_or(Path::new(".")).to_owned();
    Ok(LocalModel {
        origin: match revision {
            Some(revision) => format!("hf:{repository}@{revision}"),
            None => format!("hf:{repository}"),
        },
        path: folder,
    })
}

/// Fetches one file into a folder and returns its place.
pub(super) fn fetch_file(
    repository: &str,
    revision: &str,
    file: &str,
    folder: &Path,
    progress: OnProgress<'_>,
) -> Result<PathBuf, SourceError> {
    report(progress, repository, file);
    connect(repository)?
        .download_file()
        .filename(file)
        .revision(revision)
        .local_dir(folder)
        .send()
        .map_err(|e| SourceError::Hub {
            repository: repository.to_owned(),
            reason: e.to_string(),
        })
}

fn connect(repository: &str) -> Result<Repository, SourceError> {
    let (owner, name) = repository.split_once('/').unwrap_or(("", repository));
    let client = HFClientSync::new().map_err(|e| SourceError::Hub {
        repository: repository.to_owned(),
        reason: e.to_string(),
    })?;
    Ok(client.model(owner, name))
}

fn report(progress: &mut dyn FnMut(Progress), repository: &str, file: &str) {
    progress(Progress {
        task: format!("fetching {file} of {repository} from the hub"),
        done: 0,
        total: None,
    });
}

fn shards(index: &Path) -> Result<Vec<String>, String> {
    let text = std::fs::read_to_string(index).map_err(|e| e.to_string())?;
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let map = value
        .get("weight_map")
        .and_then(|map| map.as_object())
        .ok_or("model.safetensors.index.json has no object \"weight_map\"")?;
    let mut names: Vec<String> = map
        .values()
        .filter_map(|v| v.as_str())
        .map(str::to_owned)
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}
