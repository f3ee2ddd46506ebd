//! Plugins that ask servers: what is granted, what is sent, what is recorded.

mod support;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use scripted_server::{Action, Recorded, Server, alpaca_teacher};
use support::{Bench, Recipe, dataset, fails, library, pacos, query, sha256, succeeds, text};

/// The filter that asks, in either carrier.
fn component() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/plugins/components/fetching.wasm")
}

/// What a server of facts says, by the letter that it is asked about.
fn facts(request: &Recorded) -> Action {
    let letter = request.path.rsplit('=').next().unwrap_or_default();
    match letter {
        "C" => Action::status(404, "nothing about C"),
        "D" if request.occurrence == 1 => Action::status(503, "later").header("retry-after", "0"),
        _ => {
            Action::status(200, format!("{{\"letter\": \"{letter}\"}}")).header("set-cookie", "a=b")
        }
    }
}

/// What a command that succeeds says on standard error.
fn command_output(command: &mut Command) -> String {
    fails(command, 0)
}

struct Facts {
    bench: Bench,
    server: Server,
}

/// A recipe whose second filter asks a server of its own.
fn recipe(source: &str, grant: &str, url: &str, rest: &str) -> Recipe {
    Recipe {
        filters: format!(
            "[[filters]]\nplugin = \"alpaca-heuristics\"\n\n[[filters]]\n{source}\n\
             grant = [{grant}]\nconfig = {{ url = \"{url}\"{rest} }}"
        ),
        target: 30,
        ..Recipe::default()
    }
}

impl Facts {
    fn new(source: &str, rest: &str) -> Self {
        let server = Server::start(facts).expect("a loopback port");
        let port = server.address().port();
        let recipe = recipe(
            source,
            &format!("\"http:localhost:{port}\""),
            &format!("http://localhost:{port}/facts?letter={{}}"),
            rest,
        );
        let bench = Bench::new(alpaca_teacher(), &recipe);
        Facts { bench, server }
    }

    fn name(&self) -> String {
        format!("localhost:{}", self.server.address().port())
    }
}

fn plugin() -> String {
    format!("plugin = \"{}\"", component().display())
}

#[test]
fn the_same_is_asked_once_in_a_run_and_never_again() {
    let facts = Facts::new(&plugin(), "");
    let dir = facts.bench.dir("run");
    succeeds(&mut facts.bench.run(&dir));
    // One request for each letter, and another for the one that was put off.
    let sent = facts.server.count();
    assert_eq!(sent, facts.server.count_of_distinct() + 1);
    let judged = query(&dir, "SELECT count(*) FROM verdicts WHERE filter = 1");
    assert!(judged > sent as i64, "{judged} candidates, {sent} requests");
    // Each verdict is what the server said of its letter.
    let dropped =
        "FROM verdicts JOIN candidates USING (unit, n) WHERE filter = 1 AND decision = 'drop'";
    assert!(query(&dir, &format!("SELECT count(*) {dropped}")) > 0);
    let others =
        "instruction NOT LIKE 'C%' OR code <> 'status-404' OR message <> 'nothing about C'";
    assert_eq!(
        query(&dir, &format!("SELECT count(*) {dropped} AND ({others})")),
        0
    );
    assert_eq!(
        query(
            &dir,
            "SELECT count(*) FROM verdicts JOIN candidates USING (unit, n) \
                     WHERE filter = 1 AND decision = 'keep' AND instruction LIKE 'C%'"
        ),
        0
    );
    // The record has them under the server's name, with the body as text and without cookies.
    let recorded = format!(
        "SELECT count(*) FROM requests WHERE stage = 'filters.1' AND model = 'http:{}' \
         AND outcome = 'answered' AND reply LIKE '{{\"letter\": %'",
        facts.name()
    );
    assert!(query(&dir, &recorded) > 0);
    assert_eq!(
        query(
            &dir,
            "SELECT count(*) FROM request_ WHERE reply LIKE '%set-cookie%'"
        ),
        0
    );
    assert_eq!(
        query(
            &dir,
            "SELECT count(*) FROM attempts WHERE stage = 'filters.1'"
        ),
        sent as i64
    );
    // A fork whose filters changed finds every response.
    let fork = facts.bench.dir("fork");
    let mut run = facts.bench.run(&dir);
    run.args(["--set", "filters.0.config.min_words=4", "--fork"]);
    succeeds(run.arg(&fork));
    assert_eq!(facts.server.count(), sent);
}

