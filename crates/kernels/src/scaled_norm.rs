//! RMSNorm and LayerNorm with a weight, as decoders have them before and after their layers.
//!
//! Nothing is kept for the backward pass but the input: a row's statistics are computed again while it is in the cache.

use crate::buffer::{uninit, zeros};
use crate::simd::{dispatch, sum};
use crate::team::Each;
use rayon::prelude::*;

/// What is done to a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormShape {
    /// The mean is taken off first: LayerNorm.
    pub centered: bool,
    /// Added to the mean square.
    pub eps: f32,
    /// Added to the weight as it is stored: Gemma stores it minus one.
    pub offset: f32,
}

/// Factor and summand of a row's elements.
#[derive(Clone, Copy)]
pub struct Affine<'a> {
    pub weight: Option<&'a [f32]>,
    pub bias: Option<&'a [f32]>,
}

impl Affine<'_> {
    #[inline(always)]
    fn factor(&self, i: usize, shape: &NormShape) -> f32 {
        match self.weight {
            Some(weight) => weight[i] + shape.offset,
            None => 1.0,
        }
    }
}

/// Mean (0 where it is not taken off) and reciprocal deviation of a row.
#[inline(always)]
fn statistics(x: &[f32], shape: &NormShape) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = match shape.centered {
        true => sum(x.len(), |i| x[i]) / n,
        false => 0.0,
    };
    let square = sum(x.len(), |i| (x[i] - mean) * (x[i] - mean)) / n;
    (mean, 1.0 / (square + shape.eps).sqrt())
}

/// `(x - mean) r (weight + offset) + bias` for each row of `width` elements.
pub fn norm(x: &[f32], affine: Affine, width: usize, shape: &NormShape) -> Vec<f32> {
    assert!(x.len().is_multiple_of(width));
    let mut y = uninit(x.len());
    let part = crate::rows_per_task(width) * width;
    let parts = y.par_chunks_mut(part).zip(x.par_chunks(part));
    parts.each(|(y, x)| {
        dispatch(
            #[inline(always)]
            || {
                let rows = y.chunks_exact_mut(width).zip(x.chunks_exact(width));
                for (y, x) in rows {
                    let (mean, r) = statistics(x, shape);
                    for i in 0..width {
                        y[i] = (x[i] - mean) * r * affine.factor(i, shape);
                    }
                    if let Some(bias) = affine.bias {
                        for i in 0..width {
                            y[i] += bias[i];
                        }
                    }
                }
            },
        );
    });
    y
}

