//! Rotary position embedding (Su et al., "RoFormer"), rotate-half.

use crate::{AttentionShape, Ops, ids_tensor, in_format, widened};
use aios_kernels::buffer;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;
use std::ops::Range;

pub use aios_kernels::rope::Turn;

/// Cosine and sine of every position's angles, `[positions, rotated / 2]` each, both times a factor
/// that is 1 as a rule.
///
/// The first `rotated` numbers of a head turn, i together with i + rotated / 2; all others pass.
#[derive(Clone, Debug)]
pub struct Rope<B: Backend> {
    pub cos: Tensor<B, 2>,
    pub sin: Tensor<B, 2>,
}

impl<B: Backend> Rope<B> {
    /// Tables for `positions` positions of heads of `head_dim` (even) elements.
    ///
    /// # Panics
    /// With `aios_kernels::buffer::OutOfMemory`: they grow with what is only a number in a file.
    pub fn new(positions: usize, head_dim: usize, theta: f64, device: &B::Device) -> Self {
        let frequencies: Vec<f64> = (0..head_dim / 2)
            .map(|i| theta.powf(-2.0 * i as f64 / head_dim as f64))
            .collect();
        Self::from_frequencies(0..positions, &frequencies, 1.0, device)
    }

    /// Tables for these positions from the angle by which each pair of numbers turns a position,
    /// in radians. They may be fewer than half of a head's numbers; at most that. Cosine and sine are
    /// multiplied by `factor`, by which queries and keys so grow.
    ///
    /// # Panics
    /// With `aios_kernels::buffer::OutOfMemory`: they grow with what is only a number in a file.
    pub fn from_frequencies(
        positions: Range<usize>,
        frequencies: &[f64],
        factor: f64,
        device: &B::Device,
    ) -> Self {
        let half = frequencies.len();
        let table = |f: fn(f64) -> f64| {
            let mut values: Vec<f32> = buffer::zeros(positions.len() * half);
            let rows = values.par_chunks_exact_mut(half.max(1)).enumerate();
            rows.for_each(|(row, values)| {
                let position = positions.start + row;
                for (value, frequency) in values.iter_mut().zip(frequencies) {
                    // In f64: at position 100,000 an f32 angle is off by up to 0.004 radians.
                    *value = (f(position as f64 * frequency) * factor) as f32;
                }
            });
            Tensor::from_data(TensorData::new(values, [positions.len(), half]), device)
        };
        Self {
            cos: table(f64::cos),
            sin: table(f64::sin),
        }
    }

    /// The tables of these positions.
    pub fn slice(&self, positions: Range<usize>) -> Self {
        let rows = |t: &Tensor<B, 2>| t.clone().narrow(0, positions.start, positions.len());
        Self {
            cos: rows(&self.cos),
            sin: rows(&self.sin),
        }
    }

    /// The rows of these positions, one a token.
    pub fn select(&self, positions: &[i32]) -> Self {
        let ids = ids_tensor(positions, &self.cos.device());
        Self {
            cos: self.cos.clone().select(0, ids.clone()),
            sin: self.sin.clone().select(0, ids),
        }
    }

    /// The rows of tables, one table after the other.
    pub fn joined(tables: Vec<Self>) -> Self {
        let (cos, sin) = tables.into_iter().map(|t| (t.cos, t.sin)).unzip();
        Self {
            cos: Tensor::cat(cos, 0),
            sin: Tensor::cat(sin, 0),
        }
    }

    /// Positions the tables cover.
    pub fn positions(&self) -> usize {
        self.cos.dims()[0]
    }
}

pub(super) fn reference<B: Ops>(
    qkv: Tensor<B, 2>,
    table: &Rope<B>,
    shape: &AttentionShape,
    turn: Turn,
) -> Tensor<B, 2> {
    let AttentionShape {
        batch,
        seq,
        head_dim,
        ..
    } = *shape;
    let half = table.cos.dims()[1];
    let (rotated, kept) = (2 * half, head_dim - 2 * half);
    let heads = shape.heads + shape.kv_heads;
    let (turning, passing) = (heads * head_dim, shape.kv_width());
    let rows = |t: &Tensor<B, 2>| t.clone().narrow(0, 0, seq).reshape([1, seq, 1, half]);
    let cos = rows(&table.cos);
    let sin = match turn {
        Turn::Forward => rows(&table.sin),
        Turn::Backward => -rows(&table.sin),
    };
    let qk = widened(qkv.clone().narrow(1, 0, turning));
    let qk: Tensor<B, 4> = qk.reshape([batch, seq, heads, head_dim]);
    let v = qkv.narrow(1, turning, passing);
    let first = qk.clone().narrow(3, 0, half);
    let second = qk.clone().narrow(3, half, half);
    let turned_first = first.clone() * cos.clone() - second.clone() * sin.clone();
    let turned_second = second * cos + first * sin;
    let mut parts = vec![turned_first, turned_second];
    if kept > 0 {
        parts.push(qk.narrow(3, rotated, kept));
    }
    let qk = Tensor::cat(parts, 3).reshape([batch * seq, turning]);
    Tensor::cat(vec![in_format(qk, v.dtype()), v], 1)
}
