//! The linear layer.

use crate::draws::Draws;
use crate::param::{Gradients, Param, Visit};
use aios_tensor::{Ops, added, in_format, widened};
use burn::tensor::Tensor;
use std::cell::OnceCell;
use std::fmt::Debug;

/// What takes the place of a linear layer's product. In training it may be by chance, with the same `draws` in the backward
/// pass.
pub trait Adapter<B: Ops>: Visit<B> + Debug {
    /// `[T, inputs]` to `[T, outputs]`, without the bias. `base` gives the product of its weight.
    fn forward(&self, base: &Linear<B>, x: &Tensor<B, 2>, draws: Option<&Draws>) -> Tensor<B, 2>;

    /// `x` and `w` of a product `x wᵀ`, if the result is the base's and nothing but that added.
    fn added(&self, _x: &Tensor<B, 2>, _draws: Option<&Draws>) -> Option<[Tensor<B, 2>; 2]> {
        None
    }

    /// Add the gradients of the adapter's own parameters, given that of the result and what was read.
    fn backward_weight(
        &self,
        base: &Linear<B>,
        dy: &Tensor<B, 2>,
        x: &Tensor<B, 2>,
        draws: Option<&Draws>,
        grads: &mut Gradients<B>,
    );

    /// Gradient with respect to what was read.
    fn backward_input(
        &self,
        base: &Linear<B>,
        dy: &Tensor<B, 2>,
        draws: Option<&Draws>,
    ) -> Tensor<B, 2>;
}

/// `x wᵀ`, and a bias if it has one. A weight that is not trained costs no gradient.
#[derive(Debug)]
pub struct Linear<B: Ops> {
    /// `[outputs, inputs]`.
    pub weight: Param<B>,
    /// `[1, outputs]`, f32.
    pub bias: Option<Param<B>>,
    /// The weight is `[inputs, outputs]`, as GPT-2's files have it.
    pub transposed: bool,
    /// Empty, unless something was put around the product.
    pub adapter: OnceCell<Box<dyn Adapter<B>>>,
}

impl<B: Ops> Linear<B> {
    /// Without a bias.
    pub fn new(weight: Param<B>) -> Self {
        Self {
            weight,
            bias: None,
            transposed: false,
            adapter: OnceCell::new(),
        }
    }

    /// The name that files have before `.weight`.
    pub fn name(&self) -> &str {
        let name = &self.weight.info.name;
        name.strip_suffix(".weight").unwrap_or(name)
    }

    /// Width of what it reads.
    pub fn inputs(&self) -> usize {
        self.weight.dims()[usize::from(!self.transposed)]
    }

    /// Width of the result.
    pub fn outputs(&self) -> usize {
        self.weight.dims()[usize::from(self.transposed)]
    }

    /// `[T, inputs]` to `[T, outputs]`.
    pub fn forward(&self, x: &Tensor<B, 2>, draws: Option<&Draws>) -> Tensor<B, 2> {
        let y = match self.adapter.get() {
            Some(adapter) => adapter.forward(self, x, draws),
            None => self.product(x),
        };
        match &self.bias {
            Some(bias) => {
                let bias = in_format(bias.value(), y.dtype());
                y + bias
            }
            None => y,
        }
    }

    /// The product alone, `[T, inputs]` to `[T, outputs]`: without adapter and bias.
    pub fn product(&self, x: &Tensor<B, 2>) -> Tensor<B, 2> {
        match self.transposed {
            true => B::linear_backward_input(x, &self.weight.value_in(x.dtype())),
            false => self.weight.product(x),
        }
    }

    /// Gradient of [`Linear::product`] with respect to what was read.
    pub fn product_backward(&self, dy: &Tensor<B, 2>) -> Tensor<B, 2> {
        let weight = self.weight.value_in(dy.dtype());
        match self.transposed {
            true => B::linear_forward(dy, &weight),
            false => B::linear_backward_input(dy, &weight),
        }
    }

    /// Add the gradients of weight and bias, given that of the result and what was read.
    pub fn backward_weight(
        &self,
        dy: &Tensor<B, 2>,
        x: &Tensor<B, 2>,
        draws: Option<&Draws>,
        grads: &mut Gradients<B>,
    ) {
        grads.change(&self.weight, |sum| match self.transposed {
            true => B::linear_backward_weight(sum, x, dy),
            false => B::linear_backward_weight(sum, dy, x),
        });
        if let Some(bias) = &self.bias {
            grads.change(bias, |sum| added(sum, widened(dy.clone()).sum_dim(0)));
        }
        if let Some(adapter) = self.adapter.get() {
            adapter.backward_weight(self, dy, x, draws, grads);
        }
    }

    /// Gradient with respect to what was read.
    pub fn backward_input(&self, dy: &Tensor<B, 2>, draws: Option<&Draws>) -> Tensor<B, 2> {
        match self.adapter.get() {
            Some(adapter) => adapter.backward_input(self, dy, draws),
            None => self.product_backward(dy),
        }
    }

    /// The same, added to that of other layers which read the same, if there are some.
    pub fn add_backward_input(
        &self,
        sum: Option<Tensor<B, 2>>,
        dy: &Tensor<B, 2>,
        draws: Option<&Draws>,
    ) -> Tensor<B, 2> {
        let Some(sum) = sum else {
            return self.backward_input(dy, draws);
        };
        match (self.adapter.get(), self.transposed) {
            (Some(adapter), _) => B::sum(sum, &adapter.backward_input(self, dy, draws)),
            (None, true) => B::add_linear_forward(sum, dy, &self.weight.value_in(dy.dtype())),
            (None, false) => {
                B::add_linear_backward_input(sum, dy, &self.weight.value_in(dy.dtype()))
            }
        }
    }
}

impl<B: Ops> Visit<B> for Linear<B> {
    fn visit<'a>(&'a self, each: &mut dyn FnMut(&'a Param<B>)) {
        each(&self.weight);
        self.bias.iter().for_each(&mut *each);
        if let Some(adapter) = self.adapter.get() {
            adapter.visit(each);
        }
    }
}
