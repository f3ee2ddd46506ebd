//! What the plugin boundary costs: the same source as component and as library, starts from the
//! cache, and a thousand instances that wait.
//!
//! ```text
//! cargo bench -p pacos --bench plugins
//! ```
//!
//! Criterion reports times; the ratios at the end are of interleaved rounds in one process, which
//! is what can be compared on a machine that does other things as well. `PACOS_BENCH_PLUGINS`
//! names further components, separated by colons, whose start is measured.

#[path = "plugins/records.rs"]
mod records;

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{BatchSize, Criterion};
use pacos::{
    manifest::{Plugin, PluginSource},
    models::BoxFuture,
    plugin::{HostCalls, Instance, Loaded, NoCalls, Refusal, read_every_file},
};
use pacos_plugin::{
    Candidate, Error, Example, HttpRequest, HttpResponse, Level, Likelihood, ModelDescription,
    Prompt, Reply, Request, Task, Unit,
};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

use records::records;

const BATCH: usize = 256;
/// Rounds of a comparison; in each, both sides run once.
const ROUNDS: usize = 400;
/// Instances that wait at once.
const WAITING: u64 = 1000;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let runtime = Runtime::new().expect("threads can be started");
    println!("{}", processor());
    starts(&mut criterion, &runtime);
    boundary(&mut criterion, &runtime);
    criterion.final_summary();
    compare_carriers(&runtime);
    wait(&runtime);
}

/// A component of `plugins` or `tests/plugins`.
fn component(name: &str) -> Plugin {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let files = ["plugins", "tests/plugins"].map(|place| {
        root.join(place)
            .join("components")
            .join(format!("{name}.wasm"))
    });
    let file = files
        .into_iter()
        .find(|file| file.exists())
        .expect("plugins/build has built it");
    Plugin::alone(PluginSource::File(file))
}

/// The same source as a library, which cargo puts beside this program.
fn library(name: &str) -> Plugin {
    let (prefix, suffix) = (env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX);
    let file = env::current_exe()
        .expect("this program has a path")
        .with_file_name(format!("{prefix}{}{suffix}", name.replace('-', "_")));
    let bytes = fs::read(&file).expect("cargo has built it");
    let hash = Sha256::digest(bytes);
    Plugin {
        sha256: Some(hash.iter().map(|byte| format!("{byte:02x}")).collect()),
        native: true,
        ..Plugin::alone(PluginSource::File(file))
    }
}

async fn instance(plugin: &Plugin) -> Box<dyn Instance> {
    let loaded = Loaded::load(plugin).await.expect("it loads");
    loaded.instance(&seeds()).await.expect("it starts")
}

fn seeds() -> Vec<Task> {
    let text = include_str!("../../manifests/seeds/tasks.jsonl");
    let tasks = text.lines().filter(|line| !line.trim().is_empty());
    tasks
        .map(|line| serde_json::from_str(line).expect("the bundled seeds are tasks"))
        .collect()
}

async fn judge(instance: &mut dyn Instance, batch: Vec<Candidate>) -> usize {
    let verdicts = instance.judge_batch(batch, Arc::new(NoCalls), 1).await;
    verdicts.expect("it judges").len()
}

/// One batch through each filter, in both carriers.
fn boundary(criterion: &mut Criterion, runtime: &Runtime) {
    for name in ["alpaca-heuristics", "keep-all"] {
        for batch in [1, BATCH] {
            let mut group = criterion.benchmark_group(format!("{name}, batch of {batch}"));
            group.throughput(criterion::Throughput::Elements(batch as u64));
            for (carrier, plugin) in [("component", component(name)), ("library", library(name))] {
                let mut instance = runtime.block_on(instance(&plugin));
                let records = records(batch);
                group.bench_function(carrier, |bencher| {
                    bencher.iter_batched(
                        || records.clone(),
                        |batch| runtime.block_on(judge(&mut *instance, batch)),
                        BatchSize::LargeInput,
                    );
                });
            }
        }
    }
}

