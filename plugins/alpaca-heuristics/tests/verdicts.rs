//! The filter as the host drives it, check by check.

use alpaca_heuristics::{AlpacaHeuristics, Config, Mode};
use pacos_plugin::{
    Candidate, CandidateId, Decision, Filter, Message, Payload, Plugin, Task, Verdict,
    testing::ScriptedHost,
};

fn judge(config: Config, payload: Payload) -> Verdict {
    let mut plugin = AlpacaHeuristics::configure(config).unwrap();
    let candidate = Candidate {
        id: CandidateId { unit: 0, n: 0 },
        payload,
        attributes: Vec::new(),
        parents: Vec::new(),
        seed: 0,
    };
    let verdicts = plugin.judge(vec![candidate], &ScriptedHost::new()).unwrap();
    verdicts.into_iter().next().unwrap()
}

fn alpaca_2023(instruction: &str) -> Verdict {
    let config = Config {
        mode: Mode::Alpaca2023,
        ..Config::default()
    };
    judge(config, Payload::Task(Task::new(instruction, "", "")))
}

fn strict(instruction: &str, input: &str, output: &str) -> Verdict {
    let task = Task::new(instruction, input, output);
    judge(Config::default(), Payload::Task(task))
}

const INSTRUCTION: &str = "Say what this means.";

fn code_of_output(output: &str) -> String {
    strict(INSTRUCTION, "Oui", output).code
}

fn code_of_input(input: &str) -> String {
    strict(INSTRUCTION, input, "Yes").code
}

#[test]
fn the_five_filters_of_2023_and_their_edges() {
    let long = |words| vec!["word"; words].join(" ");
    for (instruction, code) in [
        ("", "too-short"),
        ("Tell a joke.", "too-short"),
        ("Tell a good joke.", "kept"),
        ("Tell\u{1d}a\u{a0}good joke.", "kept"),
        ("Tell a\u{200b}good joke.", "too-short"),
        (&long(150), "kept"),
        (&long(151), "too-long"),
        ("Describe the IMAGE in words.", "needs-other-media"),
        ("Describe the videos in words.", "kept"),
        ("Explain how to go to bed.", "needs-other-media"),
        ("Explain imagery in old poetry.", "kept"),
        ("Write a program that sorts.", "asks-for-program"),
        ("Write a programme that sorts.", "asks-for-program"),
        ("write a program that sorts.", "kept"),
        ("Please Write a program that sorts.", "kept"),
        ("\"Quote\" is what I said.", "starts-with-punctuation"),
        ("~ is this a tilde?", "starts-with-punctuation"),
        ("Übersetze das ins Englische bitte.", "not-ascii-start"),
        ("« is a sign for what?", "not-ascii-start"),
        (
            "Translate Übersetzung into English, s'il vous plaît.",
            "kept",
        ),
    ] {
        assert_eq!(alpaca_2023(instruction).code, code, "{instruction}");
    }
}

#[test]
fn in_2023_the_answer_is_not_looked_at() {
    assert_eq!(alpaca_2023("Tell a good joke.").decision, Decision::Keep);
}

#[test]
fn the_first_filter_that_fails_gives_its_name() {
    let both = alpaca_2023("Draw it.");
    assert_eq!(both.code, "too-short");
    assert_eq!(
        both.message,
        "2 words in the instruction, at least 4 wanted"
    );
    assert_eq!(
        (both.scores[0].name.as_str(), both.scores[0].value),
        ("words", 2.0)
    );
}

#[test]
fn strict_mends_the_filters_of_2023() {
    assert_eq!(
        strict("Describe the videos in words.", "", "x").code,
        "needs-other-media"
    );
    assert_eq!(
        strict("write a program that sorts.", "", "x").code,
        "asks-for-program"
    );
}

