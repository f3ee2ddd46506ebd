//! `alpaca_data.json`: the bytes that Stanford's code would have written, Python's
//! `json.dump(tasks, file, indent=4)`.

use std::io::{self, Write};

use pacos_plugin::Task;

/// Writes tasks one by one into a JSON array.
pub(super) struct AlpacaJson<W> {
    out: W,
    empty: bool,
}

impl<W: Write> AlpacaJson<W> {
    pub(super) fn new(out: W) -> Self {
        AlpacaJson { out, empty: true }
    }

    pub(super) fn task(&mut self, task: &Task) -> io::Result<()> {
        let before = if self.empty { "[" } else { "," };
        self.empty = false;
        let mut text = format!("{before}\n    {{\n        \"instruction\": ");
        push_string(&mut text, &task.instruction);
        text.push_str(",\n        \"input\": ");
        push_string(&mut text, &task.input);
        text.push_str(",\n        \"output\": ");
        push_string(&mut text, &task.output);
        text.push_str("\n    }");
        self.out.write_all(text.as_bytes())
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        let end: &[u8] = if self.empty { b"[]" } else { b"\n]" };
        self.out.write_all(end)?;
        Ok(self.out)
    }
}

/// A JSON string in ASCII, as Python's encoder escapes it by default: everything but printable
/// ASCII becomes `\uXXXX`, in UTF-16, unless it has a short form.
fn push_string(out: &mut String, text: &str) {
    use std::fmt::Write as _;
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}").expect("a string takes all that is written");
                }
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn written(tasks: &[Task]) -> String {
        let mut json = AlpacaJson::new(Vec::new());
        for task in tasks {
            json.task(task).unwrap();
        }
        String::from_utf8(json.finish().unwrap()).unwrap()
    }

    fn awkward() -> Vec<Task> {
        let low: String = (0..=0x24_u8).map(char::from).collect();
        let edges = "~\u{7f}\u{80}\u{9f}\u{a0}\u{ff}\u{7ff}\u{800}\u{2028}\u{2029}\u{d7ff}\u{e000}\u{feff}\u{ffff}\u{10000}\u{10ffff}";
        vec![
            Task::new(
                "Translate \"Größe\" / \\ tab\there.",
                "",
                "two\nlines\r\nand 🦙 & </script>",
            ),
            Task::new(low, edges, "日本語 עברית e\u{301}"),
        ]
    }

    #[test]
    fn the_form_is_stanfords() {
        assert_eq!(
            written(&awkward()[..1]),
            r#"[
    {
        "instruction": "Translate \"Gr\u00f6\u00dfe\" / \\ tab\there.",
        "input": "",
        "output": "two\nlines\r\nand \ud83e\udd99 & </script>"
    }
]"#
        );
    }

    #[test]
    fn a_dataset_without_examples_is_an_empty_array() {
        assert_eq!(written(&[]), "[]");
    }

    #[test]
    fn every_byte_is_what_python_writes() {
        let tasks = awkward();
        let script = "import json, sys; sys.stdout.write(json.dumps(json.loads(sys.stdin.buffer.read()), indent=4))";
        let Ok(mut python) = Command::new("python3")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
        else {
            eprintln!("no python3 here: the frozen form above stands alone");
            return;
        };
        let input = serde_json::to_vec(&tasks).unwrap();
        python.stdin.take().unwrap().write_all(&input).unwrap();
        let output = python.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(written(&tasks), String::from_utf8(output.stdout).unwrap());
    }
}
