use std::{fs, path::Path};

use serde_json::json;

use super::*;
use crate::{dataset::tests::small_run, ledger::RunDir};

const HOSTILE: &str =
    "</td><script>alert(1)</script><img src=x onerror=alert(2)> \" onload='x' {{ 7 * 7 }}";

/// A run in which every section has something to say, and everybody's texts are hostile.
async fn full_run(dir: &Path) -> (RunDir, Ledger) {
    let (run_dir, ledger) = small_run(dir).await;
    let about = json!({
        "recipe": "small",
        "license": "CC-BY-NC-4.0",
        "seeds": "2 tasks",
        "models": [
            {"name": "big", "roles": ["teacher", "judge"], "provider": "openai", "model": "teacher-4",
             "identity": "one", "terms": format!("no competing models {HOSTILE}")},
            {"name": "small", "roles": ["student"], "provider": "local", "model": "llama",
             "identity": "two", "terms": null},
        ],
        "plugins": [
            {"stage": "generator", "title": "self-instruct 0.1.0", "sha256": "11".repeat(32)},
            {"stage": "evaluators.0", "title": "pairwise-judge 0.1.0", "sha256": "33".repeat(32)},
        ],
        "manifest": "[dataset]\ntarget = 4\n[trainer]\n[evaluation]\n[[evaluators]]\nplugin = 'x'\n",
    });
    let tasks = json!([
        {"instruction": HOSTILE, "input": "", "output": "Reference."},
        {"instruction": "Count.", "input": "to two", "output": "One, two."},
    ]);
    ledger.set_meta("about", about.to_string()).await.unwrap();
    ledger
        .set_meta("evaluation", tasks.to_string())
        .await
        .unwrap();
    let pair = |name: &str, value: f64, error: Option<f64>, notes: &[(&str, &str)]| {
        let attributes = [
            ("first", "student"),
            ("second", "student.base"),
            ("judge", "model"),
        ];
        let attributes: Vec<_> = attributes
            .iter()
            .chain(notes)
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect();
        json!({"name": name, "value": value, "standard_error": error, "n": 2, "attributes": attributes})
            .to_string()
    };
    let judge = json!([{"name": "judge", "value": "model"}]);
    let metrics = [
        pair("win_rate", 75.0, Some(10.0), &[("verdict", "first")]),
        pair("flip_rate", 50.0, None, &[]),
        pair("ties", 1.0, None, &[]),
        json!({"name": "judge_usable", "value": 1.0, "standard_error": null, "n": 4, "attributes": judge})
            .to_string(),
        json!({"name": HOSTILE, "value": 3.25, "standard_error": null, "n": 4, "attributes": []})
            .to_string(),
    ];
    let judgement = json!({"item": 0, "first": "student", "second": "student.base", "outcome": "Tie",
                           "flipped": true, "scores": [], "attributes": []});
    ledger
        .write("writing what later stages would", move |c| {
            c.execute_batch(
                "INSERT INTO stage_ VALUES ('generate', '', 1, 12.5), ('train', '', 1, 4.0),
                     ('evaluate student', '', 1, 1.0), ('evaluators.0', '', 1, 1.0);
                 INSERT INTO step_ VALUES (1, 2.5, 1e-5, 1.0, 900, 300, 1.5), (2, 2.0, 1e-5, 1.0, 900, 100, 1.5);
                 INSERT INTO held_out_ VALUES (0, 2.75), (2, 2.25);
                 INSERT INTO likelihood_ VALUES (0, 'student.base', 'alpaca', -10.0, 4),
                     (1, 'student.base', 'alpaca', -12.0, 6), (0, 'student', 'alpaca', -7.0, 4),
                     (1, 'student', 'alpaca', -10.0, 6), (0, 'student.base', 'chat', -9.0, 4),
                     (1, 'student.base', 'chat', -9.5, 6);
                 INSERT INTO item_ VALUES (0, 0, NULL, NULL, 1.0), (0, 1, 'budget', 'no money', 1.0);",
            )?;
            for (item, model, text, error) in [
                (0, "student", Some(HOSTILE), None),
                (0, "student.base", Some("Base."), None),
                (0, "teacher", None, Some("timeout")),
                (1, "student", Some("One two."), None),
            ] {
                c.execute(
                    "INSERT INTO answer_ VALUES (?1, ?2, ?3, 'Length', ?4, ?4)",
                    (item, model, text, error),
                )?;
            }
            c.execute("INSERT INTO judgement_ VALUES (0, 0, 0, ?1)", [judgement.to_string()])?;
            for (n, metric) in metrics.iter().enumerate() {
                c.execute("INSERT INTO metric_ VALUES (0, ?1, ?2)", (n as i64, metric))?;
            }
            c.execute("UPDATE verdict_ SET message = ?1 WHERE decision = 'drop'", [HOSTILE])?;
            c.execute("UPDATE candidate_ SET payload = json_set(payload, '$.Task.output', ?1)
                       WHERE unit = 0 AND n = 1", [HOSTILE])?;
            c.execute("UPDATE reject_ SET code = ?1", [HOSTILE])?;
            c.execute("UPDATE unit_ SET error = ?1 WHERE error IS NOT NULL", [HOSTILE])?;
            Ok(())
        })
        .await
        .unwrap();
    (run_dir, ledger)
}

#[tokio::test]
async fn the_report_says_what_is_in_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let (_run, ledger) = full_run(&dir.path().join("run")).await;
    let report = Report::read(&ledger).unwrap();

    let funnel = &report.funnel;
    assert_eq!(
        (funnel.candidates, funnel.rejected, funnel.examples),
        (8, 1, 4)
    );
    assert_eq!((funnel.units, funnel.surplus, funnel.failed()), (4, 1, 1));
    let steps: Vec<_> = funnel
        .steps
        .iter()
        .map(|step| (step.seen, step.kept, step.edited))
        .collect();
    assert_eq!(steps, [(8, 6, 1), (6, 4, 0)]);
    let passage = funnel.rejects[0].samples[0].passage.as_ref().unwrap();
    assert_eq!(passage.text, "???");
    let similar = &funnel.steps[1].reasons[0];
    assert_eq!(
        (similar.code.text.as_str(), similar.count),
        ("too-similar", 2)
    );
    let nearest: Vec<_> = similar
        .samples
        .iter()
        .map(|sample| sample.nearest.as_ref().unwrap())
        .map(|nearest| {
            (
                nearest.id.as_str(),
                nearest.score,
                nearest.instruction.text.as_str(),
            )
        })
        .collect();
    // The neighbour's text is what the filter saw of it: an earlier filter had edited it.
    assert_eq!(
        nearest,
        [
            ("seed-1", 0.75, "Sort these words."),
            ("2-0", 0.8, "Add two numbers.")
        ]
    );

    let similarity = &report.similarity[0];
    assert_eq!((similarity.kept, similarity.dropped), (1, 2));
    assert_eq!(similarity.buckets.len(), 20);
    assert_eq!(similarity.buckets[10].kept, 1); // 0.5, the lower end of its bucket
    assert_eq!(
        (
            similarity.buckets[15].dropped,
            similarity.buckets[16].dropped
        ),
        (1, 1)
    );

    let lengths = report.lengths.as_ref().unwrap();
    assert_eq!(
        (lengths.tasks, lengths.conversations, lengths.with_input),
        (2, 2, 1)
    );
    assert_eq!(lengths.fields[0].longest, 3); // "Name a river.", "Add two numbers."

    let training = report.training.as_ref().unwrap();
    assert_eq!((training.steps, training.tokens), (2, 1800));
    assert_eq!(training.tokens_per_second(), Some(600.0));
    assert_eq!(
        training
            .held_out
            .iter()
            .map(|at| at.step)
            .collect::<Vec<_>>(),
        [0, 2]
    );

    // By hand: gains of 3 over 4 tokens and 2 over 6; residuals of 3 - 2 = 1 and 2 - 3 = -1.
    let gain = report.evaluation.gain("alpaca").unwrap().per_token;
    assert!((gain.value - 0.5).abs() < 1e-12);
    assert!((gain.standard_error.unwrap() - 0.2).abs() < 1e-12);

    let evaluator = &report.evaluation.evaluators[0];
    assert_eq!(evaluator.comparisons[0].win_rate.unwrap().value, 75.0);
    assert_eq!((evaluator.items, evaluator.failed[0].items), (2, 1));
    assert_eq!(evaluator.other.len(), 1);

    let spending = &report.spending;
    assert_eq!(spending.seconds, 18.5);
    let generate = &spending.stages[0];
    assert_eq!(generate.stage, "generate");
    let unknown: u64 = spending.rows.iter().map(|row| row.unknown).sum();
    assert_eq!(unknown, 1);
    assert_eq!(report.headline.missing, Vec::<String>::new());
}