#[test]
fn a_library_asks_as_its_component_does() {
    let file = library("fetching");
    let native = format!(
        "plugin = \"{}\"\ntrust = \"native\"\nsha256 = \"{}\"",
        file.display(),
        sha256(&file)
    );
    // One server, so that both recipes are the same but for the carrier.
    let facts = Facts::new(&plugin(), "");
    let rows = |name: &str, source: &str| {
        let port = facts.server.address().port();
        let recipe = recipe(
            source,
            &format!("\"http:localhost:{port}\""),
            &format!("http://localhost:{port}/facts?letter={{}}"),
            "",
        );
        facts.bench.write(&recipe);
        let dir = facts.bench.dir(name);
        succeeds(&mut facts.bench.run(&dir));
        let mut files = dataset(&dir);
        files.retain(|(name, _)| name == "alpaca_data.json");
        files
    };
    assert_eq!(rows("component", &plugin()), rows("library", &native));
}

#[test]
fn what_is_not_granted_is_named_before_anything_is_asked() {
    let teacher = Bench::new(alpaca_teacher(), &Recipe::default());
    let refused = |grant: &str, rest: &str| {
        let recipe = Recipe {
            rest: rest.into(),
            ..recipe(&plugin(), grant, "https://api.example.com/", "")
        };
        teacher.write(&recipe);
        fails(&mut teacher.run(&teacher.dir("run")), 2)
    };
    for (grant, rest, told) in [
        (
            "",
            "",
            "fetching 0.1.0 wants the capability `http:*`\n\
             help: grant = [\"http:HOST\"], for each HOST that its `config` names",
        ),
        (
            "\"http:*\"",
            "",
            "\"*\" is no name of a server\nhelp: a plugin may leave the name open, a recipe names each server",
        ),
        (
            "\"http:https://api.example.com/v1\"",
            "",
            "help: write \"api.example.com\", without the rest of the address",
        ),
        (
            "\"http:api.example.com\", \"models:teacher\"",
            "",
            "fetching 0.1.0 does not want the capability `models:teacher`\nhelp: it wants http:*",
        ),
        (
            "\"http:api.example.com\"",
            "[[servers]]\nname = \"other.example.com\"",
            "no plugin may ask the server `other.example.com`",
        ),
        (
            "\"http:api.example.com\"",
            "[[servers]]\nname = \"api.example.com\"\napi_key_env = \"PACOS_TEST_NO_SUCH_KEY\"",
            "the environment variable PACOS_TEST_NO_SUCH_KEY is not set",
        ),
    ] {
        let text = refused(grant, rest);
        let plain: Vec<_> = text.lines().map(str::trim).collect();
        for line in told.lines() {
            assert!(
                plain.iter().any(|plain| plain.contains(line)),
                "{line}\n---\n{text}"
            );
        }
    }
    assert_eq!(teacher.server.count(), 0);
}

