//! Linear layers that read the same.

use crate::draws::Draws;
use crate::linear::Linear;
use crate::param::{Gradients, Param, Visit};
use aios_tensor::{FEW_TOKENS, Ops, SideBySide};
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
            parts => self.products(x, draws).unwrap_or_else(|| {
                let parts = parts.iter().map(|part| part.forward(x, draws));
                B::side_by_side(parts.collect())
            }),
        }
    }

    /// The same in one operation, if each part is nothing but products.
    fn products(&self, x: &Tensor<B, 2>, draws: Option<&Draws>) -> Option<Tensor<B, 2>> {
        // By few tokens, what is stored is better multiplied than decoded.
        let few = x.dims()[0] <= FEW_TOKENS;
        let plain = |part: &Linear<B>| {
            part.bias.is_none() && !part.transposed && !(few && part.weight.is_stored())
        };
        if !self.parts.iter().all(plain) {
            return None;
        }
        let weights = self
            .parts
            .iter()
            .map(|part| || part.weight.value_in(x.dtype()));
        let weights: Vec<_> = weights.collect();
        let all = self.parts.iter().zip(&weights).map(|(part, weight)| {
            let added = match part.adapter.get() {
                Some(adapter) => Some(adapter.added(x, draws)?),
                None => None,
            };
            Some(SideBySide {
                outputs: part.outputs(),
                weight,
                added,
            })
        });
        let all: Option<Vec<_>> = all.collect();
        Some(B::linear_forward_all(x, &all?))
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
                Some(_) => B::read_often(own),
                None => own,
            };
            part.backward_weight(&own, x, draws, grads);
            dx = Some(part.add_backward_input(dx, &own, draws));
        }
        dx.expect("at least one part")
    }
}

impl<B: Ops> Visit<B> for Projection<B> {
    fn visit<'a>(&'a self, each: &mut dyn FnMut(&'a Param<B>)) {
        self.parts.iter().for_each(|part| part.visit(each));
    }
}
