//! Queries in panels of 32, and what a panel sees.

use super::{Heads, Shape};
use crate::simd::LANES;
use std::ops::Range;

/// Queries of a panel: they lie side by side in registers, so that softmax needs no sum across one.
pub const PANEL: usize = LANES;
/// Queries of a tile: its panels share the keys that are brought into the cache.
pub const TILE: usize = 4 * PANEL;
/// Keys of a block.
pub const BLOCK: usize = 64;

/// One number a query of a panel.
pub type Each<T> = [T; PANEL];

/// Which keys the queries of a panel see: `from[i]..to[i]`.
pub struct Sight {
    from: Each<u32>,
    to: Each<u32>,
    /// Keys that any of them sees.
    any: Range<usize>,
    /// Keys that all of them see; none if the panel is not full.
    all: Range<usize>,
}

impl Sight {
    /// Of each panel of a tile of a sequence's queries; panels that the tile does not fill see nothing.
    #[inline(always)]
    pub fn of_tile(shape: &Shape, sequence: usize, queries: &Range<usize>) -> [Self; TILE / PANEL] {
        std::array::from_fn(|panel| {
            let start = queries.end.min(queries.start + panel * PANEL);
            Self::new(shape, sequence, start..queries.end.min(start + PANEL))
        })
    }

    #[inline(always)]
    fn new(shape: &Shape, sequence: usize, queries: Range<usize>) -> Self {
        let (mut from, mut to) = ([0; PANEL], [0; PANEL]);
        for (i, query) in queries.clone().enumerate() {
            let keys = shape.keys(sequence, query);
            (from[i], to[i]) = (keys.start as u32, keys.end as u32);
        }
        let last = queries.len().saturating_sub(1);
        let all = match queries.len() {
            PANEL => from[last] as usize..to[0] as usize,
            _ => 0..0,
        };
        Self {
            any: from[0] as usize..to[last] as usize,
            all,
            from,
            to,
        }
    }

    /// Those of `keys` that any query sees, counted from the first of `keys`, and whether all
    /// queries see them.
    #[inline(always)]
    pub fn of(&self, keys: &Range<usize>) -> (Range<usize>, bool) {
        let (from, to) = (self.any.start.max(keys.start), self.any.end.min(keys.end));
        if from >= to {
            return (0..0, true);
        }
        let clear = self.all.start <= from && to <= self.all.end;
        (from - keys.start..to - keys.start, clear)
    }

    /// Whether query i of the panel sees a key.
    #[inline(always)]
    pub fn sees(&self, i: usize, key: usize) -> bool {
        // Not short-circuited, so that it vectorises.
        (self.from[i] <= key as u32) & ((key as u32) < self.to[i])
    }
}

/// Columns of a packed row: whole registers.
pub fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(16)
}

/// Copy rows side by side, each padded with zeros: rows that are far apart in memory would evict
/// one another from the cache.
#[inline(always)]
pub fn pack(out: &mut [f32], x: &Heads, head: (usize, usize), rows: Range<usize>, dim: usize) {
    for (out, row) in out.chunks_exact_mut(padded(dim)).zip(rows) {
        let (values, padding) = out.split_at_mut(dim);
        values.copy_from_slice(x.row(head, row, dim));
        padding.fill(0.0);
    }
}

/// Panels of rows, scaled and transposed: `out[panel][column][row]`, with zeros for missing rows.
#[inline(always)]
pub fn pack_transposed(
    out: &mut [f32],
    x: &Heads,
    head: (usize, usize),
    rows: Range<usize>,
    dim: usize,
    scale: f32,
) {
    let panels = out.chunks_exact_mut(dim * PANEL);
    for (panel, start) in panels.zip(rows.clone().step_by(PANEL)) {
        let end = rows.end.min(start + PANEL);
        if end - start < PANEL {
            panel.fill(0.0);
        }
        for (i, row) in (start..end).enumerate() {
            let row = x.row(head, row, dim);
            for (out, value) in panel.chunks_exact_mut(PANEL).zip(row) {
                out[i] = value * scale;
            }
        }
    }
}
