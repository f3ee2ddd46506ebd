//! Every problem of a table that a serde type reads, though serde stops at the first.

use pacos_plugin::Diagnostic;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::suggest::nearest;

/// Reads `table` as a `T` again and again, taking out each value that is refused, and says what was
/// refused. Empty where `T` can be read.
///
/// ```
/// #[derive(serde::Deserialize)]
/// #[serde(deny_unknown_fields, default)]
/// struct Config {
///     epochs: u32,
///     batch_size: u32,
/// }
/// # impl Default for Config { fn default() -> Self { Config { epochs: 3, batch_size: 128 } } }
///
/// let table = serde_json::json!({ "epoch": 3, "batch_size": "big" });
/// let diagnostics = pacos::manifest::diagnostics::<Config>(&table);
/// assert_eq!(diagnostics.len(), 2);
/// assert_eq!(diagnostics[0].help.as_deref(), Some("did you mean `epochs`?\nknown keys: epochs, batch_size"));
/// ```
pub fn diagnostics<T: DeserializeOwned>(table: &Value) -> Vec<Diagnostic> {
    let mut table = table.clone();
    let mut diagnostics = Vec::new();
    while let Err(error) = serde_path_to_error::deserialize::<_, T>(&table) {
        let path = match error.path().to_string() {
            root if root == "." => String::new(),
            path => path,
        };
        let removed = remove(&mut table, &path);
        diagnostics.push(diagnostic(path, &error.inner().to_string()));
        if !removed {
            break;
        }
    }
    diagnostics
}

/// serde's sentence in the words of a manifest.
fn diagnostic(path: String, message: &str) -> Diagnostic {
    let quoted = || message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field") || message.starts_with("unknown variant") {
        let mut names = quoted();
        let found = names.next().unwrap_or_default().to_owned();
        let known: Vec<&str> = names.collect();
        let (what, known_as) = match message.starts_with("unknown field") {
            true => (format!("unknown key `{found}`"), "known keys"),
            false => (format!("unknown value `{found}`"), "known values"),
        };
        let all = known.join(", ");
        let help = match nearest(&found, known) {
            Some(meant) => format!("did you mean `{meant}`?\n{known_as}: {all}"),
            None => format!("{known_as}: {all}"),
        };
        return Diagnostic::error(path, what).help(help);
    }
    match message.rsplit_once(", expected ") {
        Some((found, expected)) => {
            Diagnostic::error(path, found.to_owned()).help(format!("expected {}", plain(expected)))
        }
        None => Diagnostic::error(path, message.to_owned()),
    }
}

/// Rust's names of number types mean nothing to a user.
fn plain(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, zero or more",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        other => other,
    }
}

/// Takes out the value at a dotted path; arrays are taken out whole, so that indices stay true.
fn remove(table: &mut Value, path: &str) -> bool {
    let path = path.split('[').next().unwrap_or_default();
    if path.is_empty() {
        return false;
    }
    let (parents, last) = match path.rsplit_once('.') {
        Some((parents, last)) => (parents, last),
        None => ("", path),
    };
    let parent = parents
        .split('.')
        .filter(|segment| !segment.is_empty())
        .try_fold(table, |table, segment| table.get_mut(segment));
    parent
        .and_then(Value::as_object_mut)
        .is_some_and(|fields| fields.shift_remove(last).is_some())
}
