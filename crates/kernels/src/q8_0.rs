//! Q8_0: blocks of [`BLOCK`] numbers of 8 bits with one scale, as ggml has them.
//!
//! The scale is a block's largest magnitude divided by 127, rounded to an f16 (and held as the f32 that it then is); a number
//! is the nearest whole multiple of the scale before rounding, ties away from zero. Four numbers lie in an `i32`, the first
//! in the lowest byte.

use crate::few::{self, Weight, part};
use crate::half::{Half, narrow, widen};
use crate::lanes::{LANES, Lanes, Work, work};
use crate::sums::{Sums, blocks_of, rows_of};
use crate::team::Each;
use rayon::prelude::*;

/// Values that share a scale.
pub const BLOCK: usize = 32;
/// `i32`s with the codes of a block.
pub const WORDS: usize = BLOCK / 4;
/// Blocks of one task, by the measure of the other kernels.
const TASK: usize = crate::GRAIN / BLOCK;

/// Blocks that `n` values are cut into.
pub fn blocks(n: usize) -> usize {
    n.div_ceil(BLOCK)
}

/// Codes and scales of a weight, given row after row.
///
/// # Panics
/// With [`crate::buffer::OutOfMemory`].
pub fn quantize(values: &[f32]) -> (Vec<i32>, Vec<f32>) {
    let (codes, scales) = crate::blocks::encoded(values, BLOCK, encode);
    let rounded = widen(&narrow(&scales, Half::F16), Half::F16);
    (codes, rounded)
}

/// The codes of a block; its scale.
fn encode(values: &[f32], codes: &mut [i32; WORDS]) -> f32 {
    let most = values.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    let scale = most / 127.0;
    let inverse = match scale > 0.0 {
        true => 1.0 / scale,
        false => 0.0,
    };
    let mut bytes = [0_u8; BLOCK];
    for (byte, value) in bytes.iter_mut().zip(values) {
        *byte = ((value * inverse).round() as i8) as u8;
    }
    for (word, bytes) in codes.iter_mut().zip(bytes.as_chunks().0) {
        *word = i32::from_le_bytes(*bytes);
    }
    scale
}

/// The first `n` values that codes and scales stand for.
///
/// # Panics
/// With [`crate::buffer::OutOfMemory`], or if there are fewer blocks than `n` values need.
pub fn dequantize(codes: &[i32], scales: &[f32], n: usize) -> Vec<f32> {
    assert!(codes.len() >= blocks(n) * WORDS && scales.len() >= blocks(n));
    let mut values = crate::buffer::uninit(n);
    values
        .par_chunks_mut(TASK * BLOCK)
        .zip(codes.par_chunks(TASK * WORDS))
        .zip(scales.par_chunks(TASK))
        .each(|((values, codes), scales)| {
            work(Decode {
                values,
                codes: codes.as_chunks().0,
                scales,
            });
        });
    values
}

struct Decode<'a> {
    /// The last block's may be fewer.
    values: &'a mut [f32],
    codes: &'a [[i32; WORDS]],
    scales: &'a [f32],
}

impl Work for Decode<'_> {
    type Output = ();

    #[inline(always)]
    fn with<L: Lanes>(self, lanes: L) {
        let each = self.values.chunks_mut(BLOCK).zip(self.codes);
        for ((values, codes), scale) in each.zip(self.scales) {
            let (bytes, scale) = (bytes(codes), lanes.splat(*scale));
            let first = lanes.mul(lanes.signed(&part(&bytes, 0)), scale);
            let last = lanes.mul(lanes.signed(&part(&bytes, LANES)), scale);
            let block = [lanes.array(first), lanes.array(last)];
            values.copy_from_slice(&block.as_flattened()[..values.len()]);
        }
    }
}

/// The codes of a block one by one.
#[inline(always)]
fn bytes(codes: &[i32; WORDS]) -> [u8; BLOCK] {
    let mut bytes = [0; BLOCK];
    for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(codes) {
        *bytes = word.to_le_bytes();
    }
    bytes
}

/// `x wᵀ`, where x is `[n, inputs]` of at most [`few::MOST`] rows, and w is `[outputs, inputs]` in whole blocks a row.
///
/// # Panics
/// If a row is not whole blocks, if there are too many rows, or if lengths do not fit.
pub fn multiply(
    codes: &[i32],
    scales: &[f32],
    [outputs, inputs]: [usize; 2],
    x: &[f32],
) -> Vec<f32> {
    let (row, n) = (inputs / BLOCK, x.len().checked_div(inputs).unwrap_or(0));
    assert!(inputs.is_multiple_of(BLOCK) && x.len() == n * inputs);
    let weight = Blocks {
        codes: codes.as_chunks().0,
        scales: &scales[..outputs * row],
        row,
        x: x.as_chunks().0,
    };
    few::product(&weight, [outputs, inputs], n)
}

struct Blocks<'a> {
    codes: &'a [[i32; WORDS]],
    scales: &'a [f32],
    /// Blocks of a row.
    row: usize,
    x: &'a [[f32; BLOCK]],
}

impl Weight for Blocks<'_> {
    #[inline(always)]
    fn products<L: Lanes, const ROWS: usize>(
        &self,
        lanes: L,
        j: usize,
        first: usize,
    ) -> [f32; ROWS] {
        let mut sums = Sums::zero(lanes);
        let x = rows_of::<_, ROWS>(self.x, first, self.row);
        let codes = &self.codes[j * self.row..][..self.row];
        let scales = &self.scales[j * self.row..][..self.row];
        for (b, (codes, scale)) in codes.iter().zip(scales).enumerate() {
            let codes = sums.signed(&bytes(codes));
            sums.add(0, lanes.splat(*scale), codes, (&blocks_of(&x, b), 0));
        }
        sums.totals()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::values;

    #[test]
    fn what_comes_back_is_within_half_a_step_at_any_length() {
        for n in [1, 31, 32, 33, 1000, 40_000] {
            let values = values(n, 5);
            let (codes, scales) = quantize(&values);
            let back = dequantize(&codes, &scales, n);
            for (i, (value, back)) in values.iter().zip(back).enumerate() {
                // The rounded scale adds up to 127 of its own rounding.
                let step = scales[i / BLOCK];
                assert!((value - back).abs() <= 0.57 * step, "{n}: {value} {back}");
            }
        }
    }

    #[test]
    fn ties_go_away_from_zero() {
        let (codes, scales) = quantize(&[127.0, 0.5, -0.5, 1.5]);
        assert_eq!(codes[0].to_le_bytes().map(|b| b as i8), [127, 1, -1, 2]);
        assert_eq!(scales, [1.0]);
    }

    #[test]
    fn products_are_those_of_the_decoded_values() {
        for dims in [[1, 32], [70, 96], [5, 2048]] {
            let n = dims[0] * dims[1];
            let (codes, scales) = quantize(&values(n, 5));
            let dense = dequantize(&codes, &scales, n);
            for rows in 0..=crate::few::MOST {
                let x = values(rows * dims[1], 7);
                let got = multiply(&codes, &scales, dims, &x);
                crate::testing::assert_products(&got, &dense, &x, dims[1]);
            }
        }
    }
}
