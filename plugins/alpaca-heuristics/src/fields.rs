//! The three texts that are looked at, of a task or of a conversation.

use pacos_plugin::{Message, Payload};

use crate::python_text::{is_space, is_word};

/// A text, and what one look at each of its characters tells.
pub(crate) struct Text<'a> {
    pub(crate) text: &'a str,
    pub(crate) words: Vec<&'a str>,
    /// Where a character stands that has no letter, number or underscore before it.
    pub(crate) borders: Vec<usize>,
    /// The first character that belongs into no text.
    pub(crate) stray: Option<char>,
    /// Which of ASCII's punctuation it has.
    punctuation: [bool; 128],
}

impl<'a> Text<'a> {
    pub(crate) fn from(text: &'a str) -> Self {
        // Room for all at once: English has six bytes a word, with its space.
        let room = text.len() / 5 + 1;
        let (mut words, mut borders) = (Vec::with_capacity(room), Vec::with_capacity(room));
        let (mut stray, mut punctuation) = (None, [false; 128]);
        let (mut word, mut after_word) = (None, false);
        for (at, c) in text.char_indices() {
            if !after_word {
                borders.push(at);
            }
            // Most characters end here.
            after_word = c.is_ascii_alphanumeric() || is_word(c);
            if after_word {
                word.get_or_insert(at);
                continue;
            }
            if !is_space(c) {
                word.get_or_insert(at);
            } else if let Some(start) = word.take() {
                words.push(&text[start..at]);
            }
            if c.is_ascii_punctuation() {
                punctuation[c as usize] = true;
            }
            if stray.is_none() && is_stray(c) {
                stray = Some(c);
            }
        }
        words.extend(word.map(|start| &text[start..]));
        Text {
            text,
            words,
            borders,
            stray,
            punctuation,
        }
    }

    /// Whether it has one of these characters, which are ASCII punctuation.
    pub(crate) fn has(&self, characters: &str) -> bool {
        let mut characters = characters.bytes();
        characters.any(|c| self.punctuation[usize::from(c)])
    }
}

/// Control characters other than tab and line ends, and what stands for bytes that were no text.
fn is_stray(c: char) -> bool {
    c == '\u{fffd}' || (c.is_control() && !matches!(c, '\t' | '\n' | '\r'))
}

/// Borrowed from a payload; what a payload does not have is empty.
pub(crate) struct Fields<'a> {
    pub(crate) instruction: Text<'a>,
    pub(crate) input: Text<'a>,
    pub(crate) output: Text<'a>,
}

impl<'a> Fields<'a> {
    pub(crate) fn of(payload: &'a Payload) -> Self {
        match payload {
            Payload::Task(task) => Fields {
                instruction: Text::from(&task.instruction),
                input: Text::from(&task.input),
                output: Text::from(&task.output),
            },
            Payload::Chat(messages) => {
                let said_by = |role| messages.iter().filter(move |message| message.role == role);
                let content =
                    |message: Option<&'a Message>| Text::from(message.map_or("", |m| &m.content));
                Fields {
                    instruction: content(said_by("user").next()),
                    input: Text::from(""),
                    output: content(said_by("assistant").next_back()),
                }
            }
        }
    }

    /// Each text with the name that messages give it.
    pub(crate) fn named(&self) -> [(&'static str, &Text<'a>); 3] {
        [
            ("instruction", &self.instruction),
            ("input", &self.input),
            ("output", &self.output),
        ]
    }
}
