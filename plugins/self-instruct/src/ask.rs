//! Sending the requests of a unit.

use pacos_plugin::{Error, Host, Reject, Reply, Request};

use crate::ROLE;

/// What a reply of fewer tokens could hold is not worth asking for.
const FEWEST_TOKENS: u32 = 16;

/// A reply, and which of the unit's requests it answers.
pub(crate) struct Answer {
    pub(crate) ordinal: u32,
    pub(crate) reply: Reply,
}

/// Sends all requests at once. One that does not fit into the model's context is sent again
/// with four fifths of its `max_tokens`, as Stanford's script did, until it fits.
pub(crate) fn ask(
    host: &dyn Host,
    requests: Vec<Request>,
) -> Result<Vec<Result<Answer, Error>>, Error> {
    let first_replies = host.complete_many(ROLE, &requests)?;
    let mut sent = requests.len() as u32;
    let answers = first_replies.into_iter().zip(requests).zip(0..);
    Ok(answers
        .map(|((mut reply, mut request), mut ordinal)| {
            while let Some(fewer) = fewer_tokens(&reply, &request) {
                request.max_tokens = Some(fewer);
                ordinal = sent;
                sent += 1;
                reply = host.complete(ROLE, &request);
            }
            reply.map(|reply| Answer { ordinal, reply })
        })
        .collect())
}

fn fewer_tokens(reply: &Result<Reply, Error>, request: &Request) -> Option<u32> {
    let error = reply.as_ref().err()?;
    // The first is what OpenAI's completion endpoint said in 2023, the second what it and
    // servers in its likeness say now.
    let too_long = ["Please reduce your prompt", "maximum context length"]
        .iter()
        .any(|sentence| error.message.contains(sentence));
    let fewer = (f64::from(request.max_tokens?) * 0.8) as u32;
    (too_long && fewer >= FEWEST_TOKENS).then_some(fewer)
}

/// What a request without a reply leaves behind when others of its unit brought one.
pub(crate) fn failed(error: &Error) -> Reject {
    Reject {
        code: "request-failed".into(),
        message: format!("{}: {}", error.code, error.message),
        place: None,
    }
}