/// From a file to an instance, with the compiled form in the cache: as it starts again, and as
/// it starts where its file has to be read and hashed.
fn starts(criterion: &mut Criterion, runtime: &Runtime) {
    let further = env::var_os("PACOS_BENCH_PLUGINS").unwrap_or_default();
    let further: Vec<PathBuf> = env::split_paths(&further)
        .filter(|path| path.as_os_str() != "")
        .collect();
    let mut plugins = vec![("rouge-l".to_owned(), component("rouge-l"))];
    for file in further {
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let plugin = Plugin::alone(PluginSource::File(file.clone()));
        plugins.push((name.into_owned(), plugin));
    }
    let mut group = criterion.benchmark_group("start");
    group.sample_size(20);
    for (name, plugin) in &plugins {
        // The first time fills the cache.
        let loaded = runtime.block_on(Loaded::load(plugin)).expect("it loads");
        group.bench_function(format!("{name}: file to description"), |bencher| {
            bencher.iter(|| runtime.block_on(Loaded::load(plugin)).expect("it loads"));
        });
        group.bench_function(format!("{name}: further instance"), |bencher| {
            bencher.iter(|| runtime.block_on(loaded.instance(&[])).map(drop));
        });
    }
    // From here on no file is taken for what it was.
    read_every_file();
    for (name, plugin) in &plugins {
        group.bench_function(
            format!("{name}: file to description, read anew"),
            |bencher| {
                bencher.iter(|| runtime.block_on(Loaded::load(plugin)).expect("it loads"));
            },
        );
    }
}

/// Ratios of interleaved rounds: component over library.
fn compare_carriers(runtime: &Runtime) {
    println!(
        "\ncomponent / library, {ROUNDS} interleaved rounds, batch of {BATCH}, 300 bytes a record"
    );
    for name in ["alpaca-heuristics", "keep-all"] {
        let mut sides =
            [component(name), library(name)].map(|plugin| runtime.block_on(instance(&plugin)));
        let records = records(BATCH);
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..ROUNDS + 20 {
            for (side, times) in sides.iter_mut().zip(&mut times) {
                let batch = records.clone();
                let begun = Instant::now();
                runtime.block_on(judge(&mut **side, batch));
                if round >= 20 {
                    times.push(begun.elapsed().as_secs_f64());
                }
            }
        }
        let mut ratios: Vec<f64> = times[0].iter().zip(&times[1]).map(|(a, b)| a / b).collect();
        for list in times.iter_mut().chain([&mut ratios]) {
            list.sort_by(f64::total_cmp);
        }
        let each = |seconds: f64| seconds * 1e6 / BATCH as f64;
        println!(
            "{name:<20} {:.2} (quartiles {:.2} to {:.2}); of the fastest {:.2}; us a record {:.3} and {:.3}",
            quantile(&ratios, 0.5),
            quantile(&ratios, 0.25),
            quantile(&ratios, 0.75),
            times[0][0] / times[1][0],
            each(quantile(&times[0], 0.5)),
            each(quantile(&times[1], 0.5)),
        );
    }
}

fn quantile(sorted: &[f64], at: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * at) as usize]
}

/// A model that never answers.
struct Silent;

impl HostCalls for Silent {
    fn describe_model(&self, role: &str) -> Result<ModelDescription, Refusal> {
        Ok(ModelDescription {
            model: role.to_owned(),
            context_length: Some(8192),
            completion: true,
            chat: true,
            json_schema: true,
            grammar: true,
            logprobs: false,
            logit_bias: false,
            count_tokens: false,
            log_likelihood: false,
        })
    }

