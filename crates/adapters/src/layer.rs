//! LoRA around a linear layer.

use aios_nn::{Adapter, Draws, Gradients, Linear, Param, Visit};
use aios_tensor::{Ops, Share, added, floats, in_format, widened};
use burn::tensor::Tensor;

/// `W x + scale B A x`; with magnitudes each output of it times its magnitude over the norm of its row of
/// `W + scale B A`, which counts as a constant in the backward pass.
///
/// `A x` is as narrow as the adapter's rank, and computed again rather than kept.
///
/// With dropout A reads `dropout(x)`, and with magnitudes all of it does but a plain `W x`, as in PEFT: the result is
/// `W x + (W + scale B A) dropout(x)` times magnitude over norm, less `W dropout(x)`.
#[derive(Debug)]
pub struct LoraLayer<B: Ops> {
    /// `[rank, inputs]`
    pub a: Param<B>,
    /// `[outputs, rank]`
    pub b: Param<B>,
    /// `[1, outputs]`, of DoRA.
    pub magnitude: Option<Param<B>>,
    pub scale: f32,
    /// Which share of what is read is dropped in training.
    pub dropout: Option<Share>,
}

impl<B: Ops> LoraLayer<B> {
    /// Let magnitudes of zero be the norms of the rows of the weight that is adapted: no trained ones are zero.
    pub fn start(&self, base: &Linear<B>) {
        let Some(magnitude) = &self.magnitude else {
            return;
        };
        if floats(magnitude.value()).iter().all(|&m| m == 0.0) {
            let norms = self.norms(base);
            magnitude.change(|_| (norms, ()));
        }
    }

    /// What the adapter reads in training, if it is not what the layer does.
    fn dropped(&self, x: &Tensor<B, 2>, draws: Option<&Draws>) -> Option<Tensor<B, 2>> {
        let (share, draws) = (self.dropout?, draws?);
        Some(draws.dropped(x.clone(), self.a.index, share))
    }

    /// `scale A x`, `[T, rank]`.
    fn narrow(&self, x: &Tensor<B, 2>) -> Tensor<B, 2> {
        B::linear_forward(x, &self.a.value_in(x.dtype())) * self.scale
    }

    /// The same of the gradient: `scale Bᵀ dy`.
    fn narrow_back(&self, dy: &Tensor<B, 2>) -> Tensor<B, 2> {
        B::linear_backward_input(dy, &self.b.value_in(dy.dtype())) * self.scale
    }

    fn inner(&self, base: &Linear<B>, x: &Tensor<B, 2>) -> Tensor<B, 2> {
        let b = self.b.value_in(x.dtype());
        B::add_linear_forward(base.product(x), &self.narrow(x), &b)
    }

    /// Norms of the rows of what LoRA makes of the weight, `[1, outputs]`.
    fn norms(&self, base: &Linear<B>) -> Tensor<B, 2> {
        let change = B::linear_backward_input(&self.b.value(), &self.a.value()) * self.scale;
        let weight = widened(base.weight.value());
        let weight = match base.transposed {
            true => weight.transpose(),
            false => weight,
        };
        let sum = weight + change;
        (sum.clone() * sum).sum_dim(1).sqrt().transpose()
    }

    /// Magnitudes over norms, if there are magnitudes: `[1, outputs]`.
    fn factors(&self, base: &Linear<B>) -> Option<Tensor<B, 2>> {
        let magnitude = self.magnitude.as_ref()?;
        Some(magnitude.value() / self.norms(base))
    }

    /// Multiplied by the factors, if there are any: the result of [`LoraLayer::inner`], or a gradient.
    fn scaled(&self, base: &Linear<B>, y: Tensor<B, 2>) -> Tensor<B, 2> {
        match self.factors(base) {
            Some(factors) => {
                let factors = in_format(factors, y.dtype());
                y * factors
            }
            None => y,
        }
    }
}

impl<B: Ops> Adapter<B> for LoraLayer<B> {
    fn added(&self, x: &Tensor<B, 2>, draws: Option<&Draws>) -> Option<[Tensor<B, 2>; 2]> {
        if self.magnitude.is_some() {
            return None;
        }
        let dropped = self.dropped(x, draws);
        let narrow = self.narrow(dropped.as_ref().unwrap_or(x));
        Some([narrow, self.b.value_in(x.dtype())])
    }

    fn forward(&self, base: &Linear<B>, x: &Tensor<B, 2>, draws: Option<&Draws>) -> Tensor<B, 2> {
        if let Some([narrow, b]) = self.added(x, draws) {
            return B::add_linear_forward(base.product(x), &narrow, &b);
        }
        let Some(read) = self.dropped(x, draws) else {
            return self.scaled(base, self.inner(base, x));
        };
        let product = base.product(&read);
        let b = self.b.value_in(x.dtype());
        let inner = product.clone() + B::linear_forward(&self.narrow(&read), &b);
        drop(read);
        self.scaled(base, inner) - product + base.product(x)
    }

    fn backward_weight(
        &self,
        base: &Linear<B>,
        dy: &Tensor<B, 2>,
        x: &Tensor<B, 2>,
        draws: Option<&Draws>,
        grads: &mut Gradients<B>,
    ) {
        let dropped = self.dropped(x, draws);
        let x = dropped.as_ref().unwrap_or(x);
        let dy = match &self.magnitude {
            None => dy.clone(),
            Some(magnitude) => {
                let norms = self.norms(base);
                let own = widened(dy.clone()) * widened(self.inner(base, x));
                let own = own.sum_dim(0) / norms.clone();
                grads.change(magnitude, |sum| added(sum, own));
                dy.clone() * in_format(magnitude.value() / norms, dy.dtype())
            }
        };
        grads.change(&self.a, |sum| {
            B::linear_backward_weight(sum, &self.narrow_back(&dy), x)
        });
        grads.change(&self.b, |sum| {
            B::linear_backward_weight(sum, &dy, &self.narrow(x))
        });
    }

    fn backward_input(
        &self,
        base: &Linear<B>,
        dy: &Tensor<B, 2>,
        draws: Option<&Draws>,
    ) -> Tensor<B, 2> {
        let scaled = self.scaled(base, dy.clone());
        let narrow = self.narrow_back(&scaled);
        let a = self.a.value_in(narrow.dtype());
        let (Some(share), Some(draws)) = (self.dropout, draws) else {
            return B::add_linear_backward_input(base.product_backward(&scaled), &narrow, &a);
        };
        let own = B::linear_backward_input(&narrow, &a);
        let own = match self.magnitude {
            None => own,
            Some(_) => own + base.product_backward(&(scaled - dy.clone())),
        };
        base.product_backward(dy) + draws.dropped(own, self.a.index, share)
    }
}

impl<B: Ops> Visit<B> for LoraLayer<B> {
    fn visit<'a>(&'a self, each: &mut dyn FnMut(&'a Param<B>)) {
        each(&self.a);
        each(&self.b);
        self.magnitude.iter().for_each(each);
    }
}

#[cfg(test)]
mod tests;
