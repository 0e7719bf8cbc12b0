//! Backward pass: gradients of a tile of queries, of a block of keys, or of a whole head of keys and all
//! heads of queries that share it.

use super::panel::{BLOCK, PANEL, Sight, TILE, pack, pack_transposed, padded};
use super::product::{Left, Multiplier, Right, Size};
use super::{Problem, Shape, Target};
use crate::buffer::uninit;
use crate::simd::exp;
use pulp::{Simd, WithSimd};
use std::ops::Range;

const PANELS: usize = TILE / PANEL;

/// All gradients of one head of keys and of its queries, head by head and tile by tile of these.
pub struct HeadGradients<'a> {
    pub problem: &'a Problem<'a>,
    pub kv_head: (usize, usize),
}

/// The gradients of some queries.
pub struct QueryGradients<'a> {
    pub problem: &'a Problem<'a>,
    pub head: (usize, usize),
    pub queries: Range<usize>,
}

/// The gradients of a block of keys and values.
pub struct KeyGradients<'a> {
    pub problem: &'a Problem<'a>,
    pub kv_head: (usize, usize),
    pub keys: Range<usize>,
}

impl WithSimd for HeadGradients<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut memory = uninit(scratch(self.problem.shape.head_dim));
        let shape = self.problem.shape;
        let multiplier = shape.multiplier(simd);
        let mut work = Work::new(self.problem, self.kv_head, &mut memory);
        for (head, queries) in queries_of(shape, self.kv_head.1) {
            work.load_queries(head, &queries, multiplier.early_scale());
            work.dq.fill(0.0);
            for keys in shape.blocks(self.kv_head.0, &queries) {
                work.load_keys(&keys);
                let seen = work.weights(&multiplier);
                work.add_dq(&multiplier, &seen);
                work.dk_dv(&multiplier, &seen, false);
                // SAFETY: the head is this task's alone.
                unsafe { work.put_dk_dv(&seen.rows, true) };
            }
            // SAFETY: as above.
            unsafe { work.put_dq() };
        }
    }
}

impl WithSimd for QueryGradients<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut memory = uninit(scratch(self.problem.shape.head_dim));
        let shape = self.problem.shape;
        let multiplier = shape.multiplier(simd);
        let (sequence, head) = self.head;
        let kv_head = (sequence, head / shape.group());
        let mut work = Work::new(self.problem, kv_head, &mut memory);
        work.load_queries(head, &self.queries, multiplier.early_scale());
        work.dq.fill(0.0);
        for keys in shape.blocks(sequence, &self.queries) {
            work.load_keys(&keys);
            let seen = work.weights(&multiplier);
            work.add_dq(&multiplier, &seen);
        }
        // SAFETY: these queries of this head are this task's alone.
        unsafe { work.put_dq() };
    }
}

impl WithSimd for KeyGradients<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut memory = uninit(scratch(self.problem.shape.head_dim));
        let shape = self.problem.shape;
        let multiplier = shape.multiplier(simd);
        let mut work = Work::new(self.problem, self.kv_head, &mut memory);
        work.load_keys(&self.keys);
        work.dk.fill(0.0);
        work.dv.fill(0.0);
        for (head, queries) in queries_of(shape, self.kv_head.1) {
            let seen = shape.seen(self.kv_head.0, &queries);
            if seen.contains(&self.keys.start) {
                work.load_queries(head, &queries, multiplier.early_scale());
                let seen = work.weights(&multiplier);
                work.dk_dv(&multiplier, &seen, true);
            }
        }
        // SAFETY: these keys of this head are this task's alone.
        unsafe { work.put_dk_dv(&(0..self.keys.len()), false) };
    }
}

/// The tiles of all query heads that share a head of keys, in the order of every sum over them.
#[inline(always)]
fn queries_of(shape: &Shape, kv_head: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let first = kv_head * shape.group();
    let heads = first..first + shape.group();
    heads.flat_map(|head| shape.tiles().map(move |queries| (head, queries)))
}

/// Elements of [`Work`]'s memory.
pub fn scratch(head_dim: usize) -> usize {
    let width = padded(head_dim);
    2 * TILE * head_dim + 3 * TILE * width + 4 * BLOCK * width + 2 * BLOCK * TILE
}

/// A tile of queries against a block of keys, all in the cache.
struct Work<'a> {
    problem: &'a Problem<'a>,
    /// Of the queries.
    head: (usize, usize),
    /// Of the keys and values.
    kv_head: (usize, usize),
    sights: [Sight; PANELS],
    queries: Range<usize>,
    keys: Range<usize>,
    /// Scaled, in transposed panels, as the gradient of the output is.
    q_t: &'a mut [f32],
    d_out_t: &'a mut [f32],
    q: &'a mut [f32],
    d_out: &'a mut [f32],
    k: &'a mut [f32],
    v: &'a mut [f32],
    dq: &'a mut [f32],
    dk: &'a mut [f32],
    dv: &'a mut [f32],
    /// Weights of the keys, `[BLOCK, TILE]`, and the gradient of the scores.
    p: &'a mut [f32],
    ds: &'a mut [f32],
}

