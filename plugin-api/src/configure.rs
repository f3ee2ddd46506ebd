//! From the text of a configuration to a plugin, with diagnostics that name the key.

use crate::{Description, Diagnostic, Plugin};

/// The plugin's description with the JSON Schema of its configuration filled in.
pub(crate) fn description<P: Plugin>() -> Description {
    let mut description = P::describe();
    if description.config_schema.is_empty() {
        description.config_schema = schemars::schema_for!(P::Config).as_value().to_string();
    }
    description
}

/// Makes an instance from the plugin's table of the manifest, given as JSON.
pub(crate) fn configure<P: Plugin>(config: &str) -> Result<P, Vec<Diagnostic>> {
    // serde fills a struct from a list, too, in the order of its fields, of which no user knows.
    if !config.trim_start().starts_with('{') {
        let message = format!("expected a table of keys, found {}", kind(config));
        return Err(vec![Diagnostic::error("", message)]);
    }
    let mut json = serde_json::Deserializer::from_str(config);
    let config = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = match error.path().to_string() {
            root if root == "." => String::new(),
            path => path,
        };
        vec![Diagnostic::error(
            path,
            without_position(&error.inner().to_string()),
        )]
    })?;
    P::configure(config)
}

/// What a text of JSON that is no object begins with.
fn kind(json: &str) -> &'static str {
    match json.trim_start().chars().next() {
        Some('[') => "an array",
        Some('"') => "a string",
        Some('t' | 'f') => "a boolean",
        Some('-' | '0'..='9') => "a number",
        _ => "nothing",
    }
}

/// serde_json counts lines of the JSON text, which the user never wrote.
fn without_position(message: &str) -> String {
    match message.rfind(" at line ") {
        Some(end) => message[..end].to_owned(),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields, default)]
    struct Config {
        limit: u32,
        nested: Nested,
    }

    #[derive(serde::Deserialize, schemars::JsonSchema, Default)]
    #[serde(deny_unknown_fields, default)]
    struct Nested {
        threshold: f64,
    }

    impl Default for Config {
        fn default() -> Self {
            Config {
                limit: 7,
                nested: Nested::default(),
            }
        }
    }

    #[derive(Debug)]
    struct Probe(u32, f64);

    impl Plugin for Probe {
        type Config = Config;

        fn describe() -> Description {
            Description::new("probe", "0.0.1")
        }

        fn configure(config: Config) -> Result<Self, Vec<Diagnostic>> {
            Ok(Probe(config.limit, config.nested.threshold))
        }
    }

    #[test]
    fn absent_keys_take_the_authors_defaults() {
        let probe = configure::<Probe>("{}").unwrap();
        assert_eq!((probe.0, probe.1), (7, 0.0));
    }

    #[test]
    fn a_wrong_type_names_the_key_and_not_a_line_of_json() {
        let diagnostics = configure::<Probe>(r#"{"nested":{"threshold":"high"}}"#).unwrap_err();
        assert_eq!(diagnostics[0].path, "nested.threshold");
        assert_eq!(
            diagnostics[0].message,
            "invalid type: string \"high\", expected f64"
        );
    }

    #[test]
    fn an_unknown_key_is_named_with_the_known_ones() {
        let diagnostics = configure::<Probe>(r#"{"limits":1}"#).unwrap_err();
        assert_eq!(
            diagnostics[0].message,
            "unknown field `limits`, expected `limit` or `nested`"
        );
    }

    #[test]
    fn what_is_no_table_is_refused() {
        for (config, found) in [
            ("[]", "an array"),
            (" [9]", "an array"),
            ("\"limit\"", "a string"),
            ("9", "a number"),
            ("null", "nothing"),
            ("", "nothing"),
        ] {
            let diagnostics = configure::<Probe>(config).unwrap_err();
            assert_eq!(diagnostics[0].path, "");
            assert_eq!(
                diagnostics[0].message,
                format!("expected a table of keys, found {found}"),
                "{config}"
            );
        }
    }

    #[test]
    fn the_schema_comes_from_the_config_type() {
        let schema: serde_json::Value =
            serde_json::from_str(&description::<Probe>().config_schema).unwrap();
        assert_eq!(schema["properties"]["limit"]["type"], "integer");
    }
}
