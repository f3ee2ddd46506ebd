//! What plugins are tested with: records, tasks and replies of our own, ordinary and odd.

use std::sync::Arc;

use pacos_plugin::{
    Attribute, Candidate, CandidateId, Error, Example, FinishReason, HttpHeader, HttpRequest,
    HttpResponse, Message, Payload, Request, Task,
};

use crate::{
    kit::script::{Answer, Replies, Response, reply},
    seed,
};

/// Ordinary records: enough for two batches of 256, of which the second is not full.
pub(super) const ORDINARY: usize = 300;

const VERBS: [&str; 10] = [
    "Describe",
    "Compare",
    "Name",
    "Explain",
    "Summarise",
    "Translate",
    "Rank",
    "Sketch",
    "List",
    "Rewrite",
];
const COUNTS: [&str; 6] = ["one", "two", "three", "four", "some", "the best"];
const THINGS: [&str; 14] = [
    "rivers of Europe",
    "ways to bake bread",
    "uses of a paper clip",
    "proofs by induction",
    "songs for a long walk",
    "kinds of clouds",
    "rules of chess",
    "letters to a landlord",
    "tides and their causes",
    "sorting algorithms",
    "plots for a short play",
    "bones of the hand",
    "excuses for being late",
    "questions about the moon",
];
const TAILS: [&str; 6] = [
    ".",
    " in one sentence.",
    " for a child of eight.",
    " as a table.",
    ", and say why.",
    " without using the letter e.",
];

/// A number in `0..below`, spread over the index.
fn spread(index: usize, salt: &str, below: usize) -> usize {
    let drawn = seed::derive(7, salt, index as u64);
    usize::try_from(drawn % below as u64).expect("a remainder of a usize fits")
}

fn task(index: usize) -> Task {
    let instruction = format!(
        "{} {} {}{}",
        VERBS[spread(index, "verb", VERBS.len())],
        COUNTS[spread(index, "count", COUNTS.len())],
        THINGS[spread(index, "thing", THINGS.len())],
        TAILS[spread(index, "tail", TAILS.len())],
    );
    let input = match spread(index, "input", 4) {
        0 => format!("Note {index}: it was raining, and the shop was shut."),
        _ => String::new(),
    };
    let words = spread(index, "words", 40);
    let output = (0..words)
        .map(|n| THINGS[spread(index * 64 + n, "word", THINGS.len())])
        .collect::<Vec<_>>()
        .join("; ");
    Task::new(instruction, input, output)
}

fn candidate(number: usize, payload: Payload) -> Candidate {
    Candidate {
        id: CandidateId {
            unit: (number / 10) as u64,
            n: u32::try_from(number % 10).expect("less than ten"),
        },
        seed: seed::of_content(&payload),
        payload,
        attributes: Vec::new(),
        parents: Vec::new(),
    }
}

/// Records as a run brings them, some of them near to one another, some conversations.
pub(super) fn ordinary() -> Vec<Candidate> {
    let record = |number| {
        let task = task(number);
        let payload = match number % 15 {
            14 => Payload::Chat(vec![
                Message::user(task.instruction),
                Message::assistant(task.output),
            ]),
            _ => Payload::Task(task),
        };
        candidate(number, payload)
    };
    (0..ORDINARY).map(record).collect()
}

/// Texts that break what was not written for them.
fn odd_texts() -> Vec<(&'static str, String)> {
    vec![
        ("empty", String::new()),
        ("only spaces", " \t\r\n\u{a0}\u{3000}".into()),
        ("one letter", "x".into()),
        ("a NUL", "before\0after".into()),
        (
            "other control characters",
            "\u{1}\u{7f}\u{85}\u{1b}[31m".into(),
        ),
        ("the replacement character", "caf\u{fffd} au lait".into()),
        ("a byte order mark", "\u{feff}Name a colour.".into()),
        (
            "combining marks",
            "e\u{301}\u{302}\u{303}\u{304} a\u{308}".into(),
        ),
        (
            "emoji with joiners",
            "\u{1f469}\u{200d}\u{1f52c} and \u{1f1e8}\u{1f1ed}".into(),
        ),
        (
            "right to left",
            "\u{202e}שלום, \u{202c}مرحبا بالعالم".into(),
        ),
        ("no spaces between words", "写一首关于秋天的诗并解释".into()),
        ("case that changes length", "İSTANBUL ẞ ŉ ﬁn Σίσυφος".into()),
        ("the last code point", "\u{10ffff}\u{e000}".into()),
        ("JSON", "{\"tasks\": [{\"instruction\": null}]}".into()),
        (
            "markup",
            "### 1. Instruction: <noinput> <|endoftext|> ```".into(),
        ),
        ("quotes and backslashes", "\\\"'\\u0000\\".into()),
        ("many lines", "a\r\n\n\rb\u{2028}c".repeat(50)),
        ("one long word", "a".repeat(200_000)),
        (
            "many words",
            "seven words make a very short line ".repeat(3_000),
        ),
        ("many marks", "?!".repeat(20_000)),
    ]
}

