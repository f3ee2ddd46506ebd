//! Examples from a file: JSON Lines, a JSON array as `alpaca_data.json`, or a run's dataset.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pacos_plugin::{Message, Task};
use serde::{Deserialize, de::IgnoredAny};

use super::seeds;

/// Problems told at once; a file that is something else altogether has as many as lines.
const TOLD: usize = 20;

/// A dataset that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ExamplesError {
    /// It cannot be read.
    #[error("cannot read the examples in {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A directory without a dataset.
    #[error(
        "{} holds no dataset/dataset.jsonl; name the directory of a run that has made its dataset, or a file",
        .0.display()
    )]
    NotARun(PathBuf),
    /// Rows that are no examples.
    #[error("{}", .0.join("\n"))]
    Rows(Vec<String>),
}

/// Examples, and where each stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Examples {
    /// The file.
    pub path: PathBuf,
    /// What there is to learn.
    pub tasks: Vec<Task>,
    /// The line on which each task begins, counted from 1.
    pub lines: Vec<usize>,
}

impl Examples {
    /// Reads a file, or `dataset/dataset.jsonl` of a run's directory. A text that begins with `[` is
    /// one JSON array, any other is JSON Lines. Each row is an object of `instruction`, `input` and
    /// `output`, or a conversation of one question and one answer under `messages`.
    ///
    /// # Errors
    /// When the file cannot be read or is empty, and when rows are no examples: they are named with
    /// their lines.
    pub fn load(path: &Path) -> Result<Self, ExamplesError> {
        let path = match path.is_dir() {
            true => path.join("dataset").join("dataset.jsonl"),
            false => path.to_owned(),
        };
        let text = fs::read_to_string(&path).map_err(|source| match path.parent() {
            Some(dir) if dir.ends_with("dataset") && !path.exists() => {
                ExamplesError::NotARun(dir.parent().unwrap_or(dir).to_owned())
            }
            _ => ExamplesError::Read {
                path: path.clone(),
                source,
            },
        })?;
        let (tasks, lines) = parse(&text, &path.display().to_string())?;
        Ok(Self { path, tasks, lines })
    }

    /// Where some of the examples stand, for a message.
    pub fn places(&self, examples: &[usize]) -> String {
        const SHOWN: usize = 16;
        let shown: Vec<String> = examples
            .iter()
            .take(SHOWN)
            .filter_map(|example| self.lines.get(*example))
            .map(ToString::to_string)
            .collect();
        let more = match examples.len().saturating_sub(SHOWN) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        let word = if examples.len() == 1 { "line" } else { "lines" };
        format!("{word} {}{more}", shown.join(", "))
    }
}

fn parse(text: &str, name: &str) -> Result<(Vec<Task>, Vec<usize>), ExamplesError> {
    let rows = match text.trim_start().starts_with('[') {
        true => {
            // What is no array at all is told by the parser, with line and column.
            serde_json::from_str::<Vec<IgnoredAny>>(text)
                .map_err(|e| ExamplesError::Rows(vec![format!("{name}: not a JSON array: {e}")]))?;
            elements(text)
        }
        false => (1..)
            .zip(text.lines())
            .filter(|(_, line)| !line.trim().is_empty())
            .collect(),
    };
    let (mut tasks, mut lines, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    for (line, row) in rows {
        match example(row) {
            Ok(task) => {
                tasks.push(task);
                lines.push(line);
            }
            Err(problem) => problems.push(format!("{name}:{line}: {problem}")),
        }
    }
    if tasks.is_empty() && problems.is_empty() {
        problems.push(format!("{name}: no examples in it"));
    }
    if problems.is_empty() {
        return Ok((tasks, lines));
    }
    let more = problems.len().saturating_sub(TOLD);
    problems.truncate(TOLD);
    if more > 0 {
        problems.push(format!("{name}: {more} more rows are no examples"));
    }
    Err(ExamplesError::Rows(problems))
}

/// A row that is a conversation, as datasets of chats have them.
#[derive(Deserialize)]
struct Conversation {
    messages: Vec<Message>,
}

fn example(row: &str) -> Result<Task, String> {
    let Ok(Conversation { messages }) = serde_json::from_str(row) else {
        return seeds::task(row);
    };
    match messages.as_slice() {
        [user, assistant] if user.role == "user" && assistant.role == "assistant" => {
            Ok(Task::new(&*user.content, "", &*assistant.content))
        }
        _ => {
            let roles: Vec<&str> = messages.iter().map(|m| m.role.as_str()).collect();
            Err(format!(
                "a conversation of {:?}; expected one message of \"user\" and one of \"assistant\"",
                roles
            ))
        }
    }
}

/// The elements of a JSON array that has been found well formed, each with the line it begins on.
fn elements(array: &str) -> Vec<(usize, &str)> {
    let mut elements = Vec::new();
    let (mut line, mut depth, mut in_string, mut escaped) = (1, 0, false, false);
    let mut open: Option<(usize, usize)> = None;
    for (at, byte) in array.bytes().enumerate() {
        if byte == b'\n' {
            line += 1;
        }
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        let ends = depth == 1 && matches!(byte, b',' | b']');
        if let (true, Some((line, start))) = (ends, open) {
            elements.push((line, array[start..at].trim_end()));
            open = None;
        } else if depth == 1 && open.is_none() && !byte.is_ascii_whitespace() && !ends {
            open = Some((line, at));
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            _ => {}
        }
    }
    elements
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> String {
        parse(text, "data").unwrap_err().to_string()
    }

    #[test]
    fn lines_arrays_and_conversations_are_read_with_their_places() {
        let add = Task::new("Add.", "1 2", "3");
        let greet = Task::new("Greet, \"loudly\" [now].", "", "Hi \\ there");
        let lines = r#"{"instruction":"Add.","input":"1 2","output":"3"}

{"messages":[{"role":"user","content":"Greet, \"loudly\" [now]."},{"role":"assistant","content":"Hi \\ there"}]}"#;
        let (tasks, at) = parse(lines, "data").unwrap();
        assert_eq!(tasks, [add.clone(), greet.clone()]);
        assert_eq!(at, [1, 3]);
        let array = r#"[
    {"instruction": "Add.", "input": "1 2", "output": "3"},
    {
        "instruction": "Greet, \"loudly\" [now].",
        "input": "",
        "output": "Hi \\ there"
    }
]"#;
        let (tasks, at) = parse(array, "data").unwrap();
        assert_eq!(tasks, [add, greet]);
        assert_eq!(at, [2, 3]);
    }

    #[test]
    fn every_row_that_is_no_example_is_named_with_its_line() {
        assert_eq!(
            problems("[\n{\"instruction\": \"Add.\", \"output\": \"3\"},\n{\"output\": \"3\"}, 7]"),
            "data:3: \"instruction\" is missing or empty\n\
             data:3: not a task: invalid type: integer `7`, expected struct Line at line 1 column 1; \
             expected an object with \"instruction\", \"input\" and \"output\""
        );
        assert_eq!(
            problems(r#"{"messages":[{"role":"user","content":"Hi"}]}"#),
            "data:1: a conversation of [\"user\"]; expected one message of \"user\" and one of \"assistant\""
        );
        assert_eq!(
            problems("[1, 2"),
            "data: not a JSON array: EOF while parsing a list at line 1 column 5"
        );
        assert_eq!(problems("[]"), "data: no examples in it");
        let many = problems(&"x\n".repeat(30));
        assert!(
            many.ends_with("data: 10 more rows are no examples"),
            "{many}"
        );
    }
}
