//! `include/pacos_plugin.h` says in C what the crate says in Rust, and a C compiler agrees.

mod generate;

use std::{
    fmt::Write as _,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use pacos_plugin::{
    Alternative, Answer, Attribute, Candidate, CandidateId, Decision, Description, Diagnostic,
    Error, Example, FinishReason, Format, HttpHeader, HttpMethod, HttpRequest, HttpResponse, Item,
    Judged, Judgement, Likelihood, Message, Metric, ModelDescription, Neighbour, Origin, Outcome,
    Payload, Place, Prompt, Proposal, Proposals, Reject, Reply, Request, Score, Task, TokenBias,
    TokenLogprob, Unit, Usage, Verdict,
};
use serde::Serialize;

fn include() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/include"))
}

#[test]
fn the_header_is_what_the_contract_gives() {
    let (expected, _) = generate::header();
    let file = include().join("pacos_plugin.h");
    if std::env::var_os("PACOS_BLESS").is_some() {
        std::fs::write(&file, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    let differing = expected
        .lines()
        .zip(found.lines())
        .position(|(expected, found)| expected != found);
    assert!(
        expected == found,
        "include/pacos_plugin.h is not what the contract gives, from line {}. To write it anew: \
         PACOS_BLESS=1 cargo test -p pacos-plugin --test header",
        differing.map_or(found.lines().count(), |line| line) + 1
    );
}

/// The C compiler, or a word to whoever reads the test's output.
fn compiler(test: &str) -> Option<&'static str> {
    let found = ["cc", "gcc", "clang"].into_iter().find(|compiler| {
        let version = Command::new(compiler).arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    });
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "{test}: there is no C compiler"
        );
        // Not by `eprintln`, which a passing test keeps to itself.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED {test}: no cc, gcc or clang in PATH"
        );
    }
    found
}

fn compile(compiler: &str, arguments: &[&str], source: &Path, output: &Path) {
    let result = Command::new(compiler)
        .args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-O1", "-I"])
        .arg(include())
        .args(arguments)
        .arg(source)
        .arg("-o")
        .arg(output)
        .output()
        .unwrap();
    assert!(
        result.status.success(),
        "{}",
        String::from_utf8_lossy(&result.stderr)
    );
}

fn text(text: &str) -> String {
    text.to_owned()
}

