//! Pacos' side of `tests/peers/training`: the trainer's steps one by one, and what both sides train on.
//!
//! ```text
//! training_steps prepare DIR [FILE]          # the model as a folder of f32, and the workloads
//! training_steps train DIR/model DIR/WORKLOAD.json THREADS f32|bf16
//! ```
//!
//! A workload is settings, rows of tokens and the rows of each step. Written are `dense.json`, steps of 4
//! rows of 256 tokens, each a label; `lean.json` and `leanest.json`, the same with less memory, the second by
//! moments in bf16; `alpaca.json`, rows in Alpaca's template, 32 a step; `curve.json`, 50 steps of 4 such rows.
//! Memory is used as the planner chooses where a user says nothing, but in the lean ones. The rows come from FILE, such as `alpaca_data.json`, cut as Stanford
//! cuts; or from the bundled seed tasks, chosen so that their lengths are distributed as Alpaca's are.
//!
//! `train` prints one line of JSON a step.

use std::io::BufReader;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use candle_core::DType;
use pacos::{
    llama,
    stages::{Examples, bundled_seeds},
    trainer::{
        ComputeDevice, Row, StepRecord, TrainConfig, TrainJob, TrainObserver,
        batches::Batches,
        config::{DtypeSetting, MicroBatchTokens, RecomputeSetting, TemplateName, TrainDtype},
        plan::{Room, TokenLengths, plan},
        template::{ExampleText, StudentTokenizer, tokenize_all},
        train,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::json;

const MODEL: &str = "embedded:smollm2-135m-instruct";
/// Tokens of a row of `alpaca_data.json`, in the middle (litgpt, `tutorials/oom.md`) and on average (6.67
/// million in 52,002 rows: alpaca-lora, `lengths.ipynb`).
const ALPACA_MEDIAN: f64 = 110.0;
const ALPACA_MEAN: f64 = 128.0;
/// Rows chosen for that.
const ALPACA_ROWS: usize = 96;
/// Most rows taken of a file, spread over it.
const MOST_ROWS: usize = 1024;
/// Tokens of a row that is all labels, and such rows in a step.
const DENSE: usize = 256;
const DENSE_ROWS: usize = 4;

#[derive(Serialize, Deserialize)]
struct Workload {
    config: TrainConfig,
    rows: Vec<WorkloadRow>,
    /// For the peer; the trainer knows them by the settings.
    steps: Vec<Vec<usize>>,
}

#[derive(Serialize, Deserialize)]
struct WorkloadRow {
    form: usize,
    input_ids: Vec<u32>,
    label_mask: Vec<bool>,
}

fn main() {
    // Cargo says `--bench` to whatever it starts as one.
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| arg != "--bench")
        .collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["prepare", dir] => prepare(Path::new(dir), None),
        ["prepare", dir, file] => prepare(Path::new(dir), Some(Path::new(file))),
        ["train", model, workload, threads, dtype @ ("f32" | "bf16")] => {
            let threads = threads.parse().expect("THREADS is a number");
            let dtype = match dtype {
                "bf16" => TrainDtype::Bf16,
                _ => TrainDtype::F32,
            };
            train_steps(model, Path::new(workload), threads, dtype);
        }
        _ => {
            eprintln!(
                "expected prepare DIR [FILE], or train MODEL WORKLOAD.json THREADS f32|bf16; found {args:?}"
            );
            std::process::exit(2);
        }
    }
}

fn prepare(dir: &Path, file: Option<&Path>) {
    let source = MODEL.parse().expect("the model has a name");
    let model = llama::open(&source, &mut |_| {}).expect("the embedded model opens");
    model
        .save_hf(&dir.join("model"), DType::F32)
        .expect("the model can be written");
    let encoder = StudentTokenizer::new(&model.tokenizer, &model.config)
        .expect("the model names an end token");
    let tasks = match file {
        Some(file) => {
            let all = Examples::load(file).expect("the file has examples").tasks;
            let step = all.len().div_ceil(MOST_ROWS);
            all.into_iter().step_by(step).collect()
        }
        None => bundled_seeds(),
    };
    let texts = tasks.iter().map(|task| ExampleText {
        instruction: &task.instruction,
        input: &task.input,
        output: &task.output,
    });
    let settings = TrainConfig::default();
    let dataset = tokenize_all(&encoder, TemplateName::Alpaca, texts, settings.max_seq_len)
        .expect("the examples can be encoded");
    let mut rows = dataset.rows;

    let tokens: Vec<u32> = rows.iter().flat_map(|row| row.input_ids.clone()).collect();
    let dense = || -> Vec<WorkloadRow> {
        let row = |ids: &[u32]| WorkloadRow {
            form: 0,
            input_ids: ids.to_vec(),
            label_mask: vec![true; DENSE],
        };
        tokens.chunks_exact(DENSE).map(row).collect()
    };
    write(dir, "dense", &settings, dense(), DENSE_ROWS, 5);
    let lean = TrainConfig {
        micro_batch_tokens: MicroBatchTokens::Tokens(settings.max_seq_len),
        recompute: RecomputeSetting::Elementwise,
        ..settings.clone()
    };
    write(dir, "lean", &lean, dense(), DENSE_ROWS, 5);
    let leanest = TrainConfig {
        moments_dtype: DtypeSetting::Bf16,
        ..lean
    };
    write(dir, "leanest", &leanest, dense(), DENSE_ROWS, 5);

    if file.is_none() {
        rows = as_long_as_alpacas(&rows);
    }
    let in_template = || -> Vec<WorkloadRow> {
        let row = |row: &Row| WorkloadRow {
            form: row.form,
            input_ids: row.input_ids.clone(),
            label_mask: row.label_mask.clone(),
        };
        rows.iter().map(row).collect()
    };
    write(dir, "alpaca", &settings, in_template(), 32, 3);
    write(dir, "curve", &settings, in_template(), 4, 50);
}

