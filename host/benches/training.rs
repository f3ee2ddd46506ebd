//! What sharing the prompt's beginning is worth: one optimizer step's forward and backward passes
//! on Alpaca's template, with and without, in interleaved rounds of one process.
//!
//! ```text
//! cargo bench -p pacos --bench training                  # micro-batches of 512 and of 2048 tokens
//! cargo bench -p pacos --bench training -- 1024          # of other sizes
//! cargo bench -p pacos --bench training -- FILE 1024     # on other rows, such as alpaca_data.json
//! ```
//!
//! The model is the embedded one of 135 million parameters, the rows are the bundled seed tasks of
//! up to 160 tokens, which makes them about as long as Alpaca's examples.
//! Both sides compute the same loss and the same gradient, which is printed too. Rates count the
//! rows' tokens as if nothing were shared. Time is told twice: by the clock, and as processor time
//! of this process, which a machine that does other things as well disturbs less.

use std::{path::Path, time::Instant};

use candle_core::{DType, Device, Tensor};
use pacos::{
    llama,
    stages::{Examples, bundled_seeds},
    trainer::{
        TrainConfig,
        batches::{Batches, pack},
        config::{TemplateName, TrainDtype},
        engine::{Capacity, Engine, Recompute},
        micro_batch::MicroBatch,
        operations::CpuOperations,
        parameters::{NumberFormat, ParameterSet},
        prefixes::SharedPrefixes,
        student::Student,
        template::{ExampleText, Row, StudentTokenizer, tokenize_all},
    },
};

const MODEL: &str = "embedded:smollm2-135m-instruct";
/// Rows of a step; Stanford's are 128, which changes the time and hardly the ratio.
const ROWS: usize = 12;
/// Longest row.
const LONGEST: usize = 160;
/// Rounds of a comparison; in each, both sides run once, over the same rows.
const ROUNDS: usize = 3;
/// Sizes of micro-batches: the default, and one that a machine with more memory may take.
const CAPACITIES: [usize; 2] = [512, 2048];

fn main() {
    let source = MODEL.parse().expect("the model has a name");
    let model = llama::open(&source, &mut |_| {}).expect("the embedded model opens");
    let device = Device::Cpu;
    let base = ParameterSet::from_weights(&model.config, model.weights, NumberFormat::F32, &device)
        .expect("the weights are those of the configuration");
    let student = Student::full(base);
    let encoder = StudentTokenizer::new(&model.tokenizer, &model.config)
        .expect("the model names an end token");
    let config = TrainConfig {
        batch_size: ROWS,
        ..TrainConfig::default()
    };
    let file = std::env::args().skip(1).find(|a| Path::new(a).is_file());
    let tasks = match file {
        Some(file) => {
            Examples::load(Path::new(&file))
                .expect("the file has examples")
                .tasks
        }
        None => bundled_seeds(),
    };
    let texts = tasks.iter().map(|task| ExampleText {
        instruction: &task.instruction,
        input: &task.input,
        output: &task.output,
    });
    let dataset = tokenize_all(&encoder, TemplateName::Alpaca, texts, config.max_seq_len)
        .expect("the examples can be encoded");
    let mut rows = dataset.rows;
    rows.retain(|row| row.input_ids.len() <= LONGEST);
    let prefixes = SharedPrefixes::of(&rows);
    let lengths: Vec<usize> = prefixes.tokens().map(<[u32]>::len).collect();
    let mean = rows.iter().map(|row| row.input_ids.len()).sum::<usize>() / rows.len();
    println!(
        "{} rows of {mean} tokens on average, prefixes of {lengths:?} tokens, {} threads",
        rows.len(),
        rayon::current_num_threads()
    );
    count(&rows, &prefixes);
    let named: Vec<usize> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let capacities = match named.is_empty() {
        true => CAPACITIES.to_vec(),
        false => named,
    };
    for capacity in capacities {
        let buffers = Capacity {
            tokens: capacity,
            recompute: Recompute::Nothing,
            lora_rank: 0,
            dropout_width: 0,
            label_rows: 256,
            activations: DType::F32,
        };
        let engine = Engine::new(
            &model.config,
            Box::new(CpuOperations::new(TrainDtype::F32)),
            buffers,
            &device,
        )
        .expect("the buffers fit into memory");
        compare(&rows, &config, capacity, &engine, &student, &prefixes);
    }
}

