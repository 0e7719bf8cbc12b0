//! Exact attention in memory linear in the sequence length, forward and backward.
//!
//! FlashAttention's bookkeeping (Dao, "FlashAttention-2", 2023) on a CPU: the forward pass keeps
//! the output and one log-sum-exp a query; the backward pass recomputes the scores of a tile of
//! queries from them. A tile holds 64 queries against the keys it can see, at most `64 * seq_kv`
//! scores a thread.

use crate::buffer::{uninit, zeros};
use crate::matmul::{Threads, View, matmul, matmul_raw};
use crate::simd::{dispatch, exp, max, sum};
use rayon::prelude::*;

/// Queries of a tile: a multiple of the widest register, and few enough that a tile's scores
/// against 1024 keys stay in the second-level cache.
const TILE: usize = 64;

/// Shape of the problem.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub batch: usize,
    pub heads: usize,
    pub seq_q: usize,
    /// At least `seq_q`: the queries are the last positions.
    pub seq_kv: usize,
    pub head_dim: usize,
    /// Query i sees key j only if j <= i.
    pub causal: bool,
    /// Query i sees key j only if i - j < window; 0 for no limit.
    pub window: usize,
    /// Factor of the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
}

impl Shape {
    /// Keys that query `i` sees.
    fn keys(&self, i: usize) -> std::ops::Range<usize> {
        let position = i + self.seq_kv - self.seq_q;
        let end = if self.causal {
            position + 1
        } else {
            self.seq_kv
        };
        let start = match self.window {
            0 => 0,
            window => (position + 1).saturating_sub(window),
        };
        start.min(end)..end
    }

    fn rows(&self) -> usize {
        self.batch * self.heads * self.seq_q
    }
}

/// One of q, k, v, or a gradient: element (batch b, head h, position i, c) is
/// `data[b * batch_stride + h * head_stride + i * row_stride + c]`.
#[derive(Clone, Copy)]
pub struct Heads<'a> {
    pub data: &'a [f32],
    pub batch_stride: usize,
    pub head_stride: usize,
    pub row_stride: usize,
}

impl<'a> Heads<'a> {
    /// Rows `rows` of head `h` of batch `b`.
    fn rows(&self, b: usize, h: usize, rows: std::ops::Range<usize>, dim: usize) -> View<'a> {
        let start = b * self.batch_stride + h * self.head_stride + rows.start * self.row_stride;
        View::new(&self.data[start..], rows.len(), dim, self.row_stride)
    }
}

/// Output, laid out `[batch, seq_q, heads, head_dim]`, and the log-sum-exp of the scaled scores,
/// `[batch, heads, seq_q]`. A query that sees no key gives zeros and -inf.
pub fn forward(q: Heads, k: Heads, v: Heads, shape: Shape) -> (Vec<f32>, Vec<f32>) {
    let Shape {
        heads,
        seq_q,
        head_dim,
        ..
    } = shape;
    let mut out = zeros(shape.rows() * head_dim);
    let mut lse = uninit(shape.rows());
    lse.fill(f32::NEG_INFINITY);
    let target = Target::new(&mut out, heads * head_dim, &shape, seq_q);
    let tiles = seq_q.div_ceil(TILE);
    let lse_rows: Vec<&mut [f32]> = lse
        .chunks_mut(seq_q.max(1))
        .flat_map(|head| head.chunks_mut(TILE))
        .collect();
    lse_rows
        .into_par_iter()
        .enumerate()
        .for_each(|(task, lse)| {
            let (head, tile) = (task / tiles, task % tiles);
            let (b, h) = (head / heads, head % heads);
            let queries = tile * TILE..seq_q.min((tile + 1) * TILE);
            let keys = shape.keys(queries.start).start..shape.keys(queries.end - 1).end;
            if keys.is_empty() {
                return;
            }
            let mut scores = uninit(queries.len() * keys.len());
            let q = q.rows(b, h, queries.clone(), head_dim);
            let k = k.rows(b, h, keys.clone(), head_dim);
            matmul(
                &mut scores,
                keys.len(),
                q,
                k.t(),
                shape.scale,
                false,
                Threads::One,
            );
            dispatch(
                #[inline(always)]
                || softmax(&mut scores, lse, &shape, queries.start, &keys),
            );
            let p = View::new(&scores, queries.len(), keys.len(), keys.len());
            let v = v.rows(b, h, keys, head_dim);
            // SAFETY: this (head, tile) is this task's alone.
            unsafe { target.matmul(b, h, queries, p, v, false) };
        });
    (out, lse)
}

