//! Forward pass of one tile of queries: online softmax over blocks of keys.

use super::panel::{BLOCK, Each, PANEL, Sight, TILE, pack, pack_transposed, padded};
use super::product::{Left, Right, Size};
use super::{Heads, Shape, Target};
use crate::buffer::uninit;
use crate::simd::exp;
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// The queries of one tile of one head.
pub struct ForwardTile<'a> {
    pub q: &'a Heads<'a>,
    pub k: &'a Heads<'a>,
    pub v: &'a Heads<'a>,
    pub shape: &'a Shape<'a>,
    pub head: (usize, usize),
    pub queries: Range<usize>,
    pub out: &'a Target,
    pub lse: &'a mut [f32],
}

/// Elements of a tile's scratch memory.
pub fn scratch(head_dim: usize) -> usize {
    let width = padded(head_dim);
    TILE * head_dim + 2 * BLOCK * width + TILE * width + BLOCK * PANEL
}

/// What the softmax of a panel's queries has seen so far.
#[derive(Clone, Copy)]
struct Running {
    top: Each<f32>,
    total: Each<f32>,
}

impl WithSimd for ForwardTile<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (dim, width) = (self.shape.head_dim, padded(self.shape.head_dim));
        let mut scratch = uninit(scratch(dim));
        let (q_t, rest) = scratch.split_at_mut(TILE * dim);
        let (k, rest) = rest.split_at_mut(BLOCK * width);
        let (v, rest) = rest.split_at_mut(BLOCK * width);
        let (out, scores) = rest.split_at_mut(TILE * width);
        let multiplier = self.shape.multiplier(simd);
        let (q_rows, scale) = (self.queries.clone(), multiplier.early_scale());
        pack_transposed(q_t, self.q, self.head, q_rows, dim, scale);
        out.fill(0.0);
        let (sequence, head) = self.head;
        let kv_head = (sequence, head / self.shape.group());
        let sights = Sight::of_tile(self.shape, sequence, &self.queries);
        let mut running = [Running::NOTHING; TILE / PANEL];
        for keys in self.shape.blocks(sequence, &self.queries) {
            pack(k, self.k, kv_head, keys.clone(), dim);
            pack(v, self.v, kv_head, keys.clone(), dim);
            let panels = sights.iter().zip(&mut running);
            let tiles = q_t
                .chunks_exact(dim * PANEL)
                .zip(out.chunks_exact_mut(PANEL * width));
            for ((sight, running), (q_t, out)) in panels.zip(tiles) {
                let (seen, clear) = sight.of(&keys);
                if seen.is_empty() {
                    continue;
                }
                let first = keys.start + seen.start;
                let (k, v) = (&k[seen.start * width..], &v[seen.start * width..]);
                let scores = &mut scores[..seen.len() * PANEL];
                let size = Size {
                    rows: seen.len(),
                    cols: PANEL,
                    depth: dim,
                };
                let k = Left {
                    data: k,
                    row: width,
                    depth: 1,
                };
                let q_t = Right {
                    data: q_t,
                    stride: PANEL,
                };
                multiplier.scores(scores, PANEL, k, q_t, size);
                let shrink = match clear {
                    true => running.add(scores, |_, _| true),
                    false => running.add(scores, |row, i| sight.sees(i, first + row)),
                };
                scale_rows(out, &shrink, width);
                let size = Size {
                    rows: PANEL,
                    cols: width,
                    depth: seen.len(),
                };
                let p = Left {
                    data: scores,
                    row: 1,
                    depth: PANEL,
                };
                let v = Right {
                    data: v,
                    stride: width,
                };
                multiplier.product(out, width, p, v, size, true);
            }
        }
        self.finish(out, &running);
    }
}

impl Running {
    const NOTHING: Self = Self {
        top: [f32::NEG_INFINITY; PANEL],
        total: [0.0; PANEL],
    };

    /// Scores `[key][query]` become weights relative to the largest score so far; what earlier
    /// weights and their sums have to be multiplied by.
    #[inline(always)]
    fn add(&mut self, scores: &mut [f32], sees: impl Fn(usize, usize) -> bool) -> Each<f32> {
        let mut top = self.top;
        for (row, scores) in scores.chunks_exact(PANEL).enumerate() {
            for i in 0..PANEL {
                let s = if sees(row, i) {
                    scores[i]
                } else {
                    f32::NEG_INFINITY
                };
                // A NaN stays.
                top[i] = if s > top[i] || s.is_nan() { s } else { top[i] };
            }
        }
        // A query that has seen nothing yet must not subtract infinities.
        let base: Each<f32> = std::array::from_fn(|i| {
            if top[i] == f32::NEG_INFINITY {
                0.0
            } else {
                top[i]
            }
        });
        let shrink: Each<f32> = std::array::from_fn(|i| exp(self.top[i] - base[i]));
        let mut total: Each<f32> = std::array::from_fn(|i| self.total[i] * shrink[i]);
        for (row, scores) in scores.chunks_exact_mut(PANEL).enumerate() {
            for i in 0..PANEL {
                let weight = exp(scores[i] - base[i]);
                scores[i] = if sees(row, i) { weight } else { 0.0 };
                total[i] += scores[i];
            }
        }
        (self.top, self.total) = (top, total);
        shrink
    }
}

#[inline(always)]
fn scale_rows(rows: &mut [f32], factors: &Each<f32>, width: usize) {
    if factors.iter().all(|&f| f == 1.0) {
        return;
    }
    for (row, factor) in rows.chunks_exact_mut(width).zip(factors) {
        for x in row {
            *x *= factor;
        }
    }
}

impl ForwardTile<'_> {
    #[inline(always)]
    fn finish(self, out: &[f32], running: &[Running]) {
        let width = padded(self.shape.head_dim);
        for (at, (query, row)) in self.queries.zip(out.chunks_exact(width)).enumerate() {
            let panel = &running[at / PANEL];
            let (top, total) = (panel.top[at % PANEL], panel.total[at % PANEL]);
            let factor = if total == 0.0 { 0.0 } else { 1.0 / total };
            self.lse[at] = top + total.ln();
            // SAFETY: this tile is this task's alone.
            let to = unsafe { self.out.row(self.head, query) };
            for (to, x) in to.iter_mut().zip(row) {
                *to = x * factor;
            }
        }
    }
}
