//! How many records a second are judged against a pool of Alpaca's size.
//!
//! `cargo run --release -p rouge-l --example throughput` makes 52,000 texts of 4 to 20 words with
//! Zipf's frequencies over 20,000 words (the same on every machine), judges 2,000 more against
//! them and prints the rate. With `print` as an argument it prints the texts instead, one a
//! line, so that another implementation can be timed on the same work.

use std::time::Instant;

use pacos_plugin::{
    Candidate, CandidateId, Decision, Filter, Payload, Plugin, Task, testing::ScriptedHost,
};
use rouge_l::{Config, RougeL};

const POOL: usize = 52_000;
const JUDGED: usize = 2_000;
const VOCABULARY: usize = 20_000;

fn main() {
    let mut texts = texts(POOL + JUDGED);
    if std::env::args().any(|argument| argument == "print") {
        texts.iter().for_each(|text| println!("{text}"));
        return;
    }
    let batch = (0..)
        .zip(texts.split_off(POOL))
        .map(|(unit, text)| Candidate {
            id: CandidateId { unit, n: 0 },
            payload: Payload::Task(Task::new(text, "", "")),
            attributes: Vec::new(),
            parents: Vec::new(),
            seed: 0,
        });
    let batch: Vec<Candidate> = batch.collect();
    let seeds = texts.iter().map(|text| Task::new(text, "", "")).collect();

    let mut plugin = RougeL::configure(Config::default())
        .unwrap_or_else(|problems| panic!("the defaults are refused: {problems:?}"));
    let start = Instant::now();
    plugin.start(seeds).expect("any seeds will do");
    let indexing = start.elapsed();
    let start = Instant::now();
    let verdicts = plugin.judge(batch, &ScriptedHost::new());
    let judging = start.elapsed();

    let verdicts = verdicts.expect("judging asks nobody");
    let dropped = verdicts
        .iter()
        .filter(|v| v.decision == Decision::Drop)
        .count();
    let mean = verdicts.iter().map(|v| v.scores[0].value).sum::<f64>() / JUDGED as f64;
    println!("{POOL} texts indexed in {:.3} s", indexing.as_secs_f64());
    println!(
        "{JUDGED} records judged in {:.3} s: {:.0} a second, {:.1} million pairs a second",
        judging.as_secs_f64(),
        JUDGED as f64 / judging.as_secs_f64(),
        (JUDGED * POOL) as f64 / judging.as_secs_f64() / 1e6,
    );
    println!("{dropped} dropped; mean nearest score {mean:.6}");
}

fn texts(count: usize) -> Vec<String> {
    let mut frequencies: Vec<f64> = (1..=VOCABULARY).map(|rank| 1.0 / rank as f64).collect();
    let mut sum = 0.0;
    for frequency in &mut frequencies {
        sum += *frequency;
        *frequency = sum;
    }
    let mut state = 1_u64;
    let mut uniform = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    (0..count)
        .map(|_| {
            let length = 4 + (uniform() * 17.0) as usize;
            let words: Vec<String> = (0..length)
                .map(|_| {
                    let drawn = uniform() * sum;
                    format!("w{}", frequencies.partition_point(|&f| f < drawn))
                })
                .collect();
            words.join(" ")
        })
        .collect()
}
