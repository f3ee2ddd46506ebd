//! What was read in one reply, before it is known which reply it was.

use std::ops::Range;

use pacos_plugin::{Attribute, Payload, Place, Proposal, Proposals, Reject, Task};

use crate::{config::Mode, demonstrations::Demonstration};

/// Something in a reply that is no task, with its bytes there.
pub(crate) struct Unusable {
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) bytes: Range<usize>,
}

/// Tasks and what was no task, each in the order of the reply.
#[derive(Default)]
pub(crate) struct Reading {
    pub(crate) tasks: Vec<(Task, Range<usize>)>,
    pub(crate) unusable: Vec<Unusable>,
}

impl Reading {
    pub(crate) fn reject(
        &mut self,
        code: &'static str,
        message: impl Into<String>,
        bytes: Range<usize>,
    ) {
        self.unusable.push(Unusable {
            code,
            message: message.into(),
            bytes,
        });
    }

    /// Adds what was read in the unit's reply number `ordinal`, whose prompt showed `shown`.
    pub(crate) fn append_to(
        self,
        proposals: &mut Proposals,
        ordinal: u32,
        mode: Mode,
        shown: &[Demonstration],
    ) {
        let candidates = self.tasks.into_iter().map(|(task, bytes)| Proposal {
            payload: Payload::Task(task),
            attributes: vec![Attribute {
                name: "mode".into(),
                value: mode.name().into(),
            }],
            parents: shown.iter().map(|shown| shown.origin).collect(),
            place: Some(place(ordinal, bytes)),
        });
        proposals.candidates.extend(candidates);
        let rejects = self.unusable.into_iter().map(|unusable| Reject {
            code: unusable.code.into(),
            message: unusable.message,
            place: Some(place(ordinal, unusable.bytes)),
        });
        proposals.rejects.extend(rejects);
    }
}

fn place(ordinal: u32, bytes: Range<usize>) -> Place {
    Place {
        ordinal,
        start: bytes.start as u32,
        end: bytes.end as u32,
    }
}
