//! `pacos plugin run`, `check` and `bench`, as a person uses them.

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::{component, library};

/// Runs `pacos plugin` with something on its standard input.
fn pacos(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pacos"));
    let mut child = command
        .arg("plugin")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that takes no input may be gone by now.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    let text = stdout(output);
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn run_gives_a_verdict_for_every_line() {
    let output = pacos(
        &[
            "run",
            "alpaca-heuristics",
            "--config",
            "min_words = 2",
            "--set",
            "max_words=4",
        ],
        "{\"instruction\": \"Hi\", \"output\": \"Hello.\"}\n\n\
         {\"instruction\": \"Name three rivers.\", \"output\": \"Po\", \"id\": \"x-1\"}\n\
         {\"messages\": [{\"role\": \"user\", \"content\": \"Name all rivers of the world.\"}]}",
    );
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let lines = lines(&output);
    assert_eq!(
        lines[0],
        json!({
            "line": 1, "decision": "drop", "code": "too-short",
            "message": lines[0]["message"], "nearest": null, "payload": null,
            "scores": { "words": 1.0, "input_words": 0.0, "output_words": 1.0 }
        })
    );
    let of = |key: &str| {
        lines
            .iter()
            .map(|line| line[key].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(of("line"), [1, 3, 4]);
    assert_eq!(of("decision"), ["drop", "keep", "drop"]);
}

#[test]
fn run_goes_on_after_a_bad_line_and_says_so() {
    let output = pacos(
        &["run", "rouge-l"],
        "{\"instruction\": \"Name three rivers.\", \"output\": \"Po\"}\n\
         {\"instruction\": \"Name\n\
         {\"instruction\": \"Name\", \"response\": \"Po\"}\n\
         {\"instruction\": \"Name three rivers!\", \"output\": \"Po\"}\n",
    );
    assert_eq!(code(&output), 2);
    let lines = lines(&output);
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[1]["error"], "bad-line");
    assert_eq!(lines[3]["decision"], "drop");
    assert_eq!(
        stderr(&output),
        "standard input:2: not JSON: EOF while parsing a string at column 21\n\
         standard input:3: expected `instruction` and `output`, or `messages`; an empty text is written \"\"\n\
         error: 2 lines could not be read; the others went through\n"
    );
}

#[test]
fn run_puts_aside_a_record_that_breaks_the_plugin() {
    let hostile = component("hostile").display().to_string();
    let record = |text: &str| format!("{{\"instruction\": \"{text}\", \"output\": \"\"}}\n");
    let input: String = ["one two three", "two", "POISON", "four", "five"]
        .map(record)
        .concat();
    let output = pacos(&["run", &hostile, "--set", "crime=poison"], &input);
    assert_eq!(code(&output), 4);
    let lines = lines(&output);
    assert_eq!(lines.len(), 5);
    assert_eq!(lines[2]["error"], "trap");
    for line in [0, 1, 3, 4] {
        assert!(lines[line].get("decision").is_some(), "{lines:?}");
    }
    assert!(
        stderr(&output).ends_with("failed 1 time; the lines with \"error\" say how\n"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn run_shows_what_a_generator_reads_in_replies() {
    let folder = tempfile::tempdir().unwrap();
    let seeds = file(
        folder.path(),
        "seeds.jsonl",
        "{\"instruction\": \"Name a colour.\", \"input\": \"\", \"output\": \"Blue\"}\n",
    );
    let replies = file(
        folder.path(),
        "replies.jsonl",
        "{\"text\": \"{\\\"instruction\\\": \\\"Name a river.\\\", \\\"output\\\": \\\"Po\\\"}\"}\n\"nothing here\"\n",
    );
    let arguments = [
        "run",
        "self-instruct",
        "--set",
        "demonstrations=1",
        "--units",
        "3",
    ];
    let with = [&arguments[..], &["--seeds", &seeds, "--replies", &replies]].concat();
    let output = pacos(&with, "");
    // The third unit has no reply left.
    assert_eq!(code(&output), 4);
    let lines = lines(&output);
    assert_eq!(lines[0]["candidates"][0]["instruction"], "Name a river.");
    assert_eq!(lines[0]["requests"], 1);
    assert_eq!(lines[1]["rejects"][0]["code"], "no-json");
    assert_eq!(lines[2]["error"], "script-ended");

    let bad = file(folder.path(), "bad.jsonl", "\"fine\"\n{\"txt\": \"\"}\n");
    let output = pacos(&["run", "self-instruct", "--replies", &bad], "");
    assert_eq!(code(&output), 2);
    assert_eq!(
        stderr(&output),
        format!("error: {bad}:2: a reply has one of `text`, `status` and `error`\n")
    );
}

#[test]
fn run_ends_an_evaluation_with_its_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let replies = file(folder.path(), "replies.jsonl", "\"A\"\n\"B\"\n");
    let output = pacos(
        &[
            "run",
            "pairwise-judge",
            "--config",
            "pairs = [[\"student\", \"student.base\"]]\ncalibration = false",
            "--replies",
            &replies,
        ],
        "{\"instruction\": \"Name a river.\", \"output\": \"Po\", \"answers\": {\"student\": \"Arno\", \"student.base\": \"Rain\"}}\n",
    );
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let lines = lines(&output);
    assert_eq!(lines[0]["judgements"][0]["outcome"], "first");
    assert_eq!(lines[1]["metrics"][0]["name"], "win_rate");
    assert_eq!(lines[1]["metrics"][0]["value"], 100.0);
}

#[test]
fn a_library_runs_only_where_it_is_trusted() {
    let library = library("rouge-l").display().to_string();
    let record = "{\"instruction\": \"Name three rivers.\", \"output\": \"Po\"}\n";
    let output = pacos(&["run", &library], record);
    assert_eq!(code(&output), 4);
    assert!(
        stderr(&output).contains("--trust-native"),
        "{}",
        stderr(&output)
    );
    let output = pacos(&["run", &library, "--trust-native"], record);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(lines(&output)[0]["decision"], "keep");
}

#[test]
fn a_refused_configuration_is_told_with_its_key() {
    let output = pacos(&["run", "rouge-l", "--set", "threshold=2"], "");
    assert_eq!(code(&output), 2);
    assert_eq!(
        stderr(&output),
        "error: rouge-l 0.1.0: config `threshold`: expected 0 to 1, found 2: write threshold = 0.7\n"
    );
}

#[test]
fn check_names_every_check_and_fails_with_the_plugin() {
    let output = pacos(&["check", "rouge-l"], "");
    assert_eq!(code(&output), 0, "{}", stdout(&output));
    let text = stdout(&output);
    assert!(
        text.starts_with("rouge-l 0.1.0, pacos:plugin/filter@0.1.1\n"),
        "{text}"
    );
    assert!(text.contains("passed  filter-restore "), "{text}");
    assert!(text.contains("skipped filter-order "), "{text}");
    assert!(text.ends_with(" passed, 0 failed\n"), "{text}");

    let hostile = component("hostile").display().to_string();
    let output = pacos(
        &["check", &hostile, "--set", "crime=infinite-score", "--json"],
        "",
    );
    assert_eq!(code(&output), 4);
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let failed = checks
        .iter()
        .find(|check| check["outcome"] == "failed")
        .unwrap();
    assert_eq!(failed["check"], "filter-any-record");
    assert_eq!(
        failed["detail"],
        "empty as instruction: its answer is not valid: score `words` is inf"
    );
}

#[test]
fn bench_measures_two_carriers_of_one_plugin_in_turn() {
    let library = library("alpaca-heuristics").display().to_string();
    let arguments = ["--records", "300", "--rounds", "3", "--trust-native"];
    let compared = ["bench", "alpaca-heuristics", "--compare", &library];
    let output = pacos(&[&compared[..], &arguments[..], &["--json"]].concat(), "");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report["plugins"].as_array().unwrap().len(), 2);
    let number = |value: &Value| value.as_f64().unwrap();
    let record = &report["plugins"][0]["record_seconds"];
    assert!(number(&record["lower"]) > 0.0);
    assert!(number(&record["lower"]) <= number(&record["median"]));
    assert!(number(&record["median"]) <= number(&record["upper"]));
    assert!(number(&report["ratio"]["median"]) > 0.0);

    let output = pacos(&[&compared[..], &arguments[..]].concat(), "");
    let text = stdout(&output);
    assert!(
        text.contains("alpaca-heuristics 0.1.0, component"),
        "{text}"
    );
    assert!(
        text.contains("alpaca-heuristics 0.1.0, dynamic library"),
        "{text}"
    );
    assert!(
        text.contains("times as long as alpaca-heuristics 0.1.0 [alpaca-heuristics (bundled)]"),
        "{text}"
    );

    let output = pacos(&["bench", "rouge-l", "--compare", "self-instruct"], "");
    assert_eq!(code(&output), 2);
    assert_eq!(
        stderr(&output),
        "error: rouge-l 0.1.0 is a filter, and self-instruct 0.1.0 a generator: the same work is wanted of both\n"
    );
}

#[test]
fn a_loop_without_end_takes_an_author_as_long_as_they_say() {
    let file = component("hostile").display().to_string();
    let begun = std::time::Instant::now();
    let output = pacos(
        &[
            "run",
            &file,
            "--set",
            "crime=endless-loop",
            "--compute-seconds",
            "0.2",
        ],
        "{\"instruction\": \"Name three rivers.\", \"output\": \"Po\"}\n",
    );
    assert_eq!(code(&output), 4, "{}", stderr(&output));
    let said = &lines(&output)[0];
    assert_eq!(said["error"], "timeout");
    assert_eq!(
        said["message"],
        "it computed for more than 0.2 s without an answer, nor, tried once more, in 0.8 s; \
         its limit is limits.compute_seconds"
    );
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    for wrong in ["0", "-1", "soon"] {
        let output = pacos(&["run", &file, "--compute-seconds", wrong], "");
        assert_eq!(code(&output), 2, "{wrong}");
    }
}

#[test]
fn a_library_is_inspected_by_those_who_trust_it() {
    let file = library("keep-all").display().to_string();
    let refused = pacos(&["inspect", &file], "");
    assert_eq!(code(&refused), 4);
    assert!(
        stderr(&refused).contains("--trust-native"),
        "{}",
        stderr(&refused)
    );
    let trusted = pacos(&["inspect", "--json", "--trust-native", &file], "");
    assert_eq!(code(&trusted), 0, "{}", stderr(&trusted));
    let (of_library, of_component) = (&lines(&trusted)[0], {
        let file = component("keep-all").display().to_string();
        lines(&pacos(&["inspect", "--json", &file], "")).remove(0)
    });
    for key in ["name", "version", "contract", "config_schema"] {
        assert_eq!(of_library[key], of_component[key], "{key}");
    }
}

/// What `inspect` says of a component, with a cache of its own.
fn inspected(cache: &Path, file: &Path) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pacos"));
    command.env("PACOS_CACHE", cache);
    command.args(["plugin", "inspect", "--json"]).arg(file);
    let output = command.output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    serde_json::from_str(&stdout(&output)).unwrap()
}

/// A file that has not changed is not read again; whatever changes in it is seen.
#[cfg(unix)]
#[test]
fn a_changed_file_is_another_plugin_however_like_the_old_one_it_looks() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, file) = (
        folder.path().join("cache"),
        folder.path().join("plugin.wasm"),
    );
    let bytes = std::fs::read(component("hostile-generator")).unwrap();
    std::fs::write(&file, &bytes).unwrap();
    // What has changed just now is never taken for known.
    let settle = || std::thread::sleep(std::time::Duration::from_millis(3200));
    settle();
    let first = inspected(&cache, &file);
    assert_eq!(first["name"], "hostile-generator");

    let known = || {
        let files = std::fs::read_dir(cache.join("components")).unwrap();
        let files = files.map(|file| file.unwrap().path());
        let mut known = files.filter(|file| file.extension() == Some("known".as_ref()));
        known.next().expect("the file is known")
    };
    let whole = std::fs::read_to_string(known()).unwrap();
    for damaged in [
        "",
        "{",
        &whole[..whole.len() / 2],
        &whole.replace("generator@", "g@"),
    ] {
        std::fs::write(known(), damaged).unwrap();
        assert_eq!(inspected(&cache, &file), first);
    }

    // Another name of the same length, at the same size and the same time of modification.
    let modified = std::fs::metadata(&file).unwrap().modified().unwrap();
    let mut other = bytes.clone();
    let name = b"hostile-generator";
    let places = (0..bytes.len() - name.len()).filter(|at| bytes[*at..].starts_with(name));
    for at in places {
        other[at..at + name.len()].copy_from_slice(b"hostile-generatos");
    }
    std::fs::write(&file, &other).unwrap();
    std::fs::File::options()
        .write(true)
        .open(&file)
        .and_then(|file| file.set_modified(modified))
        .unwrap();
    let second = inspected(&cache, &file);
    assert_eq!(second["name"], "hostile-generatos");
    assert_ne!(second["sha256"], first["sha256"]);

    // That it is not read again: it is believed to be what it is known as.
    settle();
    inspected(&cache, &file);
    let text = std::fs::read_to_string(known()).unwrap();
    let sha256 = |about: &Value| about["sha256"].as_str().unwrap().to_owned();
    std::fs::write(known(), text.replace(&sha256(&second), &sha256(&first))).unwrap();
    assert_eq!(inspected(&cache, &file)["name"], "hostile-generator");
}
