//! The whole model: embedding, two recurrent levels, language-model head and halting head.

use crate::actv1::config::{ModelConfig, PosEncodings, ROPE_THETA};
use crate::actv1::halting::Answers;
use crate::actv1::layout::layout;
use crate::embedding::Embedding;
use crate::parameters::{ParamSource, Parameters, drawn};
use aios_base::error::Result;
use aios_base::execution::Place;
use aios_nn::{
    Block, BlockShape, Context, Gradients, KvCaches, Layer, Linear, Param, SharedLayer, Stack,
    Visit, shared,
};
use aios_tensor::{
    AttentionPath, AttentionShape, Ops, Precision, Rope, dtype, ids_tensor, in_format, widened,
};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use std::ops::Range;
use std::rc::Rc;

/// The blocks that one level applies at each of its cycles.
pub struct Level<B: Ops> {
    blocks: Vec<Rc<Block<B>>>,
    /// The same as they are run: with what was put around them.
    stack: Stack<B>,
}

impl<B: Ops> Level<B> {
    fn new(blocks: Vec<Block<B>>) -> Self {
        let blocks: Vec<_> = blocks.into_iter().map(Rc::new).collect();
        let stack = Stack::new(shared(&blocks));
        Self { blocks, stack }
    }

    /// The level as one layer.
    pub fn layer(&self) -> &dyn Layer<B> {
        &self.stack
    }

    fn len(&self) -> usize {
        self.blocks.len()
    }
}

impl<B: Ops> Visit<B> for Level<B> {
    fn visit<'a>(&'a self, each: &mut dyn FnMut(&'a Param<B>)) {
        self.blocks.iter().for_each(|block| block.visit(each));
    }
}

/// State handed from segment to segment, `[T, hidden]` each.
#[derive(Clone, Debug)]
pub struct Carry<B: Backend> {
    pub z_h: Tensor<B, 2>,
    pub z_l: Tensor<B, 2>,
}

/// The model.
pub struct ActV1<B: Ops> {
    pub config: ModelConfig,
    pub embedding: Param<B>,
    /// With learned positions.
    pub positions: Option<Param<B>>,
    pub high: Level<B>,
    pub low: Level<B>,
    /// `None` if the embedding's table serves as it: see [`ActV1::head`].
    pub lm_head: Option<Param<B>>,
    /// The halting head.
    pub q_head: Linear<B>,
    /// Initial carry, fixed.
    pub h_init: Param<B>,
    pub l_init: Param<B>,
    rope: Option<Rope<B>>,
}

fn level<B: Ops>(b: &mut Parameters<B>, layers: usize, shape: BlockShape) -> Result<Level<B>> {
    let blocks = (0..layers).map(|number| {
        let block = Block {
            shape,
            number,
            qkv: Linear::new(b.next()?),
            o: Linear::new(b.next()?),
            gate_up: Linear::new(b.next()?),
            down: Linear::new(b.next()?),
        };
        // Each call of the level multiplies by all of them.
        block.params().into_iter().for_each(Param::keep_cast);
        Ok(block)
    });
    Ok(Level::new(blocks.collect::<Result<_>>()?))
}

impl<B: Ops> Visit<B> for ActV1<B> {
    fn visit<'a>(&'a self, each: &mut dyn FnMut(&'a Param<B>)) {
        each(&self.embedding);
        self.positions.iter().for_each(&mut *each);
        self.high.visit(each);
        self.low.visit(each);
        self.lm_head.iter().for_each(&mut *each);
        self.q_head.visit(each);
        each(&self.h_init);
        each(&self.l_init);
    }
}

impl<B: Ops> ActV1<B> {
    /// Build the model on a device from a source of values.
    ///
    /// # Errors
    /// An impossible configuration, or whatever the source reports.
    pub fn build(config: &ModelConfig, device: &B::Device, source: ParamSource) -> Result<Self> {
        Self::build_for(config, config.max_seq_len, device, source)
    }

