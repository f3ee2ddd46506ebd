//! What a new project is made of, inside the binary: the templates, and what a project builds
//! against, so that no registry has to know of Pacos.

use super::project::Language;
use crate::plugin::Stage;

/// A file of a project.
pub(super) struct File {
    /// Relative to the project's folder, with slashes.
    pub(super) path: String,
    pub(super) bytes: Vec<u8>,
}

impl File {
    pub(super) fn text(path: &str, text: impl Into<String>) -> Self {
        File {
            path: path.to_owned(),
            bytes: text.into().into_bytes(),
        }
    }

    /// The same with another name for the plugin, where it is a text.
    pub(super) fn with_name(self, template: &str, name: &str) -> Self {
        match String::from_utf8(self.bytes) {
            Ok(text) => File::text(&self.path, text.replace(template, name)),
            Err(binary) => File {
                path: self.path,
                bytes: binary.into_bytes(),
            },
        }
    }
}

/// Files below a folder of the repository, as pairs of path and text.
macro_rules! files {
    ($folder:literal: $($path:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../../../", $folder, "/", $path)))),+]
    };
}

type Texts = &'static [(&'static str, &'static str)];

/// The sources of crate `pacos-plugin`.
pub(super) const PLUGIN_API: Texts = files!("plugin-api":
    "src/bindings.rs",
    "src/component.rs",
    "src/configure.rs",
    "src/export.rs",
    "src/host.rs",
    "src/lib.rs",
    "src/native.rs",
    "src/stage.rs",
    "src/testing.rs",
    "src/types.rs",
);

/// The contract, in its own words.
pub(super) const WIT: Texts = files!("plugin-api/wit/0.1.1": "host.wit", "stages.wit", "types.wit");

/// Both carriers of a plugin in C, and what its author writes against.
pub(super) const C_CARRIERS: Texts = files!("plugin-api/c":
    "bindings.c",
    "component.c",
    "native.c",
    "output.c",
    "pacos_config.h",
    "pacos_stage.h",
);

const C_HEADER: &str = include_str!("../../../plugin-api/include/pacos_plugin.h");

/// The bindings of a component in C, made from the contract: header and source.
fn bindings(kind: Stage) -> [&'static str; 2] {
    macro_rules! bindings {
        ($name:literal) => {
            [
                include_str!(concat!(
                    "../../../plugin-api/c/bindings/",
                    $name,
                    "_plugin.h"
                )),
                include_str!(concat!(
                    "../../../plugin-api/c/bindings/",
                    $name,
                    "_plugin.c"
                )),
            ]
        };
    }
    match kind {
        Stage::Generator => bindings!("generator"),
        Stage::Filter => bindings!("filter"),
        Stage::Evaluator => bindings!("evaluator"),
    }
}

/// The script that chooses the Rust toolchain for components.
pub(super) const TOOLCHAIN: &str = include_str!("../../../plugins/toolchain");

const API_MANIFEST: &str = include_str!("../../../plugin-api/Cargo.toml");
const WORKSPACE_MANIFEST: &str = include_str!("../../../Cargo.toml");

macro_rules! template {
    ($path:literal) => {
        include_str!(concat!("../../../plugins/templates/", $path))
    };
}

/// The files of a project that are its author's.
pub(super) fn template(language: Language, kind: Stage) -> Vec<File> {
    let cases = match kind {
        Stage::Generator => template!("cases/generator.toml"),
        Stage::Filter => template!("cases/filter.toml"),
        Stage::Evaluator => template!("cases/evaluator.toml"),
    };
    let in_a_recipe = match kind {
        Stage::Generator => template!("readme/generator.md"),
        Stage::Filter => template!("readme/filter.md"),
        Stage::Evaluator => template!("readme/evaluator.md"),
    };
    let (readme, ignored, source) = match language {
        Language::Rust => (
            template!("rust/shared/README.md"),
            template!("rust/shared/gitignore"),
            (
                "src/lib.rs",
                match kind {
                    Stage::Generator => template!("rust/generator/src/lib.rs"),
                    Stage::Filter => template!("rust/filter/src/lib.rs"),
                    Stage::Evaluator => template!("rust/evaluator/src/lib.rs"),
                },
            ),
        ),
        Language::C => (
            template!("c/shared/README.md"),
            template!("c/shared/gitignore"),
            (
                "src/plugin.c",
                match kind {
                    Stage::Generator => template!("c/generator/plugin.c"),
                    Stage::Filter => template!("c/filter/plugin.c"),
                    Stage::Evaluator => template!("c/evaluator/plugin.c"),
                },
            ),
        ),
        Language::Python => (
            template!("python/shared/README.md"),
            template!("python/shared/gitignore"),
            (
                "src/plugin.py",
                match kind {
                    Stage::Generator => template!("python/generator/plugin.py"),
                    Stage::Filter => template!("python/filter/plugin.py"),
                    Stage::Evaluator => template!("python/evaluator/plugin.py"),
                },
            ),
        ),
        Language::JavaScript => (
            template!("javascript/shared/README.md"),
            template!("javascript/shared/gitignore"),
            (
                "src/plugin.js",
                match kind {
                    Stage::Generator => template!("javascript/generator/plugin.js"),
                    Stage::Filter => template!("javascript/filter/plugin.js"),
                    Stage::Evaluator => template!("javascript/evaluator/plugin.js"),
                },
            ),
        ),
    };
    let mut files = vec![
        File::text("README.md", format!("{in_a_recipe}\n{readme}")),
        File::text(".gitignore", ignored),
        File::text(source.0, source.1),
        File::text("tests/cases.toml", cases),
    ];
    match language {
        Language::Rust => {
            files.push(File::text(
                "Cargo.toml",
                template!("rust/shared/Cargo.toml"),
            ));
        }
        Language::JavaScript => files.push(File::text(
            "package.json",
            template!("javascript/shared/package.json"),
        )),
        Language::C | Language::Python => {}
    }
    files
}

/// The files that a project is built against: its folder `pacos`.
pub(super) fn support(language: Language, kind: Stage) -> Vec<File> {
    let below = |folder: &str, texts: Texts| -> Vec<File> {
        texts
            .iter()
            .map(|(path, text)| File::text(&format!("pacos/{folder}/{path}"), *text))
            .collect()
    };
    match language {
        Language::Rust => {
            let mut files = below("pacos-plugin", PLUGIN_API);
            files.extend(below("pacos-plugin/wit/0.1.1", WIT));
            files.push(File::text(
                "pacos/pacos-plugin/Cargo.toml",
                standalone_manifest(),
            ));
            files
        }
        Language::C => {
            let mut files = below("wit", WIT);
            files.extend(
                C_CARRIERS
                    .iter()
                    .map(|(name, text)| File::text(&format!("pacos/{name}"), *text)),
            );
            files.push(File::text("pacos/pacos_plugin.h", C_HEADER));
            let [header, source] = bindings(kind);
            let name = format!("pacos/bindings/{kind}_plugin");
            files.push(File::text(&format!("{name}.h"), header));
            files.push(File::text(&format!("{name}.c"), source));
            files
        }
        Language::Python => {
            let mut files = below("wit", WIT);
            files.push(File::text(
                "pacos/pacos_plugin.py",
                template!("python/pacos/pacos_plugin.py"),
            ));
            files
        }
        Language::JavaScript => {
            let mut files = below("wit", WIT);
            files.push(File::text(
                "pacos/pacos-plugin.js",
                template!("javascript/pacos/pacos-plugin.js"),
            ));
            files
        }
    }
}

/// The manifest of crate `pacos-plugin` outside of its workspace: what it takes from there is
/// written out, and what only its own tests need is left out.
fn standalone_manifest() -> String {
    let table = |text| -> toml::Table {
        toml::from_str(text).expect("the manifests were read by cargo, or this would not be built")
    };
    let mut manifest = table(API_MANIFEST);
    let workspace = table(WORKSPACE_MANIFEST);
    let workspace = workspace["workspace"].as_table();
    for (section, inherited) in [("package", "package"), ("dependencies", "dependencies")] {
        let given = workspace.and_then(|workspace| workspace[inherited].as_table());
        let Some(entries) = manifest
            .get_mut(section)
            .and_then(toml::Value::as_table_mut)
        else {
            continue;
        };
        for (key, value) in entries.iter_mut() {
            let from_workspace = value.get("workspace").is_some();
            if let Some(given) = given.and_then(|given| given.get(key))
                && from_workspace
            {
                *value = given.clone();
            }
        }
    }
    manifest.remove("dev-dependencies");
    manifest.remove("lints");
    toml::to_string(&manifest).expect("what was a manifest is one still")
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    /// The files directly in a folder of the repository.
    fn listed(folder: &str) -> BTreeSet<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("..")
            .join(folder);
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    fn named(texts: Texts, folder: &str) -> BTreeSet<String> {
        let inside = |(path, _): &(&str, &str)| Some(path.strip_prefix(folder)?.to_owned());
        texts.iter().filter_map(inside).collect()
    }

    #[test]
    fn a_project_gets_every_source_of_the_crate_and_every_file_of_the_contract() {
        assert_eq!(named(PLUGIN_API, "src/"), listed("plugin-api/src"));
        assert_eq!(named(WIT, ""), listed("plugin-api/wit/0.1.1"));
        let mut carriers = named(C_CARRIERS, "");
        carriers.insert("bindings".into());
        assert_eq!(carriers, listed("plugin-api/c"));
    }

    #[test]
    fn the_crate_of_a_project_needs_no_workspace() {
        let manifest = standalone_manifest();
        assert!(!manifest.contains("workspace"), "{manifest}");
        let manifest: toml::Table = toml::from_str(&manifest).unwrap();
        let given: toml::Table = toml::from_str(WORKSPACE_MANIFEST).unwrap();
        let given = &given["workspace"];
        assert_eq!(manifest["package"]["edition"], given["package"]["edition"]);
        assert_eq!(
            manifest["dependencies"]["serde"],
            given["dependencies"]["serde"]
        );
        assert_eq!(manifest.get("dev-dependencies"), None);
    }
}