#[tokio::test]
async fn what_others_wrote_stays_text() {
    let dir = tempfile::tempdir().unwrap();
    let (_run, ledger) = full_run(&dir.path().join("run")).await;
    let html = Report::read(&ledger).unwrap().html();
    // It is there, in many places, and in none of them is it more than text.
    assert!(html.matches("alert(1)").count() >= 8);
    for markup in ["<script", "<img", "onload='x'", "</td></script"] {
        assert!(!html.contains(markup), "{markup}");
    }
    assert!(html.contains("{{ 7 * 7 }}"), "a template in a text was run");
    assert!(html.contains("600 tokens a second"));
}

#[tokio::test]
async fn the_page_loads_nothing_and_is_the_same_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let (run, ledger) = full_run(&dir.path().join("run")).await;
    let path = write(&ledger, run.path()).unwrap();
    assert_eq!(path, run.path().join("report.html"));
    let first = fs::read(&path).unwrap();
    write(&ledger, run.path()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), first);
    let html = String::from_utf8(first).unwrap();
    for outside in ["http:", "https:", "url(", "@import", " src=", "<link"] {
        let ours = html.replace("&lt;img src=x", "");
        assert!(!ours.contains(outside), "{outside}");
    }
    for id in [
        "funnel",
        "distributions",
        "training",
        "evaluation",
        "answers",
        "cost",
        "origin",
    ] {
        assert!(html.contains(&format!("href=\"#{id}\"")), "{id}");
        assert!(html.contains(&format!("<section id=\"{id}\"")), "{id}");
    }
    // Nothing of the temporary file is left.
    let parts = fs::read_dir(run.path()).unwrap();
    let left =
        parts.filter(|entry| entry.as_ref().unwrap().path().extension() == Some("part".as_ref()));
    assert_eq!(left.count(), 0);
}

