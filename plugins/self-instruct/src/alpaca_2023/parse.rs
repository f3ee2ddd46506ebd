//! The reading of a reply, bug for bug.
//!
//! The reply goes on after `4. Instruction:` (after three demonstrations). It is cut at every
//! `###`, also inside an answer. Block number j, counted from 0, is a task exactly when it has
//! three markers `N. Instruction:`, `N. Input:` or `N. Output:` with N = 4 + j; which of the
//! three they are is not looked at, and a marker counts inside a word (`14. Input:` has one for
//! N = 4). The text after the first, second and third marker is instruction, input and output.

use std::ops::Range;

use pacos_plugin::Task;

use crate::{
    reading::Reading,
    whitespace::{is_python_space, strip},
};

const SEPARATOR: &str = "###";
const LABELS: [&str; 3] = ["Instruction:", "Input:", "Output:"];

/// Reads `text`, the reply to a prompt with `shown` demonstrations; the last block is dropped
/// where the reply was cut at its token limit.
pub(super) fn parse(text: &str, cut_by_length: bool, shown: usize) -> Reading {
    let open = format!("{}. Instruction:", shown + 1);
    let whole = format!("{open}{text}");
    let blocks: Vec<&str> = whole.split(SEPARATOR).collect();
    let mut reading = Reading::default();
    let mut start = 0;
    for (j, block) in blocks.iter().enumerate() {
        let end = start + block.len();
        // Bytes of the reply, where the opening words of the prompt are not.
        let bytes = start.saturating_sub(open.len())..end.saturating_sub(open.len());
        if cut_by_length && j + 1 == blocks.len() {
            let message = "the reply reached max_tokens, so its last block is taken for cut";
            reading.reject("cut-by-length", message, bytes);
        } else {
            read_block(block, shown + 1 + j, bytes, &mut reading);
        }
        start = end + SEPARATOR.len();
    }
    reading
}

fn read_block(block: &str, number: usize, bytes: Range<usize>, reading: &mut Reading) {
    let markers = markers(block, &number.to_string());
    if let [first, second, third] = &markers[..] {
        let input = strip(&block[second.end..third.start]);
        let no_input = input.to_lowercase() == "<noinput>";
        let task = Task::new(
            strip(&block[first.end..second.start]),
            if no_input { "" } else { input },
            strip(&block[third.end..]),
        );
        reading.tasks.push((task, bytes));
    } else if strip(block).is_empty() {
        reading.reject(
            "empty-block",
            format!("nothing where task {number} belongs"),
            bytes,
        );
    } else if let Some(found) = number_of_whole_task(block) {
        let message = format!("a task numbered {found} where {number} belongs");
        reading.reject("wrong-number", message, bytes);
    } else {
        let message = format!(
            "{} fields numbered {number} where a task has 3 (Instruction, Input, Output)",
            markers.len()
        );
        reading.reject("wrong-field-count", message, bytes);
    }
}

/// The places of `NUMBER\.\s+(Instruction|Input|Output):` in `block`, as `re.split` finds them.
fn markers(block: &str, number: &str) -> Vec<Range<usize>> {
    let head = format!("{number}.");
    let mut markers: Vec<Range<usize>> = Vec::new();
    let mut from = 0;
    while let Some(found) = block[from..].find(&head) {
        let start = from + found;
        let tail = &block[start + head.len()..];
        let label = tail.trim_start_matches(is_python_space);
        let spaced = label.len() < tail.len();
        match LABELS.iter().find(|name| label.starts_with(**name)) {
            Some(name) if spaced => {
                let end = block.len() - label.len() + name.len();
                markers.push(start..end);
                from = end;
            }
            _ => from = start + 1,
        }
    }
    markers
}

