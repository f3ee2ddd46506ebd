//! Training and evaluation through the command line: a tiny student, a scripted teacher and judge.

mod support;

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use scripted_server::{Action, Recorded, Script, alpaca_teacher};
use support::{Bench, Recipe, dataset, fails, query, student, succeeds, text};

const TASKS: i64 = 8;

/// A recipe that trains the tiny student for three steps and has its answers judged.
fn recipe(folder: &Path, judge: &str) -> Recipe {
    student::write(&folder.join("student"));
    Recipe {
        // One unit at a time: none is begun beyond the target, so what is asked can be counted.
        generator: format!("{}\nwindow = 1", Recipe::default().generator),
        model: format!(
            "\n[models.tiny]\nprovider = \"local\"\nmodel = \"{}\"",
            folder.join("student").display()
        ),
        roles: "judge = \"scripted\"\nstudent = \"tiny\"".into(),
        rest: format!(
            "[trainer]\nmax_steps = 3\nbatch_size = 4\nlearning_rate = 1e-3\neval_fraction = 0.2\n\
             eval_every = 1\ncheckpoint_every = 1\n\n\
             [evaluation]\nbundled = true\nlimit = {TASKS}\nmax_tokens = 12\n\n\
             [[evaluators]]\nplugin = \"pairwise-judge\"\ngrant = [\"models:judge\"]\n{judge}"
        ),
        target: 20,
        ..Recipe::default()
    }
}

/// The alpaca teacher; as a judge, one that prefers whatever is nearer to a reference answer.
fn good_judge() -> impl Script {
    let references: BTreeSet<String> = include_str!("../manifests/evaluation/tasks.jsonl")
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a task"))
        .map(|task| {
            task["output"]
                .as_str()
                .expect("a reference")
                .trim()
                .to_owned()
        })
        .collect();
    judge(
        move |a, b| match (references.contains(a), references.contains(b)) {
            (true, false) => "A",
            (false, true) => "B",
            // The student's babble, told apart by something that does not depend on the order.
            _ if a > b => "A",
            _ => "B",
        },
    )
}

fn judge(prefer: impl Fn(&str, &str) -> &'static str + Send + Sync + 'static) -> impl Script {
    let teacher = alpaca_teacher();
    move |request: &Recorded| {
        let prompt = request.prompt();
        let answer = |tag: &str| {
            let (_, rest) = prompt.split_once(&format!("<{tag}>\n"))?;
            Some(rest.split_once(&format!("\n</{tag}>"))?.0)
        };
        match (answer("answer-A"), answer("answer-B")) {
            (Some(a), Some(b)) => Action::reply(format!(
                "{{\"winner\": \"{}\"}}",
                prefer(a.trim(), b.trim())
            )),
            _ => teacher.action(request),
        }
    }
}

fn bench(script: impl Script, judge: &str) -> Bench {
    let bench = Bench::new(script, &Recipe::default());
    bench.write(&recipe(bench.folder.path(), judge));
    bench
}

#[test]
fn answers_are_judged_once_and_summed_up() {
    let pairs =
        "config = { pairs = [[\"student\", \"student.base\"], [\"student\", \"teacher\"]] }";
    let bench = bench(good_judge(), pairs);
    let dir = bench.dir("run");
    let told = succeeds(&mut bench.run(&dir));
    for said in [
        "Trained for 3 steps",
        "student.base alpaca",
        "student against student.base: wins",
        "student against teacher: wins",
        "A task that nobody was trained on",
        "What you can do now",
    ] {
        assert!(told.contains(said), "{said}: {told}");
    }
    let page = std::fs::read_to_string(dir.join("report.html")).expect("the report");
    assert!(
        page.contains("Decline the meeting invitation"),
        "no sample answers"
    );
    // Each of the three models answered each task, and each answer was asked for once.
    assert_eq!(
        query(
            &dir,
            "SELECT count(*) FROM answers WHERE error_code IS NULL"
        ),
        3 * TASKS
    );
    assert_eq!(
        query(
            &dir,
            "SELECT count(*) FROM requests WHERE stage LIKE 'evaluate %'"
        ),
        3 * TASKS
    );
    // Two templates of the base model, one of the student.
    assert_eq!(query(&dir, "SELECT count(*) FROM likelihoods"), 3 * TASKS);
    assert_eq!(
        query(&dir, "SELECT count(*) FROM items WHERE error_code IS NULL"),
        TASKS
    );
    // The judge knows the references, and no verdict changes with the order.
    assert_eq!(
        text(
            &dir,
            "SELECT value FROM metrics WHERE name = 'judge_usable'"
        ),
        "1.0"
    );
    assert_eq!(
        query(&dir, "SELECT count(*) FROM judgements WHERE flipped"),
        0
    );
    // Win rates are those that the judgements give.
    let rate = text(
        &dir,
        "SELECT value FROM metrics WHERE name = 'win_rate' AND attributes LIKE '%student.base%'",
    );
    let points = text(
        &dir,
        "SELECT 100.0 * avg(CASE outcome WHEN 'First' THEN 1.0 WHEN 'Tie' THEN 0.5 ELSE 0.0 END)
         FROM judgements WHERE second = 'student.base'",
    );
    assert_eq!(rate, points);
    // A second time there is nothing to do, and nothing is asked.
    let asked = bench.server.count();
    let told = succeeds(&mut bench.run(&dir));
    assert!(told.starts_with("Already done: "), "{told}");
    assert!(told.contains("student against teacher: wins"), "{told}");
    assert_eq!(bench.server.count(), asked);
}

