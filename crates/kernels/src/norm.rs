//! RMSNorm of a residual sum, without a weight.

use crate::simd::{dispatch, sum};
use crate::team::Each;
use rayon::prelude::*;

/// `y = (x + a) * r` with `r = 1 / sqrt(mean((x + a)²) + eps)` per row of `width` elements.
///
/// Returns `y` and `r` (one per row), all that the backward pass needs.
pub fn add_rms_norm(x: &[f32], a: &[f32], width: usize, eps: f32) -> (Vec<f32>, Vec<f32>) {
    assert!(x.len() == a.len() && x.len().is_multiple_of(width));
    let mut y = crate::buffer::uninit(x.len());
    let mut scale = crate::buffer::uninit(x.len() / width);
    let rows = crate::rows_per_task(width);
    let part = rows * width;
    y.par_chunks_mut(part)
        .zip(scale.par_chunks_mut(rows))
        .zip(x.par_chunks(part).zip(a.par_chunks(part)))
        .each(|((y, scale), (x, a))| {
            dispatch(
                #[inline(always)]
                || {
                    let rows = y.chunks_exact_mut(width).zip(scale);
                    let sources = x.chunks_exact(width).zip(a.chunks_exact(width));
                    for ((y, scale), (x, a)) in rows.zip(sources) {
                        row(y, scale, x, a, eps);
                    }
                },
            );
        });
    (y, scale)
}

#[inline(always)]
fn row(y: &mut [f32], scale: &mut f32, x: &[f32], a: &[f32], eps: f32) {
    for ((y, x), a) in y.iter_mut().zip(x).zip(a) {
        *y = x + a;
    }
    let mean = sum(y.len(), |i| y[i] * y[i]) / y.len() as f32;
    *scale = 1.0 / (mean + eps).sqrt();
    for y in y.iter_mut() {
        *y *= *scale;
    }
}

/// Gradient with respect to `x + a`: `(dy - y * mean(dy * y)) * r` per row.
pub fn add_rms_norm_backward(y: &[f32], scale: &[f32], dy: &[f32], width: usize) -> Vec<f32> {
    assert!(y.len() == dy.len() && y.len() == scale.len() * width);
    let mut dx = crate::buffer::uninit(y.len());
    let rows = crate::rows_per_task(width);
    let part = rows * width;
    dx.par_chunks_mut(part)
        .zip(scale.par_chunks(rows))
        .zip(y.par_chunks(part).zip(dy.par_chunks(part)))
        .each(|((dx, scale), (y, dy))| {
            dispatch(
                #[inline(always)]
                || {
                    let rows = dx.chunks_exact_mut(width).zip(scale);
                    let sources = y.chunks_exact(width).zip(dy.chunks_exact(width));
                    for ((dx, &scale), (y, dy)) in rows.zip(sources) {
                        let mean = sum(width, |i| y[i] * dy[i]) / width as f32;
                        for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
                            *dx = (dy - y * mean) * scale;
                        }
                    }
                },
            );
        });
    dx
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, values};

    #[test]
    fn gradient_matches_finite_differences() {
        let (rows, width) = (3, 37);
        let (x, a) = (values(rows * width, 1), values(rows * width, 2));
        let dy = values(rows * width, 3);
        let objective = |x: &[f32]| -> f64 {
            let (y, _) = add_rms_norm(x, &a, width, 1e-5);
            y.iter().zip(&dy).map(|(y, d)| f64::from(y * d)).sum()
        };
        let (y, scale) = add_rms_norm(&x, &a, width, 1e-5);
        let dx = add_rms_norm_backward(&y, &scale, &dy, width);
        let numeric: Vec<f32> = (0..x.len())
            .map(|i| {
                let (mut up, mut down) = (x.clone(), x.clone());
                up[i] += 1e-2;
                down[i] -= 1e-2;
                ((objective(&up) - objective(&down)) / 2e-2) as f32
            })
            .collect();
        assert_close(&dx, &numeric, 2e-3);
    }

    #[test]
    fn a_row_of_zeros_stays_zero_and_nan_stays_in_its_row() {
        let mut x = vec![0.0; 3 * 40];
        x[45] = f32::NAN;
        let (y, _) = add_rms_norm(&x, &vec![0.0; 3 * 40], 40, 1e-5);
        assert!(y[..40].iter().chain(&y[80..]).all(|&v| v == 0.0));
        assert!(y[40..80].iter().all(|v| v.is_nan()));
    }
}
