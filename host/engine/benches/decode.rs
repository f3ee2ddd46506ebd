//! Inference: one stream, many streams, a prompt, the first token after start.
//!
//! `cargo bench --bench decode` prints all four for the embedded model. With `one`, `many`, `prompt` or
//! `first` and a model it prints one number, tokens a second (`first`: a word once the token is there):
//! `tests/peers/inference` runs it so, in turn with llama.cpp.

use std::time::Instant;

use futures::future::join_all;
use pacos_engine::llama::generate::{CompletionRequest, Prompt};
use pacos_engine::llama::{Engine, EngineOptions, InferenceModel, ModelSource};

/// As many as the peer is given.
const THREADS: usize = 2;

fn main() {
    // cargo adds `--bench`.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    match words.as_slice() {
        [what, model] => measure(what, model),
        _ => {
            for what in ["one", "many", "prompt", "first"] {
                print!("{what}: ");
                measure(what, "embedded:smollm2-135m-instruct");
            }
        }
    }
}

fn measure(what: &str, model: &str) {
    let started = Instant::now();
    let source: ModelSource = model.parse().expect("the second word names a model");
    let model = source.fetch(&mut |_| ()).expect("the model is there");
    let model = InferenceModel::open(&model, &mut |_| ()).expect("the model can be read");
    let options = EngineOptions {
        max_batch: 32,
        prefill_chunk: 512,
        shared_prefix_tokens: 0,
        context_length: Some(1024),
        kv_cache_bytes: None,
        threads: Some(THREADS),
    };
    let engine = Engine::start(model, options).expect("the model can be started");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime needs nothing");
    runtime.block_on(async {
        match what {
            "one" => println!("{}", decoded_per_second(&engine, 1, 128).await),
            "many" => println!("{}", decoded_per_second(&engine, 32, 64).await),
            "prompt" => {
                write(&engine, prompt(7, 512), 1).await;
                let start = Instant::now();
                write(&engine, prompt(0, 512), 1).await;
                println!("{}", 512.0 / start.elapsed().as_secs_f64());
            }
            "first" => {
                write(&engine, prompt(0, 16), 1).await;
                println!("after {} ms", started.elapsed().as_millis());
            }
            other => panic!("expected one, many, prompt or first, found {other}"),
        }
    });
}

/// The same prompts as the peer's.
fn prompt(stream: u32, count: u32) -> Vec<u32> {
    (0..count)
        .map(|i| (stream * 101 + i * 37 + 1000) % 40_000)
        .collect()
}

async fn decoded_per_second(engine: &Engine, streams: u32, count: usize) -> f64 {
    let round = |count| join_all((0..streams).map(move |s| write(engine, prompt(s, 16), count)));
    // A first short round, so that memory is touched before the clock starts.
    round(2).await;
    let start = Instant::now();
    round(count).await;
    f64::from(streams) * count as f64 / start.elapsed().as_secs_f64()
}

/// Greedy; the end token is never taken, so that every stream has its length.
async fn write(engine: &Engine, prompt: Vec<u32>, count: usize) {
    let mut request = CompletionRequest::new(Prompt::Tokens(prompt));
    request.temperature = 0.0;
    request.max_tokens = Some(count);
    for end in &engine.config().eos_token_ids {
        request.logit_bias.insert(*end, -1000.0);
    }
    let completion = engine
        .complete(request)
        .await
        .expect("the request is sound");
    assert_eq!(completion.completion_tokens, count);
}
