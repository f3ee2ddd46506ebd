//! What a run resolved to, and whether that is still so.

use std::{fs, path::Path, process::Command};

use scripted_server::alpaca_teacher;

use crate::{
    component, digest,
    support::{Bench, Recipe, fails, pacos, succeeds},
};

fn one(text: &str, part: &str) {
    assert!(text.contains(part), "expected {part:?} in:\n{text}");
}

/// A run with a filter, seeds and a model of its own beside the manifest.
struct Run {
    bench: Bench,
}

impl Run {
    fn new() -> Self {
        let bench = Bench::new(alpaca_teacher(), &recipe(1000));
        let folder = bench.folder.path();
        let write = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).unwrap();
        write("hostile.wasm", &component());
        let seeds = include_str!("../../manifests/seeds/tasks.jsonl");
        let few: String = seeds
            .lines()
            .take(20)
            .map(|line| format!("{line}\n"))
            .collect();
        write("seeds.jsonl", few.as_bytes());
        fs::create_dir(folder.join("tiny")).unwrap();
        write("tiny/config.json", b"{}");
        write("tiny/model.safetensors", b"weights");
        let run = Run { bench };
        succeeds(run.run().args(["--set", "dataset.target=30"]));
        run
    }

    fn run(&self) -> Command {
        let mut run = self.bench.run(&self.dir());
        run.args([
            "--set",
            "seeds.bundled=false",
            "--set",
            "seeds.file=seeds.jsonl",
        ]);
        run
    }

    fn dir(&self) -> std::path::PathBuf {
        self.bench.dir("run")
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.bench.folder.path().join(name)
    }

    fn verify(&self) -> Command {
        verify(&self.dir())
    }

    /// Changes a file, asserts what `verify` says of it, and undoes the change.
    fn with(&self, name: &str, change: impl FnOnce(&mut Vec<u8>), code: i32, lines: &[&str]) {
        let path = self.file(name);
        let before = fs::read(&path).unwrap();
        let mut after = before.clone();
        change(&mut after);
        fs::write(&path, after).unwrap();
        let output = self.verify().output().unwrap();
        fs::write(&path, before).unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let last = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{told}{last}");
        for (number, line) in lines.iter().enumerate() {
            let found = told.lines().nth(number).unwrap_or_default();
            assert!(
                found.starts_with(line),
                "expected {line:?} in:\n{told}{last}"
            );
            assert!(found.contains("; "), "it says what to do: {found}");
        }
        assert_eq!(
            told.lines().count(),
            lines.len().max(2 * usize::from(code == 0)),
            "{told}{last}"
        );
    }
}

fn recipe(target: u64) -> Recipe {
    Recipe {
        filters: "[[filters]]\nplugin = \"alpaca-heuristics\"\n\n\
                  [[filters]]\nplugin = \"./hostile.wasm\"\nconfig = { crime = \"honest\" }"
            .into(),
        roles: "judge = \"tiny\"".into(),
        rest: "[models.tiny]\nprovider = \"local\"\nmodel = \"tiny\"".into(),
        target,
        ..Recipe::default()
    }
}

fn verify(what: &Path) -> Command {
    let mut verify = pacos();
    verify.arg("verify").arg(what);
    verify
}

fn replace(from: &'static str, to: &'static str) -> impl FnOnce(&mut Vec<u8>) {
    move |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(text.contains(from), "{text}");
        *bytes = text.replacen(from, to, 1).into_bytes();
    }
}

fn flip(at: usize) -> impl FnOnce(&mut Vec<u8>) {
    move |bytes| bytes[at] ^= 1
}

#[test]
fn each_change_is_one_line_that_says_what_to_do() {
    let run = Run::new();
    let told = succeeds(&mut run.verify());
    one(
        &told,
        "resolves to what the lock says: 3 plugins, 2 models, 20 seed tasks",
    );
    one(
        &told,
        "the ledger is sound, and 4 files of the dataset are what it gives",
    );

    // What changes no result is no difference.
    run.with(
        "recipe.toml",
        replace("name = ", "# A remark.\nname = "),
        0,
        &[],
    );
    run.with(
        "recipe.toml",
        replace(
            "model = \"scripted\"",
            "model = \"scripted\"\ntimeout = \"9s\"",
        ),
        0,
        &[],
    );
    run.with(
        "recipe.toml",
        replace("tasks_per_request = 10", "tasks_per_request = 9"),
        2,
        &["generator.config.tasks_per_request: expected 10, found 9; undo the change in the manifest"],
    );
    run.with(
        "recipe.toml",
        replace("seed = 7", "seed = 8"),
        2,
        &["seed: expected 7, found 8; "],
    );
    run.with(
        "recipe.toml",
        replace("model = \"scripted\"", "model = \"other\""),
        2,
        &["models.scripted.model: expected \"scripted\", found \"other\"; put the old model back"],
    );
    let mut other = component();
    other.extend([0, 2, 1, b'x']);
    let size = component().len();
    run.with(
        "hostile.wasm",
        |bytes| bytes.clone_from(&other),
        2,
        &[
            &format!(
                "plugins.filters.1.sha256: expected \"{0}\", found \"{1}\"; name the plugin of sha256 {0} from ./hostile.wasm there, or run it anew",
                digest(&component()),
                digest(&other)
            ),
            &format!("plugins.filters.1.size: expected {size}, found {}; ", size + 4),
        ],
    );
    run.with(
        "seeds.jsonl",
        |bytes| bytes.extend(b"{\"instruction\": \"Add.\", \"output\": \"3\"}\n"),
        2,
        &[
            "seeds.sha256: expected ",
            "seeds.tasks: expected 20, found 21; put the old tasks back",
        ],
    );
    run.with(
        "tiny/model.safetensors",
        flip(0),
        2,
        &["models.tiny.files.model.safetensors.sha256: expected "],
    );
    fs::rename(run.file("tiny"), run.file("away")).unwrap();
    fs::create_dir(run.file("tiny")).unwrap();
    let output = run.verify().output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    one(
        &told,
        "models.tiny: expected 2 files, found none on this machine; fetch it with `pacos model fetch tiny`\n",
    );
    assert_eq!(told.lines().count(), 1, "{told}");
    fs::remove_dir(run.file("tiny")).unwrap();
    fs::rename(run.file("away"), run.file("tiny")).unwrap();

    // The run's own files.
    run.with(
        "run/dataset/alpaca_data.json",
        flip(100),
        5,
        &["dataset/alpaca_data.json: expected sha256 "],
    );
    // What is still in the log beside the database goes into it.
    let ledger = rusqlite::Connection::open(run.file("run/ledger.sqlite")).unwrap();
    ledger
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    drop(ledger);
    let page = 4096;
    run.with(
        "run/ledger.sqlite",
        |bytes| bytes[page..2 * page].fill(7),
        5,
        &["ledger.sqlite: expected a sound ledger, found "],
    );
    let rows = run.file("run/dataset/dataset.jsonl");
    fs::remove_file(&rows).unwrap();
    let output = run.verify().output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    one(&told, "dataset/dataset.jsonl: expected sha256 ");
    one(
        &told,
        ", found nothing; `pacos run` writes it anew, as the ledger gives it\n",
    );
    // And so it is.
    succeeds(run.run().args(["--set", "dataset.target=30"]));
    succeeds(&mut run.verify());
}