#[test]
fn a_judge_that_always_says_a_cannot_tell() {
    let bench = bench(
        judge(|_, _| "A"),
        "config = { pairs = [[\"student\", \"student.base\"]] }",
    );
    let dir = bench.dir("run");
    let told = succeeds(&mut bench.run(&dir));
    assert!(
        told.contains("student against student.base: cannot tell"),
        "{told}"
    );
    assert_eq!(
        text(
            &dir,
            "SELECT value FROM metrics WHERE name = 'judge_usable'"
        ),
        "0.0"
    );
}

#[test]
fn a_judge_whose_words_cannot_be_read_is_named_with_what_to_do() {
    let bench = bench(
        judge(|_, _| "C"),
        "config = { pairs = [[\"student\", \"student.base\"]] }",
    );
    let dir = bench.dir("run");
    let told = succeeds(&mut bench.run(&dir));
    let judgements = query(&dir, "SELECT count(*) FROM judgements");
    let line = format!(
        "0 of {judgements} judgements of pairwise-judge 0.1.0 could be read. Take another model as \
         judge, or read what was answered instead: sqlite3 -box {}/ledger.sqlite",
        dir.display()
    );
    assert!(told.contains(&line), "{line}\n{told}");
}

#[test]
fn tasks_that_were_not_judged_for_want_of_requests_are_judged_once_there_are_more() {
    let table = "config = { pairs = [[\"student\", \"student.base\"]] }";
    let bench = bench(
        good_judge(),
        &format!("{table}\nlimits = {{ requests = 10 }}"),
    );
    let dir = bench.dir("run");
    let told = succeeds(
        bench
            .run(&dir)
            .args(["--set", "dataset.max_quarantined=100"]),
    );
    assert!(told.contains("a task could not be judged"), "{told}");
    let failed = "SELECT count(*) FROM items WHERE error_code = 'budget'";
    let judged = "SELECT group_concat(item || outcome) FROM judgements ORDER BY item, n";
    assert!(query(&dir, failed) > 0);
    let (before, asked) = (text(&dir, judged), bench.server.count());

    // Under the same limit there is nothing to do.
    let told = succeeds(
        bench
            .run(&dir)
            .args(["--set", "dataset.max_quarantined=100"]),
    );
    assert!(told.starts_with("Already done: "), "{told}");
    assert_eq!(bench.server.count(), asked);

    bench.write(&recipe(bench.folder.path(), table));
    let told = succeeds(&mut bench.run(&dir));
    assert!(!told.contains("could not be judged"), "{told}");
    assert!(
        told.contains("student against student.base: wins"),
        "{told}"
    );
    assert_eq!(query(&dir, failed), 0);
    assert_eq!(query(&dir, "SELECT count(*) FROM items"), TASKS);
    for judgement in before.split(',') {
        assert!(text(&dir, judged).contains(judgement), "{judgement}");
    }
    // Nothing was asked twice, and nothing was trained again.
    assert_eq!(
        query(&dir, "SELECT count(*) FROM attempts"),
        query(&dir, "SELECT count(DISTINCT key) FROM attempts")
    );
    assert_eq!(query(&dir, "SELECT count(*) FROM training"), 3);
}

