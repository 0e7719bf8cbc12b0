//! One post-norm block: attention, then SwiGLU, each followed by an RMSNorm of the residual sum.

use crate::attended::Attended;
use crate::cache::{Cached, Earlier};
use crate::draws::Draws;
use crate::layer::{AttendThenEach, Backward, Format, Layer, Saved, Saves};
use crate::linear::Linear;
use crate::param::{Gradients, Param, Visit};
use aios_tensor::attention::Visible;
use aios_tensor::{AttentionPath, AttentionShape, Ops, Rope, Turn};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// Added to the mean square in RMSNorm, as published.
pub const NORM_EPS: f32 = 1e-5;

/// What every block of a pass needs besides its own weights.
#[derive(Clone, Debug)]
pub struct Context<B: Backend> {
    /// Of the tokens at hand: whole sequences, or a chunk of each.
    pub shape: AttentionShape,
    pub path: AttentionPath,
    /// Tokens of a sequence of which these may be a part.
    pub length: usize,
    /// Position of the first token.
    pub start: usize,
    /// The sequences end with these tokens.
    pub last: bool,
    /// Rotary tables from `start` on, of which a block knows its own; none with learned positions.
    pub ropes: Vec<Rope<B>>,
    /// Position of each token, `[T]`, where it is not `start` and its place in the sequence: documents that are packed.
    /// Rotary tables have a row a token then.
    pub positions: Option<Arc<Vec<i32>>>,
    /// First and last visible key of each query, where these are not all earlier ones.
    pub visible: Option<Visible<B>>,
    /// What is drawn for the tokens at hand, in training with something that is by chance.
    pub draws: Option<Draws>,
}

impl<B: Backend> Context<B> {
    /// The same for another run of the same layers.
    pub fn of_call(&self, call: usize) -> Cow<'_, Self> {
        match &self.draws {
            None => Cow::Borrowed(self),
            Some(draws) => Cow::Owned(Self {
                draws: Some(draws.of_call(call)),
                ..self.clone()
            }),
        }
    }

    /// What is drawn for some of its tokens.
    pub(crate) fn draws_of(&self, rows: Range<usize>) -> Option<Draws> {
        self.draws.as_ref().map(|draws| draws.of_rows(rows))
    }
}

/// Sizes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockShape {
    pub hidden: usize,
    /// Inner width of SwiGLU.
    pub inner: usize,
    pub heads: usize,
    /// Heads of keys and values, each of which `heads / kv_heads` heads of queries share.
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl BlockShape {
    /// Numbers in its weights.
    pub fn parameters(&self) -> usize {
        let attention = self.qkv_width() + self.q_width();
        self.hidden * (attention + 3 * self.inner)
    }

    /// Numbers in the queries of a token, and in what attention gives.
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Numbers in the keys of a token, or in its values.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Numbers in the fused projection of a token.
    pub fn qkv_width(&self) -> usize {
        self.q_width() + 2 * self.kv_width()
    }

    /// What the block saves of each token for its backward pass, in this order; the log-sum-exp apart.
    pub fn saves(&self) -> [Saves; 9] {
        let saves = |name, numbers, format| Saves {
            name,
            numbers,
            format,
            shared: false,
        };
        let activations = |name, numbers| saves(name, numbers, Format::Activations);
        let statistic = |name, numbers| saves(name, numbers, Format::F32);
        let (hidden, inner) = (self.hidden, self.inner);
        [
            activations("x", hidden),
            activations("qkv", self.qkv_width()),
            activations("attended", self.q_width()),
            activations("middle", hidden),
            statistic("middle_scale", 1),
            activations("gate_up", 2 * inner),
            // The next block's x.
            Saves {
                shared: true,
                ..activations("y", hidden)
            },
            statistic("y_scale", 1),
            statistic("lse", self.heads),
        ]
    }
}

/// A block.
#[derive(Debug)]
pub struct Block<B: Ops> {
    pub shape: BlockShape,
    /// Its place among the blocks of a call.
    pub number: usize,
    pub qkv: Linear<B>,
    pub o: Linear<B>,
    pub gate_up: Linear<B>,
    pub down: Linear<B>,
}

/// What follows attention, token by token.
struct Mlp<B: Backend> {
    middle: Tensor<B, 2>,
    middle_scale: Tensor<B, 2>,
    gate_up: Tensor<B, 2>,
    y: Tensor<B, 2>,
    y_scale: Tensor<B, 2>,
}

