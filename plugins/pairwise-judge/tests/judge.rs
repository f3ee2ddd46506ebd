//! The evaluator as the host drives it: items, then the summary.

use pacos_plugin::{
    Answer, Attribute, Error, Evaluator, Format, Host, Item, Judgement, Level, Likelihood, Metric,
    ModelDescription, Outcome, Plugin, Prompt, Reply, Request, Task, testing::ScriptedHost,
};
use pairwise_judge::{Config, PairwiseJudge};

const REFERENCE: &str = "Because the air scatters blue light more than red light.";

fn one_pair(calibration: bool) -> PairwiseJudge {
    let config = Config {
        pairs: vec![["student".into(), "teacher".into()]],
        calibration,
        ..Config::default()
    };
    PairwiseJudge::configure(config).unwrap()
}

fn item(index: u64, student: &str, teacher: &str) -> Item {
    let answer = |model: &str, text: &str| Answer {
        model: model.into(),
        text: text.into(),
    };
    Item {
        index,
        seed: index.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        task: Task::new("Why is the sky blue?", "", REFERENCE),
        answers: vec![answer("student", student), answer("teacher", teacher)],
    }
}

fn outcome(host: ScriptedHost) -> (Outcome, bool) {
    let judgements = one_pair(false)
        .judge(item(0, "Air.", "Light."), &host)
        .unwrap();
    (judgements[0].outcome, judgements[0].flipped)
}

fn said(one: &str, other: &str) -> (Outcome, bool) {
    outcome(ScriptedHost::new().reply(one).reply(other))
}

fn metric<'a>(metrics: &'a [Metric], name: &str) -> &'a Metric {
    metrics.iter().find(|metric| metric.name == name).unwrap()
}

fn of_metric<'a>(metric: &'a Metric, name: &str) -> &'a str {
    &metric
        .attributes
        .iter()
        .find(|a| a.name == name)
        .unwrap()
        .value
}

/// Asks `judge` for every verdict, given answer A and answer B.
struct Judge<F>(F);

impl<F: Fn(&str, &str) -> &'static str> Host for Judge<F> {
    fn describe_model(&self, role: &str) -> Result<ModelDescription, Error> {
        ScriptedHost::new().describe_model(role)
    }

    fn complete_many(
        &self,
        _role: &str,
        requests: &[Request],
    ) -> Result<Vec<Result<Reply, Error>>, Error> {
        let shown = |question: &str, name: &str| {
            let (_, rest) = question.split_once(&format!("<answer-{name}>\n")).unwrap();
            rest.split_once("\n</answer-").unwrap().0.to_owned()
        };
        let script = requests
            .iter()
            .fold(ScriptedHost::new(), |script, request| {
                let Prompt::Chat(turns) = &request.prompt else {
                    panic!("no conversation");
                };
                let question = &turns[1].content;
                let winner = self.0(&shown(question, "A"), &shown(question, "B"));
                script.reply(format!("{{\"winner\": \"{winner}\"}}"))
            });
        script.complete_many("judge", requests)
    }

    fn count_tokens(&self, _: &str, _: &str) -> Result<u32, Error> {
        unreachable!("a judge counts no tokens")
    }

    fn log_likelihood(&self, _: &str, _: &Prompt, _: &str) -> Result<Likelihood, Error> {
        unreachable!("a judge is asked in words")
    }

    fn accepted(&self, _: u64, _: u32) -> Vec<pacos_plugin::Example> {
        Vec::new()
    }

    fn log(&self, _: Level, _: &str) {}

    fn progress(&self, _: u64, _: u64) {}
}

fn summary(judge: impl Fn(&str, &str) -> &'static str, items: u64) -> Vec<Metric> {
    let host = Judge(judge);
    let mut plugin = one_pair(true);
    let judgements: Vec<Judgement> = (0..items)
        .flat_map(|index| {
            plugin
                .judge(item(index, "A long and good answer.", "Bad."), &host)
                .unwrap()
        })
        .collect();
    plugin.summarise(judgements).unwrap()
}