#[test]
fn a_lock_is_the_same_for_the_same_run_and_names_no_folder_of_this_machine() {
    let run = Run::new();
    let read = || fs::read_to_string(run.file("run/pacos.lock")).unwrap();
    let lock = read();
    one(&lock, "manifest = \"../recipe.toml\"\n");
    one(
        &lock,
        &format!(
            "sha256 = \"{}\"\n",
            digest(&fs::read(run.file("recipe.toml")).unwrap())
        ),
    );
    one(
        &lock,
        "overrides = [\"seeds.bundled=false\", \"seeds.file=seeds.jsonl\", \"dataset.target=30\"]\n",
    );
    one(&lock, "\"dataset.target\" = 30\n");
    one(&lock, "source = \"seeds.jsonl\"\n");
    one(&lock, "contract = \"pacos:plugin/filter@0.1.1\"\n");
    let folder = run.bench.folder.path().to_str().unwrap();
    assert!(!lock.contains(folder), "{lock}");
    succeeds(run.run().args(["--set", "dataset.target=30"]));
    assert_eq!(read(), lock);
}

#[test]
fn a_colleague_compares_a_manifest_with_a_lock() {
    let run = Run::new();
    let lock = run.file("run/pacos.lock");
    let theirs = tempfile::tempdir().unwrap();
    for name in ["recipe.toml", "hostile.wasm", "seeds.jsonl"] {
        fs::copy(run.file(name), theirs.path().join(name)).unwrap();
    }
    let manifest = theirs.path().join("recipe.toml");
    fs::create_dir(theirs.path().join("tiny")).unwrap();
    let output = verify(&manifest).arg("--lock").arg(&lock).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    one(
        &told,
        "models.tiny: expected 2 files, found none on this machine",
    );
    assert_eq!(told.lines().count(), 1, "{told}");
    for name in ["tiny/config.json", "tiny/model.safetensors"] {
        fs::copy(run.file(name), theirs.path().join(name)).unwrap();
    }
    // The run's directory will do for its lock.
    for given in [&lock, &run.dir()] {
        let told = succeeds(verify(&manifest).arg("--lock").arg(given));
        one(&told, "resolves to what the lock says");
        assert!(!told.contains("ledger"), "{told}");
    }
    let set = [
        "--set",
        "dataset.target=31",
        "--set",
        "seeds.bundled=true",
        "--json",
    ];
    let output = verify(&manifest)
        .arg("--lock")
        .arg(&lock)
        .args(set)
        .output()
        .unwrap();
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let what: Vec<_> = told
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["what"])
        .collect();
    assert_eq!(
        what,
        [
            "dataset.target",
            "seeds.sha256",
            "seeds.source",
            "seeds.tasks"
        ]
    );
}

#[test]
fn what_cannot_be_compared_is_named() {
    let run = Run::new();
    let lock = run.file("run/pacos.lock");
    let text = fs::read_to_string(&lock).unwrap();
    let told = |text: &str, code: i32| {
        fs::write(&lock, text).unwrap();
        fails(&mut run.verify(), code)
    };
    one(
        &told(
            &text.replace(
                "version = 1\npacos = \"0.1.0\"",
                "version = 2\npacos = \"0.9.0\"",
            ),
            5,
        ),
        "pacos.lock has version 2, and this release reads version 1: use Pacos 0.9.0, which wrote it",
    );
    one(&told("version = ", 5), "pacos.lock is no lock of a run: ");
    one(
        &told(&text.replace("../recipe.toml", "../gone.toml"), 2),
        "and that is not there; name it with --manifest",
    );
    fs::remove_file(&lock).unwrap();
    one(&fails(&mut run.verify(), 5), "`pacos run` writes it");
}