#[test]
fn another_judge_is_another_run_that_trains_and_asks_nothing_twice() {
    let bench = bench(
        good_judge(),
        "config = { pairs = [[\"student\", \"student.base\"]] }",
    );
    let (dir, fork) = (bench.dir("run"), bench.dir("fork"));
    succeeds(&mut bench.run(&dir));
    bench.write(&recipe(
        bench.folder.path(),
        "config = { pairs = [[\"student\", \"teacher\"]] }",
    ));
    let told = fails(&mut bench.run(&dir), 2);
    assert!(told.contains("evaluators.0.config"), "{told}");
    assert!(told.contains("--fork NEW"), "{told}");
    let asked = bench.server.count();
    let told = succeeds(bench.run(&dir).arg("--fork").arg(&fork));
    assert!(told.contains("student against teacher: wins"), "{told}");
    // The card quotes the manifest, judge and all; the examples are the same.
    for ((name, bytes), (_, forked)) in dataset(&dir).iter().zip(dataset(&fork)) {
        assert!(*bytes == forked || name == "README.md", "{name} is another");
    }
    // The student was taken over, and only the new comparisons were asked: two a task at most.
    let model = |dir: &Path| std::fs::read(dir.join("model/model.safetensors")).expect("a model");
    assert!(model(&dir) == model(&fork), "the student is another");
    assert!(
        !fork.join("checkpoints").exists(),
        "the student was trained again"
    );
    assert_eq!(query(&fork, "SELECT count(*) FROM training"), 3);
    // So was what the generator and the filters made of it, with who asked what.
    for (view, condition) in [
        ("units", "surplus = 0"),
        ("verdicts", "1"),
        (
            "requests",
            "stage = 'generator' AND CAST(place AS INTEGER) IN (SELECT unit FROM units WHERE surplus = 0)",
        ),
    ] {
        let count = |dir: &Path| {
            query(
                dir,
                &format!("SELECT count(*) FROM {view} WHERE {condition}"),
            )
        };
        assert_eq!(count(&dir), count(&fork), "{view}");
        assert!(count(&fork) > 0, "{view}");
    }
    let generated = "SELECT count(*) FROM attempts WHERE stage = 'generator'";
    assert_eq!(query(&fork, generated), 0);
    let more = bench.server.requests().split_off(asked);
    assert!(
        more.iter()
            .all(|request| request.prompt().contains("<answer-A>"))
    );
    assert!(
        more.len() <= 2 * usize::try_from(TASKS).expect("small"),
        "{}",
        more.len()
    );
}

#[test]
fn more_examples_than_were_trained_on_are_refused_before_they_are_asked_for() {
    let bench = bench(good_judge(), "");
    let dir = bench.dir("run");
    succeeds(&mut bench.run(&dir));
    let asked = bench.server.count();
    let told = fails(bench.run(&dir).args(["--set", "dataset.target=200"]), 2);
    assert!(
        told.contains("dataset.target: the student is trained on"),
        "{told}"
    );
    assert_eq!(bench.server.count(), asked);
}

#[test]
fn an_evaluator_is_the_same_as_a_component_and_as_a_library() {
    let pairs = "config = { pairs = [[\"student\", \"student.base\"]] }";
    let bench = bench(good_judge(), pairs);
    let (component, library) = (bench.dir("component"), bench.dir("library"));
    succeeds(&mut bench.run(&component));
    let file = support::library("pairwise_judge");
    let recipe = std::fs::read_to_string(bench.manifest()).expect("the manifest");
    let named = format!(
        "plugin = \"{}\"\ntrust = \"native\"\nsha256 = \"{}\"",
        file.display(),
        support::sha256(&file)
    );
    let recipe = recipe.replace("plugin = \"pairwise-judge\"", &named);
    std::fs::write(bench.manifest(), recipe).expect("the folder is writable");
    succeeds(bench.run(&component).arg("--fork").arg(&library));
    let metrics = "SELECT group_concat(name || value || attributes, '
') FROM metrics";
    assert_eq!(text(&component, metrics), text(&library, metrics));
    // The same requests, so the same replies: nothing was paid for again.
    assert_eq!(
        query(
            &library,
            "SELECT count(*) FROM attempts WHERE stage = 'evaluators.0'"
        ),
        0
    );
}

