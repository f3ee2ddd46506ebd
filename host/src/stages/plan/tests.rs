//! What a person reads, and the sums behind it.

use std::path::Path;

use pacos_plugin::{Message, Request};

use super::{
    models::KnownModels,
    training::{refuse, refuse_early},
    *,
};
use crate::trainer::{DeviceKind, Room};

fn recipe(text: &str) -> Recipe {
    let checks = crate::manifest::Checks::default();
    Recipe::from_text("test.toml", Path::new("."), text, &[], &checks)
        .unwrap_or_else(|problems| panic!("{problems}"))
}

const PRICED: &str = r#"
name = "priced"

[seeds]
bundled = true

[models.paid]
provider = "openai"
model = "paid-1"
base_url = "http://127.0.0.1:9/v1"
context_length = 32768
price = { input = 1.0, output = 4.0, as_of = "2026-11-01" }

[roles]
teacher = "paid"

[generator]
plugin = "self-instruct"
grant = ["models:teacher"]
config = { mode = "strict", tasks_per_request = 10 }

[[filters]]
plugin = "rouge-l"

[dataset]
target = 100
expected_yield = 4.0

[budget]
usd = 1.0
"#;

#[test]
fn a_request_is_reckoned_as_the_budget_reserves_it() {
    let models = KnownModels::new(&recipe(PRICED)).unwrap();
    let model = models.of_role("teacher").unwrap();
    let mut request = Request::chat(vec![Message::user("x".repeat(400))]);
    request.max_tokens = Some(1000);
    let load = model.load(&request, Some(250.0));
    // 400 characters are a guessed 100 tokens, and at most one a byte, with 16 for the message
    // and 64 for the template.
    assert_eq!(load.prompt_tokens, 100.0);
    assert_eq!(load.most_tokens, 480.0 + 1000.0);
    assert_eq!(load.usd, Some((100.0 + 4.0 * 250.0) / 1e6));
    assert_eq!(load.most_usd, Some((480.0 + 4.0 * 1000.0) / 1e6));
    // A request without a limit can fill the context.
    request.max_tokens = None;
    assert_eq!(model.load(&request, None).most_tokens, 480.0 + 32768.0);
    assert_eq!(model.load(&request, None).usd, None);
    // A guess above what the request allows is cut.
    request.max_tokens = Some(10);
    assert_eq!(model.load(&request, Some(250.0)).reply_tokens, Some(10.0));
}

#[test]
fn an_unknown_price_makes_an_unknown_sum_unless_nothing_is_bought() {
    let unknown = Load {
        requests: 1.0,
        usd: None,
        most_usd: None,
        ..Load::NONE
    };
    assert_eq!(Load::NONE.plus(unknown).usd, None);
    assert_eq!(unknown.times(3.0).most_usd, None);
    assert_eq!(unknown.times(0.0).usd, Some(0.0));
}

#[tokio::test]
async fn units_follow_from_the_yield_and_money_from_the_units() {
    let prepared = crate::stages::prepare(recipe(PRICED)).await.unwrap();
    let forecast = forecast(&prepared, None, None).await.unwrap();
    let generation = &forecast.generation;
    assert_eq!(generation.basis, Yield::Manifest);
    assert_eq!(generation.units_to_go, Some(25));
    let a_unit = generation.a_unit.unwrap();
    assert_eq!(a_unit.requests, 1.0);
    // Four examples, each as long as a seed task.
    let replies = 4.0 * generation.seed_task_tokens;
    assert!((a_unit.reply_tokens.unwrap() - replies).abs() < 1e-9);
    let in_all = forecast.in_all.unwrap();
    assert!((in_all.most_usd.unwrap() - 25.0 * a_unit.most_usd.unwrap()).abs() < 1e-12);
    assert!(forecast.obstacles.is_empty(), "{:?}", forecast.obstacles);
    assert_eq!(forecast.training, None);
    assert_eq!(forecast.evaluation, None);
}

#[tokio::test]
async fn without_a_yield_the_plan_gives_figures_of_a_unit() {
    let text = PRICED.replace("expected_yield = 4.0\n", "");
    let prepared = crate::stages::prepare(recipe(&text)).await.unwrap();
    let forecast = forecast(&prepared, None, None).await.unwrap();
    assert_eq!(forecast.generation.basis, Yield::Unknown);
    assert_eq!(
        (forecast.generation.units_to_go, forecast.in_all),
        (None, None)
    );
    let most = forecast.generation.a_unit.unwrap().most_usd.unwrap();
    let pays = format!(
        "[budget] usd = 1.00 pays for {} units for sure",
        (1.0 / most) as u64
    );
    assert_eq!(forecast.remarks, [pays]);
}

