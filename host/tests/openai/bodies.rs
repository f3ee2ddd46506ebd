//! Bodies: whole, cut, and of the wrong kind.

use super::*;

#[tokio::test]
async fn bodies_are_kept_as_they_came() {
    let odd = "\u{feff}{ \"choices\" : [ {\"text\":\"Hi.\", \"x\": 1e2} ],\n \"extra\":[]}  ";
    let (attempt, _) = meet(Action::status(200, odd)).await;
    assert_eq!(attempt.status, Some(200));
    assert_eq!(attempt.body, odd.as_bytes());
    let reply = attempt.outcome.unwrap();
    assert_eq!(reply.text, "Hi.");
    assert_eq!(reply.finish_reason, FinishReason::Other);
    assert_eq!(reply.usage, None);

    let error = r#"{"error": {"message":"no"},   "z":0}"#;
    let (attempt, _) = meet(Action::status(400, error)).await;
    assert_eq!(attempt.status, Some(400));
    assert_eq!(attempt.body, error.as_bytes());
}

#[tokio::test]
async fn a_connection_cut_inside_the_body_passes_and_keeps_what_came() {
    let reply = Reply::new("A long reply, as replies go.");
    let action = Action::CutAfter {
        bytes: 60,
        reply: reply.clone(),
    };
    let (attempt, server) = meet(action).await;
    let whole = reply.body(&server.requests()[0]).to_string();
    assert_eq!(attempt.status, Some(200));
    assert_eq!(attempt.body, &whole.as_bytes()[..60]);
    let failure = attempt.outcome.unwrap_err();
    assert_eq!(failure.code, "cut-body");
    assert!(passing(&failure));
    let start = format!(
        "{} closed the connection inside the reply, after 60 bytes (",
        server.base_url()
    );
    assert!(failure.message.starts_with(&start), "{failure}");
}

/// It was paid for.
#[tokio::test]
async fn a_reply_that_is_whole_counts_however_the_connection_ended() {
    let body = r#"{"choices":[{"text":"Hi."}]}"#;
    for head in ["content-length: 999\r\n", "transfer-encoding: odd\r\n", ""] {
        let raw = format!("HTTP/1.1 200 OK\r\n{head}\r\n{body}");
        let (attempt, _) = meet(Action::Raw(raw.into_bytes())).await;
        assert_eq!(attempt.body, body.as_bytes());
        assert_eq!(attempt.outcome.unwrap().text, "Hi.");
    }
}

#[tokio::test]
async fn what_is_not_a_reply_passes() {
    let raw = |text: &str| Action::Raw(text.as_bytes().to_vec());
    let cases = [
        (
            Action::NotJson,
            "not-json",
            "answered 200 with something that is not JSON: \"<html>",
        ),
        (
            Action::status(200, ""),
            "not-json",
            "answered 200 with an empty body",
        ),
        (
            Action::Json(json!({"id": "x", "choices": []})),
            "no-choices",
            "answered 200 with JSON that holds no reply: ",
        ),
        (
            Action::Drop,
            "no-answer",
            "closed the connection without an answer (",
        ),
        (
            raw("SSH-2.0-OpenSSH\r\n"),
            "no-answer",
            "closed the connection without an answer (",
        ),
        (
            raw("HTTP/1.1 200 OK\r\n\r\n{\"choices\":[{\"te"),
            "cut-body",
            "ends in the middle, after 16 bytes",
        ),
        (
            raw("HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n"),
            "cut-body",
            "closed the connection inside the reply, after 0 bytes",
        ),
    ];
    for (action, code, words) in cases {
        let (failure, base_url) = failure_of(action).await;
        assert_eq!(failure.code, code, "{failure}");
        assert!(passing(&failure));
        assert!(failure.message.contains(&base_url), "{failure}");
        assert!(failure.message.contains(words), "{failure}");
    }
}
