//! Seed tasks and evaluation tasks, from JSON Lines.

use std::{fs, path::Path, path::PathBuf};

use pacos_plugin::Task;
use serde::Deserialize;

/// A file of tasks that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// It cannot be read.
    #[error("cannot read the tasks in {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Lines that are no tasks, all of them.
    #[error("{}", .0.join("\n"))]
    Lines(Vec<String>),
}

/// Either form of a line: flat, or as self-instruct and Alpaca wrote it, with `instances`, of
/// which the recipe uses the first.
#[derive(Deserialize)]
struct Line {
    instruction: Option<String>,
    input: Option<String>,
    output: Option<String>,
    instances: Option<Vec<Instance>>,
}

#[derive(Deserialize)]
struct Instance {
    #[serde(default)]
    input: String,
    output: String,
}

/// Reads tasks, one JSON object a line; blank lines are skipped.
///
/// # Errors
/// When the file cannot be read, is empty, or has lines that are no tasks: all of them are named.
pub fn load(path: &Path) -> Result<Vec<Task>, SeedError> {
    let text = fs::read_to_string(path).map_err(|source| SeedError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text, &path.display().to_string())
}

/// As [`load`], from text; `name` is for messages.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, name: &str) -> Result<Vec<Task>, SeedError> {
    let mut tasks = Vec::new();
    let mut problems = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        match task(line) {
            Ok(task) => tasks.push(task),
            Err(problem) => problems.push(format!("{name}:{number}: {problem}")),
        }
    }
    if tasks.is_empty() && problems.is_empty() {
        problems.push(format!("{name}: no tasks in it"));
    }
    if problems.is_empty() {
        Ok(tasks)
    } else {
        Err(SeedError::Lines(problems))
    }
}

/// One task from the text of its JSON object.
pub(super) fn task(line: &str) -> Result<Task, String> {
    let line: Line = serde_json::from_str(line).map_err(|e| {
        format!(
            "not a task: {e}; expected an object with \"instruction\", \"input\" and \"output\""
        )
    })?;
    let instruction = line
        .instruction
        .filter(|text| !text.trim().is_empty())
        .ok_or("\"instruction\" is missing or empty")?;
    let (input, output) = match (line.output, line.instances) {
        (Some(output), _) => (line.input.unwrap_or_default(), output),
        (None, Some(instances)) => {
            let first = instances
                .into_iter()
                .next()
                .ok_or("\"instances\" is empty")?;
            (first.input, first.output)
        }
        (None, None) => {
            return Err("neither \"output\" nor \"instances\" is there".into());
        }
    };
    Ok(Task {
        instruction,
        input,
        output,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_line_load() {
        let text = r#"{"instruction":"Add.","input":"1 2","output":"3"}

{"id":"seed_task_0","instruction":"Add.","instances":[{"input":"","output":"3"},{"input":"x","output":"y"}],"is_classification":false}"#;
        let tasks = parse(text, "seeds").unwrap();
        assert_eq!(
            tasks,
            [Task::new("Add.", "1 2", "3"), Task::new("Add.", "", "3")]
        );
    }

    #[test]
    fn every_bad_line_is_named() {
        let text = "{\"instruction\":\"x\",\"output\":\"y\"}\n{\n{\"instruction\":\"\",\"output\":\"\"}\n{\"instruction\":\"x\"}";
        assert_eq!(
            parse(text, "seeds.jsonl").unwrap_err().to_string(),
            "seeds.jsonl:2: not a task: EOF while parsing an object at line 1 column 1; expected an object with \"instruction\", \"input\" and \"output\"\n\
             seeds.jsonl:3: \"instruction\" is missing or empty\n\
             seeds.jsonl:4: neither \"output\" nor \"instances\" is there"
        );
    }

    #[test]
    fn an_empty_file_is_an_error() {
        assert_eq!(
            parse("\n\n", "seeds.jsonl").unwrap_err().to_string(),
            "seeds.jsonl: no tasks in it"
        );
    }
}
