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

/// What must hold of a run that was killed and taken up again. `before` is how many requests the
/// server had seen when the run began.
fn same_as_never_killed(
    bench: &Bench,
    before: usize,
    dir: &Path,
    expected: &[(String, Vec<u8>)],
    what: &str,
) {
    let files = dataset(dir);
    for ((name, bytes), (_, wanted)) in files.iter().zip(expected) {
        assert!(bytes == wanted, "{what}: {name} is another");
    }
    assert_eq!(files.len(), expected.len(), "{what}");
    // The ledger knows of every sending, and every request that was sent again had lost its reply.
    let open = query(dir, "SELECT count(*) FROM attempts WHERE state = 'sent'");
    assert_eq!(open, 0, "{what}: attempts are still open");
    let paid_twice = query(
        dir,
        "SELECT count(*) FROM (SELECT key FROM attempts GROUP BY key
         HAVING sum(state = 'answered') > 1)",
    );
    assert_eq!(paid_twice, 0, "{what}: a recorded reply was paid twice");
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for request in &bench.server.requests()[before..] {
        *counts.entry(request.identity).or_default() += 1;
    }
    let sent_again: usize = counts.values().map(|count| count - 1).sum();
    let unknown = query(dir, "SELECT count(*) FROM attempts WHERE state = 'unknown'");
    assert!(
        i64::try_from(sent_again).expect("small") <= unknown,
        "{what}: {sent_again} sendings were repeated, {unknown} were unknown"
    );
}

/// A server, a run on it that is never killed, and that run's dataset.
fn reference() -> (Bench, Vec<(String, Vec<u8>)>, Duration) {
    let bench = Bench::new(slow_teacher(), &Recipe::default());
    let dir = bench.dir("reference");
    let began = Instant::now();
    succeeds(&mut bench.run(&dir));
    let files = dataset(&dir);
    (bench, files, began.elapsed())
}

#[test]
fn killed_at_the_narrow_instants() {
    let (bench, expected, _) = reference();
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
        let before = bench.server.count();
        let dir = bench.dir(&point.replace([':', '@'], "-"));
        let killed = bench
            .run(&dir)
            .env("PACOS_CRASH_AT", point)
            .output()
            .expect("the command starts");
        assert!(!killed.status.success(), "{point} was never passed");
        succeeds(&mut bench.run(&dir));
        same_as_never_killed(&bench, before, &dir, &expected, point);
    }
}

#[test]
fn killed_at_twenty_four_moments() {
    let (bench, expected, whole) = reference();
    for moment in 0..24_u32 {
        let before = bench.server.count();
        let dir = bench.dir(&format!("moment-{moment}"));
        // Spread over the whole run, each at another phase of it.
        let wait = whole.mul_f64((f64::from(moment) + 0.5) / 24.0);
        for wait in [wait, wait / 3] {
            let mut child = bench.start(&dir);
            std::thread::sleep(wait);
            // It may have ended by itself just before.
            let _ = child.kill();
            child.wait().expect("it ends");
        }
        succeeds(&mut bench.run(&dir));
        same_as_never_killed(&bench, before, &dir, &expected, &format!("{wait:?}"));
    }
}
