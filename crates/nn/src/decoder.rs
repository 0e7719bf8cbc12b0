//! The block of Hugging Face's decoders, with switches where they differ.
//!
//! `h = x + m post(o(gate ⊙ attention(rope(norm(q, k, v of pre(x))))))` and `y = h + m post(down(act(up(pre(h)))))`, where
//! each norm, the gate, the biases and the rotation may be missing.

use crate::attended::Attended;
use crate::block::Context;
use crate::cache::{Cached, Earlier};
use crate::draws::Draws;
use crate::layer::{AttendThenEach, Backward, Format, Layer, Saved, Saves};
use crate::linear::Linear;
use crate::norm::Norm;
use crate::param::{Gradients, Param, Visit};
use crate::projection::Projection;
use aios_tensor::attention::{concatenated, copied};
use aios_tensor::{Activation, AttentionShape, Ops, Turn};
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, activation};
use std::ops::Range;

/// What a norm of queries and keys takes as a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// Each head by itself.
    Head,
    /// All heads of a token.
    Token,
}

/// Sizes and switches of a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecoderShape {
    pub hidden: usize,
    /// Inner width of the MLP.
    pub inner: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// A token sees this many tokens, itself included; 0 for all.
    pub window: usize,
    /// Factor of the attention scores.
    pub scale: f32,
    /// Which of the context's rotary tables; `None` for no rotation.
    pub rope: Option<usize>,
    pub qk_norm: Option<QkNorm>,
    /// Attention's result is multiplied by the sigmoid of a projection of its own.
    pub gated_attention: bool,
    pub activation: Activation,
    /// The activation is the gate of a product.
    pub gated_mlp: bool,
    /// Norms of what attention and MLP give, before it is added.
    pub post_norms: bool,
    /// Factor of what is added to the residual stream.
    pub residual: f32,
}

impl DecoderShape {
    /// Width of all queries' heads.
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of queries, keys and values side by side.
    pub fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Width of the fused projection: the gate, if there is one, and queries, keys and values.
    pub fn projected_width(&self) -> usize {
        self.qkv_width() + usize::from(self.gated_attention) * self.q_width()
    }

    /// Width of what the MLP's first layer gives.
    pub fn up_width(&self) -> usize {
        self.inner * (1 + usize::from(self.gated_mlp))
    }

    /// What the block saves of each token for its backward pass, in this order; the log-sum-exp apart.
    pub fn saves(&self) -> Vec<Saves> {
        let saves = |name, numbers| Saves {
            name,
            numbers,
            format: Format::Activations,
            shared: false,
        };
        let mut all = vec![
            saves("x", self.hidden),
            saves("qkv", self.qkv_width()),
            saves("attended", self.q_width()),
            saves("middle", self.hidden),
            saves("up", self.up_width()),
        ];
        if self.gated_attention {
            all.push(saves("gate", self.q_width()));
        }
        if self.post_norms {
            all.push(saves("attention_out", self.hidden));
            all.push(saves("mlp_out", self.hidden));
        }
        all.push(Saves {
            format: Format::F32,
            ..saves("lse", self.heads)
        });
        all
    }

    /// Attention of these tokens as this block does it.
    fn attention(&self, ctx: &Context<impl Backend>) -> AttentionShape {
        AttentionShape {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: self.scale,
            window: match self.window {
                window if window >= ctx.start + ctx.shape.seq => 0,
                window => window,
            },
            ..ctx.shape
        }
    }
}

/// A block.
#[derive(Debug)]
pub struct DecoderBlock<B: Ops> {
    pub shape: DecoderShape,
    /// Its place among the blocks of a call.
    pub number: usize,
    pub before_attention: Option<Norm<B>>,
    /// The gate's rows come first, if attention is gated; then queries, keys and values.
    pub qkv: Projection<B>,
    pub q_norm: Option<Norm<B>>,
    pub k_norm: Option<Norm<B>>,
    pub o: Linear<B>,
    pub after_attention: Option<Norm<B>>,
    pub before_mlp: Option<Norm<B>>,
    pub up: Projection<B>,
    pub down: Linear<B>,
    pub after_mlp: Option<Norm<B>>,
}

/// What follows attention, token by token.
struct Mlp<B: Backend> {
    /// What the output projection gave, if a norm reads it; and what the MLP gave.
    outs: Option<[Tensor<B, 2>; 2]>,
    middle: Tensor<B, 2>,
    up: Tensor<B, 2>,
}

fn through<B: Ops>(norm: &Option<Norm<B>>, x: &Tensor<B, 2>) -> Tensor<B, 2> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x.clone(),
    }
}

