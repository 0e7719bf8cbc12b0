//! AdamW's state in 8 bits: see `aios_kernels::adamw_8bit` for the format and its source.

pub(crate) mod reference;

use aios_kernels::adamw_8bit::{BLOCK, Map, SIGNED, UNSIGNED, WORDS, dequantize, quantize};
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};

/// Which of the moments, for they use different maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Mean gradient: either sign.
    Mean,
    /// Mean squared gradient: never below zero.
    Square,
}

impl Moment {
    fn map(self) -> &'static Map {
        match self {
            Self::Mean => &SIGNED,
            Self::Square => &UNSIGNED,
        }
    }
}

/// Bytes on the device of the state of a parameter of `n` elements.
pub fn state_bytes(n: usize) -> u64 {
    let words = blocks(n) * (WORDS + 1);
    2 * 4 * words as u64
}

/// Blocks that `n` values are cut into.
pub fn blocks(n: usize) -> usize {
    n.div_ceil(BLOCK)
}

/// A moment of `n` values, in `n / 256` blocks, rounded up.
#[derive(Clone, Debug)]
pub struct Codes<B: Backend> {
    /// Four codes an `i32`, the first in the lowest byte, padded to whole blocks: `[64 blocks]`.
    pub codes: Tensor<B, 1, Int>,
    /// Largest magnitude of each block: `[blocks]`.
    pub absmax: Tensor<B, 1>,
}

/// Both moments of one parameter.
#[derive(Clone, Debug)]
pub struct State8bit<B: Backend> {
    /// [`Moment::Mean`].
    pub m: Codes<B>,
    /// [`Moment::Square`].
    pub v: Codes<B>,
}

impl<B: Backend> State8bit<B> {
    /// Zeros, for a parameter of `n` elements.
    pub fn zeros(n: usize, device: &B::Device) -> Self {
        Self {
            m: Codes::zeros(n, device),
            v: Codes::zeros(n, device),
        }
    }
}

impl<B: Backend> Codes<B> {
    fn zeros(n: usize, device: &B::Device) -> Self {
        let blocks = blocks(n);
        Self {
            codes: Tensor::zeros([blocks * WORDS], device),
            absmax: Tensor::zeros([blocks], device),
        }
    }

    /// Codes of a moment given in f32.
    pub fn quantized(values: &[f32], moment: Moment, device: &B::Device) -> Self {
        let (codes, absmax) = quantize(values, moment.map());
        Self::new(codes, absmax, device)
    }

    /// From one byte a value and one absmax a block, as saved.
    pub fn from_bytes(bytes: &[u8], absmax: Vec<f32>, device: &B::Device) -> Self {
        Self::new(words(bytes), absmax, device)
    }

    fn new(codes: Vec<i32>, absmax: Vec<f32>, device: &B::Device) -> Self {
        let (words, blocks) = (codes.len(), absmax.len());
        Self {
            codes: Tensor::from_data(TensorData::new(codes, [words]), device),
            absmax: Tensor::from_data(TensorData::new(absmax, [blocks]), device),
        }
    }

    /// The codes of the first `n` values, one byte each.
    pub fn bytes(&self, n: usize) -> Vec<u8> {
        // Of each integer its lowest 32 bits, however many the backend counts with.
        let words = self.codes.to_data().convert::<i64>().into_vec::<i64>();
        let words = words.expect("converted to i64 above").into_iter();
        let mut bytes: Vec<u8> = words.flat_map(|word| (word as i32).to_le_bytes()).collect();
        bytes.truncate(n);
        bytes
    }
}

/// The values that saved codes and absmaxes stand for.
///
/// # Panics
/// If there is not one absmax for each block.
pub fn dequantized(bytes: &[u8], absmax: &[f32], moment: Moment) -> Vec<f32> {
    dequantize(&words(bytes), absmax, bytes.len(), moment.map())
}

/// Packed by fours and padded to whole blocks.
fn words(bytes: &[u8]) -> Vec<i32> {
    let mut padded = bytes.to_vec();
    padded.resize(blocks(bytes.len()) * BLOCK, 0);
    let words = padded.as_chunks().0.iter();
    words.map(|word| i32::from_le_bytes(*word)).collect()
}