#[test]
fn both_orders_are_asked_blind_at_temperature_0() {
    let host = ScriptedHost::new().reply("A").reply("B");
    one_pair(false)
        .judge(item(0, "Air.", "Light."), &host)
        .unwrap();
    let requests = host.requests();
    assert_eq!(requests.len(), 2);
    for ((role, request), (a, b)) in requests
        .iter()
        .zip([("Air.", "Light."), ("Light.", "Air.")])
    {
        assert_eq!(role, "judge");
        assert_eq!(request.temperature, Some(0.0));
        assert!(matches!(request.format, Some(Format::JsonSchema(_))));
        let Prompt::Chat(turns) = &request.prompt else {
            panic!("no conversation");
        };
        let question = &turns[1].content;
        assert!(
            question.contains(&format!("<answer-A>\n{a}\n</answer-A>")),
            "{question}"
        );
        assert!(
            question.contains(&format!("<answer-B>\n{b}\n</answer-B>")),
            "{question}"
        );
        assert!(!question.contains("student") && !question.contains("teacher"));
    }
}

#[test]
fn a_judge_that_only_continues_text_is_asked_in_one_text() {
    let plain = ModelDescription {
        chat: false,
        json_schema: false,
        ..ScriptedHost::new().describe_model("judge").unwrap()
    };
    let host = ScriptedHost::new().with_model(plain).reply("A").reply("B");
    let judgements = one_pair(false)
        .judge(item(0, "Air.", "Light."), &host)
        .unwrap();
    assert_eq!(judgements[0].outcome, Outcome::First);
    let (_, request) = &host.requests()[0];
    assert!(matches!(&request.prompt, Prompt::Completion(text) if text.contains("Air.")));
    assert_eq!(request.format, None);
}

#[test]
fn a_verdict_counts_when_both_orders_agree() {
    assert_eq!(said("A", "B"), (Outcome::First, false));
    assert_eq!(said("B", "A"), (Outcome::Second, false));
    assert_eq!(said("tie", "tie"), (Outcome::Tie, false));
}

#[test]
fn a_verdict_that_changes_with_the_order_is_a_flipped_tie() {
    assert_eq!(said("A", "A"), (Outcome::Tie, true));
    assert_eq!(said("B", "tie"), (Outcome::Tie, true));
}

#[test]
fn judgements_that_are_missing_are_outcomes() {
    assert_eq!(said("A", "hm"), (Outcome::Unparsed, false));
    assert_eq!(
        said("I cannot judge people.", "hm"),
        (Outcome::Refused, false)
    );
    let refusing = ScriptedHost::new()
        .reply("A")
        .failure(Error::new("request-refused", "content policy"));
    assert_eq!(outcome(refusing), (Outcome::Refused, false));
}

#[test]
fn a_judge_that_cannot_be_asked_is_an_error() {
    let host = ScriptedHost::new().failure(Error::new("budget", "spent"));
    let error = one_pair(false)
        .judge(item(0, "Air.", "Light."), &host)
        .unwrap_err();
    assert_eq!(error.code, "budget");
}

#[test]
fn the_same_answer_ties_unasked() {
    let host = ScriptedHost::new();
    let judgements = one_pair(false)
        .judge(item(0, "Air.\n", "Air."), &host)
        .unwrap();
    assert_eq!(
        (judgements[0].outcome, judgements[0].flipped),
        (Outcome::Tie, false)
    );
    assert!(host.requests().is_empty());
}

#[test]
fn a_pair_without_an_answer_says_what_to_change() {
    let mut plugin = PairwiseJudge::configure(Config::default()).unwrap();
    let error = plugin
        .judge(item(3, "Air.", "Light."), &ScriptedHost::new())
        .unwrap_err();
    assert_eq!(
        error.message,
        "`pairs` names student.base, and task 3 has answers of [student, teacher]: \
         change `pairs`, or have student.base answer"
    );
}