impl<B: Ops> Block<B> {
    fn mlp(&self, x: Tensor<B, 2>, attended: &Tensor<B, 2>) -> Mlp<B> {
        let projected = self.o.forward(attended, None);
        let (middle, middle_scale) = B::add_rms_norm(x, projected, NORM_EPS);
        let gate_up = self.gate_up.forward(&middle, None);
        let down = self.down.forward(&B::swiglu(&gate_up), None);
        let (y, y_scale) = B::add_rms_norm(middle.clone(), down, NORM_EPS);
        Mlp {
            middle,
            middle_scale,
            gate_up,
            y,
            y_scale,
        }
    }

    fn mlp_backward(
        &self,
        mlp: &Mlp<B>,
        attended: &Tensor<B, 2>,
        dy: &Tensor<B, 2>,
        grads: &mut Gradients<B>,
    ) -> [Tensor<B, 2>; 2] {
        let d_sum = B::add_rms_norm_backward(&mlp.y, &mlp.y_scale, dy);
        // The activation is cheap to compute and half as large again as the hidden state to keep.
        let d_gate_up = B::back_through_swiglu(
            &mlp.gate_up,
            |inner| self.down.backward_weight(&d_sum, inner, None, grads),
            || self.down.backward_input(&d_sum, None),
        );
        (self.gate_up).backward_weight(&d_gate_up, &mlp.middle, None, grads);
        let d_middle = [d_sum, self.gate_up.backward_input(&d_gate_up, None)];
        let (middle, scale) = (&mlp.middle, &mlp.middle_scale);
        let d_sum = B::add_rms_norm_backward_of_two(middle, scale, d_middle);
        self.o.backward_weight(&d_sum, attended, None, grads);
        let d_attended = self.o.backward_input(&d_sum, None);
        [d_sum, d_attended]
    }

    fn turn(&self, ctx: &Context<B>, qkv: Tensor<B, 2>, turn: Turn) -> Tensor<B, 2> {
        match ctx.ropes.first() {
            Some(table) => B::rope(qkv, table, &ctx.shape, turn),
            None => qkv,
        }
    }
}

impl<B: Ops> AttendThenEach<B> for Block<B> {
    fn attend(&self, ctx: &Context<B>, x: &Tensor<B, 2>, earlier: Earlier<B>) -> Attended<B> {
        let qkv = self.qkv.forward(x, None);
        let qkv = self.turn(ctx, qkv, Turn::Forward);
        Attended::of(ctx, &ctx.shape, qkv, earlier)
    }

    fn leave(&self, ctx: &Context<B>, attended: &Attended<B>, cached: &mut Cached<B>) {
        cached.leave(self.number, ctx, ctx.shape.window, attended.seen());
    }

    fn each(
        &self,
        _: &Context<B>,
        _: usize,
        x: Tensor<B, 2>,
        attended: &Tensor<B, 2>,
    ) -> Tensor<B, 2> {
        self.mlp(x, attended).y
    }

    fn each_backward(
        &self,
        _: &Context<B>,
        _: usize,
        x: Tensor<B, 2>,
        attended: &Tensor<B, 2>,
        dy: &Tensor<B, 2>,
        grads: &mut Gradients<B>,
    ) -> [Tensor<B, 2>; 2] {
        self.mlp_backward(&self.mlp(x, attended), attended, dy, grads)
    }

    fn attend_backward(
        &self,
        ctx: &Context<B>,
        x: &Tensor<B, 2>,
        attended: Attended<B>,
        [d_sum, d_attended]: [Tensor<B, 2>; 2],
        grads: &mut Gradients<B>,
    ) -> Tensor<B, 2> {
        let d_qkv = attended.backward(ctx, &ctx.shape, &d_attended);
        drop(attended);
        let d_qkv = self.turn(ctx, d_qkv, Turn::Backward);
        self.qkv.backward_weight(&d_qkv, x, None, grads);
        d_sum + self.qkv.backward_input(&d_qkv, None)
    }
}

impl<B: Ops> Layer<B> for Block<B> {
    fn forward(&self, ctx: &Context<B>, x: Tensor<B, 2>, cached: Cached<B>) -> Tensor<B, 2> {
        self.in_turn(ctx, x, cached)
    }

