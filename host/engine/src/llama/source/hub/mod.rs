//! Models from the Hugging Face hub, or from whatever `HF_ENDPOINT` names, in the hub's own cache.
//!
//! Why not the crate `hf-hub`: since version 1 it always brings the Xet client, 67 crates more than
//! this program has; before that it knew no time-outs and believed whatever had come.
//!
//! Only plain HTTP is spoken. The hub keeps large files in its Xet store and redirects those who
//! ask for them without Xet to a bridge that serves them whole, ranges included.
//!
//! Source: <https://huggingface.co/docs/hub/api> and `huggingface_hub`'s "Understand caching".

mod cache;
mod transfer;

use std::{
    path::{Component, Path, PathBuf},
    sync::mpsc,
};

use self::{
    cache::Cache,
    transfer::{Client, Failed},
};
use super::{LocalModel, OnProgress, Progress, SourceError};
use crate::download;

/// The branch that is meant where none is named.
const MAIN: &str = "main";

const INDEX: &str = "model.safetensors.index.json";

/// Fetches configuration, tokenizer and safetensors of a repository into the hub's cache folder,
/// those that are not there yet. A revision that is a whole commit and complete in the cache needs
/// no network; a branch or tag is asked for, and taken from the cache where nobody answers.
pub(super) fn fetch_model(
    repository: &str,
    revision: Option<&str>,
    progress: OnProgress<'_>,
) -> Result<LocalModel, SourceError> {
    let failed = |reason: String| SourceError::Hub {
        repository: repository.to_owned(),
        reason,
    };
    let cache = Cache::of(repository).map_err(failed)?;
    let asked = revision.unwrap_or(MAIN);
    let found = |path: PathBuf| LocalModel {
        origin: match revision {
            Some(revision) => format!("hf:{repository}@{revision}"),
            None => format!("hf:{repository}"),
        },
        path,
        checked: None,
    };
    let cached = cache.snapshot(asked).filter(|folder| is_whole(folder));
    if let Some(folder) = &cached
        && (cache::is_commit(asked) || forbidden_by().is_some())
    {
        return Ok(found(folder.clone()));
    }
    if let Some(order) = forbidden_by() {
        return Err(failed(format!(
            "{order} forbids asking the hub, and {} holds no whole copy of it; fetch it beforehand \
             with `pacos model fetch`, or name the path of a folder",
            cache.root().display()
        )));
    }
    let fetched = in_background(progress, |client, report| {
        fetch_into(&cache, client?, repository, asked, Wanted::Model, report)
    });
    match (fetched, cached) {
        (Ok(folder), _) => Ok(found(folder)),
        (Err(failure), Some(folder)) if failure.is_silence() => Ok(found(folder)),
        (Err(failure), _) => Err(failed(failure.to_string())),
    }
}

/// The folder of a repository's configuration, if the cache has it.
pub(super) fn cached_config(repository: &str, revision: Option<&str>) -> Option<PathBuf> {
    let cache = Cache::of(repository).ok()?;
    cache.configured(revision.unwrap_or(MAIN))
}

/// The folder of a repository's configuration, which is fetched by itself if the cache has none.
pub(super) fn fetch_config(
    repository: &str,
    revision: Option<&str>,
) -> Result<PathBuf, SourceError> {
    if let Some(folder) = cached_config(repository, revision) {
        return Ok(folder);
    }
    let failed = |reason: String| SourceError::Hub {
        repository: repository.to_owned(),
        reason,
    };
    if let Some(order) = forbidden_by() {
        return Err(failed(format!("{order} forbids asking the hub")));
    }
    let cache = Cache::of(repository).map_err(failed)?;
    let asked = revision.unwrap_or(MAIN);
    in_background(&mut |_| {}, |client, report| {
        fetch_into(&cache, client?, repository, asked, Wanted::Config, report)
    })
    .map_err(|failure| failed(failure.to_string()))
}

/// Fetches one file into a folder and returns its place.
pub(super) fn fetch_file(
    repository: &str,
    revision: &str,
    file: &str,
    folder: &Path,
    progress: OnProgress<'_>,
) -> Result<PathBuf, SourceError> {
    let place = folder.join(file);
    let fetched: Result<(), Failed> = in_background(progress, |client, report| {
        let mut client = client?;
        let head = client.head(repository, revision, file)?;
        let part = folder.join(format!("{file}.incomplete"));
        client.download(repository, revision, file, &head, &part, report)?;
        std::fs::rename(&part, &place).map_err(|source| Failed::disk("write", &place, source))
    });
    match fetched {
        Ok(()) => Ok(place),
        Err(failure) => Err(SourceError::Hub {
            repository: repository.to_owned(),
            reason: failure.to_string(),
        }),
    }
}

/// How much of a repository is wanted.
#[derive(Clone, Copy, PartialEq)]
enum Wanted {
    /// `config.json` alone.
    Config,
    /// All that makes a model.
    Model,
}

