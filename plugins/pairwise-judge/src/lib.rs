//! `pairwise-judge`: a model compares the answers of two others, and is itself put to the test.
//!
//! For each task and each pair of models the judge sees both answers without names, in one order
//! and in the other, at temperature 0. Judges favour a place (Zheng et al., 2023,
//! arXiv:2306.05685): who wins in one order only has not won, so a verdict that changes with the
//! order is a tie and is marked as flipped. Answers that are the same text tie unasked.
//!
//! # Calibration
//!
//! A judge that cannot tell good from bad gives every pair about 50 %, which looks like a
//! result. So it is also shown, for each task, the reference answer beside the same answer
//! spoilt: cut in half, or with its words shuffled. The item's seed chooses which of the two is
//! shown first, so a judge that always says "A" is right half the time. References of fewer
//! than eight words are left out: half of a short answer can be as good as the whole.
//!
//! Accuracy counts a tie as half and a verdict that could not be read, or was refused, as
//! wrong. The judge is usable when the lower end of Wilson's 95 % interval for its accuracy is above
//! 0.5 (with everything right, that takes four comparisons). When it is not, every win rate
//! carries the attribute `verdict` = `cannot-tell`.
//!
//! # Configuration
//!
//! | Key | Default | Meaning |
//! | --- | --- | --- |
//! | `pairs` | `[["student", "student.base"], ["student", "teacher"]]` | whose answers to compare; the win rate is that of the first |
//! | `calibration` | true | whether to test the judge: two more requests for each task |
//! | `max_tokens` | 256 | longest verdict, in tokens |
//!
//! The judge is whatever model the recipe gives the role `judge`; the capability `models:judge`
//! must be granted. A judge with a JSON schema answers in one; of another the verdict is read as it
//! comes (`{"winner": "A"}`, `[[B]]`, `Winner: A`, `Answer B is better`, `tie`).
//!
//! # Judgements
//!
//! Each carries attributes: `kind` (`comparison` or `calibration`), `asked` (`both-orders`,
//! `one-order` or `no`), and, where it was asked, `verdicts`: what the judge said, first shown
//! order first (`first`, `second`, `tie`, `unparsed`, `refused`; names are those of the judgement,
//! not of the place). A calibration compares `reference` with `reference.cut` or
//! `reference.shuffled`.
//!
//! # Metrics
//!
//! Metrics about a pair carry the attributes `first`, `second` and `judge`: `model` for this
//! plugin's judge, or the value of the attribute `judge` that other judgements (people's) bring.
//! A judgement whose names stand the other way round is turned.
//!
//! | Metric | Value |
//! | --- | --- |
//! | `win_rate` | of the first, in %; a tie is half a win, what was unparsed or refused does not count (as in AlpacaEval). Standard error from the standard deviation with n - 1. Attribute `verdict`: `first`, `second`, `no-difference` (50 % lies within 1.96 standard errors), `cannot-tell` (the judge is not usable, two judgements are not there, or fewer than six all agree), with ` (uncalibrated)` where no calibration was made |
//! | `ties` | how many, flips among them |
//! | `flip_rate` | of the comparisons with a verdict in both orders, how many changed with the order, in % |
//! | `first_place_rate` | of the verdicts for one side, how many were for the answer shown first, in %; 50 is unbiased |
//! | `unparsed`, `refused` | how many |
//! | `calibration_accuracy` | in %, with its standard error; attribute `judge` only |
//! | `calibration_accuracy_lower_bound` | the lower end of the interval, in % |
//! | `judge_usable` | 1 or 0 |

mod ask;
mod calibration;
mod config;
mod prompt;
mod statistics;
mod summary;
mod verdict;

use pacos_plugin::{
    Answer, Attribute, Description, Diagnostic, Error, Evaluator, Host, Item, Judgement, Metric,
    Outcome, Plugin,
};

use ask::{Question, ask};
pub use config::Config;
use verdict::Verdict;

/// The role that is asked.
const ROLE: &str = "judge";

/// The evaluator.
pub struct PairwiseJudge {
    config: Config,
}

impl Plugin for PairwiseJudge {
    type Config = Config;