    /// The same for sequences of no more than `positions` tokens: rotary tables are no longer than
    /// that.
    ///
    /// # Errors
    /// As [`ActV1::build`].
    pub fn build_for(
        config: &ModelConfig,
        positions: usize,
        device: &B::Device,
        source: ParamSource,
    ) -> Result<Self> {
        config.validate()?;
        let table = positions.clamp(1, config.max_seq_len);
        let mut b = Parameters::new(layout(config), device, source);
        let embedding = b.next()?;
        let positions = b.next_if(config.pos_encodings == PosEncodings::Learned)?;
        let high = level(&mut b, config.h_layers, config.block_shape())?;
        let low = level(&mut b, config.l_layers, config.block_shape())?;
        let lm_head = b.next_if(!config.tie_embeddings)?;
        let mut q_head = Linear::new(b.next()?);
        q_head.bias = Some(b.next()?);
        let (h_init, l_init) = (b.next()?, b.next()?);
        let rope = (config.pos_encodings == PosEncodings::Rope)
            .then(|| Rope::new(table, config.head_dim(), ROPE_THETA, device));
        Ok(Self {
            config: config.clone(),
            embedding,
            positions,
            high,
            low,
            lm_head,
            q_head,
            h_init,
            l_init,
            rope,
        })
    }

    /// A model with fresh weights.
    ///
    /// # Errors
    /// An impossible configuration.
    pub fn init(config: &ModelConfig, seed: u64, device: &B::Device) -> Result<Self> {
        Self::build(config, device, &mut drawn(seed))
    }

    /// Put decorators around the blocks of each level, in place of those that are there.
    pub fn decorate(&mut self, around: &dyn Fn(Vec<SharedLayer<B>>) -> Stack<B>) {
        for level in [&mut self.high, &mut self.low] {
            level.stack = around(shared(&level.blocks));
        }
    }

    /// Weight of the language-model head, `[vocabulary, hidden]`.
    pub fn head(&self) -> &Param<B> {
        self.lm_head.as_ref().unwrap_or(&self.embedding)
    }

    /// Gradient sums for this model, empty.
    pub fn gradients(&self) -> Gradients<B> {
        Gradients::new(self.params().len())
    }

    /// What the blocks need for `batch` sequences of `seq` tokens.
    pub fn context(&self, batch: usize, seq: usize, path: AttentionPath) -> Context<B> {
        Context {
            shape: AttentionShape {
                causal: self.config.causal,
                // A window that covers everything needs no mask.
                window: match self.config.window_size {
                    window if window >= seq => 0,
                    window => window,
                },
                ..AttentionShape::new(batch, seq, self.config.num_heads, self.config.head_dim())
            },
            path,
            length: seq,
            start: 0,
            last: true,
            ropes: self.rope.iter().cloned().collect(),
            positions: None,
            visible: None,
            draws: None,
        }
    }

    /// The same for a chunk of each sequence, at these positions; `last` if the sequences end there.
    pub fn chunk_context(
        &self,
        batch: usize,
        positions: Range<usize>,
        last: bool,
        path: AttentionPath,
    ) -> Context<B> {
        let whole = self.context(batch, positions.end, path);
        Context {
            shape: AttentionShape {
                seq: positions.len(),
                ..whole.shape
            },
            start: positions.start,
            last,
            ropes: (whole.ropes.iter())
                .map(|table| table.slice(positions.clone()))
                .collect(),
            ..whole
        }
    }

    /// What the level calls of a segment leave for the next chunk: nothing yet.
    pub fn caches(&self, place: Place) -> KvCaches<B> {
        let (high, low) = (self.high.len(), self.low.len());
        let cycle = std::iter::repeat_n(low, self.config.l_cycles).chain([high]);
        let calls = std::iter::repeat_n(cycle, self.config.h_cycles).flatten();
        KvCaches::new(calls, place)
    }

    /// The blocks' input `[batch * seq, hidden]` for token ids, sequence after sequence.
    ///
    /// All that follows from it is computed in its format.
    pub fn embed(&self, ctx: &Context<B>, ids: &[i32], precision: Precision) -> Tensor<B, 2> {
        let ids = ids_tensor(ids, &self.embedding.device());
        self.embedded().forward(ctx, &ids, precision)
    }

    /// Add the gradients of the embedding (and the positions), given that of [`ActV1::embed`], f32.
    pub fn embed_backward(
        &self,
        ctx: &Context<B>,
        ids: &[i32],
        dx: Tensor<B, 2>,
        grads: &mut Gradients<B>,
    ) {
        self.embedded().backward(ctx, ids, dx, false, grads);
    }

