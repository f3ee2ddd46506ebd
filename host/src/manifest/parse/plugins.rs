//! `[generator]`, `[[filters]]` and `[[evaluators]]`.

use std::{path::PathBuf, time::Duration};

use pacos_plugin::Severity;

use super::{choice, existing_file, models::Roles};
use crate::manifest::{
    Generator, Limits, Plugin, PluginSource, Problem, Remote, RemoteError, ServerName,
    ServerNameError,
    load::PluginCheck,
    reader::{Key, Reader, Table, Zero, key, long_key},
    suggest::nearest,
};

/// A place in the recipe that plugins fill.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Generator,
    Filter,
    Evaluator,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Stage::Generator => "generator",
            Stage::Filter => "filter",
            Stage::Evaluator => "evaluator",
        }
    }

    fn header(self) -> &'static str {
        match self {
            Stage::Generator => "[generator]",
            Stage::Filter => "[[filters]]",
            Stage::Evaluator => "[[evaluators]]",
        }
    }
}

/// Plugins inside the binary.
const BUNDLED: [(&str, Stage); 4] = [
    ("self-instruct", Stage::Generator),
    ("alpaca-heuristics", Stage::Filter),
    ("rouge-l", Stage::Filter),
    ("pairwise-judge", Stage::Evaluator),
];

/// What dynamic libraries end with on the systems that have them.
const LIBRARIES: [&str; 3] = ["so", "dylib", "dll"];

const GENERATOR: &[Key] = &[
    key("plugin", "\"self-instruct\""),
    SHA256,
    TRUST,
    GRANT,
    LIMITS,
    CONFIG,
    key("window", "8"),
];
const FILTER: &[Key] = &[
    key("plugin", "\"rouge-l\""),
    SHA256,
    TRUST,
    GRANT,
    LIMITS,
    CONFIG,
];
const EVALUATOR: &[Key] = &[
    key("plugin", "\"pairwise-judge\""),
    SHA256,
    TRUST,
    GRANT,
    LIMITS,
    CONFIG,
];

const SHA256: Key = long_key(
    "sha256",
    "`sha256 = \"...\"`, the 64 hex digits that `sha256sum FILE` prints",
);
const TRUST: Key = key("trust", "\"native\"");
const GRANT: Key = key("grant", "[\"models:teacher\"]");
const LIMITS: Key = key("limits", "{ compute_seconds = 60 }");
const CONFIG: Key = long_key(
    "config",
    "the plugin's own keys as a table, such as `config = { threshold = 0.7 }`",
);

const LIMIT: &[Key] = &[
    key("memory_mb", "512"),
    key("all_memory_mb", "2048"),
    key("compute_seconds", "30"),
    key("output_mb", "128"),
    key("table_elements", "100000"),
    key("requests", "1000"),
    key("tokens", "1000000"),
    key("usd", "5.0"),
];

pub(super) fn generator(root: &Table<'_>, roles: &Roles) -> Option<Generator> {
    let table = root.table("generator", GENERATOR)?;
    let window = table.whole("window", 1, 1 << 20).unwrap_or(8);
    let plugin = plugin(&table, Stage::Generator, roles, root.has("trainer"));
    Some(Generator {
        plugin: plugin?,
        window,
    })
}

pub(super) fn filters(root: &Table<'_>, roles: &Roles) -> Vec<Plugin> {
    let tables = root.tables("filters", FILTER);
    let trained = root.has("trainer");
    tables
        .iter()
        .filter_map(|table| plugin(table, Stage::Filter, roles, trained))
        .collect()
}

pub(super) fn evaluators(root: &Table<'_>, roles: &Roles) -> Vec<Plugin> {
    let tables = root.tables("evaluators", EVALUATOR);
    let trained = root.has("trainer");
    tables
        .iter()
        .filter_map(|table| plugin(table, Stage::Evaluator, roles, trained))
        .collect()
}

fn plugin(table: &Table<'_>, stage: Stage, roles: &Roles, trained: bool) -> Option<Plugin> {
    table.refuse_unknown();
    table.require(&["plugin"]);
    let written = table.string("plugin");
    let source = written.and_then(|written| source(table, stage, written));
    let sha256 = sha256(table);
    let native = trust(table, written);
    let grant = grant(table, stage, roles, trained);
    let limits = table
        .table("limits", LIMIT)
        .map_or_else(Limits::default, |table| limits(&table, native));
    let config = match table.has("config") {
        true => table.json("config"),
        false => Some(serde_json::Map::new().into()),
    };
    Some(Plugin {
        path: table.path.clone(),
        source: source?,
        sha256,
        native,
        grant,
        limits,
        config: config?,
    })
}