#[test]
fn outputs_that_teach_nothing_are_dropped() {
    for (output, code) in [
        ("", "empty-output"),
        (" \n\u{3000}", "empty-output"),
        ("N/A", "placeholder-output"),
        ("<output>", "placeholder-output"),
        ("...", "placeholder-output"),
        ("Na", "kept"),
        ("none", "kept"),
        ("4", "kept"),
        ("Look: ![a cat](http://cats.example/1)", "image-link"),
        ("<IMG src='cat'>", "image-link"),
        ("Wow![1] That (too).", "kept"),
        ("I’m sorry, but I cannot do that.", "refusal"),
        ("As an AI language model, I have no taste.", "refusal"),
        ("Oui\n", "output-repeats-input"),
        ("OUI", "kept"),
        ("Say  what this means.", "output-repeats-instruction"),
        ("Yes\u{7}", "control-character"),
        ("Yes \u{fffd}", "control-character"),
        ("Yes.\r\n\tIndeed.", "kept"),
        ("Yes. <no input>", "no-input-marker"),
        ("Yes.\n##\n5. Instruction: Name a fruit.", "merged-task"),
        ("Yes. 12.output: Name a fruit.", "merged-task"),
        ("Yes.\n### Response:\nNo.", "merged-task"),
        ("The function has these parts.\n1. Input handling", "kept"),
        ("Input: 4\nOutput: 5", "kept"),
    ] {
        assert_eq!(code_of_output(output), code, "{output}");
    }
}

#[test]
fn letters_beyond_ascii_are_compared_as_each_check_does() {
    let code_of = |instruction: &str, input, output| strict(instruction, input, output).code;
    // Phrases of instructions and `noinput` by Python's `re.IGNORECASE`.
    for (instruction, code) in [
        ("Say what the \u{130}MAGE means.", "needs-other-media"),
        ("Say what the file\u{17f} mean.", "needs-other-media"),
        ("Say what the éimage means.", "kept"),
        ("Say what the e\u{301}image means.", "needs-other-media"),
        ("Say what the «image» means.", "needs-other-media"),
        ("Say what n'image and map² mean.", "needs-other-media"),
        ("Say what map² means.", "kept"),
        ("Say what this lin\u{212a} means.", "needs-attachment"),
        ("Say what this means: no\u{131}nput", "no-input-marker"),
    ] {
        assert_eq!(code_of(instruction, "", "Yes"), code, "{instruction}");
    }
    // Everything else in the lower case of Unicode, in which `İ` is longer than `i`.
    for (output, code) in [
        ("<NO INPUT> is what it says.", "no-input-marker"),
        ("<NO \u{130}NPUT> is what it says.", "kept"),
        ("<\u{130}MG src='cat'> is what it says.", "kept"),
        ("I\u{2019}M SORRY, but as I said, no.", "refusal"),
        ("\u{130}'m sorry, but as I said, no.", "kept"),
        ("É É é É é é", "repetition-loop"),
        ("ΟΔΟΣ οδος ΟΔΟΣ. οδος ΟΔΟΣ οδος", "kept"),
        ("ΟΔΟΣ οδος ΟΔΟΣ οδος ΟΔΟΣ οδος", "repetition-loop"),
        ("\u{212a} k \u{212a} k K k", "repetition-loop"),
        ("T\u{d6}DO", "kept"),
    ] {
        assert_eq!(code_of_output(output), code, "{output}");
    }
    // The 160 characters of a refusal are not bytes.
    let before = "é".repeat(150 - 1) + " ";
    assert_eq!(code_of_output(&format!("{before}I'm unable to.")), "kept");
    let before = "é".repeat(147 - 1) + " ";
    assert_eq!(
        code_of_output(&format!("{before}I'm unable to.")),
        "refusal"
    );
}

#[test]
fn of_several_findings_the_first_of_the_list_is_told() {
    let message = |instruction| strict(instruction, "", "Yes").message;
    for (instruction, phrase) in [
        ("Say where the maps and the image are.", "image"),
        ("Say where imaged maps and a MAP are.", "map"),
    ] {
        let told = format!("the instruction has \"{phrase}\"");
        assert_eq!(message(instruction), told, "{instruction}");
    }
    assert_eq!(
        message("Say where the following link below leads."),
        "the instruction points at \"following link\""
    );
    assert_eq!(
        message("Say where to find this link"),
        "the instruction points at \"this link\""
    );
    let verdict = strict(
        INSTRUCTION,
        "Oui",
        "So, Sorry, I cannot assist: no, I can't assist.",
    );
    assert_eq!(
        verdict.message,
        "the output begins with \"sorry, i cannot\""
    );
}

