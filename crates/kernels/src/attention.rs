//! Exact attention in memory linear in the sequence length, forward and backward.
//!
//! FlashAttention's bookkeeping (Dao, "FlashAttention-2", 2023) on a CPU: the forward pass keeps
//! the output and one log-sum-exp a query; the backward pass recomputes the scores from them. A
//! thread has a tile of queries and a block of keys in its cache at a time, so that what it needs
//! beside inputs and results does not grow with the sequence: [`scratch_bytes`].

mod backward;
mod forward;
mod panel;
pub mod plain;
mod product;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use crate::buffer::{uninit, zeros};
use crate::matmul::bf16::Unit;
use crate::simd::{dispatch, sum};
use crate::team::Each;
use backward::{HeadGradients, KeyGradients, QueryGradients};
use forward::ForwardTile;
use panel::{BLOCK, TILE};
use product::Multiplier;
use rayon::prelude::*;
use std::ops::Range;

/// Shape of the problem.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    pub batch: usize,
    /// Query heads: a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of keys and values: query head h sees that of number `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    pub seq_q: usize,
    /// The queries are the last of as many positions.
    pub seq_kv: usize,
    pub head_dim: usize,
    /// Query i sees key j only if j <= i.
    pub causal: bool,
    /// Query i sees key j only if i - j < window; 0 for no limit.
    pub window: usize,
    /// Factor of the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Keys `[first, end)` of each query, `[batch, seq_q]`, in place of what causality says; a window
    /// still cuts them. Within a sequence neither bound falls from a query to the next.
    pub visible: Option<&'a [[u32; 2]]>,
    /// What multiplies in bf16, if that is wanted; softmax and sums are in f32.
    pub unit: Option<Unit>,
}

impl Shape<'_> {
    #[inline(always)]
    fn multiplier<S: pulp::Simd>(&self, simd: S) -> Multiplier<S> {
        Multiplier::new(simd, self.unit, self.scale)
    }

    /// Keys that query `i` of a sequence sees. Neither end falls from a query to the next.
    #[inline(always)]
    fn keys(&self, sequence: usize, i: usize) -> Range<usize> {
        // With fewer keys than queries the first ones come before every key.
        let next = (i + 1 + self.seq_kv).saturating_sub(self.seq_q);
        let [first, end] = match self.visible {
            Some(keys) => keys[sequence * self.seq_q + i].map(|key| key as usize),
            None if self.causal => [0, next],
            None => [0, self.seq_kv],
        };
        let start = match self.window {
            0 => first,
            window => first.max(next.saturating_sub(window)),
        };
        start.min(end)..end
    }

    /// Keys that any of these queries of a sequence sees, from the start of a block on.
    #[inline(always)]
    fn seen(&self, sequence: usize, queries: &Range<usize>) -> Range<usize> {
        let from = self.keys(sequence, queries.start).start;
        // Block boundaries are the same for all queries, as they are sums' order.
        from / BLOCK * BLOCK..self.keys(sequence, queries.end - 1).end
    }

    /// The same in blocks.
    #[inline(always)]
    fn blocks(
        &self,
        sequence: usize,
        queries: &Range<usize>,
    ) -> impl Iterator<Item = Range<usize>> + use<> {
        let Range { start, end } = self.seen(sequence, queries);
        (start..end)
            .step_by(BLOCK)
            .map(move |start| start..end.min(start + BLOCK))
    }

    fn tiles(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let seq = self.seq_q;
        (0..seq)
            .step_by(TILE)
            .map(move |start| start..seq.min(start + TILE))
    }

    fn rows(&self) -> usize {
        self.batch * self.heads * self.seq_q
    }

    /// Keys that queries see, times the numbers of a head: a product of attention is as many multiply-adds.
    pub fn pairs(&self) -> usize {
        let queries = (0..self.batch).flat_map(|b| (0..self.seq_q).map(move |i| (b, i)));
        let keys: usize = queries.map(|(b, i)| self.keys(b, i).len()).sum();
        keys * self.heads * self.head_dim
    }

    /// Query heads that share a head of keys and values.
    #[inline(always)]
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// # Panics
    /// If the numbers do not fit one another.
    fn check(&self) {
        assert!(self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads));
        if let Some(keys) = self.visible {
            assert_eq!(keys.len(), self.batch * self.seq_q);
            assert!(keys.iter().all(|keys| keys[1] as usize <= self.seq_kv));
            let falls = |pair: &[[u32; 2]]| pair[1][0] < pair[0][0] || pair[1][1] < pair[0][1];
            let mut sequences = keys.chunks(self.seq_q.max(1));
            assert!(!sequences.any(|keys| keys.windows(2).any(falls)));
        }
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
    /// `[batch, seq, heads, head_dim]`.
    pub fn whole(data: &'a [f32], heads: usize, seq: usize, head_dim: usize) -> Self {
        let width = heads * head_dim;
        Self {
            data,
            batch_stride: seq * width,
            head_stride: head_dim,
            row_stride: width,
        }
    }

    #[inline(always)]
    fn row(&self, (b, h): (usize, usize), i: usize, dim: usize) -> &'a [f32] {
        let start = b * self.batch_stride + h * self.head_stride + i * self.row_stride;
        &self.data[start..start + dim]
    }
}

