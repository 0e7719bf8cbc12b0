//! Rotary position embedding (rotate-half) on the query and key columns of a fused qkv matrix.

use crate::simd::dispatch;
use rayon::prelude::*;

/// Which way to turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// By the position's angle.
    Forward,
    /// Back again: the gradient of the forward turn.
    Backward,
}

/// Shape of the matrix to rotate and where its first token stands.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Tokens of one sequence; row t of the matrix is at position `t % seq + offset`.
    pub seq: usize,
    /// Position of the first token of each sequence.
    pub offset: usize,
    /// Attention heads.
    pub heads: usize,
    /// Elements of a head; even.
    pub head_dim: usize,
}

/// Rotate, in place, the first two thirds of each row of `qkv` (`[T, 3 * heads * head_dim]`).
///
/// `cos` and `sin` are `[positions, head_dim / 2]`.
pub fn rotate(qkv: &mut [f32], cos: &[f32], sin: &[f32], shape: Shape, turn: Turn) {
    let Shape {
        seq,
        offset,
        heads,
        head_dim,
    } = shape;
    let (half, width) = (head_dim / 2, 3 * heads * head_dim);
    assert!(cos.len() >= (offset + seq) * half && sin.len() == cos.len());
    let rows = crate::rows_per_task(width);
    qkv.par_chunks_mut(rows * width)
        .enumerate()
        .for_each(|(task, part)| {
            dispatch(
                #[inline(always)]
                || {
                    for (i, row) in part.chunks_exact_mut(width).enumerate() {
                        let at = ((task * rows + i) % seq + offset) * half;
                        let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
                        for head in row[..2 * heads * head_dim].chunks_exact_mut(head_dim) {
                            rotate_head(head, cos, sin, turn);
                        }
                    }
                },
            );
        });
}

#[inline(always)]
fn rotate_head(head: &mut [f32], cos: &[f32], sin: &[f32], turn: Turn) {
    let sign = match turn {
        Turn::Forward => 1.0,
        Turn::Backward => -1.0,
    };
    let (first, second) = head.split_at_mut(cos.len());
    for i in 0..cos.len() {
        let (a, b, s) = (first[i], second[i], sin[i] * sign);
        first[i] = a * cos[i] - b * s;
        second[i] = b * cos[i] + a * s;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, values};

    #[test]
    fn turning_back_restores_the_input_and_values_are_left_alone() {
        let shape = Shape {
            seq: 5,
            offset: 2,
            heads: 3,
            head_dim: 6,
        };
        let x = values(2 * 5 * 54, 1);
        let angles = values(7 * 3, 2);
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
        let mut y = x.clone();
        rotate(&mut y, &cos, &sin, shape, Turn::Forward);
        assert_ne!(x[..36], y[..36]);
        assert_eq!(x[36..54], y[36..54]);
        rotate(&mut y, &cos, &sin, shape, Turn::Backward);
        assert_close(&y, &x, 1e-6);
    }
}
