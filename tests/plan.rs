//! `pacos plan` and the early refusal of `pacos run`, against a teacher that counts what it is asked.

mod support;

use std::{fs, path::Path, process::Command};

use scripted_server::alpaca_teacher;
use serde_json::{Value, json};
use support::{Bench, Recipe, fails, pacos, query, succeeds};

/// A recipe whose teacher has a price, and a budget.
fn priced() -> Recipe {
    Recipe {
        model: "price = { input = 1.0, output = 2.0, as_of = \"2026-11-01\" }".into(),
        rest: "[budget]\nusd = 3.5".into(),
        ..Recipe::default()
    }
}

/// Writes the config.json of LLaMA-65B, whose training takes a terabyte.
fn write_llama_65b(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 32_000,
        "hidden_size": 8192,
        "intermediate_size": 22_016,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 64,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": false,
        "bos_token_id": 1,
        "eos_token_id": 2,
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

/// 65,285,660,672 parameters: weights, gradients and two moments take 16 bytes each.
const LLAMA_65B: &str = "783.4 GB of that is weights";

/// A bench whose recipe trains a student, which `[models.own]` names.
fn with_student(recipe: &Recipe, model: &str, roles: &str) -> Bench {
    let bench = Bench::new(alpaca_teacher(), recipe);
    let text = fs::read_to_string(bench.manifest()).unwrap();
    let text = text.replace(
        "teacher = \"scripted\"",
        &format!("teacher = \"scripted\"\nstudent = \"own\"\n{roles}"),
    );
    let own = format!("\n[models.own]\nprovider = \"local\"\nmodel = \"{model}\"\n");
    fs::write(bench.manifest(), text + &own).unwrap();
    bench
}

fn that_trains() -> Recipe {
    Recipe {
        rest: "[trainer]\nepochs = 1".into(),
        ..Recipe::default()
    }
}

/// `pacos plan` of the bench's recipe for a directory.
fn plan(bench: &Bench, dir: &str) -> Command {
    let mut command = pacos();
    command.arg("plan").arg(bench.manifest());
    command.arg("--dir").arg(bench.dir(dir));
    command
}

fn planned(bench: &Bench, dir: &str) -> Value {
    let told = succeeds(plan(bench, dir).arg("--json"));
    serde_json::from_str(&told).expect("it is JSON")
}

#[test]
fn a_plan_asks_nothing_and_names_price_and_budget() {
    let bench = Bench::new(alpaca_teacher(), &priced());
    let told = succeeds(&mut plan(&bench, "run"));
    assert!(
        told.contains("USD a million tokens: 1 in, 2 out (2026-11-01)"),
        "{told}"
    );
    assert!(told.contains("budget"), "{told}");
    assert!(told.contains("3.50"), "{told}");
    assert!(told.contains("self-instruct 0.1.0, asks teacher"), "{told}");
    assert!(
        told.contains("examples a unit                unknown; `pacos run --limit 3` measures it"),
        "{told}"
    );
    assert_eq!(bench.server.count(), 0);
    assert!(!bench.dir("run").exists());
}

#[test]
fn the_worst_case_of_a_unit_is_what_the_run_reserves_for_it() {
    let bench = Bench::new(alpaca_teacher(), &Recipe::default());
    let most = planned(&bench, "run")["generation"]["a_unit"]["most_tokens"]
        .as_f64()
        .expect("the unit is rehearsed");
    let told = fails(
        bench.run(&bench.dir("run")).args([
            "--set",
            "budget.tokens=10",
            "--set",
            "generator.window=1",
        ]),
        3,
    );
    let reserved = format!("the next request may take {most}.");
    assert!(told.contains(&reserved), "{told}\n{reserved}");
}

#[test]
fn a_first_taste_measures_what_the_manifest_guesses() {
    let bench = Bench::new(alpaca_teacher(), &priced());
    let dir = bench.dir("run");
    let guess = ["--set", "dataset.expected_yield=2.5"];
    let told = succeeds(plan(&bench, "run").args(guess));
    assert!(told.contains("2.50, as the manifest expects"), "{told}");
    assert!(told.contains("units                          24"), "{told}");
    succeeds(bench.run(&dir).args(["--limit", "2"]));
    let asked = bench.server.count();
    let told = succeeds(plan(&bench, "run").args(guess));
    assert!(told.contains("measured in 2 units"), "{told}");
    assert!(told.contains("the mean of what was charged"), "{told}");
    assert_eq!(bench.server.count(), asked);

    let forecast = planned(&bench, "run");
    let generation = &forecast["generation"];
    let accepted = query(&dir, "SELECT count(*) FROM examples");
    assert_eq!(generation["done"]["examples"], accepted);
    assert_eq!(generation["examples_a_unit"], accepted as f64 / 2.0);
    let to_go = ((60 - accepted) as f64 / (accepted as f64 / 2.0)).ceil();
    assert_eq!(generation["units_to_go"].as_f64(), Some(to_go));
    // Surplus units were paid as well, and make the mean too.
    let units = query(&dir, "SELECT count(*) FROM units") as f64;
    let nano = query(
        &dir,
        "SELECT CAST(round(sum(usd) * 1e9) AS INTEGER) FROM spending",
    ) as f64;
    let a_unit = generation["a_unit"]["usd"].as_f64().unwrap();
    assert!((a_unit - nano / 1e9 / units).abs() < 1e-8, "{generation}");
    let in_all = forecast["in_all"]["usd"].as_f64().unwrap();
    assert!((in_all - (nano / 1e9 + to_go * a_unit)).abs() < 1e-8);
}

#[test]
fn figures_of_another_recipe_are_not_used() {
    let bench = Bench::new(alpaca_teacher(), &Recipe::default());
    succeeds(bench.run(&bench.dir("run")).args(["--limit", "1"]));
    bench.write(&Recipe {
        filters: "[[filters]]\nplugin = \"rouge-l\"\nconfig = { threshold = 0.95 }".into(),
        ..Recipe::default()
    });
    let told = succeeds(&mut plan(&bench, "run"));
    assert!(told.contains("another recipe"), "{told}");
    assert!(!told.contains("measured in 1 units"), "{told}");
}

#[test]
fn a_budget_that_ends_first_is_told_beforehand() {
    let bench = Bench::new(alpaca_teacher(), &priced());
    let told = succeeds(plan(&bench, "run").args([
        "--set",
        "dataset.expected_yield=1.0",
        "--set",
        "dataset.target=100000",
    ]));
    assert!(
        told.contains("[budget] usd = 3.50 ends the run before its end"),
        "{told}"
    );
}

#[test]
fn a_key_that_is_not_set_is_a_remark_of_the_plan() {
    let mut recipe = priced();
    recipe.model += "\napi_key_env = \"PACOS_TEST_NO_SUCH_KEY\"";
    let bench = Bench::new(alpaca_teacher(), &recipe);
    let told = succeeds(&mut plan(&bench, "run"));
    assert!(
        told.contains("the environment variable PACOS_TEST_NO_SUCH_KEY is not set"),
        "{told}"
    );
    fails(&mut bench.run(&bench.dir("run")), 2);
}

#[test]
fn a_generator_that_cannot_ask_its_teacher_is_found_by_the_plan() {
    let recipe = Recipe {
        generator: "plugin = \"self-instruct\"\ngrant = [\"models:teacher\"]\n\
                    config = { mode = \"alpaca-2023\" }"
            .into(),
        ..Recipe::default()
    };
    let bench = Bench::new(alpaca_teacher(), &recipe);
    let told = succeeds(&mut plan(&bench, "run"));
    assert!(told.contains("fails at its first unit"), "{told}");
    assert!(told.contains("only answers conversations"), "{told}");
}

#[test]
fn a_student_that_does_not_fit_is_refused_before_anything_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    write_llama_65b(folder.path());
    let bench = with_student(&that_trains(), &folder.path().display().to_string(), "");
    let told = fails(&mut bench.run(&bench.dir("run")), 3);
    assert_eq!(told.matches(LLAMA_65B).count(), 1, "{told}");
    assert!(told.contains("or leave [trainer] out"), "{told}");
    assert_eq!(bench.server.count(), 0);
    assert!(!bench.dir("run").exists());

    let told = succeeds(&mut plan(&bench, "run"));
    assert!(told.replace("\n    ", " ").contains(LLAMA_65B), "{told}");
    assert!(told.contains("it does not fit"), "{told}");
    assert_eq!(bench.server.count(), 0);
}

