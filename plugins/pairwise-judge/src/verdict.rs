//! From a judge's words to a verdict.

use pacos_plugin::{FinishReason, Outcome, Reply};
use serde_json::Value;

/// What the judge said in one order, in terms of the match and not of the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    First,
    Second,
    Tie,
    Unparsed,
    Refused,
}

impl Verdict {
    /// The name in the attribute `verdicts`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Verdict::First => "first",
            Verdict::Second => "second",
            Verdict::Tie => "tie",
            Verdict::Unparsed => "unparsed",
            Verdict::Refused => "refused",
        }
    }

    /// The outcome where this verdict is all there is.
    pub(crate) fn outcome(self) -> Outcome {
        match self {
            Verdict::First => Outcome::First,
            Verdict::Second => Outcome::Second,
            Verdict::Tie => Outcome::Tie,
            Verdict::Unparsed => Outcome::Unparsed,
            Verdict::Refused => Outcome::Refused,
        }
    }
}

/// What a reply names as better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    A,
    B,
    Tie,
    Unparsed,
    Refused,
}

/// Reads a reply: JSON if there is any, else the last verdict that the text pronounces.
pub(crate) fn read(reply: &Reply) -> Choice {
    if reply.finish_reason == FinishReason::ContentFilter {
        return Choice::Refused;
    }
    let text = reply.text.trim();
    from_json(text)
        .or_else(|| named(text))
        .or_else(|| pronounced(text))
        .unwrap_or_else(|| {
            if declines(text) {
                Choice::Refused
            } else {
                Choice::Unparsed
            }
        })
}

fn from_json(text: &str) -> Option<Choice> {
    let object = &text[text.find('{')?..];
    let mut values = serde_json::Deserializer::from_str(object).into_iter::<Value>();
    let value = values.next()?.ok()?;
    named(value.get("winner")?.as_str()?)
}

/// The choice that the whole of `text` names.
fn named(text: &str) -> Option<Choice> {
    let lower = text.to_lowercase();
    let bare = lower.trim_matches(|c: char| !c.is_alphanumeric());
    let bare = bare.strip_prefix("answer ").unwrap_or(bare);
    match bare {
        "a" => Some(Choice::A),
        "b" => Some(Choice::B),
        "tie" | "draw" | "equal" | "neither" | "both" => Some(Choice::Tie),
        _ => None,
    }
}

/// The choice that `text` comes to: after `[[` or "winner", or before "is better". The last one
/// counts, because reasons come before verdicts.
fn pronounced(text: &str) -> Option<Choice> {
    let lower = text.to_lowercase();
    let before = [
        "[[",
        "winner:",
        "winner is",
        "verdict:",
        "better answer:",
        "better answer is",
    ];
    let after = [" is better", " is the better", " wins", " is stronger"];
    let choices_after = before.iter().flat_map(|sign| {
        let places = lower.match_indices(sign);
        places.filter_map(|(at, sign)| Some((at, first_choice(&lower[at + sign.len()..])?)))
    });
    let choices_before = after.iter().flat_map(|sign| {
        let places = lower.match_indices(sign);
        places.filter_map(|(at, _)| Some((at, last_choice(&lower[..at])?)))
    });
    let last = choices_after
        .chain(choices_before)
        .max_by_key(|(at, _)| *at);
    last.map(|(_, choice)| choice)
}

fn first_choice(text: &str) -> Option<Choice> {
    let mut words = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|w| !w.is_empty());
    let word = words.next()?;
    match word {
        "answer" | "response" | "assistant" => named(words.next()?),
        word => named(word),
    }
}

fn last_choice(text: &str) -> Option<Choice> {
    let mut words = text.rsplit(char::is_whitespace);
    let choice = named(words.next()?)?;
    // "a" is also an article: before a verb it is a name only after one of these.
    let noun = words.next().unwrap_or_default();
    let is_name = noun.is_empty() || ["answer", "response", "assistant"].contains(&noun);
    is_name.then_some(choice)
}

fn declines(text: &str) -> bool {
    let beginning: String = text.chars().take(80).flat_map(char::to_lowercase).collect();
    let beginning = beginning.replace('\u{2019}', "'");
    let phrases = [
        "i'm sorry",
        "i am sorry",
        "i cannot",
        "i can't",
        "i'm unable",
        "i am unable",
        "as an ai",
    ];
    phrases.iter().any(|phrase| beginning.contains(phrase))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Choice {
        read(&Reply {
            text: text.into(),
            finish_reason: FinishReason::Stop,
            usage: None,
            logprobs: Vec::new(),
        })
    }

    #[test]
    fn verdicts_are_read_in_the_forms_that_judges_use() {
        for (text, choice) in [
            (r#"{"winner": "A"}"#, Choice::A),
            ("```json\n{\"winner\":\"tie\"}\n```", Choice::Tie),
            (
                r#"{"reason": "short", "winner": "Answer B"} done"#,
                Choice::B,
            ),
            ("B", Choice::B),
            ("**A**", Choice::A),
            ("Answer B.", Choice::B),
            ("Tie", Choice::Tie),
            ("A is better on facts, but all in all: [[B]]", Choice::B),
            ("Winner: A", Choice::A),
            ("The winner is Answer B.", Choice::B),
            ("I think that answer A is better.", Choice::A),
        ] {
            assert_eq!(read_text(text), choice, "{text}");
        }
    }

    #[test]
    fn what_names_no_winner_is_unparsed() {
        for text in [
            "",
            "{\"winner\": \"C\"}",
            "{\"winner\": ",
            "Both have merits worth weighing.",
            "Such a thing as a proof: a is better than nothing? Hard to say",
        ] {
            assert_eq!(read_text(text), Choice::Unparsed, "{text}");
        }
    }

    #[test]
    fn a_judge_that_declines_has_refused() {
        assert_eq!(
            read_text("I’m sorry, but I can’t compare these."),
            Choice::Refused
        );
        let filtered = Reply {
            text: "A".into(),
            finish_reason: FinishReason::ContentFilter,
            usage: None,
            logprobs: Vec::new(),
        };
        assert_eq!(read(&filtered), Choice::Refused);
    }
}
