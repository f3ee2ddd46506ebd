//! The filter as the host drives it.

use pacos_plugin::{
    Candidate, CandidateId, Decision, Filter, Judged, Message, Neighbour, Origin, Payload, Plugin,
    Task, Verdict, testing::ScriptedHost,
};
use rouge_l::{Config, Field, RougeL};

fn started(config: Config, seeds: &[&str]) -> RougeL {
    let mut plugin = RougeL::configure(config).unwrap();
    let seeds = seeds.iter().map(|seed| Task::new(*seed, "", ""));
    plugin.start(seeds.collect()).unwrap();
    plugin
}

fn candidate(unit: u64, payload: Payload) -> Candidate {
    Candidate {
        id: CandidateId { unit, n: 0 },
        payload,
        attributes: Vec::new(),
        parents: Vec::new(),
        seed: 0,
    }
}

fn task(unit: u64, instruction: &str) -> Candidate {
    candidate(unit, Payload::Task(Task::new(instruction, "", "")))
}

fn judge(plugin: &mut RougeL, batch: &[Candidate]) -> Vec<Verdict> {
    plugin.judge(batch.to_vec(), &ScriptedHost::new()).unwrap()
}

fn of_candidate(unit: u64) -> Origin {
    Origin::Candidate(CandidateId { unit, n: 0 })
}

/// Instructions of few words, so that many are near to each other.
fn many() -> Vec<Candidate> {
    let verbs = ["Name", "List", "Explain", "Describe"];
    let counts = ["two", "three", "four", "some", "all the"];
    let things = ["rivers", "old poems", "laws", "birds of the north"];
    let places = [
        "in Peru",
        "for a child",
        "and say why",
        "",
        "briefly",
        "in one line",
    ];
    (0..480)
        .map(|n: usize| {
            let text = format!(
                "{} {} {} {}",
                verbs[n * 7 % 4],
                counts[n / 4 % 5],
                things[n * 5 / 3 % 4],
                places[n * 11 / 7 % 6]
            );
            task(n as u64, &text)
        })
        .collect()
}

#[test]
fn what_is_too_near_is_dropped_with_its_neighbour_and_score() {
    let seeds = ["Sort the words.", "Name three large rivers of Asia."];
    let mut plugin = started(Config::default(), &seeds);
    let batch = [
        task(0, "Name three large rivers of Europe."),
        task(1, "Why do cats sleep so much?"),
        task(2, "Why do dogs sleep so much?"),
        task(3, "Why do dogs sleep?"),
    ];
    let verdicts = judge(&mut plugin, &batch);
    let nearest = |v: &Verdict| v.nearest.map(|Neighbour { origin, score }| (origin, score));

    assert_eq!(verdicts[0].code, "too-similar");
    assert_eq!(verdicts[0].message, "ROUGE-L 0.8333, at most 0.7 wanted");
    assert_eq!(nearest(&verdicts[0]), Some((Origin::Seed(1), 5.0 / 6.0)));

    assert_eq!(verdicts[1].decision, Decision::Keep);
    assert_eq!(nearest(&verdicts[1]), Some((Origin::Seed(0), 0.0)));

    assert_eq!(verdicts[2].code, "too-similar");
    assert_eq!(nearest(&verdicts[2]).unwrap().0, of_candidate(1));

    // Candidate 2 is nearer, but it was dropped.
    assert_eq!(verdicts[3].code, "kept");
    assert_eq!(nearest(&verdicts[3]), Some((of_candidate(1), 0.6)));
    assert_eq!(
        (
            verdicts[3].scores[0].name.as_str(),
            verdicts[3].scores[0].value
        ),
        ("rouge_l", 0.6)
    );
}

#[test]
fn at_the_threshold_floating_point_decides_as_in_rouge_score() {
    let words = |from: u32, to: u32| (from..to).map(|n| format!("w{n} ")).collect::<String>();
    // Seven common words: of 10 and 10 they are 0.7, of 9 and 11 by a hair more.
    for (seed, text, code) in [
        (words(0, 10), words(3, 13), "kept"),
        (words(0, 9), words(2, 13), "too-similar"),
    ] {
        let mut plugin = started(Config::default(), &[&seed]);
        assert_eq!(judge(&mut plugin, &[task(0, &text)])[0].code, code);
    }
}

