//! Linear layers that read the same.

use crate::draws::Draws;
use crate::linear::Linear;
use crate::param::{Gradients, Param, Visit};
use aios_tensor::Ops;
use aios_tensor::attention::{concatenated, copied};
use burn::tensor::Tensor;

/// Linear layers whose results lie side by side. Files hold them apart, as Llama's q, k and v, or as one, as Phi-3's.
#[derive(Debug)]
pub struct Projection<B: Ops> {
    /// At least one.
    pub parts: Vec<Linear<B>>,
}

impl<B: Ops> Projection<B> {
    /// `[T, inputs]` to `[T, outputs of all]`.
    pub fn forward(&self, x: &Tensor<B, 2>, draws: Option<&Draws>) -> Tensor<B, 2> {
        match self.parts.as_slice() {
            [one] => one.forward(x, draws),
            parts => {
                let parts = parts.iter().map(|part| part.forward(x, draws));
                concatenated(parts.collect(), 1)
            }
        }
    }

    /// Add the gradients of the weights, given that of the result and what was read; the gradient with respect to that.
    pub fn backward(
        &self,
        dy: &Tensor<B, 2>,
        x: &Tensor<B, 2>,
        draws: Option<&Draws>,
        grads: &mut Gradients<B>,
    ) -> Tensor<B, 2> {
        if let [one] = self.parts.as_slice() {
            one.backward_weight(dy, x, draws, grads);
            return one.backward_input(dy, draws);
        }
        let (mut at, mut dx) = (0, None);
        for part in &self.parts {
            let own = dy.clone().narrow(1, at, part.outputs());
            at += part.outputs();
            // It is read again and again, and each time it would be put together anew.
            let own = match part.adapter.get() {
                Some(_) => copied(own, 0),
                None => own,
            };
            part.backward_weight(&own, x, draws, grads);
            let d = part.backward_input(&own, draws);
            dx = Some(match dx {
                Some(sum) => sum + d,
                None => d,
            });
        }
        dx.expect("at least one part")
    }
}

impl<B: Ops> Visit<B> for Projection<B> {
    fn visit<'a>(&'a self, each: &mut dyn FnMut(&'a Param<B>)) {
        self.parts.iter().for_each(|part| part.visit(each));
    }
}