/// What of the block is seen by the tile.
struct Seen {
    /// Keys that any panel sees.
    rows: Range<usize>,
    /// Panels that see any key.
    panels: Range<usize>,
    /// Keys that each panel sees, and whether all of its queries see them.
    each: [(Range<usize>, bool); PANELS],
}

impl Seen {
    #[inline(always)]
    fn new(sights: &[Sight; PANELS], keys: &Range<usize>) -> Self {
        let each: [_; PANELS] = std::array::from_fn(|panel| sights[panel].of(keys));
        let (mut rows, mut panels) = (0..0, 0..0);
        for (panel, (of_panel, _)) in each.iter().enumerate() {
            if of_panel.is_empty() {
                continue;
            }
            // A later panel sees no earlier keys.
            if panels.is_empty() {
                (rows, panels) = (of_panel.clone(), panel..panel);
            }
            (rows.end, panels.end) = (of_panel.end.max(rows.end), panel + 1);
        }
        Self { rows, panels, each }
    }
}

impl<'a> Work<'a> {
    #[inline(always)]
    fn new(problem: &'a Problem<'a>, kv_head: (usize, usize), memory: &'a mut [f32]) -> Self {
        let (dim, width) = (problem.shape.head_dim, padded(problem.shape.head_dim));
        let mut rest = memory;
        let mut part = |length: usize| -> &'a mut [f32] {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(length);
            rest = after;
            part
        };
        Self {
            problem,
            head: (kv_head.0, 0),
            kv_head,
            sights: Sight::of_tile(problem.shape, kv_head.0, &(0..0)),
            queries: 0..0,
            keys: 0..0,
            q_t: part(TILE * dim),
            d_out_t: part(TILE * dim),
            q: part(TILE * width),
            d_out: part(TILE * width),
            k: part(BLOCK * width),
            v: part(BLOCK * width),
            dq: part(TILE * width),
            dk: part(BLOCK * width),
            dv: part(BLOCK * width),
            p: part(BLOCK * TILE),
            ds: part(BLOCK * TILE),
        }
    }

    #[inline(always)]
    fn load_queries(&mut self, head: usize, queries: &Range<usize>, scale: f32) {
        let Problem {
            q, d_out, shape, ..
        } = self.problem;
        let head = (self.kv_head.0, head);
        let (dim, rows) = (shape.head_dim, || queries.clone());
        self.head = head;
        self.queries = queries.clone();
        self.sights = Sight::of_tile(shape, head.0, queries);
        // A product's sums go over the rows of all panels, the last of which may not be full.
        let whole = queries.len().next_multiple_of(PANEL) * padded(dim);
        let used = queries.len() * padded(dim);
        for (packed, x) in [(&mut self.q, q), (&mut self.d_out, d_out)] {
            pack(packed, x, head, rows(), dim);
            packed[used..whole].fill(0.0);
        }
        for (packed, x) in [(&mut self.q_t, q), (&mut self.d_out_t, d_out)] {
            pack_transposed(packed, x, head, rows(), dim, scale);
        }
    }

    #[inline(always)]
    fn load_keys(&mut self, keys: &Range<usize>) {
        let Problem { k, v, shape, .. } = self.problem;
        self.keys = keys.clone();
        pack(self.k, k, self.kv_head, keys.clone(), shape.head_dim);
        pack(self.v, v, self.kv_head, keys.clone(), shape.head_dim);
    }

    /// Weights of the keys that are seen, and the gradient of their scores.
    #[inline(always)]
    fn weights<S: Simd>(&mut self, multiplier: &Multiplier<S>) -> Seen {
        let seen = Seen::new(&self.sights, &self.keys);
        for panel in seen.panels.clone() {
            let (rows, clear) = seen.each[panel].clone();
            for row in (seen.rows.start..rows.start).chain(rows.end..seen.rows.end) {
                let at = row * TILE + panel * PANEL;
                self.p[at..at + PANEL].fill(0.0);
                self.ds[at..at + PANEL].fill(0.0);
            }
            self.scores(multiplier, panel, &rows);
            match clear {
                true => self.softmax(panel, &rows, |_, _, _| true),
                false => self.softmax(panel, &rows, Sight::sees),
            }
        }
        seen
    }

    /// Scores of a panel, and the gradients of its weights.
    #[inline(always)]
    fn scores<S: Simd>(&mut self, multiplier: &Multiplier<S>, panel: usize, rows: &Range<usize>) {
        let dim = self.problem.shape.head_dim;
        let width = padded(dim);
        let size = Size {
            rows: rows.len(),
            cols: PANEL,
            depth: dim,
        };
        let at = rows.start * TILE + panel * PANEL;
        for (out, keys, queries) in [
            (&mut self.p, &self.k, &self.q_t),
            (&mut self.ds, &self.v, &self.d_out_t),
        ] {
            let left = Left {
                data: &keys[rows.start * width..],
                row: width,
                depth: 1,
            };
            let right = Right {
                data: &queries[panel * PANEL * dim..],
                stride: PANEL,
            };
            multiplier.scores(&mut out[at..], TILE, left, right, size);
        }
    }

    #[inline(always)]
    fn softmax(
        &mut self,
        panel: usize,
        rows: &Range<usize>,
        sees: impl Fn(&Sight, usize, usize) -> bool,
    ) {
        let Problem {
            lse, delta, shape, ..
        } = self.problem;
        let first = self.queries.start + panel * PANEL;
        let count = PANEL.min(self.queries.end - first);
        let at = (self.head.0 * shape.heads + self.head.1) * shape.seq_q + first;
        let (mut lses, mut deltas) = ([0.0; PANEL], [0.0; PANEL]);
        lses[..count].copy_from_slice(&lse[at..at + count]);
        for (to, delta) in deltas.iter_mut().zip(&delta[at..at + count]) {
            *to = delta * shape.scale;
        }
        let sight = &self.sights[panel];
        for row in rows.clone() {
            let at = row * TILE + panel * PANEL;
            let (p, ds) = (&mut self.p[at..at + PANEL], &mut self.ds[at..at + PANEL]);
            for i in 0..PANEL {
                let seen = sees(sight, i, self.keys.start + row);
                let weight = exp(p[i] - lses[i]);
                let slope = weight * (ds[i] - deltas[i]);
                p[i] = if seen { weight } else { 0.0 };
                ds[i] = if seen { slope } else { 0.0 };
            }
        }
    }

    #[inline(always)]
    fn add_dq<S: Simd>(&mut self, multiplier: &Multiplier<S>, seen: &Seen) {
        let width = padded(self.problem.shape.head_dim);
        for panel in seen.panels.clone() {
            let (rows, _) = &seen.each[panel];
            let left = Left {
                data: &self.ds[rows.start * TILE + panel * PANEL..],
                row: 1,
                depth: TILE,
            };
            let right = Right {
                data: &self.k[rows.start * width..],
                stride: width,
            };
            let size = Size {
                rows: PANEL,
                cols: width,
                depth: rows.len(),
            };
            let out = &mut self.dq[panel * PANEL * width..];
            multiplier.product(out, width, left, right, size, true);
        }
    }

    /// Gradients of the keys and values that are seen.
    #[inline(always)]
    fn dk_dv<S: Simd>(&mut self, multiplier: &Multiplier<S>, seen: &Seen, add: bool) {
        let width = padded(self.problem.shape.head_dim);
        let size = Size {
            rows: seen.rows.len(),
            cols: width,
            depth: seen.panels.len() * PANEL,
        };
        let start = seen.rows.start;
        for (out, weights, queries) in [
            (&mut self.dk, &self.ds, &self.q),
            (&mut self.dv, &self.p, &self.d_out),
        ] {
            let left = Left {
                data: &weights[start * TILE + seen.panels.start * PANEL..],
                row: TILE,
                depth: 1,
            };
            let right = Right {
                data: &queries[seen.panels.start * PANEL * width..],
                stride: width,
            };
            let out = &mut out[start * width..];
            multiplier.product(out, width, left, right, size, add);
        }
    }

    /// # Safety
    /// The tile's queries of this head are the caller's alone.
    #[inline(always)]
    unsafe fn put_dq(&self) {
        let target = &self.problem.targets[0];
        // SAFETY: the caller's promise.
        unsafe { put(target, self.head, self.queries.clone(), self.dq, false) }
    }

    /// Into, or onto, these rows of the block.
    ///
    /// # Safety
    /// They are, of this head, the caller's alone.
    #[inline(always)]
    unsafe fn put_dk_dv(&self, rows: &Range<usize>, add: bool) {
        let first = rows.start * padded(self.problem.shape.head_dim);
        let rows = self.keys.start + rows.start..self.keys.start + rows.end;
        let [_, dk, dv] = self.problem.targets;
        // SAFETY: the caller's promise.
        unsafe {
            put(dk, self.kv_head, rows.clone(), &self.dk[first..], add);
            put(dv, self.kv_head, rows, &self.dv[first..], add);
        }
    }
}

/// Rows of a tile into (or onto) those of a gradient.
///
/// # Safety
/// The rows are this task's alone.
#[inline(always)]
unsafe fn put(
    target: &Target,
    head: (usize, usize),
    rows: Range<usize>,
    values: &[f32],
    add: bool,
) {
    let width = padded(target.head_dim);
    for (row, values) in rows.zip(values.chunks_exact(width)) {
        // SAFETY: the caller's promise.
        let out = unsafe { target.row(head, row) };
        for (out, value) in out.iter_mut().zip(values) {
            *out = if add { *out + value } else { *value };
        }
    }
}
