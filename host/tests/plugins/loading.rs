//! Files that are no plugin of this contract are refused before anything of them runs.

use pacos::manifest::{Plugin, PluginSource};

use crate::{component, hostile, load, plugin, refusal, sha256};

/// What a user reads when a recipe names a file with these bytes.
async fn refusal_of(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plugin.wasm");
    std::fs::write(&file, bytes).unwrap();
    refusal(&plugin(&file)).await
}

fn compiled(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

#[tokio::test]
async fn a_text_file() {
    assert_eq!(
        refusal_of(b"def judge(batch): return []\n").await,
        "plugin FILE is not a WASM component: it does not begin with \\0asm. \
         Build it with `--target wasm32-wasip2`"
    );
}

#[tokio::test]
async fn an_empty_file() {
    assert_eq!(
        refusal_of(b"").await,
        "plugin FILE is not a WASM component: the file is empty. \
         Build it with `--target wasm32-wasip2`"
    );
}

#[tokio::test]
async fn a_core_module() {
    assert_eq!(
        refusal_of(&compiled("(module (func (export \"judge\")))")).await,
        "plugin FILE is not a WASM component: it is a core module, as `wasm32-unknown-unknown` \
         makes them. Build it with `--target wasm32-wasip2`"
    );
}

#[tokio::test]
async fn a_library_that_the_recipe_does_not_trust() {
    assert_eq!(
        refusal_of(b"\x7fELF\x02\x01\x01").await,
        "plugin FILE is not a WASM component: it is a dynamic library; a recipe that trusts it \
         says trust = \"native\" and its sha256. Build it with `--target wasm32-wasip2`"
    );
}

#[tokio::test]
async fn a_component_cut_short() {
    let bytes = std::fs::read(component("hostile")).unwrap();
    let text = refusal_of(&bytes[..bytes.len() / 2]).await;
    assert!(
        text.starts_with("plugin FILE is not a WASM component: it is damaged: unexpected"),
        "{text}"
    );
}

/// What a user reads of the hostile filter, had it been built for another contract.
async fn refusal_of_version(version: &[u8; 5]) -> String {
    let mut bytes = std::fs::read(component("hostile")).unwrap();
    let old = b"pacos:plugin/filter@0.1.1";
    let places: Vec<usize> = (0..bytes.len() - old.len())
        .filter(|start| bytes[*start..].starts_with(old))
        .collect();
    assert!(!places.is_empty());
    for start in places {
        let end = start + old.len();
        bytes[end - version.len()..end].copy_from_slice(version);
    }
    refusal_of(&bytes).await
}

#[tokio::test]
async fn a_newer_version_of_the_contract() {
    assert_eq!(
        refusal_of_version(b"0.2.0").await,
        "plugin FILE exports pacos:plugin/filter@0.2.0, but this host serves \
         pacos:plugin/generator@0.1.1, pacos:plugin/filter@0.1.1, pacos:plugin/evaluator@0.1.1. \
         It was built for contract 0.2.0, which is newer than this host's 0.1.1. \
         Who uses it: take a newer release of Pacos, or an older release of the plugin. \
         Who wrote it: a build with a `pacos-plugin` of contract 0.1.1 also runs on hosts of this age"
    );
}

#[tokio::test]
async fn an_older_version_of_the_contract() {
    assert_eq!(
        refusal_of_version(b"0.0.9").await,
        "plugin FILE exports pacos:plugin/filter@0.0.9, but this host serves \
         pacos:plugin/generator@0.1.1, pacos:plugin/filter@0.1.1, pacos:plugin/evaluator@0.1.1. \
         It was built for contract 0.0.9, which is older than this host's 0.1.1 and no longer served. \
         Who uses it: take a newer release of the plugin, or an older release of Pacos. \
         Who wrote it: build it again with a `pacos-plugin` of contract 0.1.1"
    );
}

#[tokio::test]
async fn a_component_of_something_else() {
    let serves = "but this host serves pacos:plugin/generator@0.1.1, pacos:plugin/filter@0.1.1, \
                  pacos:plugin/evaluator@0.1.1. It is no Pacos plugin: an author ends it with \
                  `pacos_plugin::export!(…)`";
    assert_eq!(
        refusal_of(&compiled("(component)")).await,
        format!("plugin FILE exports nothing, {serves}")
    );
    let other = "(component (instance $i) (export \"other:thing/filter@0.1.0\" (instance $i)))";
    assert_eq!(
        refusal_of(&compiled(other)).await,
        format!("plugin FILE exports other:thing/filter@0.1.0, {serves}")
    );
    let no_stage = "(component (instance $i) (export \"pacos:plugin/types@0.1.1\" (instance $i)))";
    let text = refusal_of(&compiled(no_stage)).await;
    assert!(
        text.ends_with(
            "It has contract 0.1.1, but none of the stages of it. \
             Who uses it: ask its author for a generator, a filter or an evaluator. \
             Who wrote it: end it with `pacos_plugin::export!(…)`"
        ),
        "{text}"
    );
}

#[tokio::test]
async fn the_right_name_over_the_wrong_functions() {
    let hollow = "(component (instance $i) (export \"pacos:plugin/filter@0.1.1\" (instance $i)))";
    let text = refusal_of(&compiled(hollow)).await;
    assert!(
        text.starts_with("plugin FILE cannot be started: ") && text.contains("describe"),
        "{text}"
    );
}

#[tokio::test]
async fn an_import_that_no_host_has() {
    let greedy = "(component
        (import \"other:thing/disk@1.0.0\" (instance (export \"format\" (func))))
        (instance $i) (export \"pacos:plugin/filter@0.1.1\" (instance $i)))";
    let text = refusal_of(&compiled(greedy)).await;
    assert!(
        text.starts_with("plugin FILE cannot be started: ")
            && text.contains("other:thing/disk@1.0.0"),
        "{text}"
    );
}

#[tokio::test]
async fn an_unknown_name() {
    let unknown = Plugin {
        source: PluginSource::Bundled("rouge-w".into()),
        ..hostile("honest")
    };
    assert_eq!(
        refusal(&unknown).await,
        "no bundled plugin is called `rouge-w`; bundled are self-instruct, alpaca-heuristics, \
         rouge-l, pairwise-judge. A path has a slash in it"
    );
}

#[tokio::test]
async fn a_missing_file() {
    let folder = tempfile::tempdir().unwrap();
    let text = refusal(&plugin(&folder.path().join("absent.wasm"))).await;
    assert!(text.starts_with("cannot read plugin FILE: "), "{text}");
}

#[tokio::test]
async fn another_file_than_the_one_pinned() {
    let found = sha256(&std::fs::read(component("hostile")).unwrap());
    let pinned = Plugin {
        sha256: Some("0".repeat(64)),
        ..hostile("honest")
    };
    assert_eq!(
        refusal(&pinned).await,
        format!(
            "plugin FILE has sha256 {found}, but the recipe pins {}; if the change is meant, \
             write sha256 = \"{found}\"",
            "0".repeat(64)
        )
    );
    let right = Plugin {
        sha256: Some(found.clone()),
        ..hostile("honest")
    };
    assert_eq!(load(&right).await.sha256, found);
}

#[tokio::test]
async fn a_configuration_that_the_plugin_refuses() {
    let diagnostics = load(&hostile("murder")).await.diagnose().await.unwrap();
    assert_eq!(diagnostics[0].path, "crime");
    assert!(
        diagnostics[0]
            .message
            .starts_with("unknown variant `murder`, expected one of `honest`"),
        "{}",
        diagnostics[0].message
    );
    let error = load(&hostile("murder")).await.instance(&[]).await;
    assert_eq!(error.err().unwrap().code(), "bad-config");
}