/// Gradients of [`norm`].
pub struct NormGradients {
    pub dx: Vec<f32>,
    /// `[width]`, as are those of the bias.
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

/// Rows whose sums are one summand of the weight's gradient: fixed, so that the result does not depend on the threads.
const ROWS: usize = 64;

/// Given the gradient of the result.
pub fn norm_backward(
    x: &[f32],
    weight: Option<&[f32]>,
    dy: &[f32],
    width: usize,
    shape: &NormShape,
) -> NormGradients {
    assert!(x.len() == dy.len() && x.len().is_multiple_of(width));
    let affine = Affine { weight, bias: None };
    let mut dx = uninit(x.len());
    let part = ROWS * width;
    let mut sums = zeros(x.len().div_ceil(part) * 2 * width);
    let sources = x.par_chunks(part).zip(dy.par_chunks(part));
    let parts = sums.par_chunks_mut((2 * width).max(1));
    parts
        .zip(dx.par_chunks_mut(part).zip(sources))
        .each(|(sums, (dx, (x, dy)))| {
            let (weight, bias) = sums.split_at_mut(width);
            dispatch(
                #[inline(always)]
                || {
                    let rows = dx.chunks_exact_mut(width);
                    let sources = x.chunks_exact(width).zip(dy.chunks_exact(width));
                    for (dx, (x, dy)) in rows.zip(sources) {
                        row_backward(dx, x, dy, &affine, shape, weight, bias);
                    }
                },
            );
        });
    let mut total = zeros(2 * width);
    for part in sums.chunks(2 * width) {
        total.iter_mut().zip(part).for_each(|(t, p)| *t += p);
    }
    let bias = total.split_off(width);
    NormGradients {
        dx,
        weight: total,
        bias,
    }
}

#[inline(always)]
fn row_backward(
    dx: &mut [f32],
    x: &[f32],
    dy: &[f32],
    affine: &Affine,
    shape: &NormShape,
    weight: &mut [f32],
    bias: &mut [f32],
) {
    let width = x.len();
    let n = width as f32;
    let (mean, r) = statistics(x, shape);
    for i in 0..width {
        weight[i] += dy[i] * (x[i] - mean) * r;
        bias[i] += dy[i];
    }
    // Into dx first, since the compiler could not keep the product in registers over both sums.
    for i in 0..width {
        dx[i] = dy[i] * affine.factor(i, shape);
    }
    let along = sum(width, |i| dx[i] * (x[i] - mean)) * r / n;
    let level = match shape.centered {
        true => sum(width, |i| dx[i]) / n,
        false => 0.0,
    };
    for i in 0..width {
        dx[i] = (dx[i] - level - (x[i] - mean) * r * along) * r;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, values};

    const KINDS: [NormShape; 3] = [
        NormShape {
            centered: false,
            eps: 1e-5,
            offset: 0.0,
        },
        NormShape {
            centered: false,
            eps: 1e-5,
            offset: 1.0,
        },
        NormShape {
            centered: true,
            eps: 1e-5,
            offset: 0.0,
        },
    ];

    /// Slopes of the objective `sum(y dy)` by central differences.
    fn slopes(x: &[f32], objective: impl Fn(&[f32]) -> f64) -> Vec<f32> {
        let slope = |i: usize| {
            let (mut up, mut down) = (x.to_vec(), x.to_vec());
            up[i] += 1e-2;
            down[i] -= 1e-2;
            ((objective(&up) - objective(&down)) / 2e-2) as f32
        };
        (0..x.len()).map(slope).collect()
    }

    #[test]
    fn gradients_match_finite_differences() {
        let (rows, width) = (3, 37);
        let (x, dy) = (values(rows * width, 1), values(rows * width, 3));
        let (weight, bias) = (values(width, 4), values(width, 5));
        for shape in KINDS {
            let objective = |x: &[f32], weight: &[f32], bias: &[f32]| -> f64 {
                let affine = Affine {
                    weight: Some(weight),
                    bias: Some(bias),
                };
                let y = norm(x, affine, width, &shape);
                y.iter()
                    .zip(&dy)
                    .map(|(y, d)| f64::from(*y) * f64::from(*d))
                    .sum()
            };
            let found = norm_backward(&x, Some(&weight), &dy, width, &shape);
            assert_close(
                &found.dx,
                &slopes(&x, |x| objective(x, &weight, &bias)),
                2e-3,
            );
            let dw = slopes(&weight, |w| objective(&x, w, &bias));
            assert_close(&found.weight, &dw, 2e-3);
            assert_close(
                &found.bias,
                &slopes(&bias, |b| objective(&x, &weight, b)),
                2e-3,
            );
        }
    }

    #[test]
    fn a_row_of_zeros_stays_zero_and_nan_stays_in_its_row() {
        let mut x = vec![0.0; 3 * 40];
        x[45] = f32::NAN;
        let affine = Affine {
            weight: None,
            bias: None,
        };
        let y = norm(&x, affine, 40, &KINDS[2]);
        assert!(y[..40].iter().chain(&y[80..]).all(|&v| v == 0.0));
        assert!(y[40..80].iter().all(|v| v.is_nan()));
    }

    #[test]
    fn sums_do_not_depend_on_the_number_of_threads() {
        let width = 24;
        let (x, dy) = (values(500 * width, 1), values(500 * width, 2));
        let of = |threads| {
            crate::team::tests::with_threads(threads, || {
                norm_backward(&x, None, &dy, width, &KINDS[0]).weight
            })
        };
        assert_eq!(of(1), of(3));
    }
}
