//! RMSNorm and LayerNorm in tensor operations.

use crate::cast::in_f32;
use crate::{Ops, in_format, widened};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

pub use aios_kernels::scaled_norm::NormShape;

/// Factor and summand of a row's elements, `[1, width]` each, f32.
pub struct Affine<'a, B: Backend> {
    pub weight: Option<&'a Tensor<B, 2>>,
    pub bias: Option<&'a Tensor<B, 2>>,
}

// Derived, they would ask for a backend that can be copied.
impl<B: Backend> Clone for Affine<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Affine<'_, B> {}

impl<'a, B: Backend> Affine<'a, B> {
    /// What there is of weight and bias.
    pub fn of([weight, bias]: &'a [Option<Tensor<B, 2>>; 2]) -> Self {
        Self {
            weight: weight.as_ref(),
            bias: bias.as_ref(),
        }
    }
}

/// Gradients of a norm: of its input, in the input's format, and of what it has and trains of weight and bias, `[1, width]` in f32.
pub struct NormGradients<B: Backend> {
    pub dx: Tensor<B, 2>,
    pub weight: Option<Tensor<B, 2>>,
    pub bias: Option<Tensor<B, 2>>,
}

fn factor<B: Backend>(affine: &Affine<B>, shape: &NormShape) -> Option<Tensor<B, 2>> {
    affine.weight.map(|weight| weight.clone() + shape.offset)
}

/// Rows of mean square one, and the factors that made them so.
fn normalized<B: Backend>(x: Tensor<B, 2>, shape: &NormShape) -> (Tensor<B, 2>, Tensor<B, 2>) {
    let x = match shape.centered {
        true => x.clone() - x.mean_dim(1),
        false => x,
    };
    let r = ((x.clone() * x.clone()).mean_dim(1) + shape.eps)
        .sqrt()
        .recip();
    (x * r.clone(), r)
}

pub(super) fn reference<B: Ops>(
    x: &Tensor<B, 2>,
    affine: Affine<B>,
    shape: &NormShape,
) -> Tensor<B, 2> {
    in_f32([x.clone()], |[x]| {
        let (n, _) = normalized(x, shape);
        let scaled = match factor(&affine, shape) {
            Some(factor) => n * factor,
            None => n,
        };
        match affine.bias {
            Some(bias) => scaled + bias.clone(),
            None => scaled,
        }
    })
}

pub(super) fn reference_backward<B: Ops>(
    x: &Tensor<B, 2>,
    affine: Affine<B>,
    shape: &NormShape,
    dy: &Tensor<B, 2>,
    trained: bool,
) -> NormGradients<B> {
    let format = x.dtype();
    let trained_of = |given: Option<_>| given.filter(|_| trained);
    let dy = widened(dy.clone());
    let (n, r) = normalized(widened(x.clone()), shape);
    let weight = trained_of(affine.weight).map(|_| (dy.clone() * n.clone()).sum_dim(0));
    let bias = trained_of(affine.bias).map(|_| dy.clone().sum_dim(0));
    let g = match factor(&affine, shape) {
        Some(factor) => dy * factor,
        None => dy,
    };
    let along = (g.clone() * n.clone()).mean_dim(1);
    let g = match shape.centered {
        true => g.clone() - g.mean_dim(1),
        false => g,
    };
    NormGradients {
        dx: in_format((g - n * along) * r, format),
        weight,
        bias,
    }
}
