use std::{collections::HashSet, fs, path::Path};

use ::parquet::{
    file::reader::{FileReader, SerializedFileReader},
    record::RowAccessor,
};
use pacos_plugin::{
    Attribute, CandidateId, Error, FinishReason, Message, Origin, Payload, Place, Proposal,
    Proposals, Reject, Reply, Task, Verdict,
};

use super::*;
use crate::ledger::{
    Ask, AttemptEnd, AttemptState, Charge, Consumed, RecordedOutcome, RequestKey, UnitRecord,
    VerdictRecord,
};

const TEACHER: &str = "{\"model\":\"teacher-4\"}";
const REPLY: &str = "1. Name a river. — The Wörnitz.\n2. ???";

fn task(instruction: &str, input: &str, output: &str) -> Payload {
    Payload::Task(Task::new(instruction, input, output))
}

fn proposal(payload: Payload) -> Proposal {
    Proposal {
        payload,
        attributes: Vec::new(),
        parents: Vec::new(),
        place: None,
    }
}

fn place(ordinal: u32, start: u32, end: u32) -> Option<Place> {
    Some(Place {
        ordinal,
        start,
        end,
    })
}

fn said(filter: u32, unit: u64, n: u32, verdict: Result<Verdict, Error>) -> VerdictRecord {
    VerdictRecord {
        filter,
        plugin: ["alpaca-heuristics", "rouge-l"][filter as usize].to_owned(),
        id: CandidateId { unit, n },
        verdict,
    }
}

/// Asks request `ordinal` of a unit; `state` is how its one attempt ended.
async fn request(ledger: &Ledger, unit: u64, ordinal: u32, state: AttemptState) {
    let key = RequestKey([u8::try_from(unit * 16).unwrap() + u8::try_from(ordinal).unwrap(); 32]);
    let ask = Ask {
        stage: "generator".into(),
        place: unit.to_string(),
        ordinal,
        key,
        model: "big".into(),
        identity: TEACHER.into(),
        body: "{\"request\":{\"prompt\":{\"Completion\":\"Write tasks.\"}}}".into(),
    };
    ledger.ask(ask).await.unwrap();
    let charge = Charge {
        prompt_tokens: 100,
        completion_tokens: 50,
        usd: 0.001,
    };
    let id = ledger
        .begin_attempt(key, "generator".into(), charge)
        .await
        .unwrap();
    let (failure, outcome) = match state {
        AttemptState::Answered => (
            None,
            Some(RecordedOutcome::Answered(Reply {
                text: REPLY.into(),
                finish_reason: FinishReason::Stop,
                usage: None,
                logprobs: Vec::new(),
            })),
        ),
        _ => (
            Some(Error::new("timeout", "no reply in 60 s").retryable()),
            None,
        ),
    };
    let end = AttemptEnd {
        state,
        status: None,
        body: b"{}".to_vec(),
        failure,
        seconds: 1.5,
        charge,
        outcome,
    };
    ledger.end_attempt(id, key, end).await.unwrap();
}

async fn consumed(
    ledger: &Ledger,
    unit: u64,
    verdicts: Vec<VerdictRecord>,
    accepted: Vec<(u32, Payload)>,
    accepted_total: u64,
) {
    let accepted = accepted
        .into_iter()
        .map(|(n, payload)| (CandidateId { unit, n }, payload))
        .collect();
    let consumed = Consumed {
        unit,
        verdicts,
        accepted,
        accepted_total,
    };
    ledger.record_consumed(consumed).await.unwrap();
}

async fn unit(ledger: &Ledger, unit: u64, outcome: Result<Proposals, Error>) {
    let record = UnitRecord { outcome };
    ledger.record_unit(unit, record, 2.0).await.unwrap();
}

