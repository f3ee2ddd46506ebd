//! The prompt, as turns of a conversation or as one text.

use pacos_plugin::Message;
use serde::Serialize;

use crate::{demonstrations::Demonstration, whitespace::collapse};

/// Alpaca's requirements, without those that nobody can check.
const REQUIREMENTS: &str = "\
You write tasks for training an assistant that reads and writes text. A task has three texts.
instruction: what a person asks for, in one or two sentences of English, as a question or a command.
input: the text that the instruction works on, with real details and at most 100 words; \"\" when the instruction needs none.
output: the complete and correct answer, at most 100 words.
The assistant has text and nothing else: no pictures, sound, files, links or actions in the world, and no blanks for somebody to fill in.";

/// What the reply looks like; said in words too, because not every model keeps a schema.
const FORM: &str = "Reply with JSON and nothing else: {\"tasks\": [{\"instruction\": \"...\", \"input\": \"...\", \"output\": \"...\"}]}";

#[derive(Serialize)]
struct Shown<'a> {
    tasks: Vec<ShownTask<'a>>,
}

#[derive(Serialize)]
struct ShownTask<'a> {
    instruction: String,
    input: &'a str,
    output: &'a str,
}

/// The conversation. What is shown stands as an answer that the model already gave, so that
/// its own answer has a form to follow.
pub(super) fn turns(
    tasks_per_request: u32,
    demonstrations: &[Demonstration],
    topics: &[&str],
) -> Vec<Message> {
    let about = match topics {
        [] => String::new(),
        topics => format!(" about: {}", topics.join("; ")),
    };
    if demonstrations.is_empty() {
        let asked = tasks(tasks_per_request);
        return vec![Message::user(format!(
            "{REQUIREMENTS}\n\nWrite {asked}{about}.\nNo two may share their verb or their kind.\n{FORM}"
        ))];
    }
    let shown = tasks(demonstrations.len() as u32);
    let more = match tasks_per_request {
        1 => "1 more task".to_owned(),
        many => format!("{many} more tasks"),
    };
    vec![
        Message::user(format!("{REQUIREMENTS}\n\nWrite {shown}.\n{FORM}")),
        Message::assistant(as_json(demonstrations)),
        Message::user(format!(
            "Write {more}{about}.\nUse other verbs, and other kinds of task, than before.\n{FORM}"
        )),
    ]
}

fn tasks(count: u32) -> String {
    match count {
        1 => "1 task".to_owned(),
        many => format!("{many} tasks"),
    }
}

fn as_json(demonstrations: &[Demonstration]) -> String {
    let tasks = demonstrations.iter().map(|d| ShownTask {
        instruction: collapse(&d.task.instruction),
        input: &d.task.input,
        output: &d.task.output,
    });
    let tasks = tasks.collect();
    serde_json::to_string(&Shown { tasks }).expect("texts have a form in JSON")
}

/// The same for a model that continues text.
pub(super) fn as_text(turns: &[Message]) -> String {
    let paragraphs: Vec<&str> = turns.iter().map(|turn| turn.content.as_str()).collect();
    paragraphs.join("\n\n") + "\n\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use pacos_plugin::{Origin, Task};

    fn demonstration() -> Demonstration {
        Demonstration {
            task: Task::new("Quote\n  this.", "He said \"no\".", "\"no\""),
            origin: Origin::Seed(4),
        }
    }

    #[test]
    fn demonstrations_stand_as_an_earlier_answer() {
        let turns = turns(2, &[demonstration()], &["bees", "tax"]);
        let roles: Vec<&str> = turns.iter().map(|turn| turn.role.as_str()).collect();
        assert_eq!(roles, ["user", "assistant", "user"]);
        assert_eq!(
            turns[1].content,
            r#"{"tasks":[{"instruction":"Quote this.","input":"He said \"no\".","output":"\"no\""}]}"#
        );
        assert!(
            turns[2]
                .content
                .starts_with("Write 2 more tasks about: bees; tax.\n")
        );
    }

    #[test]
    fn nothing_shown_is_one_turn() {
        let turns = turns(1, &[], &[]);
        assert_eq!(turns.len(), 1);
        assert!(turns[0].content.contains("\n\nWrite 1 task.\n"));
    }

    #[test]
    fn one_text_has_every_turn() {
        let text = as_text(&turns(1, &[demonstration()], &[]));
        assert!(text.contains("Quote this."));
        assert!(text.contains("Write 1 more task.\n"));
        assert!(text.ends_with("}]}\n\n"));
    }
}
