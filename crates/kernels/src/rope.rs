//! Rotary position embedding (rotate-half) on the query and key columns of a fused qkv matrix.

use crate::simd::dispatch;
use crate::team::Each;
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
    /// Heads of queries, and of keys and of values.
    pub heads: usize,
    pub kv_heads: usize,
    /// Elements of a head, and how many of them turn, the first ones; even.
    pub head_dim: usize,
    pub rotated: usize,
}

/// Rotate, in place, queries and keys in each row of `qkv` (`[T, (heads + 2 * kv_heads) * head_dim]`).
///
/// `cos` and `sin` are `[positions, rotated / 2]`, times a factor if there is one: the backward turn is
/// the transpose of the forward one, its inverse only without a factor.
pub fn rotate(qkv: &mut [f32], cos: &[f32], sin: &[f32], shape: Shape, turn: Turn) {
    let Shape {
        seq,
        offset,
        heads,
        kv_heads,
        head_dim,
        rotated,
    } = shape;
    let half = rotated / 2;
    let (turning, width) = (
        (heads + kv_heads) * head_dim,
        (heads + 2 * kv_heads) * head_dim,
    );
    assert!(rotated <= head_dim && rotated == 2 * half);
    assert!(cos.len() >= (offset + seq) * half && sin.len() == cos.len());
    let rows = crate::rows_per_task(width);
    qkv.par_chunks_mut(rows * width)
        .enumerate()
        .each(|(task, part)| {
            dispatch(
                #[inline(always)]
                || {
                    for (i, row) in part.chunks_exact_mut(width).enumerate() {
                        let at = ((task * rows + i) % seq + offset) * half;
                        let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
                        for head in row[..turning].chunks_exact_mut(head_dim) {
                            rotate_head(&mut head[..rotated], cos, sin, turn);
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

    fn tables(seq: usize, half: usize, factor: f32) -> [Vec<f32>; 2] {
        let angles = values(seq * half, 2);
        [f32::cos, f32::sin].map(|f| angles.iter().map(|&a| f(a) * factor).collect())
    }

    #[test]
    fn turning_back_restores_the_input_and_values_are_left_alone() {
        let shape = Shape {
            seq: 5,
            offset: 2,
            heads: 3,
            kv_heads: 3,
            head_dim: 6,
            rotated: 6,
        };
        let x = values(2 * 5 * 54, 1);
        let [cos, sin] = tables(7, 3, 1.0);
        let mut y = x.clone();
        rotate(&mut y, &cos, &sin, shape, Turn::Forward);
        assert_ne!(x[..36], y[..36]);
        assert_eq!(x[36..54], y[36..54]);
        rotate(&mut y, &cos, &sin, shape, Turn::Backward);
        assert_close(&y, &x, 1e-6);
    }

    #[test]
    fn what_does_not_turn_passes_and_pairs_are_within_what_turns() {
        let shape = Shape {
            seq: 3,
            offset: 0,
            heads: 4,
            kv_heads: 2,
            head_dim: 10,
            rotated: 6,
        };
        let width = 80;
        let x = values(3 * width, 1);
        let [cos, sin] = tables(3, 3, 1.5);
        let mut y = x.clone();
        rotate(&mut y, &cos, &sin, shape, Turn::Forward);
        for (e, (&x_e, &y_e)) in x.iter().zip(&y).enumerate() {
            let (row, column) = (e / width, e % width);
            let (head, c) = (column / 10, column % 10);
            let angle = |i: usize| (cos[row * 3 + i], sin[row * 3 + i]);
            let want = match (head < 6, c) {
                (true, 0..3) => x_e * angle(c).0 - x[e + 3] * angle(c).1,
                (true, 3..6) => x_e * angle(c - 3).0 + x[e - 3] * angle(c - 3).1,
                _ => x_e,
            };
            assert!((y_e - want).abs() < 1e-6, "element {e}: {y_e} {want}");
        }
    }

    /// `sum(d * turn(x))` and `sum(turn_back(d) * x)` are the same.
    #[test]
    fn the_turn_back_is_the_transpose_with_a_factor_too() {
        let shape = Shape {
            seq: 4,
            offset: 0,
            heads: 2,
            kv_heads: 1,
            head_dim: 8,
            rotated: 4,
        };
        let (x, d) = (values(4 * 32, 1), values(4 * 32, 3));
        let [cos, sin] = tables(4, 2, 1.3);
        let turned = |x: &[f32], turn| {
            let mut x = x.to_vec();
            rotate(&mut x, &cos, &sin, shape, turn);
            x
        };
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            let terms = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
            terms.sum()
        };
        let forward = dot(&d, &turned(&x, Turn::Forward));
        let backward = dot(&turned(&d, Turn::Backward), &x);
        assert!((forward - backward).abs() < 1e-5, "{forward} {backward}");
    }
}
