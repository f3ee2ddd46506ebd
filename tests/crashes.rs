//! Killed at any moment, a run ends byte for byte as one never killed, and pays for no recorded
//! reply twice.

mod support;

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use scripted_server::{AlpacaTeacher, Recorded, Script, alpaca_teacher};
use support::{Bench, Recipe, dataset, query, succeeds};

/// A teacher that takes its time, so that kills find requests under way.
fn slow_teacher() -> impl Script {
    let teacher: AlpacaTeacher = alpaca_teacher();
    move |request: &Recorded| {
        let wait = Duration::from_millis(5 + request.identity % 20);
        teacher.action(request).after(wait)
    }
}

/// What must hold of a run that was killed and taken up again.
fn same_as_never_killed(bench: &Bench, dir: &Path, expected: &[(String, Vec<u8>)], what: &str) {
    assert_eq!(dataset(dir), expected, "{what}");
    // The ledger knows of every sending, and every request that was sent again had lost its reply.
    assert_eq!(
        query(dir, "SELECT count(*) FROM attempts WHERE state = 'sent'"),
        0
    );
    let sent_again = query(
        dir,
        "SELECT count(*) FROM (SELECT key FROM attempts GROUP BY key
         HAVING sum(state = 'answered') > 1)",
    );
    assert_eq!(sent_again, 0, "{what}: a recorded reply was paid twice");
    let at_the_server = counts(bench);
    let most_again = at_the_server.values().filter(|count| **count > 1).count();
    let unknown = query(
        dir,
        "SELECT count(DISTINCT key) FROM attempts WHERE state = 'unknown'",
    );
    assert!(
        i64::try_from(most_again).expect("small") <= unknown,
        "{what}: {most_again} requests came again, {unknown} were unknown"
    );
}

fn counts(bench: &Bench) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    for request in bench.server.requests() {
        *counts.entry(request.identity).or_default() += 1;
    }
    counts
}

fn expected(recipe: &Recipe) -> Vec<(String, Vec<u8>)> {
    let bench = Bench::new(slow_teacher(), recipe);
    let dir = bench.dir("run");
    succeeds(&mut bench.run(&dir));
    dataset(&dir)
}

/// The card and the Parquet file name the teacher's address, which is another for every server.
fn without_address(mut files: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    files.retain(|(name, _)| name.ends_with(".json") || name.ends_with(".jsonl"));
    files
}

#[test]
fn killed_at_the_narrow_instants() {
    let recipe = Recipe::default();
    let bench = Bench::new(slow_teacher(), &recipe);
    let reference = bench.dir("reference");
    succeeds(&mut bench.run(&reference));
    let expected_here = dataset(&reference);
    for point in [
        "request:after-send-recorded@1",
        "request:after-send-recorded@5",
        "request:reply-before-commit@1",
        "request:reply-before-commit@4",
        "request:after-commit@1",
        "request:after-commit@6",
        "unit:before-commit@2",
        "unit:after-commit@2",
        "verdicts:before-commit@1",
        "verdicts:before-commit@3",
        "verdicts:after-commit@1",
        "verdicts:after-commit@4",
        "file:before-rename@1",
        "file:before-rename@3",
    ] {
        // A server of its own each time, so that sendings can be counted.
        let bench = Bench::new(slow_teacher(), &recipe);
        let dir = bench.dir("run");
        let killed = bench
            .run(&dir)
            .env("PACOS_CRASH_AT", point)
            .output()
            .expect("the command starts");
        assert!(!killed.status.success(), "{point} was never passed");
        succeeds(&mut bench.run(&dir));
        let files = without_address(dataset(&dir));
        assert_eq!(files, without_address(expected_here.clone()), "{point}");
        same_as_never_killed(&bench, &dir, &dataset(&dir), point);
    }
}

#[test]
fn killed_at_twenty_four_moments() {
    let recipe = Recipe::default();
    let expected = without_address(expected(&recipe));
    let bench = Bench::new(slow_teacher(), &recipe);
    let whole = {
        let began = Instant::now();
        succeeds(&mut bench.run(&bench.dir("timing")));
        began.elapsed()
    };
    for moment in 0..24_u32 {
        let bench = Bench::new(slow_teacher(), &recipe);
        let dir = bench.dir("run");
        // Spread over the whole run, each at another phase of it.
        let wait = whole.mul_f64((f64::from(moment) + 0.5) / 24.0);
        let mut child = bench.run(&dir).spawn().expect("the command starts");
        std::thread::sleep(wait);
        // It may have ended by itself just before.
        let _ = child.kill();
        child.wait().expect("it ends");
        // A second kill, early in the second life.
        let mut child = bench.run(&dir).spawn().expect("the command starts");
        std::thread::sleep(wait / 3);
        let _ = child.kill();
        child.wait().expect("it ends");
        succeeds(&mut bench.run(&dir));
        assert_eq!(
            without_address(dataset(&dir)),
            expected,
            "killed after {wait:?}"
        );
        same_as_never_killed(&bench, &dir, &dataset(&dir), &format!("{wait:?}"));
    }
}