/// What a plugin has to say of its configuration. A dynamic library is not asked: none of its code
/// runs for a manifest that is wrong.
pub(super) fn configured(reader: &Reader<'_>, plugin: &Plugin, check: PluginCheck<'_>) {
    if plugin.native {
        return;
    }
    let table = format!("{}.config", plugin.path);
    for diagnostic in check(plugin) {
        if diagnostic.severity == Severity::Error {
            reader.report(Problem::from_diagnostic(
                reader.document,
                &table,
                &diagnostic,
            ));
        }
    }
}

fn source(table: &Table<'_>, stage: Stage, written: &str) -> Option<PluginSource> {
    if Remote::is_meant(written) {
        return match written.parse() {
            Ok(remote) => Some(PluginSource::Remote(remote)),
            Err(RemoteError { found, help }) => {
                table.problem("plugin", found, help);
                None
            }
        };
    }
    if !is_file(written) {
        return bundled(table, stage, written);
    }
    let extension = PathBuf::from(written)
        .extension()
        .map(|end| end.to_string_lossy().into_owned())
        .unwrap_or_default();
    let kind = match extension.as_str() {
        "wasm" => "component",
        end if LIBRARIES.contains(&end) => "library",
        _ => {
            let message = format!("{written:?} is neither a component nor a dynamic library");
            let help = "write a path that ends with .wasm, .so, .dylib or .dll; the plugins that \
                        come with the program have bare names";
            table.problem("plugin", message, help);
            return None;
        }
    };
    existing_file(table, "plugin", written, kind).map(PluginSource::File)
}

fn bundled(table: &Table<'_>, stage: Stage, written: &str) -> Option<PluginSource> {
    match BUNDLED.iter().find(|(name, _)| *name == written) {
        Some((_, its_stage)) if *its_stage == stage => {
            return Some(PluginSource::Bundled(written.to_owned()));
        }
        Some((_, its_stage)) => {
            let message = format!(
                "`{written}` is a plugin for `{}`, and this is `{}`",
                its_stage.header(),
                stage.header()
            );
            let help = choice(written, names(stage));
            table.problem("plugin", message, help);
        }
        None => {
            let name = stage.name();
            let message = format!("there is no bundled {name} `{written}`");
            let bundled = names(stage).collect::<Vec<_>>().join(", ");
            let own =
                format!("for a file of your own, write its path: `plugin = \"./{written}.wasm\"`");
            let help = match nearest(written, names(stage)) {
                Some(meant) => format!("did you mean `{meant}`?\n{own}"),
                None => format!("bundled: {bundled}\n{own}"),
            };
            table.problem("plugin", message, help);
        }
    }
    None
}

fn names(stage: Stage) -> impl Iterator<Item = &'static str> + Clone {
    BUNDLED
        .iter()
        .filter(move |(_, its_stage)| *its_stage == stage)
        .map(|(name, _)| *name)
}

/// Bundled plugins have bare names; what is no bare name is a path.
fn is_file(written: &str) -> bool {
    written.contains(['/', '\\', '.'])
}

/// Libraries are files of this machine: nothing else is loaded as one.
fn is_library(written: &str) -> bool {
    let ends = |end: &&str| {
        written
            .strip_suffix(end)
            .is_some_and(|rest| rest.ends_with('.'))
    };
    !Remote::is_meant(written) && LIBRARIES.iter().any(ends)
}

fn sha256(table: &Table<'_>) -> Option<String> {
    let written = table.string("sha256")?;
    let sound = written.len() == 64 && written.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !sound {
        let count = written.chars().count();
        let found = match written.chars().find(|c| !c.is_ascii_hexdigit()) {
            Some(stranger) => format!("holds {stranger:?}"),
            None => format!("has {count} digits"),
        };
        table.bad_value(
            "sha256",
            format!("`sha256` {found}, expected 64 hex digits"),
        );
    }
    sound.then(|| written.to_ascii_lowercase())
}