#[test]
fn a_student_in_the_hubs_cache_is_known() {
    let cache = tempfile::tempdir().unwrap();
    let model = cache.path().join("models--owner--large");
    let commit = "c0ffee".repeat(7)[..40].to_owned();
    write_llama_65b(&model.join("snapshots").join(&commit));
    fs::create_dir_all(model.join("refs")).unwrap();
    fs::write(model.join("refs").join("main"), &commit).unwrap();
    let bench = with_student(&that_trains(), "hf:owner/large", "");
    let told = fails(
        bench
            .run(&bench.dir("run"))
            .env("HF_HUB_CACHE", cache.path()),
        3,
    );
    assert!(told.contains(LLAMA_65B), "{told}");
    assert_eq!(bench.server.count(), 0);

    // With an empty cache the plan says what is missing, and the rest of it all the same.
    let told = succeeds(
        plan(&bench, "run")
            .env("HF_HUB_CACHE", bench.folder.path())
            .env("HF_HUB_OFFLINE", "1"),
    );
    assert!(told.contains("parameters and memory are unknown"), "{told}");
    assert!(
        told.contains("steps                          1\n"),
        "{told}"
    );
}

#[test]
fn a_yield_of_nothing_is_told() {
    let recipe = Recipe {
        filters: "[[filters]]\nplugin = \"rouge-l\"\nconfig = { threshold = 0.0 }".into(),
        ..Recipe::default()
    };
    let bench = Bench::new(alpaca_teacher(), &recipe);
    succeeds(bench.run(&bench.dir("run")).args(["--limit", "2"]));
    let told = succeeds(&mut plan(&bench, "run"));
    assert!(
        told.contains("nothing that the first 2 units brought was accepted"),
        "{told}"
    );
}