#[test]
fn a_recipe_that_changed_in_the_middle_of_evaluation_is_refused_and_leaves_no_trace() {
    let bench = bench(
        good_judge(),
        "config = { pairs = [[\"student\", \"student.base\"]] }",
    );
    let dir = bench.dir("run");
    let other_judge = "config = { pairs = [[\"student\", \"teacher\"]] }";
    for (point, change, named) in [
        (
            "likelihood:before-commit@3",
            "max_tokens = 13",
            "evaluation.max_tokens",
        ),
        (
            "answer:after-commit@2",
            "max_tokens = 13",
            "evaluation.max_tokens",
        ),
        (
            "judgements:after-commit@2",
            other_judge,
            "evaluators.0.config",
        ),
    ] {
        let killed = bench.run(&dir).env("PACOS_CRASH_AT", point).output();
        assert!(
            !killed.expect("the command starts").status.success(),
            "{point}"
        );
        let recipe = std::fs::read_to_string(bench.manifest()).expect("the manifest");
        let record = "SELECT manifest FROM recipe";
        let before = text(&dir, record);
        let changed = match change {
            "max_tokens = 13" => recipe.replace("max_tokens = 12", change),
            _ => recipe.replace(
                "pairs = [[\"student\", \"student.base\"]]",
                "pairs = [[\"student\", \"teacher\"]]",
            ),
        };
        assert_ne!(recipe, changed);
        std::fs::write(bench.manifest(), changed).expect("the folder is writable");
        let told = fails(&mut bench.run(&dir), 2);
        assert!(told.contains(named), "{point}: {told}");
        assert_eq!(text(&dir, record), before, "{point}");
        std::fs::write(bench.manifest(), recipe).expect("the folder is writable");
    }
    succeeds(&mut bench.run(&dir));
}

#[test]
fn a_student_that_is_sampled_otherwise_is_asked_anew_and_not_trained_again() {
    let bench = bench(
        good_judge(),
        "config = { pairs = [[\"student\", \"student.base\"]] }",
    );
    let (dir, fork) = (bench.dir("run"), bench.dir("fork"));
    succeeds(&mut bench.run(&dir));
    let recipe = std::fs::read_to_string(bench.manifest()).expect("the manifest");
    let local = "provider = \"local\"";
    // Answers are greedy, so that only a penalty changes them.
    let sampling = format!("{local}\nsampling = {{ repetition_penalty = 1000 }}");
    assert!(recipe.contains(local), "{recipe}");
    std::fs::write(bench.manifest(), recipe.replace(local, &sampling)).expect("writable");
    let told = fails(&mut bench.run(&dir), 2);
    assert!(told.contains("roles.student"), "{told}");
    succeeds(bench.run(&dir).arg("--fork").arg(&fork));
    let weights = |dir: &Path| std::fs::read(dir.join("model/model.safetensors")).expect("a model");
    assert!(weights(&dir) == weights(&fork), "the student is another");
    assert!(!fork.join("checkpoints").exists(), "it was trained again");
    let answers = "SELECT group_concat(text, '|') FROM answers WHERE model LIKE 'student%'";
    assert_ne!(text(&dir, answers), text(&fork, answers));
}

#[test]
fn another_base_model_under_the_same_name_is_not_compared_with() {
    let bench = bench(good_judge(), "");
    let dir = bench.dir("run");
    let killed = bench
        .run(&dir)
        .env("PACOS_CRASH_AT", "model:before-weights")
        .output();
    assert!(!killed.expect("the command starts").status.success());
    let weights = bench.folder.path().join("student/model.safetensors");
    let mut bytes = std::fs::read(&weights).expect("the weights");
    *bytes.last_mut().expect("there are some") ^= 1;
    std::fs::write(&weights, bytes).expect("the folder is writable");
    let told = fails(&mut bench.run(&dir), 3);
    assert!(
        told.contains("training began with files of sha256"),
        "{told}"
    );
}

