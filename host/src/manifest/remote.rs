//! Places on other machines that a recipe may take a plugin from.

use std::{fmt, str::FromStr};

use reqwest::Url;

use crate::download::is_loopback;

/// A component on another machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remote {
    /// `https://HOST/PATH/NAME.wasm`; plain `http://` only on this machine.
    Https(Url),
    /// `oci://REGISTRY/REPOSITORY:TAG` or `oci://REGISTRY/REPOSITORY@sha256:…`.
    Oci(OciReference),
}

/// An artifact in an OCI registry, named by a tag, by the digest of its manifest, or by both; then
/// the digest counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciReference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// A text that names no place which a plugin can come from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found}; {help}")]
pub struct RemoteError {
    /// What is wrong with it.
    pub found: String,
    /// What to write instead.
    pub help: String,
}

fn wrong(found: impl Into<String>, help: impl Into<String>) -> RemoteError {
    RemoteError {
        found: found.into(),
        help: help.into(),
    }
}

impl Remote {
    /// Whether a text means a place on another machine, rather than a path or a bare name.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        text.contains("://")
    }
}

impl FromStr for Remote {
    type Err = RemoteError;

    fn from_str(text: &str) -> Result<Self, RemoteError> {
        match text.split_once("://") {
            Some(("oci", rest)) => OciReference::parse(text, rest).map(Remote::Oci),
            Some(("https" | "http", _)) => web(text).map(Remote::Https),
            _ => Err(wrong(
                format!("{text:?} is no place that plugins come from"),
                "write a path, https://HOST/PATH/NAME.wasm or oci://REGISTRY/REPOSITORY:TAG",
            )),
        }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remote::Https(url) => write!(f, "{url}"),
            Remote::Oci(reference) => write!(f, "{reference}"),
        }
    }
}

fn web(text: &str) -> Result<Url, RemoteError> {
    let url = Url::parse(text).map_err(|error| {
        wrong(
            format!("{text:?} is no address: {error}"),
            "write https://HOST/PATH/NAME.wasm",
        )
    })?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong(
            "the address holds a user name or a password",
            "name an address that needs none, or download the file and write its path",
        ));
    }
    if url.scheme() == "http" && !is_loopback(&url) {
        return Err(wrong(
            format!("{text:?} would come over a connection that anybody can change"),
            "write https:// (http:// is for servers on this machine)",
        ));
    }
    if !url.path().ends_with(".wasm") {
        return Err(wrong(
            format!("{text:?} is not the address of a component"),
            "write an address whose path ends with .wasm; a dynamic library is downloaded by \
             yourself, and named by its path",
        ));
    }
    Ok(url)
}

impl OciReference {
    fn parse(text: &str, rest: &str) -> Result<Self, RemoteError> {
        const FORM: &str =
            "write oci://REGISTRY/REPOSITORY:TAG or oci://REGISTRY/REPOSITORY@sha256:DIGEST";
        let (name, digest) = match rest.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (rest, None),
        };
        let Some((registry, path)) = name.split_once('/') else {
            return Err(wrong(format!("{text:?} names no repository"), FORM));
        };
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        let host = registry.split(':').next().unwrap_or_default();
        let is_registry = (host.contains('.') || registry.contains(':') || host == "localhost")
            && Url::parse(&format!("https://{registry}/")).is_ok_and(|url| url.path() == "/");
        if !is_registry {
            return Err(wrong(
                format!("{registry:?} is not the host of a registry"),
                format!("{FORM}, with the whole name of the host, such as ghcr.io"),
            ));
        }
        if !repository.split('/').all(is_component) {
            return Err(wrong(
                format!("{repository:?} is not the name of a repository"),
                "repositories have lower-case letters, digits and single . _ - between them, in \
                 parts divided by /",
            ));
        }
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(wrong(
                format!("{tag:?} is not a tag"),
                "tags have up to 128 letters, digits, and . _ - after the first",
            ));
        }
        let digest = digest
            .map(|digest| {
                let digits = digest.strip_prefix("sha256:").unwrap_or_default();
                let sound = digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit());
                sound.then(|| digits.to_ascii_lowercase()).ok_or_else(|| {
                    wrong(
                        format!("{digest:?} is not the digest of a manifest"),
                        "write @sha256: and 64 hex digits",
                    )
                })
            })
            .transpose()?;
        if tag.is_none() && digest.is_none() {
            return Err(wrong(format!("{text:?} has neither tag nor digest"), FORM));
        }
        Ok(OciReference {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// Host of the registry, with its port where it has one.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Name of the repository.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// sha256 of the manifest, 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// The same artifact, pinned to a manifest.
    #[must_use]
    pub fn at(&self, digest: &str) -> Self {
        OciReference {
            tag: None,
            digest: Some(digest.to_owned()),
            ..self.clone()
        }
    }
}

impl fmt::Display for OciReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oci://{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@sha256:{digest}")?;
        }
        Ok(())
    }
}

/// One part of a repository's name, as the distribution specification spells it.
fn is_component(part: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let sound_ends = part.bytes().next().is_some_and(alphanumeric)
        && part.bytes().next_back().is_some_and(alphanumeric);
    let separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    sound_ends
        && separators
            .filter(|between| !between.is_empty())
            .all(|between| {
                matches!(between, "." | "_" | "__") || between.bytes().all(|b| b == b'-')
            })
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_read_as_they_are_written() {
        let digest = "0123456789abcdef".repeat(4);
        for text in [
            "https://example.org/a/b.wasm".to_owned(),
            "http://127.0.0.1:80801/b.wasm".replace("80801", "8080"),
            "oci://ghcr.io/owner/minimum-answer:1.2.0".to_owned(),
            "oci://localhost:5000/a__b/c--d:v1".to_owned(),
            format!("oci://ghcr.io/owner/name@sha256:{digest}"),
            format!("oci://ghcr.io/owner/name:v1@sha256:{digest}"),
        ] {
            assert!(Remote::is_meant(&text));
            assert_eq!(text.parse::<Remote>().unwrap().to_string(), text);
        }
        let Remote::Oci(upper) = format!("oci://r.io/n@sha256:{}", digest.to_uppercase())
            .parse()
            .unwrap()
        else {
            panic!("it is in a registry");
        };
        assert_eq!(upper.digest(), Some(digest.as_str()));
    }

    #[test]
    fn what_names_no_source_says_what_to_write() {
        let told = |text: &str| text.parse::<Remote>().unwrap_err().to_string();
        for (text, says) in [
            ("http://example.org/a.wasm", "write https://"),
            ("https://example.org/a.so", "ends with .wasm"),
            (
                "https://me:pw@example.org/a.wasm",
                "user name or a password",
            ),
            ("https:///a b", "is not the address of a component"),
            (
                "ftp://example.org/a.wasm",
                "no place that plugins come from",
            ),
            ("oci://ghcr.io", "names no repository"),
            ("oci://ghcr.io/owner/name", "neither tag nor digest"),
            (
                "oci://owner/name:1",
                "\"owner\" is not the host of a registry",
            ),
            ("oci://ghcr.io/Owner/name:1", "lower-case"),
            ("oci://ghcr.io/../name:1", "not the name of a repository"),
            ("oci://ghcr.io/a..b:1", "not the name of a repository"),
            ("oci://ghcr.io/owner/name:-x", "\"-x\" is not a tag"),
            ("oci://ghcr.io/owner/name@sha256:12", "64 hex digits"),
        ] {
            assert!(told(text).contains(says), "{}", told(text));
        }
    }
}