/// Values of every record, with every case of every variant somewhere among them.
fn samples() -> Vec<(&'static str, Vec<u8>)> {
    fn bytes(value: &impl Serialize) -> Vec<u8> {
        postcard::to_stdvec(value).unwrap()
    }
    let task = Task::new("Ĝoju pri vulpoj", "", "x".repeat(300));
    let chat = Payload::Chat(vec![Message::system("Be brief."), Message::user("Hi")]);
    let id = CandidateId {
        unit: u64::MAX,
        n: u32::MAX,
    };
    let attributes = vec![Attribute {
        name: text("topic"),
        value: text("alpacas"),
    }];
    let place = Place {
        ordinal: 1,
        start: 127,
        end: 128,
    };
    let candidate = Candidate {
        id,
        payload: Payload::Task(task.clone()),
        attributes: attributes.clone(),
        parents: vec![Origin::Seed(174), Origin::Candidate(id)],
        seed: 1 << 63,
    };
    let verdicts = vec![
        Verdict::keep().score("rouge-l", -0.25),
        Verdict::drop("too-similar", "0.71 to seed 3").nearest(Origin::Seed(3), f64::MIN_POSITIVE),
        Verdict::edit(chat.clone(), "trimmed", ""),
    ];
    let request = Request {
        temperature: Some(0.7),
        max_tokens: Some(3072),
        stop: vec![text("\n20"), text("20.")],
        logit_bias: vec![TokenBias {
            token: 50256,
            bias: -100.0,
        }],
        seed: Some(7),
        logprobs: Some(5),
        format: Some(Format::Grammar(text("start: \"a\""))),
        ..Request::completion("Come up with tasks")
    };
    let schema = Request {
        top_p: Some(1.0),
        format: Some(Format::JsonSchema(text("{}"))),
        ..Request::chat(vec![Message::assistant("…")])
    };
    let reply = Reply {
        text: text("1. Instruction: …"),
        finish_reason: FinishReason::ContentFilter,
        usage: Some(Usage {
            prompt_tokens: 300,
            completion_tokens: 1 << 40,
        }),
        logprobs: vec![TokenLogprob {
            token: text("1"),
            logprob: -0.5,
            top: vec![Alternative {
                token: text("2"),
                logprob: -1.5,
            }],
        }],
    };
    let replies = vec![
        Ok(reply.clone()),
        Err(Error::new("request-refused", "too long").retryable()),
    ];
    let proposals = Proposals {
        candidates: vec![Proposal {
            payload: chat.clone(),
            attributes: attributes.clone(),
            parents: vec![Origin::Seed(0)],
            place: Some(place),
        }],
        rejects: vec![Reject {
            code: text("cut"),
            message: String::new(),
            place: None,
        }],
    };
    let judgements: Vec<_> = [
        Outcome::First,
        Outcome::Second,
        Outcome::Tie,
        Outcome::Unparsed,
        Outcome::Refused,
    ]
    .map(|outcome| Judgement {
        item: 128,
        first: text("student"),
        second: text("student.base"),
        outcome,
        flipped: true,
        scores: vec![Score {
            name: text("margin"),
            value: f64::INFINITY,
        }],
        attributes: attributes.clone(),
    })
    .into();
    vec![
        (
            "description",
            bytes(&Description::new("p", "0.1.0").capability("models:judge")),
        ),
        (
            "list_diagnostic",
            bytes(&vec![
                Diagnostic::error("a.b", "wrong").help("right"),
                Diagnostic::warning("", "odd"),
            ]),
        ),
        ("list_task", bytes(&vec![task.clone()])),
        (
            "unit",
            bytes(&Unit {
                index: 1,
                seed: 2,
                accepted: 3,
            }),
        ),
        ("proposals", bytes(&proposals)),
        ("list_candidate", bytes(&vec![candidate.clone()])),
        ("list_verdict", bytes(&verdicts)),
        (
            "list_judged",
            bytes(&vec![Judged {
                candidate,
                verdict: verdicts[1].clone(),
            }]),
        ),
        (
            "item",
            bytes(&Item {
                index: 9,
                seed: 0,
                task: task.clone(),
                answers: vec![Answer {
                    model: text("student"),
                    text: text("42"),
                }],
            }),
        ),
        ("list_judgement", bytes(&judgements)),
        (
            "list_metric",
            bytes(&vec![Metric {
                name: text("win-rate"),
                value: 0.5,
                standard_error: Some(0.03),
                n: 252,
                attributes,
            }]),
        ),
        ("list_request", bytes(&vec![request, schema])),
        ("list_result_reply_error", bytes(&replies)),
        ("reply", bytes(&reply)),
        (
            "model_description",
            bytes(&ModelDescription {
                model: text("m"),
                context_length: Some(4096),
                completion: true,
                chat: false,
                json_schema: true,
                grammar: false,
                logprobs: true,
                logit_bias: false,
                count_tokens: true,
                log_likelihood: false,
            }),
        ),
        (
            "likelihood",
            bytes(&Likelihood {
                sum: -12.5,
                tokens: 4,
            }),
        ),
        ("prompt", bytes(&Prompt::Completion(text("2 + 2 =")))),
        ("list_example", bytes(&vec![Example { id, payload: chat }])),
        (
            "option_neighbour",
            bytes(&Some(Neighbour {
                origin: Origin::Seed(1),
                score: 0.7,
            })),
        ),
        ("decision", bytes(&Decision::Keep)),
        (
            "list_http_request",
            bytes(&vec![
                HttpRequest::get("https://example.com/?q=1"),
                HttpRequest {
                    method: HttpMethod::Delete,
                    ..HttpRequest::post("https://example.com/", vec![0, 127, 128, 255])
                        .header("content-type", "application/octet-stream")
                },
            ]),
        ),
        (
            "list_result_http_response_error",
            bytes(&vec![
                Ok(HttpResponse {
                    status: u16::MAX,
                    headers: vec![HttpHeader {
                        name: text("a"),
                        value: text("b"),
                    }],
                    body: vec![1; 300],
                }),
                Err(Error::new("no-answer", "nobody").retryable()),
            ]),
        ),
    ]
}