/// What a step of Stanford's size computes, by counting: the ratios of speed follow these.
fn count(rows: &[Row], prefixes: &SharedPrefixes) {
    let config = TrainConfig::default();
    let members = Batches::new(&config, rows.len()).step(0);
    println!("\ntokens computed in a step of {} rows", members.len());
    for capacity in [512, 1024, 2048, 4096, 16_384] {
        let [whole, once] = [&SharedPrefixes::none(), prefixes].map(|prefixes| {
            let packed = pack(rows, &members, capacity, prefixes);
            let tokens: usize = packed.iter().map(|batch| batch.input_ids.len()).sum();
            (packed.len(), tokens)
        });
        println!(
            "  micro-batches of {capacity:>6}: whole {:>6} in {:>2}, prefix once {:>6} in {:>2}, ratio {:.3}",
            whole.1,
            whole.0,
            once.1,
            once.0,
            whole.1 as f64 / once.1 as f64
        );
    }
}

fn compare(
    rows: &[Row],
    config: &TrainConfig,
    capacity: usize,
    engine: &Engine,
    student: &Student,
    prefixes: &SharedPrefixes,
) {
    println!("\nmicro-batches of up to {capacity} tokens, steps of {ROWS} rows");
    let none = SharedPrefixes::none();
    let mut batches = Batches::new(config, rows.len());
    let zeros = || {
        student
            .base
            .zeros_in(NumberFormat::F32)
            .expect("there is memory")
    };
    let mut gradients = [zeros(), zeros()];
    let accumulate = |batch: &MicroBatch, scale, gradient: &mut ParameterSet| {
        let loss = Tensor::zeros(1, DType::F64, &Device::Cpu).expect("there is memory");
        engine
            .accumulate_gradients(student, batch, scale, None, gradient, &loss)
            .expect("the CPU does not fail");
        loss.to_vec1::<f64>().expect("one number was summed")[0]
    };
    let (mut seconds, mut cpu) = ([0.0; 2], [0.0; 2]);
    let mut computed = [0; 2];
    let mut micro_batches = [0; 2];
    let (mut tokens, mut apart) = (0, [0.0f64; 2]);
    // Memory that is touched for the first time costs time of its own.
    let first = &pack(rows, &batches.step(0), capacity, &none)[0];
    for gradient in &mut gradients {
        accumulate(first, 1.0, gradient);
    }
    for round in 0..ROUNDS {
        let members = batches.step(round as u64);
        let labels: usize = members.iter().map(|&row| rows[row].label_tokens()).sum();
        let (mut losses, before) = ([0.0; 2], (seconds, cpu));
        // Whoever goes first finds the machine in another state: turns are taken.
        for side in [round % 2, (round + 1) % 2] {
            let gradient = &mut gradients[side];
            engine
                .operations()
                .zero(gradient.data())
                .expect("the CPU does not fail");
            let started = (Instant::now(), cpu_seconds());
            let packed = pack(rows, &members, capacity, [&none, prefixes][side]);
            for batch in &packed {
                let scale = 1.0 / labels as f32;
                losses[side] += accumulate(batch, scale, gradient);
            }
            seconds[side] += started.0.elapsed().as_secs_f64();
            cpu[side] += cpu_seconds() - started.1;
            computed[side] += packed.iter().map(|b| b.input_ids.len()).sum::<usize>();
            micro_batches[side] += packed.len();
        }
        tokens += members
            .iter()
            .map(|&row| rows[row].input_ids.len())
            .sum::<usize>();
        println!(
            "  round {}: ratio {:.3} by the clock, {:.3} in processor time",
            round + 1,
            (seconds[0] - before.0[0]) / (seconds[1] - before.0[1]),
            (cpu[0] - before.1[0]) / (cpu[1] - before.1[1]),
        );
        apart[0] = apart[0].max((losses[1] - losses[0]).abs() / losses[0]);
        apart[1] = apart[1].max(difference(&gradients[1], &gradients[0]));
    }
    for (side, name) in ["each row whole", "prefix once"].iter().enumerate() {
        println!(
            "  {name:<16} {:>3} micro-batches, {:>6} of {tokens} tokens computed, {:>6.2} s a step, {:>6.1} tokens/s, {:>6.1} tokens a processor second",
            micro_batches[side],
            computed[side],
            seconds[side] / ROUNDS as f64,
            tokens as f64 / seconds[side],
            tokens as f64 / cpu[side],
        );
    }
    println!(
        "  ratio {:.3} by the clock, {:.3} in processor time; of tokens computed {:.3}",
        seconds[0] / seconds[1],
        cpu[0] / cpu[1],
        computed[0] as f64 / computed[1] as f64
    );
    println!(
        "  largest relative difference: loss {:.1e}, whole gradient {:.1e}",
        apart[0], apart[1]
    );
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

/// `‖a − b‖ / ‖b‖`.
fn difference(a: &ParameterSet, b: &ParameterSet) -> f64 {
    let (mut apart, mut size) = (0.0f64, 0.0f64);
    let [a, b] = [a, b].map(|set| set.read(0..set.count()).expect("the CPU does not fail"));
    for (a, b) in a.into_iter().zip(b) {
        apart += f64::from(a - b).powi(2);
        size += f64::from(b).powi(2);
    }
    (apart / size).sqrt()
}
