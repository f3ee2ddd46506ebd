//! The three texts that are looked at, of a task or of a conversation.

use pacos_plugin::Payload;

/// Borrowed from a payload; what a payload does not have is empty.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    pub(crate) instruction: &'a str,
    pub(crate) input: &'a str,
    pub(crate) output: &'a str,
}

impl<'a> Fields<'a> {
    pub(crate) fn of(payload: &'a Payload) -> Self {
        match payload {
            Payload::Task(task) => Fields {
                instruction: &task.instruction,
                input: &task.input,
                output: &task.output,
            },
            Payload::Chat(messages) => {
                let said_by = |role| messages.iter().filter(move |message| message.role == role);
                Fields {
                    instruction: said_by("user").next().map_or("", |m| &m.content),
                    input: "",
                    output: said_by("assistant").next_back().map_or("", |m| &m.content),
                }
            }
        }
    }

    /// Each text with the name that messages give it.
    pub(crate) fn named(self) -> [(&'static str, &'a str); 3] {
        [
            ("instruction", self.instruction),
            ("input", self.input),
            ("output", self.output),
        ]
    }
}