#[test]
fn a_server_beside_the_granted_one_is_not_asked() {
    let granted = Server::start(facts).expect("a loopback port");
    let other = Server::start(facts).expect("a loopback port");
    let recipe = recipe(
        &plugin(),
        &format!("\"http:localhost:{}\"", granted.address().port()),
        &format!(
            "http://localhost:{}/facts?letter={{}}",
            other.address().port()
        ),
        "",
    );
    let recipe = Recipe {
        rest: "patience = 2".into(),
        ..recipe
    };
    let bench = Bench::new(alpaca_teacher(), &recipe);
    let dir = bench.dir("run");
    fails(&mut bench.run(&dir), 4);
    let capability = format!("http:localhost:{}", other.address().port());
    let told = format!(
        "SELECT count(*) FROM verdicts WHERE code = 'not-granted' AND message LIKE \
         'fetching 0.1.0 has no capability `{capability}`: the recipe does not grant it: \
         write grant = [\"{capability}\"] in [filters.1]'"
    );
    assert!(query(&dir, &told) > 0);
    assert_eq!((granted.count(), other.count()), (0, 0));
}

#[test]
fn the_host_sends_the_key_and_nobody_else_sees_it() {
    let server = Server::start(|request: &Recorded| {
        // Some servers repeat what they are sent.
        let key = request.header("authorization").unwrap_or("none").to_owned();
        Action::status(200, format!("you sent {key}")).header("x-echo", &key)
    })
    .expect("a loopback port");
    let port = server.address().port();
    let recipe = Recipe {
        rest: format!(
            "[[servers]]\nname = \"localhost:{port}\"\napi_key_env = \"PACOS_TEST_FACTS_KEY\""
        ),
        ..recipe(
            &plugin(),
            &format!("\"http:localhost:{port}\""),
            &format!("http://localhost:{port}/"),
            "",
        )
    };
    let bench = Bench::new(alpaca_teacher(), &recipe);
    let dir = bench.dir("run");
    succeeds(bench.run(&dir).env("PACOS_TEST_FACTS_KEY", "s3cr3t-f4cts"));
    let requests = server.requests();
    assert_eq!(requests.len(), 1, "the same request is sent once");
    assert_eq!(
        requests[0].header("authorization"),
        Some("Bearer s3cr3t-f4cts")
    );
    assert_eq!(
        query(
            &dir,
            "SELECT count(*) FROM requests WHERE reply = 'you sent Bearer ************'"
        ),
        query(
            &dir,
            "SELECT count(*) FROM requests WHERE stage = 'filters.1'"
        )
    );
    for entry in std::fs::read_dir(&dir).expect("the run's folder") {
        let path = entry.expect("it can be listed").path();
        if path.is_file() {
            let bytes = std::fs::read(&path).expect("it can be read");
            let found = bytes.windows(12).any(|part| part == b"s3cr3t-f4cts");
            assert!(!found, "the key stands in {}", path.display());
        }
    }
}

#[test]
fn what_a_plugin_may_not_send_is_not_sent() {
    let facts = Facts::new(
        &plugin(),
        ", headers = [[\"Authorization\", \"Bearer mine\"]]",
    );
    let dir = facts.bench.dir("run");
    let mut run = facts.bench.run(&dir);
    fails(run.args(["--set", "dataset.patience=2"]), 4);
    assert_eq!(facts.server.count(), 0);
    assert!(
        query(
            &dir,
            "SELECT count(*) FROM verdicts WHERE code = 'bad-request' \
             AND message LIKE 'the header `authorization` is the host''s%'"
        ) > 0
    );
}

#[test]
fn a_plugins_requests_are_limited() {
    let facts = Facts::new(&format!("{}\nlimits = {{ requests = 3 }}", plugin()), "");
    let dir = facts.bench.dir("run");
    let mut run = facts.bench.run(&dir);
    let text = fails(run.args(["--set", "dataset.max_quarantined=1"]), 4);
    assert!(
        text.contains(
            "may make 3 requests in this run and has made 3; raise limits.requests in [filters.1]"
        ),
        "{text}"
    );
    assert!(facts.server.count() <= 3);
}

/// Every verdict of one filter, a line each.
fn verdicts(dir: &Path, condition: &str) -> String {
    text(
        dir,
        &format!(
            "SELECT group_concat(unit || '.' || n || ' ' || decision || ' ' || code, char(10))
             FROM (SELECT * FROM verdicts WHERE {condition} ORDER BY unit, n)"
        ),
    )
}

