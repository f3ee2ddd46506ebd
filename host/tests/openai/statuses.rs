//! What an HTTP status means for the run.

use super::*;

/// Meets each action once: the code, the kind, and a part of the message.
async fn told_apart(kind: FailureKind, cases: &[(Action, &str, &str)]) {
    for (action, code, words) in cases {
        let (attempt, server) = meet(action.clone()).await;
        let failure = attempt.outcome.unwrap_err();
        assert_eq!(failure.code, *code, "{failure}");
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(failure.message.contains(words), "{failure}");
        let names = [&server.base_url(), "teacher"];
        let named = names.iter().any(|name| failure.message.contains(*name));
        assert!(named, "{failure}");
        assert_eq!(server.count(), 1, "an attempt is one request");
    }
}

#[tokio::test]
async fn some_statuses_stop_everything() {
    let cases = [
        (
            Action::error(401, "invalid_api_key", "bad key"),
            "unauthorized",
            "does not let model `teacher` in (401): \"bad key\"; the key came from TEACHER_KEY, \
             which is set: check that it is a key of this server",
        ),
        (
            Action::error(403, "x", "not your region"),
            "unauthorized",
            "(403): \"not your region\"",
        ),
        (
            Action::error(402, "x", "Insufficient Balance"),
            "insufficient-quota",
            "has no credit left (402)",
        ),
        (
            Action::error(429, "insufficient_quota", "You exceeded your quota"),
            "insufficient-quota",
            "has no credit left (429): \"You exceeded your quota\"; add credit there",
        ),
        (
            Action::error(404, "model_not_found", "The model `m-1` does not exist"),
            "unknown-model",
            "has no model \"m-1\" (404): \"The model `m-1` does not exist\"; write a name that it \
             lists as `models.teacher.model`",
        ),
        (
            Action::error(404, "", "model 'm-1' not found, try pulling it first"),
            "unknown-model",
            "try pulling it first",
        ),
        (
            Action::status(404, r#"{"detail":"Not Found"}"#),
            "unknown-path",
            "has nothing at /chat/completions (404): \"Not Found\"; check \
             `models.teacher.base_url`, which for most servers ends in /v1",
        ),
        (
            Action::status(404, "404 page not found"),
            "unknown-path",
            "\"404 page not found\"",
        ),
        (
            Action::status(405, ""),
            "unknown-path",
            "(405): it gives no reason;",
        ),
        (
            Action::error(
                400,
                "unsupported_parameter",
                "Unsupported parameter: 'max_tokens' is not supported with this model.",
            ),
            "unsupported-parameter",
            "add the field to `models.teacher.unsupported`",
        ),
    ];
    told_apart(FailureKind::Fatal, &cases).await;
}

#[tokio::test]
async fn some_statuses_refuse_one_request() {
    let window = "This model's maximum context length is 4097 tokens. Please reduce your prompt.";
    let cases = [
        (
            Action::error(400, "context_length_exceeded", window),
            "context-length",
            window,
        ),
        (
            Action::error(
                400,
                "exceed_context_size_error",
                "the request is larger than can be held",
            ),
            "context-length",
            "maximum context length of model `teacher` (400): \"the request is larger",
        ),
        (
            Action::status(413, "too big"),
            "bad-request",
            "refused the request (413): \"too big\"",
        ),
        (
            Action::status(422, r#"{"detail":[{"loc":["n"],"msg":"n must be 1"}]}"#),
            "bad-request",
            "n must be 1",
        ),
        (
            Action::error(400, "content_filter", "it breaks our policy"),
            "content-filter",
            "refused the prompt for what it says (400)",
        ),
    ];
    told_apart(FailureKind::Refused, &cases).await;
}

#[tokio::test]
async fn some_statuses_pass() {
    let cases = [
        (
            Action::error(429, "rate_limit_exceeded", "slow down"),
            "rate-limited",
            "asks for fewer requests (429): \"slow down\"",
        ),
        (
            Action::error(408, "x", "late"),
            "server-error",
            "could not answer (408): \"late\"",
        ),
        (Action::error(409, "x", "busy"), "server-error", "(409)"),
        (Action::error(425, "x", "early"), "server-error", "(425)"),
        (
            Action::error(500, "x", "oops"),
            "server-error",
            "(500): \"oops\"",
        ),
        (
            Action::status(502, "<html>Bad\n  gateway</html>"),
            "server-error",
            "(502): \"<html>Bad gateway</html>\"",
        ),
        (
            Action::status(529, ""),
            "server-error",
            "(529): it gives no reason",
        ),
    ];
    told_apart(FailureKind::Passing { after: None }, &cases).await;
}

#[tokio::test]
async fn the_server_says_when_to_come_back() {
    let limited = |name: &str, value: &str| Action::error(429, "x", "slow").header(name, value);
    let dated =
        |now: &str| limited("retry-after", "Wed, 21 Oct 2026 07:28:30 GMT").header("date", now);
    let cases = [
        (limited("Retry-After", "7"), Some(7000)),
        (limited("retry-after", "1.5"), Some(1500)),
        (
            limited("retry-after", "9").header("retry-after-ms", "250"),
            Some(250),
        ),
        (dated("Wed, 21 Oct 2026 07:28:00 GMT"), Some(30_000)),
        (dated("Wed, 21 Oct 2026 07:30:00 GMT"), Some(0)),
        (limited("retry-after", "-4"), Some(0)),
        (limited("retry-after", "soon"), None),
        (
            Action::error(503, "x", "full").header("Retry-After", "3"),
            Some(3000),
        ),
    ];
    for (action, milliseconds) in cases {
        let (failure, _) = failure_of(action.clone()).await;
        let after = milliseconds.map(Duration::from_millis);
        assert_eq!(failure.kind, FailureKind::Passing { after }, "{action:?}");
    }
}
