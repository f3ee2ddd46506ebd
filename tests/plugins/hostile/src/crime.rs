//! What the hostile plugins can be told to do. Shared by both, by path.

use pacos_plugin::{Host, Level, schemars};

use crate::outside;

/// The configuration of a hostile plugin.
#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What to do wrong.
    pub crime: Crime,
    /// How much `huge-output` and `amplified-output` give back, in MiB.
    pub megabytes: usize,
    /// How many requests `many-requests` and `spends` make in one unit.
    pub requests: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            crime: Crime::Honest,
            megabytes: 1024,
            requests: 20,
        }
    }
}

/// One way to break the contract, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Crime {
    /// Does its work.
    Honest,
    /// Panics at every call.
    Trap,
    /// Panics where the text has the word `POISON`; a generator, at unit 3.
    Poison,
    /// Computes for ever.
    EndlessLoop,
    /// Computes for ever, and writes to the log all the while.
    LoopBetweenHostCalls,
    /// Allocates for ever.
    MemoryBomb,
    /// Calls itself for ever.
    Recursion,
    /// Gives back one text of `megabytes`.
    HugeOutput,
    /// Gives back texts that share one piece of its memory, `megabytes` when they are copied out.
    AmplifiedOutput,
    /// Asks or answers differently by how many calls its instance has had.
    NotDeterministic,
    /// Asks the role `teacher`, declared or not, and gives back the reply.
    AsksTeacher,
    /// Generators: makes all its requests of the role `teacher` in one call.
    ManyRequests,
    /// Generators: makes its requests one after another.
    Spends,
    /// Gives back the time of day.
    ReadsClock,
    /// Gives back a random number.
    ReadsRandom,
    /// Gives back what it sees of the environment.
    ReadsEnv,
    /// Gives back what it sees of the file system.
    ReadsFile,
    /// Opens a TCP socket.
    OpensSocket,
    /// Sleeps for a year.
    Sleeps,
    /// Filters: one verdict less than candidates.
    TooFewVerdicts,
    /// Filters: one verdict more than candidates.
    TooManyVerdicts,
    /// Filters: a score that is no number.
    NanScore,
    /// Filters: a score without bound.
    InfiniteScore,
}

impl Crime {
    /// Does what is wrong whatever the stage. Returns what there is to tell, for the crimes that
    /// come to an end.
    pub fn commit(self, host: &dyn Host) -> String {
        match self {
            Crime::Trap => panic!("told to trap"),
            Crime::EndlessLoop => endless_loop(),
            Crime::LoopBetweenHostCalls => loop {
                host.log(Level::Debug, "still here");
            },
            Crime::MemoryBomb => memory_bomb(),
            Crime::Recursion => recursion(0).to_string(),
            Crime::ReadsClock => outside::clock(),
            Crime::ReadsRandom => outside::random(),
            Crime::ReadsEnv => outside::environment(),
            Crime::ReadsFile => outside::files(),
            Crime::OpensSocket => outside::socket(),
            Crime::Sleeps => outside::sleep(),
            _ => String::new(),
        }
    }
}

fn endless_loop() -> ! {
    let mut number = 0u64;
    loop {
        number = std::hint::black_box(number.wrapping_add(1));
    }
}

fn memory_bomb() -> ! {
    let mut kept = Vec::new();
    loop {
        kept.push(std::hint::black_box(vec![1u8; 1 << 20]));
    }
}

fn recursion(depth: u64) -> u64 {
    if std::hint::black_box(depth) == u64::MAX {
        return 0;
    }
    recursion(depth + 1) + 1
}

/// Texts that are one text, told often enough to make `megabytes` of copies.
pub fn amplified(megabytes: usize) -> Vec<String> {
    let text = "x".repeat(1 << 20);
    let copies = (0..megabytes).map(|_| {
        // SAFETY: none. Each copy claims the same memory, which is the crime; the host copies
        // them all out before the guest would free the first one twice.
        unsafe { std::ptr::read(&raw const text) }
    });
    let copies = copies.collect();
    std::mem::forget(text);
    copies
}
