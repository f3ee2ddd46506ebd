//! Plugins that are not what they should be, and a host that says so and goes on.

mod carriers;
mod clock;
mod crimes;
mod libraries;
mod loading;
mod outside;
mod shapes;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use pacos::{
    manifest::{Limits, Plugin, PluginSource},
    models::BoxFuture,
    plugin::{CallError, HostCalls, Instance, Loaded, NoCalls, Refusal},
};
use pacos_plugin::{
    Candidate, CandidateId, Error, Example, FinishReason, HttpRequest, HttpResponse, Level,
    Likelihood, ModelDescription, Payload, Prompt, Reply, Request, Task, Verdict,
};
use sha2::{Digest, Sha256};

/// A committed component of `tests/plugins`.
fn component(name: &str) -> PathBuf {
    let components = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/plugins/components");
    components.join(format!("{name}.wasm"))
}

/// The same source as a library: cargo builds it for the tests and puts it beside them.
fn library(name: &str) -> PathBuf {
    let name = name.replace('-', "_");
    let file = format!(
        "{}{name}{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    );
    std::env::current_exe().unwrap().with_file_name(file)
}

/// A plugin as a recipe names it.
fn plugin(file: &Path) -> Plugin {
    Plugin {
        path: "filters.0".into(),
        source: PluginSource::File(file.to_owned()),
        sha256: None,
        native: false,
        grant: Vec::new(),
        limits: Limits {
            memory_bytes: 64 << 20,
            ..Limits::default()
        },
        config: serde_json::json!({}),
    }
}

/// The same, trusted as a library.
fn trusted(file: &Path) -> Plugin {
    Plugin {
        sha256: Some(sha256(&std::fs::read(file).unwrap())),
        native: true,
        ..plugin(file)
    }
}

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hostile filter, about to commit a crime.
fn hostile(crime: &str) -> Plugin {
    Plugin {
        config: serde_json::json!({ "crime": crime }),
        ..plugin(&component("hostile"))
    }
}

async fn load(plugin: &Plugin) -> Loaded {
    match Loaded::load(plugin).await {
        Ok(loaded) => loaded,
        Err(error) => panic!("{error}"),
    }
}

/// What a user reads of a plugin that cannot be loaded, with the file's own name for its path.
async fn refusal(plugin: &Plugin) -> String {
    let error = Loaded::load(plugin).await.err().expect("it is refused");
    let text = error.to_string();
    match &plugin.source {
        PluginSource::File(path) => text.replace(&path.display().to_string(), "FILE"),
        PluginSource::Bundled(_) | PluginSource::Remote(_) => text,
    }
}

fn candidates(instructions: &[&str]) -> Vec<Candidate> {
    let candidate = |(n, instruction): (usize, &&str)| Candidate {
        id: CandidateId {
            unit: 7,
            n: n as u32,
        },
        payload: Payload::Task(Task::new(*instruction, "", "An answer.")),
        attributes: Vec::new(),
        parents: Vec::new(),
        seed: n as u64,
    };
    instructions.iter().enumerate().map(candidate).collect()
}

async fn judge(
    instance: &mut dyn Instance,
    instructions: &[&str],
) -> Result<Vec<Verdict>, CallError> {
    let calls = Arc::new(NoCalls);
    instance
        .judge_batch(candidates(instructions), calls, 1)
        .await
}

/// What comes of one batch of one candidate.
async fn outcome(plugin: &Plugin) -> Result<Vec<Verdict>, CallError> {
    let mut instance = load(plugin).await.instance(&[]).await?;
    judge(&mut *instance, &["Name three colours"]).await
}

/// A host whose one model answers after a while, with the number of the request.
struct SlowModel {
    wait: Duration,
    asked: Mutex<Vec<String>>,
    logged: Mutex<Vec<(Level, String)>>,
}

impl SlowModel {
    fn new(wait: Duration) -> Arc<Self> {
        Arc::new(SlowModel {
            wait,
            asked: Mutex::default(),
            logged: Mutex::default(),
        })
    }
}

impl HostCalls for SlowModel {
    fn describe_model(&self, role: &str) -> Result<ModelDescription, Refusal> {
        NoCalls.describe_model(role)
    }

    fn complete_many<'a>(
        &'a self,
        role: &'a str,
        requests: Vec<Request>,
    ) -> BoxFuture<'a, Result<Vec<Result<Reply, Error>>, Refusal>> {
        Box::pin(async move {
            tokio::time::sleep(self.wait).await;
            let mut asked = self.asked.lock().unwrap();
            let mut reply = |request: Request| {
                let Prompt::Completion(prompt) = request.prompt else {
                    return Err(Error::new("no-chat", "this model completes"));
                };
                asked.push(format!("{role}: {prompt}"));
                Ok(Reply {
                    text: format!("reply {}", asked.len()),
                    finish_reason: FinishReason::Stop,
                    usage: None,
                    logprobs: Vec::new(),
                })
            };
            Ok(requests.into_iter().map(&mut reply).collect())
        })
    }

    fn fetch_many(
        &self,
        requests: Vec<HttpRequest>,
    ) -> BoxFuture<'_, Result<Vec<Result<HttpResponse, Error>>, Refusal>> {
        NoCalls.fetch_many(requests)
    }

    fn count_tokens(&self, role: &str, text: &str) -> Result<u32, Refusal> {
        NoCalls.count_tokens(role, text)
    }

    fn log_likelihood<'a>(
        &'a self,
        _role: &'a str,
        _prompt: &'a Prompt,
        _answer: &'a str,
    ) -> BoxFuture<'a, Result<Likelihood, Refusal>> {
        Box::pin(async { Err(Error::new("unsupported", "this model says nothing").into()) })
    }

    fn accepted(&self, start: u64, count: u32) -> Result<Vec<Example>, Refusal> {
        NoCalls.accepted(start, count)
    }

    fn log(&self, level: Level, message: &str) {
        let mut logged = self.logged.lock().unwrap();
        logged.push((level, message.to_owned()));
    }

    fn progress(&self, _done: u64, _total: u64) {}
}