/// Records that a run can bring and nobody expects, each with its name.
pub(super) fn odd() -> Vec<(String, Candidate)> {
    let mut records = Vec::new();
    let mut add = |name: String, payload: Payload| {
        let number = ORDINARY + records.len();
        records.push((name, candidate(number, payload)));
    };
    for (name, text) in odd_texts() {
        add(
            format!("{name} as instruction"),
            Payload::Task(Task::new(text.clone(), "", "An answer.")),
        );
        add(
            format!("{name} as input and output"),
            Payload::Task(Task::new("Repeat this text.", text.clone(), text.clone())),
        );
        add(
            format!("{name} in a conversation"),
            Payload::Chat(vec![Message::user(text.clone()), Message::assistant(text)]),
        );
    }
    add(
        "a conversation without messages".into(),
        Payload::Chat(Vec::new()),
    );
    add(
        "a conversation without an answer".into(),
        Payload::Chat(vec![Message::system("Be brief."), Message::user("Hello?")]),
    );
    let role = |role: &str| Message {
        role: role.into(),
        content: "Hello.".into(),
    };
    add(
        "roles that nobody knows".into(),
        Payload::Chat(vec![role("tool"), role(""), role("USER")]),
    );
    add(
        "a conversation of 500 turns".into(),
        Payload::Chat(
            (0..500)
                .map(|n| role(["user", "assistant"][n % 2]))
                .collect(),
        ),
    );
    let (_, last) = records.last_mut().expect("records were added");
    last.attributes = vec![
        Attribute {
            name: "topic".into(),
            value: "talk".into(),
        };
        2
    ];
    records
}

/// Seeds that no plugin has reason to refuse.
pub(super) fn seeds() -> Vec<Task> {
    let seed = |n| {
        let mut task = task(ORDINARY + 1_000 + n);
        if task.output.is_empty() {
            task.output = "An answer.".into();
        }
        task
    };
    (0..12).map(seed).collect()
}

/// Accepted examples, for units that may read some.
pub(super) fn accepted(count: usize) -> Vec<Example> {
    let example = |n| {
        let Candidate { id, payload, .. } = candidate(n, Payload::Task(task(ORDINARY + 2_000 + n)));
        Example { id, payload }
    };
    (0..count).map(example).collect()
}

/// Tasks with reference answers, ordinary ones first.
pub(super) fn evaluation() -> Vec<Task> {
    let mut tasks: Vec<Task> = (0..10)
        .map(|n| {
            let mut task = task(ORDINARY + 3_000 + n);
            if task.output.is_empty() {
                task.output = "An answer of some length, so that it can be cut in half.".into();
            }
            task
        })
        .collect();
    for (_, text) in odd_texts()
        .into_iter()
        .filter(|(_, text)| text.len() < 1_000)
    {
        tasks.push(Task::new("Say what this is.", text.clone(), text));
    }
    tasks
}

/// What models and servers say.
pub(super) fn replies() -> Arc<Replies> {
    Arc::new(Replies::Made {
        model: answer,
        server: response,
    })
}

/// What a server says to a request, chosen like the replies of models.
pub(super) fn response(request: &HttpRequest) -> Response {
    let (status, body): (u16, &[u8]) = match seed::of_content(request) % 8 {
        0..=2 => (
            200,
            br#"{"ok": true, "score": 0.5, "results": [{"text": "The Po."}]}"#,
        ),
        3 => (200, b"plain words"),
        4 => (200, b""),
        5 => (404, b"not found"),
        6 => (500, b"\xff\x00\xfe"),
        _ => return Err(Error::new("no-answer", "the server did not answer")),
    };
    let kind = match body.first() {
        Some(b'{') => "application/json",
        _ => "text/plain",
    };
    Ok(HttpResponse {
        status,
        headers: vec![HttpHeader {
            name: "content-type".into(),
            value: kind.into(),
        }],
        body: body.to_vec(),
    })
}

/// What a scripted model says to a request: one of many forms, chosen by the request alone, so
/// that the same request has the same reply whenever it is made.
pub(super) fn answer(_role: &str, request: &Request, _number: usize) -> Answer {
    let chosen = seed::of_content(request);
    let two_tasks = r#"{"tasks":[{"instruction":"Name a river that flows north.","input":"","output":"The Nile."},{"instruction":"Sort the words by length.","input":"bb, a, ccc","output":"a, bb, ccc"}]}"#;
    let blocks = " Name a hill.\n4. Input:\n<noinput>\n4. Output:\nUetliberg.\n###\n5. Instruction: Name a lake.\n5. Input:\n<noinput>\n5. Output:\nGreifensee.\n";
    let mut answer = match chosen % 16 {
        0..=2 => reply(two_tasks),
        3 | 4 => reply(blocks),
        5 => reply(r#"{"winner": "A"}"#),
        6 => reply("The winner is [[B]]."),
        7 => reply("It is a tie: score 5"),
        8 => reply(""),
        9 => reply(
            "写一首诗 \u{1f469}\u{200d}\u{1f52c} {\"instruction\": \"Grüße\u{301}\", \"output\": \"é\"} end",
        ),
        10 => reply("[1, {\"a\": null}] {} \u{0} ### ``` \\ \" 7"),
        11 => reply("Well. ".repeat(10_000)),
        12 => reply("I'm sorry, but I cannot help with that."),
        13 => {
            return Err(Error::new(
                "request-refused",
                "the model takes no such request",
            ));
        }
        _ => reply(&two_tasks[..two_tasks.len() / 2]),
    };
    if chosen % 16 > 13 {
        answer.finish_reason = FinishReason::Length;
    }
    Ok(answer)
}