/// A ledger in which everything happens once: drops near a seed and near a candidate, an edit, a
/// quarantined record, conversations, a unit that failed, and one beyond the target.
pub(crate) async fn small_run(dir: &Path) -> (RunDir, Ledger) {
    let run_dir = RunDir::open(dir).unwrap();
    let ledger = run_dir.ledger().unwrap();
    let seeds = [
        Task::new("Name a mountain.", "", "Zugspitze"),
        Task::new("Sort these words.", "b a", "a b"),
    ];
    let seeds = serde_json::to_string(&seeds).unwrap();
    ledger.set_meta("seeds", seeds).await.unwrap();

    request(&ledger, 0, 0, AttemptState::Unknown).await;
    request(&ledger, 0, 1, AttemptState::Answered).await;
    let river = task("Name a river.", "", "The Wörnitz. 🦙");
    let proposals = Proposals {
        candidates: vec![
            Proposal {
                payload: river.clone(),
                attributes: vec![Attribute {
                    name: "mode".into(),
                    value: "strict".into(),
                }],
                parents: vec![Origin::Seed(1), Origin::Seed(0)],
                place: place(1, 3, 34),
            },
            proposal(task("Draw a picture.", "", "I cannot.")),
            proposal(task("Sort those words.", "d c", "c d")),
        ],
        rejects: vec![Reject {
            code: "no-instruction".into(),
            message: "nothing before the output".into(),
            place: place(1, 38, 41),
        }],
    };
    unit(&ledger, 0, Ok(proposals)).await;
    let verdicts = vec![
        said(0, 0, 0, Ok(Verdict::keep().score("words", 3.0))),
        said(0, 0, 1, Ok(Verdict::drop("picture", "asks for a picture"))),
        said(0, 0, 2, Ok(Verdict::keep())),
        said(
            1,
            0,
            0,
            Ok(Verdict::keep()
                .score("rouge_l", 0.5)
                .nearest(Origin::Seed(0), 0.5)),
        ),
        said(
            1,
            0,
            2,
            Ok(Verdict::drop("too-similar", "0.75 to seed 1")
                .score("rouge_l", 0.75)
                .nearest(Origin::Seed(1), 0.75)),
        ),
    ];
    consumed(&ledger, 0, verdicts, vec![(0, river)], 1).await;

    request(&ledger, 1, 0, AttemptState::Failed).await;
    unit(&ledger, 1, Err(Error::new("timeout", "no reply in 60 s"))).await;
    consumed(&ledger, 1, Vec::new(), Vec::new(), 1).await;

    request(&ledger, 2, 0, AttemptState::Answered).await;
    let short = Payload::Chat(vec![Message::user("Hi"), Message::assistant("Hello")]);
    let long = Payload::Chat(vec![
        Message::system("Be brief."),
        Message::user("Count."),
        Message::assistant("1"),
    ]);
    let added = task("Add two numbers.", "1 2", "3");
    let proposals = Proposals {
        candidates: vec![
            proposal(task("Add two numbers.", "Input: 1 2", "3")),
            proposal(task("Add two figures.", "3 4", "7")),
            proposal(task("Break the filter.", "", "!")),
            proposal(short.clone()),
            proposal(long.clone()),
        ],
        rejects: Vec::new(),
    };
    unit(&ledger, 2, Ok(proposals)).await;
    let edit = Verdict::edit(added.clone(), "stray-label", "a label was cut off");
    let near = CandidateId { unit: 2, n: 0 };
    let verdicts = vec![
        said(0, 2, 0, Ok(edit)),
        said(0, 2, 1, Ok(Verdict::keep())),
        said(0, 2, 2, Err(Error::new("trap", "out of bounds"))),
        said(0, 2, 3, Ok(Verdict::keep())),
        said(0, 2, 4, Ok(Verdict::keep())),
        said(1, 2, 0, Ok(Verdict::keep())),
        said(
            1,
            2,
            1,
            Ok(Verdict::drop("too-similar", "0.8 to 2-0").nearest(Origin::Candidate(near), 0.8)),
        ),
        said(1, 2, 3, Ok(Verdict::keep())),
        said(1, 2, 4, Ok(Verdict::keep())),
    ];
    let accepted = vec![(0, added), (3, short), (4, long)];
    consumed(&ledger, 2, verdicts, accepted, 4).await;

    let surplus = Proposals {
        candidates: vec![proposal(task("Too late.", "", "Yes."))],
        rejects: Vec::new(),
    };
    unit(&ledger, 3, Ok(surplus)).await;
    (run_dir, ledger)
}

pub(super) fn about() -> About {
    About {
        recipe: "small".into(),
        license: Some("CC-BY-NC-4.0".into()),
        seeds: "2 tasks, written for this test".into(),
        models: vec![AboutModel {
            name: "strong".into(),
            roles: vec!["teacher".into(), "judge".into()],
            provider: "openai".into(),
            model: "teacher-4".into(),
            identity: Some(TEACHER.into()),
            terms: Some("no competing models".into()),
        }],
        plugins: vec![
            AboutPlugin {
                stage: "generator".into(),
                title: "self-instruct 0.1.0".into(),
                sha256: "11".repeat(32),
            },
            AboutPlugin {
                stage: "filters.0".into(),
                title: "alpaca-heuristics 0.1.0".into(),
                sha256: "22".repeat(32),
            },
        ],
        manifest: "name = \"small\"\n".into(),
    }
}

async fn exported() -> (tempfile::TempDir, Exported) {
    let dir = tempfile::tempdir().unwrap();
    let (run_dir, ledger) = small_run(&dir.path().join("run")).await;
    let exported = export(&ledger, &run_dir, &about()).unwrap();
    (dir, exported)
}

