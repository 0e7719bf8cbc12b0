//! A decoder on a device: embedding, trunk and head.

use crate::actv1::ParamSource;
use crate::decoder::build::Builder;
use crate::decoder::config::DecoderConfig;
use crate::decoder::rope::RopeConfig;
use crate::decoder::trunk::{Level, Trunk};
use aios_base::error::Result;
use aios_base::execution::{Execution, Place};
use aios_base::micro_batch::{Chunk, MicroBatch};
use aios_nn::{Context, Gradients, KvCaches, Param, Visit};
use aios_tensor::{AttentionPath, AttentionShape, Ops, Rope, dtype, ids_tensor, in_format};
use burn::tensor::Tensor;
use std::ops::Range;

/// The model.
pub struct Decoder<B: Ops> {
    pub config: DecoderConfig,
    /// Longest sequence.
    positions: usize,
    pub embedding: Param<B>,
    /// With learned positions.
    pub embedded_positions: Option<Param<B>>,
    pub trunk: Trunk<B>,
    /// `None` if the embedding's table serves as it.
    pub lm_head: Option<Param<B>>,
    tables: Vec<Tables<B>>,
}

/// A rotary table, and from some length on another one.
struct Tables<B: Ops> {
    usual: Rope<B>,
    longer: Option<(usize, Rope<B>)>,
}

impl<B: Ops> Tables<B> {
    fn new(config: &RopeConfig, positions: usize, device: &B::Device) -> Self {
        let table = |length| {
            let (frequencies, factor) = config.frequencies(length);
            Rope::from_frequencies(positions, &frequencies, factor, device)
        };
        let switch = config.switches_at().filter(|at| *at < positions);
        Self {
            usual: table(switch.unwrap_or(positions)),
            longer: switch.map(|at| (at, table(positions))),
        }
    }

    /// That of a sequence of this length.
    fn of(&self, length: usize) -> &Rope<B> {
        match &self.longer {
            Some((at, longer)) if length > *at => longer,
            _ => &self.usual,
        }
    }
}

impl<B: Ops> Visit<B> for Decoder<B> {
    fn visit<'a>(&'a self, each: &mut dyn FnMut(&'a Param<B>)) {
        each(&self.embedding);
        self.embedded_positions.iter().for_each(&mut *each);
        self.trunk.visit(each);
        self.lm_head.iter().for_each(each);
    }
}

impl<B: Ops> Decoder<B> {
    /// Build the model on a device from a source of values, for sequences of no more than `positions` tokens.
    ///
    /// # Errors
    /// Whatever the source reports.
    pub fn build(
        config: &DecoderConfig,
        positions: usize,
        device: &B::Device,
        source: ParamSource,
    ) -> Result<Self> {
        let mut b = Builder::<B>::new(config, device, source);
        let embedding = b.next()?;
        let embedded_positions = match config.learned_positions {
            true => Some(b.next()?),
            false => None,
        };
        let low_start = match config.cycles {
            Some(_) => Some(b.next()?),
            None => None,
        };
        let stacks = 1 + usize::from(config.cycles.is_some());
        let levels = (0..stacks).map(|_| {
            let blocks = config.blocks.iter().enumerate();
            let blocks = blocks.map(|(number, shape)| b.block(number, *shape));
            let blocks = blocks.collect::<Result<_>>()?;
            Ok(Level::new(blocks, b.norm()?))
        });
        let levels = levels.collect::<Result<Vec<_>>>()?;
        let lm_head = match config.tied {
            true => None,
            false => Some(b.next()?),
        };
        let tables = config.ropes.iter();
        Ok(Self {
            tables: tables
                .map(|rope| Tables::new(rope, positions, device))
                .collect(),
            trunk: Trunk::new(levels, low_start, config.cycles.as_ref()),
            config: config.clone(),
            positions,
            embedding,
            embedded_positions,
            lm_head,
        })
    }

    /// Longest sequence.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Weight of the language-model head, `[vocabulary, hidden]`.
    pub fn head(&self) -> &Param<B> {
        self.lm_head.as_ref().unwrap_or(&self.embedding)
    }