#[tokio::test]
async fn every_view_that_the_page_names_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let (_run, ledger) = full_run(&dir.path().join("run")).await;
    let html = Report::read(&ledger).unwrap().html();
    let mut named: Vec<&str> = html
        .split("view <code>")
        .skip(1)
        .filter_map(|rest| rest.split_once("</code>").map(|(name, _)| name))
        .collect();
    named.sort_unstable();
    named.dedup();
    assert!(named.len() >= 15, "{named:?}");
    for view in named {
        let sql = format!("SELECT count(*) FROM {view}");
        ledger
            .read("counting", |c| c.query_row(&sql, [], |_| Ok(())))
            .unwrap();
    }
}

#[tokio::test]
async fn a_run_that_has_just_begun_has_a_page_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::open(&dir.path().join("run")).unwrap();
    let ledger = run.ledger().unwrap();
    let html = Report::read(&ledger).unwrap().html();
    assert!(html.contains("Nothing has been generated yet."));
    assert!(html.contains("This run is not finished."));
    for absent in [
        "has not ended a unit yet",
        "There are no examples yet.",
        "No step has been made yet.",
        "No reference answer has been scored yet.",
        "No evaluator has begun yet.",
        "No model has answered an evaluation task yet.",
        "No request has been sent.",
    ] {
        assert!(html.contains(absent), "{absent}");
    }
    assert!(!html.contains("NaN") && !html.contains("<svg"));
}

#[tokio::test]
async fn what_is_still_to_come_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (_run, ledger) = full_run(&dir.path().join("run")).await;
    ledger
        .write("unfinishing", |c| {
            c.execute_batch(
                "DELETE FROM stage_ WHERE name <> 'generate'; DELETE FROM example_ WHERE position = 3;
                 UPDATE stage_ SET finished = 0;",
            )
        })
        .await
        .unwrap();
    let headline = Report::read(&ledger).unwrap().headline;
    assert_eq!(
        headline.missing,
        [
            "generation: 3 of 4 examples",
            "training",
            "evaluation: log-likelihoods and answers",
            "evaluator 0"
        ]
    );
    assert!(
        headline.sentences[0].starts_with("So far 3 of the 4 examples"),
        "{headline:?}"
    );
}