/// Scores to probabilities, row by row; what a row does not see becomes 0.
#[inline(always)]
fn softmax(
    scores: &mut [f32],
    lse: &mut [f32],
    shape: &Shape,
    first_query: usize,
    keys: &std::ops::Range<usize>,
) {
    for (i, (row, lse)) in scores.chunks_exact_mut(keys.len()).zip(lse).enumerate() {
        let seen = shape.keys(first_query + i);
        let seen = seen.start - keys.start..seen.end - keys.start;
        row[..seen.start].fill(0.0);
        row[seen.end..].fill(0.0);
        let row = &mut row[seen];
        if row.is_empty() {
            continue;
        }
        let top = max(row);
        for s in row.iter_mut() {
            *s = exp(*s - top);
        }
        let total = sum(row.len(), |i| row[i]);
        let factor = 1.0 / total;
        for s in row.iter_mut() {
            *s *= factor;
        }
        *lse = top + total.ln();
    }
}

/// What the forward pass got and gave.
#[derive(Clone, Copy)]
pub struct Saved<'a> {
    pub q: Heads<'a>,
    pub k: Heads<'a>,
    pub v: Heads<'a>,
    /// `[batch, seq_q, heads, head_dim]`
    pub out: &'a [f32],
    /// `[batch, heads, seq_q]`
    pub lse: &'a [f32],
}

/// Gradients of q, k and v, each laid out `[batch, seq, heads, head_dim]`.
///
/// `d_out` is laid out as the forward output.
pub fn backward(saved: Saved, d_out: &[f32], shape: Shape) -> [Vec<f32>; 3] {
    let width = shape.heads * shape.head_dim;
    let mut dq = zeros(shape.batch * shape.seq_q * width);
    let mut dk = zeros(shape.batch * shape.seq_kv * width);
    let mut dv = zeros(shape.batch * shape.seq_kv * width);
    let targets = [
        Target::new(&mut dq, width, &shape, shape.seq_q),
        Target::new(&mut dk, width, &shape, shape.seq_kv),
        Target::new(&mut dv, width, &shape, shape.seq_kv),
    ];
    backward_into(&saved, d_out, &shape, &targets);
    [dq, dk, dv]
}

/// As [`backward`] for `seq_q == seq_kv`, with the three gradients side by side as in a fused
/// projection: `[batch, seq, 3, heads, head_dim]`.
pub fn backward_fused(saved: Saved, d_out: &[f32], shape: Shape) -> Vec<f32> {
    assert_eq!(shape.seq_q, shape.seq_kv);
    let width = shape.heads * shape.head_dim;
    let mut d_qkv = zeros(shape.batch * shape.seq_q * 3 * width);
    let whole = Target::new(&mut d_qkv, 3 * width, &shape, shape.seq_q);
    let targets = [0, 1, 2].map(|part| whole.columns_from(part * width));
    backward_into(&saved, d_out, &shape, &targets);
    d_qkv
}

fn backward_into(saved: &Saved, d_out: &[f32], shape: &Shape, targets: &[Target; 3]) {
    let (heads, seq_q) = (shape.heads, shape.seq_q);
    assert!(d_out.len() == saved.out.len() && d_out.len() == shape.rows() * shape.head_dim);
    (0..shape.batch * heads).into_par_iter().for_each(|head| {
        // One head is one task: its tiles add to the same rows of dk and dv, in order.
        for start in (0..seq_q).step_by(TILE) {
            let queries = start..seq_q.min(start + TILE);
            let head = (head / heads, head % heads);
            backward_tile(saved, d_out, shape, head, queries, targets);
        }
    });
}