/// Rows whose lengths are distributed as those of `alpaca_data.json`: log-normally, with their median and
/// mean. For each length the row that comes nearest; one may come several times. They are in the order of
/// `rows`, which has nothing to do with length.
fn as_long_as_alpacas(rows: &[Row]) -> Vec<Row> {
    let sigma = (2.0 * (ALPACA_MEAN / ALPACA_MEDIAN).ln()).sqrt();
    let mut nearest: Vec<usize> = (0..ALPACA_ROWS)
        .map(|at| {
            let p = (at as f64 + 0.5) / ALPACA_ROWS as f64;
            // The normal distribution's quantile by Tukey's lambda distribution, right to a hundredth.
            let z = (p.powf(0.135) - (1.0 - p).powf(0.135)) / 0.1975;
            let tokens = ALPACA_MEDIAN * (sigma * z).exp();
            let away = |at: &usize| (rows[*at].input_ids.len() as f64 - tokens).abs();
            (0..rows.len())
                .min_by(|a, b| away(a).total_cmp(&away(b)))
                .expect("there are seed tasks")
        })
        .collect();
    nearest.sort_unstable();
    nearest.into_iter().map(|at| rows[at].clone()).collect()
}

/// Writes a workload of `total` steps that all have `batch_size` rows.
fn write(
    dir: &Path,
    name: &str,
    settings: &TrainConfig,
    mut rows: Vec<WorkloadRow>,
    batch_size: usize,
    total: u64,
) {
    rows.truncate(rows.len() / batch_size * batch_size);
    let config = TrainConfig {
        batch_size,
        max_steps: Some(total),
        ..settings.clone()
    };
    let mut batches = Batches::new(&config, rows.len());
    let steps = (0..total).map(|step| batches.step(step)).collect();
    let mut lengths: Vec<usize> = rows.iter().map(|row| row.input_ids.len()).collect();
    lengths.sort_unstable();
    println!(
        "{name}: {total} steps of {batch_size} rows from {} of {} to {} tokens, {} in the middle, {} on average",
        rows.len(),
        lengths[0],
        lengths[lengths.len() - 1],
        lengths[lengths.len() / 2],
        lengths.iter().sum::<usize>() / lengths.len()
    );
    let workload = Workload {
        config,
        rows,
        steps,
    };
    let text = serde_json::to_string(&workload).expect("numbers become JSON");
    std::fs::write(dir.join(name).with_extension("json"), text).expect("the workload is written");
}

fn train_steps(model: &str, workload: &Path, threads: usize, dtype: TrainDtype) {
    let file = std::fs::File::open(workload).expect("the workload is there");
    let mut workload: Workload =
        serde_json::from_reader(BufReader::new(file)).expect("the workload is one of ours");
    workload.config.dtype = dtype.into();
    let source = model.parse().expect("the model has a name");
    let model = llama::open(&source, &mut |_| {}).expect("the model opens");
    let rows: Vec<Row> = workload
        .rows
        .into_iter()
        .enumerate()
        .map(|(example, row)| Row {
            example,
            form: row.form,
            input_ids: row.input_ids,
            label_mask: row.label_mask,
        })
        .collect();
    let dir = tempfile::tempdir().expect("a directory for the checkpoint");
    // What the planner chooses where a user says nothing.
    let lengths = TokenLengths::Rows(&rows);
    let device = ComputeDevice::cpu();
    let room = Room::from(&device);
    let split = plan(&model.config, &workload.config, lengths, room, None).split;
    let job = TrainJob {
        ranks: &pacos::trainer::collective::Alone,
        split,
        device: &device,
        model: &model.config,
        config: &workload.config,
        rows: &rows,
        held_out: &[],
        dir: dir.path(),
        cancel: &AtomicBool::new(false),
        threads,
    };
    let mut steps = Steps { cpu: f64::NAN };
    train(&job, model.weights, &mut steps).expect("the workload can be trained on");
}

/// Prints each step as it is done.
struct Steps {
    /// Processor time at its beginning.
    cpu: f64,
}

impl TrainObserver for Steps {
    fn on_start(&mut self, _: u64, _: u64) {
        self.cpu = cpu_seconds();
    }

    fn on_step(&mut self, record: &StepRecord) {
        let cpu = cpu_seconds();
        let line = json!({
            "step": record.step,
            "seconds": record.seconds,
            "cpu_seconds": cpu - self.cpu,
            "tokens": record.tokens,
            "loss": record.loss,
            "grad_norm": record.grad_norm,
            "peak_bytes": peak_bytes(),
        });
        println!("{line}");
        self.cpu = cpu_seconds();
    }
}

/// Processor time of this process so far, in steps of a hundredth; not a number where there is no
/// `/proc`.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program comes second, in brackets, and may hold anything.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = |field: usize| {
        after_name
            .split_whitespace()
            .nth(field)?
            .parse::<f64>()
            .ok()
    };
    let (user, system) = (ticks(11), ticks(12));
    user.zip(system)
        .map_or(f64::NAN, |(user, system)| (user + system) / 100.0)
}

/// Most memory that this process has had so far (VmHWM); nothing where there is no `/proc`.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}
