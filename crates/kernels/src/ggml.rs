//! The block formats of ggml, as GGUF files hold weights: a row is cut into blocks of some values, and a block is some bytes
//! with one or two f16 scales among them.
//!
//! What blocks stand for is what PyPI's `gguf` makes of them, to the bit (but for which NaN a NaN is): products and sums are
//! rounded one by one in its order.

use crate::half::{from_f16, to_f16};
use crate::simd::dispatch;
use crate::team::Each;
use blocks::Block;
use rayon::prelude::*;

mod blocks;
mod multiply;
#[cfg(test)]
mod tests;

pub use multiply::multiply;

/// How a block is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    Q4_0,
    Q4_1,
    Q5_0,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl Format {
    pub const ALL: [Self; 7] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q8_0,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Values of a block.
    pub fn block(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Where the f16 scales of a block are, in bytes from its start.
    pub fn scales(self) -> &'static [usize] {
        match self {
            Self::Q4_0 | Self::Q5_0 | Self::Q8_0 => &[0],
            Self::Q4_1 | Self::Q4K | Self::Q5K => &[0, 2],
            Self::Q6K => &[208],
        }
    }

    /// ggml's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }
}

/// Blocks of `n` values of any codes, with scales by which these are small: to try a device by.
///
/// # Panics
/// If `n` values are not whole blocks.
pub fn made_up(format: Format, n: usize) -> Vec<u8> {
    assert_whole(format, n);
    // Codes of 8 bits and scales of scales make large numbers of it.
    let scale = match format {
        Format::Q4_0 | Format::Q4_1 | Format::Q5_0 => 5e-3,
        Format::Q8_0 => 5e-4,
        Format::Q4K | Format::Q5K | Format::Q6K => 1e-4,
    };
    let mut state = 7_u32;
    let mut any = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let mut bytes: Vec<u8> = (0..n / format.block() * format.bytes())
        .map(|_| any())
        .collect();
    for block in bytes.chunks_mut(format.bytes()) {
        for &at in format.scales() {
            block[at..at + 2].copy_from_slice(&to_f16(scale).to_le_bytes());
        }
    }
    bytes
}

/// The first `n` values of blocks.
///
/// # Panics
/// With [`crate::buffer::OutOfMemory`], or if `n` values are not whole blocks or there are fewer.
pub fn dequantize(format: Format, bytes: &[u8], n: usize) -> Vec<f32> {
    let (block, size) = (format.block(), format.bytes());
    assert_whole(format, n);
    // Blocks of a task, by the measure of the other kernels.
    let task = crate::GRAIN / block;
    let bytes = &bytes[..n / block * size];
    let mut values = crate::buffer::uninit(n);
    values
        .par_chunks_mut(task * block)
        .zip(bytes.par_chunks(task * size))
        .each(|(values, bytes)| decode(format, bytes, values));
    values
}

/// The values of blocks, on this thread.
///
/// # Panics
/// If the values are not whole blocks, or there are not as many bytes as they have.
pub fn decode(format: Format, bytes: &[u8], values: &mut [f32]) {
    assert_whole(format, values.len());
    assert_eq!(bytes.len(), values.len() / format.block() * format.bytes());
    match format {
        Format::Q4_0 => each::<blocks::Q4_0, _, _>(bytes, values),
        Format::Q4_1 => each::<blocks::Q4_1, _, _>(bytes, values),
        Format::Q5_0 => each::<blocks::Q5_0, _, _>(bytes, values),
        Format::Q8_0 => each::<blocks::Q8_0, _, _>(bytes, values),
        Format::Q4K => each::<blocks::Q4K, _, _>(bytes, values),
        Format::Q5K => each::<blocks::Q5K, _, _>(bytes, values),
        Format::Q6K => each::<blocks::Q6K, _, _>(bytes, values),
    }
}

fn assert_whole(format: Format, n: usize) {
    let (name, block) = (format.name(), format.block());
    assert!(n.is_multiple_of(block), "{n} values in blocks of {name}");
}

fn each<B: Block<BYTES, VALUES>, const BYTES: usize, const VALUES: usize>(
    bytes: &[u8],
    values: &mut [f32],
) {
    dispatch(
        #[inline(always)]
        || {
            let blocks = bytes.as_chunks().0.iter();
            for (bytes, values) in blocks.zip(values.as_chunks_mut().0) {
                // Hidden, or blocks rather than the values of one would become the lanes of vectors.
                B::decode(std::hint::black_box(bytes), values);
            }
        },
    );
}

/// Blocks of [`Format::Q8_0`], by the rounding of ggml: see [`crate::q8_0`].
///
/// # Panics
/// If the values are not whole blocks.
pub fn encode_q8_0(values: &[f32]) -> Vec<u8> {
    let (block, size) = (Format::Q8_0.block(), Format::Q8_0.bytes());
    assert_whole(Format::Q8_0, values.len());
    let task = crate::GRAIN / block;
    let mut bytes = crate::buffer::uninit(values.len() / block * size);
    bytes
        .par_chunks_mut(task * size)
        .zip(values.par_chunks(task * block))
        .each(|(bytes, values)| {
            dispatch(
                #[inline(always)]
                || {
                    let blocks = bytes.as_chunks_mut::<34>().0.iter_mut();
                    for (bytes, values) in blocks.zip(values.as_chunks::<32>().0) {
                        blocks::encode_q8_0(values, bytes);
                    }
                },
            );
        });
    bytes
}

/// Codes and scales of blocks of [`Format::Q8_0`], as [`crate::q8_0`] has them: nothing is lost.
pub fn q8_0_apart(bytes: &[u8]) -> (Vec<i32>, Vec<f32>) {
    let blocks = bytes.as_chunks::<34>().0;
    let word = |word: &[u8; 4]| i32::from_le_bytes(*word);
    let codes = blocks.iter().flat_map(|block| block[2..].as_chunks().0);
    let scale = |block: &[u8; 34]| from_f16(u16::from_le_bytes([block[0], block[1]]));
    (
        codes.map(word).collect(),
        blocks.iter().map(scale).collect(),
    )
}
