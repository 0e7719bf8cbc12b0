//! NF4 with double quantization: Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs" (2023), in the bytes of
//! bitsandbytes 0.50.
//!
//! A weight is cut, row after row, into blocks of [`BLOCK`] values. A block keeps its largest magnitude ("absmax") and, for
//! each value divided by it, the nearest of 16 codes, which are quantiles of a normal distribution. Two codes lie in a byte,
//! the first in the upper half, and four bytes in an `i32`, the first in the lowest.
//!
//! The absmaxes are kept in 8 bits themselves: their mean is taken off, and blocks of [`NESTED_BLOCK`] of the rest are coded
//! by the signed dynamic map of [`crate::adamw_8bit`], by the same cells as there. 4.13 bits a value.
//!
//! The mean is added up in the order of PyTorch's `mean` on a processor with AVX2 and one thread, so that bytes are equal.

use crate::adamw_8bit::SIGNED;
use crate::few::{self, Weight, part};
use crate::lanes::{Lanes, Work, work};
use crate::sums::{Sums, blocks_of, rows_of};
use crate::team::Each;
use rayon::prelude::*;

/// Values that share an absmax.
pub const BLOCK: usize = 64;
/// `i32`s with the codes of a block.
pub const WORDS: usize = BLOCK / 8;
/// Absmaxes that share one of their own.
pub const NESTED_BLOCK: usize = 256;
/// Blocks of one task, by the measure of the other kernels.
const TASK: usize = crate::GRAIN / BLOCK;

/// What the codes stand for, ascending.
pub const CODES: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Code of 0.
const ZERO: u8 = 7;

/// A weight in NF4.
#[derive(Clone, Debug, PartialEq)]
pub struct Nf4 {
    /// Eight codes each; [`WORDS`] a block.
    pub codes: Vec<i32>,
    /// Codes of the blocks' absmaxes.
    pub absmax: Vec<u8>,
    /// Largest magnitude of each [`NESTED_BLOCK`] absmaxes without their mean.
    pub nested: Vec<f32>,
    /// Mean of the absmaxes.
    pub offset: f32,
}

/// The absmaxes of a weight's blocks.
#[derive(Clone, Debug, PartialEq)]
pub enum Absmax {
    /// In 8 bits, as [`Nf4`] has them.
    Nested {
        codes: Vec<u8>,
        nested: Vec<f32>,
        offset: f32,
    },
    Plain(Vec<f32>),
}

impl Absmax {
    /// As they are decoded.
    pub fn values(&self) -> Vec<f32> {
        match self {
            Self::Plain(values) => values.clone(),
            Self::Nested {
                codes,
                nested,
                offset,
            } => absmaxes(codes, nested, *offset),
        }
    }
}

/// A weight in NF4 with double quantization or without: what a file may hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Packed {
    /// Eight codes each; [`WORDS`] a block.
    pub codes: Vec<i32>,
    pub absmax: Absmax,
}

impl Packed {
    /// Of the codes of `n` values, two in a byte, and the absmaxes of their blocks.
    pub fn of_bytes(mut bytes: Vec<u8>, n: usize, absmax: Absmax) -> Self {
        bytes.resize(blocks(n) * BLOCK / 2, ZERO << 4 | ZERO);
        let words = bytes.as_chunks().0.iter();
        Self {
            codes: words.map(|word| i32::from_le_bytes(*word)).collect(),
            absmax,
        }
    }

    /// The first `n` values.
    ///
    /// # Panics
    /// As [`dequantize`].
    pub fn values(&self, n: usize) -> Vec<f32> {
        dequantize(&self.codes, &self.absmax.values(), n)
    }
}

impl From<Nf4> for Packed {
    fn from(nf4: Nf4) -> Self {
        Self {
            codes: nf4.codes,
            absmax: Absmax::Nested {
                codes: nf4.absmax,
                nested: nf4.nested,
                offset: nf4.offset,
            },
        }
    }
}

/// Blocks that `n` values are cut into.
pub fn blocks(n: usize) -> usize {
    n.div_ceil(BLOCK)
}

