//! One post-norm block: attention, then SwiGLU, each followed by an RMSNorm of the residual sum.

use crate::param::{Gradients, Param};
use aios_tensor::attention::KeysValues;
use aios_tensor::{AttentionPath, AttentionShape, Ops, Rope, Turn, attention};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// Added to the mean square in RMSNorm, as published.
pub const NORM_EPS: f32 = 1e-5;

/// What every block of a pass needs besides its own weights.
#[derive(Clone, Debug)]
pub struct Context<B: Backend> {
    /// Of the tokens at hand: whole sequences, or a chunk of each.
    pub shape: AttentionShape,
    pub path: AttentionPath,
    /// Position of the first token.
    pub start: usize,
    /// The sequences end with these tokens.
    pub last: bool,
    /// Everything but attention runs on so many rows at a time.
    pub tile: Option<usize>,
    /// From `start` on; `None` with learned positions.
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
    attention: Attention<B>,
    mlp: Mlp<B>,
}

/// What attention read and gave.
#[derive(Clone, Debug)]
pub(super) struct Attention<B: Backend> {
    inputs: Inputs<B>,
    pub out: Tensor<B, 2>,
    lse: Tensor<B, 3>,
}

#[derive(Clone, Debug)]
enum Inputs<B: Backend> {
    /// The fused projection of whole sequences.
    Whole(Tensor<B, 2>),
    /// Queries of a chunk, and what they see.
    Chunk(Tensor<B, 2>, KeysValues<B>),
}

/// What follows attention, token by token.
#[derive(Clone, Debug)]
pub(super) struct Mlp<B: Backend> {
    middle: Tensor<B, 2>,
    middle_scale: Tensor<B, 2>,
    gate_up: Tensor<B, 2>,
    pub y: Tensor<B, 2>,
    y_scale: Tensor<B, 2>,
}

/// What a block's attention sees besides the tokens at hand.
#[derive(Clone, Debug)]
pub enum Earlier<B: Backend> {
    /// The tokens are whole sequences.
    Whole,
    /// Of the chunks before; `None` for the first one.
    Chunks(Option<KeysValues<B>>),
}

impl<B: Ops> Block<B> {
    /// `[T, hidden]` to `[T, hidden]`, and what the queries of a chunk saw: its own tokens' are the
    /// last.
    pub fn forward(
        &self,
        ctx: &Context<B>,
        x: Tensor<B, 2>,
        earlier: Earlier<B>,
    ) -> (Tensor<B, 2>, Option<KeysValues<B>>) {
        let (attention, y) = match ctx.tile {
            Some(_) => self.forward_tiled(ctx, &x, earlier),
            None => {
                let attention = self.attend(ctx, &x, earlier);
                let y = self.mlp(x, &attention.out).y;
                (attention, y)
            }
        };
        (y, attention.seen().cloned())
    }

    /// The same, with what [`Block::backward`] needs.
    pub fn forward_saving(
        &self,
        ctx: &Context<B>,
        x: Tensor<B, 2>,
        earlier: Earlier<B>,
    ) -> Saved<B> {
        let attention = self.attend(ctx, &x, earlier);
        let mlp = self.mlp(x.clone(), &attention.out);
        Saved { x, attention, mlp }
    }

    /// Gradient with respect to `x`, given that of the result; adds those of the weights. Keys and
    /// values of earlier chunks count as constants.
    pub fn backward(
        &self,
        ctx: &Context<B>,
        saved: Saved<B>,
        dy: &Tensor<B, 2>,
        grads: &mut Gradients<B>,
    ) -> Tensor<B, 2> {
        let Saved { x, attention, mlp } = saved;
        let (d_sum, d_attended) = self.mlp_backward(&mlp, &attention.out, dy, grads);
        drop(mlp);
        self.attend_backward(ctx, &x, attention, &d_attended, d_sum, grads)
    }

    /// Attention of the projected input.
    pub(super) fn attend(
        &self,
        ctx: &Context<B>,
        x: &Tensor<B, 2>,
        earlier: Earlier<B>,
    ) -> Attention<B> {
        let qkv = B::linear_forward(x, &self.qkv.value);
        let qkv = self.turn(ctx, qkv, Turn::Forward);
        let (inputs, (out, lse)) = match earlier {
            Earlier::Whole => {
                let result = B::attention_fused(&qkv, &ctx.shape, ctx.path);
                (Inputs::Whole(qkv), result)
            }
            Earlier::Chunks(past) => {
                let (q, seen) = attention::split_chunk(qkv, past, &ctx.shape);
                let result = attention::chunk(&q, &seen, &ctx.shape, ctx.path);
                (Inputs::Chunk(q, seen), result)
            }
        };
        Attention { inputs, out, lse }
    }

