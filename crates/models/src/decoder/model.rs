//! A decoder on a device: embedding, trunk and head.

use crate::decoder::build::Builder;
use crate::decoder::config::DecoderConfig;
use crate::decoder::rope::{RopeConfig, RopeKind};
use crate::decoder::trunk::{Level, Trunk};
use crate::embedding::Embedding;
use crate::parameters::ParamSource;
use aios_base::error::Result;
use aios_base::execution::Place;
use aios_base::micro_batch::{Chunk, MicroBatch};
use aios_nn::{Context, KvCaches, Param, Visit};
use aios_tensor::{AttentionPath, AttentionShape, Ops, Rope};
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

/// A rotary table, and what holds above some length.
struct Tables<B: Ops> {
    usual: Rope<B>,
    longer: Option<(usize, Longer<B>)>,
}

/// What holds for longer sequences.
enum Longer<B: Ops> {
    One(Rope<B>),
    /// Another one for each length.
    ByLength(RopeConfig),
}

impl<B: Ops> Tables<B> {
    fn new(config: &RopeConfig, positions: usize, device: &B::Device) -> Self {
        let table = |length| {
            let (frequencies, factor) = config.frequencies(length);
            Rope::from_frequencies(0..positions, &frequencies, factor, device)
        };
        let switch = config.switches_at().filter(|at| *at < positions);
        let longer = |at: usize| match config.kind {
            RopeKind::Dynamic { .. } => (at, Longer::ByLength(config.clone())),
            _ => (at, Longer::One(table(positions))),
        };
        Self {
            usual: table(switch.unwrap_or(positions)),
            longer: switch.map(longer),
        }
    }

    /// Those of these positions in a sequence of this length.
    fn at(&self, positions: Range<usize>, length: usize) -> Rope<B> {
        match &self.longer {
            Some((at, Longer::One(table))) if length > *at => table.slice(positions),
            Some((at, Longer::ByLength(config))) if length > *at => {
                let (frequencies, factor) = config.frequencies(length);
                let device = self.usual.cos.device();
                Rope::from_frequencies(positions, &frequencies, factor, &device)
            }
            _ => self.usual.slice(positions),
        }
    }

    /// Whether keys of a sequence of this length are turned by one table in all of its positions, and those of a sequence
    /// that has grown to `longer` tokens by another.
    fn switch(&self, length: usize, longer: usize) -> bool {
        match &self.longer {
            Some((at, Longer::One(_))) => length <= *at && longer > *at,
            _ => false,
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
        let embedding = b.parameters.next()?;
        let embedded_positions = b.parameters.next_if(config.learned_positions)?;
        let low_start = b.parameters.next_if(config.cycles.is_some())?;
        let levels = (0..config.stacks()).map(|_| {
            let blocks = config.blocks.iter().enumerate();
            let blocks = blocks.map(|(number, shape)| b.block(number, *shape));
            let blocks = blocks.collect::<Result<_>>()?;
            Ok(Level::new(blocks, b.norm()?))
        });
        let levels = levels.collect::<Result<Vec<_>>>()?;
        let lm_head = b.parameters.next_if(!config.tied)?;
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
                .map(|table| table.at(positions.clone(), length))
                .collect(),
            visible: None,
        }
    }

    /// Whether keys of the first `read` tokens no longer hold once a sequence has grown to `length` tokens, as with longrope
    /// in Phi-3. (Dynamic tables change too, yet the keys that were cached stay: both as in transformers.)
    pub fn turns_anew(&self, read: usize, length: usize) -> bool {
        read > 0 && self.tables.iter().any(|table| table.switch(read, length))
    }

    /// [`Decoder::context`] for a chunk of a micro-batch.
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

    /// What looks tokens and positions up.
    pub(crate) fn embedded(&self) -> Embedding<'_, B> {
        Embedding {
            table: &self.embedding,
            positions: self.embedded_positions.as_ref(),
            scale: self.config.embedding_scale,
        }
    }

    /// What the head multiplies, of what the trunk gives; its own gradient likewise.
    pub fn before_head(&self, z: Tensor<B, 2>) -> Tensor<B, 2> {
        match self.config.logits_divisor == 1.0 {
            true => z,
            false => z * (1.0 / self.config.logits_divisor),
        }
    }
}