/// Whether the plugin is trusted as a library; libraries must be, and nothing else may.
fn trust(table: &Table<'_>, plugin: Option<&str>) -> bool {
    let native = match table.string("trust") {
        Some("native") => true,
        Some(other) => {
            let message = format!("`trust` is {other:?}, expected \"native\"");
            let help = "write `trust = \"native\"` for a dynamic library; components need no trust";
            table.problem("trust", message, help);
            return false;
        }
        None => false,
    };
    let Some(plugin) = plugin else {
        return native;
    };
    match (is_library(plugin), native) {
        (true, false) if !table.has("trust") => {
            let help = if table.has("sha256") {
                "write `trust = \"native\"` if you trust it, or use a component (.wasm)"
            } else {
                "write `trust = \"native\"` and `sha256 = \"...\"` if you trust it, or use a \
                 component (.wasm)"
            };
            let message =
                "a dynamic library can do anything on this machine, so it must be trusted by name";
            table.problem("plugin", message, help);
        }
        (true, true) if !table.has("sha256") => {
            let message = "a trusted library must be pinned, and there is no `sha256`";
            table.needs("plugin", message, "sha256");
        }
        (false, true) => {
            let message = "`trust` is for dynamic libraries; a component runs in a sandbox";
            table.problem("trust", message, "take `trust` out");
        }
        _ => {}
    }
    native
}

fn grant(table: &Table<'_>, stage: Stage, roles: &Roles, trained: bool) -> Vec<String> {
    let known = roles.grantable();
    let all = || {
        known
            .iter()
            .map(|role| format!("models:{role}"))
            .collect::<Vec<_>>()
    };
    let mut granted = Vec::new();
    for (path, written) in table.strings("grant") {
        if let Some(server) = written.strip_prefix("http:") {
            match server.parse::<ServerName>() {
                Ok(name) => granted.push(name.capability()),
                Err(ServerNameError { found, help }) => {
                    table.problem(&path, format!("`grant`: {found}"), help);
                }
            }
            continue;
        }
        let Some(role) = written.strip_prefix("models:") else {
            let message = format!("there is no capability `{written}`");
            let guess = format!("models:{written}");
            let help = if all().contains(&guess) {
                format!("did you mean \"{guess}\"?")
            } else {
                "capabilities are models and servers: write \"models:ROLE\" or \"http:HOST\""
                    .to_owned()
            };
            table.problem(&path, message, help);
            continue;
        };
        if !known.contains(&role) {
            let message =
                format!("`grant` names the role `{role}`, which the recipe does not have");
            let all = all();
            let help = if all.is_empty() {
                format!("write `{role} = \"NAME\"` under `[roles]`")
            } else {
                choice(written, all.iter().map(String::as_str))
            };
            table.problem(&path, message, help);
            continue;
        }
        if role == "student" && trained && stage != Stage::Evaluator {
            let message = format!("a {} runs before the student is trained", stage.name());
            let help = "write \"models:student.base\" for the student as it is before training";
            table.problem(&path, message, help);
            continue;
        }
        granted.push(written.to_owned());
    }
    granted
}

fn limits(table: &Table<'_>, native: bool) -> Limits {
    table.refuse_unknown();
    let default = Limits::default();
    for name in [
        "memory_mb",
        "compute_seconds",
        "output_mb",
        "table_elements",
    ] {
        if native && table.has(name) {
            let message = format!("`{name}` cannot be kept for a dynamic library");
            let help = format!("take `{name}` out, or use a component (.wasm)");
            table.problem(name, message, help);
        }
    }
    // A component's addresses have 32 bits.
    let memory = table.whole("memory_mb", 1, 4096);
    let all_memory = table.whole("all_memory_mb", 1, 1 << 20);
    let output = table.whole("output_mb", 1, 4096);
    let elements = table.whole("table_elements", 1, 10_000_000);
    let bytes = |mb: Option<u64>| mb.and_then(|mb| usize::try_from(mb << 20).ok());
    let most = i64::MAX.unsigned_abs();
    let compute = table.number("compute_seconds", Zero::Refused);
    let compute = compute.and_then(|seconds| {
        let compute = Duration::try_from_secs_f64(seconds).ok();
        if compute.is_none() {
            table.bad_value("compute_seconds", "`compute_seconds` is beyond all measure");
        }
        compute
    });
    Limits {
        memory_bytes: bytes(memory).unwrap_or(default.memory_bytes),
        all_memory_bytes: bytes(all_memory).unwrap_or(default.all_memory_bytes),
        compute: compute.unwrap_or(default.compute),
        output_bytes: bytes(output).unwrap_or(default.output_bytes),
        table_elements: elements
            .and_then(|elements| usize::try_from(elements).ok())
            .unwrap_or(default.table_elements),
        requests: table.whole("requests", 1, most),
        tokens: table.whole("tokens", 1, most),
        usd: table.number("usd", Zero::Refused),
    }
}