/// A recipe that trains the model in `folder`.
fn training(folder: &Path) -> String {
    format!(
        "{}\n[models.own]\nprovider = \"local\"\nmodel = \"{}\"\n\n[trainer]\nepochs = 3\n",
        PRICED.replace(
            "teacher = \"paid\"",
            "teacher = \"paid\"\nstudent = \"own\""
        ),
        folder.display()
    )
}

#[test]
fn a_student_is_refused_by_its_configuration_alone() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = |text: &str| recipe(text);
    let trains = recipe(&training(folder.path()));
    // Nothing is known yet.
    refuse(&trains, cpu(1_000)).unwrap();
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 32_000,
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": false,
        "bos_token_id": 1,
        "eos_token_id": 2,
    });
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    // Weights and gradients of 4 bytes a parameter, moments of 2.
    assert_eq!(
        refuse(&trains, cpu(24_000_000_000))
            .unwrap_err()
            .to_string(),
        "training this student needs 81.5 GB of memory, 24.0 GB are available; 80.9 GB of that is weights, \
         gradients and optimizer state of 6,738,415,616 parameters. Train adapters instead ([trainer.lora]), \
         or choose a smaller student or a machine with more memory; or leave [trainer] out, to make the dataset alone. Nothing was asked"
    );
    refuse(&trains, cpu(128_000_000_000)).unwrap();
    let dataset_only = training(folder.path()).replace("[trainer]\nepochs = 3\n", "");
    refuse(&recipe(&dataset_only), cpu(1_000)).unwrap();
    refuse_early(&recipe(&dataset_only), folder.path()).unwrap();
}

#[test]
fn a_plan_reads_as_a_table() {
    let load = Load {
        requests: 1.0,
        prompt_tokens: 900.0,
        reply_tokens: Some(1200.0),
        most_tokens: 8800.0,
        usd: Some(0.0057),
        most_usd: Some(0.0241),
    };
    let generation = Generation {
        plugin: "self-instruct 0.1.0".into(),
        asks: vec!["teacher".into()],
        servers: Vec::new(),
        target: 10_000,
        examples_a_unit: Some(10.0),
        standard_error: None,
        basis: Yield::Manifest,
        a_unit: Some(load),
        tokens_measured: false,
        prompts_counted: false,
        seed_task_tokens: 120.0,
        done: None,
        units_to_go: Some(1000),
        in_all: Some(load.times(1000.0)),
        seconds_to_go: None,
    };
    let forecast = Forecast {
        recipe: "small".into(),
        models: vec![ModelInUse {
            name: "paid".into(),
            roles: vec!["teacher".into()],
            what: "paid-1 at http://127.0.0.1:9/v1".into(),
            local: false,
            price: Some(Price {
                input: 1.0,
                output: 4.0,
                as_of: "2026-11-01".into(),
            }),
            context_length: None,
        }],
        filters: vec![
            Filter {
                plugin: "rouge-l 0.1.0".into(),
                asks: Vec::new(),
                servers: Vec::new(),
                in_all: None,
            },
            Filter {
                plugin: "facts 0.1.0".into(),
                asks: Vec::new(),
                servers: vec!["facts.example.com".into()],
                in_all: None,
            },
        ],
        training: None,
        evaluation: None,
        in_all: generation.in_all,
        generation,
        budget: Budget {
            usd: Some(5.0),
            ..Budget::default()
        },
        obstacles: Vec::new(),
        remarks: Vec::new(),
    };
    let text = forecast.against_the_budget().to_string();
    assert_eq!(text, TABLE.trim_start_matches('\n'));
}

const TABLE: &str = "
small: a plan; nothing was asked, nothing was spent

models
  teacher                        paid-1 at http://127.0.0.1:9/v1; USD a million tokens: 1 in, 4 out (2026-11-01)

generation
  generator                      self-instruct 0.1.0, asks teacher
  filter                         rouge-l 0.1.0, asks no model and no server
  filter                         facts 0.1.0, may ask facts.example.com
  examples wanted                10,000
  examples a unit                10, as the manifest expects
  units                          1,000

requests and tokens                  requests      in prompts      in replies         at most
  one unit                                  1             900           1,200           8,800
  all units                             1,000         900,000       1,200,000       8,800,000
  in all                                1,000         900,000       1,200,000       8,800,000

US dollars                            a guess         at most
  one unit                             0.0057          0.0241
  all units                              5.70           24.10
  in all                                 5.70           24.10
  budget                                                 5.00

what this rests on
  - prompts are a guess: their characters / 4
  - a unit's replies are a guess, more likely too low than too high: the accepted examples
    alone, each as long as a seed task (120 tokens); what is dropped is paid too

in the way
  - [budget] usd = 5.00 ends the run before its end: 5.70 are expected (a guess)
";

fn cpu(bytes: u64) -> Room {
    Room {
        kind: DeviceKind::Cpu,
        available_bytes: Some(bytes),
        ranks: 1,
    }
}
