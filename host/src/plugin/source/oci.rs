//! A component in an OCI registry: manifest, then the one layer that is a component.
//!
//! Source: OCI distribution specification 1.1, "Pulling manifests" and "Pulling blobs"; the
//! registry's token flow as `distribution` documents it.

use base64::{Engine, prelude::BASE64_STANDARD};
use http_auth::{ChallengeRef, parser::ChallengeParser};
use pacos_engine::digest::hex;
use reqwest::{
    RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{
    Fetched, SourceError, check_pin,
    credentials::{self, Credentials},
    manifest::{Content, content},
    store::Store,
    transfer::{Failed, LARGEST, Transfer},
};
use crate::{
    download::{self, Progress, TRIES, is_loopback},
    manifest::OciReference,
};

/// Manifests that are asked for.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, \
                         application/vnd.oci.image.index.v1+json, \
                         application/vnd.docker.distribution.manifest.v2+json";

/// Longest manifest, as the distribution specification advises.
const LONGEST_MANIFEST: u64 = 4 << 20;

/// Longest answer of a token server.
const LONGEST_TOKEN: u64 = 256 << 10;

/// The component that a digest leads to, by the manifests that are in the store.
pub(super) fn component_of(
    reference: &OciReference,
    store: &Store,
) -> Result<Option<String>, SourceError> {
    let Some(mut digest) = reference.digest().map(str::to_owned) else {
        return Ok(None);
    };
    // An index leads to a manifest, and no further.
    for _ in 0..2 {
        let Some(bytes) = store.get(&digest)? else {
            return Ok(None);
        };
        let refused = |reason| SourceError::Refused {
            from: reference.to_string(),
            reason,
        };
        match content(&bytes).map_err(refused)? {
            Content::Component { sha256, .. } => return Ok(Some(sha256)),
            Content::Manifest(sha256) => digest = sha256,
        }
    }
    Ok(None)
}

/// Brings a component and the manifests that lead to it into the store, if it is the one that is
/// pinned.
pub(super) async fn fetch(
    reference: &OciReference,
    pin: Option<&str>,
    store: &Store,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Fetched, SourceError> {
    let mut registry = Registry::new(reference, progress)?;
    let asked = match (reference.digest(), reference.tag()) {
        (Some(digest), _) => format!("sha256:{digest}"),
        (None, tag) => tag.unwrap_or("latest").to_owned(),
    };
    let mut bytes = registry.manifest(&asked, reference.digest()).await?;
    let digest = store.put(&bytes)?;
    let mut found = registry.content(&bytes)?;
    if let Content::Manifest(inner) = found {
        bytes = registry
            .manifest(&format!("sha256:{inner}"), Some(&inner))
            .await?;
        store.put(&bytes)?;
        found = registry.content(&bytes)?;
    }
    let Content::Component { sha256, size } = found else {
        return Err(registry
            .transfer
            .refused("it is an index of indices".into()));
    };
    check_pin(&registry.transfer.from, pin, &sha256)?;
    if size > LARGEST {
        return Err(SourceError::TooLarge {
            from: registry.transfer.from,
            limit: LARGEST >> 20,
        });
    }
    if let Ok(Some(there)) = store.get(&sha256) {
        // Another source had the same, or the tag moved and the component did not.
        registry.note(store, &digest)?;
        return Ok(registry.fetched(store, sha256, there.len() as u64, &digest, false));
    }
    let url = registry.url(&["blobs", &format!("sha256:{sha256}")]);
    let authorisation = registry.authorisation.clone();
    let (file, came, size) = registry
        .transfer
        .component(
            store,
            |transfer| authorised(transfer.get(&url), authorisation.as_ref()),
            |transfer, status| {
                transfer.refused(format!(
                    "the registry answers {status} for the component that its manifest names; tell \
                     its owner, or name another tag"
                ))
            },
        )
        .await?;
    if came != sha256 {
        return Err(SourceError::Digest {
            from: registry.transfer.from,
            what: "the component",
            expected: sha256,
            found: came,
        });
    }
    store.keep(file, &sha256)?;
    registry.note(store, &digest)?;
    Ok(registry.fetched(store, sha256, size, &digest, true))
}

/// One repository of a registry.
struct Registry<'a> {
    reference: &'a OciReference,
    base: Url,
    transfer: Transfer<'a>,
    authorisation: Option<HeaderValue>,
}

impl<'a> Registry<'a> {
    fn new(
        reference: &'a OciReference,
        progress: &'a mut (dyn FnMut(Progress) + Send),
    ) -> Result<Self, SourceError> {
        let host = match reference.registry() {
            "docker.io" => "registry-1.docker.io",
            host => host,
        };
        let from = reference.to_string();
        let parse = |scheme: &str| {
            Url::parse(&format!("{scheme}://{host}/v2/{}/", reference.repository())).map_err(
                |error| SourceError::Refused {
                    from: from.clone(),
                    reason: format!("{host} is not the host of a registry: {error}"),
                },
            )
        };
        let secure = parse("https")?;
        // As container tools do: on this machine registries have no certificates.
        let base = match is_loopback(&secure) {
            true => parse("http")?,
            false => secure,
        };
        Ok(Registry {
            transfer: Transfer::new(from, &base, progress)?,
            reference,
            base,
            authorisation: None,
        })
    }

    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    fn fetched(
        &self,
        store: &Store,
        sha256: String,
        size: u64,
        digest: &str,
        came: bool,
    ) -> Fetched {
        let pinned = self.reference.digest().is_some();
        Fetched {
            path: store.path(&sha256),
            resolved: (!pinned).then(|| self.reference.at(digest).to_string()),
            sha256,
            size,
            came,
        }
    }

    /// Notes what the tag is, where a tag was asked for.
    fn note(&self, store: &Store, digest: &str) -> Result<(), SourceError> {
        match self.reference.digest() {
            None => store.note_tag(&self.transfer.from, digest),
            Some(_) => Ok(()),
        }
    }

    fn content(&self, bytes: &[u8]) -> Result<Content, SourceError> {
        content(bytes).map_err(|reason| self.transfer.refused(reason))
    }

    /// A manifest, whole, and of the digest that is meant where one is.
    async fn manifest(
        &mut self,
        asked: &str,
        digest: Option<&str>,
    ) -> Result<Vec<u8>, SourceError> {
        let url = self.url(&["manifests", asked]);
        let mut last = String::new();
        for attempt in 0..TRIES {
            tokio::time::sleep(download::pause(attempt)).await;
            let answer = self.answer(&url).await?;
            if !answer.status().is_success() {
                return Err(self.refusal(answer.status(), asked));
            }
            let announced = answer.headers().get("docker-content-digest").cloned();
            let bytes = match self.transfer.short(answer, LONGEST_MANIFEST).await {
                Ok(bytes) => bytes,
                Err(Failed::Again(reason)) => {
                    last = reason;
                    continue;
                }
                Err(Failed::Final(error)) => return Err(error),
            };
            let found = hex(&Sha256::digest(&bytes));
            let announced = announced.as_ref().and_then(|value| value.to_str().ok());
            let announced = announced.and_then(|text| text.strip_prefix("sha256:"));
            if let Some(expected) = digest.or(announced).filter(|expected| *expected != found) {
                return Err(SourceError::Digest {
                    from: self.transfer.from.clone(),
                    what: "the manifest",
                    expected: expected.to_owned(),
                    found,
                });
            }
            return Ok(bytes);
        }
        Err(self.transfer.silent(last))
    }

    /// The answer for a manifest, with a token where the registry wants one.
    async fn answer(&mut self, url: &Url) -> Result<Response, SourceError> {
        let answer = self.ask(url, self.authorisation.as_ref()).await?;
        if answer.status() != StatusCode::UNAUTHORIZED || self.authorisation.is_some() {
            return Ok(answer);
        }
        self.authorisation = self.authorise(answer.headers()).await?;
        match &self.authorisation {
            Some(authorisation) => self.ask(url, Some(authorisation)).await,
            None => Ok(answer),
        }
    }

    async fn ask(
        &self,
        url: &Url,
        authorisation: Option<&HeaderValue>,
    ) -> Result<Response, SourceError> {
        let request = || {
            let request = self.transfer.get(url).header(ACCEPT, MANIFESTS);
            authorised(request, authorisation)
        };
        self.transfer.ask(request).await
    }

    /// What the registry wants to see before it answers, as its challenge says.
    async fn authorise(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, SourceError> {
        let login = match credentials::of(self.reference.registry()) {
            Credentials::Login(user, password) => Some((user, password)),
            Credentials::Helper | Credentials::None => None,
        };
        let challenges = headers.get_all(WWW_AUTHENTICATE).iter();
        let texts: Vec<_> = challenges.filter_map(|value| value.to_str().ok()).collect();
        let parsed: Vec<ChallengeRef<'_>> = texts
            .iter()
            .flat_map(|text| ChallengeParser::new(text).filter_map(Result::ok))
            .collect();
        let of = |scheme: &str| {
            let mut found = parsed.iter();
            found.find(|challenge| challenge.scheme.eq_ignore_ascii_case(scheme))
        };
        if let Some(bearer) = of("Bearer") {
            let said = |name: &str| {
                let mut params = bearer.params.iter();
                let (_, value) = params.find(|(key, _)| key.eq_ignore_ascii_case(name))?;
                Some(value.to_unescaped())
            };
            let (realm, service) = (said("realm").unwrap_or_default(), said("service"));
            return self.token(&realm, service, login).await.map(Some);
        }
        match (of("Basic"), login) {
            (Some(_), Some((user, password))) => Ok(Some(basic(&user, &password))),
            _ => Ok(None),
        }
    }

    /// Asks the server that the registry names for a token that allows reading the repository.
    async fn token(
        &self,
        realm: &str,
        service: Option<String>,
        login: Option<(String, SecretString)>,
    ) -> Result<HeaderValue, SourceError> {
        #[derive(Deserialize)]
        struct Token {
            token: Option<SecretString>,
            access_token: Option<SecretString>,
        }
        let refused = |reason: String| self.transfer.refused(reason);
        let url = Url::parse(realm).ok();
        // Credentials go nowhere in the clear.
        let safe = |url: &Url| {
            url.scheme() == "https"
                || (url.scheme() == "http" && is_loopback(url) && is_loopback(&self.base))
        };
        let Some(mut url) = url.filter(safe) else {
            return Err(refused(format!(
                "the registry sends to {realm:?} for a token, expected an address that begins with \
                 https://"
            )));
        };
        let scope = format!("repository:{}:pull", self.reference.repository());
        url.query_pairs_mut()
            .extend_pairs(service.iter().map(|service| ("service", service)))
            .append_pair("scope", &scope);
        let authorisation = login.map(|(user, password)| basic(&user, &password));
        let answer = self
            .transfer
            .ask(|| authorised(self.transfer.get(&url), authorisation.as_ref()))
            .await?;
        if !answer.status().is_success() {
            return Err(self.refusal(answer.status(), ""));
        }
        let body = match self.transfer.short(answer, LONGEST_TOKEN).await {
            Ok(body) => body,
            Err(Failed::Again(reason)) => return Err(self.transfer.silent(reason)),
            Err(Failed::Final(error)) => return Err(error),
        };
        let token: Option<Token> = serde_json::from_slice(&body).ok();
        let token = token.and_then(|token| token.token.or(token.access_token));
        let value = token.and_then(|token| {
            HeaderValue::from_str(&format!("Bearer {}", token.expose_secret())).ok()
        });
        let mut value = value.ok_or_else(|| {
            refused(format!(
                "{} gives no token for it",
                url.host_str().unwrap_or_default()
            ))
        })?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn refusal(&self, status: StatusCode, asked: &str) -> SourceError {
        let registry = self.reference.registry();
        let place = credentials::file().map_or_else(
            || "the file config.json of DOCKER_CONFIG".to_owned(),
            |path| path.display().to_string(),
        );
        let reason = match status.as_u16() {
            401 | 403 => {
                let login = match credentials::of(registry) {
                    Credentials::Login(..) => format!(
                        "the credentials for {registry} in {place} give no access to it: log in \
                         with an account that has it"
                    ),
                    Credentials::Helper => format!(
                        "if it is private: {place} leaves the credentials for {registry} to \
                         another program, which is not asked; put them under \"auths\" there"
                    ),
                    Credentials::None => format!(
                        "if it is private, `docker login {registry}` puts credentials into \
                         {place}, where they are found"
                    ),
                };
                format!("the registry answers {status}; check the name; {login}")
            }
            404 => format!(
                "the registry has no {asked} in {}; check name and tag",
                self.reference.repository()
            ),
            _ => format!("the registry answers {status}; is {registry} one?"),
        };
        self.transfer.refused(reason)
    }
}

fn authorised(request: RequestBuilder, authorisation: Option<&HeaderValue>) -> RequestBuilder {
    match authorisation {
        Some(value) => request.header(AUTHORIZATION, value.clone()),
        None => request,
    }
}

fn basic(user: &str, password: &SecretString) -> HeaderValue {
    let pair = BASE64_STANDARD.encode(format!("{user}:{}", password.expose_secret()));
    let mut value = HeaderValue::from_str(&format!("Basic {pair}"))
        .expect("base64 has only characters that a header may have");
    value.set_sensitive(true);
    value
}
