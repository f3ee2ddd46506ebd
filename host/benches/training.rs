//! What sharing the prompt's beginning is worth: one optimizer step's forward and backward passes
//! on Alpaca's template, with and without, in interleaved rounds of one process.
//!
//! ```text
//! cargo bench -p pacos --bench training
//! ```
//!
//! The model is the embedded one of 135 million parameters, the rows are the bundled seed tasks.
//! Both sides compute the same loss and the same gradient, which is printed too. Rates count the
//! rows' tokens as if nothing were shared.

use std::time::Instant;

use pacos::{
    llama,
    stages::bundled_seeds,
    trainer::{
        TrainConfig,
        batches::{Batches, pack},
        config::TemplateName,
        engine::CpuEngine,
        model::Engine,
        parameters::ParameterSet,
        prefixes::SharedPrefixes,
        template::{ExampleText, Row, StudentTokenizer, tokenize_all},
    },
};

const MODEL: &str = "embedded:smollm2-135m-instruct";
/// Rows of a step; Stanford's are 128, which changes the time and hardly the ratio.
const ROWS: usize = 32;
/// Rounds of a comparison; in each, both sides run once, over the same rows.
const ROUNDS: usize = 3;
/// Sizes of micro-batches: the default, and one that a machine with more memory may take.
const CAPACITIES: [usize; 2] = [512, 2048];

fn main() {
    let source = MODEL.parse().expect("the model has a name");
    let model = llama::open(&source, &mut |_| {}).expect("the embedded model opens");
    let parameters = ParameterSet::from_weights(&model.config, model.weights)
        .expect("the weights are those of the configuration");
    let encoder = StudentTokenizer::new(&model.tokenizer, &model.config)
        .expect("the model names an end token");
    let config = TrainConfig {
        batch_size: ROWS,
        ..TrainConfig::default()
    };
    let seeds = bundled_seeds();
    let texts = seeds.iter().map(|task| ExampleText {
        instruction: &task.instruction,
        input: &task.input,
        output: &task.output,
    });
    let dataset = tokenize_all(&encoder, TemplateName::Alpaca, texts, config.max_seq_len)
        .expect("the seeds can be encoded");
    let rows = dataset.rows;
    let prefixes = SharedPrefixes::of(&rows);
    let lengths: Vec<usize> = prefixes.tokens().map(<[u32]>::len).collect();
    let mean = rows.iter().map(|row| row.input_ids.len()).sum::<usize>() / rows.len();
    println!(
        "{} rows of {mean} tokens on average, prefixes of {lengths:?} tokens, {} threads",
        rows.len(),
        rayon::current_num_threads()
    );
    for capacity in CAPACITIES {
        let engine = CpuEngine::new(&model.config, &parameters, capacity);
        compare(&rows, &config, capacity, engine, &parameters, &prefixes);
    }
}

fn compare(
    rows: &[Row],
    config: &TrainConfig,
    capacity: usize,
    mut engine: CpuEngine,
    parameters: &ParameterSet,
    prefixes: &SharedPrefixes,
) {
    let none = SharedPrefixes::none();
    let mut batches = Batches::new(config, rows.len());
    let mut gradients = [parameters.zeros_like(), parameters.zeros_like()];
    let mut seconds = [0.0; 2];
    let mut computed = [0; 2];
    let mut micro_batches = [0; 2];
    let (mut tokens, mut apart) = (0, [0.0f64; 2]);
    // The first round warms the caches and is not counted.
    for round in 0..=ROUNDS {
        let members = batches.step(round as u64);
        let labels: usize = members.iter().map(|&row| rows[row].label_tokens()).sum();
        let mut losses = [0.0; 2];
        // Whoever goes first finds the machine in another state: turns are taken.
        for side in [round % 2, (round + 1) % 2] {
            let gradient = &mut gradients[side];
            gradient.data_mut().fill(0.0);
            let started = Instant::now();
            let packed = pack(rows, &members, capacity, [&none, prefixes][side]);
            for batch in &packed {
                let scale = 1.0 / labels as f32;
                losses[side] += engine.accumulate_gradients(parameters, batch, scale, gradient);
            }
            if round > 0 {
                seconds[side] += started.elapsed().as_secs_f64();
                computed[side] += packed.iter().map(|b| b.input_ids.len()).sum::<usize>();
                micro_batches[side] += packed.len();
            }
        }
        if round > 0 {
            tokens += members
                .iter()
                .map(|&row| rows[row].input_ids.len())
                .sum::<usize>();
        }
        apart[0] = apart[0].max((losses[1] - losses[0]).abs() / losses[0]);
        apart[1] = apart[1].max(difference(&gradients[1], &gradients[0]));
    }
    println!(
        "\nmicro-batches of up to {capacity} tokens, {ROUNDS} rounds of {ROWS} rows, {tokens} tokens"
    );
    for (side, name) in ["each row whole", "prefix once"].iter().enumerate() {
        println!(
            "  {name:<16} {:>3} micro-batches, {:>6} tokens computed, {:>6.2} s a step, {:>6.1} tokens/s",
            micro_batches[side],
            computed[side],
            seconds[side] / ROUNDS as f64,
            tokens as f64 / seconds[side]
        );
    }
    println!(
        "  ratio of speeds {:.3}; ratio of tokens computed {:.3}",
        seconds[0] / seconds[1],
        computed[0] as f64 / computed[1] as f64
    );
    println!(
        "  largest relative difference: loss {:.1e}, whole gradient {:.1e}",
        apart[0], apart[1]
    );
}

/// `‖a − b‖ / ‖b‖`.
fn difference(a: &ParameterSet, b: &ParameterSet) -> f64 {
    let (mut apart, mut size) = (0.0f64, 0.0f64);
    for (a, b) in a.data().iter().zip(b.data()) {
        apart += f64::from(a - b).powi(2);
        size += f64::from(*b).powi(2);
    }
    (apart / size).sqrt()
}
