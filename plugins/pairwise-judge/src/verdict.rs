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

/// The choice that `text` comes to: after `[[` or "winner", before "is better", or "a tie". The last
/// one counts, because reasons come before verdicts.
fn pronounced(text: &str) -> Option<Choice> {
    // Only ASCII, so that places in it are places in `text`.
    let lower = text.to_ascii_lowercase();
    let before = [
        "[[",
        "winner:",
        "winner is",
        "verdict:",
        "better answer:",
        "better answer is",
    ];
    let after = [" is better", " is the better", " wins", " is stronger"];
    let said_after = before.iter().flat_map(|sign| {
        let places = lower.match_indices(sign);
        places.filter_map(|(at, sign)| Some((at, first_choice(&text[at + sign.len()..])?)))
    });
    let said_before = after.iter().flat_map(|sign| {
        let places = lower.match_indices(sign);
        places.filter_map(|(at, _)| Some((at, last_choice(&text[..at])?)))
    });
    let ties = ["a tie", "a draw"].into_iter();
    let ties = ties.flat_map(|sign| lower.match_indices(sign).map(|(at, _)| (at, Choice::Tie)));
    let all = said_after.chain(said_before).chain(ties);
    all.max_by_key(|(at, _)| *at).map(|(_, choice)| choice)
}

const NOUNS: [&str; 3] = ["answer", "response", "assistant"];

fn first_choice(text: &str) -> Option<Choice> {
    let words = text.split(|c: char| !c.is_alphanumeric());
    let mut words = words.filter(|word| !word.is_empty());
    let word = words.next()?;
    if NOUNS.contains(&word.to_ascii_lowercase().as_str()) {
        named(words.next()?)
    } else {
        named(word)
    }
}

fn last_choice(text: &str) -> Option<Choice> {
    let mut words = text.rsplit(char::is_whitespace);
    let word = words.next()?;
    let after_noun = words
        .next()
        .is_some_and(|noun| NOUNS.contains(&noun.to_ascii_lowercase().as_str()));
    // A small "a" is an article.
    let choice = named(word)?;
    (after_noun || word.contains(['A', 'B'])).then_some(choice)
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
            ("I think that answer a is better.", Choice::A),
            ("Both are right. A is better on style.", Choice::A),
            ("Verdict: a tie", Choice::Tie),
            (
                "Answer A is better written, answer B is better founded: it's a draw.",
                Choice::Tie,
            ),
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
            "What is a is better known than what is b.",
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
