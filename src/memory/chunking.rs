//! How long sequences are computed.

use super::offload::Place;
use crate::ops::{AttentionPath, Precision};

/// Whether and how a sequence is computed in chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Chunking {
    /// As a whole.
    #[default]
    Off,
    /// Chunk after chunk, each forward and backward, seeing the keys and values of earlier chunks as
    /// constants: the same losses, gradients that end at a chunk's borders, and activations of one
    /// chunk.
    Truncated { size: usize },
    /// Everything but attention chunk by chunk: the same gradients, and the working memory of one
    /// chunk beside states and blocks' inputs of whole sequences.
    Exact { size: usize },
}

impl Chunking {
    /// The same for sequences of `seq` tokens: what has a single chunk is whole.
    pub fn of(self, seq: usize) -> Self {
        match self {
            Self::Truncated { size } | Self::Exact { size } if size < seq => self,
            _ => Self::Off,
        }
    }

    /// With chunks of half the size.
    pub fn halved(self) -> Self {
        match self {
            Self::Off => Self::Off,
            Self::Truncated { size } => Self::Truncated {
                size: size.div_ceil(2),
            },
            Self::Exact { size } => Self::Exact {
                size: size.div_ceil(2),
            },
        }
    }

    /// Tokens of a sequence that are forward and backward at once.
    pub fn taped(self, seq: usize) -> usize {
        match self.of(seq) {
            Self::Truncated { size } => size,
            Self::Off | Self::Exact { .. } => seq,
        }
    }

    /// Rows of a tile in everything but attention. Chunks are small already, and a quarter of one is
    /// where what a tile holds falls behind what attention does.
    pub fn tile(self, seq: usize) -> Option<usize> {
        match self.of(seq) {
            Self::Exact { size } => Some(size),
            Self::Truncated { size } => Some(size.div_ceil(4)),
            Self::Off => None,
        }
    }
}

/// How a model runs over sequences.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Way {
    pub chunking: Chunking,
    /// Where what is not needed at once waits.
    pub place: Place,
    pub path: AttentionPath,
    /// Format of the activations.
    pub precision: Precision,
}
