//! The linear layer.

use crate::param::{Gradients, Param, Visit};
use aios_tensor::{Ops, in_format, widened};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// `x wᵀ`, and a bias if it has one. A weight that is not trained costs no gradient.
#[derive(Debug)]
pub struct Linear<B: Backend> {
    /// `[outputs, inputs]`, f32.
    pub weight: Param<B>,
    /// `[1, outputs]`, f32.
    pub bias: Option<Param<B>>,
    /// The weight is `[inputs, outputs]`, as GPT-2's files have it.
    pub transposed: bool,
}

impl<B: Ops> Linear<B> {
    /// Without a bias.
    pub fn new(weight: Param<B>) -> Self {
        Self {
            weight,
            bias: None,
            transposed: false,
        }
    }

    /// Width of the result.
    pub fn outputs(&self) -> usize {
        self.weight.dims()[usize::from(self.transposed)]
    }

    /// `[T, inputs]` to `[T, outputs]`.
    pub fn forward(&self, x: &Tensor<B, 2>) -> Tensor<B, 2> {
        let y = match self.transposed {
            true => B::linear_backward_input(x, &self.weight.value()),
            false => B::linear_forward(x, &self.weight.value()),
        };
        match &self.bias {
            Some(bias) => {
                let bias = in_format(bias.value(), y.dtype());
                y + bias
            }
            None => y,
        }
    }

    /// Add the gradients of weight and bias, given that of the result and what was read.
    pub fn backward_weight(&self, dy: &Tensor<B, 2>, x: &Tensor<B, 2>, grads: &mut Gradients<B>) {
        grads.change(&self.weight, |sum| match self.transposed {
            true => B::linear_backward_weight(sum, x, dy),
            false => B::linear_backward_weight(sum, dy, x),
        });
        if let Some(bias) = &self.bias {
            grads.change(bias, |sum| added(sum, widened(dy.clone()).sum_dim(0)));
        }
    }

    /// Gradient with respect to what was read.
    pub fn backward_input(&self, dy: &Tensor<B, 2>) -> Tensor<B, 2> {
        match self.transposed {
            true => B::linear_forward(dy, &self.weight.value()),
            false => B::linear_backward_input(dy, &self.weight.value()),
        }
    }
}

/// A gradient sum with another summand.
pub fn added<B: Backend>(sum: Option<Tensor<B, 2>>, own: Tensor<B, 2>) -> Tensor<B, 2> {
    match sum {
        Some(sum) => sum + own,
        None => own,
    }
}

impl<B: Backend> Visit<B> for Linear<B> {
    fn visit<'a>(&'a self, each: &mut dyn FnMut(&'a Param<B>)) {
        each(&self.weight);
        self.bias.iter().for_each(each);
    }
}