/// Between which codes a value changes from one to the next: a tie is the lower one's.
fn middles() -> [f32; 15] {
    std::array::from_fn(|i| (CODES[i] + CODES[i + 1]) / 2.0)
}

/// Quantize a weight, given row after row.
///
/// # Panics
/// With [`crate::buffer::OutOfMemory`].
pub fn quantize(values: &[f32]) -> Nf4 {
    let middles = middles();
    let (codes, absmax) = crate::blocks::encoded(values, BLOCK, |values, codes| {
        encode(values, codes, &middles)
    });
    let offset = mean(&absmax);
    let (absmax, nested) = nested(&absmax, offset);
    Nf4 {
        codes,
        absmax,
        nested,
        offset,
    }
}

/// The codes of a block; its absmax.
fn encode(values: &[f32], codes: &mut [i32; WORDS], middles: &[f32; 15]) -> f32 {
    let absmax = values.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    let inverse = 1.0 / absmax;
    let mut bytes = [ZERO << 4 | ZERO; BLOCK / 2];
    for (at, value) in values.iter().enumerate() {
        let scaled = value * inverse;
        let code = match absmax > 0.0 {
            true => middles.iter().filter(|&&middle| scaled > middle).count() as u8,
            false => ZERO,
        };
        let byte = &mut bytes[at / 2];
        *byte = match at % 2 {
            0 => code << 4 | (*byte & 15),
            _ => (*byte & 0xf0) | code,
        };
    }
    for (word, bytes) in codes.iter_mut().zip(bytes.as_chunks().0) {
        *word = i32::from_le_bytes(*bytes);
    }
    absmax
}

/// The codes of absmaxes without their mean, and the largest magnitude of each block of them.
fn nested(absmax: &[f32], offset: f32) -> (Vec<u8>, Vec<f32>) {
    let (mut codes, mut nested) = (Vec::with_capacity(absmax.len()), Vec::new());
    for block in absmax.chunks(NESTED_BLOCK) {
        let rest = block.iter().map(|v| v - offset);
        let most = rest.clone().fold(0.0_f32, |most, v| most.max(v.abs()));
        // Below the smallest normal number the reciprocal may be infinite: such a block is zero.
        let inverse = match most < f32::MIN_POSITIVE {
            true => 0.0,
            false => 1.0 / most,
        };
        codes.extend(rest.map(|v| SIGNED.code_of_cell(v * inverse)));
        nested.push(most);
    }
    (codes, nested)
}

/// The blocks' absmaxes as they are decoded.
pub fn absmaxes(absmax: &[u8], nested: &[f32], offset: f32) -> Vec<f32> {
    let decoded = absmax.iter().enumerate();
    decoded
        .map(|(i, code)| SIGNED.values[usize::from(*code)] * nested[i / NESTED_BLOCK] + offset)
        .collect()
}

/// The first `n` values that codes and the blocks' absmaxes stand for.
///
/// # Panics
/// With [`crate::buffer::OutOfMemory`], or if there are fewer blocks than `n` values need.
pub fn dequantize(codes: &[i32], absmax: &[f32], n: usize) -> Vec<f32> {
    assert!(codes.len() >= blocks(n) * WORDS && absmax.len() >= blocks(n));
    let mut values = crate::buffer::uninit(n);
    values
        .par_chunks_mut(TASK * BLOCK)
        .zip(codes.par_chunks(TASK * WORDS))
        .zip(absmax.par_chunks(TASK))
        .each(|((values, codes), absmax)| {
            work(Decode {
                values,
                codes: codes.as_chunks().0,
                absmax,
            });
        });
    values
}

struct Decode<'a> {
    /// The last block's may be fewer.
    values: &'a mut [f32],
    codes: &'a [[i32; WORDS]],
    absmax: &'a [f32],
}

