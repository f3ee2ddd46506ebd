//! From a core module to a component, and what a C library would ask the system for.

use std::path::Path;

use wasm_encoder::{
    CodeSection, ExportKind, ExportSection, Function, FunctionSection, Module, RawSection,
    TypeSection, ValType,
};
use wasmparser::{Imports, Parser, Payload, TypeRef};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Where a C library for WASI finds the system.
pub(super) const SYSTEM: &str = "wasi_snapshot_preview1";

/// WASI's numbers for "no such file" among those that are open, and for "no such function". The
/// former is also what ends a C library's search for folders that it may open.
const BAD_FILE: i32 = 8;
const NO_SYSTEM: i32 = 52;

/// What a C library calls on its way to print, or to end; of no interest to an author.
const ORDINARY: [&str; 5] = [
    "fd_close",
    "fd_fdstat_get",
    "fd_seek",
    "fd_write",
    "proc_exit",
];

/// A component, and what its module would have of the system.
pub(super) struct Built {
    pub(super) bytes: Vec<u8>,
    /// Functions of [`SYSTEM`] that will not do what they are for.
    pub(super) denied: Vec<String>,
}

/// Makes a component of a core module, whose functions have the names that bindings give them,
/// for a world of the contract in `wit`. Debug information is left out: the C library brings a
/// megabyte of its own. The names of functions stay.
pub(super) fn component(module: &[u8], wit: &Path, world: &str) -> anyhow::Result<Built> {
    let mut module = without_debug_information(module)?;
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(wit)?;
    let world = resolve.select_world(&[package], Some(world))?;
    let wanted = wanted_of_the_system(&module)?;
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    let mut encoder = ComponentEncoder::default();
    encoder.validate(true);
    encoder.module(&module)?;
    if !wanted.is_empty() {
        encoder.adapter(SYSTEM, &no_system(&wanted))?;
    }
    let names = wanted.into_iter().map(|function| function.name);
    Ok(Built {
        bytes: encoder.encode()?,
        denied: names.filter(|name| !ORDINARY.contains(&&**name)).collect(),
    })
}

fn without_debug_information(module: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut kept = Module::new();
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload?;
        if let Payload::CustomSection(section) = &payload
            && section.name().starts_with(".debug_")
        {
            continue;
        }
        if let Some((id, range)) = payload.as_section() {
            kept.section(&RawSection {
                id,
                data: &module[range],
            });
        }
    }
    Ok(kept.finish())
}

/// A function that a module imports.
struct Wanted {
    name: String,
    parameters: Vec<ValType>,
    results: Vec<ValType>,
}

fn wanted_of_the_system(module: &[u8]) -> anyhow::Result<Vec<Wanted>> {
    let mut types = Vec::new();
    let mut wanted = Vec::new();
    for payload in Parser::new(0).parse_all(module) {
        match payload? {
            Payload::TypeSection(section) => {
                for group in section.into_iter_err_on_gc_types() {
                    types.push(group?);
                }
            }
            Payload::ImportSection(section) => {
                for imports in section {
                    let Imports::Single(_, import) = imports? else {
                        continue;
                    };
                    let TypeRef::Func(index) = import.ty else {
                        continue;
                    };
                    let Some(function) = types.get(index as usize) else {
                        continue;
                    };
                    if import.module == SYSTEM {
                        wanted.push(Wanted {
                            name: import.name.to_owned(),
                            parameters: numbers(function.params())?,
                            results: numbers(function.results())?,
                        });
                    }
                }
            }
            _ => {}
        }
    }
    Ok(wanted)
}

fn numbers(types: &[wasmparser::ValType]) -> anyhow::Result<Vec<ValType>> {
    let number = |found: &wasmparser::ValType| match found {
        wasmparser::ValType::I32 => Ok(ValType::I32),
        wasmparser::ValType::I64 => Ok(ValType::I64),
        wasmparser::ValType::F32 => Ok(ValType::F32),
        wasmparser::ValType::F64 => Ok(ValType::F64),
        other => anyhow::bail!("{SYSTEM} has no functions of the type {other}"),
    };
    types.iter().map(number).collect()
}

/// A module with these functions, which say that there is nothing; one that has nothing to say, such
/// as `proc_exit`, ends the plugin.
fn no_system(wanted: &[Wanted]) -> Vec<u8> {
    let (mut types, mut functions) = (TypeSection::new(), FunctionSection::new());
    let (mut exports, mut code) = (ExportSection::new(), CodeSection::new());
    for (index, function) in (0..).zip(wanted) {
        types.ty().function(
            function.parameters.iter().copied(),
            function.results.iter().copied(),
        );
        functions.function(index);
        exports.export(&function.name, ExportKind::Func, index);
        let mut body = Function::new([]);
        match function.results[..] {
            [ValType::I32] if function.name.starts_with("fd_") => {
                body.instructions().i32_const(BAD_FILE).end()
            }
            [ValType::I32] => body.instructions().i32_const(NO_SYSTEM).end(),
            _ => body.instructions().unreachable().end(),
        };
        code.function(&body);
    }
    let mut module = Module::new();
    module.section(&types).section(&functions);
    module.section(&exports).section(&code);
    module.finish()
}
