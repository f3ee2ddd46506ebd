//! What was expected against what came: every value given must be equal, the others are free.

use serde_json::Value;

use super::lines::shown;

/// Two numbers nearer than this, relative to their size, are the same: nobody writes a score with
/// seventeen digits.
const TOLERANCE: f64 = 1e-9;

/// The differences, each a phrase such as `expected decision "drop", got "keep"`.
pub(super) fn differences(expected: &Value, actual: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if let (None, Some(code)) = (expected.get("error"), actual.get("error")) {
        let message = actual["message"].as_str().unwrap_or_default();
        let code = code.as_str().unwrap_or_default();
        found.push(format!(
            "expected an answer, got an error: {message} ({code})"
        ));
        return found;
    }
    compare("", expected, actual, &mut found);
    found
}

fn compare(path: &str, expected: &Value, actual: &Value, found: &mut Vec<String>) {
    let named = |what: &str| match path {
        "" => what.to_owned(),
        path => format!("{path} {what}"),
    };
    match (expected, actual) {
        (Value::Object(wanted), Value::Object(there)) => {
            let below = |key: &str| match path {
                "" => key.to_owned(),
                path => format!("{path}.{key}"),
            };
            // In the order of what came: TOML's tables have none.
            for (key, actual) in there {
                if let Some(value) = wanted.get(key) {
                    compare(&below(key), value, actual, found);
                }
            }
            for (key, value) in wanted {
                if !there.contains_key(key) {
                    found.push(format!(
                        "expected {} {}, got none",
                        below(key),
                        shown(value)
                    ));
                }
            }
        }
        (Value::Array(wanted), Value::Array(there)) => {
            if wanted.len() != there.len() {
                let expected = named(&format!("to have {}", wanted.len()));
                let entries = there.iter().take(3).map(shown).collect::<Vec<_>>();
                found.push(format!(
                    "expected {expected}, got {}: {}",
                    there.len(),
                    if entries.is_empty() {
                        "nothing".to_owned()
                    } else {
                        entries.join(", ")
                    }
                ));
                return;
            }
            for (number, (wanted, there)) in (1..).zip(wanted.iter().zip(there)) {
                compare(&format!("{path}[{number}]"), wanted, there, found);
            }
        }
        (wanted, there) if equal(wanted, there) => {}
        (wanted, Value::Null) => {
            found.push(format!("expected {}, got none", named(&shown(wanted))));
        }
        (wanted, there) => found.push(format!(
            "expected {}, got {}",
            named(&shown(wanted)),
            shown(there)
        )),
    }
}

fn equal(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => {
            one == other || (one - other).abs() <= TOLERANCE * one.abs().max(other.abs())
        }
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_given_is_compared() {
        let actual = json!({ "decision": "keep", "code": "kept", "scores": { "words": 3.0 } });
        assert!(differences(&json!({}), &actual).is_empty());
        assert!(differences(&json!({ "scores": { "words": 3 } }), &actual).is_empty());
        assert_eq!(
            differences(
                &json!({ "decision": "drop", "scores": { "words": 1, "lines": 1 } }),
                &actual
            ),
            [
                r#"expected decision "drop", got "keep""#,
                "expected scores.words 1, got 3.0",
                "expected scores.lines 1, got none",
            ]
        );
    }

    #[test]
    fn lists_have_the_same_length_and_order() {
        let actual = json!({ "rejects": [{ "code": "a" }, { "code": "b" }] });
        assert_eq!(
            differences(&json!({ "rejects": [{ "code": "a" }] }), &actual),
            [r#"expected rejects to have 1, got 2: {"code":"a"}, {"code":"b"}"#]
        );
        assert_eq!(
            differences(
                &json!({ "rejects": [{ "code": "a" }, { "code": "c" }] }),
                &actual
            ),
            [r#"expected rejects[2].code "c", got "b""#]
        );
    }

    #[test]
    fn an_error_in_place_of_an_answer_is_told_in_full() {
        let actual = json!({ "error": "trap", "message": "it broke: told to" });
        assert_eq!(
            differences(&json!({ "decision": "keep" }), &actual),
            ["expected an answer, got an error: it broke: told to (trap)"]
        );
        assert!(differences(&json!({ "error": "trap" }), &actual).is_empty());
    }
}
