//! Activations of the layers between attention, alone and as the gate of a product.

use crate::simd::{dispatch, exp};
use crate::swiglu::{self, sigmoid};
use crate::team::Each;
use rayon::prelude::*;

/// Which function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x sigmoid(x)`
    Silu,
    /// `x Φ(x)`, with Φ the normal distribution.
    Gelu,
    /// Its approximation by tanh, as GPT-2 has it ("gelu_new", "gelu_pytorch_tanh").
    GeluTanh,
}

impl Activation {
    /// Value and slope.
    #[inline(always)]
    fn at(self, x: f32) -> (f32, f32) {
        match self {
            Self::Silu => {
                let s = sigmoid(x);
                (x * s, s * (1.0 + x * (1.0 - s)))
            }
            Self::Gelu => {
                let p = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
                let density = exp(-0.5 * x * x) * 0.398_942_3;
                (x * p, p + x * density)
            }
            Self::GeluTanh => {
                const A: f32 = 0.797_884_6;
                const B: f32 = 0.044_715;
                let t = tanh(A * (x + B * x * x * x));
                let slope = A * (1.0 + 3.0 * B * x * x);
                let half = 0.5 * (1.0 + t);
                (x * half, half + 0.5 * x * (1.0 - t * t) * slope)
            }
        }
    }
}

#[inline(always)]
fn tanh(x: f32) -> f32 {
    2.0 * sigmoid(2.0 * x) - 1.0
}

/// Abramowitz and Stegun, 7.1.26: off by 1.5e-7 at the most.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let series = ((((1.061_405_4 * t - 1.453_152_1) * t) + 1.421_413_7) * t - 0.284_496_74) * t;
    let y = 1.0 - (series + 0.254_829_6) * t * exp(-x * x);
    y.copysign(x)
}

/// Each function in a loop of its own, since one that asks inside is not vectorized.
macro_rules! by_kind {
    ($kind:expr, |$f:ident| $body:expr) => {
        match $kind {
            Activation::Silu => {
                let $f = |x| Activation::Silu.at(x);
                dispatch(
                    #[inline(always)]
                    || $body,
                )
            }
            Activation::Gelu => {
                let $f = |x| Activation::Gelu.at(x);
                dispatch(
                    #[inline(always)]
                    || $body,
                )
            }
            Activation::GeluTanh => {
                let $f = |x| Activation::GeluTanh.at(x);
                dispatch(
                    #[inline(always)]
                    || $body,
                )
            }
        }
    };
}

/// Of each element.
pub fn apply(x: &[f32], kind: Activation) -> Vec<f32> {
    let mut out = crate::buffer::uninit(x.len());
    let parts = out.par_chunks_mut(crate::GRAIN);
    parts.zip(x.par_chunks(crate::GRAIN)).each(|(out, x)| {
        by_kind!(kind, |f| for (out, &x) in out.iter_mut().zip(x) {
            *out = f(x).0;
        });
    });
    out
}

/// Gradient of [`apply`] with respect to `x`.
pub fn apply_backward(x: &[f32], dy: &[f32], kind: Activation) -> Vec<f32> {
    assert_eq!(x.len(), dy.len());
    let mut out = crate::buffer::uninit(x.len());
    let parts = out.par_chunks_mut(crate::GRAIN);
    let sources = x.par_chunks(crate::GRAIN).zip(dy.par_chunks(crate::GRAIN));
    parts.zip(sources).each(|(out, (x, dy))| {
        by_kind!(
            kind,
            |f| for (out, (&x, &dy)) in out.iter_mut().zip(x.iter().zip(dy)) {
                *out = dy * f(x).1;
            }
        );
    });
    out
}

