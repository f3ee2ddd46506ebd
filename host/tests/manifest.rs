//! Manifests as users write them: those that ship load, and every mistake is named in full.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use pacos::manifest::{
    Checks, Document, Endpoint, PluginSource, Problem, Problems, Provider, Recipe, Seeds, Severity,
    diagnostics,
};

/// As much of the trainer's settings as the golden files need.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TrainerTable {
    epochs: u32,
    batch_size: u32,
    lr_scheduler: Scheduler,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Scheduler {
    Cosine,
    Linear,
}

impl Default for TrainerTable {
    fn default() -> Self {
        TrainerTable {
            epochs: 3,
            batch_size: 128,
            lr_scheduler: Scheduler::Cosine,
        }
    }
}

fn manifests_in(folder: &str) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "toml"))
        .collect();
    paths.sort();
    paths
}

/// Overrides stand in a golden file's first lines: `# --set KEY=VALUE`.
fn overrides_of(text: &str) -> Vec<String> {
    text.lines()
        .map_while(|line| line.strip_prefix("# --set "))
        .map(str::to_owned)
        .collect()
}

/// `PACOS_BLESS=1` writes the expected texts anew.
#[test]
fn every_mistake_is_named_with_its_line_and_what_to_write() {
    let bless = std::env::var_os("PACOS_BLESS").is_some();
    let cases = manifests_in("tests/manifest");
    assert!(cases.len() >= 20, "{} cases", cases.len());
    let mut differing = Vec::new();
    for case in cases {
        let overrides = overrides_of(&fs::read_to_string(&case).unwrap());
        let check = |table: &serde_json::Value| diagnostics::<TrainerTable>(table);
        let checks = Checks {
            trainer: Some(&check),
            plugin: None,
        };
        let problems = match Recipe::load_with(&case, &overrides, &checks) {
            Err(problems) => problems,
            Ok(_) => panic!("{} loads", case.display()),
        };
        assert!(
            problems.iter().all(|problem| problem.help.is_some()),
            "{problems}"
        );
        let rendered = format!("{problems}\n");
        let golden = case.with_extension("txt");
        if bless {
            fs::write(&golden, rendered).unwrap();
        } else if fs::read_to_string(&golden).ok().as_deref() != Some(&rendered) {
            differing.push(format!("{}:\n{rendered}", golden.display()));
        }
    }
    assert!(
        differing.is_empty(),
        "other texts than expected (PACOS_BLESS=1 accepts them):\n{}",
        differing.join("\n")
    );
}

#[test]
fn no_key_is_ever_printed() {
    for case in ["secrets", "overrides"] {
        let golden = fs::read_to_string(format!("tests/manifest/{case}.txt")).unwrap();
        for word in ["0123456789", "sesame", "hunter2", "me:word"] {
            assert!(!golden.contains(word), "{golden}");
        }
    }
}

#[test]
fn problems_come_in_the_order_of_the_text() {
    for case in manifests_in("tests/manifest") {
        let problems = Recipe::load(&case, &[]).err().into_iter().flatten();
        let starts: Vec<usize> = problems
            .map(|problem| problem.span.map_or(0, |span| span.start))
            .collect();
        assert!(starts.is_sorted(), "{}: {starts:?}", case.display());
    }
}

fn shipped(name: &str, overrides: &[&str]) -> Recipe {
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    let path = Path::new("../manifests").join(name);
    Recipe::load(&path, &overrides).unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn every_shipped_manifest_loads() {
    let names: Vec<String> = manifests_in("../manifests")
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(
        names,
        [
            "alpaca-2023.toml",
            "alpaca.toml",
            "gpt.toml",
            "hub.toml",
            "local.toml",
            "vllm.toml"
        ]
    );
    for name in &names {
        let recipe = shipped(name, &[]);
        assert!(recipe.trainer.is_some(), "{name}");
        assert!(recipe.evaluation.is_some(), "{name}");
    }
}

#[test]
fn the_full_recipe_is_stanfords() {
    for name in ["alpaca.toml", "alpaca-2023.toml"] {
        let recipe = shipped(name, &[]);
        assert_eq!(recipe.dataset.target, 52_002, "{name}");
        assert_eq!(
            recipe.generator.plugin.config["tasks_per_request"], 20,
            "{name}"
        );
        let Seeds::File(seeds) = &recipe.seeds else {
            panic!("{name}: the seeds are a file that can be looked at");
        };
        assert_eq!(fs::read_to_string(seeds).unwrap().lines().count(), 175);
        let trainer = recipe.trainer.unwrap();
        let expected = serde_json::json!({
            "epochs": 3, "batch_size": 128, "learning_rate": 2e-5, "lr_scheduler": "cosine",
            "warmup_ratio": 0.03, "weight_decay": 0.0, "max_seq_len": 512,
        });
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(&trainer[key], value, "{name}: {key}");
        }
        let Provider::Local(student) = &recipe.models[&recipe.roles["student"]].provider else {
            panic!("{name}: the student is local");
        };
        assert_eq!(student.model, "hf:huggyllama/llama-7b");
        let Provider::OpenAi(teacher) = &recipe.models[&recipe.roles["teacher"]].provider else {
            panic!("{name}: the teacher is behind a server");
        };
        let endpoint = match name {
            "alpaca-2023.toml" => Endpoint::Completions,
            _ => Endpoint::Chat,
        };
        assert_eq!(teacher.endpoint, endpoint, "{name}");
    }
}

