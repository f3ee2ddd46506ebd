//! What goes through the model at once.

use std::ops::Range;

/// Sequences laid end to end. None attends to another, but many may begin with one and the same
/// prefix, which is laid down and computed once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MicroBatch {
    /// Token ids of all segments.
    pub input_ids: Vec<u32>,
    /// Position of each token within its own sequence, prefix included, counted from 0.
    pub positions: Vec<u32>,
    /// The parts of `input_ids`, in order and without gaps.
    pub segments: Vec<Segment>,
    /// Indices into `input_ids` whose next token is to be predicted, ascending; none in a prefix.
    pub label_positions: Vec<usize>,
    /// That next token, one for each of `label_positions`.
    pub targets: Vec<u32>,
}

/// Neighbouring tokens that attend to one another causally: a sequence, what follows a prefix that
/// it shares, or such a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Where its tokens lie in the micro-batch.
    pub tokens: Range<usize>,
    /// Tokens of an earlier segment that all of these attend to besides; empty for none. They are a
    /// second stretch of keys and values, and the gradients of those gather from every such segment.
    pub prefix: Range<usize>,
    /// Index of the row behind it, in the list given to the trainer; none behind a shared prefix.
    pub row: Option<usize>,
}

impl MicroBatch {
    /// Indices of the rows that are in it, in the list given to the trainer.
    pub fn rows(&self) -> Vec<usize> {
        self.segments.iter().filter_map(|s| s.row).collect()
    }
}
