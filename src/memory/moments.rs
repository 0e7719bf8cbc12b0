//! In which format the optimizer keeps its two moments of each parameter, and what that takes.

use crate::model::ModelConfig;
use crate::ops::adamw_8bit;

/// Tensors with fewer elements keep their state in f32: there is nothing to save, and one block for
/// much of a tensor would be coarse. The limit is bitsandbytes'.
const SMALLEST_8BIT: usize = 4096;

/// Format of the optimizer's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Moments {
    /// Both moments in f32.
    #[default]
    F32,
    /// Both moments of large tensors in 8 bits.
    EightBit {
        /// But those of the embedding's tables in f32.
        f32_embedding: bool,
    },
}

impl Moments {
    /// Name in the banner and the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "adamw",
            Self::EightBit { .. } => "adamw8bit",
        }
    }

    /// Whether the state of a tensor is kept in 8 bits.
    pub fn is_8bit(self, elements: usize, embedding: bool) -> bool {
        match self {
            Self::F32 => false,
            Self::EightBit { f32_embedding } => {
                elements >= SMALLEST_8BIT && !(embedding && f32_embedding)
            }
        }
    }

    /// Bytes of the state of a tensor.
    pub fn bytes(self, elements: usize, embedding: bool) -> u64 {
        match self.is_8bit(elements, embedding) {
            true => adamw_8bit::state_bytes(elements),
            false => 8 * elements as u64,
        }
    }

    /// Bytes of the state of a whole model.
    pub fn state_bytes(self, model: &ModelConfig) -> u64 {
        let tensors = model.tensors().into_iter();
        tensors.map(|t| self.bytes(t.elements, t.embedding)).sum()
    }
}
