//! C: a core module by clang or zig, made a component here; a dynamic library by the C compiler.
//!
//! Zig is clang, a C library for WASI and the compiler's runtime in one package for every system,
//! which PyPI carries too. A component linker is not needed: what it would add is the contract,
//! and that is in the project.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    BuildError, Found, Missing,
    component::{SYSTEM, component},
    io_error, place, python, run,
    tools::{first_of, scratch, version},
    world,
};
use crate::{
    author::{Language, Project},
    cache,
};

/// The release of zig that is fetched where there is none.
const ZIG: &str = "0.17.1";

const WARNINGS: [&str; 3] = ["-std=c11", "-Wall", "-Wextra"];

pub(super) fn build_component(project: &Project, output: &Path) -> Result<(), BuildError> {
    let mut compiler = wasm_compiler()?;
    let scratch = scratch()?;
    let module = scratch.path().join("module.wasm");
    compiler.current_dir(&project.folder);
    // A component has no main function; its C library is set up when it is instantiated.
    compiler.args(["-mexec-model=reactor", "-O2", "-fno-strict-aliasing"]);
    compiler.args(common(project)).args(sources(project)?);
    compiler.args(["component.c", "bindings.c", "output.c"].map(|name| format!("pacos/{name}")));
    compiler.arg("-o").arg(&module);
    run("the C compiler for WASM", &mut compiler)?;
    let bytes = fs::read(&module).map_err(io_error("read", &module))?;
    let wit = project.folder.join("pacos/wit");
    let built = component(&bytes, &wit, &world(project)).map_err(|error| BuildError::Project {
        path: project.folder.join("src"),
        message: format!("the plugin does not fit its contract: {error:#}"),
    })?;
    if !built.denied.is_empty() {
        eprintln!(
            "warning: the plugin calls {} of {SYSTEM}: a plugin has no files, clock or environment: what \
             asks for files or the clock is told that there are none, what asks for the environment ends the plugin",
            built.denied.join(", ")
        );
    }
    let written = scratch.path().join("component.wasm");
    fs::write(&written, built.bytes).map_err(io_error("write", &written))?;
    place("the component encoder", &written, output)
}

pub(super) fn build_library(project: &Project, output: &Path) -> Result<(), BuildError> {
    let scratch = scratch()?;
    let written = scratch.path().join("plugin");
    let mut compiler = Command::new(native_compiler()?);
    compiler.current_dir(&project.folder);
    compiler
        .args(["-shared", "-fPIC", "-O2"])
        .args(common(project));
    compiler.args(sources(project)?).arg("pacos/native.c");
    compiler.arg("-o").arg(&written);
    run("the C compiler", &mut compiler)?;
    place("the C compiler", &written, output)
}

fn common(project: &Project) -> Vec<String> {
    let stage = project.kind.to_string().to_uppercase();
    let mut flags = WARNINGS.map(str::to_owned).to_vec();
    flags.extend([format!("-DPACOS_{stage}"), "-Ipacos".into(), "-Isrc".into()]);
    flags
}

/// The plugin's own files, in the order of their names.
fn sources(project: &Project) -> Result<Vec<PathBuf>, BuildError> {
    let folder = project.folder.join("src");
    let entries = fs::read_dir(&folder).map_err(io_error("read the folder", &folder))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(io_error("read the folder", &folder))?.path();
        if path.extension().is_some_and(|extension| extension == "c") {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(BuildError::Project {
            path: folder,
            message: "expected at least one file that ends with .c; found none".into(),
        });
    }
    Ok(files)
}

fn native_compiler() -> Result<String, BuildError> {
    let chosen = env::var("CC").ok().filter(|name| !name.is_empty());
    if let Some(compiler) = chosen {
        return Ok(compiler);
    }
    match first_of(&["cc", "gcc", "clang"], "--version") {
        Some((compiler, _)) => Ok(compiler.to_owned()),
        None => Err(BuildError::Missing {
            language: Language::C,
            missing: vec![Missing {
                tool: "a C compiler: cc, gcc or clang".into(),
                found: Found(None).to_string(),
                install: "apt-get install gcc libc6-dev   # as root".into(),
            }],
        }),
    }
}

/// WASI's SDK if it is pointed at, or zig: the one in PATH, or one of our own.
fn wasm_compiler() -> Result<Command, BuildError> {
    if let Some(sdk) = env::var_os("WASI_SDK_PATH").filter(|path| !path.is_empty()) {
        let mut clang = Command::new(PathBuf::from(sdk).join("bin/clang"));
        clang.arg("--target=wasm32-wasip1");
        return Ok(clang);
    }
    let mut zig = if version("zig", "version").is_some() {
        Command::new("zig")
    } else {
        let requirement = format!("ziglang=={ZIG}");
        let missing = Missing {
            tool: "zig, or Python 3.10 or later with venv and ensurepip to fetch it from PyPI, or \
                   the environment variable WASI_SDK_PATH"
                .into(),
            found: "none of them".into(),
            install: "apt-get install python3 python3-venv   # as root; or see \
                      https://ziglang.org/download"
                .into(),
        };
        let environment = python::environment(Language::C, &requirement, missing)?;
        let mut python = Command::new(python::program(&environment, "python"));
        python.args(["-m", "ziglang"]);
        python
    };
    zig.args(["cc", "-target", "wasm32-wasi"]);
    if let Some(cache) = cache::folder() {
        // Else one of the two would be in the project.
        let cache = cache.join("tools/zig-cache");
        zig.env("ZIG_GLOBAL_CACHE_DIR", &cache);
        zig.env("ZIG_LOCAL_CACHE_DIR", &cache);
    }
    Ok(zig)
}
