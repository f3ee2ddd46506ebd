//! Whole recipes against a scripted teacher, through the command line.

mod support;

use std::time::Duration;

use scripted_server::{Action, Recorded, Reply, Script, alpaca_teacher, failing_first};
use support::{Bench, Recipe, dataset, fails, pacos, query, succeeds};

#[test]
fn the_default_recipe_makes_a_dataset() {
    let bench = Bench::new(alpaca_teacher(), &Recipe::default());
    let dir = bench.dir("run");
    let told = succeeds(&mut bench.run(&dir));
    assert!(told.contains("examples after"), "{told}");
    let accepted = query(&dir, "SELECT count(*) FROM examples");
    assert!(accepted >= 60, "{accepted}");
    let files = dataset(&dir);
    let rows: serde_json::Value = serde_json::from_slice(
        &files
            .iter()
            .find(|(name, _)| name == "alpaca_data.json")
            .expect("the Alpaca file")
            .1,
    )
    .expect("it is JSON");
    assert_eq!(
        rows.as_array().map(Vec::len),
        usize::try_from(accepted).ok()
    );
    // Every candidate has a verdict of the first filter, and every one it kept one of the second.
    let candidates = query(&dir, "SELECT count(*) FROM candidates");
    assert_eq!(
        query(&dir, "SELECT count(*) FROM verdicts WHERE filter = 0"),
        candidates
    );
    assert_eq!(
        query(&dir, "SELECT count(*) FROM verdicts WHERE filter = 1"),
        query(
            &dir,
            "SELECT count(*) FROM verdicts WHERE filter = 0 AND decision IN ('keep', 'edit')"
        )
    );
}