    fn complete_many<'a>(
        &'a self,
        _role: &'a str,
        _requests: Vec<Request>,
    ) -> BoxFuture<'a, Result<Vec<Result<Reply, Error>>, Refusal>> {
        Box::pin(std::future::pending())
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
        role: &'a str,
        prompt: &'a Prompt,
        answer: &'a str,
    ) -> BoxFuture<'a, Result<Likelihood, Refusal>> {
        NoCalls.log_likelihood(role, prompt, answer)
    }

    fn accepted(&self, start: u64, count: u32) -> Result<Vec<Example>, Refusal> {
        NoCalls.accepted(start, count)
    }

    fn log(&self, _level: Level, _message: &str) {}

    fn progress(&self, _done: u64, _total: u64) {}
}

/// A thousand calls of the default generator that wait for their teacher, each in its instance.
fn wait(runtime: &Runtime) {
    let mut plugin = component("self-instruct");
    plugin.limits.all_memory_bytes = 64 << 30;
    let loaded = Arc::new(runtime.block_on(Loaded::load(&plugin)).expect("it loads"));
    let seeds: Arc<[Task]> = seeds().into();
    let call = |index| {
        let (loaded, seeds) = (loaded.clone(), seeds.clone());
        async move {
            let mut instance = loaded.instance(&seeds).await.expect("it starts");
            let unit = Unit {
                index,
                seed: index,
                accepted: 0,
            };
            instance.generate(unit, Arc::new(Silent), 1).await.map(drop)
        }
    };
    // The first makes what all share.
    let mut calls = tokio::task::JoinSet::new();
    calls.spawn_on(call(0), runtime.handle());
    std::thread::sleep(Duration::from_millis(300));
    let before = Memory::now();
    for index in 1..=WAITING {
        calls.spawn_on(call(index), runtime.handle());
    }
    // Quiet when nothing grows any more.
    let mut after = before;
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let now = Memory::now();
        if now.resident == after.resident && now.resident > before.resident {
            break;
        }
        after = now;
    }
    let each = |bytes: u64| bytes as f64 / WAITING as f64 / 1024.0;
    let own = after.guests - before.guests;
    println!(
        "\n{WAITING} calls waiting at once: {:.1} KiB resident each beside the plugin's own memory of \
         {:.1} KiB; threads {} before, {} after",
        each((after.resident - before.resident).saturating_sub(own)),
        each(own),
        before.threads,
        after.threads
    );
    runtime.block_on(calls.shutdown());
}

/// Of this process.
#[derive(Clone, Copy)]
struct Memory {
    /// Bytes in memory.
    resident: u64,
    /// Those of them that are guests' linear memories.
    guests: u64,
    threads: u64,
}

impl Memory {
    /// Linux tells; elsewhere all is 0.
    ///
    /// A linear memory is what stands just before gigabytes that may not be touched: wasmtime
    /// reserves them so that no address of a guest reaches anything else.
    fn now() -> Self {
        let mut memory = Memory {
            resident: 0,
            guests: 0,
            threads: 0,
        };
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        for line in status.lines() {
            if let Some(count) = line.strip_prefix("Threads:") {
                memory.threads = count.trim().parse().unwrap_or(0);
            }
        }
        let maps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
        // Resident bytes of neighbouring mappings since the last gap, and where they end.
        let (mut neighbours, mut end) = (0, 0);
        let mut reserved = false;
        for line in maps.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [range, rights, ..] = words[..]
                && let Some((from, to)) = range.split_once('-')
                && let (Ok(from), Ok(to)) =
                    (u64::from_str_radix(from, 16), u64::from_str_radix(to, 16))
            {
                if from != end || reserved {
                    neighbours = 0;
                }
                end = to;
                reserved = rights == "---p" && to - from >= 1 << 30;
                if reserved {
                    memory.guests += neighbours;
                }
            } else if let ["Rss:", kib, "kB"] = words[..] {
                let bytes = kib.parse::<u64>().unwrap_or(0) * 1024;
                memory.resident += bytes;
                neighbours += bytes;
            }
        }
        memory
    }
}

fn processor() -> String {
    let about = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = about
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{}, {threads} threads",
        name.map_or("processor unknown", |(_, name)| name)
    )
}
