//! AdamW with both moments in 8 bits: Dettmers et al., "8-bit Optimizers via Block-wise
//! Quantization" (2022), in the format and with the arithmetic of bitsandbytes 0.50's CPU path.
//!
//! A moment is cut into blocks of [`BLOCK`] values. A block keeps its largest magnitude ("absmax")
//! and, for each value divided by it, the code of a nearby entry of a fixed table, the dynamic map:
//! 255 steps whose relative spacing is about the same over seven decades. The mean gradient uses
//! the signed map, the mean squared gradient the unsigned one.
//!
//! Codes are stored four to an `i32`, the first in the lowest byte, padded to whole blocks.
//!
//! # Where this departs from bitsandbytes
//!
//! In one place: a mean gradient that is zero or that decays without a gradient. There bitsandbytes
//! rounds away from zero. Zero itself becomes +2.1e-5 of the block's largest, and up to 2.4e-3 of it
//! there are codes that the tenth by which a mean decays does not lead away from. With such a mean a
//! parameter without gradient creeps on for ever, by 0.25 % of the learning rate a step and more. Here
//! zero stays zero, and of the decay in a step without gradient rounding takes back half at the most, so
//! that any mean is gone after 71 such steps of its block. Codes are read as bitsandbytes means them, and
//! those written for a gradient that leaves a trace are its own to the bit.
//!
//! Mean squares are rounded upwards likewise: zero becomes 1.6e-5 of the block's largest, and what
//! decays without a gradient stays at up to 1.4 % of it. That moves no parameter by itself, since the
//! mean gradient above it is zero; it only makes the next steps of a parameter smaller, and is what
//! keeps a division by next to nothing from throwing it away (see [`Map`]). So it stays.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod map;
mod plain;
#[cfg(test)]
mod tests;

use crate::adamw::Step;
use crate::team::Each;
pub use map::{Map, SIGNED, UNSIGNED};
use rayon::prelude::*;

/// Values that share one absmax.
pub const BLOCK: usize = 256;
/// `i32`s that hold the codes of a block.
pub const WORDS: usize = BLOCK / 4;
/// Blocks of one task, by the measure of the other kernels.
const TASK: usize = crate::GRAIN / BLOCK;
/// No bound on what a code may stand for.
const ANY: f32 = f32::MAX;

/// A moment in 8 bits, for reading and writing.
pub struct Moment<'a> {
    /// Four codes each; [`WORDS`] a block.
    pub codes: &'a mut [i32],
    /// One value a block.
    pub absmax: &'a mut [f32],
}

impl<'a> Moment<'a> {
    fn tasks(self) -> impl IndexedParallelIterator<Item = Self> {
        let codes = self.codes.par_chunks_mut(TASK * WORDS);
        codes
            .zip(self.absmax.par_chunks_mut(TASK))
            .map(|(codes, absmax)| Self { codes, absmax })
    }

    fn blocks(self) -> impl Iterator<Item = Block<'a>> {
        let codes = self.codes.as_chunks_mut().0.iter_mut();
        codes
            .zip(self.absmax)
            .map(|(codes, absmax)| Block { codes, absmax })
    }
}

/// One block of a moment.
struct Block<'a> {
    codes: &'a mut [i32; WORDS],
    absmax: &'a mut f32,
}

/// One step's factors.
struct Update {
    step: Step,
    /// What weight decay leaves.
    keep: f32,
    corrections: (f32, f32),
}

/// Updates a block, or less at the end of a tensor, from as many gradients: parameters, gradients,
/// mean gradient and mean square.
type UpdateBlock = fn(&Update, &mut [f32], &[f32], Block, Block);

/// Update `parameter` (`n` values) and both moments (`n` rounded up to whole blocks) in place from
/// `gradient` (`n` values).
///
/// # Panics
/// If the lengths do not fit each other.
pub fn adamw_8bit(parameter: &mut [f32], gradient: &[f32], m: Moment, v: Moment, step: Step) {
    let blocks = parameter.len().div_ceil(BLOCK);
    assert_eq!(gradient.len(), parameter.len());
    for moment in [&m, &v] {
        assert_eq!(moment.codes.len(), blocks * WORDS);
        assert_eq!(moment.absmax.len(), blocks);
    }
    let update = Update::new(step);
    let update_block = fastest();
    parameter
        .par_chunks_mut(TASK * BLOCK)
        .zip(gradient.par_chunks(TASK * BLOCK))
        .zip(m.tasks().zip(v.tasks()))
        .each(|((p, g), (m, v))| {
            let values = p.chunks_mut(BLOCK).zip(g.chunks(BLOCK));
            for ((p, g), (m, v)) in values.zip(m.blocks().zip(v.blocks())) {
                update_block(&update, p, g, m, v);
            }
        });
}

impl Update {
    fn new(step: Step) -> Self {
        Self {
            step,
            keep: 1.0 - step.learning_rate * step.weight_decay,
            corrections: step.corrections(),
        }
    }
}

/// What updates a block fastest on this processor.
fn fastest() -> UpdateBlock {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has just said that it has these instructions.
        return |update, p, g, m, v| unsafe { avx512::update(update, p, g, m, v) };
    }
    plain::update
}

/// Codes and absmax of a whole tensor.
pub fn quantize(values: &[f32], map: &Map) -> (Vec<i32>, Vec<f32>) {
    let blocks = values.len().div_ceil(BLOCK);
    let (mut codes, mut absmax) = (vec![0; blocks * WORDS], vec![0.0; blocks]);
    codes
        .as_chunks_mut()
        .0
        .par_iter_mut()
        .zip(&mut absmax)
        .zip(values.par_chunks(BLOCK))
        .each(|((codes, absmax), values)| {
            let mut padded = [0.0; BLOCK];
            padded[..values.len()].copy_from_slice(values);
            *absmax = plain::encode(&padded, &[ANY; BLOCK], codes, map);
        });
    (codes, absmax)
}

/// The first `n` values of a whole tensor.
///
/// # Panics
/// If there are fewer blocks than `n` values need.
pub fn dequantize(codes: &[i32], absmax: &[f32], n: usize, map: &Map) -> Vec<f32> {
    assert_eq!(codes.len(), n.div_ceil(BLOCK) * WORDS);
    assert_eq!(absmax.len(), n.div_ceil(BLOCK));
    let mut values = vec![0.0; n];
    values
        .par_chunks_mut(BLOCK)
        .zip(codes.as_chunks().0)
        .zip(absmax)
        .each(|((values, codes), &absmax)| {
            values.copy_from_slice(&plain::decode(codes, absmax, map)[..values.len()]);
        });
    values
}