#[test]
fn the_card_names_the_licence_and_no_folder_of_this_machine() {
    let recipe = Recipe {
        target: 5,
        ..Recipe::default()
    };
    let bench = Bench::new(alpaca_teacher(), &recipe);
    let card = |name: &str, settings: &[&str]| {
        let dir = bench.dir(name);
        let mut run = bench.run(&dir);
        for setting in settings {
            run.args(["--set", setting]);
        }
        succeeds(&mut run);
        let files = dataset(&dir);
        let of = |name: &str| {
            let found = files.iter().find(|(file, _)| file == name);
            String::from_utf8(found.expect("it is written").1.clone()).expect("it is text")
        };
        (of("README.md"), of("dataset.jsonl"))
    };
    let (card_of_none, _) = card("none", &[]);
    assert!(card_of_none.starts_with("---\nlicense: unknown\n"));
    let (card, rows) = card(
        "licensed",
        &[
            "dataset.license=cc-by-nc-4.0",
            "models.scripted.model=/srv/owner/tiny-teacher",
        ],
    );
    assert!(card.starts_with("---\nlicense: cc-by-nc-4.0\n"), "{card}");
    assert!(
        card.contains("\n| teacher | tiny-teacher | openai |"),
        "{card}"
    );
    assert!(rows.contains(r#""model":"tiny-teacher""#), "{rows}");
    for text in [card, rows] {
        assert!(!text.contains("/srv"), "{text}");
    }
}

#[test]
fn alpaca_2023_asks_a_completion_endpoint() {
    let recipe = Recipe {
        generator: "plugin = \"self-instruct\"\ngrant = [\"models:teacher\"]\nconfig = { mode = \"alpaca-2023\" }".into(),
        filters: "[[filters]]\nplugin = \"alpaca-heuristics\"\nconfig = { mode = \"alpaca-2023\" }\n\n[[filters]]\nplugin = \"rouge-l\"".into(),
        model: "endpoint = \"completions\"".into(),
        ..Recipe::default()
    };
    let bench = Bench::new(alpaca_teacher(), &recipe);
    let dir = bench.dir("run");
    succeeds(&mut bench.run(&dir));
    assert!(
        bench
            .server
            .requests()
            .iter()
            .all(|r| r.path.ends_with("/completions") && !r.is_chat())
    );
    let asked = &bench.server.requests()[0].body;
    assert_eq!(asked["max_tokens"], 3072);
    assert_eq!(asked["stop"], serde_json::json!(["\n20", "20.", "20."]));
}

#[test]
fn the_dataset_is_the_same_at_any_concurrency() {
    let mut slow_first = alpaca_teacher();
    slow_first.faults.empty = 0.1;
    // Replies of some requests take long, so that they overtake each other.
    let script = move |request: &Recorded| {
        let wait = Duration::from_millis(request.identity % 40);
        slow_first.action(request).after(wait)
    };
    let bench = Bench::new(script, &Recipe::default());
    let (one, many) = (bench.dir("one"), bench.dir("many"));
    succeeds(
        bench
            .run(&one)
            .arg("--set")
            .arg("models.scripted.max_concurrency=1"),
    );
    succeeds(
        bench
            .run(&many)
            .arg("--set")
            .arg("models.scripted.max_concurrency=16"),
    );
    // The card quotes the manifest, `max_concurrency` and all; everything else is the same.
    let rows = |dir| {
        let mut files = dataset(dir);
        files.retain(|(name, _)| name != "README.md");
        files
    };
    assert_eq!(rows(&one), rows(&many));
}

#[test]
fn a_finished_run_says_so_and_asks_nothing() {
    let bench = Bench::new(alpaca_teacher(), &Recipe::default());
    let dir = bench.dir("run");
    succeeds(&mut bench.run(&dir));
    let (asked, before) = (bench.server.count(), dataset(&dir));
    let told = succeeds(&mut bench.run(&dir));
    assert!(told.starts_with("Already done: "), "{told}");
    assert_eq!(bench.server.count(), asked);
    assert!(dataset(&dir) == before, "the dataset changed");
}

#[test]
fn a_limit_is_a_real_run_only_shorter() {
    let bench = Bench::new(alpaca_teacher(), &Recipe::default());
    let (short, whole) = (bench.dir("short"), bench.dir("whole"));
    let told = succeeds(bench.run(&short).args(["--limit", "2"]));
    assert!(told.contains("after 2 units"), "{told}");
    succeeds(&mut bench.run(&short));
    succeeds(&mut bench.run(&whole));
    assert_eq!(dataset(&short), dataset(&whole));
}

#[test]
fn swapping_a_filter_costs_nothing_that_was_asked_before() {
    let bench = Bench::new(alpaca_teacher(), &Recipe::default());
    let (first, second) = (bench.dir("first"), bench.dir("second"));
    succeeds(&mut bench.run(&first));
    bench.write(&Recipe {
        filters: "[[filters]]\nplugin = \"rouge-l\"\nconfig = { threshold = 0.95 }".into(),
        // Fewer filters accept sooner, so that every request is one that the first run made.
        target: 40,
        ..Recipe::default()
    });
    let told = fails(&mut bench.run(&first), 2);
    assert!(told.contains("holds a run of another recipe"), "{told}");
    assert!(
        told.contains("filters.0.plugin: alpaca-heuristics"),
        "{told}"
    );
    assert!(told.contains("--fork NEW"), "{told}");
    succeeds(bench.run(&first).arg("--fork").arg(&second));
    assert!(query(&second, "SELECT count(*) FROM examples") >= 40);
    // The first run's replies are on record here, and no attempt was made for any of them.
    let asked_again = query(
        &second,
        "SELECT count(*) FROM requests WHERE key NOT IN (SELECT key FROM attempts)",
    );
    assert!(asked_again > 0);
    assert!(
        query(&second, "SELECT count(*) FROM attempts")
            < query(&first, "SELECT count(*) FROM attempts")
    );
}

#[test]
fn servers_that_misbehave_do_not_change_the_dataset() {
    let calm = Bench::new(alpaca_teacher(), &Recipe::default());
    let calm_dir = calm.dir("run");
    succeeds(&mut calm.run(&calm_dir));
    let expected = dataset(&calm_dir);
    let trouble: [(&str, Action); 5] = [
        (
            "429",
            Action::error(429, "rate_limit_exceeded", "slow down").header("Retry-After", "0"),
        ),
        ("500", Action::error(500, "server_error", "oops")),
        (
            "cut",
            Action::CutAfter {
                bytes: 20,
                reply: Reply::new("This reply is cut in the middle of its body."),
            },
        ),
        (
            "html",
            Action::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<html></html>".to_vec()),
        ),
        (
            "empty body",
            Action::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ),
    ];
    for (name, action) in trouble {
        let script = failing_first(1, action, alpaca_teacher());
        let bench = Bench::new(script, &Recipe::default());
        let dir = bench.dir("run");
        succeeds(&mut bench.run(&dir));
        // Provenance names the server's address, which is another here; the examples do not.
        let examples = |files: &[(String, Vec<u8>)]| {
            let file = files.iter().find(|(name, _)| name == "alpaca_data.json");
            String::from_utf8(file.expect("the Alpaca file").1.clone()).expect("it is UTF-8")
        };
        assert_eq!(examples(&dataset(&dir)), examples(&expected), "{name}");
    }
}

#[test]
fn a_wrong_key_stops_the_run_at_once_and_costs_nothing() {
    let bench = Bench::new(
        |_: &Recorded| Action::error(401, "invalid_api_key", "Incorrect API key provided"),
        &Recipe::default(),
    );
    let dir = bench.dir("run");
    let told = fails(&mut bench.run(&dir), 3);
    assert!(told.contains("model `scripted`"), "{told}");
    assert!(told.contains("Incorrect API key provided"), "{told}");
    assert!(
        bench.server.count() <= 16,
        "{} requests",
        bench.server.count()
    );
    assert_eq!(
        query(&dir, "SELECT count(*) FROM attempts WHERE usd > 0"),
        0
    );
}

#[test]
fn a_budget_is_never_exceeded() {
    let recipe = Recipe {
        model: "price = { input = 1.0, output = 2.0, as_of = \"2026-11-01\" }".into(),
        rest: "[budget]\nrequests = 5".into(),
        target: 10_000,
        ..Recipe::default()
    };
    let bench = Bench::new(alpaca_teacher(), &recipe);
    let dir = bench.dir("run");
    let told = fails(&mut bench.run(&dir), 3);
    assert!(
        told.contains("the budget is spent: 5 of 5 requests"),
        "{told}"
    );
    assert_eq!(bench.server.count(), 5);
    // Going on without more budget asks nothing more.
    fails(&mut bench.run(&dir), 3);
    assert_eq!(bench.server.count(), 5);
}

#[test]
fn when_everything_is_dropped_the_run_says_why_and_stops() {
    let recipe = Recipe {
        filters: "[[filters]]\nplugin = \"rouge-l\"\nconfig = { threshold = 0.0 }".into(),
        rest: String::new(),
        ..Recipe::default()
    };
    let bench = Bench::new(alpaca_teacher(), &recipe);
    let told = fails(
        bench
            .run(&bench.dir("run"))
            .args(["--set", "dataset.patience=6"]),
        4,
    );
    assert!(told.contains("the last 6 units accepted nothing"), "{told}");
}

#[test]
fn two_runs_in_one_directory_do_not_meet() {
    let bench = Bench::new(
        |request: &Recorded| {
            alpaca_teacher()
                .action(request)
                .after(Duration::from_millis(300))
        },
        &Recipe::default(),
    );
    let dir = bench.dir("run");
    let mut first = bench.run(&dir).spawn().expect("the command starts");
    for _ in 0..6000 {
        if dir.join("ledger.sqlite").exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let told = fails(&mut bench.run(&dir), 5);
    assert!(told.contains("another `pacos` is running in"), "{told}");
    first.kill().expect("it is still running");
    first.wait().expect("it ends");
    // The lock went with the process, whatever files it left.
    succeeds(bench.run(&dir).args(["--limit", "1"]));
}

#[test]
fn a_directory_with_other_files_is_left_alone() {
    let bench = Bench::new(alpaca_teacher(), &Recipe::default());
    let told = fails(&mut bench.run(bench.folder.path()), 5);
    assert!(
        told.contains("is not empty and is no run of Pacos"),
        "{told}"
    );
}

/// Not even root makes a folder in `/sys`, so that this holds for whoever runs the tests.
#[cfg(target_os = "linux")]
#[test]
fn a_directory_that_cannot_be_written_is_said_before_anything_is_asked() {
    let bench = Bench::new(alpaca_teacher(), &Recipe::default());
    let told = fails(&mut bench.run(std::path::Path::new("/sys/pacos-run")), 5);
    let (begin, end) = (
        "error: cannot use the run directory /sys/pacos-run: ",
        "; choose another with --dir, or make this one writable\n",
    );
    let reason = told
        .strip_prefix(begin)
        .and_then(|rest| rest.strip_suffix(end));
    assert!(reason.is_some_and(|words| !words.contains(": ")), "{told}");
    assert!(bench.server.requests().is_empty());
}

#[test]
fn mistakes_in_limits_do_not_hide_those_in_the_configuration() {
    let recipe = Recipe {
        filters: "[[filters]]\nplugin = \"rouge-l\"\nlimits = { request = 3 }\n\
                  config = { treshold = 0.7 }"
            .into(),
        ..Recipe::default()
    };
    let bench = Bench::new(alpaca_teacher(), &recipe);
    let told = fails(pacos().arg("check").arg(bench.manifest()), 2);
    for (wrong, at) in [("`request`", "limits"), ("`treshold`", "config")] {
        let named = told
            .lines()
            .any(|line| line.contains("unknown") && line.contains(wrong));
        assert!(named, "{at}: {told}");
    }
    // A sound manifest is asked about once.
    bench.write(&Recipe {
        filters: recipe.filters.replace("limits = { request = 3 }\n", ""),
        ..Recipe::default()
    });
    let told = fails(pacos().arg("check").arg(bench.manifest()), 2);
    assert_eq!(told.matches("unknown").count(), 1, "{told}");
}

#[test]
fn help_teaches() {
    let told = succeeds(pacos().arg("--help"));
    for command in ["run", "check", "plan", "report", "model", "plugin"] {
        assert!(told.contains(command), "{told}");
    }
    assert!(told.contains("Exit codes"), "{told}");
}

/// The hostile filter of `tests/plugins`, with a crime.
fn hostile(crime: &str) -> Recipe {
    let component = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/plugins/components/hostile.wasm"
    );
    Recipe {
        filters: format!(
            "[[filters]]\nplugin = \"{component}\"\nconfig = {{ crime = \"{crime}\" }}\n\n\
             [[filters]]\nplugin = \"rouge-l\""
        ),
        target: 30,
        ..Recipe::default()
    }
}

#[test]
fn a_record_that_breaks_a_filter_is_put_aside_and_the_rest_goes_on() {
    // One task of every other reply is poison to the filter.
    let script = |request: &Recorded| match alpaca_teacher().action(request) {
        Action::Reply(mut reply) if request.identity.is_multiple_of(2) => {
            let field = "\"instruction\":\"";
            reply.text = reply
                .text
                .replacen("\"instruction\": \"", field, 1)
                .replacen(field, "\"instruction\":\"POISON ", 1);
            Action::Reply(reply)
        }
        action => action,
    };
    let bench = Bench::new(script, &hostile("poison"));
    let dir = bench.dir("run");
    succeeds(&mut bench.run(&dir));
    let poisoned = query(
        &dir,
        "SELECT count(*) FROM candidates WHERE instruction LIKE 'POISON%'",
    );
    assert!(poisoned > 0);
    assert_eq!(
        query(
            &dir,
            "SELECT count(*) FROM verdicts WHERE decision = 'quarantine' AND code = 'trap'"
        ),
        poisoned
    );
    // Those beside it in the batch lost nothing.
    assert_eq!(
        query(&dir, "SELECT count(*) FROM verdicts WHERE filter = 0"),
        query(&dir, "SELECT count(*) FROM candidates")
    );
}

#[test]
fn a_filter_that_breaks_on_everything_stops_the_run() {
    for (crime, what) in [
        ("nan-score", "score `words` is NaN"),
        ("too-few-verdicts", "0 verdicts for 1 record"),
    ] {
        let bench = Bench::new(alpaca_teacher(), &hostile(crime));
        let told = fails(&mut bench.run(&bench.dir("run")), 4);
        assert!(told.contains("more than max_quarantined = 20"), "{told}");
        assert!(told.contains(what), "{told}");
    }
}

#[test]
fn who_looked_for_what_no_plugin_is_given_is_named_with_its_place() {
    let bench = Bench::new(alpaca_teacher(), &hostile("reads-env"));
    // This one tells by its verdicts what it saw, and drops everything.
    let said = fails(&mut bench.run(&bench.dir("run")), 4);
    let mut lines = said.lines();
    let line = lines.find(|line| line.starts_with(" WARN it looked for environment variables"));
    let line = line.unwrap_or_else(|| panic!("{said}"));
    assert!(
        line.contains("plugin=\"hostile 0.1.0\" place=\"0.0 to 0."),
        "{line}"
    );
}

/// The hostile generator of `tests/plugins`, with its table's configuration and limits.
fn hostile_generator(table: &str) -> Recipe {
    let component = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/plugins/components/hostile-generator.wasm"
    );
    Recipe {
        generator: format!("plugin = \"{component}\"\ngrant = [\"models:teacher\"]\n{table}"),
        filters: String::new(),
        model: "endpoint = \"completions\"\n\
                price = { input = 1.0, output = 2.0, as_of = \"2026-11-01\" }"
            .into(),
        target: 1000,
        ..Recipe::default()
    }
}

#[test]
fn a_plugin_is_held_to_what_it_may_spend() {
    for (limit, told_of, spent) in [
        (
            "requests = 30",
            "raise limits.requests in [generator]",
            "count(*) <= 30",
        ),
        (
            "tokens = 20000",
            "raise limits.tokens in [generator]",
            "sum(prompt_tokens + completion_tokens) <= 20000",
        ),
        (
            "usd = 0.02",
            "raise limits.usd in [generator]",
            "sum(usd) <= 0.02",
        ),
    ] {
        let recipe = hostile_generator(&format!(
            "config = {{ crime = \"spends\", requests = 20 }}\nlimits = {{ {limit} }}"
        ));
        let bench = Bench::new(|_: &Recorded| Action::reply("One task"), &recipe);
        let dir = bench.dir("run");
        let told = fails(bench.run(&dir).args(["--set", "dataset.patience=5"]), 4);
        assert!(told.contains(told_of), "{told}");
        let kept_to = format!("SELECT {spent} FROM attempts WHERE stage = 'generator'");
        assert_eq!(query(&dir, &kept_to), 1, "{limit}");
        assert!(bench.server.count() > 0);
        // It is the plugin that may not, and the run's own budget that has enough.
        assert!(!told.contains("[budget]"), "{told}");
    }
}

#[test]
fn a_million_requests_in_one_call_are_refused_before_one_is_sent() {
    for requests in [20_000, 1_000_000] {
        let recipe = hostile_generator(&format!(
            "config = {{ crime = \"many-requests\", requests = {requests} }}"
        ));
        let bench = Bench::new(alpaca_teacher(), &recipe);
        let told = fails(
            bench
                .run(&bench.dir("run"))
                .args(["--set", "dataset.patience=3"]),
            4,
        );
        assert_eq!(bench.server.count(), 0, "{told}");
        assert!(
            told.contains("requests in one call; at most 10000 are taken")
                || told.contains("more than 128 MiB in one call")
                || told.contains("more memory than its 512 MiB"),
            "{told}"
        );
    }
}
