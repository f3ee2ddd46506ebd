//! Two filters over the same candidates: what each keeps that the other drops.

use pacos_plugin::{Candidate, Decision, Payload, Verdict};

use crate::plugin::CallError;

/// What one filter says of every candidate; an error where the candidate breaks it.
pub type Verdicts = Vec<Result<Verdict, CallError>>;

/// What became of the candidates under two filters, `a` and `b`.
#[derive(Debug, Default)]
pub struct Disagreement {
    /// Kept by both, in the same form.
    pub both_keep: usize,
    /// Kept by both, and edited by one or both to something else: places among the candidates.
    pub other_form: Vec<usize>,
    /// Dropped by both.
    pub both_drop: usize,
    /// Kept by `a` alone: places among the candidates.
    pub only_a: Vec<usize>,
    /// Kept by `b` alone.
    pub only_b: Vec<usize>,
    /// Candidates that break one or both; they are counted nowhere else.
    pub broken: Vec<usize>,
}

impl Disagreement {
    /// Compares verdicts on the same candidates, place by place.
    #[must_use]
    pub fn between(candidates: &[Candidate], a: &Verdicts, b: &Verdicts) -> Self {
        let mut found = Disagreement::default();
        for (place, ((candidate, a), b)) in candidates.iter().zip(a).zip(b).enumerate() {
            let (Ok(a), Ok(b)) = (a, b) else {
                found.broken.push(place);
                continue;
            };
            match (left(candidate, a), left(candidate, b)) {
                (Some(a), Some(b)) if a == b => found.both_keep += 1,
                (Some(_), Some(_)) => found.other_form.push(place),
                (None, None) => found.both_drop += 1,
                (Some(_), None) => found.only_a.push(place),
                (None, Some(_)) => found.only_b.push(place),
            }
        }
        found
    }
}

/// The form in which a filter leaves a candidate, if it keeps it.
fn left<'a>(candidate: &'a Candidate, verdict: &'a Verdict) -> Option<&'a Payload> {
    match &verdict.decision {
        Decision::Keep => Some(&candidate.payload),
        Decision::Edit(payload) => Some(payload),
        Decision::Drop => None,
    }
}

#[cfg(test)]
mod tests {
    use pacos_plugin::{CandidateId, Task};

    use super::*;

    #[test]
    fn every_candidate_is_counted_once() {
        let task = |text: &str| Payload::Task(Task::new(text, "", "An answer."));
        let candidate = |n| Candidate {
            id: CandidateId { unit: 0, n },
            payload: task("Name a river"),
            attributes: Vec::new(),
            parents: Vec::new(),
            seed: 0,
        };
        let candidates: Vec<Candidate> = (0..6).map(candidate).collect();
        let edit = |text: &str| Verdict {
            decision: Decision::Edit(task(text)),
            ..Verdict::keep()
        };
        let drop = || Verdict::drop("no", "");
        let broken = || Err(CallError::Trap("it".into()));
        let a = vec![
            Ok(Verdict::keep()),
            Ok(edit("Name a lake")),
            Ok(drop()),
            Ok(Verdict::keep()),
            Ok(drop()),
            broken(),
        ];
        let b = vec![
            // An edit that changes nothing is no other form.
            Ok(edit("Name a river")),
            Ok(Verdict::keep()),
            Ok(drop()),
            Ok(drop()),
            Ok(edit("Name a lake")),
            Ok(drop()),
        ];
        let found = Disagreement::between(&candidates, &a, &b);
        assert_eq!((found.both_keep, found.both_drop), (1, 1));
        assert_eq!(found.other_form, [1]);
        assert_eq!((found.only_a, found.only_b), (vec![3], vec![4]));
        assert_eq!(found.broken, [5]);
    }
}
