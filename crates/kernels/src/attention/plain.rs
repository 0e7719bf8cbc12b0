//! Attention through all scores at once, as frameworks compute it without a kernel of its own: three products and a softmax.
//! The memory grows with the square of the sequence. What the flash kernels are measured against.

use super::{Heads, Saved, Shape, delta};
use crate::buffer::{uninit, zeros};
use crate::matmul::{View, matmul};
use crate::simd::{dispatch, exp, max, sum};
use crate::team::Each;
use rayon::prelude::*;

/// As [`super::forward`].
pub fn forward(q: Heads, k: Heads, v: Heads, shape: Shape) -> (Vec<f32>, Vec<f32>) {
    shape.check();
    let mut out = zeros(shape.rows() * shape.head_dim);
    let mut lse = uninit(shape.rows());
    lse.fill(f32::NEG_INFINITY);
    let mut scores = all_scores(&shape);
    let (stride, dim) = (shape.heads * shape.head_dim, shape.head_dim);
    for (head, scores) in by_head(&mut scores, &shape) {
        let kv_head = (head.0, head.1 / shape.group());
        let lse = &mut lse[(head.0 * shape.heads + head.1) * shape.seq_q..][..shape.seq_q];
        let (q, k) = (
            q.matrix(head, shape.seq_q, dim),
            k.matrix(kv_head, shape.seq_kv, dim),
        );
        matmul(scores, shape.seq_kv, q, k.t(), shape.scale, false);
        softmax(scores, lse, head.0, &shape);
        let out = &mut out[head.0 * shape.seq_q * stride + head.1 * dim..];
        let (p, v) = (of(scores, &shape), v.matrix(kv_head, shape.seq_kv, dim));
        matmul(out, stride, p, v, 1.0, false);
    }
    (out, lse)
}

/// As [`super::backward`].
pub fn backward(saved: Saved, d_out: &[f32], shape: Shape) -> [Vec<f32>; 3] {
    shape.check();
    assert!(d_out.len() == saved.out.len() && d_out.len() == shape.rows() * shape.head_dim);
    let delta = delta(saved.out, d_out, &shape);
    let (stride, kv_stride) = (
        shape.heads * shape.head_dim,
        shape.kv_heads * shape.head_dim,
    );
    let (dim, seq_q, seq_kv) = (shape.head_dim, shape.seq_q, shape.seq_kv);
    let mut dq = zeros(shape.batch * seq_q * stride);
    let mut dk = zeros(shape.batch * seq_kv * kv_stride);
    let mut dv = zeros(shape.batch * seq_kv * kv_stride);
    let d_out = Heads::whole(d_out, shape.heads, seq_q, dim);
    let (mut scores, mut gradients) = (all_scores(&shape), all_scores(&shape));
    let pairs = by_head(&mut scores, &shape).zip(by_head(&mut gradients, &shape));
    for ((head, p), (_, ds)) in pairs {
        let kv_head = (head.0, head.1 / shape.group());
        let rows = (head.0 * shape.heads + head.1) * seq_q..;
        let (lse, delta) = (&saved.lse[rows.clone()][..seq_q], &delta[rows][..seq_q]);
        let [q, d_out] = [saved.q, d_out].map(|x| x.matrix(head, seq_q, dim));
        let [k, v] = [saved.k, saved.v].map(|x| x.matrix(kv_head, seq_kv, dim));
        matmul(p, seq_kv, q, k.t(), shape.scale, false);
        matmul(ds, seq_kv, d_out, v.t(), 1.0, false);
        softmax_backward(p, ds, lse, delta, head.0, &shape);
        let (p, ds) = (of(p, &shape), of(ds, &shape));
        let at = |seq, stride, h| head.0 * seq * stride + h * dim;
        let dq = &mut dq[at(seq_q, stride, head.1)..];
        matmul(dq, stride, ds, k, 1.0, false);
        let kv_at = at(seq_kv, kv_stride, kv_head.1);
        matmul(&mut dk[kv_at..], kv_stride, ds.t(), q, 1.0, true);
        matmul(&mut dv[kv_at..], kv_stride, p.t(), d_out, 1.0, true);
    }
    [dq, dk, dv]
}

fn all_scores(shape: &Shape) -> Vec<f32> {
    uninit(shape.rows() * shape.seq_kv)
}

/// Batch and head, and the scores of that.
fn by_head<'a>(
    scores: &'a mut [f32],
    shape: &Shape,
) -> impl Iterator<Item = ((usize, usize), &'a mut [f32])> + use<'a> {
    let heads = shape.heads;
    let each = scores
        .chunks_mut((shape.seq_q * shape.seq_kv).max(1))
        .enumerate();
    each.map(move |(i, scores)| ((i / heads, i % heads), scores))
}

fn of<'a>(scores: &'a [f32], shape: &Shape) -> View<'a> {
    View::whole(scores, shape.seq_q, shape.seq_kv)
}

