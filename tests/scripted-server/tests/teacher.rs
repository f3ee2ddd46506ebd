//! What the teacher says, over the wire.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use scripted_server::{Action, Faults, Recorded, Server, alpaca_teacher, failing_first};
use serde_json::{Value, json};

/// One request on a connection of its own: status and body.
fn post(address: SocketAddr, path: &str, body: &Value) -> (u16, Value) {
    let body = body.to_string();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_default())
}

fn completion(server: &Server, unit: usize) -> (String, String) {
    let body = json!({
        "model": "m",
        "prompt": format!("Unit {unit}.\n###\n3. Instruction: x\n###\n4. Instruction:"),
        "max_tokens": 3072,
        "stop": ["\n20", "20.", "20."],
    });
    let (status, reply) = post(server.address(), "/v1/completions", &body);
    assert_eq!(status, 200);
    let choice = &reply["choices"][0];
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&choice["text"]), text(&choice["finish_reason"]))
}

fn structured(server: &Server, unit: usize) -> Value {
    let item = json!({"type": "object", "properties": {
        "instruction": {"type": "string"}, "input": {"type": "string"}, "output": {"type": "string"},
    }});
    let schema = json!({"type": "object", "properties": {
        "tasks": {"type": "array", "minItems": 5, "maxItems": 5, "items": item},
    }});
    let body = json!({
        "model": "m",
        "messages": [{"role": "user", "content": format!("Unit {unit}: write tasks")}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    });
    post(server.address(), "/v1/chat/completions", &body).1
}

fn content(reply: &Value) -> &str {
    reply["choices"][0]["message"]["content"].as_str().unwrap()
}

/// Instructions of a faultless reply, read as the recipe reads it: the prompt's last line comes
/// first, and the separator that is left before the stop sequence opens nothing.
fn instructions(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let text = format!("4. Instruction:{}", text.strip_suffix("\n###").unwrap());
    for (at, block) in text.split("###").enumerate() {
        let number = at + 4;
        let block = block.trim_start();
        let block = block.strip_prefix(&format!("{number}. Instruction:"));
        let block = block.unwrap();
        let (instruction, rest) = block.split_once(&format!("\n{number}. Input:\n")).unwrap();
        assert!(rest.contains(&format!("\n{number}. Output:\n")), "{rest}");
        found.push(instruction.trim().to_owned());
    }
    found
}

#[test]
fn a_faultless_completion_has_sixteen_blocks_and_ends_at_the_stop_sequence() {
    let mut teacher = alpaca_teacher();
    teacher.faults = Faults::NONE;
    let server = Server::start(teacher).unwrap();
    let (text, reason) = completion(&server, 1);
    assert_eq!(reason, "stop");
    assert_eq!(instructions(&text).len(), 16, "{text}");
    assert!(!text.contains("20."));
}

/// The gate of the recipe: a task whose ROUGE-L F to an earlier one is above 0.7 is dropped.
#[test]
fn most_of_thousands_of_tasks_are_far_from_each_other() {
    let mut teacher = alpaca_teacher();
    teacher.faults = Faults::NONE;
    let server = Server::start(teacher).unwrap();
    let mut accepted: Vec<Vec<u64>> = Vec::new();
    let mut proposed = 0;
    for unit in 0..160 {
        let (text, _) = completion(&server, unit);
        for instruction in instructions(&text) {
            proposed += 1;
            let tokens = words(&instruction);
            let near = |other: &Vec<u64>| {
                let lcs = lcs(&tokens, other) as f64;
                2.0 * lcs / (tokens.len() + other.len()) as f64 > 0.7
            };
            if !accepted.iter().any(near) {
                accepted.push(tokens);
            }
        }
    }
    assert!(proposed > 2500, "{proposed}");
    let share = accepted.len() as f64 / f64::from(proposed);
    assert!(share > 0.9, "{} of {proposed}", accepted.len());
}

fn words(text: &str) -> Vec<u64> {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    let text = text.to_lowercase();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    words
        .filter(|word| !word.is_empty())
        .map(|word| hasher.hash_one(word))
        .collect()
}

fn lcs(a: &[u64], b: &[u64]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (at, y) in b.iter().enumerate() {
            let above = row[at + 1];
            row[at + 1] = if x == y {
                diagonal + 1
            } else {
                above.max(row[at])
            };
            diagonal = above;
        }
    }
    row[b.len()]
}

