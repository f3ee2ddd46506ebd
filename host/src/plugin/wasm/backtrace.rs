//! Where in a plugin's own source it broke, for components that carry debug information.

use wasmtime::{FrameSymbol, WasmBacktrace};

/// The most places that a message names.
const MOST_PLACES: usize = 8;

/// What a path in a file of debug information has that is not the author's own.
const OTHERS: [&str; 7] = [
    "/rustc/",
    "/std/",
    "/library/",
    "/registry/src/",
    "/.rustup/",
    "/pacos-plugin/src/",
    "/plugin-api/src/",
];

/// The calls that were under way in the plugin, innermost first, a line each; empty where the
/// component has no debug information. Calls within the standard library and within libraries
/// are left out.
pub(super) fn places(error: &wasmtime::Error) -> String {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else {
        return String::new();
    };
    let frames = backtrace.frames().iter();
    let mut places: Vec<String> = frames
        .flat_map(|frame| {
            let symbols = frame.symbols().iter();
            symbols.filter_map(|symbol| place(symbol, frame.func_name()))
        })
        .collect();
    // A recursion is one place.
    places.dedup();
    let more = places.len().saturating_sub(MOST_PLACES);
    places.truncate(MOST_PLACES);
    if more > 0 {
        places.push(format!("\n    and {more} calls further out"));
    }
    places.concat()
}

/// `function` is what the module calls the function that the frame is of. Of such a one, unlike of
/// those that were inlined into it, tables of lines have no name.
fn place(symbol: &FrameSymbol, function: Option<&str>) -> Option<String> {
    let file = symbol.file()?.replace('\\', "/");
    // Where a crate is built with its sources renamed, the standard library begins its path.
    let own = !OTHERS.iter().any(|folder| file.contains(folder)) && !file.starts_with("std/");
    let line = symbol.line().filter(|line| *line > 0)?;
    let name = symbol.name().or(function).map_or_else(
        || "?".to_owned(),
        // `{:#}`: without the hash at the end.
        |name| format!("{:#}", rustc_demangle::demangle(name)),
    );
    own.then(|| format!("\n    at {name} ({file}:{line})"))
}