/// A recipe whose second filter asks a server, within limits, and whose third one remembers, so
/// that it is rebuilt.
fn limited(server: &Server, limits: &str) -> Recipe {
    let port = server.address().port();
    let mut recipe = recipe(
        &format!("{}\n{limits}", plugin()),
        &format!("\"http:localhost:{port}\""),
        &format!("http://localhost:{port}/facts?letter={{}}"),
        "",
    );
    recipe.filters += "\n\n[[filters]]\nplugin = \"rouge-l\"";
    recipe.rest = "max_quarantined = 1000".into();
    recipe
}

/// Copies a run's folder.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("it is new");
    for entry in std::fs::read_dir(from).expect("it can be listed") {
        let path = entry.expect("it can be listed").path();
        let target = to.join(path.file_name().expect("files have names"));
        match path.is_dir() {
            true => copy(&path, &target),
            false => {
                std::fs::copy(&path, &target).expect("it can be copied");
            }
        }
    }
}

#[test]
fn a_kill_while_what_was_put_aside_is_judged_changes_nothing() {
    let server = Server::start(facts).expect("a loopback port");
    let bench = Bench::new(
        alpaca_teacher(),
        &limited(&server, "limits = { requests = 3 }"),
    );
    let short = bench.dir("short");
    succeeds(bench.run(&short).args(["--limit", "3"]));
    bench.write(&limited(&server, ""));
    let whole = bench.dir("whole");
    copy(&short, &whole);
    succeeds(&mut bench.run(&whole));
    for point in [
        "late-verdicts:before-commit@1",
        "late-verdicts:before-commit@2",
        "late-verdicts:after-commit@1",
        "late-verdicts:after-commit@3",
    ] {
        let dir = bench.dir(&point.replace([':', '@'], "-"));
        copy(&short, &dir);
        let killed = bench.run(&dir).env("PACOS_CRASH_AT", point).output();
        let killed = killed.expect("the command starts");
        assert!(!killed.status.success(), "{point} was never passed");
        succeeds(&mut bench.run(&dir));
        assert!(
            dataset(&dir) == dataset(&whole),
            "{point}: the dataset is another"
        );
        assert_eq!(verdicts(&dir, "filter = 2"), verdicts(&whole, "filter = 2"));
    }
}

