//! The JSON Schema that a reply must satisfy.

use serde_json::{Value, json};

use crate::config::MaxChars;

/// `tasks` tasks of three texts, in this order and with nothing else. The bounds make
/// constrained decoding come to an end with a model that repeats itself.
pub(super) fn schema(tasks: u32, bounds: MaxChars) -> String {
    let schema = json!({
        "type": "object",
        "properties": {
            "tasks": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "instruction": text(1, bounds.instruction),
                        "input": text(0, bounds.input),
                        "output": text(1, bounds.output),
                    },
                    "required": ["instruction", "input", "output"],
                    "additionalProperties": false,
                },
                "minItems": tasks,
                "maxItems": tasks,
            },
        },
        "required": ["tasks"],
        "additionalProperties": false,
    });
    schema.to_string()
}

/// A bound of 0 leaves every length out of the schema: it is set for servers that refuse them.
fn text(fewest: u32, most: u32) -> Value {
    match (fewest, most) {
        (_, 0) => json!({"type": "string"}),
        (0, most) => json!({"type": "string", "maxLength": most}),
        (fewest, most) => json!({"type": "string", "minLength": fewest, "maxLength": most}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_bounded_unless_the_bound_is_0() {
        let bounds = MaxChars {
            instruction: 9,
            input: 0,
            output: 30,
        };
        let schema: Value = serde_json::from_str(&schema(4, bounds)).unwrap();
        let tasks = &schema["properties"]["tasks"];
        assert_eq!(
            (&tasks["minItems"], &tasks["maxItems"]),
            (&json!(4), &json!(4))
        );
        let fields = &tasks["items"]["properties"];
        assert_eq!(fields["instruction"]["maxLength"], 9);
        assert_eq!(fields["input"], json!({"type": "string"}));
        assert_eq!(fields["output"]["maxLength"], 30);
    }
}
