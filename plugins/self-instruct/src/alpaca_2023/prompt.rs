//! The prompt: a preamble, demonstrations in numbered fields, and the beginning of the next one.

use crate::{demonstrations::Demonstration, whitespace::collapse};

/// Stanford's requirements in this project's words; its list counts 1, 2, 3, 2, 3, 4, 5, 6, 7
/// because theirs does.
const PREAMBLE: &str = "\
Please write a set of {tasks_per_request} task instructions, each different from the others. They will be given to a language model, and we will judge how well it carries them out.

These are the requirements:
1. Use a different verb in each instruction as far as you can, so that the set is diverse.
2. Put the instructions in different ways: some should be questions, others commands.
3. Cover different kinds of task, such as free writing, classification, editing and so on.
2. A model that only reads and writes text must be able to do the task. So ask for nothing to be seen or heard, and for no action in the world, such as making a phone call at noon or keeping a calendar.
3. Write the instructions in English.
4. Each instruction is one sentence or two. It may be a command or a question.
5. Give each instruction an input that suits it. The input is a concrete example with realistic data rather than a placeholder. It has enough substance to make the task hard, and should stay within 100 words.
6. Some instructions need no input, for instance a question of general knowledge such as \"why do the leaves of some trees turn red?\". Then write \"<noinput>\" as the input.
7. The output is a good answer to the instruction and its input. Keep it below 100 words.

List of {tasks_per_request} tasks:
";

/// The whole prompt; the reply goes on after its last `Instruction:`.
pub(super) fn prompt(
    preamble: Option<&str>,
    tasks_per_request: u32,
    demonstrations: &[Demonstration],
) -> String {
    let mut prompt = preamble
        .unwrap_or(PREAMBLE)
        .replace("{tasks_per_request}", &tasks_per_request.to_string());
    prompt.push('\n');
    for (number, shown) in (1..).zip(demonstrations) {
        let task = &shown.task;
        let instruction = collapse(&task.instruction);
        let instruction = instruction.trim_end_matches(':');
        let input = match task.input.as_str() {
            "" => "<noinput>",
            input => input,
        };
        prompt += &format!(
            "###\n{number}. Instruction: {instruction}\n{number}. Input:\n{input}\n{number}. Output:\n{}\n",
            task.output
        );
    }
    prompt + &format!("###\n{}. Instruction:", demonstrations.len() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pacos_plugin::{Origin, Task};

    fn demonstration(instruction: &str, input: &str, output: &str) -> Demonstration {
        Demonstration {
            task: Task::new(instruction, input, output),
            origin: Origin::Seed(0),
        }
    }

    #[test]
    fn demonstrations_are_numbered_and_the_next_number_is_left_open() {
        let shown = [
            demonstration("  Sort\r\n these   words::", "pear\n\napple", "apple, pear"),
            demonstration("Name a colour.", "", "Blue\n"),
            demonstration("Translate this :", " ", "Oui"),
        ];
        assert_eq!(
            prompt(Some("Go:\n"), 20, &shown),
            "Go:\n\n###\n\
             1. Instruction: Sort these words\n1. Input:\npear\n\napple\n1. Output:\napple, pear\n###\n\
             2. Instruction: Name a colour.\n2. Input:\n<noinput>\n2. Output:\nBlue\n\n###\n\
             3. Instruction: Translate this \n3. Input:\n \n3. Output:\nOui\n###\n\
             4. Instruction:"
        );
    }

    #[test]
    fn the_preamble_asks_for_the_configured_number() {
        let prompt = prompt(None, 12, &[demonstration("Name a colour.", "", "Blue")]);
        assert!(prompt.starts_with("Please write a set of 12 task instructions"));
        assert!(prompt.contains("\nList of 12 tasks:\n\n###\n1. Instruction: Name"));
    }

    #[test]
    fn the_preambles_list_counts_as_the_originals_does() {
        let numbers: Vec<&str> = PREAMBLE
            .lines()
            .filter_map(|line| line.split_once(". ").map(|(number, _)| number))
            .filter(|number| number.len() == 1)
            .collect();
        assert_eq!(numbers, ["1", "2", "3", "2", "3", "4", "5", "6", "7"]);
    }
}
