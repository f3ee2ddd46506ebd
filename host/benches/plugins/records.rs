//! What filters are measured with.

use pacos_plugin::{Candidate, CandidateId, Payload, Task};

/// Records of about 300 bytes, none like another, with words that no filter minds.
pub fn records(count: usize) -> Vec<Candidate> {
    let words = [
        "river", "colour", "bread", "winter", "garden", "letter", "meadow", "market", "window",
        "harbour", "teacher", "mountain", "village", "candle", "orchard", "bicycle",
    ];
    let text = |seed: usize, count: usize| {
        let word = |n: usize| words[(seed * 7 + n * n + n * seed / 3) % words.len()];
        (0..count).map(word).collect::<Vec<_>>().join(" ")
    };
    let record = |n: usize| Candidate {
        id: CandidateId {
            unit: n as u64,
            n: 0,
        },
        payload: Payload::Task(Task::new(
            format!("Explain how {} {n}", text(n, 6)),
            text(n + 1, 5),
            format!("{}.", text(n + 2, 30)),
        )),
        attributes: Vec::new(),
        parents: Vec::new(),
        seed: n as u64,
    };
    (0..count).map(record).collect()
}
