use super::*;
use pacos_plugin::Origin;

const UNBOUNDED: MaxChars = MaxChars {
    instruction: 0,
    input: 0,
    output: 0,
};

fn reply(text: &str, finish_reason: FinishReason) -> Reply {
    Reply {
        text: text.into(),
        finish_reason,
        usage: None,
        logprobs: Vec::new(),
    }
}

fn read_text(text: &str) -> Reading {
    read(&reply(text, FinishReason::Stop), &[], UNBOUNDED)
}

fn instructions(reading: &Reading) -> Vec<&str> {
    let tasks = reading.tasks.iter();
    tasks.map(|(task, _)| task.instruction.as_str()).collect()
}

fn codes(reading: &Reading) -> Vec<&'static str> {
    reading.unusable.iter().map(|u| u.code).collect()
}

fn task_json(instruction: &str) -> String {
    format!(r#"{{"instruction": "{instruction}", "input": "", "output": "o"}}"#)
}

fn inputs_read_as(input: &str) -> String {
    let text = format!(r#"{{"instruction":"i","input":{input},"output":"o"}}"#);
    let reading = read_text(&text);
    reading.tasks[0].0.input.clone()
}

#[test]
fn a_reply_of_the_asked_form_is_read_whole() {
    let text = format!(
        r#"{{"tasks": [{}, {}]}}"#,
        task_json("One"),
        task_json("Two")
    );
    let reading = read_text(&text);
    assert_eq!(instructions(&reading), ["One", "Two"]);
    assert_eq!(&text[reading.tasks[1].1.clone()], task_json("Two"));
    assert_eq!(codes(&reading), [""; 0]);
}

#[test]
fn prose_fences_bare_lists_and_json_lines_are_read_too() {
    let (one, two) = (task_json("One"), task_json("Two"));
    for text in [
        format!(
            "Sure! Here they are:\n```json\n{{\"tasks\":[{one},\n{two}]}}\n```\nEnjoy {{them}}."
        ),
        format!("{{\"examples\": {{\"new\": [{one}, {two}]}}}}"),
        format!("[{one}, {two}]"),
        format!("{one}\n{two}\n"),
        format!("1. {one}\n2. {two}"),
    ] {
        let reading = read_text(&text);
        assert_eq!(instructions(&reading), ["One", "Two"], "{text}");
        assert_eq!(codes(&reading), [""; 0], "{text}");
    }
}

#[test]
fn a_cut_reply_yields_the_tasks_before_the_cut() {
    let text = format!(
        r#"{{"tasks":[{},{{"instruction":"Two","input":"","out"#,
        task_json("One")
    );
    let reading = read(&reply(&text, FinishReason::Length), &[], UNBOUNDED);
    assert_eq!(instructions(&reading), ["One"]);
    assert_eq!(codes(&reading), ["cut-by-length"]);
    let place = reading.unusable[0].bytes.clone();
    assert_eq!(&text[place], r#"{"instruction":"Two","input":"","out"#);
    assert_eq!(codes(&read_text(&text)), ["malformed-json"]);
}

#[test]
fn a_broken_task_does_not_hide_the_next() {
    let text = format!(
        r#"{{"tasks":[{{"instruction":"One","input" "","output":"o"}},{}]}}"#,
        task_json("Two")
    );
    let reading = read_text(&text);
    assert_eq!(instructions(&reading), ["Two"]);
    assert_eq!(codes(&reading), ["malformed-json"]);
}

#[test]
fn replies_without_tasks_say_why() {
    let code = |text, reason| codes(&read(&reply(text, reason), &[], UNBOUNDED));
    assert_eq!(code(" \n", FinishReason::ContentFilter), ["empty-reply"]);
    assert_eq!(code("I would rather not.", FinishReason::Stop), ["no-json"]);
    assert_eq!(code("{{{{", FinishReason::Stop), ["no-json"]);
    assert_eq!(
        code("Let me think", FinishReason::Length),
        ["cut-by-length"]
    );
    assert_eq!(code(r#"{"tasks": []}"#, FinishReason::Stop), ["not-a-task"]);
    assert_eq!(
        code(r#"{"tasks": ["x"]}"#, FinishReason::Stop),
        ["not-a-task"]
    );
    let deep = "[{\"a\":".repeat(3000);
    assert_eq!(code(&deep, FinishReason::Stop), ["no-json"]);
}

#[test]
fn each_unusable_object_has_its_own_reason() {
    for (object, code) in [
        (r#"{"title": "x"}"#, "not-a-task"),
        (r#"{"instruction": "x"}"#, "missing-field"),
        (r#"{"instruction": ["x"], "output": "o"}"#, "field-not-text"),
        (
            r#"{"instruction": " \n", "output": "o"}"#,
            "empty-instruction",
        ),
        (r#"{"instruction": "x", "output": null}"#, "empty-output"),
        (
            r#"{"instruction": "x", "output": "Yes.\n5. Instruction: y"}"#,
            "merged-task",
        ),
        (
            r#"{"instruction": "x\n12.Output: y", "output": "Yes"}"#,
            "merged-task",
        ),
    ] {
        assert_eq!(codes(&read_text(object)), [code], "{object}");
    }
}

#[test]
fn no_input_in_any_spelling_is_the_empty_input() {
    for input in [
        r#""""#,
        r#""<noinput>""#,
        r#""No Input""#,
        r#""[no input]""#,
        r#""N/A.""#,
        r#""none""#,
        "null",
        r#""(No input needed)""#,
        r#""<>""#,
    ] {
        assert_eq!(inputs_read_as(input), "", "{input}");
    }
    for (input, text) in [
        (r#""None of them came.""#, "None of them came."),
        (r#"" ++ ""#, "++"),
        ("17", "17"),
        (r#""日本""#, "日本"),
    ] {
        assert_eq!(inputs_read_as(input), text);
    }
}

#[test]
fn a_copy_of_a_demonstration_is_rejected() {
    let shown = [Demonstration {
        task: Task::new("Name  a river.", "", "Rhône"),
        origin: Origin::Seed(0),
    }];
    let text = task_json("name a River.");
    let reading = read(&reply(&text, FinishReason::Stop), &shown, UNBOUNDED);
    assert_eq!(codes(&reading), ["copied-demonstration"]);
}

#[test]
fn a_text_that_fills_its_bound_is_taken_for_cut() {
    let bounds = MaxChars {
        instruction: 5,
        ..UNBOUNDED
    };
    let code = |instruction| {
        let text = task_json(instruction);
        codes(&read(&reply(&text, FinishReason::Stop), &[], bounds))
    };
    assert_eq!(code("àbcd"), [""; 0]);
    assert_eq!(code("àbcde"), ["too-many-characters"]);
}
