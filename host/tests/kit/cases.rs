//! Test cases of plugins: what passes, what is told of those that fail.

use std::io::Write;

use pacos::{
    kit::{CasesReport, run_cases},
    manifest::{Plugin, PluginSource},
};

use crate::{bundled, component};

/// Runs cases; an error is told with `FILE` for the file's name.
async fn run(plugin: &Plugin, cases: &str) -> Result<CasesReport, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(cases.as_bytes()).unwrap();
    let path = file.path().display().to_string();
    run_cases(plugin, file.path())
        .await
        .map_err(|error| error.to_string().replace(&path, "FILE"))
}

/// What differs in the only case.
async fn differences(plugin: &Plugin, cases: &str) -> Vec<String> {
    let report = run(plugin, cases).await.unwrap();
    assert_eq!(report.passed, 0);
    assert_eq!(report.failed.len(), 1);
    report.failed[0].differences.clone()
}

#[tokio::test]
async fn a_filters_cases() {
    let report = run(
        &bundled("alpaca-heuristics"),
        r#"
[[case]]
name = "short instructions are dropped"
input = [
    { instruction = "Hi", output = "Hello." },
    { instruction = "Name three rivers of Italy.", input = "<noinput>", output = "Po, Arno, Tiber." },
    { messages = [{ role = "user", content = "Name a colour, please." }, { role = "assistant", content = "Blue" }] },
]
expect = [
    { decision = "drop", code = "too-short", scores = { words = 1 } },
    { decision = "edit", payload = { input = "" } },
    { decision = "keep" },
]

[[case]]
name = "thresholds are kept"
config = { min_words = 1 }
input = [{ instruction = "Greet", output = "Hello." }]
expect = [{ decision = "keep", code = "kept" }]

[[case]]
name = "nonsense is refused"
config = { min_words = 9, max_words = 8 }
diagnostics = [{ severity = "error", path = "min_words" }]
"#,
    )
    .await
    .unwrap();
    assert_eq!(
        report,
        CasesReport {
            passed: 3,
            failed: vec![]
        }
    );
}

#[tokio::test]
async fn a_stateful_filters_seeds_and_neighbours() {
    let report = run(
        &bundled("rouge-l"),
        r#"
[[case]]
name = "copies go"
seeds = [{ instruction = "Name three rivers of Italy.", output = "Po" }]
input = [
    { instruction = "Sort these words by length.", output = "a bb" },
    { instruction = "Sort these words by their length.", output = "a bb" },
    { instruction = "Name three rivers of Italy!", output = "Arno" },
]
expect = [
    { decision = "keep" },
    { decision = "drop", scores = { rouge_l = 0.90909090909 }, nearest = { unit = 0, n = 0 } },
    { decision = "drop", nearest = { seed = 0, score = 1 } },
]
"#,
    )
    .await
    .unwrap();
    assert!(report.failed.is_empty(), "{report:?}");
}

#[tokio::test]
async fn a_generators_cases() {
    let report = run(
        &bundled("self-instruct"),
        r#"
[[case]]
name = "a good task and a cut one"
config = { demonstrations = 1 }
seeds = [{ instruction = "Name a colour.", output = "Blue" }]
replies = [{ text = '{"tasks":[{"instruction":"Name a river.","input":"","output":"Po."},{"instruction":"Cut', finish_reason = "length" }]
input = [{ unit = 0 }]
expect = [{ candidates = [{ instruction = "Name a river.", output = "Po.", parents = [{ seed = 0 }] }], rejects = [{ code = "cut-by-length", place = { ordinal = 0 } }], requests = 1 }]

[[case]]
name = "a teacher that does not answer"
config = { demonstrations = 0 }
replies = [{ error = "no-answer", message = "gone" }]
input = [{ unit = 3 }]
expect = [{ error = "no-answer" }]
"#,
    )
    .await
    .unwrap();
    assert!(report.failed.is_empty(), "{report:?}");
}