    fn describe() -> Description {
        Description::new("pairwise-judge", env!("CARGO_PKG_VERSION")).capability("models:judge")
    }

    fn configure(config: Config) -> Result<Self, Vec<Diagnostic>> {
        let problems = config.problems();
        if problems.is_empty() {
            Ok(PairwiseJudge { config })
        } else {
            Err(problems)
        }
    }
}

impl Evaluator for PairwiseJudge {
    fn judge(&mut self, item: Item, host: &dyn Host) -> Result<Vec<Judgement>, Error> {
        let mut matches = Vec::new();
        for [first, second] in &self.config.pairs {
            let first = answer(&item, first)?;
            let second = answer(&item, second)?;
            matches.push(Match::of_answers(first, second));
        }
        if self.config.calibration {
            matches.extend(calibration::matches(&item));
        }
        let questions: Vec<Question> = matches.iter().flat_map(Match::questions).collect();
        let verdicts = ask(&item.task, &questions, self.config.max_tokens, host)?;
        let mut verdicts = verdicts.into_iter();
        Ok(matches
            .into_iter()
            .map(|m| {
                let said = verdicts.by_ref().take(m.orders.len()).collect();
                m.judged(item.index, said)
            })
            .collect())
    }

    fn summarise(&mut self, judgements: Vec<Judgement>) -> Result<Vec<Metric>, Error> {
        Ok(summary::metrics(&judgements, &self.config.pairs))
    }
}

fn answer<'a>(item: &'a Item, model: &str) -> Result<&'a Answer, Error> {
    let mut answers = item.answers.iter();
    answers.find(|answer| answer.model == model).ok_or_else(|| {
        let models: Vec<&str> = item.answers.iter().map(|a| a.model.as_str()).collect();
        Error::new(
            "no-such-answer",
            format!(
                "`pairs` names {model}, and task {} has answers of [{}]: change `pairs`, or have {model} answer",
                item.index,
                models.join(", ")
            ),
        )
    })
}

/// Which of two answers is shown as A.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    FirstShownFirst,
    SecondShownFirst,
}

/// Two answers to one task, and the orders in which they are shown.
struct Match {
    kind: &'static str,
    first: Answer,
    second: Answer,
    orders: Vec<Order>,
}

impl Match {
    fn of_answers(first: &Answer, second: &Answer) -> Self {
        let same = first.text.trim() == second.text.trim();
        Match {
            kind: "comparison",
            first: first.clone(),
            second: second.clone(),
            orders: if same {
                Vec::new()
            } else {
                vec![Order::FirstShownFirst, Order::SecondShownFirst]
            },
        }
    }

    fn questions(&self) -> impl Iterator<Item = Question<'_>> {
        self.orders.iter().map(|order| Question {
            first: &self.first.text,
            second: &self.second.text,
            order: *order,
        })
    }

    fn judged(self, item: u64, said: Vec<Verdict>) -> Judgement {
        let attribute = |name: &str, value: String| Attribute {
            name: name.into(),
            value,
        };
        let asked = ["no", "one-order", "both-orders"][said.len()];
        let mut attributes = vec![
            attribute("kind", self.kind.into()),
            attribute("asked", asked.into()),
        ];
        if !said.is_empty() {
            let names: Vec<&str> = said.iter().map(|verdict| verdict.name()).collect();
            attributes.push(attribute("verdicts", names.join(" ")));
        }
        let (outcome, flipped) = outcome(&said);
        Judgement {
            item,
            first: self.first.model,
            second: self.second.model,
            outcome,
            flipped,
            scores: Vec::new(),
            attributes,
        }
    }
}

/// What the verdicts of all orders come to, and whether they differ.
fn outcome(said: &[Verdict]) -> (Outcome, bool) {
    let has = |verdict| said.contains(&verdict);
    if has(Verdict::Refused) {
        (Outcome::Refused, false)
    } else if has(Verdict::Unparsed) {
        (Outcome::Unparsed, false)
    } else {
        match said {
            [first, rest @ ..] if rest.iter().all(|verdict| verdict == first) => {
                (first.outcome(), false)
            }
            [] => (Outcome::Tie, false),
            _ => (Outcome::Tie, true),
        }
    }
}

pacos_plugin::export!(evaluator PairwiseJudge);
