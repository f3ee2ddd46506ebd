//! Plugins from other machines, through the command line, against servers on loopback.

mod https;
mod oci;
mod recipe;
mod registry;
mod server;
#[path = "../support/mod.rs"]
mod support;
mod verify;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use sha2::{Digest, Sha256};

/// A component that was not built into the command under this hash: a filter.
fn component() -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/plugins/components");
    std::fs::read(folder.join("hostile.wasm")).expect("the component is committed")
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A user with a home of his own.
struct User {
    home: tempfile::TempDir,
}

impl User {
    fn new() -> Self {
        User {
            home: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    /// The command, with this home and nothing else of the tester's environment.
    fn pacos(&self) -> Command {
        let mut command = support::pacos();
        command
            .env_remove("PACOS_OFFLINE")
            .env("PACOS_CACHE", self.home.path().join("cache"))
            .env("DOCKER_CONFIG", self.home.path().join("docker"))
            .stdin(Stdio::null());
        command
    }

    fn fetch(&self, source: &str) -> Command {
        let mut command = self.pacos();
        command.args(["plugin", "fetch", source]);
        command
    }

    /// Where a component of this hash is kept.
    fn kept(&self, sha256: &str) -> PathBuf {
        self.home.path().join("cache/plugins/sha256").join(sha256)
    }

    /// A recipe whose one filter is a hostile plugin that behaves.
    fn recipe(&self, filter: &str) -> PathBuf {
        let path = self.home.path().join("recipe.toml");
        let text = format!(
            "[seeds]\nbundled = true\n[models.local]\nprovider = \"local\"\n\
             model = \"embedded:smollm2-135m-instruct\"\n[roles]\nteacher = \"local\"\n\
             [generator]\nplugin = \"self-instruct\"\ngrant = [\"models:teacher\"]\n\
             [[filters]]\n{filter}\nconfig = {{ crime = \"honest\" }}\n[dataset]\ntarget = 10\n"
        );
        std::fs::write(&path, text).expect("the folder is writable");
        path
    }

    fn check(&self, filter: &str) -> Command {
        let mut command = self.pacos();
        command.arg("check").arg(self.recipe(filter));
        command
    }
}