/// The number under which `block` would have been a task.
fn number_of_whole_task(block: &str) -> Option<&str> {
    let (before, _) = block.split_once('.')?;
    let digits = before.len() - before.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let number = &before[before.len() - digits..];
    (digits > 0 && markers(block, number).len() == 3).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks(text: &str) -> Vec<[String; 3]> {
        let reading = parse(text, false, 3);
        let task = |(task, _): (Task, _)| [task.instruction, task.input, task.output];
        reading.tasks.into_iter().map(task).collect()
    }

    fn codes(text: &str) -> Vec<&'static str> {
        let reading = parse(text, false, 3);
        reading.unusable.into_iter().map(|u| u.code).collect()
    }

    fn block(number: u32, instruction: &str, output: &str) -> String {
        format!(
            "\n{number}. Instruction: {instruction}\n{number}. Input:\n<noinput>\n{number}. Output:\n{output}\n"
        )
    }

    const FIRST: &str = " Count to two.\n4. Input:\n<noinput>\n4. Output:\nOne, two.\n";

    #[test]
    fn a_reply_goes_on_from_the_open_number() {
        let text = format!("{FIRST}###{}", block(5, "Name a bird.", "Wren"));
        assert_eq!(
            tasks(&text),
            [
                ["Count to two.", "", "One, two."],
                ["Name a bird.", "", "Wren"]
            ]
        );
    }

    #[test]
    fn places_are_bytes_of_the_reply() {
        let text = format!("{FIRST}###{}###\nÆ", block(5, "Name a bird.", "Wren"));
        let reading = parse(&text, false, 3);
        assert_eq!(&text[reading.tasks[0].1.clone()], FIRST);
        let second = &text[reading.tasks[1].1.clone()];
        assert_eq!(second, block(5, "Name a bird.", "Wren"));
        assert_eq!(&text[reading.unusable[0].bytes.clone()], "\nÆ");
    }

    #[test]
    fn only_the_last_block_of_a_reply_cut_by_length_is_dropped() {
        let text = format!("{FIRST}###{}", block(5, "Name a bird.", "Wr"));
        let reading = parse(&text, true, 3);
        assert_eq!(reading.tasks.len(), 1);
        assert_eq!(reading.unusable[0].code, "cut-by-length");
        // Cut right after a separator, the empty block is the one that is dropped.
        let reading = parse(&format!("{text}###"), true, 3);
        assert_eq!(reading.tasks.len(), 2);
    }

    #[test]
    fn a_heading_in_an_answer_loses_every_later_task() {
        let text = format!(
            "{FIRST}### Notes\nmore###{}###{}",
            block(5, "Name a bird.", "Wren"),
            block(6, "Name a fish.", "Pike")
        );
        assert_eq!(tasks(&text).len(), 1);
        assert_eq!(
            codes(&text),
            ["wrong-field-count", "wrong-number", "wrong-number"]
        );
    }

    #[test]
    fn labels_are_counted_and_not_read() {
        assert_eq!(
            tasks(" Sum these.\n4. Output:\n3\n4. Input:\n1 2"),
            [["Sum these.", "3", "1 2"]]
        );
        assert_eq!(
            tasks(" Sum these.\n4. Instruction: 3\n4.\n\tInstruction:1 2"),
            [["Sum these.", "3", "1 2"]]
        );
    }

    #[test]
    fn a_marker_needs_whitespace_and_counts_inside_a_longer_number() {
        assert_eq!(
            codes(" Sum.\n4.Input:\n1\n4. Output:\n3"),
            ["wrong-field-count"]
        );
        assert_eq!(
            tasks(" Sum.\n14. Input:\n1\n4.\u{a0}\u{1f}Output:\n3"),
            [["Sum.\n1", "1", "3"]]
        );
        assert_eq!(
            codes(" Sum.\n4 . Input:\n1\n4. Output:\n3"),
            ["wrong-field-count"]
        );
        assert_eq!(
            codes(" Sum.\n4. input:\n1\n4. Output:\n3"),
            ["wrong-field-count"]
        );
    }

    #[test]
    fn a_fourth_field_spoils_the_task() {
        let text = format!("{FIRST}4. Output:\nThree.");
        assert_eq!(codes(&text), ["wrong-field-count"]);
        assert_eq!(
            parse(&text, false, 3).unusable[0].message,
            "4 fields numbered 4 where a task has 3 (Instruction, Input, Output)"
        );
    }

    #[test]
    fn one_spelling_in_any_case_stands_for_no_input() {
        for (input, read) in [
            ("<NoInput>", ""),
            ("\u{1c}<noinput>\u{3000}", ""),
            ("<no input>", "<no input>"),
            ("No input", "No input"),
        ] {
            let text = format!(" Name a bird.\n4. Input:{input}\n4. Output:Wren");
            assert_eq!(tasks(&text), [["Name a bird.", read, "Wren"]]);
        }
    }

    #[test]
    fn windows_line_ends_and_other_scripts_pass() {
        let text = " Übersetze: 猫\r\n4. Input:\r\n<noinput>\r\n4. Output:\r\n  Katze 🐈 \r\n";
        assert_eq!(tasks(text), [["Übersetze: 猫", "", "Katze 🐈"]]);
    }

    #[test]
    fn empty_fields_are_kept() {
        assert_eq!(tasks("4. Input:4. Output:"), [["", "", ""]]);
        assert_eq!(tasks("\n4. Input:\n4. Output:"), [["", "", ""]]);
    }

    #[test]
    fn texts_without_tasks_are_rejected_block_by_block() {
        assert_eq!(codes(""), ["wrong-field-count"]);
        assert_eq!(
            codes("### ######"),
            [
                "wrong-field-count",
                "empty-block",
                "empty-block",
                "empty-block"
            ]
        );
        // Four signs are a separator and one sign left over.
        assert_eq!(codes(&format!("{FIRST}####")), ["wrong-field-count"]);
    }

    #[test]
    fn numbering_follows_the_number_of_demonstrations() {
        let text = " Name a bird.\n2. Input:\n<noinput>\n2. Output:\nWren";
        assert_eq!(parse(text, false, 1).tasks.len(), 1);
        assert_eq!(parse(text, false, 3).tasks.len(), 0);
    }
}