#[test]
fn the_local_recipe_needs_nobody_else() {
    let recipe = shipped("local.toml", &[]);
    let all_local = recipe
        .models
        .values()
        .all(|model| matches!(model.provider, Provider::Local(_)));
    assert!(all_local);
    assert_eq!(recipe.dataset.target, 64);
    assert_eq!(recipe.trainer.unwrap()["max_steps"], 16);
    assert_eq!(recipe.evaluation.unwrap().limit, Some(24));
}

#[test]
fn a_resolved_recipe_is_a_manifest_of_the_same_recipe() {
    for path in manifests_in("../manifests") {
        let recipe = Recipe::load(&path, &[]).unwrap();
        let text = recipe.toml();
        let folder = path.parent().unwrap();
        let again = Recipe::from_text("resolved.toml", folder, &text, &[], &Checks::default())
            .unwrap_or_else(|problems| panic!("{problems}\n{text}"));
        assert_eq!(recipe.resolved(), again.resolved(), "{}", path.display());
        assert_eq!(text, again.toml());
    }
}

#[test]
fn how_a_local_model_is_sampled_is_part_of_the_recipe() {
    let [plain, cool] = [
        None,
        Some("models.smollm2.sampling={ top_k = 5, min_p = 0.1 }"),
    ]
    .map(|set| shipped("local.toml", set.as_slice()).resolved());
    assert!(plain["models"]["smollm2"].get("sampling").is_none());
    assert_eq!(
        cool["models"]["smollm2"]["sampling"],
        serde_json::json!({"top_k": 5, "min_p": 0.1})
    );
}

#[test]
fn a_published_recipe_tells_nobody_where_its_files_were() {
    let folder = tempfile::tempdir().unwrap();
    let student = folder.path().join("owner/my-student");
    fs::create_dir_all(&student).unwrap();
    let filter = folder.path().join("owner/filter.wasm");
    fs::write(&filter, "x").unwrap();
    let recipe = small(&[
        &format!("models.small.model={}", student.display()),
        "models.server.model=/srv/owner/teacher",
        "dataset.license=cc-by-nc-4.0",
    ])
    .unwrap();
    assert!(recipe.toml().contains("owner/my-student"));
    let published = recipe.published();
    assert_eq!(published["models"]["small"]["model"], "my-student");
    assert_eq!(published["models"]["server"]["model"], "teacher");
    assert_eq!(published["dataset"]["license"], "cc-by-nc-4.0");
    // Paths beside the manifest and names say nothing of the machine.
    assert_eq!(
        published["filters"][0]["plugin"],
        "tests/manifest/files/filter.wasm"
    );
    assert_eq!(published["generator"]["plugin"], "self-instruct");
    let text = SMALL.replace(
        "tests/manifest/files/filter.wasm",
        &filter.display().to_string(),
    );
    let elsewhere =
        Recipe::from_text("a.toml", Path::new(""), &text, &[], &Checks::default()).unwrap();
    assert_eq!(elsewhere.published()["filters"][0]["plugin"], "filter.wasm");
    assert!(!elsewhere.published_toml().contains("owner"));
}

const SMALL: &str = r#"
[seeds]
bundled = true

[models.server]
provider = "openai"
model = "m"
base_url = "http://localhost:8000/v1/"
timeout = "2m"

[models.small]
provider = "local"
model = "embedded:smollm2-135m-instruct"

[roles]
teacher = "server"
student = "small"

[generator]
plugin = "self-instruct"
grant = ["models:teacher", "models:student.base"]
config = { mode = "alpaca-2023", demonstrations = 3 }

[[filters]]
plugin = "tests/manifest/files/filter.wasm"

[dataset]
target = 8
"#;

