//! Rotary position embedding (Su et al., "RoFormer"), rotate-half, theta 10000.

use super::{AttentionShape, Ops, in_format, widened};
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
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
    pub fn new(positions: usize, head_dim: usize, theta: f64, device: &B::Device) -> Self {
        let half = head_dim / 2;
        // The angle in f64: at position 100,000 an f32 angle is off by up to 0.004 radians.
        let angle = |position: usize, i: usize| {
            position as f64 * theta.powf(-2.0 * i as f64 / head_dim as f64)
        };
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> = (0..positions * half)
                .map(|i| f(angle(i / half, i % half)) as f32)
                .collect();
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
