//! `docs/ledger.md` against a ledger: its queries run, its columns are the views' columns.

use std::collections::BTreeMap;

use rusqlite::types::Value;

use super::tests::small_run;
use crate::ledger::Ledger;

const DOC: &str = include_str!("../../../docs/ledger.md");

/// [`small_run`], trained and evaluated.
async fn ledger(dir: &tempfile::TempDir) -> Ledger {
    let (_run_dir, ledger) = small_run(&dir.path().join("run")).await;
    ledger
        .write("writing what later stages would", |c| {
            c.execute_batch(
                "INSERT INTO step_ VALUES (1, 2.5, 1e-5, 1.0, 900, 300, 0.5);
                 INSERT INTO held_out_ VALUES (0, 3.0), (1, 2.75);
                 INSERT INTO stage_ VALUES ('generate', '', 1, 10.0);
                 INSERT INTO meta_ VALUES ('about',
                   '{\"models\":[{\"name\":\"big\"}],\"plugins\":[{\"stage\":\"generator\"}]}'),
                   ('evaluation', '[{\"instruction\":\"Count.\",\"input\":\"\",\"output\":\"1\"}]');
                 INSERT INTO answer_ VALUES (0, 'student', '1', 'Stop', NULL, NULL);
                 INSERT INTO likelihood_ VALUES (0, 'student.base', 'alpaca', -10.0, 4),
                   (1, 'student.base', 'alpaca', -12.0, 6), (0, 'student', 'alpaca', -7.0, 4),
                   (1, 'student', 'alpaca', -10.0, 6);
                 INSERT INTO metric_ VALUES (0, 0,
                   '{\"name\":\"win_rate\",\"value\":0.5,\"standard_error\":0.1,\"n\":24,\"attributes\":[]}');",
            )
        })
        .await
        .unwrap();
    ledger
}

/// Rows of a query, each a column's name with its value.
fn rows(ledger: &Ledger, query: &str) -> Vec<BTreeMap<String, Value>> {
    ledger
        .read("a query of the documentation", |c| {
            // The `sqlite3` command has a square root; the SQLite in this program has none.
            let mut statement = c.prepare(&query.replace("sqrt(", "abs("))?;
            let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
            statement
                .query_map([], |r| {
                    (0..)
                        .zip(&names)
                        .map(|(i, name)| Ok((name.clone(), r.get(i)?)))
                        .collect()
                })?
                .collect()
        })
        .unwrap_or_else(|error| panic!("{error} in\n{query}"))
}

/// The query under the heading that contains `heading`.
fn query(heading: &str) -> &'static str {
    let (_, rest) = DOC
        .split_once(&format!("\n### {heading}"))
        .unwrap_or_else(|| panic!("no heading {heading:?}"));
    let (_, rest) = rest.split_once("\n```sql\n").unwrap();
    rest.split_once("```").unwrap().0
}

fn text(row: &BTreeMap<String, Value>, column: &str) -> String {
    match &row[column] {
        Value::Text(text) => text.clone(),
        other => panic!("{column} is {other:?}"),
    }
}

#[tokio::test]
async fn every_query_finds_something() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(&dir).await;
    let queries: Vec<&str> = DOC
        .split("\n```sql\n")
        .skip(1)
        .map(|rest| rest.split_once("```").unwrap().0)
        .collect();
    assert!(queries.len() >= 8, "{} queries", queries.len());
    for query in queries {
        assert!(!rows(&ledger, query).is_empty(), "nothing from\n{query}");
    }
}

#[tokio::test]
async fn a_drop_is_explained_with_the_text_of_its_neighbour() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(&dir).await;
    let why = rows(&ledger, query("Why is this candidate"));
    let last = why.last().unwrap();
    assert_eq!(text(last, "code"), "too-similar");
    assert_eq!(text(last, "nearest_instruction"), "Sort these words.");
    let repeated: Vec<_> = rows(&ledger, query("What was dropped as a repetition"))
        .iter()
        .map(|row| {
            ["candidate", "neighbour", "nearest_instruction"].map(|column| text(row, column))
        })
        .collect();
    assert_eq!(
        repeated,
        [
            ["2-1", "2-0", "Add two numbers."],
            ["0-2", "seed-1", "Sort these words."]
        ]
    );
}

#[tokio::test]
async fn places_point_at_the_bytes_that_they_name() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(&dir).await;
    let rejects = rows(&ledger, query("What could the generator not read"));
    assert_eq!(text(&rejects[0], "passage"), "???");
    let from = rows(&ledger, query("Which prompt and which reply"));
    assert_eq!(text(&from[0], "key"), "01".repeat(32));
}

#[tokio::test]
async fn units_tell_failure_from_surplus() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(&dir).await;
    let found = rows(
        &ledger,
        "SELECT unit || ' ' || candidates || ' ' || rejects || ' ' || accepted || ' ' || surplus
                || ' ' || coalesce(error_code, '') AS line FROM units ORDER BY unit",
    );
    let lines: Vec<String> = found.iter().map(|row| text(row, "line")).collect();
    assert_eq!(
        lines,
        [
            "0 3 1 1 0 ",
            "1 0 0 0 0 timeout",
            "2 5 0 3 0 ",
            "3 1 0 0 1 "
        ]
    );
}

#[tokio::test]
async fn every_view_is_documented_column_by_column() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(&dir).await;
    let views: Vec<String> = ledger
        .read("listing the views", |c| {
            c.prepare("SELECT name FROM sqlite_schema WHERE type = 'view' ORDER BY name")?
                .query_map([], |r| r.get(0))?
                .collect()
        })
        .unwrap();
    let (_, section) = DOC.split_once("\n## Views\n").unwrap();
    let mut documented = BTreeMap::new();
    for view in section.split("\n### ").skip(1) {
        let (name, text) = view.split_once('\n').unwrap();
        let columns: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("| `"))
            .flat_map(|line| line.split('|').nth(1).unwrap().split(','))
            .map(|column| column.trim().trim_matches('`'))
            .collect();
        documented.insert(name, columns);
    }
    assert_eq!(views, documented.keys().copied().collect::<Vec<_>>());
    for (view, columns) in documented {
        let found: Vec<String> = ledger
            .read("listing a view's columns", |c| {
                c.prepare("SELECT name FROM pragma_table_info(?1)")?
                    .query_map([view], |r| r.get(0))?
                    .collect()
            })
            .unwrap();
        assert_eq!(found, columns, "{view}");
    }
}