#[test]
fn what_was_put_aside_for_want_of_requests_is_judged_once_there_are_more() {
    let server = Server::start(facts).expect("a loopback port");
    let with = |limits: &str| limited(&server, limits);
    let bench = Bench::new(alpaca_teacher(), &with("limits = { requests = 3 }"));
    let (dir, free) = (bench.dir("run"), bench.dir("free"));
    let told = command_output(bench.run(&dir).args(["--limit", "2"]));
    let put_aside = "filter = 1 AND decision = 'quarantine' AND code = 'budget'";
    let aside = query(
        &dir,
        &format!("SELECT count(*) FROM verdicts WHERE {put_aside}"),
    );
    assert!(aside > 1, "{told}");
    // One reason is told once, and counted.
    let reason = "raise limits.requests in [filters.1]";
    let lines: Vec<_> = told.lines().filter(|line| line.contains(reason)).collect();
    assert_eq!(lines.len(), 2, "{told}");
    assert!(
        lines[1].contains(&format!("{aside} records were put aside for this reason: ")),
        "{told}"
    );
    let judged = verdicts(&dir, "filter = 1 AND decision <> 'quarantine'");
    let asked = server.count();

    // Going on under the same limit asks nothing more and judges none of them.
    succeeds(bench.run(&dir).args(["--limit", "1"]));
    assert_eq!(server.count(), asked);
    let still = format!("SELECT count(*) FROM verdicts WHERE {put_aside} AND unit < 2");
    assert_eq!(query(&dir, &still), aside);
    let before = query(&dir, "SELECT count(*) FROM examples");
    let units = query(&dir, "SELECT count(*) FROM units WHERE NOT surplus");
    assert_eq!(units, 3);

    // With more to spend, the next run judges them, and nobody else again.
    bench.write(&with(""));
    succeeds(&mut bench.run(&dir));
    assert_eq!(
        query(
            &dir,
            &format!("SELECT count(*) FROM verdicts WHERE {put_aside}")
        ),
        0
    );
    for line in judged.lines() {
        assert!(verdicts(&dir, "filter = 1").contains(line), "{line}");
    }
    // The first filter put nothing aside: it saw each candidate once.
    assert_eq!(
        query(
            &dir,
            "SELECT records FROM plugin_use WHERE stage = 'filters.0'"
        ),
        query(&dir, "SELECT count(*) FROM verdicts WHERE filter = 0")
    );
    // What they are judged is what they would have been, had there been enough at once.
    succeeds(&mut bench.run(&free));
    for filter in [0, 1] {
        let of_filter = format!("unit < 3 AND filter = {filter}");
        assert_eq!(verdicts(&dir, &of_filter), verdicts(&free, &of_filter));
    }
    // What was accepted late comes after what was there, and examples have no gaps.
    let late = "SELECT min(position) FROM examples JOIN verdicts USING (unit, n)
                WHERE filter = 1 AND unit < 3 AND position >= ";
    assert_eq!(query(&dir, &format!("{late}{before}")), before);
    assert_eq!(
        query(&dir, "SELECT max(position) + 1 FROM examples"),
        query(&dir, "SELECT count(*) FROM examples")
    );
    // Nothing is asked twice, but for what a server put off: the free run asked afresh.
    for dir in [&dir, &free] {
        assert_eq!(
            query(dir, "SELECT count(*) FROM attempts WHERE status <> 503"),
            query(dir, "SELECT count(DISTINCT key) FROM attempts")
        );
    }

    // A fork with a lower target takes over what is late, too.
    let fork = bench.dir("fork");
    let mut run = bench.run(&dir);
    succeeds(run.args(["--set", "dataset.target=1", "--fork"]).arg(&fork));
    let examples = query(&fork, "SELECT count(*) FROM examples");
    assert_eq!(
        examples,
        query(&dir, "SELECT count(*) FROM examples WHERE unit = 0")
    );
    assert_eq!(
        query(&fork, "SELECT max(position) + 1 FROM examples"),
        examples
    );
    assert_eq!(query(&fork, "SELECT count(*) FROM attempts"), 0);
}

#[test]
fn records_wait_together() {
    const ANSWER: Duration = Duration::from_millis(400);
    let server = Server::start(|_: &Recorded| Action::status(200, "{}").after(ANSWER));
    let server = server.expect("a loopback port");
    let port = server.address().port();
    let recipe = recipe(
        &plugin(),
        &format!("\"http:localhost:{port}\""),
        &format!("http://localhost:{port}/{{}}"),
        "",
    );
    let bench = Bench::new(alpaca_teacher(), &recipe);
    succeeds(&mut bench.run(&bench.dir("run")));
    let requests = server.requests();
    let second_came = requests[1].at.duration_since(requests[0].at);
    assert!(second_came.expect("in order") < ANSWER);
}

#[test]
fn a_plan_names_the_servers_that_may_be_asked() {
    let facts = Facts::new(&plugin(), "");
    let told = succeeds(pacos().arg("plan").arg(facts.bench.manifest()));
    let line = format!("fetching 0.1.0, may ask {}\n", facts.name());
    assert!(told.contains(&line), "{told}");
    assert!(
        told.contains("alpaca-heuristics 0.1.0, asks no model and no server\n"),
        "{told}"
    );
    assert_eq!(facts.server.count(), 0);
}