impl Work for Decode<'_> {
    type Output = ();

    #[inline(always)]
    fn with<L: Lanes>(self, lanes: L) {
        let each = self.values.chunks_mut(BLOCK).zip(self.codes);
        for ((values, codes), absmax) in each.zip(self.absmax) {
            let (bytes, absmax) = (bytes(codes), lanes.splat(*absmax));
            let mut block = [0.0; BLOCK];
            for (at, block) in block
                .as_chunks_mut::<{ BLOCK / 2 }>()
                .0
                .iter_mut()
                .enumerate()
            {
                let [lower, upper] = lanes.entries(&CODES, &part(&bytes, at * BLOCK / 4));
                let lower = lanes.array(lanes.mul(lower, absmax));
                let upper = lanes.array(lanes.mul(upper, absmax));
                for i in 0..BLOCK / 4 {
                    block[2 * i] = upper[i];
                    block[2 * i + 1] = lower[i];
                }
            }
            values.copy_from_slice(&block[..values.len()]);
        }
    }
}

/// `x wᵀ`, where x is `[n, inputs]` of at most [`few::MOST`] rows, and w is `[outputs, inputs]` in whole blocks a row.
///
/// # Panics
/// If a row is not whole blocks, if there are too many rows, or if lengths do not fit.
pub fn multiply(
    codes: &[i32],
    absmax: AbsmaxOf,
    [outputs, inputs]: [usize; 2],
    x: &[f32],
) -> Vec<f32> {
    let (row, n) = (inputs / BLOCK, x.len().checked_div(inputs).unwrap_or(0));
    assert!(inputs.is_multiple_of(BLOCK) && x.len() == n * inputs);
    let x: Vec<_> = x.as_chunks().0.iter().map(apart).collect();
    let weight = Blocks {
        codes: codes.as_chunks().0,
        absmax,
        map: &SIGNED.values,
        row,
        x: &x,
    };
    few::product(&weight, [outputs, inputs], n)
}

/// The absmaxes of a weight's blocks, where they lie.
#[derive(Clone, Copy)]
pub enum AbsmaxOf<'a> {
    Nested {
        codes: &'a [u8],
        nested: &'a [f32],
        offset: f32,
    },
    Plain(&'a [f32]),
}

impl AbsmaxOf<'_> {
    /// That of a block.
    #[inline(always)]
    fn of(self, block: usize, map: &[f32; 256]) -> f32 {
        match self {
            Self::Plain(values) => values[block],
            Self::Nested {
                codes,
                nested,
                offset,
            } => map[usize::from(codes[block])] * nested[block / NESTED_BLOCK] + offset,
        }
    }
}

/// What is multiplied by the lower halves of a block's bytes, then what is by the upper ones.
fn apart(x: &[f32; BLOCK]) -> [f32; BLOCK] {
    std::array::from_fn(|i| x[2 * i % BLOCK + usize::from(i < BLOCK / 2)])
}

struct Blocks<'a> {
    codes: &'a [[i32; WORDS]],
    absmax: AbsmaxOf<'a>,
    /// What codes of absmaxes stand for.
    map: &'a [f32; 256],
    /// Blocks of a row.
    row: usize,
    /// As [`apart`] has them.
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
        for (b, codes) in codes.iter().enumerate() {
            let absmax = self.absmax.of(j * self.row + b, self.map);
            let (x, bytes) = (blocks_of(&x, b), bytes(codes));
            let [a, c] = lanes.entries(&CODES, &part(&bytes, 0));
            let [b, d] = lanes.entries(&CODES, &part(&bytes, BLOCK / 4));
            sums.add(0, lanes.splat(absmax), [a, b], (&x, 0));
            sums.add(1, lanes.splat(absmax), [c, d], (&x, BLOCK / 2));
        }
        sums.totals()
    }
}

/// The codes of a block, two by two.
#[inline(always)]
fn bytes(codes: &[i32; WORDS]) -> [u8; BLOCK / 2] {
    let mut bytes = [0; BLOCK / 2];
    for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(codes) {
        *bytes = word.to_le_bytes();
    }
    bytes
}

/// Sums side by side.
const LANES: usize = 8;
/// Rows of sums side by side.
const ROWS: usize = 4;
/// Levels of the cascade.
const LEVELS: usize = 4;