    fn forward_saving(
        &self,
        ctx: &Context<B>,
        x: Tensor<B, 2>,
        mut cached: Cached<B>,
    ) -> (Tensor<B, 2>, Saved<B>) {
        let attended = self.attend(ctx, &x, cached.take(self.number));
        let mlp = self.mlp(x.clone(), &attended.out);
        let Attended {
            projected,
            seen,
            out,
            lse,
            ..
        } = attended;
        let y = mlp.y.clone();
        let matrices = [
            x,
            projected,
            out,
            mlp.middle,
            mlp.middle_scale,
            mlp.gate_up,
            mlp.y,
            mlp.y_scale,
        ];
        (y, Saved::with_attention(matrices, seen, lse))
    }

    fn backward(
        &self,
        ctx: &Context<B>,
        mut saved: Saved<B>,
        dy: Tensor<B, 2>,
        pass: &mut Backward<B>,
        mut cached: Cached<B>,
    ) -> Tensor<B, 2> {
        let [x, projected, out, middle, middle_scale, gate_up, y, y_scale] = saved.matrices();
        let (seen, lse) = saved.attention();
        let attended = Attended::again(projected, seen, out, lse);
        pass.begins();
        self.leave(ctx, &attended, &mut cached);
        let mlp = Mlp {
            middle,
            middle_scale,
            gate_up,
            y,
            y_scale,
        };
        let gradients = self.mlp_backward(&mlp, &attended.out, &dy, pass.grads);
        drop(mlp);
        let dx = self.attend_backward(ctx, &x, attended, gradients, pass.grads);
        pass.done(self);
        dx
    }

    fn saves(&self) -> Vec<Saves> {
        self.shape.saves().to_vec()
    }

    fn blocks(&self) -> Range<usize> {
        self.number..self.number + 1
    }

    fn as_attend_then_each(&self) -> Option<&dyn AttendThenEach<B>> {
        Some(self)
    }
}

impl<B: Ops> Visit<B> for Block<B> {
    fn visit<'a>(&'a self, each: &mut dyn FnMut(&'a Param<B>)) {
        for linear in [&self.qkv, &self.o, &self.gate_up, &self.down] {
            linear.visit(each);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParamInfo;
    use aios_base::storage::Storage;
    use aios_tensor::CpuBackend;

    fn linear(index: usize, outputs: usize, inputs: usize) -> Linear<CpuBackend> {
        let info = ParamInfo {
            name: index.to_string(),
            shape: vec![outputs, inputs],
            decay: true,
            trained: true,
            storage: Storage::F32,
        };
        let value = Tensor::ones([outputs, inputs], &Default::default()) * 0.1;
        Linear::new(Param::new(info, index, value))
    }

    fn block(shape: BlockShape) -> Block<CpuBackend> {
        let BlockShape { hidden, inner, .. } = shape;
        Block {
            shape,
            number: 0,
            qkv: linear(0, 3 * hidden, hidden),
            o: linear(1, hidden, hidden),
            gate_up: linear(2, 2 * inner, hidden),
            down: linear(3, hidden, inner),
        }
    }

    #[test]
    fn what_is_saved_is_what_is_declared() {
        let shape = BlockShape {
            hidden: 12,
            inner: 20,
            heads: 3,
            kv_heads: 3,
            head_dim: 4,
        };
        let (block, tokens) = (block(shape), 5);
        let elements: usize = block.params().iter().map(|p| p.info.elements()).sum();
        assert_eq!(elements, shape.parameters());
        let ctx = Context {
            shape: AttentionShape::new(1, tokens, 3, 4),
            path: AttentionPath::Flash,
            length: tokens,
            start: 0,
            last: true,
            ropes: Vec::new(),
            positions: None,
            visible: None,
            draws: None,
        };
        let x = Tensor::ones([tokens, 12], &Default::default());
        let (_, saved) = block.forward_saving(&ctx, x, Cached::Whole);
        let mut sizes = saved.sizes();
        sizes.extend(saved.lse.map(|lse| lse.shape().num_elements()));
        let declared: Vec<usize> = block.saves().iter().map(|s| tokens * s.numbers).collect();
        assert_eq!(sizes, declared);
    }

    #[test]
    fn a_frozen_weight_has_no_gradient() {
        let mut linear = linear(0, 2, 3);
        linear.weight.info.trained = false;
        let mut grads = Gradients::new(1);
        let device = Default::default();
        let (x, dy) = (Tensor::ones([4, 3], &device), Tensor::ones([4, 2], &device));
        linear.backward_weight(&dy, &x, None, &mut grads);
        assert!(grads.get(&linear.weight).is_none());
        assert_eq!(linear.backward_input(&dy, None).dims(), [4, 3]);
    }
}