impl<'a> Heads<'a> {
    /// All positions of a head.
    fn matrix(&self, (b, h): (usize, usize), seq: usize, dim: usize) -> View<'a> {
        let start = b * self.batch_stride + h * self.head_stride;
        View::new(&self.data[start..], seq, dim, self.row_stride)
    }
}

/// Scores become probabilities, which are zero where a query does not see a key.
fn softmax(scores: &mut [f32], lse: &mut [f32], sequence: usize, shape: &Shape) {
    let rows = scores.par_chunks_mut(shape.seq_kv).zip(lse).enumerate();
    rows.each(|(i, (row, lse))| {
        let keys = shape.keys(sequence, i);
        row[..keys.start].fill(0.0);
        row[keys.end..].fill(0.0);
        if keys.is_empty() {
            return;
        }
        let row = &mut row[keys];
        dispatch(
            #[inline(always)]
            || {
                let top = max(row);
                row.iter_mut().for_each(|score| *score = exp(*score - top));
                let total = sum(row.len(), |j| row[j]);
                *lse = total.ln() + top;
                row.iter_mut().for_each(|p| *p /= total);
            },
        );
    });
}

/// Scores become probabilities, and their gradients those of the scores before the softmax.
fn softmax_backward(
    scores: &mut [f32],
    gradients: &mut [f32],
    lse: &[f32],
    delta: &[f32],
    sequence: usize,
    shape: &Shape,
) {
    let rows = scores.par_chunks_mut(shape.seq_kv);
    let rows = rows.zip(gradients.par_chunks_mut(shape.seq_kv)).enumerate();
    rows.each(|(i, (row, gradient))| {
        let keys = shape.keys(sequence, i);
        for row in [&mut *row, &mut *gradient] {
            row[..keys.start].fill(0.0);
            row[keys.end..].fill(0.0);
        }
        let (row, gradient) = (&mut row[keys.clone()], &mut gradient[keys]);
        dispatch(
            #[inline(always)]
            || {
                for (score, gradient) in row.iter_mut().zip(gradient) {
                    *score = exp(*score - lse[i]);
                    *gradient = *score * (*gradient - delta[i]) * shape.scale;
                }
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, values};

    #[test]
    fn gives_what_the_flash_kernels_give() {
        let usual = Shape {
            batch: 2,
            heads: 4,
            kv_heads: 2,
            seq_q: 37,
            seq_kv: 37,
            head_dim: 8,
            causal: true,
            window: 0,
            scale: 0.4,
            visible: None,
            unit: None,
        };
        // The first query of each sequence sees nothing.
        let ranges: Vec<[u32; 2]> = (0..2 * 37).map(|i| [i % 37 / 20 * 20, i % 37]).collect();
        let shapes = [
            usual,
            Shape {
                causal: false,
                ..usual
            },
            Shape { window: 5, ..usual },
            Shape {
                seq_q: 9,
                window: 12,
                ..usual
            },
            Shape {
                visible: Some(&ranges),
                unit: None,
                ..usual
            },
        ];
        for shape in shapes {
            let heads = |n: usize, seq: usize, seed: u32| {
                let (width, data) = (
                    n * shape.head_dim,
                    values(2 * seq * n * shape.head_dim, seed),
                );
                (data, width, seq)
            };
            let parts = [
                heads(4, shape.seq_q, 1),
                heads(2, shape.seq_kv, 2),
                heads(2, shape.seq_kv, 3),
            ];
            let [q, k, v] = parts.each_ref().map(|(data, width, seq)| Heads {
                data,
                batch_stride: seq * width,
                head_stride: shape.head_dim,
                row_stride: *width,
            });
            let d_out = values(shape.rows() * shape.head_dim, 4);
            let (out, lse) = forward(q, k, v, shape);
            let (want, want_lse) = super::super::forward(q, k, v, shape);
            assert_close(&out, &want, 1e-5);
            for (lse, want) in lse.iter().zip(&want_lse) {
                assert!(lse == want || (lse - want).abs() < 1e-5, "{lse} {want}");
            }
            let saved = Saved {
                q,
                k,
                v,
                out: &want,
                lse: &want_lse,
            };
            let gradients = backward(saved, &d_out, shape);
            let want = super::super::backward(saved, &d_out, shape);
            for (gradient, want) in gradients.iter().zip(&want) {
                assert_close(gradient, want, 1e-4);
            }
        }
    }
}