fn back_through<B: Ops>(
    norm: &Option<Norm<B>>,
    x: Option<&Tensor<B, 2>>,
    dy: Tensor<B, 2>,
    grads: &mut Gradients<B>,
) -> Tensor<B, 2> {
    match (norm, x) {
        (Some(norm), Some(x)) => norm.backward(x, &dy, grads),
        _ => dy,
    }
}

/// What a function gives, which goes with all that it holds.
fn last<T>(work: impl FnOnce() -> T) -> T {
    work()
}

impl<B: Ops> DecoderBlock<B> {
    /// Its linear layers, in the order of their parameters.
    pub fn linears(&self) -> impl Iterator<Item = &Linear<B>> {
        let qkv = self.qkv.parts.iter();
        let up = self.up.parts.iter();
        qkv.chain([&self.o]).chain(up).chain([&self.down])
    }

    /// A branch's result, ready to be added.
    fn scaled(&self, branch: Tensor<B, 2>) -> Tensor<B, 2> {
        match self.shape.residual == 1.0 {
            true => branch,
            false => branch * self.shape.residual,
        }
    }

    fn mlp(
        &self,
        x: Tensor<B, 2>,
        attended: &Tensor<B, 2>,
        draws: Option<&Draws>,
    ) -> (Mlp<B>, Tensor<B, 2>) {
        let o = self.o.forward(attended, draws);
        let middle = B::sum(x, &self.scaled(through(&self.after_attention, &o)));
        let up = self.up.forward(&through(&self.before_mlp, &middle), draws);
        let down = self.down.forward(&self.activated(&up), draws);
        let y = B::sum(
            middle.clone(),
            &self.scaled(through(&self.after_mlp, &down)),
        );
        let outs = self.shape.post_norms.then_some([o, down]);
        (Mlp { outs, middle, up }, y)
    }

    fn activated(&self, up: &Tensor<B, 2>) -> Tensor<B, 2> {
        match self.shape.gated_mlp {
            true => B::gated(up, self.shape.activation),
            false => B::activation(up, self.shape.activation),
        }
    }

    /// Gradient of what the activation read, given that of the last layer's result; adds those of the last layer.
    fn activation_backward(
        &self,
        d: Tensor<B, 2>,
        up: &Tensor<B, 2>,
        draws: Option<&Draws>,
        grads: &mut Gradients<B>,
    ) -> Tensor<B, 2> {
        let kind = self.shape.activation;
        let (dy, down) = (d.clone(), &self.down);
        // Cheaper to compute again than to keep.
        let mut again = move |inner: &Tensor<B, 2>| down.backward_weight(&dy, inner, draws, grads);
        // The last to hold it.
        let d_inner = move || down.backward_input(&d, draws);
        match (self.shape.gated_mlp, kind) {
            (true, Activation::Silu) => B::back_through_swiglu(up, again, d_inner),
            (true, _) => {
                again(&B::gated(up, kind));
                drop(again);
                B::gated_backward(up, &last(d_inner), kind)
            }
            (false, _) => {
                again(&B::activation(up, kind));
                drop(again);
                B::activation_backward(up, &last(d_inner), kind)
            }
        }
    }

    fn mlp_backward(
        &self,
        mlp: Mlp<B>,
        attended: &Tensor<B, 2>,
        dy: &Tensor<B, 2>,
        draws: Option<&Draws>,
        grads: &mut Gradients<B>,
    ) -> [Tensor<B, 2>; 2] {
        let Mlp { outs, middle, up } = mlp;
        let (o, down) = match &outs {
            Some([o, down]) => (Some(o), Some(down)),
            None => (None, None),
        };
        let d = back_through(&self.after_mlp, down, self.scaled(dy.clone()), grads);
        let d_up = self.activation_backward(d, &up, draws, grads);
        drop(up);
        let d = (self.up).backward(&d_up, &through(&self.before_mlp, &middle), draws, grads);
        drop(d_up);
        let d_middle = B::sum(back_through(&self.before_mlp, Some(&middle), d, grads), dy);
        let d = self.scaled(d_middle.clone());
        let d = back_through(&self.after_attention, o, d, grads);
        self.o.backward_weight(&d, attended, draws, grads);
        let d_attended = self.o.backward_input(&d, draws);
        [d_middle, d_attended]
    }

    /// The gate's columns, and queries, keys and values.
    fn split(&self, projected: Tensor<B, 2>) -> (Option<Tensor<B, 2>>, Tensor<B, 2>) {
        if !self.shape.gated_attention {
            return (None, projected);
        }
        let (gate, rest) = (self.shape.q_width(), self.shape.qkv_width());
        let columns = |at, n| projected.clone().narrow(1, at, n);
        // A part would keep the whole alive as long as it waits.
        (Some(copied(columns(0, gate), 0)), columns(gate, rest))
    }

