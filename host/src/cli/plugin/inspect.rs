//! `pacos plugin inspect`.

use super::subject::SubjectArgs;
use crate::cli::Failed;

pub(super) async fn inspect(plugin: &str, trust_native: bool, json: bool) -> Result<(), Failed> {
    let subject = SubjectArgs::of(plugin, None, trust_native);
    let loaded = subject.load_as_it_is().await?;
    let about = &loaded.description;
    let schema: serde_json::Value = serde_json::from_str(&about.config_schema).unwrap_or_default();
    if json {
        let text = serde_json::json!({
            "name": about.name,
            "version": about.version,
            "contract": loaded.stage.interface(),
            "capabilities": about.capabilities,
            "stateful": about.stateful,
            "batch_limit": about.batch_limit,
            "config_schema": schema,
            "sha256": loaded.sha256,
        });
        println!("{text}");
        return Ok(());
    }
    println!("{}", loaded.title());
    println!("contract      {}", loaded.stage.interface());
    let capabilities = match about.capabilities.as_slice() {
        [] => "none".to_owned(),
        some => some.join(", "),
    };
    println!("capabilities  {capabilities}");
    println!(
        "stateful      {}",
        if about.stateful { "yes" } else { "no" }
    );
    println!("sha256        {}", loaded.sha256);
    println!("configuration");
    print_properties(&schema);
    Ok(())
}

/// The keys of a configuration with their defaults, from its JSON Schema.
fn print_properties(schema: &serde_json::Value) {
    let Some(properties) = schema["properties"].as_object() else {
        println!("  none");
        return;
    };
    for (key, property) in properties {
        let default = match &property["default"] {
            serde_json::Value::Null => String::new(),
            value => format!(" = {value}"),
        };
        println!("  {key}{default}");
        if let Some(text) = property["description"].as_str() {
            println!("      {}", text.replace('\n', "\n      "));
        }
    }
}
