//! All result files of a folder as one table.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::report::shown;

/// The order of the sections; a file of any other name comes after these.
const ORDER: [&str; 7] = [
    "parity",
    "matmul",
    "launch",
    "memory",
    "kernel",
    "torch_matmul",
    "torch_step",
];

/// Prints the table. A row of `matmul` that `torch_matmul` has too gets their ratio.
pub fn print(folder: &Path) -> Result<()> {
    let mut files = Vec::new();
    for entry in
        std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
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
        let place = ORDER
            .iter()
            .position(|known| *known == section)
            .unwrap_or(ORDER.len());
        (place, path.clone())
    });
    let torch: HashMap<&str, f64> = rows(&files, "torch_matmul")
        .filter_map(|row| Some((row["name"].as_str()?, row["value"].as_f64()?)))
        .collect();
    println!("| section | what | value | unit | of peak | against |");
    println!("| --- | --- | ---: | --- | ---: | --- |");
    for (_, file) in &files {
        let section = file["section"].as_str().unwrap_or_default();
        for row in file["rows"].as_array().into_iter().flatten() {
            let name = row["name"].as_str().unwrap_or_default();
            let value = match row["value"].as_f64() {
                Some(value) => shown(value),
                None => row["text"].as_str().unwrap_or("-").replace('\n', " "),
            };
            let unit = row["unit"].as_str().unwrap_or_default();
            let of_peak = row["of_peak"]
                .as_f64()
                .map(|f| format!("{:.1} %", 100.0 * f))
                .unwrap_or_default();
            let mut against = row["against"].as_str().unwrap_or_default().to_string();
            if let Some(bound) = row["bound"].as_f64() {
                let kept = if row["kept"] == true {
                    "kept"
                } else {
                    "EXCEEDED"
                };
                against = format!("bound {bound:e}, {kept}");
            }
            if let (true, Some(peer), Some(own)) =
                (section == "matmul", torch.get(name), row["value"].as_f64())
            {
                against = format!("{:.3} of torch", own / peer);
            }
            println!("| {section} | {name} | {value} | {unit} | {of_peak} | {against} |");
        }
    }
    Ok(())
}

fn rows<'a>(
    files: &'a [(std::path::PathBuf, Value)],
    section: &'a str,
) -> impl Iterator<Item = &'a Value> {
    let files = files
        .iter()
        .filter(move |(_, file)| file["section"] == section);
    files.flat_map(|(_, file)| file["rows"].as_array().into_iter().flatten())
}