/// A program that reads the record named by its argument and writes it again.
fn echo(names: &[String]) -> String {
    let mut source = String::from(
        "#include <stdio.h>\n#include \"pacos_plugin.h\"\n\n\
         int main(int argc, char **argv)\n{\n    static uint8_t input[65536];\n    \
         pacos_arena arena = {0};\n    pacos_writer w = {0};\n    pacos_bytes bytes;\n    \
         pacos_reader r;\n    bytes.ptr = input;\n    bytes.len = fread(input, 1, sizeof input, stdin);\n    \
         r = pacos_reader_of(bytes, &arena);\n    if (argc != 2)\n        return 2;\n",
    );
    for name in names {
        write!(
            source,
            "    if (strcmp(argv[1], \"{name}\") == 0) {{\n        pacos_{name} value;\n        \
             pacos_read_{name}(&r, &value);\n        pacos_write_{name}(&w, &value);\n    }}\n"
        )
        .unwrap();
    }
    source
        + "    if (!pacos_read_all(&r) || w.failed)\n        return 1;\n    \
           fwrite(w.ptr, 1, w.len, stdout);\n    pacos_discard(&w);\n    \
           pacos_free_all(&arena);\n    return 0;\n}\n"
}

#[test]
fn c_reads_and_writes_every_record_as_rust_does() {
    let Some(compiler) = compiler("c_reads_and_writes_every_record_as_rust_does") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("echo.c"), folder.path().join("echo"));
    std::fs::write(&source, echo(&generate::header().1)).unwrap();
    compile(compiler, &["-std=c11"], &source, &program);
    let run = |name: &str, input: &[u8]| {
        let mut child = Command::new(&program)
            .arg(name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), output.stdout)
    };
    for (name, bytes) in samples() {
        let (status, written) = run(name, &bytes);
        assert_eq!(status, Some(0), "{name} is not read");
        assert_eq!(written, bytes, "{name} is written otherwise");
        for cut in 0..bytes.len() {
            let (status, _) = run(name, &bytes[..cut]);
            assert_eq!(status, Some(1), "{name} is read from {cut} bytes");
            if cut > 40 {
                break;
            }
        }
    }
    // A list that claims more items than there are bytes.
    let (status, _) = run("list_task", &[0xff, 0xff, 0xff, 0xff, 0x0f, 0]);
    assert_eq!(status, Some(1));
}

#[test]
fn the_header_is_cplusplus_too() {
    let Some(compiler) = compiler("the_header_is_cplusplus_too") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("include.cpp");
    std::fs::write(
        &source,
        "#include \"pacos_plugin.h\"\nint answer() { return PACOS_STATUS_OK; }\n",
    )
    .unwrap();
    let has_cplusplus = Command::new(compiler)
        .args(["-x", "c++", "-std=c++11", "-fsyntax-only", "-"])
        .stdin(Stdio::null())
        .output()
        .is_ok_and(|output| output.status.success());
    if !has_cplusplus {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED the_header_is_cplusplus_too: {compiler} has no C++"
        );
        return;
    }
    compile(
        compiler,
        &["-std=c++11", "-c"],
        &source,
        &folder.path().join("include.o"),
    );
}