#[test]
fn every_fault_comes() {
    let server = Server::start(alpaca_teacher()).unwrap();
    let replies: Vec<_> = (0..150).map(|unit| completion(&server, unit)).collect();
    let texts = || replies.iter().map(|(text, _)| text);
    assert!(texts().any(|text| text.is_empty()));
    assert!(texts().any(|text| text.starts_with("\n###\n###")));
    assert!(texts().any(|text| text.contains("### Summary")));
    assert!(texts().any(|text| text.contains("Answer:\n")));
    assert!(texts().any(|text| text.contains("Draw a picture")));
    assert!(replies.iter().any(|(_, reason)| reason == "length"));
    let primary = texts().filter(|text| text.contains("the three primary colors"));
    assert!(primary.count() > 2, "near-duplicates across replies");

    let replies: Vec<_> = (0..150).map(|unit| structured(&server, unit)).collect();
    assert!(replies.iter().any(|reply| content(reply).is_empty()));
    let cut = |reply: &Value| reply["choices"][0]["finish_reason"] == "length";
    assert!(replies.iter().any(cut));
    let whole = replies
        .iter()
        .filter_map(|reply| serde_json::from_str::<Value>(content(reply)).ok());
    let tasks: Vec<Value> = whole
        .flat_map(|reply| reply["tasks"].as_array().unwrap().clone())
        .collect();
    assert!(tasks.len() > 500);
    assert!(tasks.iter().any(|task| task.get("output").is_none()));
    assert!(tasks.iter().any(|task| task["input"] != ""));
}

#[test]
fn the_answer_depends_on_the_request_and_not_on_its_turn() {
    let forwards = Server::start(alpaca_teacher()).unwrap();
    let backwards = Server::start(alpaca_teacher()).unwrap();
    let first: Vec<_> = (0..20).map(|unit| structured(&forwards, unit)).collect();
    let mut second: Vec<_> = (0..20)
        .rev()
        .map(|unit| structured(&backwards, unit))
        .collect();
    second.reverse();
    assert_eq!(first, second);
    assert_ne!(first[0], first[1]);

    structured(&forwards, 3);
    assert_eq!((forwards.count(), forwards.count_of_distinct()), (21, 20));
    assert_eq!(forwards.requests()[20].occurrence, 2);
}

#[test]
fn the_order_of_keys_does_not_make_another_request() {
    let server = Server::start(|_: &Recorded| Action::reply("x")).unwrap();
    let path = "/v1/completions";
    for body in [
        r#"{"prompt":"a","model":"m"}"#,
        r#"{"model":"m","prompt":"a"}"#,
    ] {
        post(server.address(), path, &serde_json::from_str(body).unwrap());
    }
    assert_eq!((server.count(), server.count_of_distinct()), (2, 1));
}

#[test]
fn a_prompt_that_shows_json_gets_as_many_tasks_as_it_asks_for() {
    let mut teacher = alpaca_teacher();
    teacher.faults = Faults::NONE;
    let server = Server::start(teacher).unwrap();
    let prompt = "Write 2 tasks.\nWrite 6 more tasks about: bees.\nReply with JSON and nothing \
                  else: {\"tasks\": [{\"instruction\": \"...\"}]}\n\n";
    let body = json!({"model": "m", "prompt": prompt});
    let reply = post(server.address(), "/v1/completions", &body).1;
    let text = reply["choices"][0]["text"].as_str().unwrap();
    let tasks: Value = serde_json::from_str(text).unwrap();
    assert_eq!(tasks["tasks"].as_array().unwrap().len(), 6);
}

#[test]
fn a_schema_of_another_kind_gets_a_value_that_satisfies_it() {
    let server = Server::start(alpaca_teacher()).unwrap();
    let schema = json!({"type": "object", "properties": {
        "winner": {"type": "string", "enum": ["A", "B", "tie"]},
        "score": {"type": "integer", "minimum": 1, "maximum": 3},
    }});
    let mut winners = std::collections::BTreeSet::new();
    for pair in 0..40 {
        let body = json!({
            "model": "m",
            "messages": [{"role": "user", "content": format!("Which is better? {pair}")}],
            "response_format": {"type": "json_schema", "json_schema": {"schema": schema}},
        });
        let reply = post(server.address(), "/v1/chat/completions", &body).1;
        if let Ok(value) = serde_json::from_str::<Value>(content(&reply)) {
            winners.insert(value["winner"].as_str().unwrap().to_owned());
            assert!((1..=3).contains(&value["score"].as_i64().unwrap()));
        }
    }
    assert_eq!(winners.into_iter().collect::<String>(), "ABtie");
}

#[test]
fn a_request_can_fail_twice_and_then_be_answered() {
    let script = failing_first(2, Action::error(500, "oops", "not now"), alpaca_teacher());
    let server = Server::start(script).unwrap();
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "Hello"}]});
    let other = json!({"model": "m", "messages": [{"role": "user", "content": "Bye"}]});
    let path = "/v1/chat/completions";
    let status = |body| post(server.address(), path, body).0;
    assert_eq!([status(&body), status(&other), status(&body)], [500; 3]);
    assert_eq!(
        [status(&body), status(&other), status(&other)],
        [200, 500, 200]
    );
}