fn small(overrides: &[&str]) -> Result<Recipe, Problems> {
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    Recipe::from_text(
        "small.toml",
        Path::new(""),
        SMALL,
        &overrides,
        &Checks::default(),
    )
}

#[test]
fn what_is_not_written_has_its_documented_default() {
    let recipe = small(&[]).unwrap();
    assert_eq!(recipe.name, "small");
    assert_eq!(recipe.generator.window, 8);
    assert_eq!(recipe.dataset.patience, 50);
    assert_eq!(recipe.dataset.max_quarantined, 20);
    assert_eq!(recipe.dataset.expected_yield, None);
    assert_eq!(recipe.filters[0].limits.memory_bytes, 512 << 20);
    assert_eq!(recipe.filters[0].limits.compute, Duration::from_secs(30));
    let server = &recipe.models["server"];
    assert_eq!(server.max_concurrency, 16);
    let Provider::OpenAi(server) = &server.provider else {
        panic!("a server");
    };
    assert_eq!(server.base_url, "http://localhost:8000/v1");
    assert_eq!(server.timeout, Duration::from_secs(120));
    assert_eq!(server.max_attempts, 8);
    let evaluated = small(&["evaluation.bundled=true"]).unwrap();
    assert_eq!(evaluated.evaluation.unwrap().max_tokens, 256);
}

#[test]
fn an_override_is_a_toml_value_or_a_word() {
    let recipe = small(&[
        "name = a recipe of mine ",
        "generator.config.mode=strict",
        "generator.config.demonstrations = 5",
        "generator.config.stop=[\"###\"]",
        "filters.0.plugin=rouge-l",
        "filters.0.config.threshold=0.5",
        "dataset.target=64",
        "dataset.target=65",
        "models.server.price={ input = 1, output = 2.5, as_of = 2026-01-31 }",
        "budget.usd=5",
    ])
    .unwrap();
    assert_eq!(recipe.name, "a recipe of mine");
    assert_eq!(
        recipe.generator.plugin.config,
        serde_json::json!({ "mode": "strict", "demonstrations": 5, "stop": ["###"] })
    );
    let bundled = PluginSource::Bundled("rouge-l".to_owned());
    assert_eq!(recipe.filters[0].source, bundled);
    assert_eq!(
        recipe.filters[0].config,
        serde_json::json!({ "threshold": 0.5 })
    );
    assert_eq!(recipe.dataset.target, 65);
    assert_eq!(recipe.budget.usd, Some(5.0));
    let price = recipe.models["server"].price.clone().unwrap();
    assert_eq!((price.input, price.output), (1.0, 2.5));
    assert_eq!(price.as_of, "2026-01-31");
}

#[test]
fn a_fingerprint_sees_values_and_nothing_else() {
    let plain = small(&[]).unwrap().resolved();
    let same = [
        "dataset.patience=50",
        "models.server.timeout=120s",
        "models.server.base_url=http://localhost:8000/v1",
    ];
    assert_eq!(small(&same).unwrap().resolved(), plain);
    let other = small(&["generator.config.demonstrations=4"]).unwrap();
    let changed: BTreeMap<&str, bool> = plain
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, value)| (key.as_str(), other.resolved()[key] != *value))
        .filter(|(_, changed)| *changed)
        .collect();
    assert_eq!(changed.into_keys().collect::<Vec<_>>(), ["generator"]);
}

#[test]
fn a_moved_project_is_the_same_recipe() {
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir_all(copy.path().join("tests/manifest/files")).unwrap();
    fs::write(copy.path().join("tests/manifest/files/filter.wasm"), "x").unwrap();
    fs::write(copy.path().join("small.toml"), SMALL).unwrap();
    let moved = Recipe::load(&copy.path().join("small.toml"), &[]).unwrap();
    assert_eq!(moved.resolved(), small(&[]).unwrap().resolved());
}