/// Asks which commit is meant, brings the files of it that are wanted and not there, and notes the
/// commit when all of them are.
fn fetch_into(
    cache: &Cache,
    mut client: Client,
    repository: &str,
    revision: &str,
    wanted: Wanted,
    report: &mut dyn FnMut(Progress),
) -> Result<PathBuf, Failed> {
    let listing = client.list(repository, revision)?;
    let commit = &listing.commit;
    let folder = cache.snapshot_folder(commit);
    let mut fetch = |file: &str| -> Result<(), Failed> {
        let place = folder.join(file);
        if place.exists() {
            return Ok(());
        }
        let head = client.head(repository, commit, file)?;
        let blob = cache.blob(&head.etag);
        let _lock = cache.lock(&head.etag)?;
        if !blob.exists() {
            let part = blob.with_added_extension("incomplete");
            client.download(repository, commit, file, &head, &part, report)?;
            std::fs::rename(&part, &blob).map_err(|e| Failed::disk("write", &blob, e))?;
        }
        cache.link(&blob, &place)
    };
    let lacks = |file: &str, next: &str| {
        Failed::refused(format!(
            "the repository has no {file} at revision \"{revision}\"; {next}"
        ))
    };
    if !listing.has("config.json") {
        return Err(lacks(
            "config.json",
            "it is not a model in transformers' form: name another repository",
        ));
    }
    if wanted == Wanted::Config {
        fetch("config.json")?;
        cache.set_commit(revision, commit)?;
        return Ok(folder);
    }
    if !TOKENIZERS.iter().any(|file| listing.has(file)) {
        return Err(lacks(
            "tokenizer.json",
            "load it once with transformers' AutoTokenizer, save_pretrained it with the model into \
             a folder, and name the folder's path",
        ));
    }
    // Small files first: what is wrong with a model shows before its weights are fetched.
    let more: &[&str] = match listing.has("tokenizer.json") {
        true => &[],
        false => &SENTENCE_PIECE,
    };
    for file in SMALL.iter().chain(more) {
        if listing.has(file) {
            fetch(file)?;
        }
    }
    if listing.has("model.safetensors") {
        fetch("model.safetensors")?;
    } else if listing.has(INDEX) {
        fetch(INDEX)?;
        let shards = shards(&folder.join(INDEX)).map_err(Failed::refused)?;
        for shard in shards {
            if !listing.has(&shard) {
                return Err(lacks(&shard, "its index names it: name another revision"));
            }
            fetch(&shard)?;
        }
    } else {
        return Err(lacks(
            "model.safetensors",
            "weights in other forms are not read: load it once with transformers, save_pretrained \
             it into a folder, and name the folder's path",
        ));
    }
    cache.set_commit(revision, commit)?;
    Ok(folder)
}

const SMALL: [&str; 5] = [
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "tokenizer.json",
];

/// What is fetched where there is no `tokenizer.json`.
const SENTENCE_PIECE: [&str; 2] = ["added_tokens.json", "tokenizer.model"];

/// Files of which one is enough to cut texts into tokens.
const TOKENIZERS: [&str; 2] = ["tokenizer.json", "tokenizer.model"];

/// Whether a folder holds all that makes a model.
fn is_whole(folder: &Path) -> bool {
    let has = |file: &str| folder.join(file).exists();
    let weights = || match has("model.safetensors") {
        true => true,
        false => {
            shards(&folder.join(INDEX)).is_ok_and(|shards| shards.iter().all(|shard| has(shard)))
        }
    };
    has("config.json") && TOKENIZERS.iter().any(|file| has(file)) && weights()
}

/// Files that an index of weights names. They come from a stranger and become paths.
fn shards(index: &Path) -> Result<Vec<String>, String> {
    let text = std::fs::read_to_string(index).map_err(|e| format!("{INDEX}: {e}"))?;
    let value: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| format!("{INDEX} is not JSON: {e}"))?;
    let map = (value["weight_map"].as_object())
        .ok_or_else(|| format!("{INDEX} has no object \"weight_map\""))?;
    let mut names = Vec::new();
    for name in map.values().filter_map(serde_json::Value::as_str) {
        let plain = |part| matches!(part, Component::Normal(_));
        if !Path::new(name).components().all(plain) || !name.ends_with(".safetensors") {
            return Err(format!(
                "{INDEX} names {name:?}, which is no file of weights"
            ));
        }
        names.push(name.to_owned());
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// What forbids asking the hub, if anything does.
pub(super) fn forbidden_by() -> Option<&'static str> {
    let here = download::is_on("HF_HUB_OFFLINE").then_some("HF_HUB_OFFLINE");
    here.or_else(|| download::is_forbidden().then_some(download::FORBIDDEN_BY))
}

/// Runs `work` on a thread of its own, as its runtime cannot live inside another's, and hands on
/// here what it reports.
fn in_background<T: Send>(
    progress: OnProgress<'_>,
    work: impl FnOnce(Result<Client, Failed>, &mut dyn FnMut(Progress)) -> T + Send,
) -> T {
    let (sender, reports) = mpsc::channel();
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || {
            work(Client::from_environment(), &mut |report| {
                // Nobody listens any more only if the listener panicked.
                let _ = sender.send(report);
            })
        });
        for report in reports {
            progress(report);
        }
        match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
