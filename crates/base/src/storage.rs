//! In which format the numbers of a weight are held, and what that takes.

use serde::{Deserialize, Serialize};

/// Values of a block of NF4 that share a scale: bitsandbytes' default.
const NF4_BLOCK: usize = 64;
/// Scales of NF4 that share a scale of their own.
const NF4_NESTED_BLOCK: usize = 256;
/// Values of a block of Q8_0.
const Q8_0_BLOCK: usize = 32;

/// Format of a matrix's numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    #[default]
    F32,
    F16,
    Bf16,
    /// 4 bits each, as bitsandbytes' NF4 with double quantization.
    Nf4,
    /// 8 bits each, in blocks of 32 with a scale.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// The block formats of ggml, as a GGUF file has them.
    #[serde(rename = "q4_0")]
    Q4_0,
    #[serde(rename = "q4_1")]
    Q4_1,
    #[serde(rename = "q5_0")]
    Q5_0,
    #[serde(rename = "q4_k")]
    Q4K,
    #[serde(rename = "q5_k")]
    Q5K,
    #[serde(rename = "q6_k")]
    Q6K,
}

impl Storage {
    /// Bytes of so many numbers.
    pub fn bytes(self, numbers: usize) -> u64 {
        let words = |of: usize, bytes: usize| numbers.div_ceil(of) * bytes;
        let bytes = match self {
            Self::F32 => 4 * numbers,
            Self::F16 | Self::Bf16 => 2 * numbers,
            Self::Nf4 => {
                let scales = numbers.div_ceil(NF4_BLOCK);
                words(NF4_BLOCK, NF4_BLOCK / 2)
                    + scales.next_multiple_of(4)
                    + 4 * scales.div_ceil(NF4_NESTED_BLOCK)
            }
            Self::Q8_0 => words(Q8_0_BLOCK, Q8_0_BLOCK + 4),
            // Padded to whole words of four bytes.
            Self::Q4_0 => words(32, 18).next_multiple_of(4),
            Self::Q4_1 => words(32, 20),
            Self::Q5_0 => words(32, 22).next_multiple_of(4),
            Self::Q4K => words(256, 144),
            Self::Q5K => words(256, 176),
            Self::Q6K => words(256, 210).next_multiple_of(4),
        };
        bytes as u64
    }

    /// Whether it is decoded before it is computed with.
    pub fn is_quantized(self) -> bool {
        !matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }

    /// Whether only files have it: nothing is quantized to it here.
    pub fn is_of_a_file(self) -> bool {
        self.is_quantized() && !matches!(self, Self::Nf4 | Self::Q8_0)
    }

    /// Name as in flags and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Nf4 => "nf4",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
        }
    }
}

/// What the weights of a frozen model's linear layers are quantized to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Quantize {
    /// 4 bits and an eighth a weight: NF4 with double quantization, as QLoRA has it.
    Nf4,
    /// 9 bits a weight: blocks of 32 8-bit numbers with a scale.
    #[serde(rename = "q8_0")]
    #[value(name = "q8_0")]
    Q8_0,
}

impl From<Quantize> for Storage {
    fn from(quantize: Quantize) -> Self {
        match quantize {
            Quantize::Nf4 => Self::Nf4,
            Quantize::Q8_0 => Self::Q8_0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_a_number_are_those_of_the_formats() {
        let bits = |storage: Storage| storage.bytes(1 << 20) as f64 * 8.0 / f64::from(1 << 20);
        assert_eq!(bits(Storage::F32), 32.0);
        assert_eq!(bits(Storage::Bf16), 16.0);
        assert!((bits(Storage::Nf4) - 4.127).abs() < 1e-3);
        assert_eq!(bits(Storage::Q8_0), 9.0);
        assert_eq!(Storage::Nf4.bytes(65), 64 + 4 + 4);
        assert_eq!([Storage::Q4_0, Storage::Q4K].map(bits), [4.5; 2]);
        assert_eq!(bits(Storage::Q6K), 6.5625);
        // One block, padded.
        assert_eq!(Storage::Q4_0.bytes(32), 20);
        assert_eq!(Storage::Q6K.bytes(256), 212);
    }
}