    /// Everything after attention.
    pub(super) fn mlp(&self, x: Tensor<B, 2>, attended: &Tensor<B, 2>) -> Mlp<B> {
        let projected = B::linear_forward(attended, &self.o.value);
        let (middle, middle_scale) = B::add_rms_norm(x, projected, NORM_EPS);
        let gate_up = B::linear_forward(&middle, &self.gate_up.value);
        let down = B::linear_forward(&B::swiglu(&gate_up), &self.down.value);
        let (y, y_scale) = B::add_rms_norm(middle.clone(), down, NORM_EPS);
        Mlp {
            middle,
            middle_scale,
            gate_up,
            y,
            y_scale,
        }
    }

    /// Gradients with respect to `x` (as far as it does not pass attention) and to `attended`.
    pub(super) fn mlp_backward(
        &self,
        mlp: &Mlp<B>,
        attended: &Tensor<B, 2>,
        dy: &Tensor<B, 2>,
        grads: &mut Gradients<B>,
    ) -> (Tensor<B, 2>, Tensor<B, 2>) {
        let d_sum = B::add_rms_norm_backward(&mlp.y, &mlp.y_scale, dy);
        // The activation is cheap to compute and half as large again as the hidden state to keep.
        grads.add_linear(&self.down, &d_sum, &B::swiglu(&mlp.gate_up));
        let d_inner = B::linear_backward_input(&d_sum, &self.down.value);
        let d_gate_up = B::swiglu_backward(&mlp.gate_up, &d_inner);
        drop(d_inner);
        grads.add_linear(&self.gate_up, &d_gate_up, &mlp.middle);
        let d_middle = d_sum + B::linear_backward_input(&d_gate_up, &self.gate_up.value);

        let d_sum = B::add_rms_norm_backward(&mlp.middle, &mlp.middle_scale, &d_middle);
        grads.add_linear(&self.o, &d_sum, attended);
        let d_attended = B::linear_backward_input(&d_sum, &self.o.value);
        (d_sum, d_attended)
    }

    /// Gradient with respect to `x`, added to what did not pass attention.
    pub(super) fn attend_backward(
        &self,
        ctx: &Context<B>,
        x: &Tensor<B, 2>,
        attention: Attention<B>,
        d_attended: &Tensor<B, 2>,
        d_sum: Tensor<B, 2>,
        grads: &mut Gradients<B>,
    ) -> Tensor<B, 2> {
        let Attention { inputs, out, lse } = attention;
        let (shape, path) = (&ctx.shape, ctx.path);
        let d_qkv = match &inputs {
            Inputs::Whole(qkv) => {
                B::attention_fused_backward(qkv, &out, &lse, d_attended, shape, path)
            }
            Inputs::Chunk(q, seen) => {
                attention::chunk_backward(q, seen, &out, &lse, d_attended, shape, path)
            }
        };
        drop((inputs, out));
        let d_qkv = self.turn(ctx, d_qkv, Turn::Backward);
        grads.add_linear(&self.qkv, &d_qkv, x);
        d_sum + B::linear_backward_input(&d_qkv, &self.qkv.value)
    }

    fn turn(&self, ctx: &Context<B>, qkv: Tensor<B, 2>, turn: Turn) -> Tensor<B, 2> {
        match &ctx.rope {
            Some(table) => B::rope(qkv, table, &ctx.shape, turn),
            None => qkv,
        }
    }
}

impl<B: Ops> Saved<B> {
    /// The block's result.
    pub fn y(&self) -> &Tensor<B, 2> {
        &self.mlp.y
    }

    /// What the queries of a chunk saw.
    pub fn seen(&self) -> Option<&KeysValues<B>> {
        self.attention.seen()
    }
}

impl<B: Ops> Attention<B> {
    pub fn seen(&self) -> Option<&KeysValues<B>> {
        match &self.inputs {
            Inputs::Whole(_) => None,
            Inputs::Chunk(_, seen) => Some(seen),
        }
    }
}