#[tokio::test]
async fn an_evaluators_cases() {
    let report = run(
        &bundled("pairwise-judge"),
        r#"
[[case]]
name = "the same winner in both orders"
config = { pairs = [["student", "student.base"]], calibration = false }
replies = ['{"winner": "A"}', '{"winner": "B"}', "[[A]]", "[[A]]"]
input = [
    { instruction = "Name a river.", output = "Po", answers = { student = "Arno", "student.base" = "no" } },
    { instruction = "Name a hill.", output = "Uetliberg", answers = { student = "Hill", "student.base" = "Mont" } },
]
expect = [
    [{ first = "student", outcome = "first", flipped = false }],
    [{ outcome = "tie", flipped = true }],
]
metrics = [{ name = "win_rate", value = 75, n = 2 }, { name = "ties", value = 1 }]
"#,
    )
    .await
    .unwrap();
    assert!(report.failed.is_empty(), "{report:?}");
}

#[tokio::test]
async fn what_differs_is_told_input_by_input() {
    let case = r#"
[[case]]
name = "wrong hopes"
replies = ["never asked for"]
input = [{ instruction = "Name three rivers of Italy.", output = "Po" }, { instruction = "Name a hill near here.", output = "Alp" }]
expect = [{ decision = "keep" }, { decision = "drop", code = "too-steep", scores = { words = 4 } }]
"#;
    assert_eq!(
        differences(&bundled("alpaca-heuristics"), case).await,
        [
            r#"input 2: expected decision "drop", got "keep""#,
            r#"input 2: expected code "too-steep", got "kept""#,
            "input 2: expected scores.words 4, got 5.0",
            "replies: the last one was not asked for",
        ]
    );
}

#[tokio::test]
async fn a_record_that_breaks_the_plugin_does_not_hide_the_others() {
    let hostile = Plugin::alone(PluginSource::File(component("hostile")));
    let case = r#"
[[case]]
name = "poison"
config = { crime = "poison" }
input = [{ instruction = "one two three", output = "" }, { instruction = "POISON", output = "" }, { instruction = "hi", output = "" }]
expect = [{ decision = "keep" }, { decision = "keep" }, { decision = "keep" }]
"#;
    let found = differences(&hostile, case).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("input 2: expected an answer, got an error: it broke: ")
            && found[0].contains("poisoned by `POISON`"),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_configuration_that_is_refused_fails_its_case() {
    let case = r#"
[[case]]
name = "misspelt"
config = { min_word = 1 }
input = [{ instruction = "Hi", output = "" }]
expect = [{ decision = "keep" }]
"#;
    let found = differences(&bundled("alpaca-heuristics"), case).await;
    assert!(found[0].contains("unknown field `min_word`"), "{found:?}");
}

#[tokio::test]
async fn mistakes_in_the_file_name_their_line() {
    let filter = bundled("alpaca-heuristics");
    let input = "input = [{ instruction = \"x\", output = \"y\" }]";
    for (cases, error) in [
        ("", "FILE:1: no [[case]] in it".to_owned()),
        (
            "[[case]]\nname = \"a\"\nexpected = []\n",
            "FILE:3: unknown field `expected`, expected one of `name`, `config`, `seeds`, `replies`, `input`, `expect`, `metrics`, `diagnostics`".into(),
        ),
        (
            "[[case]]\nname = \"a\"\nconfig = []\n",
            "FILE:3: invalid type: sequence, expected a map".into(),
        ),
        (
            "\n[[case]]\nname = \"a\"\n",
            "FILE:2: case \"a\" needs `input` and `expect`, or `diagnostics`".into(),
        ),
        (
            &format!("[[case]]\nname = \"a\"\n{input}\nexpect = [\n  {{ decison = \"keep\" }}]\n"),
            "FILE:5: expect 1: unknown key `decison`, expected one of decision, code, message, scores, nearest, payload".into(),
        ),
        (
            &format!("[[case]]\nname = \"a\"\n{input}\nexpect = [{{ decision = \"kept\" }}]\n"),
            "FILE:4: expect 1: decision is \"kept\", expected one of keep, drop, edit".into(),
        ),
        (
            "[[case]]\nname = \"a\"\ninput = [{ instruction = \"x\" }]\nexpect = [{}]\n",
            "FILE:3: input 1: expected `instruction` and `output`, or `messages`; an empty text is written \"\"".into(),
        ),
        (
            &format!("[[case]]\nname = \"a\"\n{input}\nexpect = []\n"),
            "FILE:1: case \"a\" has 1 of `input` and 0 of `expect`: one is expected for each".into(),
        ),
    ] {
        assert_eq!(run(&filter, cases).await.unwrap_err(), error);
    }
}
