//! What `docker login` and its like left for a registry.

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use base64::{Engine, prelude::BASE64_STANDARD};
use secrecy::SecretString;
use serde::Deserialize;

/// The host under which Docker's own registry is logged in to.
const DOCKER_HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// What there is for one registry.
pub(super) enum Credentials {
    /// A user and a password.
    Login(String, SecretString),
    /// A program would have to be asked for them; none is.
    Helper,
    /// Nothing.
    None,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Config {
    auths: BTreeMap<String, Auth>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Auth {
    auth: String,
}

/// The file that credentials are read from.
pub(super) fn file() -> Option<PathBuf> {
    let folder = env::var_os("DOCKER_CONFIG").filter(|value| !value.is_empty());
    let folder = folder.map(PathBuf::from);
    let folder = folder.or_else(|| Some(env::home_dir()?.join(".docker")))?;
    Some(folder.join("config.json"))
}

/// The credentials for a registry. A file that cannot be read is as good as none: what is public
/// needs none, and what is not will say so.
pub(super) fn of(registry: &str) -> Credentials {
    let text = file().and_then(|path| fs::read_to_string(path).ok());
    text.map_or(Credentials::None, |text| in_text(&text, registry))
}

fn in_text(text: &str, registry: &str) -> Credentials {
    let config: Config = serde_json::from_str(text).unwrap_or_default();
    let same = |key: &str| {
        let host = key.split_once("://").map_or(key, |(_, rest)| rest);
        let host = host.split('/').next().unwrap_or_default();
        host == registry || (DOCKER_HUB.contains(&host) && DOCKER_HUB.contains(&registry))
    };
    let logins = config.auths.iter().filter(|(key, _)| same(key));
    let mut logins = logins.filter_map(|(_, auth)| login(&auth.auth));
    if let Some((user, password)) = logins.next() {
        return Credentials::Login(user, password);
    }
    let in_store = config.store.is_some() && config.auths.keys().any(|key| same(key));
    match in_store || config.helpers.keys().any(|key| same(key)) {
        true => Credentials::Helper,
        false => Credentials::None,
    }
}

fn login(encoded: &str) -> Option<(String, SecretString)> {
    let bytes = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned().into()))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_login_is_found_under_its_host_and_no_other() {
        let text = r#"{"auths": {
            "ghcr.io": {"auth": "bWU6c2VjOnJldA=="},
            "https://index.docker.io/v1/": {"auth": "aHViOnB3"},
            "broken.io": {"auth": "no base64"},
            "kept.io": {}
        }, "credsStore": "desktop", "credHelpers": {"helped.io": "pass"}}"#;
        let of = |registry| match in_text(text, registry) {
            Credentials::Login(user, password) => format!("{user} {}", password.expose_secret()),
            Credentials::Helper => "helper".to_owned(),
            Credentials::None => "none".to_owned(),
        };
        assert_eq!(of("ghcr.io"), "me sec:ret");
        assert_eq!(of("docker.io"), "hub pw");
        assert_eq!(of("kept.io"), "helper");
        assert_eq!(of("helped.io"), "helper");
        assert_eq!(of("ghcr.io.example.org"), "none");
        assert!(matches!(in_text("{", "ghcr.io"), Credentials::None));
    }
}
