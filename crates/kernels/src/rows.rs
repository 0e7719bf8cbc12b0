//! Rows of a table: look-up, its gradient, and sums of squares.

use crate::buffer::{Plain, uninit};
use crate::simd::{dispatch, sum};
use crate::team::Each;
use rayon::prelude::*;

/// `table[id] += scale * rows[i]` for each id: the gradient of an embedding look-up.
///
/// Each row of the table is one task's, which adds to it in the order of `ids`.
///
/// # Panics
/// If an id is not a row of the table.
pub fn scatter_add(table: &mut [f32], ids: &[i32], rows: &[f32], width: usize, scale: f32) {
    assert_eq!(ids.len() * width, rows.len());
    // Sorting by row makes each table row one task's; a stable sort keeps the order within it.
    let mut order: Vec<u32> = (0..ids.len() as u32).collect();
    order.sort_by_key(|&i| ids[i as usize]);
    let mut rest = table;
    let mut first_row = 0;
    let mut tasks: Vec<(&mut [f32], &[u32])> = Vec::new();
    for group in order.chunk_by(|&a, &b| ids[a as usize] == ids[b as usize]) {
        let row = ids[group[0] as usize] as usize;
        let (_, tail) = rest.split_at_mut((row - first_row) * width);
        let (target, tail) = tail.split_at_mut(width);
        tasks.push((target, group));
        rest = tail;
        first_row = row + 1;
    }
    tasks.par_iter_mut().each(|(target, group)| {
        dispatch(
            #[inline(always)]
            || {
                for &i in group.iter() {
                    let row = &rows[i as usize * width..][..width];
                    for (t, r) in target.iter_mut().zip(row) {
                        *t += scale * r;
                    }
                }
            },
        );
    });
}

/// `sum[i] += own[i]`.
///
/// # Panics
/// If the lengths differ.
pub fn add(sum: &mut [f32], own: &[f32]) {
    assert_eq!(sum.len(), own.len());
    let parts = sum.par_chunks_mut(crate::GRAIN);
    parts.zip(own.par_chunks(crate::GRAIN)).each(|(sum, own)| {
        dispatch(
            #[inline(always)]
            || sum.iter_mut().zip(own).for_each(|(sum, own)| *sum += own),
        );
    });
}

/// `a[i] + b[i]`.
///
/// # Panics
/// If the lengths differ.
pub fn sum_of(a: &[f32], b: &[f32]) -> Vec<f32> {
    assert_eq!(a.len(), b.len());
    let mut out = uninit(a.len());
    let sources = a.par_chunks(crate::GRAIN).zip(b.par_chunks(crate::GRAIN));
    out.par_chunks_mut(crate::GRAIN)
        .zip(sources)
        .each(|(out, (a, b))| {
            dispatch(
                #[inline(always)]
                || {
                    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                        *out = a + b;
                    }
                },
            );
        });
    out
}

/// Matrices of `rows` rows side by side: each is its numbers and how wide it is.
///
/// # Panics
/// If one has another number of rows.
pub fn side_by_side<T: Plain + Send + Sync>(parts: &[(&[T], usize)], rows: usize) -> Vec<T> {
    assert!(parts.iter().all(|(part, width)| part.len() == rows * width));
    let width: usize = parts.iter().map(|part| part.1).sum();
    let mut out = uninit(rows * width);
    let task = crate::rows_per_task(width);
    let tasks = out.par_chunks_mut((task * width).max(1)).enumerate();
    tasks.each(|(i, out)| {
        for (row, mut out) in (i * task..).zip(out.chunks_mut(width)) {
            for &(part, width) in parts {
                let own;
                (own, out) = out.split_at_mut(width);
                own.copy_from_slice(&part[row * width..][..width]);
            }
        }
    });
    out
}

/// Sum of squares, added up in f64 over fixed pieces.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    let mut parts = vec![0.0; x.len().div_ceil(crate::GRAIN)];
    let each = parts.par_iter_mut().zip(x.par_chunks(crate::GRAIN));
    each.each(|(part, x)| {
        *part = f64::from(dispatch(
            #[inline(always)]
            || sum(x.len(), |i| x[i] * x[i]),
        ));
    });
    parts.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, values};

    #[test]
    fn scatter_adds_repeated_ids() {
        let ids = [4, 0, 4, 2, 4, 0];
        let rows = values(6 * 3, 1);
        let mut table = values(5 * 3, 2);
        let mut want = table.clone();
        for (i, &id) in ids.iter().enumerate() {
            for c in 0..3 {
                want[id as usize * 3 + c] += 2.0 * rows[i * 3 + c];
            }
        }
        scatter_add(&mut table, &ids, &rows, 3, 2.0);
        assert_close(&table, &want, 1e-6);
    }

    #[test]
    fn sums_and_matrices_side_by_side_at_ragged_sizes() {
        for rows in [0, 1, 3, 700] {
            let (a, b) = (values(rows * 33, 1), values(rows * 33, 2));
            let want: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
            let mut sum = a.clone();
            add(&mut sum, &b);
            assert!(sum == want && sum_of(&a, &b) == want);

            let c = values(rows * 5, 3);
            let wide = side_by_side(&[(&a, 33), (&c, 5), (&b, 33)], rows);
            for (i, row) in wide.chunks(71).enumerate() {
                let own = |x: &'_ [f32], width: usize| x[i * width..][..width].to_vec();
                assert_eq!(row, [own(&a, 33), own(&c, 5), own(&b, 33)].concat());
            }
            assert_eq!(wide.len(), rows * 71);
        }
    }

    #[test]
    fn squares_add_up_and_nan_shows() {
        let mut x = vec![0.5_f32; 100_003];
        assert!((sum_of_squares(&x) - 25_000.75).abs() < 1e-3);
        x[70_000] = f32::NAN;
        assert!(sum_of_squares(&x).is_nan());
    }
}
