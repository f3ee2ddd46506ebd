//! Computing is limited; waiting is not computing, whatever is waited for.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use pacos::{
    manifest::{Limits, Plugin},
    plugin::NoCalls,
};

use crate::{SlowModel, candidates, hostile, judge, load};

const LIMIT: Duration = Duration::from_millis(300);

fn limited(crime: &str) -> Plugin {
    Plugin {
        limits: Limits {
            compute: LIMIT,
            ..Limits::default()
        },
        ..hostile(crime)
    }
}

#[tokio::test]
async fn waiting_for_a_model_is_not_counted() {
    let mut instance = load(&limited("asks-teacher"))
        .await
        .instance(&[])
        .await
        .unwrap();
    let calls = SlowModel::new(LIMIT * 3);
    let verdicts = instance
        .judge_batch(candidates(&["first", "second"]), calls.clone(), 1)
        .await
        .unwrap();
    assert_eq!(verdicts[1].message, "reply 2");
    assert_eq!(
        *calls.asked.lock().unwrap(),
        ["teacher: first", "teacher: second"]
    );
}

#[tokio::test]
async fn computing_is_counted_and_patience_multiplies_the_limit() {
    for patience in [1, 4] {
        let mut instance = load(&limited("endless-loop"))
            .await
            .instance(&[])
            .await
            .unwrap();
        let start = Instant::now();
        let error = instance
            .judge_batch(candidates(&["first"]), Arc::new(NoCalls), patience)
            .await
            .unwrap_err();
        let told = error.to_string();
        let again = ", nor, tried once more, in 1.2 s";
        assert!(
            told.starts_with("it computed for more than 0.3 s without an answer"),
            "{told}"
        );
        assert_eq!(told.contains(again), patience > 1, "{told}");
        assert!(start.elapsed() >= LIMIT * patience);
    }
}

/// On one thread: the guest that loops gives way at every tick.
#[tokio::test(flavor = "current_thread")]
async fn one_that_loops_does_not_stop_its_neighbour() {
    let loaded = load(&limited("endless-loop")).await;
    let mut looping = loaded.instance(&[]).await.unwrap();
    let mut honest = load(&limited("honest")).await.instance(&[]).await.unwrap();
    let start = Instant::now();
    let neighbour = async {
        for _ in 0..5 {
            judge(&mut *honest, &["Name three colours"]).await.unwrap();
            tokio::task::yield_now().await;
        }
        start.elapsed()
    };
    let looped = async {
        let error = judge(&mut *looping, &["Name three colours"]).await;
        assert_eq!(error.unwrap_err().code(), "timeout");
        start.elapsed()
    };
    let (neighbour, looped) = tokio::join!(neighbour, looped);
    assert!(neighbour < looped, "{neighbour:?} of {looped:?}");
    judge(&mut *honest, &["Name three colours"]).await.unwrap();
}

/// Four share a thread: each has its own limit to spend, not a quarter of it.
#[tokio::test(flavor = "current_thread")]
async fn waiting_for_a_turn_is_not_counted() {
    let loaded = load(&limited("endless-loop")).await;
    let mut instances = Vec::new();
    for _ in 0..4 {
        instances.push(loaded.instance(&[]).await.unwrap());
    }
    let start = Instant::now();
    let calls = instances
        .iter_mut()
        .map(|instance| judge(&mut **instance, &["Name three colours"]));
    for outcome in futures::future::join_all(calls).await {
        assert_eq!(outcome.unwrap_err().code(), "timeout");
    }
    assert!(start.elapsed() >= LIMIT * 4, "{:?}", start.elapsed());
}
