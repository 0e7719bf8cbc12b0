//! Rows of a table: look-up, its gradient, and sums of squares.

use crate::simd::{dispatch, sum};
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
    tasks
        .par_iter_mut()
        .with_min_len(16)
        .for_each(|(target, group)| {
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

/// Sum of squares, added up in f64 over fixed pieces.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    let parts: Vec<f64> = x
        .par_chunks(crate::GRAIN)
        .map(|x| {
            f64::from(dispatch(
                #[inline(always)]
                || sum(x.len(), |i| x[i] * x[i]),
            ))
        })
        .collect();
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
    fn squares_add_up_and_nan_shows() {
        let mut x = vec![0.5_f32; 100_003];
        assert!((sum_of_squares(&x) - 25_000.75).abs() < 1e-3);
        x[70_000] = f32::NAN;
        assert!(sum_of_squares(&x).is_nan());
    }
}