    /// What looks tokens and positions up.
    pub(crate) fn embedded(&self) -> Embedding<'_, B> {
        Embedding {
            table: &self.embedding,
            positions: self.positions.as_ref(),
            scale: self.embedding_scale(),
        }
    }

    /// Make the embedding's gradient of what waits.
    pub fn settle(&self, grads: &mut Gradients<B>) {
        self.embedded().settle(grads);
    }

    /// `sqrt(hidden)` makes the embedding's entries of unit size; with a position added, the sum
    /// of two is brought back to it.
    fn embedding_scale(&self) -> f32 {
        let scale = (self.config.hidden_size as f32).sqrt();
        match self.positions {
            Some(_) => scale * std::f32::consts::FRAC_1_SQRT_2,
            None => scale,
        }
    }

    /// The carry that every sequence starts from, for `tokens` tokens.
    pub fn initial_carry(&self, tokens: usize, precision: Precision) -> Carry<B> {
        // Both states, and what the sums of a segment make of them.
        B::require(4 * precision.bytes() * tokens * self.config.hidden_size);
        let rows =
            |init: &Param<B>| in_format(init.value(), dtype(precision)).repeat_dim(0, tokens);
        Carry {
            z_h: rows(&self.h_init),
            z_l: rows(&self.l_init),
        }
    }

    /// The cycles of a segment that run without gradients: all but the last low and the last high
    /// level call.
    pub fn cycles(
        &self,
        ctx: &Context<B>,
        carry: Carry<B>,
        x: &Tensor<B, 2>,
        caches: &mut KvCaches<B>,
    ) -> Carry<B> {
        let [low, _] = self.last_calls();
        self.calls(low, ctx, carry, x, caches)
    }

    /// A whole segment without gradients.
    pub fn segment(
        &self,
        ctx: &Context<B>,
        carry: Carry<B>,
        x: &Tensor<B, 2>,
        caches: &mut KvCaches<B>,
    ) -> Carry<B> {
        let [_, high] = self.last_calls();
        self.calls(high + 1, ctx, carry, x, caches)
    }

    /// The first level calls of a segment: of each high cycle the low ones, then the high one.
    fn calls(
        &self,
        number: usize,
        ctx: &Context<B>,
        carry: Carry<B>,
        x: &Tensor<B, 2>,
        caches: &mut KvCaches<B>,
    ) -> Carry<B> {
        let Carry { mut z_h, mut z_l } = carry;
        let cycle = self.config.l_cycles + 1;
        for call in 0..number {
            let cached = caches.call(call);
            if call % cycle < self.config.l_cycles {
                let z = z_l + z_h.clone() + x.clone();
                z_l = self.low.stack.forward(ctx, z, cached);
            } else {
                z_h = self.high.stack.forward(ctx, z_h + z_l.clone(), cached);
            }
        }
        Carry { z_h, z_l }
    }

    /// Numbers of the level calls that go backward: the last low and the last high one.
    pub fn last_calls(&self) -> [usize; 2] {
        let calls = self.config.h_cycles * (self.config.l_cycles + 1);
        [calls - 2, calls - 1]
    }

    /// State of each sequence's deciding token, `[batch, hidden]` in f32 as the halting head is: the
    /// last one when attention is causal, since only that has seen everything; the first otherwise,
    /// as published.
    pub fn deciding(&self, ctx: &Context<B>, z_h: &Tensor<B, 2>) -> Tensor<B, 2> {
        let AttentionShape { batch, seq, .. } = ctx.shape;
        let hidden = z_h.dims()[1];
        let rows = z_h.clone().reshape([batch, seq, hidden]);
        let rows = rows.narrow(1, self.deciding_position(seq), 1);
        widened(rows.reshape([batch, hidden]))
    }

    /// The halting head on [`ActV1::deciding`]'s rows.
    pub fn answers(&self, deciding: &Tensor<B, 2>) -> Answers<B> {
        Answers::new(self.q_head.forward(deciding, None))
    }

    /// Backward pass of the halting head: adds to `d_z_h`, given the gradient of the answers, `[batch, 2]`.
    pub fn halting_backward(
        &self,
        ctx: &Context<B>,
        deciding: &Tensor<B, 2>,
        d: &Tensor<B, 2>,
        d_z_h: Tensor<B, 2>,
        grads: &mut Gradients<B>,
    ) -> Tensor<B, 2> {
        self.q_head.backward_weight(d, deciding, None, grads);
        let d_rows = self.q_head.backward_input(d, None);
        let seq = ctx.shape.seq;
        let at = self.deciding_position(seq);
        B::add_at(d_z_h, seq, at, d_rows)
    }

    /// Of the token that decides, in its sequence.
    fn deciding_position(&self, seq: usize) -> usize {
        match self.config.causal {
            true => seq - 1,
            false => 0,
        }
    }
}
