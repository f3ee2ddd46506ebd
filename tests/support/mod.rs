//! A recipe in a temporary folder, a scripted teacher, and the `pacos` command.

#![allow(dead_code, reason = "each test binary uses its own share of this")]

pub mod student;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use scripted_server::{Script, Server};

/// A folder with a manifest whose teacher is a scripted server.
pub struct Bench {
    pub folder: tempfile::TempDir,
    pub server: Server,
}

/// What a test says of its recipe; the rest is the default Alpaca recipe, small.
pub struct Recipe {
    pub generator: String,
    pub filters: String,
    pub model: String,
    pub roles: String,
    pub rest: String,
    pub target: u64,
}

impl Default for Recipe {
    fn default() -> Self {
        Recipe {
            generator: "plugin = \"self-instruct\"\ngrant = [\"models:teacher\"]\n\
                        config = { mode = \"strict\", tasks_per_request = 10 }"
                .into(),
            filters:
                "[[filters]]\nplugin = \"alpaca-heuristics\"\n\n[[filters]]\nplugin = \"rouge-l\""
                    .into(),
            model: String::new(),
            roles: String::new(),
            rest: String::new(),
            target: 60,
        }
    }
}

impl Bench {
    pub fn new(script: impl Script, recipe: &Recipe) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let server = Server::start(script).expect("a loopback port");
        let bench = Bench { folder, server };
        bench.write(recipe);
        bench
    }

    pub fn write(&self, recipe: &Recipe) {
        let text = format!(
            "name = \"bench\"\nseed = 7\n\n[seeds]\nbundled = true\n\n\
             [models.scripted]\nprovider = \"openai\"\nmodel = \"scripted\"\nbase_url = \"{}\"\n{}\n\n\
             [roles]\nteacher = \"scripted\"\n{}\n\n[generator]\n{}\n\n{}\n\n[dataset]\ntarget = {}\n\n{}\n",
            self.server.base_url(),
            recipe.model,
            recipe.roles,
            recipe.generator,
            recipe.filters,
            recipe.target,
            recipe.rest
        );
        fs::write(self.manifest(), text).expect("the folder is writable");
    }

    pub fn manifest(&self) -> PathBuf {
        self.folder.path().join("recipe.toml")
    }

    pub fn dir(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `pacos run` in a directory, not yet started.
    pub fn run(&self, dir: &Path) -> Command {
        let mut command = pacos();
        command
            .arg("run")
            .arg(self.manifest())
            .arg("--dir")
            .arg(dir)
            .stdin(Stdio::null());
        command
    }

    /// `pacos run` in a directory, started, to be killed.
    pub fn start(&self, dir: &Path) -> Child {
        let mut command = self.run(dir);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("the command starts")
    }
}

/// The command under test, with nothing of the tester's environment that could change it.
pub fn pacos() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pacos"));
    command.env_remove("PACOS_CRASH_AT").env_remove("RUST_LOG");
    command
}

/// A plugin of the workspace as a dynamic library, which cargo puts beside the tests.
pub fn library(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test has a path");
    let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    test.with_file_name(format!("{prefix}{name}{suffix}"))
}

/// Of a file, in hexadecimal.
pub fn sha256(file: &Path) -> String {
    use sha2::{Digest, Sha256};
    let hash = Sha256::digest(fs::read(file).expect("the file is there"));
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs a command to its end and asserts that it succeeded.
pub fn succeeds(command: &mut Command) -> String {
    let output = command.output().expect("the command starts");
    assert!(output.status.success(), "{}", told(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command to its end and asserts its exit code; returns standard error.
pub fn fails(command: &mut Command, code: i32) -> String {
    let output = command.output().expect("the command starts");
    assert_eq!(output.status.code(), Some(code), "{}", told(&output));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn told(output: &Output) -> String {
    format!(
        "{}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Every file under a run's dataset folder, with its bytes.
pub fn dataset(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(dir.join("dataset"))
        .expect("the run wrote a dataset")
        .map(|entry| {
            let path = entry.expect("the folder can be listed").path();
            let name = path.file_name().expect("files have names");
            let name = name.to_string_lossy().into_owned();
            (name, fs::read(&path).expect("files can be read"))
        })
        .collect();
    files.sort();
    files
}

/// One value out of a run's ledger, as text.
pub fn text(dir: &Path, sql: &str) -> String {
    let ledger = rusqlite::Connection::open(dir.join("ledger.sqlite")).expect("the ledger opens");
    ledger
        .query_row(&format!("SELECT CAST(({sql}) AS TEXT)"), [], |row| {
            row.get(0)
        })
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// One number out of a run's ledger.
pub fn query(dir: &Path, sql: &str) -> i64 {
    let ledger = rusqlite::Connection::open(dir.join("ledger.sqlite")).expect("the ledger opens");
    ledger
        .query_row(sql, [], |row| row.get(0))
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
}
