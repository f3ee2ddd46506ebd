//! Keys to services have no place in a manifest: found here, so that they are named as a problem
//! and never printed.

use super::tree::{Node, Place, Value};

/// A key that was found.
#[derive(Debug, Clone)]
pub(super) struct Secret {
    /// Dotted path of its value.
    pub path: String,
    /// Its place.
    pub place: Place,
}

/// How keys of well-known services begin.
const PREFIXES: [&str; 8] = [
    "sk-", "sk_", "hf_", "gsk_", "xai-", "nvapi-", "AIza", "Bearer ",
];

/// Names under which people write keys into the table of a model.
const NAMES: [&str; 9] = [
    "api_key",
    "apikey",
    "key",
    "token",
    "api_token",
    "access_token",
    "secret",
    "password",
    "authorization",
];

/// Takes every key out of the tree. A value under a telling name goes with that name; elsewhere
/// stars remain, so that what follows never sees it.
pub(super) fn take(root: &mut Node) -> Vec<Secret> {
    let mut secrets = Vec::new();
    take_below(root, "", &mut secrets);
    secrets
}

fn take_below(node: &mut Node, path: &str, secrets: &mut Vec<Secret>) {
    match &mut node.value {
        Value::String(text) if looks_like_key(text) || has_credentials(text) => {
            "***".clone_into(text);
            secrets.push(Secret {
                path: path.to_owned(),
                place: node.place,
            });
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                take_below(item, &join(path, &index.to_string()), secrets);
            }
        }
        Value::Table(entries) => {
            // The names say enough only where a key would be written: elsewhere a `token` may be
            // a word.
            let in_model = path.starts_with("models.");
            entries.retain(|name, entry| {
                let path = join(path, name);
                let telling = NAMES.contains(&name.to_lowercase().replace('-', "_").as_str());
                if in_model && telling && matches!(entry.node.value, Value::String(_)) {
                    let place = entry.node.place;
                    secrets.push(Secret { path, place });
                    return false;
                }
                take_below(&mut entry.node, &path, secrets);
                true
            });
        }
        _ => {}
    }
}

/// Words that look like keys, wherever they stand in a text: in a comment, or in what is not TOML.
pub(super) fn ranges(text: &str) -> Vec<std::ops::Range<usize>> {
    let mut ranges = Vec::new();
    let mut start = None;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        let inside = c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        match start {
            None if inside => start = Some(at),
            Some(from) if !inside => {
                if looks_like_key(&text[from..at]) {
                    ranges.push(from..at);
                }
                start = None;
            }
            _ => {}
        }
    }
    ranges
}

fn looks_like_key(text: &str) -> bool {
    text.len() >= 20
        && text.bytes().any(|b| b.is_ascii_digit())
        && PREFIXES
            .iter()
            .find_map(|prefix| text.strip_prefix(prefix))
            .is_some_and(|rest| !rest.contains(char::is_whitespace))
}

/// A web address with a user name or a password in it.
fn has_credentials(text: &str) -> bool {
    let host = text
        .split_once("://")
        .map(|(_, rest)| rest.split('/').next());
    host.flatten().is_some_and(|host| host.contains('@'))
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}