fn backward_tile(
    saved: &Saved,
    d_out: &[f32],
    shape: &Shape,
    (b, h): (usize, usize),
    queries: std::ops::Range<usize>,
    [dq, dk, dv]: &[Target; 3],
) {
    let Shape {
        heads,
        seq_q,
        head_dim,
        ..
    } = *shape;
    let width = heads * head_dim;
    let keys = shape.keys(queries.start).start..shape.keys(queries.end - 1).end;
    if keys.is_empty() {
        return;
    }
    let (rows, cols) = (queries.len(), keys.len());
    let q = saved.q.rows(b, h, queries.clone(), head_dim);
    let k = saved.k.rows(b, h, keys.clone(), head_dim);
    let v = saved.v.rows(b, h, keys.clone(), head_dim);
    let at = ((b * seq_q + queries.start) * heads + h) * head_dim;
    let d_o = View::new(&d_out[at..], rows, head_dim, width);

    let mut p = uninit(rows * cols);
    matmul(&mut p, cols, q, k.t(), shape.scale, false, Threads::One);
    let mut ds = uninit(rows * cols);
    matmul(&mut ds, cols, d_o, v.t(), 1.0, false, Threads::One);
    let lse = &saved.lse[(b * heads + h) * seq_q + queries.start..][..rows];
    dispatch(
        #[inline(always)]
        || {
            for i in 0..rows {
                let (out, d_out) = (&saved.out[at + i * width..], &d_out[at + i * width..]);
                let delta = sum(head_dim, |c| out[c] * d_out[c]);
                let seen = shape.keys(queries.start + i);
                let seen = seen.start - keys.start..seen.end - keys.start;
                let (p, ds) = (&mut p[i * cols..][..cols], &mut ds[i * cols..][..cols]);
                for row in [&mut *p, &mut *ds] {
                    row[..seen.start].fill(0.0);
                    row[seen.end..].fill(0.0);
                }
                for (p, ds) in p[seen.clone()].iter_mut().zip(&mut ds[seen]) {
                    *p = exp(*p - lse[i]);
                    *ds = *p * (*ds - delta) * shape.scale;
                }
            }
        },
    );
    let (p, ds) = (
        View::new(&p, rows, cols, cols),
        View::new(&ds, rows, cols, cols),
    );
    // SAFETY: head (b, h) of all three is this task's alone.
    unsafe {
        dq.matmul(b, h, queries, ds, k, false);
        dk.matmul(b, h, keys.clone(), ds.t(), q, true);
        dv.matmul(b, h, keys, p.t(), d_o, true);
    }
}

/// Where the rows of one gradient (or of the output) go: element (batch b, position i, head h, c)
/// is `data[(b * seq + i) * row_stride + h * head_dim + c]`.
///
/// A pointer, since heads that different tasks own alternate within a row.
struct Target {
    data: *mut f32,
    row_stride: usize,
    seq: usize,
    head_dim: usize,
}

// SAFETY: the only access is `matmul`, whose callers promise to write disjoint heads or rows.
unsafe impl Sync for Target {}

impl Target {
    fn new(data: &mut [f32], row_stride: usize, shape: &Shape, seq: usize) -> Self {
        assert!(data.len() == shape.batch * seq * row_stride);
        assert!(shape.heads * shape.head_dim <= row_stride);
        Self {
            data: data.as_mut_ptr(),
            row_stride,
            seq,
            head_dim: shape.head_dim,
        }
    }

    /// The same rows, seen from column `offset` on; the heads must still fit.
    ///
    /// Made from the one pointer, since borrowing the buffer again would invalidate it.
    fn columns_from(&self, offset: usize) -> Self {
        Self {
            // `wrapping_add` because an empty buffer has no element at `offset`.
            data: self.data.wrapping_add(offset),
            ..*self
        }
    }

    /// `rows` of head `h` of batch `b` become (or grow by) `x y`.
    ///
    /// # Safety
    /// The buffer given to [`Target::new`] must be alive, `b`, `h` and `rows` inside its shape,
    /// and no other thread may write these rows of this head.
    unsafe fn matmul(
        &self,
        b: usize,
        h: usize,
        rows: std::ops::Range<usize>,
        x: View,
        y: View,
        accumulate: bool,
    ) {
        debug_assert!(rows.end <= self.seq);
        // SAFETY: `new` checked that the buffer holds batch * seq rows of all heads.
        unsafe {
            let start = (b * self.seq + rows.start) * self.row_stride + h * self.head_dim;
            let out = self.data.add(start);
            matmul_raw(out, self.row_stride, x, y, 1.0, accumulate, Threads::One);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, values};

    fn heads(data: &[f32], shape: &Shape) -> impl Fn() -> Heads<'static> {
        let data: &'static [f32] = Box::leak(data.to_vec().into_boxed_slice());
        let (heads, dim) = (shape.heads, shape.head_dim);
        let seq = data.len() / (shape.batch * heads * dim);
        move || Heads {
            data,
            batch_stride: seq * heads * dim,
            head_stride: dim,
            row_stride: heads * dim,
        }
    }