/// `f(gate) up`: `[T, 2 inner]` (gate, then up) to `[T, inner]`.
pub fn gated(gate_up: &[f32], inner: usize, kind: Activation) -> Vec<f32> {
    if kind == Activation::Silu {
        return swiglu::swiglu(gate_up, inner);
    }
    let mut out = crate::buffer::uninit(gate_up.len() / 2);
    let part = crate::rows_per_task(inner) * inner;
    let parts = out.par_chunks_mut(part).zip(gate_up.par_chunks(2 * part));
    parts.each(|(out, gate_up)| {
        by_kind!(kind, |f| {
            let rows = out.chunks_exact_mut(inner);
            for (out, row) in rows.zip(gate_up.chunks_exact(2 * inner)) {
                let (gate, up) = row.split_at(inner);
                for ((out, &g), &u) in out.iter_mut().zip(gate).zip(up) {
                    *out = f(g).0 * u;
                }
            }
        });
    });
    out
}

/// Gradient of [`gated`] with respect to `gate_up`.
pub fn gated_backward(gate_up: &[f32], dy: &[f32], inner: usize, kind: Activation) -> Vec<f32> {
    if kind == Activation::Silu {
        return swiglu::swiglu_backward(gate_up, dy, inner);
    }
    assert_eq!(gate_up.len(), 2 * dy.len());
    let mut out = crate::buffer::uninit(gate_up.len());
    let part = crate::rows_per_task(inner) * inner;
    let parts = out.par_chunks_mut(2 * part);
    let sources = gate_up.par_chunks(2 * part).zip(dy.par_chunks(part));
    parts.zip(sources).each(|(out, (gate_up, dy))| {
        by_kind!(kind, |f| {
            let rows = out.chunks_exact_mut(2 * inner);
            let sources = gate_up.chunks_exact(2 * inner).zip(dy.chunks_exact(inner));
            for (out, (row, dy)) in rows.zip(sources) {
                let (d_gate, d_up) = out.split_at_mut(inner);
                let (gate, up) = row.split_at(inner);
                for i in 0..inner {
                    let (value, slope) = f(gate[i]);
                    d_up[i] = dy[i] * value;
                    d_gate[i] = dy[i] * up[i] * slope;
                }
            }
        });
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, values};

    const KINDS: [Activation; 3] = [Activation::Silu, Activation::Gelu, Activation::GeluTanh];

    #[test]
    fn values_are_those_of_pytorch() {
        // torch.nn.functional.{silu, gelu, gelu(approximate="tanh")}
        let x = [-3.0, -0.5, 0.0, 0.7, 2.5];
        let want = [
            [-0.142_277_6, -0.188_770_33, 0.0, 0.467_731_57, 2.310_354_4],
            [-0.004_049_694, -0.154_268_76, 0.0, 0.530_625_4, 2.484_476],
            [-0.003_637_392, -0.154_285_98, 0.0, 0.530_570_3, 2.484_915_7],
        ];
        for (kind, want) in KINDS.into_iter().zip(want) {
            assert_close(&apply(&x, kind), &want, 2e-6);
        }
    }

    #[test]
    fn gradients_match_finite_differences() {
        let inner = 19;
        let x: Vec<f32> = values(3 * 2 * inner, 1).iter().map(|v| v * 4.0).collect();
        let dy = values(3 * inner, 2);
        for kind in KINDS {
            let objective = |x: &[f32]| -> f64 {
                let y = gated(x, inner, kind);
                y.iter().zip(&dy).map(|(y, d)| f64::from(y * d)).sum()
            };
            let slope = |i: usize| {
                let (mut up, mut down) = (x.clone(), x.clone());
                up[i] += 1e-2;
                down[i] -= 1e-2;
                ((objective(&up) - objective(&down)) / 2e-2) as f32
            };
            let numeric: Vec<f32> = (0..x.len()).map(slope).collect();
            assert_close(&gated_backward(&x, &dy, inner, kind), &numeric, 2e-3);
            // A gate of an up that is 1 is the activation alone.
            let ones = vec![1.0; inner];
            let pair = [&x[..inner], &ones].concat();
            let both = gated_backward(&pair, &dy[..inner], inner, kind);
            let alone = apply_backward(&x[..inner], &dy[..inner], kind);
            assert_close(&both[..inner], &alone, 1e-6);
        }
    }

    #[test]
    fn large_inputs_saturate() {
        for kind in KINDS {
            let y = apply(&[100.0, -100.0], kind);
            assert!(y[0] == 100.0 && y[1].abs() < 1e-30, "{kind:?} {y:?}");
        }
    }
}
