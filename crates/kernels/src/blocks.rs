//! Weights cut, row after row, into blocks that are encoded each by itself.

use crate::team::Each;
use rayon::prelude::*;

/// Codes of all blocks of `block` values, `WORDS` a block, and what `encode` gives for each block besides.
///
/// # Panics
/// With [`crate::buffer::OutOfMemory`].
pub(crate) fn encoded<const WORDS: usize>(
    values: &[f32],
    block: usize,
    encode: impl Fn(&[f32], &mut [i32; WORDS]) -> f32 + Sync,
) -> (Vec<i32>, Vec<f32>) {
    let count = values.len().div_ceil(block);
    let task = crate::GRAIN / block;
    let mut scales = crate::buffer::zeros::<f32>(count);
    let mut codes = vec![0_i32; count * WORDS];
    codes
        .par_chunks_mut(task * WORDS)
        .zip(scales.par_chunks_mut(task))
        .zip(values.par_chunks(task * block))
        .each(|((codes, scales), values)| {
            let each = codes.as_chunks_mut().0.iter_mut();
            for ((codes, scale), values) in each.zip(scales).zip(values.chunks(block)) {
                *scale = encode(values, codes);
            }
        });
    (codes, scales)
}
