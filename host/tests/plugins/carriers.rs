//! One source, two carriers, the same answers.

use std::time::Duration;

use pacos::{manifest::Plugin, plugin::Stage};
use pacos_plugin::{Task, Unit};
use serde_json::json;

use crate::{SlowModel, candidates, component, hostile, judge, library, load, plugin, trusted};

const BATCH: [&str; 4] = ["Name three colours", "Hi", "Erkläre den Föhn, bitte", ""];

#[tokio::test]
async fn a_filter_says_the_same_as_component_and_as_library() {
    let component = load(&hostile("honest")).await;
    let library = load(&trusted(&library("hostile"))).await;
    assert_eq!(library.stage, Stage::Filter);
    assert_eq!(component.description, library.description);
    let mut verdicts = Vec::new();
    for loaded in [&component, &library] {
        let mut instance = loaded.instance(&[]).await.unwrap();
        verdicts.push(judge(&mut *instance, &BATCH).await.unwrap());
    }
    assert_eq!(verdicts[0], verdicts[1]);
    assert_eq!(verdicts[0].len(), BATCH.len());
}

#[tokio::test]
async fn a_generator_asks_and_answers_the_same_as_component_and_as_library() {
    let seeds = [Task::new("Name a colour", "", "Blue")];
    let mut runs = Vec::new();
    for plugin in [
        plugin(&component("hostile-generator")),
        trusted(&library("hostile-generator")),
    ] {
        let loaded = load(&plugin).await;
        assert_eq!(loaded.description.capabilities, ["models:teacher"]);
        let mut instance = loaded.instance(&seeds).await.unwrap();
        let calls = SlowModel::new(Duration::from_millis(1));
        let unit = Unit {
            index: 5,
            seed: 11,
            accepted: 0,
        };
        let proposals = instance.generate(unit, calls.clone(), 1).await.unwrap();
        runs.push((proposals, calls.asked.lock().unwrap().clone()));
    }
    assert_eq!(runs[0], runs[1]);
    assert_eq!(runs[0].1, ["teacher: Unit 5 asks"]);
}

#[tokio::test]
async fn a_librarys_panic_comes_back_with_its_message() {
    let poisoned = Plugin {
        config: json!({ "crime": "poison" }),
        ..trusted(&library("hostile"))
    };
    let loaded = load(&poisoned).await;
    let mut instance = loaded.instance(&[]).await.unwrap();
    let error = judge(&mut *instance, &["POISON this"]).await.unwrap_err();
    assert_eq!(error.code(), "trap");
    assert_eq!(
        error.to_string(),
        "it broke: panic: poisoned by `POISON this`"
    );
    let mut fresh = loaded.instance(&[]).await.unwrap();
    judge(&mut *fresh, &BATCH).await.unwrap();
}

#[tokio::test]
async fn a_library_waits_for_a_model_like_a_component() {
    let asking = Plugin {
        config: json!({ "crime": "asks-teacher" }),
        ..trusted(&library("hostile"))
    };
    let mut instance = load(&asking).await.instance(&[]).await.unwrap();
    let calls = SlowModel::new(Duration::from_millis(50));
    let verdicts = instance
        .judge_batch(candidates(&["first", "second"]), calls, 1)
        .await
        .unwrap();
    assert_eq!(verdicts[1].message, "reply 2");
}
