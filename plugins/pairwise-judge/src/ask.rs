//! Asking the judge about many pairs at once.

use pacos_plugin::{Error, Format, Host, Reply, Request, Task};

use crate::{
    Order, ROLE, prompt,
    verdict::{Choice, Verdict, read},
};

/// Two answers in one order.
pub(crate) struct Question<'a> {
    pub(crate) first: &'a str,
    pub(crate) second: &'a str,
    pub(crate) order: Order,
}

/// A verdict for each question.
///
/// # Errors
/// When the judge cannot be asked at all. One that would not answer gives [`Verdict::Refused`].
pub(crate) fn ask(
    task: &Task,
    questions: &[Question],
    max_tokens: u32,
    host: &dyn Host,
) -> Result<Vec<Verdict>, Error> {
    if questions.is_empty() {
        return Ok(Vec::new());
    }
    let judge = host.describe_model(ROLE)?;
    let schema = || Format::JsonSchema(prompt::SCHEMA.to_owned());
    let requests: Vec<Request> = questions
        .iter()
        .map(|question| {
            let (a, b) = match question.order {
                Order::FirstShownFirst => (question.first, question.second),
                Order::SecondShownFirst => (question.second, question.first),
            };
            Request {
                prompt: prompt::prompt(task, a, b, judge.chat),
                temperature: Some(0.0),
                max_tokens: Some(max_tokens),
                format: judge.json_schema.then(schema),
                ..Request::completion("")
            }
        })
        .collect();
    let replies = host.complete_many(ROLE, &requests)?;
    let asked = questions.iter().zip(replies);
    asked
        .map(|(question, reply)| verdict(question.order, reply))
        .collect()
}

fn verdict(order: Order, reply: Result<Reply, Error>) -> Result<Verdict, Error> {
    let choice = match reply {
        Ok(reply) => read(&reply),
        Err(error) if error.code == "request-refused" => Choice::Refused,
        Err(error) => return Err(error),
    };
    Ok(match (choice, order) {
        (Choice::A, Order::FirstShownFirst) | (Choice::B, Order::SecondShownFirst) => {
            Verdict::First
        }
        (Choice::B, Order::FirstShownFirst) | (Choice::A, Order::SecondShownFirst) => {
            Verdict::Second
        }
        (Choice::Tie, _) => Verdict::Tie,
        (Choice::Unparsed, _) => Verdict::Unparsed,
        (Choice::Refused, _) => Verdict::Refused,
    })
}
