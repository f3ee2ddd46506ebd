//! What becomes of a command that is told to end, killed, or no longer read.

#![cfg(unix)]

mod support;

use std::{
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use scripted_server::{Recorded, Script, alpaca_teacher};
use support::{Bench, Recipe, pacos, query, succeeds};

/// A teacher so slow that a run takes much longer than a test waits.
fn slow_teacher() -> impl Script {
    let teacher = alpaca_teacher();
    move |request: &Recorded| teacher.action(request).after(Duration::from_millis(300))
}

fn bench() -> Bench {
    let recipe = Recipe {
        model: "max_concurrency = 1".into(),
        target: 500,
        ..Recipe::default()
    };
    Bench::new(slow_teacher(), &recipe)
}

fn send(signal: &str, child: &Child) {
    let kill = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status();
    assert!(kill.expect("kill starts").success());
}

/// Waits until a run has come so far, and fails if it ends first.
fn until(child: &mut Child, reached: impl Fn() -> bool) {
    let begun = Instant::now();
    while !reached() {
        let ended = child.try_wait().expect("it can be asked");
        assert!(ended.is_none(), "it ended early: {ended:?}");
        assert!(begun.elapsed() < Duration::from_secs(120), "it hangs");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What `pacos plugin stats` says of the filters: calls of each.
fn calls(dir: &Path) -> Vec<u64> {
    let mut stats = pacos();
    stats.args(["plugin", "stats", "--json"]).arg(dir);
    let rows: serde_json::Value =
        serde_json::from_str(&succeeds(&mut stats)).expect("it prints JSON");
    let rows = rows.as_array().expect("a list").iter();
    rows.filter(|row| {
        row["stage"]
            .as_str()
            .is_some_and(|at| at.starts_with("filters."))
    })
    .map(|row| row["calls"].as_u64().expect("a number"))
    .collect()
}

#[test]
fn told_to_end_a_run_records_what_is_in_flight_and_says_so_with_its_exit_code() {
    let bench = bench();
    let dir = bench.dir("run");
    let mut child = bench.start(&dir);
    until(&mut child, || bench.server.count() >= 2);
    send("-TERM", &child);
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(143));
    let open = query(&dir, "SELECT count(*) FROM attempts WHERE state = 'sent'");
    assert_eq!(open, 0, "a request was left open");
    // Whatever was judged until then is counted.
    let judged = query(&dir, "SELECT count(*) FROM verdicts WHERE filter = 0");
    let counted = calls(&dir).first().copied().unwrap_or(0);
    assert_eq!(
        judged > 0,
        counted > 0,
        "{judged} verdicts, {counted} calls"
    );
}

#[test]
fn a_kill_loses_little_of_what_plugins_used() {
    let bench = bench();
    let dir = bench.dir("run");
    let mut child = bench.start(&dir);
    let counted = || {
        let ledger = rusqlite::Connection::open(dir.join("ledger.sqlite")).ok()?;
        let used = ledger.query_row("SELECT count(*) FROM plugin_use_", [], |row| row.get(0));
        used.ok().filter(|used: &i64| *used == 3)
    };
    // Generator and filters, while the run goes on.
    until(&mut child, || counted().is_some());
    child.kill().expect("it runs");
    let status = child.wait().expect("it ends");
    assert_eq!(status.signal(), Some(9));
    let calls = calls(&dir);
    assert_eq!(calls.len(), 2);
    assert!(calls.iter().all(|calls| *calls > 0), "{calls:?}");
}

/// Runs a command whose standard output nobody reads; gives its exit code and its messages.
fn unread(command: &mut Command) -> (Option<i32>, String) {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    // Long before it has anything to say.
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

#[test]
fn a_command_that_nobody_reads_ends_quietly() {
    let bench = Bench::new(alpaca_teacher(), &Recipe::default());
    let manifest = bench.manifest();
    let record = "{\"instruction\": \"Name a colour.\", \"output\": \"Blue.\"}\n";
    let records = bench.folder.path().join("records.jsonl");
    std::fs::write(&records, record.repeat(300)).expect("the folder is writable");
    for arguments in [
        vec!["check".as_ref(), manifest.as_os_str()],
        vec!["plan".as_ref(), manifest.as_os_str()],
        vec![
            "plugin".as_ref(),
            "run".as_ref(),
            "alpaca-heuristics".as_ref(),
            records.as_os_str(),
        ],
    ] {
        let mut command = pacos();
        command.args(&arguments);
        let (code, said) = unread(&mut command);
        assert_eq!((code, said.as_str()), (Some(141), ""), "{arguments:?}");
    }
}

#[test]
fn where_nobody_reads_messages_the_work_is_done_all_the_same() {
    let bench = Bench::new(alpaca_teacher(), &Recipe::default());
    let mut child = bench
        .run(&bench.dir("run"))
        .args(["--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    drop(child.stderr.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", output.status);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it prints JSON");
    assert_eq!(told["complete"], true);
}