/// The mean in the order of additions of PyTorch's `mean`.
fn mean(values: &[f32]) -> f32 {
    let (vectors, rest) = values.as_chunks::<LANES>();
    let vector = row_sum(vectors);
    let sum = rest.iter().chain(&vector).fold(0.0, |sum, v| sum + v);
    sum / values.len().max(1) as f32
}

fn add(to: &mut [f32; LANES], value: &[f32; LANES]) {
    to.iter_mut().zip(value).for_each(|(to, v)| *to += v);
}

fn row_sum(vectors: &[[f32; LANES]]) -> [f32; LANES] {
    let (rows, rest) = vectors.as_chunks::<ROWS>();
    let mut sums = cascade(rows);
    rest.iter().for_each(|vector| add(&mut sums[0], vector));
    let [mut first, others @ ..] = sums;
    others.iter().for_each(|other| add(&mut first, other));
    first
}

/// Sums of sums, so that no addend is much smaller than what it is added to.
fn cascade(rows: &[[[f32; LANES]; ROWS]]) -> [[f32; LANES]; ROWS] {
    let log = rows.len().max(1).next_power_of_two().trailing_zeros() as usize;
    let power = (log / LEVELS).max(4);
    let step = 1 << power;
    let mut sums = [[[0.0; LANES]; ROWS]; LEVELS];
    let grow = |to: &mut [[f32; LANES]; ROWS], from: &[[f32; LANES]; ROWS]| {
        to.iter_mut().zip(from).for_each(|(to, from)| add(to, from));
    };
    for (number, row) in rows.iter().enumerate() {
        grow(&mut sums[0], row);
        let done = number + 1;
        if done % step != 0 {
            continue;
        }
        for level in 1..LEVELS {
            let below = std::mem::replace(&mut sums[level - 1], [[0.0; LANES]; ROWS]);
            grow(&mut sums[level], &below);
            if done & ((step - 1) << (level * power)) != 0 {
                break;
            }
        }
    }
    let [mut first, others @ ..] = sums;
    others.iter().for_each(|other| grow(&mut first, other));
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::values;

    fn through(values: &[f32]) -> Vec<f32> {
        let nf4 = quantize(values);
        let absmax = absmaxes(&nf4.absmax, &nf4.nested, nf4.offset);
        dequantize(&nf4.codes, &absmax, values.len())
    }

    #[test]
    fn what_comes_back_is_near_at_any_length() {
        for n in [1, 2, 63, 64, 65, 1000, 40_000] {
            let values = values(n, 3);
            let most = values.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
            for (value, back) in values.iter().zip(through(&values)) {
                // Half of the widest step between codes, and what 8 bits leave of the absmax.
                assert!((value - back).abs() < 0.2 * most, "{n}: {value} {back}");
            }
        }
    }

    #[test]
    fn zeros_come_back_as_zeros() {
        assert!(through(&[0.0; 100]).iter().all(|&v| v == 0.0));
    }

    #[test]
    fn the_first_of_two_codes_lies_in_the_upper_half_of_a_byte() {
        let nf4 = quantize(&[1.0, -1.0, 0.0]);
        assert_eq!(nf4.codes[0].to_le_bytes(), [0xf0, 0x77, 0x77, 0x77]);
    }

    #[test]
    fn products_are_those_of_the_decoded_values() {
        for dims in [[1, 64], [70, 192], [5, 2048]] {
            let n = dims[0] * dims[1];
            let nf4 = quantize(&values(n, 5));
            let absmax = absmaxes(&nf4.absmax, &nf4.nested, nf4.offset);
            let dense = dequantize(&nf4.codes, &absmax, n);
            for rows in 0..=crate::few::MOST {
                let x = values(rows * dims[1], 7);
                let got = multiply(&nf4.codes, AbsmaxOf::Plain(&absmax), dims, &x);
                crate::testing::assert_products(&got, &dense, &x, dims[1]);
                let nested = AbsmaxOf::Nested {
                    codes: &nf4.absmax,
                    nested: &nf4.nested,
                    offset: nf4.offset,
                };
                assert_eq!(multiply(&nf4.codes, nested, dims, &x), got);
            }
        }
    }
}
