//! What the judge is asked.

use pacos_plugin::{Message, Prompt, Task};

/// The JSON Schema of a verdict.
pub(crate) const SCHEMA: &str = r#"{"type":"object","properties":{"winner":{"type":"string","enum":["A","B","tie"]}},"required":["winner"],"additionalProperties":false}"#;

const DUTY: &str = "\
You compare two answers to the same task. Which one serves better the person who set the task? \
What counts, in this order: it is correct; it does what the task asks, and all of it; it is clear. \
Neither length nor the order in which the answers stand counts. \
If they are equally good or equally bad, it is a tie.";

const FORM: &str = "Reply with one of these and nothing else: {\"winner\": \"A\"}, {\"winner\": \"B\"} or {\"winner\": \"tie\"}";

/// The comparison of `a` and `b`: a conversation where the judge can hold one, else one text to continue.
pub(crate) fn prompt(task: &Task, a: &str, b: &str, chat: bool) -> Prompt {
    let input = match task.input.as_str() {
        "" => String::new(),
        input => format!("\n\n{input}"),
    };
    let question = format!(
        "<task>\n{}{input}\n</task>\n\n<answer-A>\n{}\n</answer-A>\n\n<answer-B>\n{}\n</answer-B>\n\n{FORM}",
        task.instruction,
        a.trim(),
        b.trim()
    );
    if chat {
        Prompt::Chat(vec![Message::system(DUTY), Message::user(question)])
    } else {
        Prompt::Completion(format!("{DUTY}\n\n{question}\n\n"))
    }
}