#[test]
fn judges_are_counted_by_their_own_requests() {
    let recipe = Recipe {
        rest: "[trainer]\nmax_steps = 1\n\n[evaluation]\nbundled = true\nlimit = 10\n\n[[evaluators]]\nplugin = \"pairwise-judge\"\n\
               grant = [\"models:judge\"]\n\
               config = { pairs = [[\"teacher\", \"student.base\"]], calibration = false }"
            .into(),
        ..Recipe::default()
    };
    let student = "embedded:smollm2-135m-instruct";
    let bench = with_student(&recipe, student, "judge = \"scripted\"");
    let forecast = planned(&bench, "run");
    // One pair in both orders, for each of ten tasks.
    let judge = &forecast["evaluation"]["evaluators"][0];
    assert_eq!(judge["load"]["requests"], 20.0);
    let answers = forecast["evaluation"]["answers"].as_array().unwrap();
    let answers: Vec<_> = answers
        .iter()
        .map(|answers| {
            (
                answers["role"].as_str().unwrap(),
                &answers["load"]["requests"],
            )
        })
        .collect();
    let ten = json!(10.0);
    assert_eq!(
        answers,
        [("student", &ten), ("student.base", &ten), ("teacher", &ten)]
    );
    assert_eq!(bench.server.count(), 0);
}

#[test]
fn an_evaluation_without_a_student_is_told_to_come_to_nothing() {
    let recipe = Recipe {
        rest: "[evaluation]\nbundled = true".into(),
        ..Recipe::default()
    };
    let bench = Bench::new(alpaca_teacher(), &recipe);
    let told = succeeds(&mut plan(&bench, "run"));
    assert!(
        told.replace("\n    ", " ").contains("nothing is evaluated"),
        "{told}"
    );
}
