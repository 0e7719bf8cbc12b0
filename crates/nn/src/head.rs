//! The language-model head and its loss.

use crate::param::{Gradients, Param};
use aios_tensor::{LossPath, Ops, TokenLosses};
use burn::tensor::Tensor;

/// Cross-entropy of the next tokens, and its gradient with respect to `z`, `[tokens, hidden]`; adds that of the `head`,
/// `[vocabulary, hidden]`, if it is trained. `weights[t]` is the factor of token t's loss in the objective.
pub fn head_loss<B: Ops>(
    head: &Param<B>,
    path: LossPath,
    z: &Tensor<B, 2>,
    labels: &[i32],
    weights: &[f32],
    grads: &mut Gradients<B>,
) -> (TokenLosses<B>, Tensor<B, 2>) {
    let w = head.value_in(z.dtype());
    if !head.info.trained {
        return path.backward_input(z, &w, labels, weights);
    }
    let (loss, dz, dw) = path.backward(z, &w, labels, weights, grads.take(head));
    grads.change(head, |_| dw);
    (loss, dz)
}
