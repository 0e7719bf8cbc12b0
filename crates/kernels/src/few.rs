//! Products of a few rows with a weight in whatever format, which is decoded as it is read, once.

use crate::lanes::{Lanes, Work, work};
use crate::team::{self, Each};
use rayon::prelude::*;

/// Rows that are multiplied this way at most.
pub const MOST: usize = 8;
/// Values of the weight that are worth a task.
const TASK: usize = 1 << 16;

/// A weight of `[outputs, inputs]`, and the rows that it is multiplied by.
pub(crate) trait Weight: Sync {
    /// Products of its row `j` with `ROWS` rows, from `first` on; each is the same whatever the number of rows. It is
    /// `#[inline(always)]`, as all [`Work`] is.
    fn products<L: Lanes, const ROWS: usize>(
        &self,
        lanes: L,
        j: usize,
        first: usize,
    ) -> [f32; ROWS];
}

/// `x wᵀ` of `n` rows, one after another.
///
/// # Panics
/// If there are more than [`MOST`] rows.
pub(crate) fn product(weight: &impl Weight, [outputs, inputs]: [usize; 2], n: usize) -> Vec<f32> {
    assert!(n <= MOST, "{n} rows at once");
    let mut columns = crate::buffer::uninit(outputs * n);
    let rows = (TASK / inputs.max(1)).max(1);
    let tasks = columns.par_chunks_mut((rows * n).max(1)).enumerate();
    let task = |(task, out): (usize, &mut [f32])| {
        for (j, out) in (task * rows..).zip(out.chunks_mut(n)) {
            row(weight, j, out);
        }
    };
    match outputs <= rows || team::threads() == 1 {
        true => tasks.for_each(task),
        false => tasks.each(task),
    }
    match n {
        1 => columns,
        _ => transposed(&columns, n),
    }
}

fn transposed(columns: &[f32], n: usize) -> Vec<f32> {
    let mut out = crate::buffer::uninit(columns.len());
    for (i, row) in out
        .chunks_mut((columns.len() / n.max(1)).max(1))
        .enumerate()
    {
        for (out, column) in row.iter_mut().zip(columns.chunks(n)) {
            *out = column[i];
        }
    }
    out
}

/// Products of a weight's row with all rows.
pub(crate) fn row(weight: &impl Weight, j: usize, out: &mut [f32]) {
    work(Row { weight, j, out });
}

struct Row<'a, W> {
    weight: &'a W,
    j: usize,
    out: &'a mut [f32],
}

impl<W: Weight> Work for Row<'_, W> {
    type Output = ();

    #[inline(always)]
    fn with<L: Lanes>(self, lanes: L) {
        let Self { weight, j, out } = self;
        let mut first = 0;
        let (fours, rest) = out.as_chunks_mut::<4>();
        for out in fours {
            *out = weight.products(lanes, j, first);
            first += 4;
        }
        let (twos, rest) = rest.as_chunks_mut::<2>();
        for out in twos {
            *out = weight.products(lanes, j, first);
            first += 2;
        }
        for out in rest {
            let [one] = weight.products(lanes, j, first);
            *out = one;
        }
    }
}

/// A part of something of which all is known to be there.
#[inline(always)]
pub(crate) fn part<T: Copy + Default, const N: usize>(of: &[T], at: usize) -> [T; N] {
    let mut part = [T::default(); N];
    part.copy_from_slice(&of[at..at + N]);
    part
}