#[tokio::test]
async fn a_student_that_learns_from_itself_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let (_run, ledger) = full_run(&dir.path().join("run")).await;
    assert_eq!(
        Report::read(&ledger).unwrap().origin.learns_from_itself(),
        None
    );
    for models in [
        // One entry of the manifest with both roles; two entries that are one model.
        json!([{"name": "tiny", "roles": ["teacher", "student"], "provider": "local",
                "model": "smollm2", "identity": "one", "terms": null}]),
        json!([{"name": "a", "roles": ["teacher"], "provider": "local", "model": "smollm2",
                "identity": "one", "terms": null},
               {"name": "b", "roles": ["student", "student.base"], "provider": "local",
                "model": "smollm2", "identity": "one", "terms": null}]),
    ] {
        let about = json!({"recipe": "small", "models": models, "plugins": []});
        ledger.set_meta("about", about.to_string()).await.unwrap();
        let report = Report::read(&ledger).unwrap();
        assert!(report.headline.cautions[0].contains("the student learns from itself"));
        assert!(report.html().contains("the student learns from itself"));
    }
}

#[tokio::test]
async fn an_unusable_judge_cannot_tell_and_shows_no_rate() {
    let dir = tempfile::tempdir().unwrap();
    let (_run, ledger) = full_run(&dir.path().join("run")).await;
    ledger
        .write("failing the judge", |c| {
            c.execute(
                "UPDATE metric_ SET metric = json_set(metric, '$.value', CASE json_extract(metric, '$.name')
                     WHEN 'win_rate' THEN 51.75 ELSE 0.0 END)
                 WHERE json_extract(metric, '$.name') IN ('win_rate', 'judge_usable')",
                [],
            )
            .map(drop)
        })
        .await
        .unwrap();
    let report = Report::read(&ledger).unwrap();
    let html = report.html();
    assert!(html.contains("<strong>cannot tell</strong> good answers from spoilt ones"));
    assert!(!html.contains("51.7") && !html.contains("51.8"));
    let sentences = report.headline.sentences.join(" ");
    assert!(
        sentences
            .contains("Whether student answers better than student.base, the judge cannot tell."),
        "{sentences}"
    );
}

#[tokio::test]
async fn the_page_stays_small_whatever_plugins_make_up() {
    let dir = tempfile::tempdir().unwrap();
    let (_run, ledger) = full_run(&dir.path().join("run")).await;
    ledger
        .write("filling it", |c| {
            c.execute_batch(
                "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
                 INSERT INTO candidate_ SELECT 2, 100 + i,
                     json_object('Task', json_object('instruction', printf('%.*c', 5000, 'w'),
                                                     'input', '', 'output', CAST(i AS TEXT))), '[]', '[]', NULL FROM n;
                 INSERT INTO verdict_ SELECT unit, n, 0, 'alpaca-heuristics', 'drop', 'code-' || (n % 5000),
                     'm', '[]', NULL, NULL FROM candidate_ WHERE n >= 100;
                 INSERT INTO example_ SELECT n, unit, n, payload FROM candidate_ WHERE n >= 100;
                 WITH RECURSIVE n(i) AS (SELECT 3 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
                 INSERT INTO step_ SELECT i, 2.0, 1e-5, 1.0, 900, 300, 0.5 FROM n;",
            )
        })
        .await
        .unwrap();
    let report = Report::read(&ledger).unwrap();
    let step = &report.funnel.steps[0];
    assert_eq!(step.seen, 20_001 + 8);
    let listed: u64 = step.reasons.iter().map(|reason| reason.count).sum();
    assert_eq!(
        listed + step.other_count,
        step.seen - (step.kept - step.edited)
    );
    assert!(report.training.as_ref().unwrap().curve.len() <= 400);
    let size = report.html().len();
    assert!(size < 500_000, "{size} bytes");
}
