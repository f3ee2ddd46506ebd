//! Components that break the canonical ABI itself, as no compiler would: what they hand over
//! cannot be read, and is refused by its shape or size.

use std::path::{Path, PathBuf};

use pacos::plugin::CallError;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::{judge, load, plugin};

/// A filter without memory management, whose `judge` gives back what lies at 1024: a result, whose
/// list is at `list` and has `length` verdicts. The first verdict lies at 2048.
fn filter(list: &str, length: &str, verdict: &str, realloc: &str) -> String {
    format!(
        r#"(module
            (memory (export "memory") 1)
            (global $free (mut i32) (i32.const 32768))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                {realloc})
            ;; description: "shape", "0.1.0", no capabilities, schema "{{}}", stateless
            (func (export "pacos:plugin/filter@0.1.1#describe") (result i32) (i32.const 512))
            (data (i32.const 256) "shape0.1.0{{}}")
            (data (i32.const 512)
                "\00\01\00\00\05\00\00\00" "\05\01\00\00\05\00\00\00"
                "\00\00\00\00\00\00\00\00" "\0a\01\00\00\02\00\00\00")
            (func (export "pacos:plugin/filter@0.1.1#configure") (param i32 i32) (result i32)
                (i32.const 600))
            (func (export "pacos:plugin/filter@0.1.1#start") (param i32 i32) (result i32)
                (i32.const 600))
            (func (export "pacos:plugin/filter@0.1.1#restore") (param i32 i32) (result i32)
                (i32.const 600))
            (func (export "pacos:plugin/filter@0.1.1#judge") (param i32 i32) (result i32)
                (i32.store (i32.const 1028) (i32.const {list}))
                (i32.store (i32.const 1032) (i32.const {length}))
                (i32.const 1024))
            (data (i32.const 300) "\ff\fe\fd" "fine")
            (data (i32.const 2048) "{verdict}"))"#
    )
}

const BUMP: &str = "(local $at i32)
    (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
    (global.set $free (i32.add (local.get $at) (local.get 3)))
    (local.get $at)";

/// A verdict that keeps: its decision, then its code, the word \"fine\".
const KEEP: &str = r"\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\2f\01\00\00\04\00\00\00";

fn component(folder: &Path, text: &str) -> PathBuf {
    let mut module = wat::parse_str(text).unwrap();
    let contract = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin-api/wit/0.1.1");
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(contract).unwrap();
    let world = resolve
        .select_world(&[package], Some("filter-plugin"))
        .unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    let component = ComponentEncoder::default()
        .module(&module)
        .unwrap()
        .encode()
        .unwrap();
    let file = folder.join("shape.wasm");
    std::fs::write(&file, component).unwrap();
    file
}

/// What comes of judging one candidate.
async fn told(text: &str) -> Result<usize, CallError> {
    let folder = tempfile::tempdir().unwrap();
    let loaded = load(&plugin(&component(folder.path(), text))).await;
    let mut instance = loaded.instance(&[]).await?;
    let verdicts = judge(&mut *instance, &["Name three colours"]).await?;
    Ok(verdicts.len())
}

async fn refused(text: &str) -> String {
    match told(text).await {
        Err(CallError::Invalid(message)) => message,
        other => panic!("{other:?}"),
    }
}

/// The others differ from this one in what their names say, and in nothing else.
#[tokio::test]
async fn a_sound_verdict_is_read() {
    assert_eq!(told(&filter("2048", "1", KEEP, BUMP)).await.unwrap(), 1);
}

#[tokio::test]
async fn a_list_of_a_billion() {
    let message = refused(&filter("2048", "1000000000", KEEP, BUMP)).await;
    assert!(message.contains("list"), "{message}");
}

#[tokio::test]
async fn a_list_that_is_not_aligned() {
    let message = refused(&filter("2049", "1", KEEP, BUMP)).await;
    assert!(message.contains("aligned"), "{message}");
}

#[tokio::test]
async fn a_text_of_a_gigabyte() {
    let long = KEEP.replace(r"\04\00\00\00", r"\00\00\00\40");
    let message = refused(&filter("2048", "1", &long, BUMP)).await;
    assert!(message.contains("string"), "{message}");
}

#[tokio::test]
async fn a_text_that_is_no_utf8() {
    let wrong = KEEP.replace(r"\2f\01\00\00\04", r"\2c\01\00\00\03");
    let message = refused(&filter("2048", "1", &wrong, BUMP)).await;
    assert!(message.contains("utf-8"), "{message}");
}

#[tokio::test]
async fn a_decision_that_there_is_not() {
    let wrong = KEEP.replacen(r"\00", r"\07", 1);
    let message = refused(&filter("2048", "1", &wrong, BUMP)).await;
    assert!(message.contains("discriminant"), "{message}");
}

#[tokio::test]
async fn memory_for_the_candidates_that_is_none() {
    let message = refused(&filter("2048", "1", KEEP, "(i32.const -16)")).await;
    assert!(message.contains("realloc"), "{message}");
}