    /// Loss `sum(d_out * attention)` in f64 by plain loops.
    fn objective(q: &[f32], k: &[f32], v: &[f32], d: &[f32], s: &Shape) -> f64 {
        let (w, dim) = (s.heads * s.head_dim, s.head_dim);
        let mut total = 0.0;
        for (b, h, i) in (0..s.batch)
            .flat_map(|b| (0..s.heads).flat_map(move |h| (0..s.seq_q).map(move |i| (b, h, i))))
        {
            let at = |seq: usize, i: usize| (b * seq + i) * w + h * dim;
            let keys: Vec<usize> = s.keys(i).collect();
            let scores: Vec<f64> = keys
                .iter()
                .map(|&j| {
                    let dot =
                        |c| f64::from(q[at(s.seq_q, i) + c]) * f64::from(k[at(s.seq_kv, j) + c]);
                    (0..dim).map(dot).sum::<f64>() * f64::from(s.scale)
                })
                .collect();
            let sum: f64 = scores.iter().map(|s| s.exp()).sum();
            for (score, &j) in scores.iter().zip(&keys) {
                for c in 0..dim {
                    let weight = score.exp() / sum * f64::from(d[at(s.seq_q, i) + c]);
                    total += weight * f64::from(v[at(s.seq_kv, j) + c]);
                }
            }
        }
        total
    }

    fn check(shape: Shape) {
        let width = shape.heads * shape.head_dim;
        let (nq, nk) = (
            shape.batch * shape.seq_q * width,
            shape.batch * shape.seq_kv * width,
        );
        let (q, k, v, d) = (values(nq, 1), values(nk, 2), values(nk, 3), values(nq, 4));
        let (vq, vk, vv) = (
            heads(&q, &shape)(),
            heads(&k, &shape)(),
            heads(&v, &shape)(),
        );
        let (out, lse) = forward(vq, vk, vv, shape);
        let got: f64 = out.iter().zip(&d).map(|(o, d)| f64::from(o * d)).sum();
        let want = objective(&q, &k, &v, &d, &shape);
        assert!(
            (got - want).abs() < 1e-4 * want.abs().max(1.0),
            "{got} {want} {shape:?}"
        );

        let saved = Saved {
            q: vq,
            k: vk,
            v: vv,
            out: &out,
            lse: &lse,
        };
        let grads = backward(saved, &d, shape);
        if shape.seq_q == shape.seq_kv {
            let fused = backward_fused(saved, &d, shape);
            for (part, grad) in grads.iter().enumerate() {
                let rows = fused.chunks(3 * width).map(|r| &r[part * width..][..width]);
                assert!(rows.zip(grad.chunks(width)).all(|(a, b)| a == b));
            }
        }
        for (which, grad) in grads.iter().enumerate() {
            let inputs = [&q, &k, &v];
            let picks: Vec<usize> = (0..grad.len()).step_by(grad.len() / 7 + 1).collect();
            let numeric: Vec<f32> = picks
                .iter()
                .map(|&i| {
                    let moved = |by: f32| {
                        let mut x = inputs.map(|x| x.to_vec());
                        x[which][i] += by;
                        objective(&x[0], &x[1], &x[2], &d, &shape)
                    };
                    ((moved(1e-2) - moved(-1e-2)) / 2e-2) as f32
                })
                .collect();
            let analytic: Vec<f32> = picks.iter().map(|&i| grad[i]).collect();
            for (a, n) in analytic.iter().zip(&numeric) {
                assert!((a - n).abs() < 2e-3, "gradient {which}: {a} {n} {shape:?}");
            }
        }
        assert_eq!(forward(vq, vk, vv, shape).0, out, "not repeatable");
    }

    #[test]
    fn matches_plain_loops_and_finite_differences() {
        for (seq_q, seq_kv, window, causal) in [
            (1, 1, 0, true),
            (70, 70, 0, true),
            (70, 70, 1, true),
            (70, 70, 20, true),
            (70, 70, 500, true),
            (9, 75, 0, true),
            (66, 75, 12, true),
            (67, 67, 0, false),
        ] {
            check(Shape {
                batch: 2,
                heads: 2,
                seq_q,
                seq_kv,
                head_dim: 8,
                causal,
                window,
                scale: 0.35,
            });
        }
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let shape = Shape {
            batch: 1,
            heads: 1,
            seq_q: 3,
            seq_kv: 3,
            head_dim: 1,
            causal: true,
            window: 0,
            scale: 1.0,
        };
        let q = heads(&[1e4, 1e4, -1e4], &shape)();
        let v = heads(&[1.0, 2.0, 3.0], &shape)();
        let (out, lse) = forward(q, heads(&[1.0, -1.0, 1.0], &shape)(), v, shape);
        assert_close(&out, &[1.0, 1.0, 2.0], 1e-6);
        assert_close(&lse, &[1e4, 1e4, 1e4], 1e-6);
    }
}
