//! Every crime of a component has a name, and costs no more than the instance that commits it.

use std::time::Duration;

use pacos::{
    manifest::{Limits, Plugin},
    plugin::CallError,
};
use pacos_plugin::{Decision, Task, Unit};
use serde_json::json;

use crate::{SlowModel, component, hostile, judge, load, outcome, plugin};

/// Code and text of what comes of a crime, and proof that the next instance is none the worse.
async fn sentence(crime: &str, limits: Limits, megabytes: usize) -> (String, String) {
    let criminal = Plugin {
        limits,
        config: json!({ "crime": crime, "megabytes": megabytes }),
        ..hostile(crime)
    };
    let loaded = load(&criminal).await;
    let mut first = loaded.instance(&[]).await.unwrap();
    let error = judge(&mut *first, &["Name three colours"])
        .await
        .unwrap_err();
    drop(first);
    let mut again = loaded.instance(&[]).await.unwrap();
    let same = judge(&mut *again, &["Name three colours"])
        .await
        .unwrap_err();
    assert_eq!(error.code(), same.code());
    assert_eq!(outcome(&hostile("honest")).await.unwrap().len(), 1);
    (error.code().to_owned(), error.to_string())
}

fn tight() -> Limits {
    Limits {
        memory_bytes: 64 << 20,
        compute: Duration::from_millis(500),
        ..Limits::default()
    }
}

#[tokio::test]
async fn honest_work_is_judged() {
    let mut instance = load(&hostile("honest")).await.instance(&[]).await.unwrap();
    let verdicts = judge(&mut *instance, &["Name three colours", "Hi"])
        .await
        .unwrap();
    assert_eq!(verdicts[0].decision, Decision::Keep);
    assert_eq!(verdicts[0].code, "kept");
    assert_eq!(verdicts[0].scores[0].value, 3.0);
    assert_eq!(verdicts[1].decision, Decision::Drop);
    assert_eq!(verdicts[1].message, "1 words, 3 wanted");
}

#[tokio::test]
async fn a_trap() {
    let (code, text) = sentence("trap", tight(), 0).await;
    assert_eq!(code, "trap");
    let (place, message) = text.rsplit_once(": ").unwrap();
    assert!(
        place.starts_with("it broke: it panicked at ") && place.contains("crime.rs:"),
        "{text}"
    );
    assert_eq!(message, "told to trap");
}

#[tokio::test]
async fn an_endless_loop() {
    assert_eq!(
        sentence("endless-loop", tight(), 0).await,
        (
            "timeout".to_owned(),
            "it computed for more than 0.5 s without an answer; its limit is limits.compute_seconds"
                .to_owned()
        )
    );
}

#[tokio::test]
async fn an_endless_loop_that_calls_the_host() {
    assert_eq!(
        sentence("loop-between-host-calls", tight(), 0).await.0,
        "timeout"
    );
}

#[tokio::test]
async fn a_memory_bomb() {
    let (code, text) = sentence("memory-bomb", Limits::default(), 0).await;
    assert_eq!(code, "trap");
    assert_eq!(text, "it broke: it wanted more memory than its 512 MiB");
}

#[tokio::test]
async fn a_recursion_without_end() {
    let (code, text) = sentence("recursion", tight(), 0).await;
    assert_eq!(code, "trap");
    assert_eq!(text, "it broke: it ran out of stack");
}

#[tokio::test]
async fn an_output_that_its_own_memory_does_not_hold() {
    let (code, text) = sentence("huge-output", Limits::default(), 1024).await;
    assert_eq!(code, "trap");
    assert_eq!(text, "it broke: it wanted more memory than its 512 MiB");
}

#[tokio::test]
async fn an_output_that_the_host_will_not_hold() {
    let (code, text) = sentence("huge-output", Limits::default(), 129).await;
    assert_eq!(code, "invalid-answer");
    assert_eq!(
        text,
        "its answer is not valid: it hands over more than 128 MiB in one call"
    );
}

/// A small guest could otherwise fill the host: its texts share one MiB, the host's copies do not.
#[tokio::test]
async fn an_output_that_grows_when_it_is_copied() {
    let (code, text) = sentence("amplified-output", tight(), 4096).await;
    assert_eq!(code, "invalid-answer");
    assert_eq!(
        text,
        "its answer is not valid: it hands over more than 128 MiB in one call"
    );
}

#[tokio::test]
async fn a_poisoned_record_spoils_its_batch_and_no_other() {
    let loaded = load(&hostile("poison")).await;
    let batch = ["Name three colours", "POISON this", "Name three rivers"];
    let mut first = loaded.instance(&[]).await.unwrap();
    assert!(matches!(
        judge(&mut *first, &batch).await,
        Err(CallError::Trap(_))
    ));
    let mut fresh = loaded.instance(&[]).await.unwrap();
    assert!(judge(&mut *fresh, &batch[1..2]).await.is_err());
    let mut fresh = loaded.instance(&[]).await.unwrap();
    assert_eq!(judge(&mut *fresh, &batch[..1]).await.unwrap().len(), 1);
    assert_eq!(judge(&mut *fresh, &batch[2..]).await.unwrap().len(), 1);
}

/// The stages refuse these; the instance hands on exactly what the plugin said.
#[tokio::test]
async fn verdicts_that_break_the_contract_arrive_unmended() {
    assert_eq!(
        outcome(&hostile("too-few-verdicts")).await.unwrap().len(),
        0
    );
    assert_eq!(
        outcome(&hostile("too-many-verdicts")).await.unwrap().len(),
        2
    );
    let score = |verdicts: Vec<pacos_plugin::Verdict>| verdicts[0].scores[0].value;
    assert!(score(outcome(&hostile("nan-score")).await.unwrap()).is_nan());
    assert_eq!(
        score(outcome(&hostile("infinite-score")).await.unwrap()),
        f64::INFINITY
    );
}

#[tokio::test]
async fn a_stage_that_the_plugin_does_not_have() {
    let mut filter = load(&hostile("honest")).await.instance(&[]).await.unwrap();
    let unit = Unit {
        index: 0,
        seed: 0,
        accepted: 0,
    };
    let calls = SlowModel::new(Duration::ZERO);
    let error = filter.generate(unit, calls, 1).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "its answer is not valid: this component is of another stage"
    );
}

#[tokio::test]
async fn a_generator_that_asks_by_what_it_remembers() {
    let forgetful = Plugin {
        config: json!({ "crime": "not-deterministic" }),
        ..plugin(&component("hostile-generator"))
    };
    let loaded = load(&forgetful).await;
    let unit = |index| Unit {
        index,
        seed: 0,
        accepted: 0,
    };
    let seeds = [Task::new("Name a colour", "", "Blue")];
    let calls = SlowModel::new(Duration::ZERO);
    let mut whole = loaded.instance(&seeds).await.unwrap();
    for index in 0..2 {
        let proposals = whole.generate(unit(index), calls.clone(), 1).await.unwrap();
        assert_eq!(proposals.candidates.len(), 1);
    }
    let mut resumed = loaded.instance(&seeds).await.unwrap();
    resumed.generate(unit(1), calls.clone(), 1).await.unwrap();
    assert_eq!(
        *calls.asked.lock().unwrap(),
        [
            "teacher: Unit 0 asks, call 1",
            "teacher: Unit 1 asks, call 2",
            "teacher: Unit 1 asks, call 1"
        ]
    );
}