    /// What the blocks need for these positions of `batch` sequences of `length` tokens.
    pub fn context(
        &self,
        batch: usize,
        positions: Range<usize>,
        length: usize,
        last: bool,
        path: AttentionPath,
    ) -> Context<B> {
        let block = self.config.blocks.first().expect("a model has blocks");
        Context {
            shape: AttentionShape {
                kv_heads: block.kv_heads,
                ..AttentionShape::new(batch, positions.len(), block.heads, block.head_dim)
            },
            path,
            length,
            start: positions.start,
            last,
            ropes: (self.tables.iter())
                .map(|table| table.of(length).slice(positions.clone()))
                .collect(),
            visible: None,
        }
    }

    /// The same for a chunk of a micro-batch.
    pub fn context_of(&self, batch: &MicroBatch, chunk: &Chunk, path: AttentionPath) -> Context<B> {
        let positions = chunk.positions.clone();
        self.context(batch.sequences(), positions, batch.seq, chunk.last, path)
    }

    /// What the calls leave for the next chunk: nothing yet; or nothing ever for whole sequences.
    pub fn caches(&self, chunks: usize, place: Place) -> KvCaches<B> {
        match chunks {
            1 => KvCaches::none(),
            _ => KvCaches::new(self.trunk.blocks_of_calls(), place),
        }
    }

    /// The blocks' input `[batch * seq, hidden]` for token ids, sequence after sequence.
    pub fn embed(&self, ctx: &Context<B>, ids: &[i32], execution: &Execution) -> Tensor<B, 2> {
        B::require(3 * 4 * ids.len() * self.config.hidden());
        let rows = self.embedding.value();
        let rows = rows.select(0, ids_tensor(ids, &self.embedding.device()));
        let rows = match self.config.embedding_scale == 1.0 {
            true => rows,
            false => rows * self.config.embedding_scale,
        };
        let rows = match &self.embedded_positions {
            None => rows,
            Some(positions) => {
                let AttentionShape { batch, seq, .. } = ctx.shape;
                let hidden = self.config.hidden();
                let positions = positions.value().narrow(0, ctx.start, seq);
                let rows = rows.reshape([batch, seq, hidden]) + positions.unsqueeze_dim(0);
                rows.reshape([batch * seq, hidden])
            }
        };
        in_format(rows, dtype(execution.precision))
    }

    /// Add the gradients of embedding and positions, given that of [`Decoder::embed`], f32; with `later` the embedding's
    /// own is left for [`Decoder::settle`].
    pub fn embed_backward(
        &self,
        ctx: &Context<B>,
        ids: &[i32],
        dx: Tensor<B, 2>,
        later: bool,
        grads: &mut Gradients<B>,
    ) {
        if let Some(positions) = &self.embedded_positions {
            let AttentionShape { batch, seq, .. } = ctx.shape;
            let hidden = self.config.hidden();
            let rows = dx.clone().reshape([batch, seq, hidden]).sum_dim(0);
            let rows = rows.reshape([seq, hidden]);
            let order: Vec<i32> = (0..seq).map(|i| (ctx.start + i) as i32).collect();
            let entries = positions.dims()[0];
            grads.change(positions, |sum| {
                B::embedding_gradient(sum, entries, &order, rows, 1.0)
            });
        }
        match later && self.embedding.info.trained {
            true => grads.wait(ids, dx),
            false => self.add_lookups(ids, dx, grads),
        }
    }

    /// Make the embedding's gradient of what waits.
    pub fn settle(&self, grads: &mut Gradients<B>) {
        for (ids, dx) in grads.take_waiting() {
            self.add_lookups(&ids, dx, grads);
        }
    }

    fn add_lookups(&self, ids: &[i32], dx: Tensor<B, 2>, grads: &mut Gradients<B>) {
        let (entries, scale) = (self.config.vocab_size, self.config.embedding_scale);
        grads.change(&self.embedding, |sum| {
            B::embedding_gradient(sum, entries, ids, dx, scale)
        });
    }

    /// What the head multiplies, of what the trunk gives; its own gradient likewise.
    pub fn before_head(&self, z: Tensor<B, 2>) -> Tensor<B, 2> {
        match self.config.logits_divisor == 1.0 {
            true => z,
            false => z * (1.0 / self.config.logits_divisor),
        }
    }
}
