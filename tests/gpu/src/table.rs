//! All result files of a folder as one table, and what we are beside PyTorch.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::report::shown;
use crate::shapes;

/// The order of the parts; a file of any other comes after these.
const ORDER: [&str; 5] = ["operations", "steps", "speed", "torch_step", "torch_padded"];

/// Prints the tables.
pub fn print(folder: &Path) -> Result<()> {
    let files = read(folder)?;
    println!("| part | what | value | unit | of peak | against |");
    println!("| --- | --- | ---: | --- | ---: | --- |");
    let mut exceeded = Vec::new();
    for (_, file) in &files {
        let section = file["section"].as_str().unwrap_or_default();
        for row in rows(file) {
            let name = row["name"].as_str().unwrap_or_default();
            let value = match row["value"].as_f64() {
                Some(value) => shown(value),
                None => row["text"].as_str().unwrap_or("-").replace('\n', " "),
            };
            let unit = row["unit"].as_str().unwrap_or_default();
            let of_peak = row["of_peak"]
                .as_f64()
                .map(|part| format!("{:.1} %", 100.0 * part))
                .unwrap_or_default();
            let mut against = row["against"].as_str().unwrap_or_default().to_owned();
            if let Some(bound) = row["bound"].as_f64() {
                let kept = row["kept"] == true;
                let verdict = if kept { "kept" } else { "EXCEEDED" };
                against = format!("bound {}, {verdict}", shown(bound));
            }
            // JSON has no NaN: a value that is none was not finite.
            if row["kept"] == false || name == "failed" {
                exceeded.push(format!("{section}: {name}: {value}"));
            }
            println!("| {section} | {name} | {value} | {unit} | {of_peak} | {against} |");
        }
    }
    println!();
    beside_torch(&files);
    match exceeded.as_slice() {
        [] => println!("All bounds were kept, and no part failed."),
        some => println!("Bounds exceeded and parts failed:\n- {}", some.join("\n- ")),
    }
    Ok(())
}

/// The fastest of ours and of PyTorch's for each shape.
fn beside_torch(files: &[(PathBuf, Value)]) {
    let fastest = |section: &str, shape: &str| -> Option<(f64, String)> {
        let of_section = files.iter().filter(|(_, file)| file["section"] == section);
        let all = of_section.flat_map(|(_, file)| rows(file));
        let speeds = all.filter(|row| row["shape"] == shape).filter_map(|row| {
            let name = row["name"].as_str().unwrap_or_default();
            Some((row["value"].as_f64()?, name.to_owned()))
        });
        speeds.max_by(|a, b| a.0.total_cmp(&b.0))
    };
    println!("| shape | Pacos, tokens/s | PyTorch, tokens/s | ratio | as |");
    println!("| --- | ---: | ---: | ---: | --- |");
    for shape in shapes::NAMES {
        let Some((own, own_name)) = fastest("speed", shape) else {
            continue;
        };
        let name = own_name.split(':').next().unwrap_or_default();
        match fastest("torch_step", shape) {
            Some((torch, torch_name)) => println!(
                "| {shape} | {} | {} | {:.2} | {name} against {torch_name} |",
                shown(own),
                shown(torch),
                own / torch
            ),
            None => println!("| {shape} | {} | not measured | | {name} |", shown(own)),
        }
    }
    println!();
}

fn rows(file: &Value) -> impl Iterator<Item = &Value> {
    file["rows"].as_array().into_iter().flatten()
}

/// All result files, in the order of the table.
fn read(folder: &Path) -> Result<Vec<(PathBuf, Value)>> {
    let mut files = Vec::new();
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "json") {
            let text = std::fs::read_to_string(&path)?;
            let file: Value = serde_json::from_str(&text)
                .with_context(|| format!("{} is not JSON", path.display()))?;
            files.push((path, file));
        }
    }
    if files.is_empty() {
        bail!(
            "{} holds no result file; run the checks first",
            folder.display()
        );
    }
    files.sort_by_key(|(path, file)| {
        let section = file["section"].as_str().unwrap_or_default();
        let place = ORDER.iter().position(|known| *known == section);
        (place.unwrap_or(ORDER.len()), path.clone())
    });
    Ok(files)
}