#[tokio::test]
async fn alpaca_data_holds_what_fits_its_three_fields() {
    let (_dir, exported) = exported().await;
    assert_eq!((exported.examples, exported.alpaca_examples), (4, 3));
    assert_eq!(
        fs::read_to_string(&exported.files[0]).unwrap(),
        r#"[
    {
        "instruction": "Name a river.",
        "input": "",
        "output": "The W\u00f6rnitz. \ud83e\udd99"
    },
    {
        "instruction": "Add two numbers.",
        "input": "1 2",
        "output": "3"
    },
    {
        "instruction": "Hi",
        "input": "",
        "output": "Hello"
    }
]"#
    );
}

#[tokio::test]
async fn a_line_tells_where_its_example_comes_from() {
    let (_dir, exported) = exported().await;
    let text = fs::read_to_string(&exported.files[1]).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        format!(
            concat!(
                r#"{{"id":"0-0","instruction":"Name a river.","input":"","output":"The Wörnitz. 🦙","#,
                r#""parents":["seed-1","seed-0"],"attributes":[{{"name":"mode","value":"strict"}}],"#,
                r#""verdicts":[{{"plugin":"alpaca-heuristics","decision":"keep","code":"kept","scores":[{{"name":"words","value":3.0}}],"nearest":null}},"#,
                r#"{{"plugin":"rouge-l","decision":"keep","code":"kept","scores":[{{"name":"rouge_l","value":0.5}}],"nearest":{{"origin":"seed-0","score":0.5}}}}],"#,
                r#""edited":false,"source":{{"model":"teacher-4","request_key":"{}","ordinal":1,"start":3,"end":34}}}}"#
            ),
            "01".repeat(32)
        )
    );
    let edited: serde_json::Value = serde_json::from_str(lines[1]).unwrap();
    assert_eq!(edited["edited"], true);
    assert_eq!(edited["input"], "1 2");
    assert_eq!(edited["source"], serde_json::Value::Null);
    let chat: serde_json::Value = serde_json::from_str(lines[3]).unwrap();
    assert_eq!(chat["id"], "2-4");
    assert_eq!(chat["messages"][1]["content"], "Count.");
    assert_eq!(chat.get("instruction"), None);
    assert_eq!(lines.len(), 4);
}

#[tokio::test]
async fn parquet_holds_the_same_as_the_lines() {
    let (_dir, exported) = exported().await;
    let lines = fs::read_to_string(&exported.files[1]).unwrap();
    let file = fs::File::open(&exported.files[2]).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let rows: Vec<_> = reader
        .get_row_iter(None)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(rows.len(), lines.lines().count());
    for (row, line) in rows.iter().zip(lines.lines()) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |column: usize| row.get_string(column).ok().map(String::as_str);
        let nested = |column: usize| -> serde_json::Value {
            serde_json::from_str(text(column).unwrap()).unwrap()
        };
        assert_eq!(
            text(0).unwrap(),
            format!("{}-{}", row.get_long(1).unwrap(), row.get_long(2).unwrap())
        );
        for (column, field) in [(0, "id"), (3, "instruction"), (4, "input"), (5, "output")] {
            assert_eq!(text(column), line[field].as_str(), "{field}");
        }
        assert_eq!(text(6).map(|_| nested(6)), line.get("messages").cloned());
        for (column, field) in [(7, "parents"), (8, "attributes"), (9, "verdicts")] {
            assert_eq!(nested(column), line[field], "{field}");
        }
        assert_eq!(row.get_bool(10).ok(), line["edited"].as_bool());
        let source = &line["source"];
        assert_eq!(text(11), source["model"].as_str());
        assert_eq!(text(12), source["request_key"].as_str());
        for (column, field) in [(13, "ordinal"), (14, "start"), (15, "end")] {
            assert_eq!(row.get_long(column).ok(), source[field].as_i64(), "{field}");
        }
    }
}

#[tokio::test]
async fn the_card_says_what_the_dataset_is() {
    let (_dir, exported) = exported().await;
    let card = fs::read_to_string(&exported.files[3]).unwrap();
    for part in [
        "---\nlicense: cc-by-nc-4.0\npretty_name: \"small\"\n",
        "\nsize_categories:\n- n<1K\n",
        "instructions: 4, written by a\nmachine and checked by nobody.\n",
        "\nSeed tasks: 2 tasks, written for this test\n",
        &format!(
            "| generator | self-instruct 0.1.0 | `{}` |",
            "11".repeat(32)
        ),
        "\n| candidates | proposed |  | 8 |\n",
        "\n| generator | reject | no-instruction | 1 |\n",
        "\n| alpaca-heuristics | drop | picture | 1 |\n",
        "\n| alpaca-heuristics | edit | stray-label | 1 |\n",
        "\n| rouge-l | drop | too-similar | 2 |\n",
        "\n| examples | accepted |  | 4 |\n",
        "\nLicence: CC-BY-NC-4.0.\n",
        "\n| teacher, judge | teacher-4 | openai | no competing models |\n",
        "`alpaca_data.json`: 3 examples in the form",
        "Left out: 1, conversations other than one question and one answer",
        "\n```toml\nname = \"small\"\n```\n",
    ] {
        assert!(card.contains(part), "{part:?} is not in\n{card}");
    }
}

