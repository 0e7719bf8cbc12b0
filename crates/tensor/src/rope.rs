//! Rotary position embedding (Su et al., "RoFormer"), rotate-half, theta 10000.

use crate::{AttentionShape, Ops, in_format, widened};
use aios_kernels::buffer;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;
use std::ops::Range;

pub use aios_kernels::rope::Turn;

/// Cosine and sine of every position's angles, `[positions, head_dim / 2]` each.
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
        let half = head_dim / 2;
        let frequencies: Vec<f64> = (0..half)
            .map(|i| theta.powf(-2.0 * i as f64 / head_dim as f64))
            .collect();
        let table = |f: fn(f64) -> f64| {
            let mut values: Vec<f32> = buffer::zeros(positions * half);
            let rows = values.par_chunks_exact_mut(half.max(1)).enumerate();
            rows.for_each(|(position, row)| {
                for (value, frequency) in row.iter_mut().zip(&frequencies) {
                    // In f64: at position 100,000 an f32 angle is off by up to 0.004 radians.
                    *value = f(position as f64 * frequency) as f32;
                }
            });
            Tensor::from_data(TensorData::new(values, [positions, half]), device)
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
        batch, seq, heads, ..
    } = *shape;
    let half = shape.head_dim / 2;
    let width = heads * shape.head_dim;
    let rows = |t: &Tensor<B, 2>| t.clone().narrow(0, 0, seq).reshape([1, seq, 1, half]);
    let cos = rows(&table.cos);
    let sin = match turn {
        Turn::Forward => rows(&table.sin),
        Turn::Backward => -rows(&table.sin),
    };
    let qk = widened(qkv.clone().narrow(1, 0, 2 * width));
    let qk: Tensor<B, 4> = qk.reshape([batch, seq, 2 * heads, shape.head_dim]);
    let v = qkv.narrow(1, 2 * width, width);
    let first = qk.clone().narrow(3, 0, half);
    let second = qk.narrow(3, half, half);
    let turned_first = first.clone() * cos.clone() - second.clone() * sin.clone();
    let turned_second = second * cos + first * sin;
    let qk = Tensor::cat(vec![turned_first, turned_second], 3).reshape([batch * seq, 2 * width]);
    Tensor::cat(vec![in_format(qk, v.dtype()), v], 1)
}
