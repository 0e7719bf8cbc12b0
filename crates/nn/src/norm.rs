//! RMSNorm and LayerNorm as layers.

use crate::param::{Gradients, Param, Visit};
use aios_tensor::{Affine, NormShape, Ops, added};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// A norm of each row, with or without a weight and a bias. Nothing is saved but its input.
#[derive(Debug)]
pub struct Norm<B: Backend> {
    pub shape: NormShape,
    /// `[1, width]`, f32, as is the bias.
    pub weight: Option<Param<B>>,
    pub bias: Option<Param<B>>,
}

impl<B: Ops> Norm<B> {
    /// `[rows, width]` to the same.
    pub fn forward(&self, x: &Tensor<B, 2>) -> Tensor<B, 2> {
        B::norm(x, Affine::of(&self.values()), &self.shape)
    }

    /// Add the gradients of weight and bias, given that of the result and what was read; the gradient with respect to that.
    pub fn backward(
        &self,
        x: &Tensor<B, 2>,
        dy: &Tensor<B, 2>,
        grads: &mut Gradients<B>,
    ) -> Tensor<B, 2> {
        let values = self.values();
        let trained = |param: &Option<Param<B>>| param.as_ref().is_some_and(|of| of.info.trained);
        let trained = trained(&self.weight) || trained(&self.bias);
        let found = B::norm_backward(x, Affine::of(&values), &self.shape, dy, trained);
        let each = [(&self.weight, found.weight), (&self.bias, found.bias)];
        for (param, own) in each {
            if let (Some(param), Some(own)) = (param, own) {
                grads.change(param, |sum| added(sum, own));
            }
        }
        found.dx
    }

    fn values(&self) -> [Option<Tensor<B, 2>>; 2] {
        [&self.weight, &self.bias].map(|param| param.as_ref().map(Param::value))
    }
}

impl<B: Backend> Visit<B> for Norm<B> {
    fn visit<'a>(&'a self, each: &mut dyn FnMut(&'a Param<B>)) {
        self.weight.iter().chain(&self.bias).for_each(each);
    }
}
