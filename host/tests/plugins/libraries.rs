//! Libraries that are not what a recipe trusts them to be, and one in C that is.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use pacos::{
    manifest::Plugin,
    plugin::{NoCalls, Stage},
};
use pacos_plugin::{Decision, Payload};
use serde_json::json;
use tempfile::TempDir;

use crate::{candidates, component, judge, load, refusal, trusted};

const API: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugin-api");

/// Compiles a library, or says to whoever reads the test's output that there is no compiler.
fn compiled(test: &str, source: &Path, folder: &TempDir) -> Option<PathBuf> {
    let compiler = ["cc", "gcc", "clang"].into_iter().find(|compiler| {
        let version = Command::new(compiler).arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    });
    let Some(compiler) = compiler else {
        assert!(
            std::env::var_os("CI").is_none(),
            "{test}: there is no C compiler"
        );
        // Not by `eprintln`, which a passing test keeps to itself.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED {test}: no cc, gcc or clang in PATH"
        );
        return None;
    };
    let library = folder
        .path()
        .join("plugin")
        .with_extension(std::env::consts::DLL_EXTENSION);
    let result = Command::new(compiler)
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-O1"])
        .args(["-shared", "-fPIC", "-I"])
        .arg(Path::new(API).join("include"))
        .arg(source)
        .arg("-o")
        .arg(&library)
        .output()
        .unwrap();
    assert!(
        result.status.success(),
        "{}",
        String::from_utf8_lossy(&result.stderr)
    );
    Some(library)
}

/// What a user reads of a library whose source is `body` below the header.
async fn refusal_of(test: &str, body: &str) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("plugin.c");
    std::fs::write(&source, format!("#include \"pacos_plugin.h\"\n{body}\n")).unwrap();
    let library = compiled(test, &source, &folder)?;
    Some(refusal(&trusted(&library)).await)
}

/// A library with these words in the place of magic, major, size and contract.
async fn refusal_of_table(test: &str, table: [&str; 4]) -> Option<String> {
    let [magic, major, size, contract] = table;
    let body = format!(
        "const pacos_plugin_table *pacos_plugin(void)
        {{
            static const char contract[] = {contract};
            static pacos_plugin_table table = {{ {magic}, {major}, 0, {size},
                {{ (const uint8_t *)contract, sizeof contract - 1 }}, NULL, NULL, NULL }};
            return &table;
        }}"
    );
    refusal_of(test, &body).await
}

const RIGHT: [&str; 4] = [
    "PACOS_MAGIC",
    "PACOS_ABI_MAJOR",
    "sizeof table",
    "PACOS_CONTRACT_FILTER",
];

#[tokio::test]
async fn a_file_that_is_no_library() {
    let text = refusal(&trusted(&component("hostile"))).await;
    assert!(
        text.starts_with("plugin FILE is not a Pacos library: "),
        "{text}"
    );
}

#[tokio::test]
async fn a_library_of_something_else() {
    let body = "int answer(void);\nint answer(void) { return 42; }";
    if let Some(text) = refusal_of("a_library_of_something_else", body).await {
        assert_eq!(
            text,
            "plugin FILE is not a Pacos library: it exports no symbol `pacos_plugin`"
        );
    }
}

#[tokio::test]
async fn a_library_without_a_table() {
    let body = "const pacos_plugin_table *pacos_plugin(void) { return NULL; }";
    if let Some(text) = refusal_of("a_library_without_a_table", body).await {
        assert_eq!(
            text,
            "plugin FILE is not a Pacos library: `pacos_plugin` returned null"
        );
    }
}

#[tokio::test]
async fn tables_that_are_not_of_this_abi() {
    let test = "tables_that_are_not_of_this_abi";
    for (place, word, found) in [
        (
            0,
            "{'n', 'o', 't', 'p', 'a', 'c', 'o', 's'}",
            "its table does not begin with the magic",
        ),
        (
            1,
            "2",
            "it speaks native ABI 2, this host 1; rebuild it with this release's `pacos-plugin`",
        ),
        (2, "24", "its table has 24 bytes, 64 are needed"),
        (3, "PACOS_CONTRACT_FILTER", "its table has no `create`"),
    ] {
        let mut table = RIGHT;
        table[place] = word;
        let Some(text) = refusal_of_table(test, table).await else {
            return;
        };
        assert_eq!(text, format!("plugin FILE is not a Pacos library: {found}"));
    }
}

#[tokio::test]
async fn a_library_of_another_contract() {
    let mut table = RIGHT;
    table[3] = "\"pacos:plugin/filter@0.2.0\"";
    if let Some(text) = refusal_of_table("a_library_of_another_contract", table).await {
        assert!(
            text.starts_with(
                "plugin FILE exports pacos:plugin/filter@0.2.0, but this host serves "
            ),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_filter_in_c() {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(API).join("tests/c/minimum_words.c");
    let Some(file) = compiled("a_filter_in_c", &source, &folder) else {
        return;
    };
    let loaded = load(&trusted(&file)).await;
    assert_eq!(loaded.stage, Stage::Filter);
    assert_eq!(loaded.title(), "minimum-words 0.1.0");

    let mut instance = loaded.instance(&[]).await.unwrap();
    let verdicts = judge(&mut *instance, &["Name three colours", "  Hi \n", ""])
        .await
        .unwrap();
    let found: Vec<_> = verdicts
        .iter()
        .map(|v| (&*v.code, &*v.message, v.scores[0].value))
        .collect();
    assert_eq!(
        found,
        [
            ("kept", "", 3.0),
            ("too-short", "1 words, 3 wanted", 1.0),
            ("too-short", "0 words, 3 wanted", 0.0)
        ]
    );
    assert_eq!(verdicts[1].decision, Decision::Drop);
    instance.restore(Vec::new()).await.unwrap();

    let mut chat = candidates(&["a"]);
    chat[0].payload = Payload::Chat(Vec::new());
    let error = instance
        .judge_batch(chat, Arc::new(NoCalls), 1)
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "this filter reads tasks only (no-chats)");

    let strict = Plugin {
        config: json!({ "words": 4 }),
        ..trusted(&file)
    };
    let mut instance = load(&strict).await.instance(&[]).await.unwrap();
    let verdicts = judge(&mut *instance, &["Name three colours"])
        .await
        .unwrap();
    assert_eq!(verdicts[0].message, "3 words, 4 wanted");

    let wrong = Plugin {
        config: json!({ "word": 4 }),
        ..trusted(&file)
    };
    let diagnostics = load(&wrong).await.diagnose().await.unwrap();
    assert_eq!(
        diagnostics[0].message,
        "expected a number of words and no other key"
    );
    assert_eq!(diagnostics[0].help.as_deref(), Some("words = 3"));
}
