//! AdamW, and what the gradient norm is made of, in plain tensor operations.

use crate::Ops;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

pub use aios_kernels::adamw::Step as AdamWStep;

/// Parameters that [`crate::Ops::adamw_all`] is given at a time, as many as a kernel takes.
pub const TOGETHER: usize = 4;
/// Elements of one of them at the most: that are 16 MiB, of whose gradients there may be copies in rows without padding.
pub const TOGETHER_ELEMENTS: usize = 4 << 20;

/// What a step makes of a parameter and of its moments.
pub type Updated<B> = (Tensor<B, 2>, [Tensor<B, 2>; 2]);

/// A step of one parameter with moments in f32.
#[derive(Clone, Debug)]
pub struct AdamWUpdate<B: Backend> {
    pub parameter: Tensor<B, 2>,
    pub gradient: Tensor<B, 2>,
    pub moments: [Tensor<B, 2>; 2],
    pub step: AdamWStep,
}

impl<B: Ops> AdamWUpdate<B> {
    /// By itself.
    pub(crate) fn alone(self) -> Updated<B> {
        B::adamw(
            self.parameter,
            self.gradient,
            Some(self.moments),
            &self.step,
        )
    }
}

pub(super) fn adamw<B: Backend>(
    parameter: Tensor<B, 2>,
    gradient: Tensor<B, 2>,
    moments: Option<[Tensor<B, 2>; 2]>,
    step: &AdamWStep,
) -> Updated<B> {
    let [m, v] = moments.unwrap_or_else(|| [parameter.zeros_like(), parameter.zeros_like()]);
    let g = gradient * step.gradient_scale;
    let m = m * step.beta1 + g.clone() * (1.0 - step.beta1);
    let v = v * step.beta2 + g.clone() * g * (1.0 - step.beta2);
    let (rate, root) = step.corrections();
    let change = m.clone() / (v.clone().sqrt() * root + step.eps) * rate;
    let parameter = parameter * (1.0 - step.learning_rate * step.weight_decay) - change;
    (parameter, [m, v])
}

pub(super) fn squares<B: Backend>(tensors: &[&Tensor<B, 2>]) -> Vec<Tensor<B, 1>> {
    let square = |t: &&Tensor<B, 2>| ((*t).clone() * (*t).clone()).sum();
    tensors.iter().map(square).collect()
}
