//! Pairs whose order is known: the reference answer and the same answer spoilt.

use pacos_plugin::{Answer, Item};

use crate::{Match, Order};

pub(crate) const KIND: &str = "calibration";

/// Shorter references may lose nothing by being spoilt.
const FEWEST_WORDS: usize = 8;

/// The reference against its first half, and against its words in another order.
pub(crate) fn matches(item: &Item) -> Vec<Match> {
    let reference = item.task.output.as_str();
    let words: Vec<&str> = reference.split_whitespace().collect();
    if words.len() < FEWEST_WORDS {
        return Vec::new();
    }
    let cut = words[..words.len() / 2].join(" ");
    let shuffled = shuffled(words, item.seed).join(" ");
    // Bits that the shuffling does not begin with.
    let coin = |bit: u32| match item.seed >> bit & 1 {
        0 => Order::FirstShownFirst,
        _ => Order::SecondShownFirst,
    };
    let against = |name: &str, text: String, order| Match {
        kind: KIND,
        first: answer("reference", reference.to_owned()),
        second: answer(name, text),
        orders: vec![order],
    };
    vec![
        against("reference.cut", cut, coin(0)),
        against("reference.shuffled", shuffled, coin(1)),
    ]
}

fn answer(model: &str, text: String) -> Answer {
    Answer {
        model: model.into(),
        text,
    }
}

/// Fisher and Yates' shuffle, driven by a congruential generator (Knuth's MMIX constants).
fn shuffled(mut words: Vec<&str>, seed: u64) -> Vec<&str> {
    let mut state = seed;
    for unplaced in (2..=words.len()).rev() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        // The low bits of such a generator have short periods.
        let pick = (state >> 33) as usize % unplaced;
        words.swap(unplaced - 1, pick);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use pacos_plugin::Task;

    fn item(reference: &str, seed: u64) -> Item {
        Item {
            index: 0,
            seed,
            task: Task::new("Explain.", "", reference),
            answers: Vec::new(),
        }
    }

    const REFERENCE: &str = "One two three four five six seven eight nine";

    #[test]
    fn the_reference_is_cut_and_shuffled() {
        let matches = matches(&item(REFERENCE, 5));
        assert_eq!(matches[0].second.text, "One two three four");
        let mut words: Vec<&str> = matches[1].second.text.split(' ').collect();
        assert_ne!(words.join(" "), REFERENCE);
        words.sort_unstable();
        let mut all: Vec<&str> = REFERENCE.split(' ').collect();
        all.sort_unstable();
        assert_eq!(words, all);
        assert!(
            matches
                .iter()
                .all(|m| m.first.text == REFERENCE && m.orders.len() == 1)
        );
    }

    #[test]
    fn a_short_reference_tests_nothing() {
        assert!(matches(&item("Yes, it is.", 5)).is_empty());
    }

    #[test]
    fn each_side_is_shown_first_for_half_of_the_seeds() {
        for place in [0, 1] {
            let shown_first = |seed: &u64| {
                let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                matches(&item(REFERENCE, seed))[place].orders == [Order::FirstShownFirst]
            };
            let count = (0..1000).filter(shown_first).count();
            assert!((450..550).contains(&count), "{count}");
        }
    }
}
