//! Capabilities: what a plugin declares, and a recipe grants. Both or neither.

use crate::manifest::ServerName;

/// What a plugin declares whose configuration names the servers. A recipe grants each by name.
const ANY_SERVER: &str = "http:*";

/// Whether what a plugin declares is what a recipe grants.
pub(crate) fn covers(declared: &str, granted: &str) -> bool {
    declared == granted || (declared == ANY_SERVER && granted.starts_with("http:"))
}

/// Whether a plugin can declare this: `models:ROLE`, `http:SERVER` or `http:*`.
pub(crate) fn is_known(declared: &str) -> bool {
    match declared.split_once(':') {
        Some(("models", role)) => !role.is_empty() && !role.contains(char::is_whitespace),
        Some(("http", server)) => declared == ANY_SERVER || server.parse::<ServerName>().is_ok(),
        _ => false,
    }
}

/// What to write into `grant` for a capability.
pub(crate) fn grant(declared: &str) -> String {
    match declared {
        ANY_SERVER => "grant = [\"http:HOST\"], for each HOST that its `config` names".to_owned(),
        _ => format!("grant = [\"{declared}\"]"),
    }
}
