//! An OCI registry on loopback: manifests, blobs, tokens.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use serde_json::json;

use crate::{
    digest,
    server::{Answer, Asked, Server},
};

/// What the registry holds, and how it deals with strangers.
#[derive(Clone, Default)]
pub struct Holdings {
    /// By tag, and by `sha256:…`.
    pub manifests: BTreeMap<String, Vec<u8>>,
    /// By `sha256:…`.
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// Whether a token is wanted.
    pub tokens: bool,
    /// Who alone gets a token: `Basic …`.
    pub login: Option<String>,
    /// Where tokens are to be had, if not here.
    pub realm: Option<String>,
    /// Blobs are somewhere else: at this address.
    pub store: Option<String>,
}

impl Holdings {
    /// Adds a component under a tag; returns the digest of its manifest.
    pub fn push(&mut self, tag: &str, component: &[u8], media_type: &str) -> String {
        let layer = format!("sha256:{}", digest(component));
        self.blobs.insert(layer.clone(), component.to_owned());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.wasm.config.v0+json", "size": 2,
                "digest": format!("sha256:{}", digest(b"{}"))},
            "layers": [{"mediaType": media_type, "size": component.len(), "digest": layer}],
            "annotations": {"tag": tag},
        });
        self.push_manifest(tag, manifest.to_string().into_bytes())
    }

    /// Adds a manifest under a tag; returns its digest.
    pub fn push_manifest(&mut self, tag: &str, manifest: Vec<u8>) -> String {
        let sha256 = digest(&manifest);
        self.manifests
            .insert(format!("sha256:{sha256}"), manifest.clone());
        self.manifests.insert(tag.to_owned(), manifest);
        sha256
    }
}

/// A registry with one repository, `owner/plugin`.
pub struct Registry {
    pub server: Server,
    holdings: Arc<Mutex<Holdings>>,
}

impl Registry {
    pub fn start(holdings: Holdings) -> Self {
        let holdings = Arc::new(Mutex::new(holdings));
        let server = Server::start(|_| Answer::status(500));
        let (there, port) = (holdings.clone(), server.port());
        server.behave(move |asked| answer(&there.lock().expect("no test panics"), port, asked));
        Registry { server, holdings }
    }

    pub fn change(&self, change: impl FnOnce(&mut Holdings)) {
        change(&mut self.holdings.lock().expect("no test panics"));
    }

    /// `oci://…/owner/plugin` and what follows it.
    pub fn source(&self, rest: &str) -> String {
        format!("oci://127.0.0.1:{}/owner/plugin{rest}", self.server.port())
    }

    /// The holdings, as another server's.
    pub fn answer(&self, asked: &Asked) -> Answer {
        answer(
            &self.holdings.lock().expect("no test panics"),
            self.server.port(),
            asked,
        )
    }
}

fn answer(holdings: &Holdings, port: u16, asked: &Asked) -> Answer {
    let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
    if path == "/token" {
        let wanted = "service=loopback&scope=repository%3Aowner%2Fplugin%3Apull";
        return match holdings.login.is_some() && holdings.login != asked.authorisation {
            true => Answer::status(401),
            false if query != wanted => Answer::status(400),
            false => Answer::of("{\"token\": \"let-me-in\"}"),
        };
    }
    if let Some(digest) = path.strip_prefix("/elsewhere/") {
        return Answer::of(holdings.blobs[digest].clone());
    }
    if holdings.tokens && asked.authorisation.as_deref() != Some("Bearer let-me-in") {
        let here = format!("http://127.0.0.1:{port}/token");
        let realm = holdings.realm.as_ref().unwrap_or(&here);
        return Answer::status(401).with(
            "WWW-Authenticate",
            format!("Bearer realm=\"{realm}\",service=\"loopback\",scope=\"repository:owner/plugin:pull\""),
        );
    }
    let Some(path) = path.strip_prefix("/v2/owner/plugin/") else {
        return Answer::status(404);
    };
    match path.split_once('/') {
        Some(("manifests", name)) => match holdings.manifests.get(name) {
            Some(manifest) => Answer::of(manifest.clone()),
            None => Answer::status(404),
        },
        Some(("blobs", digest)) => match (&holdings.store, holdings.blobs.get(digest)) {
            (Some(store), _) => Answer::to(format!("{store}{digest}")),
            (None, Some(blob)) => Answer::of(blob.clone()),
            (None, None) => Answer::status(404),
        },
        _ => Answer::status(404),
    }
}