#[test]
fn a_task_without_a_reference_answer_is_refused_at_once() {
    let bench = bench(good_judge(), "");
    let tasks = bench.folder.path().join("tasks.jsonl");
    std::fs::write(
        &tasks,
        "{\"instruction\": \"Say nothing.\", \"input\": \"\", \"output\": \"\"}\n",
    )
    .expect("the folder is writable");
    let recipe = std::fs::read_to_string(bench.manifest()).expect("the manifest");
    let recipe = recipe.replace(
        "[evaluation]\nbundled = true",
        "[evaluation]\nfile = \"tasks.jsonl\"",
    );
    std::fs::write(bench.manifest(), recipe).expect("the folder is writable");
    let told = fails(&mut bench.run(&bench.dir("run")), 2);
    assert!(told.contains("has no reference answer"), "{told}");
    assert_eq!(bench.server.count(), 0);
}

#[test]
fn a_fork_of_nothing_is_refused_and_makes_nothing() {
    let bench = bench(good_judge(), "");
    let new = bench.dir("new");
    let told = fails(bench.run(&bench.dir("nothing")).arg("--fork").arg(&new), 2);
    assert!(told.contains("holds no run to fork"), "{told}");
    assert!(!new.exists());
}

#[test]
fn a_student_that_is_not_whole_is_refused_before_anything_is_asked() {
    let bench = bench(good_judge(), "");
    let weights = bench.folder.path().join("student/model.safetensors");
    let bytes = std::fs::read(&weights).expect("the weights");
    std::fs::write(&weights, &bytes[..bytes.len() - 100]).expect("the folder is writable");
    let told = fails(&mut bench.run(&bench.dir("run")), 3);
    assert!(told.contains("model `tiny`"), "{told}");
    assert!(told.contains("model.safetensors"), "{told}");
    assert_eq!(bench.server.count(), 0);
}

#[test]
fn an_evaluator_that_cannot_judge_a_task_leaves_the_others_their_figures() {
    let script = good_judge();
    // The judge fails for good over one task, in words that are no refusal.
    let script = move |request: &Recorded| {
        let prompt = request.prompt();
        if prompt.contains("<answer-A>") && prompt.contains("Decline the meeting invitation") {
            return Action::error(400, "context_length_exceeded", "too many tokens");
        }
        script.action(request)
    };
    let bench = bench(
        script,
        "config = { pairs = [[\"student\", \"student.base\"]] }",
    );
    let dir = bench.dir("run");
    succeeds(&mut bench.run(&dir));
    assert_eq!(
        query(
            &dir,
            "SELECT count(*) FROM items WHERE error_code IS NOT NULL"
        ),
        1
    );
    assert_eq!(
        query(&dir, "SELECT n FROM metrics WHERE name = 'win_rate'"),
        TASKS - 1
    );
}

