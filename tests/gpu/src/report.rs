//! Rows of results, and the JSON file they end in.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// The results of one part.
pub struct Report {
    section: &'static str,
    file: String,
    rows: Vec<Value>,
    kept_its_bounds: bool,
}

impl Report {
    /// An empty report, for a file of that name.
    pub fn new(section: &'static str, file: String) -> Self {
        Self {
            section,
            file,
            rows: Vec::new(),
            kept_its_bounds: true,
        }
    }

    /// One measured value, with whatever else is known of it under `details`.
    pub fn measured(&mut self, name: &str, value: f64, unit: &str, details: Value) {
        let mut row = Map::new();
        row.insert("name".into(), name.into());
        row.insert("value".into(), json!(value));
        row.insert("unit".into(), unit.into());
        if let Value::Object(details) = details {
            row.extend(details);
        }
        println!(
            "{:<10} {name:<72} {:>10} {unit}",
            self.section,
            shown(value)
        );
        self.rows.push(Value::Object(row));
    }

    /// One error that must not exceed `bound`. A NaN exceeds every bound.
    pub fn bounded(&mut self, name: &str, error: f64, bound: f64, unit: &str) {
        let kept = error <= bound;
        self.kept_its_bounds &= kept;
        let details = json!({ "bound": bound, "kept": kept });
        self.measured(name, error, unit, details);
        if !kept {
            println!(
                "{:<10} {name}: EXCEEDS its bound of {bound:e}",
                self.section
            );
        }
    }

    /// A fact that is no number.
    pub fn noted(&mut self, name: &str, text: &str) {
        println!("{:<10} {name}: {text}", self.section);
        self.rows.push(json!({ "name": name, "text": text }));
    }

    /// The part ended early.
    pub fn failed(&mut self, why: &str) {
        self.kept_its_bounds = false;
        self.rows.push(json!({ "name": "failed", "text": why }));
    }

    /// Whether no bound was exceeded and nothing failed.
    pub fn kept_its_bounds(&self) -> bool {
        self.kept_its_bounds
    }

    /// Writes its file into the folder.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join(format!("{}.json", self.file));
        let text =
            serde_json::to_string_pretty(&json!({ "section": self.section, "rows": self.rows }))?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Three or four figures, whatever the size.
pub fn shown(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size < 1e-2 => format!("{value:.2e}"),
        size if size < 10.0 => format!("{value:.3}"),
        size if size < 1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}
