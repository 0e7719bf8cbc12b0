//! Activations in tensor operations, with their slopes.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, activation};

pub use aios_kernels::activation::Activation;

const SQRT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;
const CUBIC: f64 = 0.044_715;

/// Of each element.
pub(crate) fn value<B: Backend>(x: Tensor<B, 2>, kind: Activation) -> Tensor<B, 2> {
    match kind {
        Activation::Silu => activation::silu(x),
        Activation::Gelu => x.clone() * normal(x),
        Activation::GeluTanh => x.clone() * (inner_tanh(x) + 1.0) * 0.5,
    }
}

/// Derivative at each element.
pub(crate) fn slope<B: Backend>(x: Tensor<B, 2>, kind: Activation) -> Tensor<B, 2> {
    match kind {
        Activation::Silu => {
            let s = activation::sigmoid(x.clone());
            s.clone() * (x * (-s + 1.0) + 1.0)
        }
        Activation::Gelu => {
            let density = (x.clone() * x.clone() * -0.5).exp() * 0.398_942_280_401_432_7;
            normal(x.clone()) + x * density
        }
        Activation::GeluTanh => {
            let t = inner_tanh(x.clone());
            let inner = (x.clone() * x.clone() * (3.0 * CUBIC) + 1.0) * SQRT_2_OVER_PI;
            let steep = (-(t.clone() * t.clone()) + 1.0) * inner;
            (t + 1.0) * 0.5 + x * steep * 0.5
        }
    }
}

/// The normal distribution's share below x.
fn normal<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    ((x * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0) * 0.5
}

fn inner_tanh<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    let cube = x.clone() * x.clone() * x.clone();
    ((x + cube * CUBIC) * SQRT_2_OVER_PI).tanh()
}
