//! How much of the forward pass is kept for the backward pass.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the backward pass computes again, to save memory (Chen et al., arXiv 1604.06174). The numbers
/// that come out are the same to the bit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    /// Nothing: the most memory, the least work.
    #[default]
    #[serde(rename = "none")]
    Nothing,
    /// The normalised rows and SwiGLU's product: a third less to keep, for hardly any work.
    Elementwise,
    /// Each layer from its input: the least memory, for a second forward pass.
    Layers,
}

impl Recompute {
    /// All of them, the quickest first.
    pub const ALL: [Self; 3] = [Self::Nothing, Self::Elementwise, Self::Layers];
}

impl fmt::Display for Recompute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::Elementwise => "norms, SwiGLU",
            Self::Layers => "whole layers",
        })
    }
}