/// Memory that a thread needs at a time beside inputs and results.
pub fn scratch_bytes(head_dim: usize) -> usize {
    4 * forward::scratch(head_dim).max(backward::scratch(head_dim))
}

/// Output, laid out `[batch, seq_q, heads, head_dim]`, and the log-sum-exp of the scaled scores,
/// `[batch, heads, seq_q]`. A query that sees no key gives zeros and -inf.
pub fn forward(q: Heads, k: Heads, v: Heads, shape: Shape) -> (Vec<f32>, Vec<f32>) {
    shape.check();
    let mut out = zeros(shape.rows() * shape.head_dim);
    let mut lse = uninit(shape.rows());
    lse.fill(f32::NEG_INFINITY);
    let target = Target::new(&mut out, shape.heads, &shape, shape.seq_q);
    let by_head = lse.chunks_mut(shape.seq_q.max(1)).enumerate();
    let tasks: Vec<_> = by_head
        .flat_map(|(head, lse)| {
            lse.chunks_mut(TILE)
                .zip(shape.tiles())
                .map(move |t| (head, t))
        })
        .collect();
    tasks.into_par_iter().each(|(head, (lse, queries))| {
        pulp::Arch::new().dispatch(ForwardTile {
            q: &q,
            k: &k,
            v: &v,
            shape: &shape,
            head: (head / shape.heads, head % shape.heads),
            queries,
            out: &target,
            lse,
        });
    });
    (out, lse)
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

/// Gradients of q, k and v, each laid out `[batch, seq, heads or kv_heads, head_dim]`.
///
/// `d_out` is laid out as the forward output.
pub fn backward(saved: Saved, d_out: &[f32], shape: Shape) -> [Vec<f32>; 3] {
    let (width, kv_width) = (
        shape.heads * shape.head_dim,
        shape.kv_heads * shape.head_dim,
    );
    let mut dq = zeros(shape.batch * shape.seq_q * width);
    let mut dk = zeros(shape.batch * shape.seq_kv * kv_width);
    let mut dv = zeros(shape.batch * shape.seq_kv * kv_width);
    let targets = [
        Target::new(&mut dq, shape.heads, &shape, shape.seq_q),
        Target::new(&mut dk, shape.kv_heads, &shape, shape.seq_kv),
        Target::new(&mut dv, shape.kv_heads, &shape, shape.seq_kv),
    ];
    backward_into(&saved, d_out, &shape, &targets);
    [dq, dk, dv]
}

/// As [`backward`] for `seq_q == seq_kv`, with the three gradients side by side as in a fused
/// projection: `[batch, seq, heads + 2 kv_heads, head_dim]`.
pub fn backward_fused(saved: Saved, d_out: &[f32], shape: Shape) -> Vec<f32> {
    assert_eq!(shape.seq_q, shape.seq_kv);
    let Shape {
        heads, kv_heads, ..
    } = shape;
    let all = heads + 2 * kv_heads;
    let mut d_qkv = zeros(shape.batch * shape.seq_q * all * shape.head_dim);
    let whole = Target::new(&mut d_qkv, all, &shape, shape.seq_q);
    let parts = [0..heads, heads..heads + kv_heads, heads + kv_heads..all];
    let targets = parts.map(|part| whole.part(part));
    backward_into(&saved, d_out, &shape, &targets);
    d_qkv
}

fn backward_into(saved: &Saved, d_out: &[f32], shape: &Shape, targets: &[Target; 3]) {
    shape.check();
    assert!(d_out.len() == saved.out.len() && d_out.len() == shape.rows() * shape.head_dim);
    assert!(saved.lse.len() == shape.rows());
    let delta = delta(saved.out, d_out, shape);
    let problem = Problem {
        q: saved.q,
        k: saved.k,
        v: saved.v,
        d_out: Heads::whole(d_out, shape.heads, shape.seq_q, shape.head_dim),
        lse: saved.lse,
        delta: &delta,
        shape,
        targets,
    };
    match one_task_a_head(shape.batch * shape.kv_heads, crate::team::threads()) {
        true => by_head(&problem),
        false => by_query_and_key(&problem),
    }
}

/// Whether threads are better used by a task a head of keys, which computes five products, than by
/// many small tasks, which compute seven.
fn one_task_a_head(heads: usize, threads: usize) -> bool {
    5 * heads.div_ceil(threads) * threads <= 7 * heads
}

fn by_head(problem: &Problem) {
    let heads = problem.each(problem.shape.kv_heads);
    heads.into_par_iter().each(|kv_head| {
        pulp::Arch::new().dispatch(HeadGradients { problem, kv_head });
    });
}

/// The same sums in the same order as [`by_head`], hence the same results to the bit.
fn by_query_and_key(problem: &Problem) {
    let shape = problem.shape;
    let tiles = problem.each(shape.heads).into_iter();
    let tiles: Vec<_> = tiles
        .flat_map(|head| shape.tiles().map(move |queries| (head, queries)))
        .collect();
    tiles.into_par_iter().each(|(head, queries)| {
        pulp::Arch::new().dispatch(QueryGradients {
            problem,
            head,
            queries,
        });
    });
    let blocks = problem.each(shape.kv_heads).into_iter();
    let blocks: Vec<_> = blocks
        .flat_map(|head| {
            let starts = (0..shape.seq_kv).step_by(BLOCK);
            starts.map(move |start| (head, start..shape.seq_kv.min(start + BLOCK)))
        })
        .collect();
    blocks.into_par_iter().each(|(kv_head, keys)| {
        pulp::Arch::new().dispatch(KeyGradients {
            problem,
            kv_head,
            keys,
        });
    });
}

/// Sum of `out * d_out` for each query, `[batch, heads, seq_q]`.
fn delta(out: &[f32], d_out: &[f32], shape: &Shape) -> Vec<f32> {
    let (heads, dim) = (shape.heads, shape.head_dim);
    let mut delta = uninit(shape.rows());
    let by_head = delta.par_chunks_mut(shape.seq_q.max(1)).enumerate();
    by_head.each(|(head, delta)| {
        dispatch(
            #[inline(always)]
            || {
                for (i, delta) in delta.iter_mut().enumerate() {
                    let row = (head / heads * shape.seq_q + i) * heads + head % heads;
                    let (out, d_out) = (&out[row * dim..][..dim], &d_out[row * dim..][..dim]);
                    *delta = sum(dim, |c| out[c] * d_out[c]);
                }
            },
        );
    });
    delta
}

/// All that the backward pass of a head needs.
struct Problem<'a> {
    q: Heads<'a>,
    k: Heads<'a>,
    v: Heads<'a>,
    d_out: Heads<'a>,
    lse: &'a [f32],
    delta: &'a [f32],
    shape: &'a Shape<'a>,
    /// Of q, k and v.
    targets: &'a [Target; 3],
}

