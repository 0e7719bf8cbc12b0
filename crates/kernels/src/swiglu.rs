//! SwiGLU: `silu(gate) * up`, with gate and up side by side in one matrix.

use crate::simd::{dispatch, exp};
use crate::team::Each;
use rayon::prelude::*;

/// `[T, 2 * inner]` (gate, then up) to `[T, inner]`.
pub fn swiglu(gate_up: &[f32], inner: usize) -> Vec<f32> {
    let mut out = crate::buffer::uninit(gate_up.len() / 2);
    let rows = crate::rows_per_task(inner);
    out.par_chunks_mut(rows * inner)
        .zip(gate_up.par_chunks(rows * inner * 2))
        .each(|(out, gate_up)| {
            dispatch(
                #[inline(always)]
                || {
                    for (out, row) in out
                        .chunks_exact_mut(inner)
                        .zip(gate_up.chunks_exact(2 * inner))
                    {
                        let (gate, up) = row.split_at(inner);
                        for ((out, &g), &u) in out.iter_mut().zip(gate).zip(up) {
                            *out = g * sigmoid(g) * u;
                        }
                    }
                },
            );
        });
    out
}

/// Gradient with respect to `gate_up`, given that of the output.
pub fn swiglu_backward(gate_up: &[f32], dy: &[f32], inner: usize) -> Vec<f32> {
    assert_eq!(gate_up.len(), dy.len() * 2);
    let mut out = crate::buffer::uninit(gate_up.len());
    let rows = crate::rows_per_task(inner);
    out.par_chunks_mut(rows * inner * 2)
        .zip(gate_up.par_chunks(rows * inner * 2))
        .zip(dy.par_chunks(rows * inner))
        .each(|((out, gate_up), dy)| {
            dispatch(
                #[inline(always)]
                || {
                    for ((out, row), dy) in out
                        .chunks_exact_mut(2 * inner)
                        .zip(gate_up.chunks_exact(2 * inner))
                        .zip(dy.chunks_exact(inner))
                    {
                        let (d_gate, d_up) = out.split_at_mut(inner);
                        let (gate, up) = row.split_at(inner);
                        for i in 0..inner {
                            let s = sigmoid(gate[i]);
                            d_up[i] = dy[i] * gate[i] * s;
                            d_gate[i] = dy[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s));
                        }
                    }
                },
            );
        });
    out
}

#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, values};

    #[test]
    fn gradient_matches_finite_differences() {
        let inner = 19;
        let x: Vec<f32> = values(3 * 2 * inner, 1).iter().map(|v| v * 4.0).collect();
        let dy = values(3 * inner, 2);
        let objective = |x: &[f32]| -> f64 {
            let y = swiglu(x, inner);
            y.iter().zip(&dy).map(|(y, d)| f64::from(y * d)).sum()
        };
        let numeric: Vec<f32> = (0..x.len())
            .map(|i| {
                let (mut up, mut down) = (x.clone(), x.clone());
                up[i] += 1e-2;
                down[i] -= 1e-2;
                ((objective(&up) - objective(&down)) / 2e-2) as f32
            })
            .collect();
        assert_close(&swiglu_backward(&x, &dy, inner), &numeric, 1e-3);
    }

    #[test]
    fn large_inputs_saturate() {
        let y = swiglu(&[100.0, -100.0, 1.0, 1.0], 2);
        assert_eq!(y[0], 100.0);
        assert!(y[1].abs() < 1e-30);
    }
}
