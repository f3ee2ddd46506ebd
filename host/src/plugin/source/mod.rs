//! Where a plugin's bytes come from: this binary, a file, a server, an OCI registry.
//!
//! What comes over a network is kept in a store on this machine and loaded from there alone, and
//! only if it has the hash that the recipe pins: an OCI digest pins the manifest, and that the
//! component. So a recipe whose plugins were fetched needs no network for them.
//!
//! Why not the crate `oci-client`: it follows redirects to plain http, sends credentials to
//! whatever address a registry names, reads answers of any length into memory, and offers no
//! place to change that. A pull is three requests.

mod credentials;
mod error;
mod https;
mod oci;
mod store;
mod transfer;

use std::{borrow::Cow, path::PathBuf};

pub use error::SourceError;

use self::store::Store;
use super::{BUNDLED, LoadError};
use crate::{
    download::{self, Progress},
    manifest::{Plugin, PluginSource, Remote},
};

/// A plugin that is on this machine now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Of the component, 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Bytes of the component.
    pub size: u64,
    /// The source with the digest that its tag stands for, where it has a tag.
    pub resolved: Option<String>,
    /// Where it is kept.
    pub path: PathBuf,
    /// Whether it came just now, rather than before.
    pub came: bool,
}

/// Brings a component to this machine, unless what `pin` (its sha256) or the source itself (by an
/// OCI digest) means is there and sound. Without either, the server is asked what it has today.
///
/// # Errors
/// When it cannot be had, is too large, or is not what is meant.
pub async fn fetch(
    remote: &Remote,
    pin: Option<&str>,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Fetched, SourceError> {
    let store = Store::of_this_user()?;
    // What is damaged is fetched anew.
    if let Ok(Some(sha256)) = meant(remote, pin, &store)
        && let Ok(Some(bytes)) = store.get(&sha256)
    {
        return Ok(Fetched {
            path: store.path(&sha256),
            size: bytes.len() as u64,
            resolved: resolved_in(remote, &store),
            sha256,
            came: false,
        });
    }
    if download::is_forbidden() {
        let from = remote.to_string();
        return Err(SourceError::Offline { from });
    }
    match remote {
        Remote::Https(url) => https::fetch(url, pin, &store, progress).await,
        Remote::Oci(reference) => oci::fetch(reference, pin, &store, progress).await,
    }
}

/// Sees to it that a plugin of a recipe is on this machine.
///
/// # Errors
/// As [`fetch`]; and [`SourceError::Unpinned`], with what is there today, where the recipe pins
/// nothing.
pub async fn bring(
    plugin: &Plugin,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), SourceError> {
    let PluginSource::Remote(remote) = &plugin.source else {
        return Ok(());
    };
    let pin = plugin.sha256.as_deref();
    match component(remote, pin) {
        Ok(_) => Ok(()),
        Err(SourceError::NotFetched { .. }) => fetch(remote, pin, progress).await.map(drop),
        Err(SourceError::Unpinned { from, .. }) => {
            let today = fetch(remote, None, progress).await;
            Err(SourceError::Unpinned {
                from,
                found: today.ok().map(|fetched| fetched.sha256),
            })
        }
        Err(error) => Err(error),
    }
}

/// Whether a source says itself which bytes are meant.
#[must_use]
pub fn is_pinned(remote: &Remote) -> bool {
    matches!(remote, Remote::Oci(reference) if reference.digest().is_some())
}

/// The source with the digest that its tag stood for when it was fetched.
#[must_use]
pub fn resolved(remote: &Remote) -> Option<String> {
    resolved_in(remote, &Store::of_this_user().ok()?)
}

fn resolved_in(remote: &Remote, store: &Store) -> Option<String> {
    let Remote::Oci(reference) = remote else {
        return None;
    };
    if reference.digest().is_some() {
        return None;
    }
    let digest = store.noted_tag(&reference.to_string())?;
    Some(reference.at(&digest).to_string())
}

/// A plugin's bytes. Nothing is fetched.
pub(super) fn read(plugin: &Plugin) -> Result<Cow<'static, [u8]>, LoadError> {
    match &plugin.source {
        PluginSource::Bundled(name) => BUNDLED
            .iter()
            .find(|(bundled, _)| bundled == name)
            .map(|(_, bytes)| (*bytes).into())
            .ok_or_else(|| LoadError::NotBundled {
                name: name.clone(),
                known: BUNDLED.map(|(name, _)| name).join(", "),
            }),
        PluginSource::File(path) => {
            std::fs::read(path)
                .map(Into::into)
                .map_err(|source| LoadError::Read {
                    path: path.clone(),
                    source,
                })
        }
        PluginSource::Remote(remote) => {
            Ok(component(remote, plugin.sha256.as_deref()).map(Into::into)?)
        }
    }
}

/// A component out of the store, checked.
fn component(remote: &Remote, pin: Option<&str>) -> Result<Vec<u8>, SourceError> {
    let store = Store::of_this_user()?;
    let from = || remote.to_string();
    if pin.is_none() && !is_pinned(remote) {
        let (from, found) = (from(), None);
        return Err(SourceError::Unpinned { from, found });
    }
    let there = match meant(remote, pin, &store)? {
        Some(sha256) => store.get(&sha256)?,
        None => None,
    };
    there.ok_or_else(|| SourceError::NotFetched { from: from() })
}

/// The hash of the component that is meant, if that is known without asking.
fn meant(remote: &Remote, pin: Option<&str>, store: &Store) -> Result<Option<String>, SourceError> {
    let by_digest = match remote {
        Remote::Oci(reference) => oci::component_of(reference, store)?,
        Remote::Https(_) => None,
    };
    match (by_digest, pin) {
        (Some(found), pin) => {
            check_pin(&remote.to_string(), pin, &found)?;
            Ok(Some(found))
        }
        (None, Some(pin)) if !is_pinned(remote) => Ok(Some(pin.to_owned())),
        // A pin beside a digest counts only where the digest leads to the same.
        (None, _) => Ok(None),
    }
}

fn check_pin(from: &str, pin: Option<&str>, found: &str) -> Result<(), SourceError> {
    match pin {
        Some(expected) if expected != found => Err(SourceError::Pin {
            from: from.to_owned(),
            expected: expected.to_owned(),
            found: found.to_owned(),
        }),
        _ => Ok(()),
    }
}