#[test]
fn a_refusal_further_on_is_a_story() {
    let story = "She read the letter to the end, and read it again, word by word, with the window open and the rain coming in over the sill, before the last line: ";
    assert_eq!(
        code_of_output(&format!("{story} \"I'm unable to come.\"")),
        "kept"
    );
}

#[test]
fn loops_are_dropped_and_tables_are_not() {
    let repeated = |text: &str, times| text.repeat(times);
    for (output, code) in [
        (repeated("so ", 5), "kept"),
        (repeated("so ", 6), "repetition-loop"),
        (repeated("the cat sat and ", 5), "kept"),
        (repeated("the cat sat and ", 6), "repetition-loop"),
        (repeated("0 ", 40), "kept"),
        (repeated("--- | ", 40), "kept"),
        (repeated("</li>\n<li>\n", 3), "kept"),
        (
            (0..6)
                .map(|n| format!("row {n}\nAnd so it goes\n"))
                .collect(),
            "repeated-line",
        ),
        (
            (0..5)
                .map(|n| format!("row {n}\nAnd so it goes\n"))
                .collect(),
            "kept",
        ),
    ] {
        assert_eq!(code_of_output(&output), code, "{output}");
    }
}

#[test]
fn inputs_that_no_text_has_are_dropped() {
    for (input, code) in [
        ("https://news.example/today", "web-input"),
        ("See https://news.example/today for more", "kept"),
        ("[Insert your text here]", "placeholder-input"),
        ("Dear <your name>,", "placeholder-input"),
        ("[apple, pear]", "kept"),
        ("They typed <noinput> twice.", "no-input-marker"),
    ] {
        assert_eq!(code_of_input(input), code, "{input}");
    }
    let code = |instruction| strict(instruction, "", "Yes").code;
    assert_eq!(code("Summarise the attached report."), "needs-attachment");
    assert_eq!(code("Explain attachment theory in short."), "kept");
}

#[test]
fn an_input_that_says_there_is_none_becomes_empty() {
    for input in [
        "<noinput>",
        "No Input.",
        "[no_input]",
        "N/A",
        "none",
        "(No input needed)",
    ] {
        let verdict = strict(INSTRUCTION, input, "Yes");
        let mended = Payload::Task(Task::new(INSTRUCTION, "", "Yes"));
        assert_eq!(verdict.decision, Decision::Edit(mended), "{input}");
        assert_eq!(verdict.code, "no-input-marker");
    }
    assert_eq!(code_of_input("None of them"), "kept");
    assert_eq!(strict(INSTRUCTION, "<noinput>", "").code, "empty-output");
}

#[test]
fn of_a_conversation_the_first_question_and_the_last_answer_are_read() {
    let chat = |question: &str, answer: &str| {
        judge(
            Config::default(),
            Payload::Chat(vec![
                Message::system("Draw nothing."),
                Message::user(question),
                Message::assistant("N/A"),
                Message::user("So?"),
                Message::assistant(answer),
            ]),
        )
    };
    assert_eq!(chat("What is a river?", "Water.").code, "kept");
    assert_eq!(chat("Draw me a river.", "Water.").code, "needs-other-media");
    assert_eq!(chat("What is a river?", "N/A").code, "placeholder-output");
}

#[test]
fn checks_can_be_left_out_and_thresholds_chosen() {
    let task = |instruction| Payload::Task(Task::new(instruction, "N/A", "Да"));
    let config = Config {
        min_words: 2,
        ascii_start: false,
        skip: vec!["no-input-marker".into()],
        ..Config::default()
    };
    let verdict = judge(config.clone(), task("Переведи это"));
    assert_eq!(
        (verdict.code.as_str(), verdict.decision),
        ("kept", Decision::Keep)
    );
    assert_eq!(judge(config, task("Переведи")).code, "too-short");
}