    /// Queries and keys normed and turned, if they are.
    fn placed(&self, ctx: &Context<B>, qkv: Tensor<B, 2>) -> Tensor<B, 2> {
        let qkv = match self.shape.qk_norm {
            Some(_) => self.normed(&qkv),
            None => qkv,
        };
        self.turn(ctx, qkv, Turn::Forward)
    }

    fn turn(&self, ctx: &Context<B>, qkv: Tensor<B, 2>, turn: Turn) -> Tensor<B, 2> {
        let table = self.shape.rope.and_then(|number| ctx.ropes.get(number));
        let shape = self.shape.attention(ctx);
        let shape = match ctx.positions {
            // A table with a row a token: all of them as one sequence.
            Some(_) => AttentionShape {
                batch: 1,
                seq: shape.batch * shape.seq,
                ..shape
            },
            None => shape,
        };
        match table {
            Some(table) => B::rope(qkv, table, &shape, turn),
            None => qkv,
        }
    }

    /// Columns of queries, keys and values.
    fn parts(&self, qkv: &Tensor<B, 2>) -> [Tensor<B, 2>; 3] {
        let (q, kv) = (
            self.shape.q_width(),
            self.shape.kv_heads * self.shape.head_dim,
        );
        [(0, q), (q, kv), (q + kv, kv)].map(|(at, n)| qkv.clone().narrow(1, at, n))
    }

    /// Rows that a norm of queries or keys reads.
    fn as_rows(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let [tokens, width] = x.dims();
        match self.shape.qk_norm {
            Some(QkNorm::Head) => {
                let dim = self.shape.head_dim;
                x.reshape([tokens * width / dim, dim])
            }
            _ => x,
        }
    }

    fn normed(&self, qkv: &Tensor<B, 2>) -> Tensor<B, 2> {
        let [q, k, v] = self.parts(qkv);
        let normed = |norm, x: Tensor<B, 2>| {
            let dims = x.dims();
            through(norm, &self.as_rows(x)).reshape(dims)
        };
        concatenated(vec![normed(&self.q_norm, q), normed(&self.k_norm, k), v], 1)
    }

    fn normed_backward(
        &self,
        qkv: &Tensor<B, 2>,
        d: &Tensor<B, 2>,
        grads: &mut Gradients<B>,
    ) -> Tensor<B, 2> {
        let ([q, k, _], [dq, dk, dv]) = (self.parts(qkv), self.parts(d));
        let mut back = |norm, x, dy: Tensor<B, 2>| {
            let dims = dy.dims();
            let (x, dy) = (self.as_rows(x), self.as_rows(dy));
            back_through(norm, Some(&x), dy, grads).reshape(dims)
        };
        let dq = back(&self.q_norm, q, dq);
        let dk = back(&self.k_norm, k, dk);
        concatenated(vec![dq, dk, dv], 1)
    }

    /// What attention read as its queries, again: all of the projection, or of a chunk the queries alone.
    fn queries(&self, ctx: &Context<B>, raw: &Tensor<B, 2>, chunk: bool) -> Tensor<B, 2> {
        let placed = self.placed(ctx, raw.clone());
        match chunk {
            true => self.parts(&placed)[0].clone(),
            false => placed,
        }
    }

    /// What the output projection reads.
    fn gated(&self, out: &Tensor<B, 2>, gate: Option<&Tensor<B, 2>>) -> Tensor<B, 2> {
        match gate {
            Some(gate) => out.clone() * activation::sigmoid(gate.clone()),
            None => out.clone(),
        }
    }
}

impl<B: Ops> AttendThenEach<B> for DecoderBlock<B> {
    fn attend(&self, ctx: &Context<B>, x: &Tensor<B, 2>, earlier: Earlier<B>) -> Attended<B> {
        let projected = (self.qkv).forward(&through(&self.before_attention, x), ctx.draws.as_ref());
        let (gate, qkv) = self.split(projected);
        let unplaced = self.shape.qk_norm.map(|_| qkv.clone());
        let shape = self.shape.attention(ctx);
        let attended = Attended::of(ctx, &shape, self.placed(ctx, qkv), earlier);
        let ungated = gate.is_some().then(|| attended.out.clone());
        Attended {
            out: self.gated(&attended.out, gate.as_ref()),
            ungated,
            gate,
            unplaced,
            ..attended
        }
    }

    fn leave(&self, ctx: &Context<B>, attended: &Attended<B>, cached: &mut Cached<B>) {
        cached.leave(self.number, ctx, self.shape.window, attended.seen());
    }

    fn each(
        &self,
        ctx: &Context<B>,
        first: usize,
        x: Tensor<B, 2>,
        attended: &Tensor<B, 2>,
    ) -> Tensor<B, 2> {
        let draws = ctx.draws_of(first..first + x.dims()[0]);
        self.mlp(x, attended, draws.as_ref()).1
    }

