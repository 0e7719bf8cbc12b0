//! One post-norm block: attention, then SwiGLU, each followed by an RMSNorm of the residual sum.

use super::config::NORM_EPS;
use super::param::{Gradients, Param};
use crate::ops::{AttentionPath, AttentionShape, Ops, Rope, Turn};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// What every block of a pass needs besides its own weights.
#[derive(Clone, Debug)]
pub struct Context<B: Backend> {
    pub shape: AttentionShape,
    pub path: AttentionPath,
    /// `None` with learned positions.
    pub rope: Option<Rope<B>>,
}

/// Weights of a block.
#[derive(Clone, Debug)]
pub struct Block<B: Backend> {
    pub qkv: Param<B>,
    pub o: Param<B>,
    pub gate_up: Param<B>,
    pub down: Param<B>,
}

/// What the backward pass of a block needs: 10 numbers a token and hidden unit, at the default
/// expansion, and one log-sum-exp a token and head.
#[derive(Clone, Debug)]
pub struct Saved<B: Backend> {
    x: Tensor<B, 2>,
    qkv: Tensor<B, 2>,
    attended: Tensor<B, 2>,
    lse: Tensor<B, 3>,
    middle: Tensor<B, 2>,
    middle_scale: Tensor<B, 2>,
    gate_up: Tensor<B, 2>,
    y: Tensor<B, 2>,
    y_scale: Tensor<B, 2>,
}

impl<B: Ops> Block<B> {
    /// `[T, hidden]` to `[T, hidden]`, keeping nothing.
    pub fn forward(&self, ctx: &Context<B>, x: Tensor<B, 2>) -> Tensor<B, 2> {
        self.forward_saving(ctx, x).0
    }

    /// The same, with what [`Block::backward`] needs.
    pub fn forward_saving(&self, ctx: &Context<B>, x: Tensor<B, 2>) -> (Tensor<B, 2>, Saved<B>) {
        let qkv = B::linear_forward(&x, &self.qkv.value);
        let qkv = self.turn(ctx, qkv, Turn::Forward);
        let (attended, lse) = B::attention_fused(&qkv, &ctx.shape, ctx.path);
        let projected = B::linear_forward(&attended, &self.o.value);
        let (middle, middle_scale) = B::add_rms_norm(x.clone(), projected, NORM_EPS);

        let gate_up = B::linear_forward(&middle, &self.gate_up.value);
        let down = B::linear_forward(&B::swiglu(&gate_up), &self.down.value);
        let (y, y_scale) = B::add_rms_norm(middle.clone(), down, NORM_EPS);
        let saved = Saved {
            x,
            qkv,
            attended,
            lse,
            middle,
            middle_scale,
            gate_up,
            y: y.clone(),
            y_scale,
        };
        (y, saved)
    }

    /// Gradient with respect to `x`, given that of the result; adds those of the weights.
    pub fn backward(
        &self,
        ctx: &Context<B>,
        saved: Saved<B>,
        dy: &Tensor<B, 2>,
        grads: &mut Gradients<B>,
    ) -> Tensor<B, 2> {
        let d_sum = B::add_rms_norm_backward(&saved.y, &saved.y_scale, dy);
        // The activation is cheap to compute and half as large again as the hidden state to keep.
        grads.add_linear(&self.down, &d_sum, &B::swiglu(&saved.gate_up));
        let d_inner = B::linear_backward_input(&d_sum, &self.down.value);
        let d_gate_up = B::swiglu_backward(&saved.gate_up, &d_inner);
        grads.add_linear(&self.gate_up, &d_gate_up, &saved.middle);
        let d_middle = d_sum + B::linear_backward_input(&d_gate_up, &self.gate_up.value);

        let d_sum = B::add_rms_norm_backward(&saved.middle, &saved.middle_scale, &d_middle);
        grads.add_linear(&self.o, &d_sum, &saved.attended);
        let d_attended = B::linear_backward_input(&d_sum, &self.o.value);
        let d_qkv = B::attention_fused_backward(
            &saved.qkv,
            &saved.attended,
            &saved.lse,
            &d_attended,
            &ctx.shape,
            ctx.path,
        );
        let d_qkv = self.turn(ctx, d_qkv, Turn::Backward);
        grads.add_linear(&self.qkv, &d_qkv, &saved.x);
        d_sum + B::linear_backward_input(&d_qkv, &self.qkv.value)
    }

    fn turn(&self, ctx: &Context<B>, qkv: Tensor<B, 2>, turn: Turn) -> Tensor<B, 2> {
        match &ctx.rope {
            Some(table) => B::rope(qkv, table, &ctx.shape, turn),
            None => qkv,
        }
    }
}