#[test]
fn filters_that_ask_are_compared_by_what_the_run_was_told() {
    let facts = Facts::new(&plugin(), "");
    let dir = facts.bench.dir("run");
    succeeds(&mut facts.bench.run(&dir));
    let asked = facts.server.count();
    let judged = query(&dir, "SELECT count(*) FROM verdicts WHERE filter = 1");
    let diff = |url: &str| -> serde_json::Value {
        let config = format!("url = \"http://{}/{url}\"", facts.name());
        let mut command = pacos();
        command
            .args(["plugin", "diff", "filters.1"])
            .arg(component());
        command.args(["--config-b", &config, "--json", "--run"]);
        serde_json::from_str(&succeeds(command.arg(&dir))).expect("it is JSON")
    };
    let count = |said: &serde_json::Value, key: &str| said[key].as_array().map_or(0, Vec::len);
    // The same filter says the same of every candidate.
    let same = diff("facts?letter={}");
    let kept = query(
        &dir,
        "SELECT count(*) FROM verdicts WHERE filter = 1 AND decision = 'keep'",
    );
    assert_eq!(same["both_keep"], kept, "{same}");
    assert_eq!(same["both_drop"], judged - kept, "{same}");
    assert_eq!(count(&same, "broken"), 0, "{same}");
    // One that asks something else is not guessed at.
    let other = diff("other?letter={}");
    assert_eq!(count(&other, "broken") as i64, judged, "{other}");
    let reason = other["broken"][0]["b"]["error"]
        .as_str()
        .unwrap_or_default();
    let told = format!(
        "the run has no response of {} to what it asks about this record (not-recorded)",
        facts.name()
    );
    assert_eq!(reason, told);
    assert_eq!(facts.server.count(), asked);
}

/// A code that is none makes the verdict one that is refused, so that the record is tried again.
#[test]
fn a_second_try_hears_what_the_first_one_heard() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("it is written");
        path
    };
    let replies = file(
        "replies.jsonl",
        "{\"error\": \"No Code\", \"message\": \"told twice\"}\n{\"status\": 404}\n",
    );
    let lines = file(
        "lines.jsonl",
        "{\"instruction\": \"A\", \"output\": \"x\"}\n{\"instruction\": \"B\", \"output\": \"x\"}\n",
    );
    let mut command = pacos();
    command.args(["plugin", "run"]).arg(component()).arg(lines);
    command.args(["--config", "url = \"https://example.com/{}\"", "--replies"]);
    let output = command.arg(replies).output().expect("the command starts");
    let told = String::from_utf8(output.stdout).expect("it is UTF-8");
    let said: Vec<serde_json::Value> = told
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    assert_eq!(said[0]["error"], "invalid-answer", "{told}");
    assert!(told.contains("codes are kebab-case"), "{told}");
    assert_eq!(said[1]["code"], "status-404", "{told}");
}

#[test]
fn plugin_run_answers_from_its_script() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let replies = folder.path().join("replies.jsonl");
    std::fs::write(
        &replies,
        "{\"status\": 200, \"body\": \"four\"}\n{\"status\": 404}\n\"a model's words\"\n",
    )
    .expect("it is written");
    let lines = folder.path().join("lines.jsonl");
    let line = |text: &str| format!("{{\"instruction\": \"{text}\", \"output\": \"x\"}}\n");
    std::fs::write(&lines, ["A", "B", "C", "D"].map(line).concat()).expect("it is written");
    let told = succeeds(
        pacos()
            .args(["plugin", "run"])
            .arg(component())
            .arg(&lines)
            .args(["--config", "url = \"https://example.com/{}\"", "--replies"])
            .arg(&replies),
    );
    let codes: Vec<String> = told
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
            line["code"].as_str().unwrap_or_default().to_owned()
        })
        .collect();
    assert_eq!(
        codes,
        ["kept", "status-404", "script-mismatch", "script-ended"]
    );
}