#[test]
fn other_parts_report_in_the_same_form() {
    let recipe = small(&[
        "generator.config.top_p=2",
        "generator.config.stop=[\"#\", \"\"]",
    ])
    .unwrap();
    let mut problems = Problems::new();
    problems.push(
        Problem::at(
            &recipe.document,
            "generator.config.top_p",
            "`top_p` is 2, expected at most 1",
        )
        .help("write `top_p = 1.0`"),
    );
    let diagnostic = pacos_plugin::Diagnostic::warning("mode", "`alpaca-2023` keeps old defects");
    problems.push(Problem::from_diagnostic(
        &recipe.document,
        "generator.config",
        &diagnostic,
    ));
    let diagnostic = pacos_plugin::Diagnostic::error("stop[1]", "is empty").help("take it out");
    problems.push(Problem::from_diagnostic(
        &recipe.document,
        "generator.config",
        &diagnostic,
    ));
    problems.push(Problem::at(
        &recipe.document,
        "filters.0.config.threshold",
        "`threshold` is missing",
    ));
    assert_eq!(
        problems.to_string(),
        "\
small.toml:22:19: warning: `mode`: `alpaca-2023` keeps old defects
   |
22 | config = { mode = \"alpaca-2023\", demonstrations = 3 }
   |                   ^^^^^^^^^^^^^

small.toml:24:1: error: `threshold` is missing
   |
24 | [[filters]]
   | ^^^^^^^^^^^

--set generator.config.top_p=2: error: `top_p` is 2, expected at most 1
 |
 | generator.config.top_p=2
 |                        ^
 = help: write `top_p = 1.0`

--set generator.config.stop=[\"#\", \"\"]: error: `stop[1]`: is empty
 |
 | generator.config.stop=[\"#\", \"\"]
 |                             ^^
 = help: take it out

4 problems in small.toml"
    );
    let span = recipe.document.locate("generator.config.mode").unwrap();
    assert_eq!((span.line, span.column), (22, 19));
    assert_eq!(&SMALL[span.start..span.end], "\"alpaca-2023\"");
    assert_eq!(recipe.document.locate("generator.window"), None);
}

#[test]
fn programs_read_problems_as_json() {
    let text = SMALL.replace("target = 8", "target = 0");
    let problems =
        Recipe::from_text("small.toml", Path::new(""), &text, &[], &Checks::default()).unwrap_err();
    assert_eq!(problems.iter().next().unwrap().severity, Severity::Error);
    let start = text.rfind('0').unwrap();
    assert_eq!(
        serde_json::to_value(&problems).unwrap(),
        serde_json::json!([{
            "file": "small.toml",
            "path": "dataset.target",
            "span": { "start": start, "end": start + 1, "line": 28, "column": 10 },
            "severity": "error",
            "message": "`target` is 0, expected at least 1",
            "help": "write `target = 64`",
        }])
    );
}

#[test]
fn a_file_that_is_not_there_is_named_with_its_neighbours() {
    let said = |path: &str| match Recipe::load(Path::new(path), &[]) {
        Err(problems) => problems.to_string(),
        Ok(_) => panic!("{path} loads"),
    };
    assert_eq!(
        said("../manifests/alpacca.toml"),
        "../manifests/alpacca.toml: error: there is no such manifest\n = help: did you mean ../manifests/alpaca.toml?"
    );
    assert!(
        said("../manifests").contains("this is a folder"),
        "{}",
        said("../manifests")
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.toml");
    fs::write(&path, b"name = \"ok\"\nother = \"\xff\"\n").unwrap();
    assert!(said(path.to_str().unwrap()).contains("line 2 is not UTF-8"));
}

#[test]
fn a_document_can_be_had_without_a_recipe() {
    let document = Document::parse(
        "a.toml",
        Path::new(""),
        "[a]\n\"b.c\" = 1\nd = [[1], [2, 3]]\n",
    )
    .unwrap();
    let line = |path: &str| document.locate(path).map(|span| (span.line, span.column));
    assert_eq!(line("a"), Some((1, 1)));
    assert_eq!(line("a.b.c"), Some((2, 9)));
    assert_eq!(line("a.d.1.1"), Some((3, 15)));
    assert_eq!(line("a.x"), None);
    assert!(Document::parse("a.toml", Path::new(""), "[a").is_err());
}

/// Half-written and mangled manifests are what editors save.
#[test]
fn no_text_breaks_the_reader() {
    let folder = Path::new("../manifests");
    let text = fs::read_to_string(folder.join("local.toml")).unwrap();
    let read = |text: &str| {
        let recipe = Recipe::from_text("cut.toml", folder, text, &[], &Checks::default());
        if let Err(problems) = recipe {
            assert!(problems.has_errors());
            assert!(!problems.to_string().is_empty());
        }
    };
    for end in (0..text.len()).filter(|&end| text.is_char_boundary(end)) {
        read(&text[..end]);
        read(&format!("{}§{}", &text[..end], &text[end..]));
        read(&format!("{}\n{}", &text[..end], &text[end..]));
    }
    for nested in [
        "a.".repeat(5_000) + "a = 1",
        format!("a = {}", "[".repeat(5_000)),
    ] {
        read(&nested);
    }
    let deep = format!("{}=1", vec!["generator"; 5_000].join("."));
    assert!(Recipe::load(&folder.join("local.toml"), &[deep]).is_err());
}