#[test]
fn of_equal_neighbours_the_first_is_named() {
    let mut plugin = started(Config::default(), &["a b x", "a b y", "a b z"]);
    let verdict = judge(&mut plugin, &[task(0, "a b z y x")]).remove(0);
    assert_eq!(verdict.nearest.unwrap().origin, Origin::Seed(0));
}

#[test]
fn verdicts_do_not_depend_on_batches() {
    let all = many();
    let in_batches_of = |size| -> Vec<Verdict> {
        let mut plugin = started(Config::default(), &["Name four birds of the south."]);
        let batches = all.chunks(size);
        batches
            .flat_map(|batch| judge(&mut plugin, batch))
            .collect()
    };
    let one_by_one = in_batches_of(1);
    assert_eq!(in_batches_of(7), one_by_one);
    assert_eq!(in_batches_of(256), one_by_one);
    let dropped = one_by_one
        .iter()
        .filter(|v| v.decision == Decision::Drop)
        .count();
    assert!(
        (50..450).contains(&dropped),
        "{dropped} dropped tells nothing"
    );
}

#[test]
fn a_restored_instance_goes_on_as_the_first_would_have() {
    let all = many();
    let seeds = ["Name four birds of the south."];
    let mut uninterrupted = started(Config::default(), &seeds);
    let verdicts = judge(&mut uninterrupted, &all);
    for done in [0, 1, 200, 479] {
        let history = all
            .iter()
            .zip(&verdicts)
            .take(done)
            .map(|(candidate, verdict)| Judged {
                candidate: candidate.clone(),
                verdict: verdict.clone(),
            });
        let mut restored = started(Config::default(), &seeds);
        restored.restore(history.collect()).unwrap();
        assert_eq!(judge(&mut restored, &all[done..]), verdicts[done..]);
    }
}

#[test]
fn text_without_latin_letters_or_digits_is_never_near() {
    let mut plugin = started(Config::default(), &[]);
    let verdicts = judge(&mut plugin, &[task(0, "写一首诗"), task(1, "写一首诗")]);
    assert_eq!(verdicts[0].nearest, None);
    assert_eq!(verdicts[1].decision, Decision::Keep);
    assert_eq!(verdicts[1].nearest.unwrap().score, 0.0);
}

#[test]
fn another_field_can_be_compared() {
    let pair = |field, one: Payload, other: Payload| {
        let config = Config {
            field,
            ..Config::default()
        };
        let mut plugin = started(config, &[]);
        judge(&mut plugin, &[candidate(0, one), candidate(1, other)])
            .remove(1)
            .code
    };
    let task = |instruction, input, output| Payload::Task(Task::new(instruction, input, output));
    let (one, other) = (
        task("Fix this.", "a b c d", "x y"),
        task("Fix this.", "e f g h", "x y"),
    );
    assert_eq!(
        pair(Field::Instruction, one.clone(), other.clone()),
        "too-similar"
    );
    assert_eq!(
        pair(Field::InstructionAndInput, one.clone(), other.clone()),
        "kept"
    );
    assert_eq!(pair(Field::Output, one, other), "too-similar");

    let chat =
        |question, answer| Payload::Chat(vec![Message::user(question), Message::assistant(answer)]);
    assert_eq!(
        pair(Field::Instruction, chat("a b", "x"), chat("a b", "y")),
        "too-similar"
    );
    assert_eq!(
        pair(Field::Output, chat("a b", "x"), chat("a b", "y")),
        "kept"
    );
}

#[test]
fn a_threshold_out_of_range_is_refused() {
    let config = Config {
        threshold: f64::NAN,
        ..Config::default()
    };
    let Err(problems) = RougeL::configure(config) else {
        panic!("accepted");
    };
    assert_eq!(problems[0].path, "threshold");
    assert_eq!(problems[0].message, "expected 0 to 1, found NaN");
}
