//! Requests to the hub: which files a revision has, what a file is, and the file itself.

use std::{
    env,
    error::Error,
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use reqwest::{
    RequestBuilder, Response, StatusCode, Url,
    header::{
        ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap,
        HeaderValue, LOCATION, RANGE,
    },
    redirect::Policy,
};

use super::{Progress, cache};
use crate::download::{self, Interrupted, TRIES, client, reason, sha256_of};

/// Why something did not come from the hub.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// Nobody answered, or nobody who knows: what is in the cache will do.
    #[error("{0}")]
    Silent(String),
    /// The hub's last word.
    #[error("{0}")]
    Refused(String),
    #[error(
        "cannot {action} {}: {source}; make room or mend the folder, or set HF_HOME to another",
        path.display()
    )]
    Disk {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl Failed {
    pub(super) fn refused(reason: String) -> Self {
        Failed::Refused(reason)
    }

    pub(super) fn disk(action: &'static str, path: &Path, source: io::Error) -> Self {
        Failed::Disk {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether the hub might have said yes.
    pub(super) fn is_silence(&self) -> bool {
        matches!(self, Failed::Silent(_))
    }
}

/// What a revision is.
pub(super) struct Listing {
    /// Its commit, 40 hexadecimal digits.
    pub(super) commit: String,
    files: Vec<String>,
}

impl Listing {
    pub(super) fn has(&self, file: &str) -> bool {
        self.files.iter().any(|name| name == file)
    }
}

/// What a file is.
pub(super) struct Head {
    /// Its content's hash: SHA-256 of a large file, git's of a small one. Fit to be a file's name.
    pub(super) etag: String,
    size: Option<u64>,
}

/// A connection to the hub, with a runtime of its own.
pub(super) struct Client {
    runtime: tokio::runtime::Runtime,
    /// Follows redirects; leaves the token out where they lead to another host.
    following: reqwest::Client,
    staying: reqwest::Client,
    endpoint: Url,
    token: Option<HeaderValue>,
}

impl Client {
    /// Takes address and token from `HF_ENDPOINT`, `HF_TOKEN` and what `hf auth login` left.
    pub(super) fn from_environment() -> Result<Self, Failed> {
        let endpoint = env::var("HF_ENDPOINT").ok().filter(|text| !text.is_empty());
        let endpoint = endpoint.unwrap_or_else(|| "https://huggingface.co".to_owned());
        let wrong = |reason: String| {
            Failed::Refused(format!(
                "HF_ENDPOINT = {endpoint:?} is not the address of a hub ({reason}); unset it for \
                 https://huggingface.co"
            ))
        };
        let url = Url::parse(&endpoint).map_err(|error| wrong(error.to_string()))?;
        if url.cannot_be_a_base() || !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("it does not begin with https:// or http://".into()));
        }
        let started = |error: &dyn Error| {
            Failed::Refused(format!("the HTTP client does not start: {}", reason(error)))
        };
        Ok(Client {
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| started(&error))?,
            following: client(&url, Policy::default()).map_err(|error| started(&error))?,
            staying: client(&url, Policy::none()).map_err(|error| started(&error))?,
            token: token()?,
            endpoint: url,
        })
    }

    /// Asks for the commit and the files of a branch, tag or commit.
    pub(super) fn list(&mut self, repository: &str, revision: &str) -> Result<Listing, Failed> {
        let (owner, name) = halves(repository);
        let url = self.url(&["api", "models", owner, name, "revision", revision]);
        let request = self.authorised(self.following.get(url));
        let (response, body) = self.runtime.block_on(async {
            let response = request.send().await.map_err(|e| self.unheard(&e))?;
            let (status, headers) = (response.status(), response.headers().clone());
            let body = response.bytes().await.map_err(|e| self.unheard(&e))?;
            Ok::<_, Failed>(((status, headers), body))
        })?;
        let (status, headers) = response;
        if !status.is_success() {
            return Err(self.refusal(status, &headers, revision));
        }
        let told: serde_json::Value = serde_json::from_slice(&body).map_err(|_| {
            Failed::Silent(format!(
                "{} answered with something that is not JSON; is a proxy in between, or is \
                 HF_ENDPOINT the address of a page?",
                self.shown()
            ))
        })?;
        let commit = told["sha"].as_str().unwrap_or_default().to_owned();
        if !cache::is_commit(&commit) {
            return Err(self.unusable("names no commit"));
        }
        let siblings = told["siblings"].as_array().into_iter().flatten();
        let names = siblings.filter_map(|file| file["rfilename"].as_str());
        Ok(Listing {
            commit,
            files: names.map(str::to_owned).collect(),
        })
    }

    /// Asks what a file is. The answer that counts is the hub's own: where it redirects to the
    /// place of a large file, that place has other names for it.
    pub(super) fn head(
        &mut self,
        repository: &str,
        revision: &str,
        file: &str,
    ) -> Result<Head, Failed> {
        let mut url = self.file_url(repository, revision, file);
        for _ in 0..5 {
            let request = self.staying.head(url.clone());
            let request = self.authorised(request).header(ACCEPT_ENCODING, "identity");
            let answer = self.runtime.block_on(async { request.send().await });
            let answer = answer.map_err(|error| self.unheard(&error))?;
            let (status, headers) = (answer.status(), answer.headers());
            if !status.is_success() && !status.is_redirection() {
                return Err(self.refusal(status, headers, revision));
            }
            let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
            // A renamed repository is somewhere else on the same hub.
            let elsewhere = text(LOCATION.as_str()).filter(|_| status.is_redirection());
            if let Some(path) = elsewhere.filter(|place| place.starts_with('/')) {
                url = url.join(path).map_err(|_| self.unusable("redirects"))?;
                continue;
            }
            let etag = text("x-linked-etag").or_else(|| text(ETAG.as_str()));
            let etag = etag.unwrap_or_default().trim_start_matches("W/");
            let etag = etag.trim_matches('"');
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
            if etag.is_empty() || etag.len() > 128 || !etag.chars().all(plain) {
                return Err(self.unusable(&format!("names no usable ETag of {file}")));
            }
            let length = || match status.is_success() {
                true => text(CONTENT_LENGTH.as_str()),
                false => None,
            };
            let size = text("x-linked-size").or_else(length);
            return Ok(Head {
                etag: etag.to_owned(),
                size: size.and_then(|size| size.parse().ok()),
            });
        }
        Err(self.unusable("redirects without end"))
    }

    /// Brings a file into `part`, from where an earlier attempt was cut, and does not return before
    /// all of it is on disk and is what `head` announced.
    pub(super) fn download(
        &mut self,
        repository: &str,
        revision: &str,
        file: &str,
        head: &Head,
        part: &Path,
        report: &mut dyn FnMut(Progress),
    ) -> Result<(), Failed> {
        let url = self.file_url(repository, revision, file);
        let task = format!("fetching {file} of {repository} from the hub");
        let mut tell = |done| {
            report(Progress {
                task: task.clone(),
                done,
                total: head.size,
            });
        };
        let mut last = None;
        for attempt in 0..TRIES {
            std::thread::sleep(download::pause(attempt));
            match self.continue_file(&url, revision, head, part, &mut tell) {
                Ok(()) => return self.check(file, head, part),
                Err(failed @ Failed::Silent(_)) => last = Some(failed),
                Err(failed) => return Err(failed),
            }
        }
        let words = last.map(|failed| failed.to_string()).unwrap_or_default();
        Err(Failed::Silent(format!(
            "{file} did not come in {TRIES} attempts: {words}. What came is kept: try again and it \
             goes on from there"
        )))
    }

    fn continue_file(
        &self,
        url: &Url,
        revision: &str,
        head: &Head,
        part: &Path,
        tell: &mut dyn FnMut(u64),
    ) -> Result<(), Failed> {
        let disk = |source| Failed::disk("write", part, source);
        let mut out = OpenOptions::new()
            .create(true)
            .append(true)
            .open(part)
            .map_err(disk)?;
        let mut have = out.metadata().map_err(disk)?.len();
        if head.size == Some(have) {
            return Ok(());
        }
        let mut request = self.authorised(self.following.get(url.clone()));
        request = request.header(ACCEPT_ENCODING, "identity");
        if have > 0 {
            request = request.header(RANGE, format!("bytes={have}-"));
        }
        self.runtime.block_on(async {
            let mut answer = request.send().await.map_err(|e| self.unheard(&e))?;
            match answer.status() {
                StatusCode::PARTIAL_CONTENT if begins_at(&answer) == Some(have) => {}
                StatusCode::OK => {
                    out.set_len(0).map_err(disk)?;
                    have = 0;
                }
                StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                    out.set_len(0).map_err(disk)?;
                    return Err(Failed::Silent("the rest of it was not to be had".into()));
                }
                status => return Err(self.refusal(status, answer.headers(), revision)),
            }
            download::receive(&mut answer, &mut out, &mut have, u64::MAX, tell)
                .await
                .map_err(|interrupted| match interrupted {
                    Interrupted::Cut(error) => self.unheard(&error),
                    Interrupted::Disk(source) => disk(source),
                    Interrupted::TooLarge => unreachable!("no file is as large as the limit"),
                })?;
            match head.size {
                Some(size) if have < size => Err(Failed::Silent(format!(
                    "the connection was closed after {have} of {size} bytes"
                ))),
                Some(size) if have > size => {
                    out.set_len(0).map_err(disk)?;
                    Err(Failed::Silent(format!("{have} bytes came, not {size}")))
                }
                _ => out.sync_all().map_err(disk),
            }
        })
    }

    /// Large files are named by their SHA-256; of git's hashes for the others only the size counts.
    fn check(&self, file: &str, head: &Head, part: &Path) -> Result<(), Failed> {
        let is_sha256 = head.etag.len() == 64 && head.etag.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_sha256 {
            return Ok(());
        }
        let found = sha256_of(part).map_err(|e| Failed::disk("read", part, e))?;
        if found == head.etag.to_ascii_lowercase() {
            return Ok(());
        }
        fs::remove_file(part).map_err(|e| Failed::disk("remove", part, e))?;
        Err(Failed::Refused(format!(
            "{file} came damaged: its SHA-256 is {found}, the hub announced {}; it was thrown \
             away: try again",
            head.etag
        )))
    }

    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    fn file_url(&self, repository: &str, revision: &str, file: &str) -> Url {
        let (owner, name) = halves(repository);
        let mut segments = vec![owner, name, "resolve", revision];
        segments.extend(file.split('/'));
        self.url(&segments)
    }

    fn authorised(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.token {
            Some(token) => request.header(AUTHORIZATION, token.clone()),
            None => request,
        }
    }

    fn shown(&self) -> &str {
        self.endpoint.as_str().trim_end_matches('/')
    }

    fn unheard(&self, error: &reqwest::Error) -> Failed {
        Failed::Silent(format!(
            "{} does not answer ({}); check the network and HF_ENDPOINT, or download the \
             repository elsewhere and name the folder's path",
            self.shown(),
            reason(error)
        ))
    }

    fn unusable(&self, what: &str) -> Failed {
        Failed::Refused(format!(
            "the answer of {} {what}; is HF_ENDPOINT the address of a hub?",
            self.shown()
        ))
    }

    /// What an error status means. The hub says it in `x-error-code`; without a token it answers
    /// 401 for what does not exist as for what is private.
    fn refusal(&self, status: StatusCode, headers: &HeaderMap, revision: &str) -> Failed {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let code = text("x-error-code").unwrap_or_default();
        let hub = self.shown();
        let token = match self.token {
            None => format!(
                "make a token at {hub}/settings/tokens and set HF_TOKEN to it, in the environment"
            ),
            Some(_) => "the token in use (HF_TOKEN, or that of `hf auth login`) gives no access \
                        to it: use one of an account that has it"
                .to_owned(),
        };
        Failed::Refused(match (status.as_u16(), code) {
            (401 | 403, "GatedRepo") | (403, _) => format!(
                "the repository is gated ({status}): accept its terms on its page at {hub}, then \
                 {token}"
            ),
            (404, "RevisionNotFound") => format!(
                "the repository has no revision \"{revision}\"; write a branch, tag or commit of \
                 it after @"
            ),
            (404, "EntryNotFound") => {
                format!("a file that {hub} listed is not there at revision \"{revision}\"")
            }
            (401 | 404, _) => {
                format!(
                    "{hub} has no such model ({status}): check the name; if it is private, {token}"
                )
            }
            (429 | 500..=599, _) => {
                return Failed::Silent(format!("{hub} answered {status}; try again later"));
            }
            _ => {
                let said = text("x-error-message").unwrap_or("it does not say why");
                format!("{hub} answered {status}: {said}")
            }
        })
    }
}

fn token() -> Result<Option<HeaderValue>, Failed> {
    let set = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
    let kept = || {
        let place = set("HF_TOKEN_PATH").map(PathBuf::from);
        fs::read_to_string(place.or_else(|| Some(cache::home()?.join("token")))?).ok()
    };
    let token = set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN"));
    let token = token.or_else(kept).map(|text| text.trim().to_owned());
    let Some(token) = token.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
        Failed::Refused(
            "the hub's token holds characters that cannot stand in an HTTP header; set HF_TOKEN \
             again, without spaces, line breaks or quotes around it"
                .into(),
        )
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn halves(repository: &str) -> (&str, &str) {
    repository.split_once('/').unwrap_or(("", repository))
}

/// Where the bytes of a partial answer begin.
fn begins_at(answer: &Response) -> Option<u64> {
    let range = answer.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let (begin, _) = range.strip_prefix("bytes ")?.split_once('-')?;
    begin.parse().ok()
}