#[test]
fn a_judge_that_knows_the_longer_answer_is_usable() {
    // Of a shuffled reference the length says nothing, but it begins with another word.
    let metrics = summary(
        |a, b| match (a.starts_with("Because"), b.starts_with("Because")) {
            (true, false) => "A",
            (false, true) => "B",
            _ if a.len() > b.len() => "A",
            _ => "B",
        },
        12,
    );
    assert_eq!(metric(&metrics, "judge_usable").value, 1.0);
    let win_rate = metric(&metrics, "win_rate");
    assert_eq!(
        (win_rate.value, win_rate.standard_error, win_rate.n),
        (100.0, Some(0.0), 12)
    );
    assert_eq!(of_metric(win_rate, "verdict"), "first");
    assert_eq!(metric(&metrics, "flip_rate").value, 0.0);
    assert_eq!(metric(&metrics, "first_place_rate").value, 50.0);
}

#[test]
fn a_judge_that_always_says_a_is_found_out() {
    let metrics = summary(|_, _| "A", 40);
    let accuracy = metric(&metrics, "calibration_accuracy");
    assert_eq!(accuracy.n, 80);
    assert!((30.0..70.0).contains(&accuracy.value), "{}", accuracy.value);
    assert_eq!(metric(&metrics, "judge_usable").value, 0.0);
    assert_eq!(metric(&metrics, "flip_rate").value, 100.0);
    assert_eq!(metric(&metrics, "first_place_rate").value, 100.0);
    let win_rate = metric(&metrics, "win_rate");
    assert_eq!(win_rate.value, 50.0);
    assert_eq!(of_metric(win_rate, "verdict"), "cannot-tell");
}

#[test]
fn a_judge_that_only_ties_or_babbles_is_not_usable() {
    assert_eq!(
        metric(&summary(|_, _| "tie", 40), "judge_usable").value,
        0.0
    );
    let metrics = summary(|_, _| "neither here nor there", 40);
    assert_eq!(metric(&metrics, "calibration_accuracy").value, 0.0);
    assert_eq!(metric(&metrics, "unparsed").value, 40.0);
    assert!(metrics.iter().all(|metric| metric.name != "win_rate"));
}

fn judgement(first: &str, second: &str, outcome: Outcome, judge: Option<&str>) -> Judgement {
    let attributes = judge.map(|judge| Attribute {
        name: "judge".into(),
        value: judge.into(),
    });
    Judgement {
        item: 0,
        first: first.into(),
        second: second.into(),
        outcome,
        flipped: false,
        scores: Vec::new(),
        attributes: attributes.into_iter().collect(),
    }
}

#[test]
fn win_rates_follow_alpaca_evals_arithmetic() {
    // Python: y = [1]*3 + [.5]*2 + [0]*5; 100 * statistics.stdev(y) / 10**.5
    let outcomes = [
        [Outcome::First; 3].as_slice(),
        &[Outcome::Tie; 2],
        &[Outcome::Second; 5],
        &[Outcome::Unparsed, Outcome::Refused],
    ];
    let judgements = outcomes.concat();
    let judgements = judgements
        .into_iter()
        .map(|o| judgement("student", "teacher", o, None));
    let metrics = one_pair(true).summarise(judgements.collect()).unwrap();
    let win_rate = metric(&metrics, "win_rate");
    assert_eq!((win_rate.value, win_rate.n), (40.0, 10));
    assert!((win_rate.standard_error.unwrap() - 14.529_663_145_135_577).abs() < 1e-9);
    assert_eq!(
        of_metric(win_rate, "verdict"),
        "no-difference (uncalibrated)"
    );
    assert_eq!(metric(&metrics, "unparsed").value, 1.0);
    assert_eq!(metric(&metrics, "refused").value, 1.0);
}

#[test]
fn people_are_summarised_apart_and_their_pairs_turned() {
    let judgements = vec![
        judgement("student", "teacher", Outcome::First, None),
        judgement("teacher", "student", Outcome::First, Some("people")),
        judgement("student", "teacher", Outcome::Second, Some("people")),
        judgement("student", "nobody", Outcome::First, None),
    ];
    let metrics = one_pair(true).summarise(judgements).unwrap();
    let rates: Vec<(&str, f64, u64)> = metrics
        .iter()
        .filter(|metric| metric.name == "win_rate")
        .map(|metric| (of_metric(metric, "judge"), metric.value, metric.n))
        .collect();
    assert_eq!(rates, [("model", 100.0, 1), ("people", 0.0, 2)]);
}