impl Problem<'_> {
    /// Every (batch, head) of so many heads.
    fn each(&self, heads: usize) -> Vec<(usize, usize)> {
        let batch = 0..self.shape.batch;
        batch
            .flat_map(|b| (0..heads).map(move |h| (b, h)))
            .collect()
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
    batch: usize,
    heads: usize,
    head_dim: usize,
}

// SAFETY: the only access is `row`, whose callers promise to use disjoint heads or rows.
unsafe impl Sync for Target {}

impl Target {
    fn new(data: &mut [f32], heads: usize, shape: &Shape, seq: usize) -> Self {
        let row_stride = heads * shape.head_dim;
        assert!(data.len() == shape.batch * seq * row_stride);
        Self {
            data: data.as_mut_ptr(),
            row_stride,
            seq,
            batch: shape.batch,
            heads,
            head_dim: shape.head_dim,
        }
    }

    /// Some of the heads.
    ///
    /// Made from the one pointer, since borrowing the buffer again would invalidate it.
    fn part(&self, heads: Range<usize>) -> Self {
        assert!(heads.start <= heads.end && heads.end <= self.heads);
        Self {
            // `wrapping_add` because an empty buffer has no element there.
            data: self.data.wrapping_add(heads.start * self.head_dim),
            heads: heads.len(),
            ..*self
        }
    }

    /// Row `i` of a head.
    ///
    /// # Safety
    /// The buffer given to [`Target::new`] must be alive, and nobody else may use this row.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    unsafe fn row(&self, (b, h): (usize, usize), i: usize) -> &mut [f32] {
        assert!(b < self.batch && h < self.heads && i < self.seq);
        // SAFETY: `new` checked that the buffer holds batch * seq rows of all heads, and `part` leaves
        // none out that it counts.
        unsafe {
            let start = (b * self.seq + i) * self.row_stride + h * self.head_dim;
            std::slice::from_raw_parts_mut(self.data.add(start), self.head_dim)
        }
    }
}
