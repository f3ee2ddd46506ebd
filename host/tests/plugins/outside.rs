//! A component sees nothing of the machine, through WASI or through its language's library.

use std::time::{Duration, Instant};

use pacos_plugin::Level;

use crate::{SlowModel, candidates, hostile, load, outcome};

async fn seen(crime: &str) -> String {
    outcome(&hostile(crime)).await.unwrap()[0].message.clone()
}

#[tokio::test]
async fn no_environment_and_no_arguments() {
    assert_eq!(
        seen("reads-env").await,
        "0 variables, 0 arguments, PATH None"
    );
}

#[tokio::test]
async fn no_files() {
    assert_eq!(seen("reads-file").await, "0 folders, file read: false");
}

#[tokio::test]
async fn a_clock_that_stands_still() {
    assert_eq!(seen("reads-clock").await, "0 s, 0 ns; monotonic 0 ns");
}

#[tokio::test]
async fn randomness_that_is_the_same_for_everybody() {
    assert_eq!(seen("reads-random").await, seen("reads-random").await);
}

#[tokio::test]
async fn no_sockets() {
    assert_eq!(seen("opens-socket").await, "access-denied");
}

/// A guest that sleeps does not compute: no limit would ever end it.
#[tokio::test]
async fn sleep_that_takes_no_time() {
    let start = Instant::now();
    assert_eq!(seen("sleeps").await, "awake");
    assert!(start.elapsed() < Duration::from_secs(60));
}

/// Who runs a plugin is told what it went looking for, once, by name.
#[tokio::test]
async fn what_is_looked_for_is_named() {
    for (crime, sought) in [
        ("reads-env", "environment variables"),
        ("reads-file", "files"),
        ("opens-socket", "the network"),
    ] {
        let loaded = load(&hostile(crime)).await;
        let mut instance = loaded.instance(&[]).await.unwrap();
        let calls = SlowModel::new(Duration::ZERO);
        for _ in 0..2 {
            let batch = candidates(&["Name three colours"]);
            instance.judge_batch(batch, calls.clone(), 1).await.unwrap();
        }
        let logged = calls.logged.lock().unwrap().clone();
        let [(level, told)] = &logged[..] else {
            panic!("{logged:?}");
        };
        assert_eq!(*level, Level::Warn);
        assert!(
            told.starts_with(&format!("it looked for {sought}, and found nothing")),
            "{told}"
        );
    }
}
