//! In which format the optimizer keeps its two moments of each parameter, and what that takes.

use aios_nn::ParamInfo;
use aios_tensor::adamw_8bit;

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

    /// Bytes of the state of a model with these parameters.
    pub fn state_bytes<'a>(self, parameters: impl IntoIterator<Item = &'a ParamInfo>) -> u64 {
        let trained = parameters.into_iter().filter(|info| info.trained);
        trained
            .map(|info| self.bytes(info.elements(), info.is_embedding()))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Moments = Moments::EightBit {
        f32_embedding: false,
    };

    #[test]
    fn large_tensors_take_two_bytes_an_element_and_one_absmax_a_block() {
        assert_eq!(ALL.bytes(4096, false), 2 * (4096 + 4 * 16));
        assert_eq!(ALL.bytes(4097, false), 2 * (4096 + 256 + 4 * 17));
        assert!(ALL.bytes(50_257 * 512, true) as f64 / (50_257.0 * 512.0) <= 2.05);
    }

    #[test]
    fn small_tensors_and_an_embedding_spared_take_eight() {
        assert_eq!(ALL.bytes(4095, false), 8 * 4095);
        let spared = Moments::EightBit {
            f32_embedding: true,
        };
        assert_eq!(spared.bytes(10_000, true), 80_000);
        assert!(spared.is_8bit(10_000, false));
        assert_eq!(Moments::F32.bytes(10_000, false), 80_000);
    }
}