    fn each_backward(
        &self,
        ctx: &Context<B>,
        first: usize,
        x: Tensor<B, 2>,
        attended: &Tensor<B, 2>,
        dy: &Tensor<B, 2>,
        grads: &mut Gradients<B>,
    ) -> [Tensor<B, 2>; 2] {
        let draws = ctx.draws_of(first..first + x.dims()[0]);
        let (mlp, _) = self.mlp(x, attended, draws.as_ref());
        self.mlp_backward(mlp, attended, dy, draws.as_ref(), grads)
    }

    fn attend_backward(
        &self,
        ctx: &Context<B>,
        x: &Tensor<B, 2>,
        mut attended: Attended<B>,
        [d_sum, d_attended]: [Tensor<B, 2>; 2],
        grads: &mut Gradients<B>,
    ) -> Tensor<B, 2> {
        let (gate, unplaced) = (attended.gate.take(), attended.unplaced.take());
        if let Some(out) = attended.ungated.take() {
            attended.out = out;
        }
        let (d_gate, d) = match gate {
            None => (None, d_attended),
            Some(gate) => {
                let s = activation::sigmoid(gate);
                let slope = s.clone() * (-s.clone() + 1.0);
                let d_gate = d_attended.clone() * attended.out.clone() * slope;
                (Some(d_gate), d_attended * s)
            }
        };
        let d = attended.backward(ctx, &self.shape.attention(ctx), &d);
        drop(attended);
        let mut d = self.turn(ctx, d, Turn::Backward);
        if let Some(raw) = unplaced {
            d = self.normed_backward(&raw, &d, grads);
        }
        if let Some(d_gate) = d_gate {
            d = concatenated(vec![d_gate, d], 1);
        }
        let d = self.qkv.backward(
            &d,
            &through(&self.before_attention, x),
            ctx.draws.as_ref(),
            grads,
        );
        let d = back_through(&self.before_attention, Some(x), d, grads);
        B::sum(d, &d_sum)
    }
}

impl<B: Ops> Layer<B> for DecoderBlock<B> {
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
        let (Mlp { outs, middle, up }, y) = self.mlp(x.clone(), &attended.out, ctx.draws.as_ref());
        let Attended {
            projected,
            seen,
            out,
            lse,
            ungated,
            gate,
            unplaced,
        } = attended;
        // As a norm reads it, or else as attention does.
        let qkv = unplaced.unwrap_or(projected);
        let matrices = [x, qkv, ungated.unwrap_or(out), middle, up].into_iter();
        let matrices = matrices.chain(gate).chain(outs.into_iter().flatten());
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
        let (seen, lse) = saved.attention();
        let mut matrices = saved.all().into_iter();
        let mut next = || matrices.next().expect("as many as were saved");
        let [x, qkv, out, middle, up] = [(); 5].map(|()| next());
        let gate = self.shape.gated_attention.then(&mut next);
        let outs = self.shape.post_norms.then(|| [next(), next()]);
        pass.begins();
        let (projected, unplaced) = match self.shape.qk_norm {
            None => (qkv, None),
            Some(_) => (self.queries(ctx, &qkv, seen.is_some()), Some(qkv)),
        };
        let attended = Attended {
            gate,
            unplaced,
            ..Attended::again(projected, seen, out, lse)
        };
        self.leave(ctx, &attended, &mut cached);
        let read = self.gated(&attended.out, attended.gate.as_ref());
        let (mlp, draws) = (Mlp { outs, middle, up }, ctx.draws.as_ref());
        let gradients = self.mlp_backward(mlp, &read, &dy, draws, pass.grads);
        drop((read, dy));
        let dx = self.attend_backward(ctx, &x, attended, gradients, pass.grads);
        pass.done(self);
        dx
    }

    fn saves(&self) -> Vec<Saves> {
        self.shape.saves()
    }

    fn blocks(&self) -> Range<usize> {
        self.number..self.number + 1
    }

    fn as_attend_then_each(&self) -> Option<&dyn AttendThenEach<B>> {
        Some(self)
    }
}

impl<B: Ops> Visit<B> for DecoderBlock<B> {
    fn visit<'a>(&'a self, each: &mut dyn FnMut(&'a Param<B>)) {
        let norm = |norm: &'a Option<Norm<B>>, each: &mut dyn FnMut(&'a Param<B>)| {
            norm.iter().for_each(|norm| norm.visit(each));
        };
        norm(&self.before_attention, each);
        self.qkv.visit(each);
        norm(&self.q_norm, each);
        norm(&self.k_norm, each);
        self.o.visit(each);
        norm(&self.after_attention, each);
        norm(&self.before_mlp, each);
        self.up.visit(each);
        self.down.visit(each);
        norm(&self.after_mlp, each);
    }
}
