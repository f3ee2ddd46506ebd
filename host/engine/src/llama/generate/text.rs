//! The text of an answer as it grows: where a stop text ends it, and what of it can be shown already.

use tokio::sync::mpsc::UnboundedSender;

/// An answer's bytes. A token may end inside a character, or inside what may become a stop text; such an
/// end is kept back until it is known what it is.
pub(super) struct AnswerText {
    bytes: Vec<u8>,
    stops: Vec<Vec<u8>>,
    shown: usize,
    listener: Option<UnboundedSender<String>>,
}

impl AnswerText {
    /// `listener` hears each part as soon as it is certain; the parts together are [`AnswerText::finish`]'s
    /// text.
    pub(super) fn new(stops: &[String], listener: Option<UnboundedSender<String>>) -> Self {
        Self {
            bytes: Vec::new(),
            stops: stops.iter().map(|stop| stop.clone().into_bytes()).collect(),
            shown: 0,
            listener,
        }
    }

    /// Adds a token's bytes. True where they complete a stop text: it and what follows are cut off.
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        let already = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        if let Some(place) = first_stop(&self.bytes, already, &self.stops) {
            self.bytes.truncate(place);
            return true;
        }
        if self.listener.is_some() {
            let certain = self.bytes.len() - self.longest_stop_begun();
            self.show(certain, false);
        }
        false
    }

    /// The whole text. A character cut at the end is left out, other bytes that are no UTF-8 become U+FFFD.
    pub(super) fn finish(&mut self) -> String {
        if let Err(e) = std::str::from_utf8(&self.bytes)
            && e.error_len().is_none()
        {
            self.bytes.truncate(e.valid_up_to());
        }
        self.show(self.bytes.len(), true);
        self.listener = None;
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// Bytes at the end that begin a stop text.
    fn longest_stop_begun(&self) -> usize {
        self.stops
            .iter()
            .filter_map(|stop| {
                (1..stop.len().min(self.bytes.len() + 1))
                    .rev()
                    .find(|length| self.bytes.ends_with(&stop[..*length]))
            })
            .max()
            .unwrap_or(0)
    }

    fn show(&mut self, end: usize, all: bool) {
        let Some(listener) = &self.listener else {
            return;
        };
        if end <= self.shown {
            return;
        }
        let mut part = String::new();
        for chunk in self.bytes[self.shown..end].utf8_chunks() {
            part.push_str(chunk.valid());
            self.shown += chunk.valid().len();
            let broken = chunk.invalid();
            if broken.is_empty() {
                continue;
            }
            let unfinished =
                std::str::from_utf8(broken).is_err_and(|error| error.error_len().is_none());
            let is_last = self.shown + broken.len() == end;
            if unfinished && is_last && !all {
                break;
            }
            part.push(char::REPLACEMENT_CHARACTER);
            self.shown += broken.len();
        }
        if !part.is_empty() {
            // The listener may have gone; the request's own end is told elsewhere.
            let _ = listener.send(part);
        }
    }
}

/// Where the earliest stop text begins that the text holds past `already`, or that crosses it.
fn first_stop(text: &[u8], already: usize, stops: &[Vec<u8>]) -> Option<usize> {
    stops
        .iter()
        .filter_map(|stop| {
            let from = (already + 1).saturating_sub(stop.len());
            text[from..]
                .windows(stop.len())
                .position(|window| window == stop)
                .map(|place| from + place)
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown after each token, and the whole text.
    fn parts(stops: &[&str], tokens: &[&[u8]]) -> (Vec<String>, String) {
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut text = AnswerText::new(&stops, Some(sender));
        for token in tokens {
            if text.push(token) {
                break;
            }
        }
        let whole = text.finish();
        let mut parts = Vec::new();
        while let Ok(part) = receiver.try_recv() {
            parts.push(part);
        }
        assert_eq!(parts.concat(), whole);
        (parts, whole)
    }

    #[test]
    fn a_character_of_several_tokens_is_shown_once_it_is_whole() {
        let (shown, whole) = parts(&[], &[b"a", &[0xe6], &[0x97], &[0xa5], b"b"]);
        assert_eq!(shown, ["a", "日", "b"]);
        assert_eq!(whole, "a日b");
    }

    #[test]
    fn what_may_become_a_stop_text_is_kept_back() {
        let (shown, whole) = parts(&["END", "\n\n"], &[b"one E", b"N", b"ough\n", b"x"]);
        assert_eq!(shown, ["one ", "ENough", "\nx"]);
        assert_eq!(whole, "one ENough\nx");
        let (shown, whole) = parts(&["END"], &[b"one E", b"N", b"D more"]);
        assert_eq!(shown, ["one "]);
        assert_eq!(whole, "one ");
    }

    #[test]
    fn broken_bytes_are_shown_as_the_whole_text_has_them() {
        let (shown, whole) = parts(&[], &[&[0xff], b"a", &[0xe6, 0x97], b"b", &[0xe6]]);
        assert_eq!(shown, ["\u{fffd}", "a", "\u{fffd}b", "\u{fffd}"]);
        assert_eq!(whole, "\u{fffd}a\u{fffd}b\u{fffd}");
    }
}
