//! An evaluator that shows the judge two answers in both orders and asks which is better.

use pacos_plugin::{
    Attribute, Description, Diagnostic, Error, Evaluator, Host, Item, Judgement, Message, Metric,
    Outcome, Plugin, Reply, Request, Score, Task, schemars::JsonSchema,
};
use serde::Deserialize;

/// The role that is asked. Its capability is declared in `describe`; the recipe grants it.
const ROLE: &str = "judge";

/// The evaluator.
pub struct BetterAnswer {
    config: Config,
}

/// The plugin's own table of the manifest.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(crate = "pacos_plugin::schemars")]
pub struct Config {
    /// The model whose wins are counted.
    first: String,
    /// The model that it is compared with.
    second: String,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            first: "student".into(),
            second: "student.base".into(),
        }
    }
}

impl Plugin for BetterAnswer {
    type Config = Config;

    fn describe() -> Description {
        Description::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
            .capability("models:judge")
    }

    fn configure(config: Config) -> Result<Self, Vec<Diagnostic>> {
        if config.first == config.second {
            let problem = Diagnostic::error("second", "expected another model than `first`");
            return Err(vec![problem.help("second = \"student.base\"")]);
        }
        Ok(BetterAnswer { config })
    }
}

impl Evaluator for BetterAnswer {
    fn judge(&mut self, item: Item, host: &dyn Host) -> Result<Vec<Judgement>, Error> {
        let first = answer(&item, &self.config.first)?;
        let second = answer(&item, &self.config.second)?;
        let requests = [
            question(&item.task, first, second),
            question(&item.task, second, first),
        ];
        let replies = host.complete_many(ROLE, &requests)?;
        let mut said = replies.into_iter().map(read);
        let (Some(as_asked), Some(turned), None) = (said.next(), said.next(), said.next()) else {
            return Err(Error::new(
                "no-verdicts",
                "expected two replies to two requests",
            ));
        };
        let (as_asked, turned) = (as_asked?, swapped(turned?));
        let votes = [as_asked, turned]
            .iter()
            .filter(|outcome| **outcome == Outcome::First)
            .count();
        let judgement = Judgement {
            item: item.index,
            first: self.config.first.clone(),
            second: self.config.second.clone(),
            outcome: together(as_asked, turned),
            flipped: as_asked != turned && decided(as_asked) && decided(turned),
            scores: vec![Score {
                name: "votes".into(),
                value: votes as f64,
            }],
            attributes: Vec::new(),
        };
        Ok(vec![judgement])
    }

    fn summarise(&mut self, judgements: Vec<Judgement>) -> Result<Vec<Metric>, Error> {
        let outcomes = judgements.iter().map(|judgement| judgement.outcome);
        let counted: Vec<Outcome> = outcomes.filter(|outcome| decided(*outcome)).collect();
        if counted.is_empty() {
            return Ok(Vec::new());
        }
        let points: f64 = counted
            .iter()
            .map(|outcome| match outcome {
                Outcome::First => 1.0,
                Outcome::Tie => 0.5,
                _ => 0.0,
            })
            .sum();
        let attribute = |name: &str, value: &str| Attribute {
            name: name.into(),
            value: value.into(),
        };
        Ok(vec![Metric {
            name: "win_rate".into(),
            value: 100.0 * points / counted.len() as f64,
            standard_error: None,
            n: counted.len() as u64,
            attributes: vec![
                attribute("first", &self.config.first),
                attribute("second", &self.config.second),
            ],
        }])
    }
}

fn answer<'a>(item: &'a Item, model: &str) -> Result<&'a str, Error> {
    let answer = item.answers.iter().find(|answer| answer.model == model);
    answer.map(|answer| answer.text.as_str()).ok_or_else(|| {
        let names: Vec<&str> = item.answers.iter().map(|a| a.model.as_str()).collect();
        let message = format!("no answer of `{model}`; there are: {}", names.join(", "));
        Error::new("no-such-answer", message)
    })
}

fn question(task: &Task, a: &str, b: &str) -> Request {
    let text = format!(
        "Which of two answers to this task is better? Reply with one word: A, B or TIE.\n\n\
         Task: {}\n{}\n\nAnswer A: {a}\n\nAnswer B: {b}",
        task.instruction, task.input
    );
    Request {
        temperature: Some(0.0),
        max_tokens: Some(8),
        ..Request::chat(vec![Message::user(text)])
    }
}

/// Who won, as far as the judge says; `First` is the answer that was shown as A.
fn read(reply: Result<Reply, Error>) -> Result<Outcome, Error> {
    match reply {
        Ok(reply) => Ok(match reply.text.trim().trim_end_matches('.') {
            "A" => Outcome::First,
            "B" => Outcome::Second,
            "TIE" => Outcome::Tie,
            _ => Outcome::Unparsed,
        }),
        Err(error) if error.code == "request-refused" => Ok(Outcome::Refused),
        Err(error) => Err(error),
    }
}

fn swapped(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::First => Outcome::Second,
        Outcome::Second => Outcome::First,
        other => other,
    }
}

/// Who wins in one order only has not won.
fn together(one: Outcome, other: Outcome) -> Outcome {
    match (one, other) {
        (Outcome::Refused, _) | (_, Outcome::Refused) => Outcome::Refused,
        (Outcome::Unparsed, _) | (_, Outcome::Unparsed) => Outcome::Unparsed,
        (one, other) if one == other => one,
        _ => Outcome::Tie,
    }
}

fn decided(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::First | Outcome::Second | Outcome::Tie)
}

pacos_plugin::export!(evaluator BetterAnswer);

#[cfg(test)]
mod tests {
    use pacos_plugin::{Answer, testing::ScriptedHost};

    use super::*;

    #[test]
    fn the_judge_sees_both_orders() {
        let answer = |model: &str, text: &str| Answer {
            model: model.into(),
            text: text.into(),
        };
        let item = Item {
            index: 7,
            seed: 0,
            task: Task::new("Name a colour.", "", "Blue."),
            answers: vec![answer("student", "Red."), answer("student.base", "Colour.")],
        };
        let host = ScriptedHost::new().reply("A").reply("B");
        let mut evaluator = BetterAnswer::configure(Config::default()).unwrap();

        let judgements = evaluator.judge(item, &host).unwrap();

        assert_eq!(judgements[0].outcome, Outcome::First);
        let asked: Vec<String> = host
            .requests()
            .iter()
            .map(|(_, request)| format!("{:?}", request.prompt))
            .collect();
        assert!(asked[0].contains("Answer A: Red."), "{}", asked[0]);
        assert!(asked[1].contains("Answer B: Red."), "{}", asked[1]);
    }
}