#[tokio::test]
async fn the_same_ledger_gives_the_same_bytes_and_nothing_else_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let (run_dir, ledger) = small_run(&dir.path().join("run")).await;
    let first = export(&ledger, &run_dir, &about()).unwrap();
    let bytes = |exported: &Exported| {
        exported
            .files
            .each_ref()
            .map(|file| fs::read(file).unwrap())
    };
    let before = bytes(&first);
    // What a kill leaves behind.
    fs::write(first.files[0].with_file_name(".dataset.jsonl.part"), "{").unwrap();
    let second = export(&ledger, &run_dir, &about()).unwrap();
    assert_eq!(bytes(&second), before);
    let other = tempfile::tempdir().unwrap();
    let (other_dir, other_ledger) = small_run(&other.path().join("elsewhere")).await;
    let third = export(&other_ledger, &other_dir, &about()).unwrap();
    assert_eq!(bytes(&third), before);
    let names: HashSet<_> = fs::read_dir(dir.path().join("run/dataset"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(
        names,
        HashSet::from(
            [
                "alpaca_data.json",
                "dataset.jsonl",
                "dataset.parquet",
                "README.md"
            ]
            .map(str::to_owned)
        )
    );
}

#[tokio::test]
async fn a_run_without_examples_gives_files_that_load() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = RunDir::open(&dir.path().join("run")).unwrap();
    let ledger = run_dir.ledger().unwrap();
    let exported = export(&ledger, &run_dir, &About::default()).unwrap();
    assert_eq!(exported.examples, 0);
    assert_eq!(fs::read(&exported.files[0]).unwrap(), b"[]");
    assert_eq!(fs::read(&exported.files[1]).unwrap(), b"");
    let file = fs::File::open(&exported.files[2]).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    assert_eq!(reader.metadata().file_metadata().num_rows(), 0);
}

#[tokio::test]
async fn a_dataset_of_several_pages_keeps_its_order() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = RunDir::open(&dir.path().join("run")).unwrap();
    let ledger = run_dir.ledger().unwrap();
    let mut total = 0;
    for index in 0..10_u64 {
        let payloads: Vec<Payload> = (0..1000)
            .map(|n| task(&format!("Task {index} {n}"), "", "Done."))
            .collect();
        let candidates = payloads.iter().cloned().map(proposal).collect();
        let proposals = Proposals {
            candidates,
            rejects: Vec::new(),
        };
        unit(&ledger, index, Ok(proposals)).await;
        // The second filter sees only every other candidate, so its list is the shorter one.
        let verdicts = (0..1000)
            .map(|n| said(n % 2, index, n, Ok(Verdict::keep().score("n", n.into()))))
            .collect();
        let accepted: Vec<_> = (0..).zip(payloads).collect();
        total += accepted.len() as u64;
        consumed(&ledger, index, verdicts, accepted, total).await;
    }
    let exported = export(&ledger, &run_dir, &About::default()).unwrap();
    assert_eq!(exported.examples, 10_000);
    let text = fs::read_to_string(&exported.files[1]).unwrap();
    for (position, line) in text.lines().enumerate() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let (unit, n) = (position / 1000, position % 1000);
        assert_eq!(line["id"], format!("{unit}-{n}"));
        assert_eq!(line["verdicts"][0]["scores"][0]["value"], n as f64);
        assert_eq!(line["verdicts"].as_array().unwrap().len(), 1);
    }
    let file = fs::File::open(&exported.files[2]).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    assert_eq!(reader.metadata().num_row_groups(), 3);
    assert_eq!(reader.metadata().file_metadata().num_rows(), 10_000);
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (run_dir, ledger) = small_run(&dir.path().join("run")).await;
    fs::write(dir.path().join("run/dataset"), "a file in the way").unwrap();
    let message = export(&ledger, &run_dir, &about()).unwrap_err().to_string();
    assert!(
        message.starts_with("cannot write ") && message.contains("alpaca_data.json: "),
        "{message}"
    );
    assert!(message.ends_with(
        "The ledger is whole: make room or mend the directory and run again, nothing is paid twice"
    ));
}