#[test]
#[cfg(unix)]
fn an_interrupt_while_the_judge_is_asked_is_obeyed_and_loses_nothing() {
    let script = good_judge();
    let slow = move |request: &Recorded| {
        let wait = match request.prompt().contains("<answer-A>") {
            true => Duration::from_millis(300),
            false => Duration::ZERO,
        };
        script.action(request).after(wait)
    };
    let bench = bench(
        slow,
        "config = { pairs = [[\"student\", \"student.base\"]] }",
    );
    let dir = bench.dir("run");
    let mut recipe = std::fs::read_to_string(bench.manifest()).expect("the manifest");
    // One verdict after the other, so that some are there and most are not.
    recipe = recipe.replacen(
        "model = \"scripted\"",
        "model = \"scripted\"\nmax_concurrency = 1",
        1,
    );
    std::fs::write(bench.manifest(), recipe).expect("the folder is writable");
    let mut child = bench.start(&dir);
    let judged = |server: &scripted_server::Server| {
        let requests = server.requests();
        let asked = requests
            .iter()
            .filter(|r| r.prompt().contains("<answer-A>"));
        asked.count()
    };
    while judged(&bench.server) < 3 {
        assert!(
            child.try_wait().expect("it can be asked").is_none(),
            "it ended early"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    let signalled = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .expect("kill starts");
    assert!(signalled.success());
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(130));
    assert!(judged(&bench.server) < 10, "it went on asking");
    assert_eq!(
        query(&dir, "SELECT count(*) FROM attempts WHERE state = 'sent'"),
        0
    );
    let told = succeeds(&mut bench.run(&dir));
    assert!(
        told.contains("student against student.base: wins"),
        "{told}"
    );
    let asked = bench.server.requests();
    let repeated = asked
        .iter()
        .filter(|request| request.occurrence > 1)
        .count();
    assert_eq!(repeated, 0, "a recorded verdict was asked for again");
}

/// Everything that a run came to, save for how long it took.
fn results(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut results = dataset(dir);
    for file in ["model/model.safetensors", "model/config.json"] {
        let bytes = std::fs::read(dir.join(file)).expect("the student was written");
        results.push((file.to_owned(), bytes));
    }
    for columns in [
        "step, loss, learning_rate, grad_norm, held_out_loss FROM training",
        "item, model, template, log_likelihood, tokens FROM likelihoods",
        "item, model, text, finish_reason, error FROM answers",
        "evaluator, item, error FROM items",
        "evaluator, item, n, judgement FROM judgements",
        "evaluator, name, value, standard_error, n, attributes FROM metrics",
    ] {
        let ledger = rusqlite::Connection::open(dir.join("ledger.sqlite")).expect("the ledger");
        let mut query = ledger
            .prepare(&format!("SELECT {columns} ORDER BY 1, 2, 3"))
            .expect("the view is documented");
        let width = query.column_count();
        let rows: Vec<String> = query
            .query_map([], |row| {
                let cells: Result<Vec<_>, _> = (0..width)
                    .map(|i| row.get_ref(i).map(|cell| format!("{cell:?}")))
                    .collect();
                cells.map(|cells| cells.join("|"))
            })
            .expect("the view can be read")
            .collect::<Result<_, _>>()
            .expect("its rows can be read");
        assert!(!rows.is_empty(), "{columns}");
        results.push((columns.to_owned(), rows.join("\n").into_bytes()));
    }
    results
}

fn same_as_never_killed(dir: &Path, expected: &[(String, Vec<u8>)], what: &str) {
    for ((name, bytes), (_, wanted)) in results(dir).iter().zip(expected) {
        assert!(bytes == wanted, "{what}: {name} is another");
    }
    let paid_twice = "SELECT count(*) FROM (SELECT key FROM attempts GROUP BY key
                      HAVING sum(state = 'answered') > 1)";
    assert_eq!(
        query(dir, paid_twice),
        0,
        "{what}: a recorded reply was paid twice"
    );
}

#[test]
fn killed_in_training_or_evaluation_a_run_ends_as_one_never_killed() {
    let bench = bench(
        good_judge(),
        "config = { pairs = [[\"student\", \"student.base\"]] }",
    );
    let whole = bench.dir("whole");
    succeeds(&mut bench.run(&whole));
    let expected = results(&whole);
    for point in [
        "step:after@1",
        "step:after@3",
        "checkpoint:mid-write@1",
        "checkpoint:mid-write@2",
        "checkpoint:before-rename@2",
        "checkpoint:after-rename@1",
        "model:before-weights@1",
        "likelihood:before-commit@3",
        "likelihood:before-commit@20",
        "answer:before-commit@1",
        "answer:after-commit@20",
        "judgements:before-commit@2",
        "judgements:after-commit@8",
    ] {
        let dir = bench.dir(&point.replace([':', '@'], "-"));
        let killed = bench
            .run(&dir)
            .env("PACOS_CRASH_AT", point)
            .output()
            .expect("the command starts");
        assert!(!killed.status.success(), "{point} was never passed");
        succeeds(&mut bench.run(&dir));
        same_as_never_killed(&dir, &expected, point);
    }
}

#[test]
fn killed_at_eight_moments_of_training_and_evaluation() {
    let bench = bench(
        good_judge(),
        "config = { pairs = [[\"student\", \"student.base\"]] }",
    );
    let whole = bench.dir("whole");
    let generated = || whole.join("dataset/README.md").exists();
    let mut child = bench.start(&whole);
    let mut first = None;
    let began = Instant::now();
    let ended = loop {
        if first.is_none() && generated() {
            first = Some(began.elapsed());
        }
        if child.try_wait().expect("it can be asked").is_some() {
            break began.elapsed();
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let first = first.expect("the dataset was written");
    let expected = results(&whole);
    for moment in 0..8_u32 {
        let dir = bench.dir(&format!("moment-{moment}"));
        let wait = first + (ended - first).mul_f64((f64::from(moment) + 0.5) / 8.0);
        let mut child = bench.start(&dir);
        std::thread::sleep(wait);
        // It may have ended by itself just before.
        let _ = child.kill();
        child.wait().expect("it ends");
        succeeds(&mut bench.run(&dir));
        same_as_never_killed(&dir, &expected, &format!("{wait:?}"));
    }
}
